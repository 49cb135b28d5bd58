"""How far a device's bounds are widened while nobody learns.

A predictor that learns keeps the promise of its bounds itself. When batches go on ending and nothing was told of the
device for a while (the predictor is away, stuck, or never was), the last estimates serve on, and here is minded whether
they still hold: a batch that ended beyond its bound widens all bounds of the device by a step, one that ended within
narrows them by a small one, in such a proportion that in the long run as many end within as were promised (adaptive
conformal inference, Gibbs and Candes 2021, in steps that multiply). How old estimates are does not count by itself:
what was learned of a device that does not change stays true. The next estimates end it.
"""

import msgspec

STALE_NS = 2_000_000_000  # of silence while batches end; a predictor that learns tells several times a second
STEP = 0.1  # how fast it follows
MOST = 4.0
_GRAIN = 16  # it is applied in so many steps to 1, so that what was worked out need not be thrown away all the time


class Widening(msgspec.Struct):
    """Of one device. `since_ns` is when the first batch ended that is not learned from, 0 for none."""

    since_ns: int = 0
    factor: float = 1.0

    @property
    def applied(self) -> float:
        """What bounds are multiplied by: the factor, rounded up."""
        grains = int((self.factor - 1.0) * _GRAIN)
        return 1.0 + (grains + (self.factor > 1.0 + grains / _GRAIN)) / _GRAIN

    def learned(self) -> None:
        """Estimates came."""
        self.since_ns, self.factor = 0, 1.0

    def ended(self, now_ns: int, level: float, *, within: bool, told: bool = True) -> None:
        """A batch ended within its bound, which was for a probability of `level`, or beyond it.

        `told` is whether estimates ever came: where none did, there is no silence to wait for.
        """
        self.since_ns = self.since_ns or now_ns
        if not told or now_ns - self.since_ns >= STALE_NS:
            step = 1.0 - STEP * (1.0 - level) if within else 1.0 + STEP * level
            self.factor = min(MOST, max(1.0, self.factor * step))
