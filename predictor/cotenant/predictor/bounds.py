"""Upper bounds of forecasts: adaptive conformal quantiles of actual / forecast.

Split conformal prediction takes the ceil((n + 1) * level)-th smallest of n past ratios: whatever their distribution,
the next one exceeds it with probability at most 1 - level, as long as nothing changes. Things do change, so the level
itself is adapted (Gibbs and Candes, 2021, adaptive conformal inference): after a miss it rises, after a hit it falls a
little, such that misses happen at the rate asked for in the long run. That takes tens of batches; a burst of misses
lifts the bound at once to the worst of them, until the burst is over.

Batches are kept apart by how many others ran when they started. With too few ratios of its own a class borrows those
of all classes of its device, and with too few of those the bound is wide.
"""

import math
from array import array
from bisect import bisect_left, insort
from collections.abc import Sequence

from cotenant.runtime.estimates import QuantileFactor

WINDOW = 400  # ratios kept per class and kind
LEAST_AIM, MOST_AIM = 1e-4, 0.5  # share of misses aimed at, however coverage has been
ADAPTATION = 0.6  # how fast the level follows coverage, for each step in proportion to the misses asked for
# A burst: so many of the last few beyond the 95th percentile, which chance alone does once in 2,700 times.
BURST, BURST_OF, BURST_LEVEL = 4, 8, 0.95
# By number of others at launch, the last for more: bounds before anything is known.
WIDE = (1.3, 1.8, 2.2, 2.6)
MAX_LEVELS = 16  # followed; others get plain conformal quantiles
MIN_RATIO, MAX_RATIO = 1e-3, 1e3


class Ratios:
    """The last ratios of one kind, in order of arrival and sorted, and the level that keeps coverage true.

    There may be several of these for each of tens of thousands of classes, so they are kept as plain doubles.
    """

    __slots__ = ("_adapted", "_arrived", "_next", "_sorted", "_surprises")

    def __init__(self) -> None:
        self._arrived = array("d")  # oldest first until there are WINDOW, then a ring
        self._next = 0  # the oldest in the ring
        self._sorted = array("d")
        self._adapted: dict[float, float] = {}  # level asked -> share of misses aimed at
        self._surprises = 0  # one bit for each of the last BURST_OF, 1 if beyond BURST_LEVEL

    def __len__(self) -> int:
        return len(self._sorted)

    def learn(self, ratio: float) -> None:
        """One more ratio."""
        if not MIN_RATIO <= ratio <= MAX_RATIO:
            ratio = min(MAX_RATIO, max(MIN_RATIO, ratio))
        if self.enough(BURST_LEVEL):
            surprise = ratio > self._at(1.0 - BURST_LEVEL)
            self._surprises = (self._surprises << 1 | surprise) & ((1 << BURST_OF) - 1)
        for level, aim in self._adapted.items():
            asked = 1.0 - level
            adapted = aim + ADAPTATION * asked * (asked - (1.0 if ratio > self._at(aim) else 0.0))
            if not LEAST_AIM <= adapted <= MOST_AIM:
                adapted = min(MOST_AIM, max(LEAST_AIM, adapted))
            self._adapted[level] = adapted
        if len(self._arrived) < WINDOW:
            self._arrived.append(ratio)
        else:
            del self._sorted[bisect_left(self._sorted, self._arrived[self._next])]
            self._arrived[self._next] = ratio
            self._next = (self._next + 1) % WINDOW
        insort(self._sorted, ratio)

    def enough(self, level: float) -> bool:
        """Whether there are so many that the quantile is not beyond the largest."""
        return len(self._sorted) > 0 and len(self._sorted) + 1 >= 1.0 / (1.0 - level)

    def quantile(self, level: float) -> float:
        """The factor that covers `level` of what is to come; beyond the largest seen, a little more than that."""
        if level not in self._adapted and len(self._adapted) < MAX_LEVELS:
            self._adapted[level] = 1.0 - level
        found = self._at(self._adapted.get(level, 1.0 - level))
        if self._surprises.bit_count() >= BURST:
            found = max(found, *self.recent()[-BURST_OF:])
        return found

    def _at(self, misses: float) -> float:
        rank = max(1, -int(-(len(self._sorted) + 1) * (1.0 - misses) // 1))  # ceil
        if rank <= len(self._sorted):
            return self._sorted[rank - 1]
        return self._sorted[-1] * 1.05

    @property
    def largest(self) -> float:
        """The largest kept; 0 if none is."""
        return self._sorted[-1] if self._sorted else 0.0

    def recent(self) -> list[float]:
        """What is kept, oldest first."""
        return [*self._arrived[self._next :], *self._arrived[: self._next]]

    def followed(self) -> list[float]:
        """What follows coverage: surprises, then each level with the share of misses aimed at; empty if nothing."""
        pairs = [number for pair in self._adapted.items() for number in pair]
        return [float(self._surprises), *pairs] if pairs or self._surprises else []

    @classmethod
    def restored(cls, recent: Sequence[float], followed: Sequence[float]) -> "Ratios":
        """What `recent` and `followed` told. Raises ValueError if that is none of it."""
        made = cls()
        made._arrived, made._sorted = array("d", recent), array("d", sorted(recent))
        sane = math.isfinite(sum(recent)) and MIN_RATIO <= made._sorted[0] <= made._sorted[-1] <= MAX_RATIO
        if not sane or len(recent) > WINDOW:
            raise ValueError(f"kept ratios must be at most {WINDOW} numbers from {MIN_RATIO} to {MAX_RATIO}")
        if followed:
            surprises, levels, aims = followed[0], followed[1::2], followed[2::2]
            sane = 0 <= surprises < 1 << BURST_OF and all(0.0 < level < 1.0 for level in levels)
            if not sane or not len(levels) == len(aims) <= MAX_LEVELS or not all(0.0 <= aim <= 1.0 for aim in aims):
                raise ValueError("kept ratios must follow levels in (0, 1), each with a share of misses")
            made._surprises, made._adapted = int(surprises), dict(zip(levels, aims, strict=True))
        return made


_NOTHING = Ratios()  # stands for all that has not begun: most classes meet few kinds of co-location, many none


class Bounds:
    """Ratios of one class, or of all of a device, by how many others ran at launch."""

    __slots__ = ("beside", "kinds")

    def __init__(self) -> None:
        self.kinds = [_NOTHING] * len(WIDE)
        self.beside = _NOTHING  # all that did not start alone

    def learn(self, ratio: float, co_runner_count: int) -> None:
        """One more ratio of actual to forecast."""
        kind = min(len(WIDE) - 1, co_runner_count)
        if self.kinds[kind] is _NOTHING:
            self.kinds[kind] = Ratios()
        self.kinds[kind].learn(ratio)
        if co_runner_count:
            if self.beside is _NOTHING:
                self.beside = Ratios()
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
        """The ratios kept, by kind and then those of `beside`, oldest first; then what each of them follows."""
        every = (*self.kinds, self.beside)
        return [*(ratios.recent() for ratios in every), *(ratios.followed() for ratios in every)]

    def restore(self, kept: list[list[float]]) -> None:
        """Becomes what was dumped. Raises ValueError if that is none."""
        count = len(WIDE) + 1
        if len(kept) != 2 * count:
            raise ValueError(f"kept bounds are {len(kept)} lists, {2 * count} are expected")
        every = [
            Ratios.restored(recent, followed) if recent else _NOTHING
            for recent, followed in zip(kept[:count], kept[count:], strict=True)
        ]
        *self.kinds, self.beside = every
