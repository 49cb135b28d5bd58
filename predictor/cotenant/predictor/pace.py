"""The pace of a device: what slows all its batches alike, such as a lower clock or load that nobody told us of.

It is followed by several exponential averages of the classes' errors, from one that never moves to one that follows
at once, and believed as the one says that has foretold best of late what *another* model's next batch would show.
What is a single model's own affair foretells nothing of the others, and is left to that model's beliefs; where errors
have nothing in common the one that never moves wins, so following costs nothing.

A change that was announced, such as of a clock, opens the pace: for some batches it is a belief as uncertain as the
change is large, and the fewest batches that can tell, whosever they are, settle whether it moved. Nothing moves by the
announcement itself: what it announces may have been seen before it came, and how much of a clock a model feels is the
model's affair. Where the batches show nothing, all is as it was before.
"""

import math

GAINS = (0.0, 0.02, 0.08, 0.25)
MEMORY = 0.98  # of the score: some fifty batches
PREFER_SLOWER = 0.95  # a faster one must err less than this share of the slower one's error
LIMIT = 0.3  # of a step, in logarithm: one absurd batch moves an average by a quarter of that at most
# An announced change, in logarithm: what it may be if its size is not told, and the least and the most that it opens.
UNTOLD, LEAST, MOST = 0.1, 0.05, 0.5
SETTLED = 0.2  # an open pace closes when a batch should count for no more than this: after some five batches
OPEN = 0.4  # what each counts for at least until then: those that ran when it changed show a part of it, later ones all
MOVED = 3.0  # standard deviations from where it was: the change was one
AWAY = 1.1 / PREFER_SLOWER  # score of one that never moves and is not there; 1 is that of one that errs by noise alone


class Pace:
    """Logarithm of the factor on all solo times."""

    def __init__(self) -> None:
        self._levels = [0.0] * len(GAINS)
        self._scores = [0.0] * len(GAINS)
        self._chosen = 0
        self._last_model = ""
        self._opened: tuple[float, float] | None = None  # while open: what is believed, and the variance of that
        self.variance = 0.0  # of the logarithm

    @property
    def log(self) -> float:
        """What is believed now."""
        return self._opened[0] if self._opened else self._levels[self._chosen]

    def expect(self, ratio: float | None) -> None:
        """A change of about this factor on all times was announced; None if its size is unknown.

        Nothing is believed of it yet, but the next batches will be, as far as such a change may reach. Raises
        ValueError if `ratio` is not a finite number above 0.
        """
        if ratio is not None and not 0.0 < ratio < math.inf:
            raise ValueError(f"a pace changes by a finite factor above 0, not by {ratio}")
        size = UNTOLD if ratio is None else min(MOST, max(LEAST, abs(math.log(ratio))))
        self._opened = self.log, max(self.variance, size * size)
        self.variance = self._opened[1]

    def learn(self, model: str, error: float, variance: float) -> None:
        """Takes the error of a batch, log(elapsed / expected), expected at the present pace, and its variance."""
        seen = error + self.log
        others = model != self._last_model
        self._last_model = model
        for i, gain in enumerate(GAINS):
            missed = max(-LIMIT, min(LIMIT, seen - self._levels[i]))
            if others:  # models differ in how noisy they are, and count accordingly
                told = min(missed * missed / variance, 100.0)
                self._scores[i] = MEMORY * self._scores[i] + (1.0 - MEMORY) * told
            self._levels[i] += gain * missed
        if self._opened and not self._settle(seen, variance):
            return
        best = 0
        for i in range(1, len(GAINS)):
            if self._scores[i] < PREFER_SLOWER * self._scores[best]:
                best = i
        self._chosen = best
        self.variance = GAINS[best] * variance / (2.0 - GAINS[best])  # of an exponential average

    def _settle(self, seen: float, variance: float) -> bool:
        """Moves an open pace; true if it has closed."""
        assert self._opened
        level, uncertain = self._opened
        share = uncertain / (uncertain + variance)
        level += max(OPEN, share) * max(-LIMIT, min(LIMIT, seen - level))
        self.variance = (1.0 - share) * uncertain
        if share > SETTLED:
            self._opened = level, self.variance
            return False
        self._opened = None
        far = MOVED * math.sqrt(self.variance)
        if abs(level - self._levels[self._chosen]) > far:
            # Those that move start anew from here, and all without their past: what they foretold was another pace.
            self._levels[1:] = [level] * (len(GAINS) - 1)
            self._scores = [AWAY if abs(level - self._levels[0]) > far else 1.0] + [1.0] * (len(GAINS) - 1)
        return True

    def dump(self) -> list[list[float]]:
        """What is kept."""
        return [self._levels, self._scores, [float(self._chosen), self.variance]]

    def restore(self, kept: list[list[float]]) -> None:
        """Becomes what was dumped. Raises ValueError if that had another number of averages."""
        levels, scores, (chosen, variance) = kept
        self._opened = None
        if len(levels) != len(GAINS) or len(scores) != len(GAINS):
            raise ValueError(f"the kept pace has {len(levels)} averages, {len(GAINS)} are expected")
        self._levels, self._scores, self._chosen, self.variance = levels, scores, int(chosen), variance
