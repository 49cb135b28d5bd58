"""Everything the predictor knows: devices, what was learned of each, and how far each source of events was followed.

No I/O and no waiting, so that all of it can be tested as a function of the events. Rules of forgetting, which bound
the memory whatever is sent:

- of all classes of all devices the `max_classes` that ran or were measured last are kept;
- of each device the sequences of the last `MAX_SOURCES` incarnations of its executor;
- of all devices the `MAX_DEVICES` heard of last;
- of devices of those who only try it (`DeviceSpec.passing`) nothing, soon after they left, and nothing is written.

What is forgotten here is forgotten on disk with the next write.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cotenant.predictor import learners
from cotenant.predictor.device_model import DeviceModel
from cotenant.predictor.intake import Intake
from cotenant.predictor.known_device import DeviceSpec, KnownDevice, solo_times
from cotenant.predictor.observations import Observation, Profile
from cotenant.runtime.estimates import BatchClass
from cotenant.v1 import executor_pb2

MAX_CLASSES = 65_536
MAX_SOURCES = 16
MAX_DEVICES = 1024
MAX_SEQUENCE = (
    1 << 53
)  # so that every language can hold it; an executor that tells a million events a second gets there in 285 years
TRAINING_BATCHES = 1000  # of a device, before a learner that is trained once is
MAX_JUMP = 1 << 32  # within one stream; what was lost before a stream began may be more


@dataclass
class Unsaved:
    """What may differ from what is on disk, and what is gone."""

    devices: dict[str, None] = field(default_factory=dict)
    classes: dict[tuple[str, BatchClass], None] = field(default_factory=dict)
    sources: dict[tuple[str, int], None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.devices or self.classes or self.sources)


class Knowledge:
    """See the module's text."""

    def __init__(self, learner: str = learners.DEFAULT, max_classes: int = MAX_CLASSES) -> None:
        """Raises ValueError for a learner that is not known."""
        learners.make(learner, 1)
        self.learner, self.max_classes = learner, max_classes
        self.devices: dict[str, KnownDevice] = {}  # least recently heard of first
        # All classes, least recently used first: a plain dict would search its start at length once that is gone.
        self.used: OrderedDict[tuple[str, BatchClass], None] = OrderedDict()
        self.intake = Intake()
        self.events = self.missed = self.repeated = self.clock_jumps = self.forgotten = 0
        self.unsaved = Unsaved()

    # ---- devices

    def device(self, spec: DeviceSpec, model: DeviceModel | None = None) -> KnownDevice:
        """The device of that name, made if need be: from a copy of its elder's model (here and now if not given).

        One that returns with other resources starts anew from its solo times. Raises ValueError if it is connected.
        """
        known = self.devices.pop(spec.device_id, None)
        if known is not None and known.spec.resources != spec.resources:
            if known.streams:
                self.devices[spec.device_id] = known
                raise ValueError(
                    f"device '{spec.device_id}' is connected with resources {', '.join(known.spec.resources)}, "
                    f"and cannot have {', '.join(spec.resources) or 'none'} as well"
                )
            profiles = solo_times(known.model)
            self._forget_classes(known)
            before, known = known, self._made(spec, profiles)
            known.sources = before.sources  # what was learned of them is gone, but none of it comes again
            known.sets.seen.update(dict.fromkeys(before.sets.seen, 0))  # subscribers believe what they were told
        elif known is None:
            if model is None and (elder := self.elder(spec)):
                blobs = {c: elder.model.dump_class(c) for c in self.classes_of(elder)}
                model = DeviceModel.restored(spec.device_id, elder.model.dump(), blobs)
            known = self._inheriting(spec, model) if model else self._made(spec, ())
        known.spec = spec
        self.devices[spec.device_id] = known
        self.unsaved.devices[spec.device_id] = None
        if len(self.devices) > MAX_DEVICES:
            idle = [d for d in self.devices.values() if not d.streams and d is not known]
            if idle:
                self.forget_device(next((d for d in idle if d.spec.passing), idle[0]))
        return known

    def _made(self, spec: DeviceSpec, profiles: Iterable[Profile]) -> KnownDevice:
        made = KnownDevice(spec, DeviceModel(spec.device_id, len(spec.resources), self.learner))
        self.devices[spec.device_id] = made
        for profile in profiles:
            made.model.learn_profile(profile)
            self._touch(made, profile.batch_class)
        return made

    def elder(self, spec: DeviceSpec) -> KnownDevice | None:
        """What a device never seen starts from: of those of its make, the one most was learned of."""
        if spec.device_id in self.devices:
            return None
        alike = [other for other in self.devices.values() if other.batches and spec.like(other.spec)]
        return max(alike, key=lambda other: (other.batches, other.spec.device_id), default=None)

    def classes_of(self, known: KnownDevice) -> list[BatchClass]:
        """The classes of a device, least recently used first."""
        return [batch_class for device_id, batch_class in self.used if device_id == known.spec.device_id]

    def _inheriting(self, spec: DeviceSpec, model: DeviceModel) -> KnownDevice:
        made = self.devices[spec.device_id] = KnownDevice(spec, model, inherited=set(model.classes))
        for batch_class in list(model.classes):
            self._touch(made, batch_class)
        return made

    def forget_device(self, known: KnownDevice) -> None:
        """Drops everything known of a device."""
        self._forget_classes(known)
        self.devices.pop(known.spec.device_id, None)
        self.unsaved.devices[known.spec.device_id] = None
        self.unsaved.sources.update(dict.fromkeys((known.spec.device_id, i) for i in known.sources))

    def forget_passing(self, before_s: float) -> None:
        """Drops devices of those who only tried the predictor and left before then."""
        for known in [d for d in self.devices.values() if d.spec.passing and not d.streams and d.left_s < before_s]:
            self.forget_device(known)

    def _forget_classes(self, known: KnownDevice) -> None:
        for batch_class in list(known.model.classes):
            self.forget_class(known, batch_class)

    # ---- learning

    def introduce(self, known: KnownDevice, profiles: Sequence[executor_pb2.ClassProfiled]) -> None:
        """Takes solo measurements an executor repeats on connecting: only of classes that are not known."""
        for message in profiles:
            profile = self.intake.profile(message, len(known.spec.resources))
            if profile and profile.batch_class not in known.model.classes:
                try:
                    self.learn_profile(known, profile)
                except Exception as error:  # a learner may be anybody's
                    self.intake.reject("learner failed", f"{type(error).__name__}: {error}")

    def learn(
        self, known: KnownDevice, incarnation: int, events: Sequence[executor_pb2.ExecutorEvent], *, opening: bool
    ) -> None:
        """Takes events of one executor, each once. `opening`: a stream begins, so many before may be missing."""
        for event in events:
            if self._follow(known, incarnation, event.sequence, opening=opening):
                opening = False
                self._learn(known, event)

    def _follow(self, known: KnownDevice, incarnation: int, sequence: int, *, opening: bool) -> bool:
        """Whether an event is the next of its source, or a later one."""
        last = known.sources.pop(incarnation, 0)
        known.sources[incarnation] = last
        self.unsaved.sources[known.spec.device_id, incarnation] = None
        if len(known.sources) > MAX_SOURCES:
            oldest = next(iter(known.sources))
            del known.sources[oldest]
            self.unsaved.sources[known.spec.device_id, oldest] = None
        if not 0 < sequence <= MAX_SEQUENCE or (sequence > last + MAX_JUMP and not opening):
            self.intake.reject("sequence", f"'{known.spec.device_id}': {sequence} after {last}")
            return False
        if sequence <= last:
            self.repeated += 1
            return False
        if last:
            self.missed += sequence - last - 1
        known.sources[incarnation] = sequence
        self.events += 1
        return True

    def _learn(self, known: KnownDevice, event: executor_pb2.ExecutorEvent) -> None:
        if event.at_ns < known.at_ns - 1_000_000_000:  # threads may tell a little out of order
            self.clock_jumps += 1
        known.at_ns = event.at_ns
        kind = event.WhichOneof("event")
        try:
            if kind == "class_profiled":
                if profile := self.intake.profile(event.class_profiled, len(known.spec.resources)):
                    self.learn_profile(known, profile)
            elif kind == "device_state" and (clocks := self.intake.device_state(event.device_state)):
                if announced := known.announcing.learn(clocks):
                    known.model.expect_pace(announced.ratio)
            elif kind == "batch_finished" and (seen := self.intake.finished(event.batch_finished, event.at_ns)):
                self.learn_batch(known, seen)
        except Exception as error:  # a learner may be anybody's
            self.intake.reject("learner failed", f"{type(error).__name__}: {error}")

    def learn_profile(self, known: KnownDevice, profile: Profile) -> None:
        """Takes a solo measurement."""
        known.model.learn_profile(profile)
        self._touch(known, profile.batch_class)

    def learn_batch(self, known: KnownDevice, seen: Observation) -> None:
        """Takes a finished batch."""
        try:
            known.model.learn_batch(seen)
        finally:
            self._touch(known, seen.batch_class)
        known.batches += 1
        if known.batches == TRAINING_BATCHES and isinstance(known.model.learner, learners.Trained):
            known.model.learner.fit()
        if any(part.co_runners for part in seen.slices):
            known.inherited.discard(seen.batch_class)
        known.sets.note(seen)

    def _touch(self, known: KnownDevice, batch_class: BatchClass) -> None:
        key = (known.spec.device_id, batch_class)
        known.ran.add(batch_class)
        self.used[key] = None
        self.used.move_to_end(key)
        self.unsaved.classes[key] = None
        self.unsaved.devices[known.spec.device_id] = None
        self.forget_excess()

    def forget_excess(self) -> None:
        """Drops the classes used least recently until there are `max_classes`."""
        while len(self.used) > self.max_classes:
            device_id, oldest = next(iter(self.used))
            self.forget_class(self.devices[device_id], oldest)

    def forget_class(self, known: KnownDevice, batch_class: BatchClass) -> None:
        """Drops what is known of a class alone."""
        key = (known.spec.device_id, batch_class)
        self.used.pop(key, None)
        self.unsaved.classes[key] = None
        self.forgotten += 1
        known.sets.forget(batch_class)
        known.inherited.discard(batch_class)
        known.ran.discard(batch_class)
        known.model.forget(batch_class)

    # ---- what is to be written

    def unsaved_since(self) -> Unsaved:
        """What changed since the last call."""
        unsaved, self.unsaved = self.unsaved, Unsaved()
        return unsaved

    def not_saved(self, unsaved: Unsaved) -> None:
        """Takes back what could not be written."""
        self.unsaved.devices |= unsaved.devices
        self.unsaved.classes |= unsaved.classes
        self.unsaved.sources |= unsaved.sources
