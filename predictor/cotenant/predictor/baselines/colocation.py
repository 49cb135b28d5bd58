"""Slowdown as a linear function of resource throughputs: gpulets' regression, static or smoothed over co-runners.

Choi et al. (gpulets, USENIX ATC 2022) take the L2 and DRAM throughputs of a batch and of what it is co-located with,
and a constant: five weights. "ML Inference Scheduling with Predictable Latency" (section 4) adds the throughput of the
SMs and compares two ways to say what a batch is co-located with:

- *static*: the throughputs of what ran when it was launched, added up, unchanged thereafter;
- *EWMA*: at each arrival or departure beside it, R <- alpha X + (1 - alpha) R with X the throughputs of what then
  runs; R starts as at launch. How long each stretch lasts does not count.

At launch both know the same, but their weights were learned from different features.
"""

from collections.abc import Sequence

import numpy as np

from cotenant.predictor.baselines.known import Demand, KnownClasses
from cotenant.predictor.baselines.regression import Offline, Regression, Vector
from cotenant.predictor.observations import Observation, Running, Slice
from cotenant.runtime.estimates import MIN_RATE, BatchClass

_MAX_SLOWDOWN = 1.0 / MIN_RATE  # of a row learned, and of a prediction
_NOBODY: Sequence[BatchClass] = ()


class Colocation(KnownClasses):
    """See the module's text, and `Learner`."""

    def __init__(
        self, name: str, resources: int, kind: type[Regression], smoothing: float = 0.0, *, compute: bool = True
    ) -> None:
        """`smoothing` is alpha, 0 for static; `compute` says whether the first resource (the SMs) is a feature."""
        super().__init__(name, resources)
        self._first = 0 if compute or resources < 2 else 1
        self._smoothing = smoothing
        self.regression = kind(1 + 2 * (resources - self._first))

    @property
    def needs_training(self) -> bool:
        """Whether it only collects until `fit`."""
        return isinstance(self.regression, Offline)

    def fit(self) -> None:
        """Ends a training: least squares over all batches so far."""
        self.regression.fit()

    def learn_batch(self, seen: Observation) -> None:
        """See `Learner.learn_batch`."""
        self.see(seen)
        slowdown = seen.duration_ns / max(1.0, self.work_ns(seen.batch_class))
        x = self._row(seen.batch_class, self.co_located(seen.slices))
        self.regression.learn(x, min(slowdown, _MAX_SLOWDOWN))

    def explain(self, batch_class: BatchClass, slices: Sequence[Slice]) -> float:
        """See `Learner.explain`."""
        return self._predict(batch_class, self.co_located(slices))

    def forecast(self, batch_class: BatchClass, running: Sequence[Running]) -> float:
        """See `Learner.forecast`: as if what runs stayed."""
        return self._predict(batch_class, self._total([other.batch_class for other in running]))

    def slowdown(self, batch_class: BatchClass, co_runners: Sequence[BatchClass]) -> float:
        """See `Learner.slowdown`."""
        return self._predict(batch_class, self._total(co_runners)) if co_runners else 1.0

    def _predict(self, batch_class: BatchClass, others: Demand) -> float:
        if batch_class not in self.facts:
            return 1.0
        return min(_MAX_SLOWDOWN, max(1.0, self.regression.predict(self._row(batch_class, others))))

    def _row(self, batch_class: BatchClass, others: Demand) -> Vector:
        own = self.demand(batch_class, 0.5)
        return np.array((1.0, *own[self._first :], *others[self._first :]))

    def co_located(self, slices: Sequence[Slice]) -> Demand:
        """Throughputs of what a batch was co-located with, over its life, as the features tell it."""
        total = self._total(slices[0].co_runners if slices else _NOBODY)
        if not self._smoothing:
            return total
        for part in slices[1:]:
            now = self._total(part.co_runners)
            total = tuple(self._smoothing * x + (1.0 - self._smoothing) * r for x, r in zip(now, total, strict=True))
        return total

    def _total(self, co_runners: Sequence[BatchClass]) -> Demand:
        if not co_runners:
            return (0.0,) * self.resources
        demands = [self.demand(other, 1.0) for other in co_runners]
        return demands[0] if len(demands) == 1 else tuple(map(sum, zip(*demands, strict=True)))

    def dump_state(self) -> bytes:
        """The regression."""
        return self.regression.dump()

    def restore_state(self, state: bytes) -> None:
        """Becomes what was dumped."""
        self.regression.restore(state)
