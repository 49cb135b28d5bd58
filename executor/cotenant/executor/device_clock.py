"""How instants of a device's clock are mapped to the executor's.

Each sample is two-sided: our clock is read before and after theirs, so half of what lies between bounds its error. A
stretch of time is enclosed by two samples and mapped by the line between them, so drift cannot add up: its error is
that of the samples, however long the process has run.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cotenant.runtime.clock import now_ns

_TRIES = 5
_SHORT_NS = 1_000_000  # between samples so near to each other, their errors would tilt the line
_MOST_SKEW = 1e-3  # clocks that differ by more have been set, not drifted


@dataclass(frozen=True, slots=True)
class Sample:
    """The same instant on both clocks, give or take `half_ns`."""

    ours_ns: int
    theirs_ns: int
    half_ns: int


def sample(read: Callable[[], int], now: Callable[[], int] = now_ns) -> Sample:
    """The narrowest of a few samples."""
    taken = []
    for _ in range(_TRIES):
        before, theirs, after = now(), read(), now()
        taken.append(Sample((before + after) // 2, theirs, (after - before + 1) // 2))
    return min(taken, key=lambda one: one.half_ns)


@dataclass(frozen=True, slots=True)
class Alignment:
    """What lies between two samples."""

    before: Sample
    after: Sample

    @property
    def error_ns(self) -> int:
        """Largest error of a mapped instant that lies between the samples."""
        return max(self.before.half_ns, self.after.half_ns)

    def to_ours(self, theirs_ns: int) -> int:
        """An instant of theirs on our clock."""
        ours, theirs = self.after.ours_ns - self.before.ours_ns, self.after.theirs_ns - self.before.theirs_ns
        both = (self.before, self.after)
        if min(ours, theirs) < _SHORT_NS:
            known = min(both, key=lambda one: one.half_ns)
            return theirs_ns + known.ours_ns - known.theirs_ns
        if abs(ours - theirs) > _MOST_SKEW * theirs + sum(one.half_ns for one in both):
            known = min(both, key=lambda one: abs(theirs_ns - one.theirs_ns))
            return theirs_ns + known.ours_ns - known.theirs_ns
        return self.before.ours_ns + (theirs_ns - self.before.theirs_ns) * ours // theirs
