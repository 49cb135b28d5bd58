"""Draws from what a live run showed, near an instant of it: what troubles a host lasts, and troubles everything then.

Instants count from the first arrival of the run, and in a simulation from its beginning.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

from cotenant.scheduler.simulation.timing import START_NS

NEIGHBOURS = 16  # of those observed next to an instant, one is drawn

T = TypeVar("T", int, float)


class Seen(NamedTuple, Generic[T]):
    """Something that was observed."""

    at_ns: int
    value: T


class Near(Generic[T]):
    """Values by instant; at least one. `chance` draws from [0, 1)."""

    def __init__(self, seen: Iterable[Seen[T]]) -> None:
        ordered = sorted(seen)
        self._at_ns = [one.at_ns for one in ordered]
        self._values: list[T] = [one.value for one in ordered]
        self._count = min(NEIGHBOURS, len(ordered))
        self._last = len(ordered) - self._count

    def draw(self, now_ns: int, chance: Callable[[], float]) -> T:
        """One of those observed about `now_ns` of a simulation."""
        first = bisect_left(self._at_ns, now_ns - START_NS) - NEIGHBOURS // 2
        return self._values[min(max(0, first), self._last) + int(chance() * self._count)]
