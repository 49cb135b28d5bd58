"""What was learned as bytes: what is written to disk, exported, and copied to a sibling.

Solo times and demands stand beside a learner's own bytes, so any learner can start from another's state, or from
bytes that it cannot read any more.
"""

from collections.abc import Iterable

import msgspec
import structlog

from cotenant.predictor.device_model import DeviceModel
from cotenant.predictor.knowledge import Knowledge, Unsaved
from cotenant.predictor.known_device import DeviceSpec, KnownDevice
from cotenant.predictor.observations import Profile
from cotenant.runtime.estimates import BatchClass

_log = structlog.get_logger()


class KeptClass(msgspec.Struct, frozen=True):
    """One class: solo time in ns, demand, batches learned from, the learner's bytes, whether a sibling learned them."""

    batch_class: BatchClass
    work_ns: int
    demand: tuple[float, ...]
    samples: int
    state: bytes
    inherited: bool = False


class KeptDevice(msgspec.Struct, frozen=True):
    """One device, and what no single class of it owns."""

    device_id: str
    kind: str
    name: str
    resources: tuple[str, ...]
    batches: int
    state: bytes

    @property
    def spec(self) -> DeviceSpec:
        """What its executor said of it."""
        return DeviceSpec(self.device_id, self.kind, self.name, self.resources)


class Changes(msgspec.Struct):
    """What one transaction writes; made on the loop's thread, written on another."""

    learner: str
    devices: list[KeptDevice] = []
    classes: list[tuple[str, KeptClass]] = []
    sources: list[tuple[str, int, int]] = []  # device, incarnation, sequence
    gone_devices: list[str] = []
    gone_classes: list[tuple[str, BatchClass]] = []
    gone_sources: list[tuple[str, int]] = []


def keep_device(known: KnownDevice) -> KeptDevice:
    """Encodes what no single class owns."""
    spec = known.spec
    return KeptDevice(spec.device_id, spec.kind, spec.name, spec.resources, known.batches, known.model.dump())


def keep_class(known: KnownDevice, batch_class: BatchClass) -> KeptClass:
    """Encodes one class. Raises KeyError for one never heard of."""
    believed = known.model.learner.estimate(batch_class)
    state = known.model.dump_class(batch_class)
    inherited = batch_class in known.inherited
    return KeptClass(batch_class, believed.work_ns, believed.demand, believed.sample_count, state, inherited)


def changes(knowledge: Knowledge, unsaved: Unsaved) -> Changes:
    """What differs from what is on disk."""
    found = Changes(knowledge.learner)
    for device_id in unsaved.devices:
        if known := knowledge.devices.get(device_id):
            found.devices.append(keep_device(known))
        else:
            found.gone_devices.append(device_id)
    for device_id, batch_class in unsaved.classes:
        known = knowledge.devices.get(device_id)
        if known and batch_class in known.model.classes:
            found.classes.append((device_id, keep_class(known, batch_class)))
        else:
            found.gone_classes.append((device_id, batch_class))
    for device_id, incarnation in unsaved.sources:
        known = knowledge.devices.get(device_id)
        if known and incarnation in known.sources:
            found.sources.append((device_id, incarnation, known.sources[incarnation]))
        else:
            found.gone_sources.append((device_id, incarnation))
    return found


def restored(kept: KeptDevice, classes: Iterable[KeptClass], *, by: str, learner: str) -> KnownDevice:
    """A device with what `by` had learned of it, for `learner`: everything if they are one, else the solo times."""
    classes = list(classes)
    if by == learner:
        try:
            blobs = {one.batch_class: one.state for one in classes}
            model = DeviceModel.restored(kept.device_id, kept.state, blobs)
            inherited = {one.batch_class for one in classes if one.inherited}
            return KnownDevice(kept.spec, model, inherited=inherited, batches=kept.batches)
        except (ValueError, KeyError, TypeError) as error:  # written by an earlier version of the learner
            _log.warning("state unreadable, starting from solo times", device=kept.device_id, error=str(error))
    known = KnownDevice(kept.spec, DeviceModel(kept.device_id, len(kept.resources), learner))
    for one in classes:
        if one.work_ns > 0:
            known.model.learn_profile(Profile(one.batch_class, one.work_ns, one.demand, one.samples))
    return known
