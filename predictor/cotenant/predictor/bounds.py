"""Upper bounds of forecasts: adaptive conformal quantiles of actual / forecast.

Split conformal prediction takes the ceil((n + 1) * level)-th smallest of n past ratios: whatever their distribution,
the next one exceeds it with probability at most 1 - level, as long as nothing changes. Things do change, so the level
itself is adapted (Gibbs and Candes, 2021, adaptive conformal inference): after a miss it rises, after a hit it falls a
little, such that misses happen at the rate asked for in the long run. Batches that started alone and batches that
started beside others are kept apart. With too few ratios of its own a class borrows those of all classes of its
device, and with too few of those the bound is wide.
"""

from bisect import insort
from collections import deque

from cotenant.runtime.estimates import QuantileFactor

WINDOW = 400  # ratios kept per class and kind
ADAPTATION = 0.01  # how fast the level follows coverage
WIDE_ALONE, WIDE_BESIDE = 1.3, 1.8  # before anything is known


class Ratios:
    """The last ratios of one kind, in order of arrival and sorted, and the level that keeps coverage true."""

    def __init__(self) -> None:
        self._arrived: deque[float] = deque()
        self._sorted: list[float] = []
        self._adapted: dict[float, float] = {}  # level asked -> share of misses aimed at

    def __len__(self) -> int:
        return len(self._sorted)

    def learn(self, ratio: float) -> None:
        """One more ratio."""
        for level, aim in self._adapted.items():
            missed = 1.0 if ratio > self.quantile(level) else 0.0
            self._adapted[level] = min(0.5, max(1e-4, aim + ADAPTATION * ((1.0 - level) - missed)))
        self._arrived.append(ratio)
        insort(self._sorted, ratio)
        if len(self._arrived) > WINDOW:
            self._sorted.remove(self._arrived.popleft())

    def enough(self, level: float) -> bool:
        """Whether there are so many that the quantile is not beyond the largest."""
        return len(self._sorted) + 1 >= 1.0 / (1.0 - level)

    def quantile(self, level: float) -> float:
        """The factor that covers `level` of what is to come; beyond the largest seen, a little more than that."""
        aim = self._adapted.setdefault(level, 1.0 - level)
        rank = -int(-(len(self._sorted) + 1) * (1.0 - aim) // 1)  # ceil
        if rank <= len(self._sorted):
            return self._sorted[rank - 1]
        return self._sorted[-1] * 1.05

    @property
    def largest(self) -> float:
        """The largest kept; 0 if none is."""
        return self._sorted[-1] if self._sorted else 0.0

    def recent(self) -> list[float]:
        """What is kept, oldest first."""
        return list(self._arrived)


class Bounds:
    """Ratios of one class, or of all of a device: started alone, and started beside others."""

    def __init__(self) -> None:
        self.kinds = (Ratios(), Ratios())

    def learn(self, ratio: float, co_runner_count: int) -> None:
        """One more ratio of actual to forecast."""
        self.kinds[min(1, co_runner_count)].learn(ratio)

    def factors(self, levels: tuple[float, ...], pooled: "Bounds") -> tuple[QuantileFactor, ...]:
        """Factors for all levels and both kinds, at least 1."""
        found: list[QuantileFactor] = []
        for kind, wide in enumerate((WIDE_ALONE, WIDE_BESIDE)):
            own, all_classes = self.kinds[kind], pooled.kinds[kind]
            factor = 1.0  # what covers more is never less
            for level in sorted(levels):
                if own.enough(level):
                    factor = max(factor, own.quantile(level))
                else:  # others' errors, or a wide guess, but never less than the worst of one's own
                    borrowed = all_classes.quantile(level) if all_classes.enough(level) else wide
                    factor = max(factor, borrowed, own.largest)
                found.append(QuantileFactor(level, round(factor, 4), kind))
        return tuple(found)

    def dump(self) -> list[list[float]]:
        """The ratios kept, by kind, oldest first."""
        return [kind.recent() for kind in self.kinds]

    def restore(self, kept: list[list[float]]) -> None:
        """Learns what was kept."""
        for kind, ratios in zip(self.kinds, kept, strict=True):
            for ratio in ratios:
                kind.learn(ratio)
