"""What happens after a change: how soon errors are back at their floor, and whether bounds hold in windows.

A change is a model first seen, which concerns its classes, or an instant that the user gives, which concerns all.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from math import exp, lgamma, log

import msgspec
import numpy as np

from cotenant.cli.evaluate_log import Ran
from cotenant.cli.evaluate_metrics import Floats, Mask
from cotenant.runtime.estimates import BatchClass

NEAR_FLOOR = 1.25
RECOVERY_BATCHES = 20  # whose median error tells whether a class is near its floor
WINDOW, SETTLING = 500, 100  # batches: of a window, and between a change and its first window
CONFIDENCE = 0.99


class Stretch(msgspec.Struct, frozen=True):
    """The batches of one class from a change that concerns it to the next one."""

    batch_class: str
    device_id: str
    change: int  # number of the batch, of all, that comes first after the change
    batches: list[int]


class Recovery(msgspec.Struct, frozen=True):
    """How soon a class was back."""

    batch_class: str
    device_id: str
    change: int
    floor: float
    samples: int | None  # batches of the class after which its errors are near the floor; None if they never are


class Windows(msgspec.Struct, frozen=True):
    """Coverage in disjoint windows of `WINDOW` batches between changes."""

    level: float
    low: float  # of the binomial interval that `CONFIDENCE` of windows would fall into if the level were held
    high: float
    coverage: list[float]
    inside: int

    @property
    def share_inside(self) -> float | None:
        """None without windows."""
        return self.inside / len(self.coverage) if self.coverage else None


def changes(batches: Sequence[Ran], known: Collection[tuple[str, str]], at: Iterable[int]) -> dict[int, str]:
    """By number of the batch that comes first after it: the model that is new ("" where all are concerned).

    `known` are models already trained on, with their versions; `at` are numbers of batches that a user's changes
    come before.
    """
    found: dict[int, str] = {}
    seen = set(known)
    for i, ran in enumerate(batches):
        model = (ran.batch_class.model, ran.batch_class.version)
        if model not in seen:
            seen.add(model)
            found[i] = ran.batch_class.model
    for i in at:
        found[i] = ""
    return dict(sorted(found.items()))


def stretches(batches: Sequence[Ran], changed: Mapping[int, str]) -> list[Stretch]:
    """The stretches of each class that begin with a change. A class of a new model begins with its first batch."""
    open_at: dict[tuple[str, BatchClass], int] = {}
    new_models: dict[str, int] = {}
    all_changed = -1
    found: dict[tuple[str, BatchClass, int], list[int]] = defaultdict(list)
    for i, ran in enumerate(batches):
        if i in changed:
            if changed[i]:
                new_models[changed[i]] = i
            else:
                all_changed, new_models = i, {}
        key = (ran.device_id, ran.batch_class)
        change = new_models.get(ran.batch_class.model, all_changed)
        if change >= 0:
            open_at[key] = change
        if key in open_at:
            found[*key, open_at[key]].append(i)
    return [Stretch(str(known), device_id, change, own) for (device_id, known, change), own in found.items()]


def recovery(stretch: Stretch, relative_errors: Floats, floor: float) -> Recovery | None:
    """None for a class with too few batches to tell, or none predicted. What was not is infinitely far off."""
    own = relative_errors[stretch.batches]
    if len(own) < RECOVERY_BATCHES or not floor > 0.0 or np.isnan(own).all():
        return None
    own = np.where(np.isnan(own), np.inf, own)
    medians = np.median(np.lib.stride_tricks.sliding_window_view(own, RECOVERY_BATCHES), axis=1)
    near = np.flatnonzero(medians <= NEAR_FLOOR * floor)
    samples = int(near[0]) if len(near) else None
    return Recovery(stretch.batch_class, stretch.device_id, stretch.change, floor, samples)


def settled(stretch: Stretch, relative_errors: Floats) -> float:
    """Median error over the later half of a stretch; NaN if nothing was predicted there."""
    later = relative_errors[stretch.batches[len(stretch.batches) // 2 :]]
    later = later[~np.isnan(later)]
    return float(np.median(later)) if len(later) else float("nan")


def windows(level: float, bounds: Floats, actual: Floats, borders: Iterable[int], own: Mask | None = None) -> Windows:
    """Coverage in windows of all batches, or of those of `own`; `borders` are the numbers changes come before."""
    low, high = binomial_interval(WINDOW, level, CONFIDENCE)
    counted = bounds > 0.0 if own is None else own & (bounds > 0.0)
    covered: list[float] = []
    edges = sorted({0, *borders, len(actual)})
    for start, end in pairwise(edges):
        numbers = np.flatnonzero(counted[start:end]) + start
        hits = actual[numbers] <= bounds[numbers]
        skipped = SETTLING if start in borders or start == 0 else 0
        starts = range(skipped, len(hits) - WINDOW + 1, WINDOW)
        covered += [float(hits[first : first + WINDOW].mean()) for first in starts]
    inside = sum(low <= share <= high for share in covered)
    return Windows(level, low, high, covered, inside)


@lru_cache
def binomial_interval(n: int, p: float, confidence: float) -> tuple[float, float]:
    """Shares of n between which a binomial count lies with at least that probability, tails cut equally."""
    tail = (1.0 - confidence) / 2.0
    weights = [
        exp(lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) + k * log(p) + (n - k) * log(1.0 - p))
        for k in range(n + 1)
    ]
    below = np.cumsum(weights)
    low = int(np.searchsorted(below, tail, side="right"))
    high = int(np.searchsorted(below, 1.0 - tail, side="left"))
    return low / n, high / n
