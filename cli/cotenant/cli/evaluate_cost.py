"""What predicting costs, as a ratio to something anyone can run: a bare numpy RLS update of 16 features."""

import statistics
from collections.abc import Sequence
from time import thread_time_ns

import numpy as np

from cotenant.cli.evaluate_result import Cost
from cotenant.cli.evaluate_run import Local

_FEATURES = 16
_BLOCK, _BLOCKS = 200, 5
_WARM_UP = 50


def reference_update_ns() -> float:
    """CPU time of one update now: the median of a few blocks."""
    noise = np.random.default_rng(0)
    rows = noise.random((_BLOCK, _FEATURES))
    targets = noise.random(_BLOCK)
    weights, covariance = np.zeros(_FEATURES), np.eye(_FEATURES) * 100.0
    spent: list[float] = []
    for _ in range(_BLOCKS):
        began = thread_time_ns()
        for x, y in zip(rows, targets, strict=True):
            px = covariance @ x
            gain = px / (0.999 + x @ px)
            weights = weights + gain * (y - weights @ x)
            covariance = (covariance - np.outer(gain, px)) / 0.999
        spent.append((thread_time_ns() - began) / _BLOCK)
    return statistics.median(spent)


def cost(local: Local, reference_ns: float) -> Cost | None:
    """Means over updates and forecasts after the first few, which import and allocate; None if there were none."""
    if not (local.predict_ns and local.update_ns):
        return None
    update, predict = _settled(local.update_ns), _settled(local.predict_ns)
    return Cost(update, predict, update / reference_ns, predict / reference_ns)


def _settled(spent_ns: Sequence[int]) -> float:
    return statistics.fmean(spent_ns[min(_WARM_UP, len(spent_ns) // 2) :])
