"""Upper bounds of forecasts: adaptive conformal quantiles of actual / forecast.

Split conformal prediction takes the ceil((n + 1) * level)-th smallest of n past ratios: whatever their distribution,
the next one exceeds it with probability at most 1 - level, as long as nothing changes. Things do change, so the level
itself is adapted (Gibbs and Candes, 2021, adaptive conformal inference): after a miss it rises, after a hit it falls a
little, such that misses happen at the rate asked for in the long run. That takes tens of batches; a burst of misses
lifts the bound at once to the worst of them, until the burst is over.

Batches are kept apart by how many others ran when they started. With too few ratios of its own a class borrows those
of all classes of its device, and with too few of those the bound is wide.
"""

from bisect import bisect_left, insort
from collections import deque

from cotenant.runtime.estimates import QuantileFactor

WINDOW = 400  # ratios kept per class and kind
ADAPTATION = 0.6  # how fast the level follows coverage, for each step in proportion to the misses asked for
# A burst: so many of the last few beyond the 95th percentile, which chance alone does once in 2,700 times.
BURST, BURST_OF, BURST_LEVEL = 4, 8, 0.95
# By number of others at launch, the last for more: bounds before anything is known.
WIDE = (1.3, 1.8, 2.2, 2.6)
MAX_LEVELS = 16  # followed; others get plain conformal quantiles
MIN_RATIO, MAX_RATIO = 1e-3, 1e3


class Ratios:
    """The last ratios of one kind, in order of arrival and sorted, and the level that keeps coverage true."""

    def __init__(self) -> None:
        self._arrived: deque[float] = deque()
        self._sorted: list[float] = []
        self._adapted: dict[float, float] = {}  # level asked -> share of misses aimed at
        self._surprises: deque[bool] = deque(maxlen=BURST_OF)

    def __len__(self) -> int:
        return len(self._sorted)

    def learn(self, ratio: float) -> None:
        """One more ratio."""
        ratio = min(MAX_RATIO, max(MIN_RATIO, ratio))
        if self.enough(BURST_LEVEL):
            self._surprises.append(ratio > self._at(1.0 - BURST_LEVEL))
        for level, aim in self._adapted.items():
            missed = 1.0 if ratio > self._at(aim) else 0.0
            self._adapted[level] = min(0.5, max(1e-4, aim + ADAPTATION * (1.0 - level) * ((1.0 - level) - missed)))
        self._arrived.append(ratio)
        insort(self._sorted, ratio)
        if len(self._arrived) > WINDOW:
            del self._sorted[bisect_left(self._sorted, self._arrived.popleft())]

    def enough(self, level: float) -> bool:
        """Whether there are so many that the quantile is not beyond the largest."""
        return len(self._sorted) + 1 >= 1.0 / (1.0 - level)

    def quantile(self, level: float) -> float:
        """The factor that covers `level` of what is to come; beyond the largest seen, a little more than that."""
        if level not in self._adapted and len(self._adapted) < MAX_LEVELS:
            self._adapted[level] = 1.0 - level
        found = self._at(self._adapted.get(level, 1.0 - level))
        if self._surprises.count(True) >= BURST:
            found = max(found, *list(self._arrived)[-BURST_OF:])
        return found

    def _at(self, misses: float) -> float:
        rank = -int(-(len(self._sorted) + 1) * (1.0 - misses) // 1)  # ceil
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
    """Ratios of one class, or of all of a device, by how many others ran at launch."""

    def __init__(self) -> None:
        self.kinds = tuple(Ratios() for _ in WIDE)
        self.beside = Ratios()  # all that did not start alone

    def learn(self, ratio: float, co_runner_count: int) -> None:
        """One more ratio of actual to forecast."""
        self.kinds[min(len(WIDE) - 1, co_runner_count)].learn(ratio)
        if co_runner_count:
            self.beside.learn(ratio)

    def factors(self, levels: tuple[float, ...], pooled: "Bounds") -> tuple[QuantileFactor, ...]:
        """Factors for all levels and kinds, at least 1."""
        found: list[QuantileFactor] = []
        for kind in range(len(WIDE)):
            factor = 1.0  # what covers more is never less
            for level in sorted(levels):
                factor = max(factor, self._factor(level, kind, pooled))
                found.append(QuantileFactor(level, round(factor, 4), kind))
        return tuple(found)

    def _factor(self, level: float, kind: int, pooled: "Bounds") -> float:
        """From its own errors of that kind; else of any kind beside others; else others' errors; else a wide guess."""
        own = self.kinds[kind]
        if own.enough(level):
            return own.quantile(level)
        if kind and self.beside.enough(level):
            return max(self.beside.quantile(level) * pooled.lift(level, kind), own.largest)
        for borrowed in (pooled.kinds[kind], pooled.beside if kind else pooled.kinds[kind]):
            if borrowed.enough(level):
                return max(borrowed.quantile(level), own.largest)
        return max(WIDE[kind], own.largest)

    def lift(self, level: float, kind: int) -> float:
        """By how much the bound of a kind is above that of all who did not start alone; at least 1."""
        if not (self.kinds[kind].enough(level) and self.beside.enough(level)):
            return 1.0
        return max(1.0, self.kinds[kind].quantile(level) / self.beside.quantile(level))

    def dump(self) -> list[list[float]]:
        """The ratios kept, by kind and then those of `beside`, oldest first."""
        return [ratios.recent() for ratios in (*self.kinds, self.beside)]

    def restore(self, kept: list[list[float]]) -> None:
        """Learns what was kept."""
        for own, ratios in zip((*self.kinds, self.beside), kept, strict=True):
            for ratio in ratios:
                own.learn(ratio)
