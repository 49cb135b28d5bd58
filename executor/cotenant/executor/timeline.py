"""Who ran beside whom: cuts the life of every batch into slices in which its co-runners do not change."""

import threading
from typing import NamedTuple

from cotenant.runtime.clock import now_ns
from cotenant.runtime.estimates import BatchClass


class Slice(NamedTuple):
    """A duration, the classes that ran beside meanwhile, sorted, and for how long each had run when it began."""

    duration_ns: int
    co_runners: tuple[BatchClass, ...]
    elapsed_ns: tuple[int, ...] = ()


class _Life:
    __slots__ = ("batch_class", "began_ns", "beside", "slices")

    def __init__(self, batch_class: BatchClass, began_ns: int) -> None:
        self.batch_class, self.began_ns = batch_class, began_ns
        self.slices: list[Slice] = []
        self.beside: list[tuple[BatchClass, int, int]] = []  # in the last slice: class, begin and id


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
            self._lives[batch_id] = _Life(batch_class, at_ns)
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
        since_ns, self._since_ns = self._since_ns, at_ns
        if at_ns == since_ns:
            return at_ns
        present = sorted((life.batch_class, life.began_ns, batch_id) for batch_id, life in self._lives.items())
        for batch_id, life in self._lives.items():
            others = [one for one in present if one[2] != batch_id]
            if life.slices and life.beside == others:
                last = life.slices[-1]
                life.slices[-1] = last._replace(duration_ns=last.duration_ns + at_ns - since_ns)
                continue
            life.beside = others
            elapsed_ns = tuple([since_ns - began_ns for _, began_ns, _ in others])
            life.slices.append(Slice(at_ns - since_ns, tuple([known for known, _, _ in others]), elapsed_ns))
        return at_ns
