"""Rolls batches that run together forward in time, by the rates of their sets: the contract's rule put to use.

Theory. A batch needs `work_ns` of solo time. While a set of batches shares the device, each progresses at a rate <= 1
that depends on who they are and in which phase of its work each is; it ends when the integral of its rate reaches its
work. Between two changes of the set, or of a phase, all rates are constant, so finish times follow by stepping from
change to change. Pure, and shared by whoever decides and whoever judges decisions.
"""

from collections.abc import Callable, Sequence
from operator import truediv

from cotenant.runtime.estimates import Stage

# Rates of batches that run together, each in its phase, in their order.
Rates = Callable[[tuple[Stage, ...]], tuple[float, ...]]

ROUNDING_NS = 1.0  # less work than this is none


def finish_offsets(
    rates: Rates,
    stages: Sequence[tuple[Stage, ...]],
    work_ns: Sequence[float],
    remaining_ns: Sequence[float],
) -> list[float]:
    """Time from now until each batch ends, in ns, if nothing is added: departures speed up those that stay.

    All arguments but the first have one entry per batch.
    """
    if max(map(len, stages), default=1) == 1:
        return _flat_offsets(rates, [one[0] for one in stages], remaining_ns)
    offsets = [0.0] * len(remaining_ns)
    bodies = [_Body(*each) for each in zip(stages, work_ns, remaining_ns, strict=True)]
    here = [i for i, body in enumerate(bodies) if not body.ended]
    current, gaps = [bodies[i].stage for i in here], [bodies[i].gap for i in here]
    elapsed = 0.0
    while len(current) > 1:
        speeds = rates(tuple(current))
        step = min(map(truediv, gaps, speeds))
        elapsed += step
        gaps = [gap - step * speed for gap, speed in zip(gaps, speeds, strict=True)]
        for at in range(len(gaps) - 1, -1, -1):
            if gaps[at] <= ROUNDING_NS:
                body = bodies[here[at]]
                if body.passes(gaps[at]):
                    current[at], gaps[at] = body.stage, body.gap
                else:
                    offsets[here[at]] = elapsed
                    del here[at], current[at], gaps[at]
    if current:  # the last runs alone, at full speed
        body = bodies[here[0]]
        body.gap = gaps[0]
        offsets[here[0]] = elapsed + body.left
    return offsets


def _flat_offsets(rates: Rates, current: list[Stage], remaining_ns: Sequence[float]) -> list[float]:
    """The same where nobody has phases."""
    offsets = [0.0] * len(remaining_ns)
    here, gaps = list(range(len(remaining_ns))), list(remaining_ns)
    elapsed = 0.0
    while True:
        for at in range(len(gaps) - 1, -1, -1):
            if gaps[at] <= ROUNDING_NS:
                offsets[here[at]] = elapsed
                del here[at], current[at], gaps[at]
        if len(current) < 2:
            break
        speeds = rates(tuple(current))
        step = min(map(truediv, gaps, speeds))
        elapsed += step
        gaps = [gap - step * speed for gap, speed in zip(gaps, speeds, strict=True)]
    if current:  # the last runs alone, at full speed
        offsets[here[0]] = elapsed + gaps[0]
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
    if max(map(len, stages), default=1) == 1:  # nobody has phases, so the rates stay as they are
        speeds = rates(tuple([one[0] for one in stages]))
        left_ns = [left - duration_ns * speed for left, speed in zip(remaining_ns, speeds, strict=True)]
        return [left if left > ROUNDING_NS else 0.0 for left in left_ns]
    bodies = [_Body(*each) for each in zip(stages, work_ns, remaining_ns, strict=True)]
    while duration_ns > 0.0:
        speeds = rates(tuple([body.stage for body in bodies]))
        step = duration_ns
        for body, speed in zip(bodies, speeds, strict=True):
            if not body.ended:
                step = min(step, body.gap / speed)
        duration_ns -= step
        for body, speed in zip(bodies, speeds, strict=True):
            if not body.ended:
                body.gap -= step * speed
                if body.gap <= ROUNDING_NS:
                    body.passes(body.gap)
    return [body.left for body in bodies]


class _Body:
    """A batch that runs: its phase, and `gap`, the work that is left of that phase."""

    __slots__ = ("_at", "_stages", "_work", "ended", "gap", "stage")

    def __init__(self, stages: tuple[Stage, ...], work: float, left: float) -> None:
        self._stages, self._work, self._at, self.ended = stages, work, 0, False
        self.stage = stages[0]
        self.gap = left - work * (1.0 - self.stage.end)
        if self.gap <= ROUNDING_NS:
            self.passes(self.gap)

    def passes(self, gap: float) -> bool:
        """Enters the next phase of which something is left; False if the batch has ended."""
        stages, last = self._stages, len(self._stages) - 1
        while gap <= ROUNDING_NS:
            if self._at == last:
                self.gap, self.ended = 0.0, True
                return False
            self._at += 1
            before, self.stage = self.stage, stages[self._at]
            gap += self._work * (self.stage.end - before.end)
        self.gap = gap
        return True

    @property
    def left(self) -> float:
        """Work left of the whole batch."""
        return self.gap + self._work * (1.0 - self.stage.end)
