"""When the core asks its policy: a device is asked at the instants it wants, and at none that it no longer wants."""

from typing import Any

import msgspec

from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler import events as ev
from cotenant.scheduler import snapshot
from cotenant.scheduler.books import Device
from cotenant.scheduler.core import Core, CoreConfig
from cotenant.scheduler.policy import Outlook, Turn
from worlds import MS, device_spec, model_spec

START_NS = 1000 * MS


class Asked:
    """Launches nothing, notes when it is asked about whom, and wants to be asked again `in_ms` after `START_NS`."""

    name = "edf"

    def __init__(self, **in_ms: int) -> None:
        self.in_ms = in_ms
        self.asked: list[tuple[str, int]] = []

    def outlook(self, device: Device, request: ev.Request, now_ns: int) -> Outlook:
        return Outlook(now_ns, None)

    def turn(self, device: Device, now_ns: int) -> Turn:
        self.asked.append((device.spec.device_id, (now_ns - START_NS) // MS))
        return Turn([], None, START_NS + self.in_ms[device.spec.device_id] * MS)

    doomed = turn


def at(core: Core, ms: int, *events: ev.Event) -> list[ev.Action]:
    return core.handle(START_NS + ms * MS, events)


def something_about(device_id: str) -> ev.ClassProfiled:
    return ev.ClassProfiled(device_id, ev.Profile(BatchClass("a", "1", 1), MS))


def waits_for(device_id: str) -> ev.RequestArrived:
    """Of a model that only this device has."""
    number = {"left": 1, "right": 2}[device_id]
    return ev.RequestArrived(ev.Request(number, 1, device_id, "1", 1, START_NS))


def made(policy: Any) -> Core:
    core = Core(CoreConfig(policy="edf"), policy)
    joined = [ev.DeviceJoined(device_spec(name), 1, (model_spec(name),), (1,)) for name in policy.in_ms]
    at(core, 0, *joined, *[waits_for(name) for name in policy.in_ms])
    policy.asked.clear()
    return core


def test_a_device_is_asked_when_it_wants() -> None:
    policy = Asked(left=10, right=20)
    core = made(policy)
    policy.in_ms = {"left": 30, "right": 40}
    assert at(core, 10) == [ev.WakeAt(START_NS + 20 * MS)]
    assert at(core, 20) == [ev.WakeAt(START_NS + 30 * MS)]
    assert policy.asked == [("left", 10), ("right", 20)]


def test_a_device_is_not_asked_when_it_no_longer_wants() -> None:
    """What the right one wanted lies behind what the left one wants: both come due in one call."""
    policy = Asked(left=10, right=20)
    core = made(policy)
    policy.in_ms["right"] = 50
    at(core, 5, something_about("right"))
    policy.asked.clear()
    kept = msgspec.json.decode(msgspec.json.encode(snapshot.take(core)), type=snapshot.Snapshot)
    twin_policy = Asked(**policy.in_ms)
    twin = snapshot.restore(kept, twin_policy)
    assert at(core, 30) == at(twin, 30)
    assert policy.asked == twin_policy.asked == [("left", 30)]


def test_a_device_that_is_gone_is_not_asked() -> None:
    policy = Asked(left=10, right=20)
    core = made(policy)
    at(core, 5, ev.DeviceLost("right", 1))
    at(core, 5, ev.DeviceJoined(device_spec("right"), 2, (model_spec("right"),), (1,)), waits_for("right"))
    policy.in_ms["right"] = 60
    at(core, 6, something_about("right"))
    policy.asked.clear()
    at(core, 25)
    assert policy.asked == [("left", 25)]


def test_a_device_for_which_nothing_waits_is_not_asked() -> None:
    policy = Asked(left=10, right=20)
    core = made(policy)
    at(core, 5, ev.RequestCancelled(2), something_about("left"))
    assert policy.asked == [("left", 5)]
    policy.in_ms["left"] = 30
    assert at(core, 20) == [ev.WakeAt(START_NS + 30 * MS)]
    assert policy.asked == [("left", 5), ("left", 20)]
