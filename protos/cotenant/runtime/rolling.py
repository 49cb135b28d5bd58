"""Rolls batches that run together forward in time, by the rates of their sets: the contract's rule put to use.

Theory. A batch needs `work_ns` of solo time. While a set of batches shares the device, each progresses at a rate <= 1
that depends on who they are and in which phase of its work each is; it ends when the integral of its rate reaches its
work. Between two changes of the set, or of a phase, all rates are constant, so finish times follow by stepping from
change to change. Pure, and shared by whoever decides and whoever judges decisions.
"""

from collections.abc import Callable, Sequence

from cotenant.runtime.estimates import Stage

# Rates of batches that run together, each in its phase, in their order.
Rates = Callable[[tuple[Stage, ...]], tuple[float, ...]]

_ROUNDING_NS = 1.0  # less work than this is none


def finish_offsets(
    rates: Rates,
    stages: Sequence[tuple[Stage, ...]],
    work_ns: Sequence[float],
    remaining_ns: Sequence[float],
) -> list[float]:
    """Time from now until each batch ends, in ns, if nothing is added: departures speed up those that stay.

    All arguments but the first have one entry per batch.
    """
    bodies = [_Body(i, *body) for i, body in enumerate(zip(stages, work_ns, remaining_ns, strict=True))]
    offsets = [0.0] * len(bodies)
    bodies = [body for body in bodies if not body.ended]
    elapsed = 0.0
    while bodies:
        speeds = rates(tuple([body.stage for body in bodies]))
        step = min([(body.left - body.floor) / rate for body, rate in zip(bodies, speeds, strict=True)])
        elapsed += step
        ended = False
        for body, rate in zip(bodies, speeds, strict=True):
            if body.run(step * rate):
                offsets[body.index] = elapsed
                ended = True
        if ended:
            bodies = [body for body in bodies if not body.ended]
    return offsets


def advance(
    rates: Rates,
    stages: Sequence[tuple[Stage, ...]],
    work_ns: Sequence[float],
    remaining_ns: Sequence[float],
    duration_ns: float,
) -> list[float]:
    """Remaining solo work of each batch after all have run together for so long; never below zero.

    One that should have ended meanwhile has not, or somebody would have said so: it stays where it is.
    """
    bodies = [_Body(i, *body) for i, body in enumerate(zip(stages, work_ns, remaining_ns, strict=True))]
    while duration_ns > 0.0:
        speeds = rates(tuple([body.stage for body in bodies]))
        step = duration_ns
        for body, rate in zip(bodies, speeds, strict=True):
            if not body.ended:
                step = min(step, (body.left - body.floor) / rate)
        duration_ns -= step
        for body, rate in zip(bodies, speeds, strict=True):
            body.run(step * rate)
    return [body.left for body in bodies]


class _Body:
    """A batch that runs: work left, its phase, and how much is left when that phase ends."""

    __slots__ = ("_at", "_stages", "_work", "ended", "floor", "index", "left", "stage")

    def __init__(self, index: int, stages: tuple[Stage, ...], work: float, left: float) -> None:
        self.index, self.left, self._stages, self._work = index, left, stages, work
        self._at, self.ended = -1, False
        self._next()

    def _next(self) -> None:
        """Enters the first phase after this one of which something is left."""
        last = len(self._stages) - 1
        while self._at < last:
            self._at += 1
            self.stage = self._stages[self._at]
            self.floor = self._work * (1.0 - self.stage.end) if self._at < last else 0.0
            if self.left > self.floor + _ROUNDING_NS:
                return
        self.ended = self.left <= _ROUNDING_NS

    def run(self, work: float) -> bool:
        """Does so much work; returns whether the batch has ended by it."""
        self.left = max(0.0, self.left - work)
        if self.ended or self.left > self.floor + _ROUNDING_NS:
            return False
        self._next()
        return self.ended
