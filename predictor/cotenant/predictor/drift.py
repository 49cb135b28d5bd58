"""Noticing that a class's errors have changed.

River's ADWIN (Bifet and Gavalda, 2007) on standardised errors finds what changes by little over many batches; a run
of large errors to the same side says at once what nobody could miss.
"""

from river.drift import ADWIN

DELTA = 1e-4  # chance of an alarm in a window where nothing changed
LIMIT = 6.0  # standard deviations; what is beyond says no more
# So many in a row beyond so many standard deviations to one side: once in two million times by chance.
RUN, FAR = 4, 2.0


class Drift:
    """One stream of errors, each in its standard deviations."""

    def __init__(self) -> None:
        self._detector: ADWIN | None = None  # made when there is something to watch: most classes are only measured
        self._run = 0  # negative for errors below

    def learn(self, error: float) -> bool:
        """Takes an error; true if the mean has changed."""
        if self._detector is None:
            self._detector = ADWIN(delta=DELTA, clock=8, grace_period=16)
        self._detector.update(max(-LIMIT, min(LIMIT, error)))
        side = (error > FAR) - (error < -FAR)
        self._run = self._run + side if side * self._run >= 0 and side else side
        if abs(self._run) >= RUN:
            self._run, self._detector = 0, None
            return True
        return bool(self._detector.drift_detected)
