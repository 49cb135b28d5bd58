"""The pace of a device: what slows all its batches alike, such as a lower clock or load that nobody told us of.

It is followed by several exponential averages of the classes' errors, from one that never moves to one that follows
at once, and believed as the one says that has foretold best of late what *another* model's next batch would show.
What is a single model's own affair foretells nothing of the others, and is left to that model's beliefs; where errors
have nothing in common the one that never moves wins, so following costs nothing.
"""

GAINS = (0.0, 0.02, 0.08, 0.25)
MEMORY = 0.98  # of the score: some fifty batches
PREFER_SLOWER = 0.95  # a faster one must err less than this share of the slower one's error
LIMIT = 0.3  # of a step, in logarithm: one absurd batch moves an average by a quarter of that at most


class Pace:
    """Logarithm of the factor on all solo times."""

    def __init__(self) -> None:
        self._levels = [0.0] * len(GAINS)
        self._scores = [0.0] * len(GAINS)
        self._chosen = 0
        self._last_model = ""
        self.variance = 0.0  # of the logarithm

    @property
    def log(self) -> float:
        """What is believed now."""
        return self._levels[self._chosen]

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
        best = 0
        for i in range(1, len(GAINS)):
            if self._scores[i] < PREFER_SLOWER * self._scores[best]:
                best = i
        self._chosen = best
        self.variance = GAINS[best] * variance / (2.0 - GAINS[best])  # of an exponential average

    def dump(self) -> list[list[float]]:
        """What is kept."""
        return [self._levels, self._scores, [float(self._chosen), self.variance]]

    def restore(self, kept: list[list[float]]) -> None:
        """Becomes what was dumped. Raises ValueError if that had another number of averages."""
        levels, scores, (chosen, variance) = kept
        if len(levels) != len(GAINS) or len(scores) != len(GAINS):
            raise ValueError(f"the kept pace has {len(levels)} averages, {len(GAINS)} are expected")
        self._levels, self._scores, self._chosen, self.variance = levels, scores, int(chosen), variance
