"""Learners that know an instantaneous progress rate: explaining and forecasting by integrating it.

A batch of `work` progresses at `rate(class, co-runners)` of solo progress per unit of time, and ends when the integral
reaches its work. The scheduler's `contention` rolls ahead in the same way.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from cotenant.predictor.observations import Running, Slice
from cotenant.runtime.estimates import MIN_RATE, BatchClass

_NEARLY_DONE = 0.02  # of its work: what a batch that should have ended is taken to have left


class RateLearner(ABC):
    """`explain`, `forecast` and `slowdown` of a learner by its `rate`."""

    @abstractmethod
    def rate(self, batch_class: BatchClass, co_runners: Sequence[BatchClass]) -> float:
        """Progress rate in [MIN_RATE, 1]."""

    @abstractmethod
    def work_ns(self, batch_class: BatchClass) -> float:
        """See `Learner.work_ns`."""

    def slowdown(self, batch_class: BatchClass, co_runners: Sequence[BatchClass]) -> float:
        """See `Learner.slowdown`."""
        return 1.0 / self.rate(batch_class, co_runners) if co_runners else 1.0

    def explain(self, batch_class: BatchClass, slices: Sequence[Slice]) -> float:
        """See `Learner.explain`."""
        elapsed = sum(part.duration_ns for part in slices)
        done = self._progress(batch_class, slices)
        return max(1.0, elapsed / done) if done > 0 else 1.0

    def forecast(self, batch_class: BatchClass, running: Sequence[Running]) -> float:
        """See `Learner.forecast`."""
        work = self.work_ns(batch_class)
        if work <= 0.0 or not running:
            return 1.0
        present = [batch_class, *(other.batch_class for other in running)]
        left = [work]
        for other in running:
            whole = self.work_ns(other.batch_class) or work
            left.append(max(whole - self._progress(other.batch_class, other.slices), _NEARLY_DONE * whole))
        elapsed = 0.0
        while True:
            rates = [self.rate(one, present[:i] + present[i + 1 :]) for i, one in enumerate(present)]
            step = min(remaining / rate for remaining, rate in zip(left, rates, strict=True))
            elapsed += step
            left = [remaining - step * rate for remaining, rate in zip(left, rates, strict=True)]
            if left[0] <= 1e-6 * work:
                return max(1.0, elapsed / work)
            staying = [i for i, remaining in enumerate(left) if remaining > 1e-6 * work]
            present, left = [present[i] for i in staying], [left[i] for i in staying]

    def _progress(self, batch_class: BatchClass, slices: Sequence[Slice]) -> float:
        return sum(
            part.duration_ns * (max(MIN_RATE, self.rate(batch_class, part.co_runners)) if part.co_runners else 1.0)
            for part in slices
        )
