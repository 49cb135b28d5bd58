"""The profiler of `cotenant profile`: the executor's, which runs each class more often and remembers every run.

What it measured before serves again if it is of the same files, configuration and device, and has the batch sizes and
as many runs as are asked for. An executor that loads the model must find every class it would have measured, so
a choice of batch sizes that leaves one out is not kept.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from cotenant.executor.backend import Model
from cotenant.executor.device import Device, Ran
from cotenant.executor.profile import Profiler, alone, classes
from cotenant.inference import inference_pb2
from cotenant.runtime import solo
from cotenant.runtime.estimates import BatchClass
from cotenant.v1 import executor_pb2 as pb

_log = structlog.get_logger()

BUDGET_NS, RUNS = 2_000_000_000, (5, 100)  # time and runs spent on one class, unless a number of runs is asked for


@dataclass
class Outcome:
    """What measuring a version gave."""

    resources: tuple[str, ...]  # of the device, in the order of demands
    load_average: float  # of the host, just before
    runs: dict[tuple[int, str], tuple[int, tuple[int, ...]]] = field(default_factory=dict)  # warm-up and others, ns
    file: Path | None = None  # where the record of them belongs; None if an executor would not find them
    remark: str = ""  # why not
    kept: solo.SoloProfile | None = None  # the record of earlier runs, where none were needed

    def classes(self, profiles: Sequence[pb.ClassProfiled]) -> Iterator[solo.SoloClass]:
        """The runs and what the executor makes of them."""
        for profile in profiles:
            known = profile.batch_class
            first_ns, durations_ns = self.runs[known.batch_size, known.shape_bucket]
            yield solo.SoloClass(
                known.batch_size,
                known.shape_bucket,
                profile.work_ns,
                profile.spread,
                first_ns,
                durations_ns,
                dict(zip(self.resources, profile.demand, strict=False)),
                pb.ProfileBasis.Name(profile.basis).removeprefix("PROFILE_BASIS_").lower(),
            )


class SoloProfiler(Profiler):
    """See the module's text. `outcomes` are those of the last model's versions."""

    def __init__(
        self,
        device: Device,
        tell: Callable[[solo.Event], None],
        *,
        cache: Path,
        anew: bool,
        batch_sizes: tuple[int, ...],
        runs: int,
    ) -> None:
        super().__init__(device, alone, cache=cache)
        self.outcomes: dict[str, Outcome] = {}
        self._anew, self._asked, self._asked_runs = anew, batch_sizes, runs
        self._tell, self.on_runs = tell, self._note
        self.budget_ns = 0 if runs else BUDGET_NS
        self.min_runs, self.max_runs = (runs, runs) if runs else RUNS
        self._outcome = Outcome((), 0.0)

    async def measure(
        self, config: inference_pb2.ModelConfig, model: Model, version: str, folder: Path
    ) -> list[pb.ClassProfiled]:
        """See `Profiler.measure`. Raises ValueError if there is no class to measure."""
        missing = self._choose(config, version)
        self.keeps = not missing
        files = self._files(folder, self._fingerprint(config, folder))
        record = None if self._anew else self._find(files)
        resources = tuple(self._device.describe().resources)
        outcome = self._outcome = self.outcomes[version] = Outcome(resources, load_average=os.getloadavg()[0])
        self._remeasure = record is None
        profiles = await super().measure(config, model, version, folder)
        if record and not outcome.runs and not _agree(record, profiles):  # an executor has measured since
            self._remeasure = True
            profiles = await super().measure(config, model, version, folder)
        if not outcome.runs:
            outcome.kept = record
        elif missing:
            outcome.remark = f"not kept: a load measures batches of {', '.join(map(str, missing))} as well"
        elif written := next((path for path in files if path.exists()), None):
            outcome.file = _beside(written)
        return profiles

    def _choose(self, config: inference_pb2.ModelConfig, version: str) -> list[int]:
        """Decides on batch sizes; returns those that an executor needs and that are not among them."""
        needed = {known.batch_size for known, _ in classes(config, version)}
        if not needed:
            raise ValueError(
                f"model '{config.name}' has variable dimensions and no parameter 'shape_buckets': "
                "there is no batch class to measure"
            )
        limit = max(1, config.max_batch_size)
        self.batch_sizes = tuple(size for size in self._asked if size <= limit)
        if self._asked and not self.batch_sizes:
            raise ValueError(f"model '{config.name}' takes batches of at most {limit}, and none of the sizes fits")
        return sorted(needed - set(self.batch_sizes)) if self._asked else []

    def _find(self, files: Sequence[Path]) -> solo.SoloProfile | None:
        """What was measured before, if it will do."""
        for path in map(_beside, files):
            if not path.exists():
                continue
            try:
                record = msgspec.json.decode(path.read_bytes(), type=solo.SoloProfile)
            except (OSError, msgspec.MsgspecError) as error:
                _log.warning("record unreadable, measuring again", path=str(path), error=str(error))
                continue
            sizes = set(self.batch_sizes) or {entry.batch_size for entry in record.classes}
            entries = tuple(entry for entry in record.classes if entry.batch_size in sizes)
            enough = all(len(entry.durations_ns) >= self._asked_runs for entry in entries)
            if enough and sizes == {entry.batch_size for entry in entries}:
                return msgspec.structs.replace(record, classes=entries)
        return None

    def _note(self, known: BatchClass, first: Ran, runs: list[Ran]) -> None:
        durations_ns = tuple(ran.duration_ns for ran in runs)
        self._outcome.runs[known.batch_size, known.shape_bucket] = first.duration_ns, durations_ns
        self._tell(solo.Ran(known.model, known.batch_size, known.shape_bucket))


def _agree(record: solo.SoloProfile, profiles: Sequence[pb.ClassProfiled]) -> bool:
    """Whether an executor serves with what the record tells."""
    works = {(p.batch_class.batch_size, p.batch_class.shape_bucket): p.work_ns for p in profiles}
    return all(works.get((entry.batch_size, entry.shape_bucket)) == entry.work_ns for entry in record.classes)


def keep(profile: solo.SoloProfile, path: Path) -> bool:
    """Writes a record; false if that cannot be done."""
    draft = path.with_suffix(".part")
    try:
        draft.write_bytes(msgspec.json.encode(profile) + b"\n")
        draft.replace(path)
    except OSError as error:
        _log.warning("record not kept", path=str(path), error=str(error))
        return False
    return True


def _beside(path: Path) -> Path:
    """The record that belongs to a profile that an executor reads."""
    return path.with_name(path.name.replace("profile", "solo", 1))
