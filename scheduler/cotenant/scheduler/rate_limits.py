"""Triton's rate limiter: what a batch of a model needs of named resources while it runs, and whether that is there.

Rule: a batch runs if, with what runs already, no resource is needed more often than there is of it; whoever needs more
than there is runs when nobody else uses that resource. Resources mean nothing to us: they are counted, as operators
name and number them. Nothing is kept: who uses what follows from what runs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from cotenant.scheduler.events import ModelSpec, Need

if TYPE_CHECKING:
    from cotenant.scheduler.books import Device
    from cotenant.scheduler.queues import Queue


class Resource(msgspec.Struct, frozen=True):
    """How much there is of a resource: on one device, by its id or number, or on each (and of a global one in all)."""

    name: str
    count: int
    device: str = ""


class RateLimits:
    """See the module's text. `devices` are all there are, those that come later included."""

    def __init__(self, resources: Sequence[Resource], devices: Mapping[str, "Device"]) -> None:
        self._told = {(one.name, one.device): one.count for one in resources}
        self._devices = devices

    def runnable(self, device: "Device", queues: Iterable["Queue"]) -> Iterator["Queue"]:
        """Those of the queues whose batches have what they need."""
        return (queue for queue in queues if self.allow(device, queue.spec))

    def allow(self, device: "Device", spec: ModelSpec) -> bool:
        """Whether there is enough for one more batch of a model."""
        for need in spec.resources:
            where = list(self._devices.values()) if need.shared else [device]
            used = sum(_used(one, need) for one in where)
            if used and used + need.count > self._there_is(need, where):
                return False
        return True

    @property
    def matter(self) -> bool:
        """Whether any model names a resource."""
        return any(spec.resources for one in self._devices.values() for spec in one.models.values())

    def _there_is(self, need: Need, where: list["Device"]) -> int:
        """What was told; else as much as the model needs that needs most."""
        if not need.shared:
            device_id = where[0].spec.device_id
            for key in (device_id, device_id.rpartition("-")[2]):
                if (need.name, key) in self._told:
                    return self._told[need.name, key]
        if (need.name, "") in self._told:
            return self._told[need.name, ""]
        specs = [spec for device in where for spec in device.models.values()]
        return max((_of(spec, need) for spec in specs), default=0)


def _used(device: "Device", need: Need) -> int:
    """What running batches occupy of a resource."""
    keys = [(body.batch_class.model, body.batch_class.version) for body in device.running.values()]
    return sum(_of(device.models[key], need) for key in keys if key in device.models)


def _of(spec: ModelSpec, need: Need) -> int:
    return sum(one.count for one in spec.resources if one.name == need.name and one.shared == need.shared)


def read(told: Sequence[str]) -> tuple[Resource, ...]:
    """Resources as flags name them: NAME:COUNT or NAME:COUNT:DEVICE. Raises ValueError that quotes what is wrong."""
    found = []
    for text in told:
        name, _, rest = text.partition(":")
        count, _, device = rest.partition(":")
        if not name or not count.isdecimal():
            raise ValueError(f"rate-limit-resource: expected NAME:COUNT or NAME:COUNT:DEVICE, got {text!r}")
        found.append(Resource(name, int(count), device))
    return tuple(found)
