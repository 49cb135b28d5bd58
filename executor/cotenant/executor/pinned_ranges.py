"""Memory of the host that is pinned where it lies: the segments that frontends put requests' tensors into.

A device copies straight from such memory. A range that is taken away while something reads it stays pinned until the
last reader is done.
"""

import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import structlog

from cotenant.runtime.datatypes import Array

_log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Range:
    """Bytes from `start` to before `end`."""

    start: int
    end: int
    unpin: Callable[[int], None]
    readers: int = 0
    leaving: bool = False


class PinnedRanges:
    """See the module's text. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starts: list[int] = []  # ascending, as are the ranges
        self._ranges: list[Range] = []

    def add(self, view: memoryview, pin: Callable[[int, int], None], unpin: Callable[[int], None]) -> Range | None:
        """Pins the memory of a view; None, with a line in the log, where that cannot be done: it is copied then."""
        start = int(np.frombuffer(view, dtype=np.uint8).__array_interface__["data"][0])
        try:
            pin(start, len(view))
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            _log.warning(
                "shared memory cannot be pinned, inputs are copied once more", mib=len(view) >> 20, error=reason
            )
            return None
        known = Range(start, start + len(view), unpin)
        with self._lock:
            at = bisect_right(self._starts, start)
            self._starts.insert(at, start)
            self._ranges.insert(at, known)
        return known

    def remove(self, known: Range) -> None:
        """Takes a range away: nothing begins to read it from now on."""
        with self._lock:
            at = self._ranges.index(known)
            del self._starts[at], self._ranges[at]
            known.leaving = True
            idle = known.readers == 0
        if idle:
            known.unpin(known.start)

    def read(self, array: Array) -> Range | None:
        """The range that an array lies in, which stays pinned until `done`; None if it lies in none."""
        if not self._starts or not array.flags.c_contiguous:
            return None
        start = int(array.__array_interface__["data"][0])
        with self._lock:
            at = bisect_right(self._starts, start) - 1
            if at < 0 or start + array.nbytes > self._ranges[at].end:
                return None
            self._ranges[at].readers += 1
            return self._ranges[at]

    def done(self, ranges: Sequence[Range]) -> None:
        """Ends what `read` began."""
        for known in ranges:
            with self._lock:
                known.readers -= 1
                last = known.leaving and known.readers == 0
            if last:
                known.unpin(known.start)


# Of this process: any model may read any of them.
ranges = PinnedRanges()
