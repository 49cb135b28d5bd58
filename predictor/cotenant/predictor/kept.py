"""What was learned as bytes: what is written to disk, exported, and copied to a sibling.

Solo times and demands stand beside a learner's own bytes, so any learner can start from another's state, or from
bytes that it cannot read any more.
"""

from collections.abc import Iterable

import msgspec

from cotenant.predictor.codec import sound
from cotenant.predictor.device_model import DeviceModel
from cotenant.predictor.knowledge import Knowledge, Unsaved
from cotenant.predictor.known_device import DeviceSpec, KnownDevice
from cotenant.predictor.observations import Profile
from cotenant.runtime.estimates import BatchClass, ClassEstimate, Phase


class KeptClass(msgspec.Struct, frozen=True):
    """One class: what any learner can start from, and what one has learned of it."""

    batch_class: BatchClass
    work_ns: int
    demand: tuple[float, ...]
    samples: int  # batches learned from
    state: bytes  # the learner's own
    inherited: bool = False  # whether a sibling learned it
    kernel_ns: float = 0.0
    phases: tuple[Phase, ...] = ()


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
    passing: list[tuple[str, int, int]] = []  # the same of devices that are never written
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
    if not sound(believed):  # its learner may be anybody's: what others can start from must be numbers
        believed = ClassEstimate(batch_class, 0)
    return KeptClass(
        batch_class,
        believed.work_ns,
        believed.demand,
        believed.sample_count,
        known.model.dump_class(batch_class),
        batch_class in known.inherited,
        believed.kernel_ns,
        believed.phases,
    )


def changes(knowledge: Knowledge, unsaved: Unsaved) -> Changes:
    """What differs from what is on disk."""
    found = Changes(knowledge.learner)
    for device_id in unsaved.devices:
        known = knowledge.devices.get(device_id)
        if known is None:
            found.gone_devices.append(device_id)
        elif not known.spec.passing:
            found.devices.append(keep_device(known))
    for device_id, batch_class in unsaved.classes:
        known = knowledge.devices.get(device_id)
        if known is None or batch_class not in known.model.classes:
            found.gone_classes.append((device_id, batch_class))
        elif not known.spec.passing:
            found.classes.append((device_id, keep_class(known, batch_class)))
    for device_id, incarnation in unsaved.sources:
        known = knowledge.devices.get(device_id)
        if known is None or incarnation not in known.sources:
            found.gone_sources.append((device_id, incarnation))
        else:
            followed = found.passing if known.spec.passing else found.sources
            followed.append((device_id, incarnation, known.sources[incarnation]))
    return found


def restored(kept: KeptDevice, classes: Iterable[KeptClass]) -> KnownDevice:
    """A device with everything that was learned of it. Raises ValueError, LookupError or TypeError if it is unreadable.

    It was written by the same learner, but perhaps by an earlier version of that.
    """
    blobs: dict[BatchClass, bytes] = {}
    inherited: set[BatchClass] = set()
    for one in classes:
        blobs[one.batch_class] = one.state
        if one.inherited:
            inherited.add(one.batch_class)
    model = DeviceModel.restored(kept.device_id, kept.state, blobs)
    return KnownDevice(kept.spec, model, inherited=inherited, batches=kept.batches)


def from_solo_times(kept: KeptDevice, classes: Iterable[KeptClass], learner: str) -> KnownDevice:
    """A device with what any learner can start from, whichever learned it."""
    known = KnownDevice(kept.spec, DeviceModel(kept.device_id, len(kept.resources), learner))
    for one in classes:
        if one.work_ns > 0:
            profile = Profile(one.batch_class, one.work_ns, one.demand, one.samples, one.kernel_ns, one.phases)
            known.model.learn_profile(profile)
    return known
