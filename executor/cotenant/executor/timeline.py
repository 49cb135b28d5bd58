"""Who ran beside whom: cuts the life of every batch into slices in which its co-runners do not change."""

import threading
from typing import NamedTuple

from cotenant.runtime.clock import now_ns
from cotenant.runtime.estimates import BatchClass


class Slice(NamedTuple):
    """A duration, and the classes that ran beside meanwhile, sorted."""

    duration_ns: int
    co_runners: tuple[BatchClass, ...]


class _Life:
    __slots__ = ("batch_class", "slices")

    def __init__(self, batch_class: BatchClass) -> None:
        self.batch_class = batch_class
        self.slices: list[Slice] = []


class Timeline:
    """The batches that run on one device. Safe for threads: batches begin and end on threads of their own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lives: dict[int, _Life] = {}
        self._since_ns = 0

    def begin(self, batch_id: int, batch_class: BatchClass, at_ns: int | None = None) -> int:
        """A batch begins; returns when. The clock is read under the lock, so that instants are in order."""
        with self._lock:
            at_ns = self._cut(at_ns)
            self._lives[batch_id] = _Life(batch_class)
            return at_ns

    def end(self, batch_id: int, at_ns: int | None = None) -> tuple[int, list[Slice]]:
        """A batch ends; returns when, and its slices: consecutive, summing to the time since it began.

        Raises KeyError if it did not begin.
        """
        with self._lock:
            at_ns = self._cut(at_ns)
            return at_ns, self._lives.pop(batch_id).slices

    @property
    def running(self) -> int:
        """Batches that run."""
        return len(self._lives)

    def _cut(self, at_ns: int | None) -> int:
        """Ends the current slice of everyone."""
        at_ns = max(now_ns() if at_ns is None else at_ns, self._since_ns)
        elapsed, self._since_ns = at_ns - self._since_ns, at_ns
        if not elapsed:
            return at_ns
        classes = {batch_id: life.batch_class for batch_id, life in self._lives.items()}
        for batch_id, life in self._lives.items():
            others = tuple(sorted(c for other, c in classes.items() if other != batch_id))
            if life.slices and life.slices[-1].co_runners == others:
                life.slices[-1] = Slice(life.slices[-1].duration_ns + elapsed, others)
            else:
                life.slices.append(Slice(elapsed, others))
        return at_ns
