"""Checks what executors send before anything is learned from it. What makes no sense is counted and dropped."""

import math
from collections import Counter

from cotenant.predictor.observations import Observation, Profile, Slice
from cotenant.runtime.estimates import BatchClass
from cotenant.v1 import executor_pb2, types_pb2

LONGEST_NS = 3_600_000_000_000  # an hour: no batch takes longer
MAX_TEXT = 512


class Intake:
    """Turns events into observations, or into a count of why not."""

    def __init__(self) -> None:
        self.rejected: Counter[str] = Counter()

    def batch_class(self, message: types_pb2.BatchClass) -> BatchClass | None:
        """A class, or None if it cannot be one."""
        if not message.model or not 1 <= message.batch_size <= 1_000_000:
            self.rejected["class"] += 1
            return None
        if len(message.model) + len(message.version) + len(message.shape_bucket) > MAX_TEXT:
            self.rejected["class"] += 1
            return None
        return BatchClass(message.model, message.version, message.batch_size, message.shape_bucket)

    def profile(self, message: executor_pb2.ClassProfiled) -> Profile | None:
        """A solo measurement: class, work in ns, demand in [0, 1]."""
        known = self.batch_class(message.batch_class)
        if known is None:
            return None
        if not 0 < message.work_ns <= LONGEST_NS:
            self.rejected["work"] += 1
            return None
        if any(not math.isfinite(d) or d < 0.0 for d in message.demand):
            self.rejected["demand"] += 1
            return None
        return Profile(known, message.work_ns, tuple(min(1.0, d) for d in message.demand), message.samples)

    def finished(self, message: executor_pb2.BatchFinished) -> Observation | None:
        """A batch that ran well, with consistent slices."""
        known = self.batch_class(message.batch_class)
        if known is None or message.failed:
            return None
        if not 0 < message.duration_ns <= LONGEST_NS:
            self.rejected["duration"] += 1
            return None
        slices: list[Slice] = []
        for part in message.slices:
            others = [self.batch_class(c) for c in part.co_runners]
            if None in others:
                return None
            slices.append(Slice(part.duration_ns, tuple(c for c in others if c is not None)))
        told = sum(part.duration_ns for part in slices)
        if abs(told - message.duration_ns) > max(1_000_000, 0.01 * message.duration_ns):
            self.rejected["slices"] += 1
            return None
        expected = message.forecast
        if expected.duration_ns > LONGEST_NS:
            self.rejected["forecast"] += 1
            return None
        forecast_ns = expected.duration_ns if expected.work_ns and not message.timed else 0
        return Observation(
            known, message.duration_ns, tuple(slices), forecast_ns, expected.work_ns, expected.co_runner_count
        )
