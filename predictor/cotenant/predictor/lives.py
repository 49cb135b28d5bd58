"""How far in their work batches were while others met them, as believed.

A batch that is learned has met others that may still run. How far they are is believed from what their neighbours told
so far: each finished batch adds a stretch of the lives of all whom it met.
"""

from bisect import bisect_left, insort
from collections import OrderedDict

from cotenant.runtime.estimates import BatchClass

MAX_LIVES = 256  # the one met first goes first
MAX_POINTS = 128  # of one life; the oldest go first
SAME_NS = 100_000  # instants that are mapped from another clock differ a little from event to event
_MOST = 0.999  # of its work: who is still there has not ended


class Life:
    """One batch: progress in [0, 1) over time, linear between points."""

    __slots__ = ("_at_ns", "_progress", "began_ns")

    def __init__(self, began_ns: int) -> None:
        self.began_ns = began_ns
        self._at_ns: list[int] = [began_ns]
        self._progress: list[float] = [0.0]

    @property
    def until_ns(self) -> int:
        """Up to when it is known."""
        return self._at_ns[-1]

    def extend(self, at_ns: int, rate_per_ns: float) -> None:
        """It went on so fast until then; nothing if that is known."""
        if at_ns > self._at_ns[-1]:
            self._progress.append(min(_MOST, self._progress[-1] + rate_per_ns * (at_ns - self._at_ns[-1])))
            self._at_ns.append(at_ns)
            if len(self._at_ns) > MAX_POINTS:
                del self._at_ns[0], self._progress[0]

    def at(self, at_ns: int) -> float:
        """Progress at an instant; before the first that is kept and after the last, that of the nearest."""
        times = self._at_ns
        i = bisect_left(times, at_ns)
        if i == len(times):
            return self._progress[-1]
        if i == 0 or times[i] == at_ns:
            return self._progress[i]
        part = (at_ns - times[i - 1]) / (times[i] - times[i - 1])
        return self._progress[i - 1] + part * (self._progress[i] - self._progress[i - 1])


class Lives:
    """Of the batches of one device."""

    def __init__(self) -> None:
        self._lives: OrderedDict[tuple[BatchClass, int], Life] = OrderedDict()
        self._begun: dict[BatchClass, list[int]] = {}

    def of(self, batch_class: BatchClass, began_ns: int) -> Life:
        """The life of the batch of that class that began then, new if it was never met."""
        life = self._lives.get((batch_class, began_ns))
        if life is not None:
            return life
        begun = self._begun.setdefault(batch_class, [])
        i = bisect_left(begun, began_ns - SAME_NS)
        if i < len(begun) and begun[i] <= began_ns + SAME_NS:
            return self._lives[batch_class, begun[i]]
        life = self._lives[batch_class, began_ns] = Life(began_ns)
        insort(begun, began_ns)
        if len(self._lives) > MAX_LIVES:
            (oldest, known_ns), _ = self._lives.popitem(last=False)
            self._begun[oldest].remove(known_ns)
            if not self._begun[oldest]:
                del self._begun[oldest]
        return life

    def forget(self, batch_class: BatchClass) -> None:
        """Drops all of a class."""
        for began_ns in self._begun.pop(batch_class, ()):
            del self._lives[batch_class, began_ns]
