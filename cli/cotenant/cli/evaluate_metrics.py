"""How far predictions were off: errors, bounds, and the spread of what cannot be predicted.

Durations in ns enter as float64 arrays with one element per batch, in order of the batches' starts. A prediction of 0
is none: it is counted, and enters no figure. Slowdown is duration over the log's solo time, which is the same for all
predictors: a predictor that believes in another solo time is judged by what its belief comes to.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

LEAST_REPEATS = 5  # of one co-location, to tell its noise


class Errors(msgspec.Struct, frozen=True):
    """Errors over some batches; relative ones are |predicted - actual| / actual of the duration."""

    batches: int
    not_predicted: int
    mse_slowdown: float
    mape: float
    median: float
    p95: float
    p99: float
    max: float
    bias: float  # mean of (predicted - actual) / actual


class Bound(msgspec.Struct, frozen=True):
    """An upper bound over some batches."""

    level: float
    batches: int
    coverage: float  # share of batches that took no longer
    width: float  # mean of bound over solo time
    pinball: float  # mean quantile loss at this level, over solo time


def errors(predicted: Floats, actual: Floats, work: Floats) -> Errors | None:
    """None where nothing was predicted."""
    told = predicted > 0.0
    if not told.any():
        return None
    predicted, actual, work = predicted[told], actual[told], work[told]
    signed = predicted / actual - 1.0
    relative = np.abs(signed)
    median, p95, p99 = np.percentile(relative, [50, 95, 99])
    over = work > 0.0
    slowdown_error = (predicted[over] - actual[over]) / work[over]
    return Errors(
        len(predicted),
        int((~told).sum()),
        float(np.mean(slowdown_error**2)) if over.any() else float("nan"),
        float(relative.mean()),
        float(median),
        float(p95),
        float(p99),
        float(relative.max()),
        float(signed.mean()),
    )


def bound(level: float, bounds: Floats, actual: Floats, work: Floats) -> Bound | None:
    """None where nothing was told."""
    told = (bounds > 0.0) & (work > 0.0)
    if not told.any():
        return None
    above, measured = bounds[told] / work[told], actual[told] / work[told]
    missed = measured - above
    loss = np.where(missed > 0.0, level * missed, (level - 1.0) * missed)
    return Bound(level, len(above), float((missed <= 0.0).mean()), float(above.mean()), float(loss.mean()))


def repeats(groups: Sequence[Hashable | None], actual: Floats) -> Floats:
    """What the best knowledge of a repeated co-location predicts: the median of each group of `LEAST_REPEATS` or more.

    `groups` names the group of each batch, None for one whose co-location changed. 0 where there is none.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for i, group in enumerate(groups):
        if group is not None:
            members[group].append(i)
    found = np.zeros(len(actual))
    for indices in members.values():
        if len(indices) >= LEAST_REPEATS:
            found[indices] = np.median(actual[indices])
    return found


def relative(predicted: Floats, actual: Floats) -> Floats:
    """Relative errors; NaN where nothing was predicted."""
    return np.where(predicted > 0.0, np.abs(predicted / actual - 1.0), np.nan)


def rolling(values: Floats, *, median: bool, neighbours: int = 201, places: int = 240) -> list[tuple[int, float]]:
    """Median or mean over neighbours, at up to so many places: (index, value). NaN are left out."""
    if not len(values):
        return []
    half = min(neighbours, len(values)) // 2
    centres = np.unique(np.linspace(half, len(values) - 1 - half, places).round().astype(int))
    found: list[tuple[int, float]] = []
    for centre in centres:
        near = values[max(0, centre - half) : centre + half + 1]
        near = near[~np.isnan(near)]
        if len(near):
            found.append((int(centre), round(float(np.median(near) if median else near.mean()), 5)))
    return found
