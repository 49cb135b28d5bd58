"""What a predictor had learned for a law: devices that behave exactly as the estimates at the end of a log say.

This is how a live run is simulated: record it, then simulate with its log. Solo times, phases and rates are those of
the last estimates of the log's first device, and what was measured alone is told again. A batch takes as many times
what the law says as a batch of its model did in the log about as long after the first arrival: a host that was busy
then is busy again.
"""

import random
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from cotenant.executor.phases import Cut
from cotenant.runtime.estimates import BatchClass, ClassEstimate, EstimateTable, Phase, Stage
from cotenant.scheduler import events as ev
from cotenant.scheduler import record
from cotenant.scheduler.simulation.laws import Memo, Part
from cotenant.scheduler.simulation.measured_law import between
from cotenant.scheduler.simulation.near import Near, Seen
from cotenant.scheduler.snapshot import Snapshot

NOISE = 0.03  # of a model of which no batch ran


class LearnedLaw:
    """See the module's text."""

    def __init__(self, path: Path, aliases: Mapping[str, str], concurrency: int) -> None:
        """`aliases` tells what the log calls a model. Raises ValueError for a log without estimates of a model."""
        self._aliases, self._concurrency = aliases, concurrency
        learned = _last(path)
        self._table, self._profiles = learned.table, learned.profiles
        self._versions: dict[str, BatchClass] = {}
        for known in (*self._profiles, *self._table.classes):
            self._versions.setdefault(known.model, known)
        for model in aliases.values():
            if model not in self._versions:
                raise ValueError(f"{path}: nothing was learned of model '{model}'")
        self._stages: list[Stage] = []
        self._parts: dict[BatchClass, tuple[Part, ...]] = {}
        self._memo = Memo()
        self._ratios = self._compared(learned)

    def _compared(self, learned: "_Learned") -> dict[str, Near[float]]:
        """By model, how many times as long as the law says its batches took."""
        seen: dict[str, list[Seen[float]]] = {}
        for batch in learned.batches:
            work = self._work_ns(batch.batch_class)
            done = sum(
                part.duration_ns * self._table.progress_rate(batch.batch_class, part.co_runners)
                for part in batch.slices
            )
            if done > 0.0:
                at_ns = batch.started_ns - learned.first_ns
                seen.setdefault(batch.batch_class.model, []).append(Seen(at_ns, done / work))
        return {model: Near(ratios) for model, ratios in seen.items()}

    def _known(self, batch_class: BatchClass) -> BatchClass:
        """The class as the log calls it."""
        some = self._versions[self._aliases[batch_class.model]]
        return BatchClass(some.model, some.version, batch_class.batch_size, some.shape_bucket)

    def parts(self, batch_class: BatchClass) -> tuple[Part, ...]:
        """See `Law.parts`."""
        found = self._parts.get(batch_class)
        if found is None:
            known = self._known(batch_class)
            work = self._work_ns(known)
            parts: list[Part] = []
            begun = 0.0
            for stage in self._table.stages(known):
                parts.append(Part(len(self._stages), work * (stage.end - begun)))
                self._stages.append(stage)
                begun = stage.end
            found = self._parts[batch_class] = tuple(parts)
        return found

    def _work_ns(self, known: BatchClass) -> float:
        told = self._told(known)
        sizes = {size: float(one.work_ns) for size, one in told.items() if one.work_ns}
        return between(sizes, known.batch_size)

    def _told(self, known: BatchClass) -> dict[int, ClassEstimate | ev.Profile]:
        """What is told of a model, by batch size: learned, or measured where nothing was learned."""
        everything: list[ClassEstimate | ev.Profile] = [*self._profiles.values(), *self._table.classes.values()]
        return {
            one.batch_class.batch_size: one
            for one in everything
            if (one.batch_class.model, one.batch_class.shape_bucket) == (known.model, known.shape_bucket)
        }

    def rates(self, numbers: tuple[int, ...]) -> tuple[float, ...]:
        """See `Law.rates`."""
        if len(numbers) < 2:
            return (1.0,) * len(numbers)
        found = self._memo.get(numbers)
        if found is None:
            stages = tuple([self._stages[number] for number in numbers])
            found = self._memo.keep(numbers, tuple(self._table.rates(stages)))
        return found

    def noise(self, batch_class: BatchClass) -> float:  # noqa: ARG002
        """See `Law.noise`: what `scale` has is not put into one figure."""
        return NOISE

    def scale(self, batch_class: BatchClass, now_ns: int, rng: random.Random) -> float:
        """See `Law.scale`."""
        near = self._ratios.get(self._aliases[batch_class.model])
        return near.draw(now_ns, rng.random) if near else rng.lognormvariate(0.0, NOISE)

    def measured(self, batch_class: BatchClass) -> ev.Profile | None:
        """See `Law.measured`."""
        found = self._profiles.get(self._known(batch_class))
        return found and msgspec.structs.replace(found, batch_class=batch_class)

    def profile(self, batch_class: BatchClass) -> Cut:
        """See `Law.profile`."""
        told = self._told(self._known(batch_class))
        nearest = told[min(told, key=lambda size: (abs(size - batch_class.batch_size), size))]
        phases: tuple[Phase, ...] = nearest.phases
        return Cut(nearest.demand, nearest.kernel_ns, phases)

    def spent(self, batch_class: BatchClass) -> tuple[float, ...]:
        """See `Law.spent`: nothing is known but that no batch is faster than alone."""
        return (sum(part.work_ns for part in self.parts(batch_class)) / self._concurrency,)


class _Learned(msgspec.Struct):
    """What a log tells of its first device."""

    table: EstimateTable
    profiles: dict[BatchClass, ev.Profile] = {}
    batches: list[ev.BatchFinished] = []
    device_id: str = ""
    first_ns: int = 0  # the first arrival

    def take_snapshot(self, snapshot: Snapshot) -> None:
        """What was known when a part of the log began."""
        for kept in snapshot.tables:
            self.device_id = self.device_id or kept.device_id
            if kept.device_id == self.device_id:
                self.table.update(kept.classes, kept.sets, complete=True)
        for device in snapshot.devices:
            if device.device.device_id == self.device_id:
                self.profiles |= {profile.batch_class: profile for profile in device.profiles}

    def take(self, event: ev.Event) -> None:
        """Something that happened."""
        match event:
            case ev.RequestArrived():
                self.first_ns = self.first_ns or event.request.arrival_ns
            case ev.DeviceJoined() if self.device_id in ("", event.device.device_id):
                self.device_id = event.device.device_id
                self.profiles |= {profile.batch_class: profile for profile in event.profiles}
            case ev.ClassProfiled() if event.device_id == self.device_id:
                self.profiles[event.profile.batch_class] = event.profile
            case ev.EstimatesPushed() if event.device_id == self.device_id:
                self.table.update(event.classes, event.sets, complete=event.complete)
            case ev.BatchFinished() if event.device_id == self.device_id and not event.failed:
                self.batches.append(event)
            case _:
                pass


def _last(path: Path) -> _Learned:
    """What was known of a log's first device when it ended, and what ran there."""
    learned = _Learned(EstimateTable())
    for entry in _records(path):
        if isinstance(entry, Snapshot):
            learned.take_snapshot(entry)
        elif isinstance(entry, record.Group):
            for event in entry.events:
                learned.take(event)
    return learned


def _records(path: Path) -> Iterator[record.Record]:
    files = [file for _, file in record.parts(path)]
    if not files:
        raise ValueError(f"there is no log at {path}")
    for file in files:
        yield from record.read(file)
