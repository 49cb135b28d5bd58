"""Learners that know an instantaneous progress rate: explaining and forecasting by integrating it.

A batch of `work` progresses at a rate of solo progress per unit of time that depends on its phase, and on who runs
beside it in which phase; it ends when the integral reaches its work. The scheduler rolls ahead by the same code.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from cotenant.predictor.lives import Lives
from cotenant.predictor.observations import Running, Slice
from cotenant.runtime import rolling
from cotenant.runtime.estimates import BatchClass, Phase, Stage

BLUR = 0.03  # of its work: how far a neighbour is is known no better
STEPS = 8  # that a whole life is looked at in, where phases pass
_NOTHING = Phase(1.0, ())  # that is known of a class
_NEARLY_DONE = 0.02  # of its work: what a batch that should have ended is taken to have left


class Piece(NamedTuple):
    """A stretch of a batch's life in which neither its neighbours nor anybody's phase changed."""

    share: float  # of its life
    own: Stage
    others: tuple[Stage, ...]  # in the order of the slice's co-runners
    part: int  # number of the slice


class RateLearner(ABC):
    """`explain`, `forecast` and `slowdown` of a learner by its `rate`."""

    def __init__(self) -> None:
        self._lives = Lives()

    def stages(self, batch_class: BatchClass) -> tuple[Stage, ...]:
        """The phases of a class; a single one where it is the same all along."""
        return (self.mean(batch_class),)

    def mean(self, batch_class: BatchClass) -> Stage:
        """A class as it is on average."""
        return Stage(batch_class, _NOTHING, None)

    @abstractmethod
    def rate(self, own: Stage, others: tuple[Stage, ...]) -> float:
        """Progress rate in [MIN_RATE, 1] beside these; 1 beside nobody."""

    @abstractmethod
    def work_ns(self, batch_class: BatchClass) -> float:
        """See `Learner.work_ns`."""

    def rates(self, stages: tuple[Stage, ...]) -> tuple[float, ...]:
        """Of each while all of them run."""
        return tuple([self.rate(own, stages[:i] + stages[i + 1 :]) for i, own in enumerate(stages)])

    def slowdown(self, batch_class: BatchClass, co_runners: Sequence[BatchClass]) -> float:
        """See `Learner.slowdown`."""
        return 1.0 / self.rate(self.mean(batch_class), tuple(map(self.mean, co_runners)))

    def explain(self, batch_class: BatchClass, slices: Sequence[Slice]) -> float:
        """See `Learner.explain`."""
        done = sum(piece.share * self.rate(piece.own, piece.others) for piece in self.trace(batch_class, slices))
        return max(1.0, 1.0 / done) if done > 0 else 1.0

    def forecast(self, batch_class: BatchClass, running: Sequence[Running]) -> float:
        """See `Learner.forecast`."""
        work = self.work_ns(batch_class)
        if work <= 0.0 or not running:
            return 1.0
        stages, works, left = [self.stages(batch_class)], [work], [work]
        for other in running:
            whole = self.work_ns(other.batch_class) or work
            stages.append(self.stages(other.batch_class))
            works.append(whole)
            left.append(self._left(stages[-1], whole, other.slices))
        return max(1.0, rolling.finish_offsets(self.rates, stages, works, left)[0] / work)

    def _left(self, stages: tuple[Stage, ...], work: float, slices: Sequence[Slice]) -> float:
        """Work left of a batch that has met these; its neighbours are taken as they are on average."""
        left = work
        for part in slices:
            others = tuple(map(self.mean, part.co_runners))
            (left,) = rolling.advance(partial(self._beside, others), [stages], [work], [left], part.duration_ns)
        return max(left, _NEARLY_DONE * work)

    def _beside(self, others: tuple[Stage, ...], one: tuple[Stage, ...]) -> tuple[float, ...]:
        return (self.rate(one[0], others),)

    # ---- lives

    def trace(self, batch_class: BatchClass, slices: Sequence[Slice]) -> list[Piece]:
        """A whole life in pieces.

        The batch itself is taken to have progressed evenly. Where it is not told which batches its neighbours were,
        they are taken as they are on average.
        """
        scale, reached = 1.0 / max(1, sum([part.duration_ns for part in slices])), 0.0
        stages, mean = self.stages(batch_class), self.mean(batch_class)
        pieces: list[Piece] = []
        for number, part in enumerate(slices):
            share = part.duration_ns * scale
            if not part.co_runners:
                pieces.append(Piece(share, mean, (), number))
            elif len(others := tuple([self.mean(known) for known in part.co_runners])) == len(part.began_ns):
                bodies = [_Body(stages, reached, reached + share)]
                for j, known in enumerate(part.co_runners):
                    bodies.append(self._neighbour(known, part, j, mean, others))
                _sample(pieces, bodies, share, number)
            else:
                bodies = [_Body(stages, reached, reached + share), *[_Body((other,)) for other in others]]
                _sample(pieces, bodies, share, number)
            reached += share
        return pieces

    def _neighbour(self, known: BatchClass, part: Slice, j: int, mean: Stage, others: tuple[Stage, ...]) -> "_Body":
        """A co-runner in a slice; its life is extended to the end of it."""
        stages = self.stages(known)
        if len(stages) == 1:
            return _Body(stages)
        life, end_ns = self._lives.of(known, part.began_ns[j]), part.at_ns + part.duration_ns
        if life.until_ns < end_ns:
            work, rest = max(1.0, self.work_ns(known)), (*others[:j], *others[j + 1 :])
            if life.until_ns < part.at_ns:
                # What it met in between is not told yet: as now, but for the batch whose life this is.
                life.extend(part.at_ns, self.rate(others[j], rest) / work)
            life.extend(end_ns, self.rate(others[j], (mean, *rest)) / work)
        return _Body(stages, life.at(part.at_ns), life.at(end_ns), BLUR)


class _Body:
    """A batch in a slice: its phases, and how far it is at the slice's beginning and end, give or take `blur`."""

    __slots__ = ("_blur", "_first", "_from", "_passed", "_stages", "changes")

    def __init__(self, stages: tuple[Stage, ...], first: float = 0.0, last: float = 1.0, blur: float = 0.0) -> None:
        self._stages, self._first, self._passed, self._blur = stages, first, last - first, blur
        self._from, self.changes = 0, False  # the phase it begins in; whether it may be in others too
        if len(stages) > 1:
            self._from = _find(stages, 0, first - blur)
            self.changes = stages[self._from].end <= last + blur and self._from < len(stages) - 1

    def over(self, steps: int) -> list[Stage]:
        """The phase it is in at the middle of each of so many equal steps.

        It is taken to be now a little less far, now a little further than believed.
        """
        stages, at = self._stages, self._from
        if not self.changes:
            return [stages[at]] * steps
        step = self._passed / steps
        middle, off = self._first + step / 2, -self._blur
        found = []
        for _ in range(steps):
            at = _find(stages, at, middle + off)
            found.append(stages[at])
            middle, off = middle + step, -off
        return found


def _find(stages: tuple[Stage, ...], at: int, progress: float) -> int:
    """The phase that this progress is in, looked for from the one at `at`."""
    last = len(stages) - 1
    while at < last and stages[at].end <= progress:
        at += 1
    while at and stages[at - 1].end > progress:
        at -= 1
    return at


def _sample(pieces: list[Piece], bodies: list[_Body], share: float, number: int) -> None:
    """Adds a slice in equal pieces, as many as its share of `STEPS`; the first body is the batch whose life it is.

    Each piece is taken as it is in its middle, and those that are alike are one.
    """
    steps = max(2, math.ceil(share * STEPS)) if any([body.changes for body in bodies]) else 1  # noqa: C419
    if steps == 1:
        own, *others = [body.over(1)[0] for body in bodies]
        pieces.append(Piece(share, own, tuple(others), number))
        return
    step = share / steps
    found: dict[tuple[Stage, ...], float] = {}
    for key in zip(*[body.over(steps) for body in bodies], strict=True):
        found[key] = found.get(key, 0.0) + step
    for key, lasts in found.items():
        pieces.append(Piece(lasts, key[0], key[1:], number))
