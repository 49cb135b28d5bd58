"""What a learner is told: solo measurements, and batches that ran, checked by `intake`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cotenant.runtime.estimates import BatchClass, Phase


class Slice(NamedTuple):
    """A stretch of time in which a batch's co-runners did not change. Instants are on the device's clock."""

    duration_ns: int
    co_runners: tuple[BatchClass, ...]  # ascending; a class stands as often as it ran
    at_ns: int = 0  # when it began
    began_ns: tuple[int, ...] = ()  # when each co-runner had begun; empty if not told


def timed_slices(started_ns: int, told: Iterable[tuple[int, Sequence[BatchClass], Sequence[int]]]) -> tuple[Slice, ...]:
    """Slices of a batch that started then, of durations, co-runners, and how long each had run by then."""
    found: list[Slice] = []
    for duration_ns, co_runners, elapsed_ns in told:
        if len(elapsed_ns) == len(co_runners):
            others = sorted(zip(co_runners, (started_ns - e for e in elapsed_ns), strict=True))
            began_ns = tuple([began for _, began in others])
            found.append(Slice(duration_ns, tuple([known for known, _ in others]), started_ns, began_ns))
        else:
            found.append(Slice(duration_ns, tuple(sorted(co_runners)), started_ns))
        started_ns += duration_ns
    return tuple(found)


class Running(NamedTuple):
    """A batch that runs at the instant of a forecast, and what it has met so far."""

    batch_class: BatchClass
    slices: Sequence[Slice]


class Clocks(NamedTuple):
    """What a device's driver tells of its clocks."""

    sm_mhz: int  # of the multiprocessors; 0 if not told
    reasons: frozenset[int] | None  # why it is not at its most (`ThrottleReason`); None if not told


@dataclass(frozen=True, slots=True)
class Profile:
    """A solo measurement of a class."""

    batch_class: BatchClass
    work_ns: int
    demand: tuple[float, ...]  # share of each resource of the device that it kept busy, in [0, 1]
    samples: int = 0
    kernel_ns: float = 0.0  # mean duration of its kernels; 0 if unknown
    phases: tuple[Phase, ...] = ()  # empty: the same all along, or unknown


@dataclass(frozen=True, slots=True)
class Observation:
    """A finished batch. Durations in ns."""

    batch_class: BatchClass
    duration_ns: int
    slices: tuple[Slice, ...]
    forecast_ns: int = 0  # what the scheduler expected when it launched the batch; 0 if nothing
    forecast_work_ns: int = 0
    co_runner_count: int = 0  # at launch
