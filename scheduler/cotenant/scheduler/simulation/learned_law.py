"""What a predictor had learned for a law: devices that behave exactly as the estimates at the end of a log say.

This is how a live run is simulated: record it, then simulate with its log. Solo times, phases and rates are those of
the last estimates of the log's first device; the noise of a batch is what its batches that ran alone showed.
"""

import math
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path

from cotenant.executor.phases import Cut
from cotenant.runtime.estimates import BatchClass, ClassEstimate, EstimateTable, Phase, Stage
from cotenant.scheduler import events as ev
from cotenant.scheduler import record
from cotenant.scheduler.simulation.laws import Memo, Part
from cotenant.scheduler.simulation.measured_law import between
from cotenant.scheduler.snapshot import Snapshot

_NOISE = 0.03  # where fewer than ten batches of a class ran alone


class LearnedLaw:
    """See the module's text."""

    def __init__(self, path: Path, aliases: Mapping[str, str], concurrency: int) -> None:
        """`aliases` tells what the log calls a model. Raises ValueError for a log without estimates of a model."""
        self._aliases, self._concurrency = aliases, concurrency
        self._table, self._profiles, self._noise = _last(path)
        self._versions: dict[str, BatchClass] = {}
        for known in (*self._profiles, *self._table.classes):
            self._versions.setdefault(known.model, known)
        for model in aliases.values():
            if model not in self._versions:
                raise ValueError(f"{path}: nothing was learned of model '{model}'")
        self._stages: list[Stage] = []
        self._parts: dict[BatchClass, tuple[Part, ...]] = {}
        self._memo = Memo()

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

    def noise(self, batch_class: BatchClass) -> float:
        """See `Law.noise`."""
        return self._noise.get(self._known(batch_class), _NOISE)

    def profile(self, batch_class: BatchClass) -> Cut:
        """See `Law.profile`."""
        told = self._told(self._known(batch_class))
        nearest = told[min(told, key=lambda size: (abs(size - batch_class.batch_size), size))]
        phases: tuple[Phase, ...] = nearest.phases
        return Cut(nearest.demand, nearest.kernel_ns, phases)

    def spent(self, batch_class: BatchClass) -> tuple[float, ...]:
        """See `Law.spent`: nothing is known but that no batch is faster than alone."""
        return (sum(part.work_ns for part in self.parts(batch_class)) / self._concurrency,)


def _last(path: Path) -> tuple[EstimateTable, dict[BatchClass, ev.Profile], dict[BatchClass, float]]:
    """The estimates, solo measurements and noise that a log tells of its first device."""
    table, profiles = EstimateTable(), dict[BatchClass, ev.Profile]()
    ratios: dict[BatchClass, list[float]] = {}
    device_id = ""
    for entry in _records(path):
        if isinstance(entry, Snapshot):
            for kept in entry.tables:
                device_id = device_id or kept.device_id
                if kept.device_id == device_id:
                    table.update(kept.classes, kept.sets, complete=True)
            for device in entry.devices:
                if device.device.device_id == device_id:
                    profiles |= {profile.batch_class: profile for profile in device.profiles}
        elif isinstance(entry, record.Group):
            for event in entry.events:
                match event:
                    case ev.DeviceJoined() if not device_id or event.device.device_id == device_id:
                        device_id = event.device.device_id
                        profiles |= {profile.batch_class: profile for profile in event.profiles}
                    case ev.ClassProfiled() if event.device_id == device_id:
                        profiles[event.profile.batch_class] = event.profile
                    case ev.EstimatesPushed() if event.device_id == device_id:
                        table.update(event.classes, event.sets, complete=event.complete)
                    case ev.BatchFinished() if not event.failed and not any(s.co_runners for s in event.slices):
                        ratios.setdefault(event.batch_class, []).append(math.log(max(1, event.duration_ns)))
                    case _:
                        pass
    noise = {known: statistics.stdev(logs) for known, logs in ratios.items() if len(logs) >= 10}
    return table, profiles, noise


def _records(path: Path) -> Iterator[record.Record]:
    files = [file for _, file in record.parts(path)]
    if not files:
        raise ValueError(f"there is no log at {path}")
    for file in files:
        yield from record.read(file)
