"""What a log tells of a predictor's task: what was measured alone, what was launched beside what, and how it went.

A log becomes *steps* in order of time: a class was measured (`Told`), a device's driver told its state (`Stated`), a
batch starts (`Launched`), a batch's end is known (`Ended`). A batch is learned when the log told of its end, never
before, so whoever predicts at a `Launched` step from what came before it knows just what a predictor knew at that
instant. Who ran at that instant, and beside whom so far, follows from the batches' starts and slices. All this is the
same for every predictor and made once.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from cotenant.predictor.codec import put_class
from cotenant.predictor.observations import Clocks, Observation, Profile, Running, Slice
from cotenant.runtime.estimates import BatchClass
from cotenant.v1 import executor_pb2, types_pb2


@dataclass(slots=True, eq=False)
class Ran:
    """A batch that ran well."""

    device_id: str
    batch_id: int
    started_ns: int
    seen: Observation  # with the forecast that the scheduler acted on
    message: executor_pb2.BatchFinished
    bound_ns: int  # that the scheduler acted on, at `level`; 0 if none
    level: float
    work_ns: float = 0.0  # solo time that slowdowns are over; 0 if nothing tells it
    running: tuple[Running, ...] = ()  # what ran on the device when it started

    @property
    def batch_class(self) -> BatchClass:
        """What ran."""
        return self.seen.batch_class

    @property
    def ended_ns(self) -> int:
        """When it ended."""
        return self.started_ns + self.seen.duration_ns


class Told(NamedTuple):
    """A class was measured alone."""

    device_id: str
    at_ns: int
    profile: Profile
    message: executor_pb2.ClassProfiled


class Stated(NamedTuple):
    """A device's driver told its state."""

    device_id: str
    at_ns: int
    clocks: Clocks
    message: executor_pb2.DeviceState


class Launched(NamedTuple):
    """A batch starts."""

    at_ns: int
    batch: Ran


class Ended(NamedTuple):
    """A batch's end is known."""

    at_ns: int
    batch: Ran


Step = Told | Stated | Launched | Ended


@dataclass(slots=True)
class Recording:
    """A log, made ready."""

    name: str
    devices: dict[str, types_pb2.Device] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    batches: list[Ran] = field(default_factory=list)  # in order of their starts
    rejected: Counter[str] = field(default_factory=Counter)

    def cut(self, share: float) -> tuple["Recording", "Recording"]:
        """The first batches to start, that share of all, and the rest."""
        border_ns = self.batches[min(len(self.batches) - 1, round(len(self.batches) * share))].started_ns

        def is_early(step: Step) -> bool:
            return (step.batch.started_ns if isinstance(step, Launched | Ended) else step.at_ns) < border_ns

        parts = [Recording(self.name, self.devices), Recording(self.name, self.devices)]
        for step in self.steps:
            parts[0 if is_early(step) else 1].steps.append(step)
        for ran in self.batches:
            parts[0 if ran.started_ns < border_ns else 1].batches.append(ran)
        return parts[0], parts[1]


def order(step: Step) -> tuple[int, int]:
    """Sort key: what is known at the instant of a launch is known to it."""
    return step.at_ns, int(isinstance(step, Launched))


def find_neighbours(batches: Sequence[Ran]) -> None:
    """Which batches co-runners were, where slices tell their classes alone. `batches` are in order of start."""
    present: dict[str, list[Ran]] = defaultdict(list)
    met: dict[int, list[Ran]] = {}
    for ran in batches:
        others = [other for other in present[ran.device_id] if other.ended_ns > ran.started_ns]
        met[id(ran)] = list(others)
        for other in others:
            met[id(other)].append(ran)
        present[ran.device_id] = [*others, ran]
    for ran in batches:
        slices = tuple(
            part if part.began_ns or not part.co_runners else part._replace(began_ns=_begun(part, met[id(ran)]))
            for part in ran.seen.slices
        )
        if slices != ran.seen.slices:
            ran.seen = replace(ran.seen, slices=slices)
            del ran.message.slices[:]
            for part in slices:
                elapsed_ns = [part.at_ns - began_ns for began_ns in part.began_ns]
                told = ran.message.slices.add(duration_ns=part.duration_ns, co_runner_elapsed_ns=elapsed_ns)
                for known in part.co_runners:
                    put_class(told.co_runners.add(), known)


def _begun(part: Slice, met: Sequence[Ran]) -> tuple[int, ...]:
    """When each co-runner of a slice began; empty if one cannot be found."""
    middle_ns = part.at_ns + part.duration_ns // 2
    there = [
        other for other in met if other.started_ns <= middle_ns < other.ended_ns and other.started_ns <= part.at_ns
    ]
    there.sort(key=lambda other: (other.batch_class, other.started_ns))
    if tuple(other.batch_class for other in there) != part.co_runners:
        return ()
    return tuple(other.started_ns for other in there)


def find_running(batches: Sequence[Ran]) -> None:
    """What ran on each device when a batch started, and beside whom so far. `batches` are in order of start."""
    present: dict[str, list[Ran]] = defaultdict(list)
    for ran in batches:
        others = [other for other in present[ran.device_id] if other.ended_ns > ran.started_ns]
        ran.running = tuple(
            Running(other.batch_class, _until(other.seen.slices, ran.started_ns - other.started_ns)) for other in others
        )
        present[ran.device_id] = [*others, ran]


def _until(slices: Sequence[Slice], elapsed_ns: int) -> tuple[Slice, ...]:
    found: list[Slice] = []
    for part in slices:
        if elapsed_ns <= 0:
            break
        found.append(part._replace(duration_ns=min(part.duration_ns, elapsed_ns)))
        elapsed_ns -= part.duration_ns
    return tuple(found)
