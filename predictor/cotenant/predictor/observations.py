"""What a learner is told: solo measurements, and batches that ran, checked by `intake`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cotenant.runtime.estimates import BatchClass


class Slice(NamedTuple):
    """A stretch of time in which a batch's co-runners did not change."""

    duration_ns: int
    co_runners: tuple[BatchClass, ...]  # ascending; a class stands as often as it ran


class Running(NamedTuple):
    """A batch that runs at the instant of a forecast, and what it has met so far."""

    batch_class: BatchClass
    slices: Sequence[Slice]


@dataclass(frozen=True, slots=True)
class Profile:
    """A solo measurement of a class."""

    batch_class: BatchClass
    work_ns: int
    demand: tuple[float, ...]  # share of each resource of the device that it kept busy, in [0, 1]
    samples: int = 0


@dataclass(frozen=True, slots=True)
class Observation:
    """A finished batch. Durations in ns."""

    batch_class: BatchClass
    duration_ns: int
    slices: tuple[Slice, ...]
    forecast_ns: int = 0  # what the scheduler expected when it launched the batch; 0 if nothing
    forecast_work_ns: int = 0
    co_runner_count: int = 0  # at launch
