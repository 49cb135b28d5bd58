"""The contract's rule for estimates: how fast a batch progresses beside any set of others.

`predictor.proto` states the formula (`ClassEstimate`); this is the one implementation, used by the scheduler to
decide and by the predictor to answer. It is pure, and uses only + - * / on floats in a fixed order, so two machines
get the same bits.
"""

from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import msgspec

from cotenant.runtime.sharing import ENOUGH, FULL, blocks, fair_level, fair_weights, feature_count, waits

_MEMO_LIMIT = 65536  # bounds memory; reached only by absurd numbers of classes
MAX_SLOWDOWN = 50.0  # no batch is predicted to be slowed more: rates must stay positive
MIN_RATE = 1.0 / MAX_SLOWDOWN


class BatchClass(msgspec.Struct, frozen=True, order=True, cache_hash=True, gc=False):
    """The unit of prediction: model, version, number of items, and the bucket lengths were padded to."""

    model: str
    version: str
    batch_size: int
    shape_bucket: str = ""

    def __str__(self) -> str:
        bucket = f"@{self.shape_bucket}" if self.shape_bucket else ""
        return f"{self.model}:{self.version}{bucket} x{self.batch_size}"


class QuantileFactor(msgspec.Struct, frozen=True, gc=False):
    """The bound at `level` is the forecast times `factor` (>= 1), beside `co_runner_count` others or more."""

    level: float
    factor: float
    co_runner_count: int = 0


class Phase(msgspec.Struct, frozen=True, gc=False):
    """A part of a batch's life: up to which share of its work, what it demands meanwhile, and of what grain it is."""

    end: float  # in (0, 1], ascending; the last is 1
    demand: tuple[float, ...]
    kernel_ns: float = 0.0  # mean duration of its kernels; 0 if unknown


def sound_phases(phases: Sequence[Phase], resources: int) -> bool:
    """Whether they go on in order to the end of the work, and all demand something of so many resources."""
    ends = [phase.end for phase in phases]
    return (
        all(before < after for before, after in pairwise((0.0, *ends)))
        and (not ends or ends[-1] == 1.0)
        and all(len(p.demand) == resources and all(0.0 <= d < 1e6 for d in p.demand) for p in phases)
        and all(0.0 <= p.kernel_ns < 1e15 for p in phases)
    )


class PairCorrection(msgspec.Struct, frozen=True, gc=False):
    """Added to the delay for each co-runner of this class."""

    co_runner: BatchClass
    delay: float


class ClassEstimate(msgspec.Struct, frozen=True, gc=False):
    """What is believed of one class on one device; see `ClassEstimate` in predictor.proto for the meaning."""

    batch_class: BatchClass
    work_ns: int
    demand: tuple[float, ...] = ()
    sensitivity: tuple[float, ...] = ()
    corrections: tuple[PairCorrection, ...] = ()
    quantiles: tuple[QuantileFactor, ...] = ()
    sample_count: int = 0
    basis: int = 0
    kernel_ns: float = 0.0  # mean duration of its kernels; 0 if unknown
    phases: tuple[Phase, ...] = ()  # empty: it is the same all along


class SetEstimate(msgspec.Struct, frozen=True, gc=False):
    """The slowdown of one class beside given others, told explicitly; it wins over the vectors."""

    batch_class: BatchClass
    co_runners: tuple[BatchClass, ...]
    slowdown: float
    quantiles: tuple[QuantileFactor, ...] = ()
    sample_count: int = 0


_NOBODY: Mapping[BatchClass, float] = {}


class Stage:
    """A phase of a class, ready for evaluation; a class without phases has one.

    `terms` has for each resource its own demand, what a unit of the others' pressure delays it, and what lacking its
    fair share does.
    """

    __slots__ = (
        *("ahead_ns", "batch_class", "blocked", "corrections", "demand", "end", "kernel_ns", "presence", "rest"),
        *("terms", "vectors", "waiting"),
    )

    def __init__(self, batch_class: BatchClass, phase: Phase, vectors: "_Vectors | None") -> None:
        self.batch_class, self.vectors = batch_class, vectors
        self.rest = 1.0 - phase.end  # of the work, that is done after it
        self.end, self.demand, self.kernel_ns = phase.end, phase.demand, phase.kernel_ns
        self.ahead_ns = phase.demand[0] * phase.kernel_ns if phase.demand else 0.0
        self.terms: tuple[tuple[float, float, float], ...] = ()
        self.presence = vectors.sensitivity[0] if vectors is not None and vectors.sensitivity else 0.0
        self.corrections = vectors.corrections if vectors is not None else _NOBODY
        self.waiting = self.blocked = 0.0  # weights of `waits` and `blocks`; 0 where durations are not known
        if vectors is not None and vectors.sensitivity:
            weights, k = vectors.sensitivity, len(phase.demand)
            self.terms = tuple(
                [
                    (own, weights[1 + i] + weights[1 + 2 * k + i] * own, weights[1 + k + i])
                    for i, own in enumerate(phase.demand)
                ]
            )
            if phase.kernel_ns > 0.0:
                self.waiting, self.blocked = weights[1 + 3 * k], weights[2 + 3 * k]


_UNKNOWN = Phase(1.0, ())


class EstimateTable:
    """Everything believed of one device. Look-ups are memoised until the next change."""

    def __init__(self) -> None:
        self.revision = 0  # counts changes
        self.classes: dict[BatchClass, ClassEstimate] = {}
        self.sets: dict[tuple[BatchClass, tuple[BatchClass, ...]], SetEstimate] = {}
        self._vectors: dict[BatchClass, _Vectors] = {}
        self._sizes: dict[tuple[str, str, str], list[int]] = {}  # by model, version and bucket: what is known of it
        self._assumed: dict[tuple[str, str, str], dict[int, _Vectors]] = {}  # of those nobody told of, by batch size
        self._stages: dict[BatchClass, tuple[Stage, ...]] = {}
        self._whole: dict[BatchClass, Stage] = {}  # means over all phases
        self._rates: dict[tuple[BatchClass, tuple[BatchClass, ...]], float] = {}
        self._set_rates: dict[tuple[Stage, ...], tuple[float, ...]] = {}

    def update(self, classes: Iterable[ClassEstimate], sets: Iterable[SetEstimate], *, complete: bool) -> None:
        """Merges what is new, or replaces everything if `complete`."""
        if complete:
            self.classes.clear()
            self.sets.clear()
            self._vectors.clear()
            self._sizes.clear()
        for estimate in classes:
            known = estimate.batch_class
            if known not in self.classes:
                insort(self._sizes.setdefault((known.model, known.version, known.shape_bucket), []), known.batch_size)
            self.classes[known] = estimate
            self._vectors[known] = _Vectors(estimate)
        self.sets.update(((s.batch_class, tuple(sorted(s.co_runners))), s) for s in sets)
        self._changed()

    def assume(
        self, batch_class: BatchClass, demand: tuple[float, ...], kernel_ns: float, phases: Sequence[Phase]
    ) -> None:
        """Of a class nobody has told of: what follows from its resource profile where batches share fairly.

        What is told of its model, of whatever batch size, wins.
        """
        weights = fair_weights(len(demand))
        estimate = ClassEstimate(batch_class, 0, demand, weights, kernel_ns=kernel_ns, phases=tuple(phases))
        sizes = self._assumed.setdefault((batch_class.model, batch_class.version, batch_class.shape_bucket), {})
        sizes[batch_class.batch_size] = _Vectors(estimate)
        self._changed()

    def assume_nothing(self, model: str = "", version: str = "") -> None:
        """Takes that back, for a version of a model or for all."""
        for key in [key for key in self._assumed if not model or key[:2] == (model, version)]:
            del self._assumed[key]
        self._changed()

    def _changed(self) -> None:
        self.revision += 1
        for memo in (self._stages, self._whole, self._rates, self._set_rates):
            memo.clear()

    def stages(self, batch_class: BatchClass) -> tuple[Stage, ...]:
        """The phases of a class in order, or of the nearest batch size of its model; at least one."""
        found = self._stages.get(batch_class)
        if found is None:
            _make_room(self._stages)
            vectors = self._vectors_of(batch_class)
            phases = vectors.phases if vectors else (_UNKNOWN,)
            found = self._stages[batch_class] = tuple([Stage(batch_class, phase, vectors) for phase in phases])
        return found

    def rates(self, stages: tuple[Stage, ...]) -> tuple[float, ...]:
        """Progress rate of each batch while all of these run together, each in its phase."""
        rates = self._set_rates.get(stages)
        if rates is None:
            _make_room(self._set_rates)
            rates = self._set_rates[stages] = self._rates_of(stages)
        return rates

    def _rates_of(self, stages: tuple[Stage, ...]) -> tuple[float, ...]:
        """What all demand is added up once where everybody's demands are told; decisions wait for this."""
        if len(stages) == 1:
            return (1.0,)
        resources = len(stages[0].terms)
        if self.sets or not resources or any([len(one.terms) != resources for one in stages]):  # noqa: C419
            return tuple([self.rate(own, stages[:i] + stages[i + 1 :]) for i, own in enumerate(stages)])
        totals, levels = _shared([one.demand for one in stages])
        return tuple(_rates(stages, totals, levels, sum([one.ahead_ns for one in stages]), stages, 0))

    def progress_rate(self, victim: BatchClass, co_runners: Sequence[BatchClass]) -> float:
        """Solo progress per unit of time, in [MIN_RATE, 1], of `victim` while `co_runners` run beside it.

        Each is taken as what it is on average over its phases.
        """
        if not co_runners:
            return 1.0
        key = (victim, tuple(sorted(co_runners)) if len(co_runners) > 1 else tuple(co_runners))
        rate = self._rates.get(key)
        if rate is None:
            _make_room(self._rates)
            rate = self._rates[key] = self.rate(self.mean(victim), tuple(map(self.mean, key[1])))
        return rate

    def set_factor(self, victim: BatchClass, co_runners: Sequence[BatchClass], level: float) -> float:
        """What a forecast is multiplied by, as told explicitly for this set; 0 where that is not told.

        Where only pairs are told, each with a bound, it is the largest of theirs.
        """
        if not co_runners or not self.sets:
            return 0.0
        explicit = self.sets.get((victim, tuple(sorted(co_runners))))
        told = [explicit] if explicit else [self.sets.get((victim, (other,))) for other in set(co_runners)]
        factors = [factor_at(one.quantiles, level, len(co_runners), default=0.0) if one else 0.0 for one in told]
        return max(factors) if all(factors) else 0.0

    def mean(self, batch_class: BatchClass) -> Stage:
        """A class as it is on average."""
        found = self._whole.get(batch_class)
        if found is None:
            _make_room(self._whole)
            stages = self.stages(batch_class)
            found = stages[0]
            if len(stages) > 1 and (vectors := self._vectors_of(batch_class)):
                found = Stage(batch_class, vectors.whole, vectors)
            self._whole[batch_class] = found
        return found

    def rate(self, own: Stage, others: tuple[Stage, ...]) -> float:
        """Progress rate of a batch beside others, each in its phase; not memoised."""
        if not others:
            return 1.0
        victim = own.batch_class
        if self.sets:
            explicit = self.sets.get((victim, tuple(sorted([other.batch_class for other in others]))))
            if explicit:
                return max(MIN_RATE, 1.0 / max(1.0, explicit.slowdown))
        if own.vectors is not None and own.vectors.sensitivity and not self._paired(own, others):
            unknown = (1.0,) * len(own.demand)
            missing = (0.0,) * len(own.demand)
            told = [((other.demand or unknown) + missing)[: len(missing)] for other in others]
            totals, levels = _shared([own.demand, *told])
            ahead_ns = own.ahead_ns + sum([other.ahead_ns for other in others])
            return _rates((own,), totals, levels, ahead_ns, others, len(others))[0]
        # Only pairs are known, or nothing: multiply, which is on the safe side (three batches that share one
        # resource fairly slow each other threefold; the product of the pairs says four). An unknown pair counts 2.
        slowdown = 1.0
        for other in others:
            pair = self.sets.get((victim, (other.batch_class,)))
            slowdown *= max(1.0, pair.slowdown) if pair else 2.0
        return max(MIN_RATE, 1.0 / slowdown)

    def _paired(self, own: Stage, others: tuple[Stage, ...]) -> bool:
        """Whether pairs are told of a class of which nothing else is, so that they win over what is assumed of it."""
        if not self.sets or own.batch_class in self.classes or own.vectors is not self._assumption(own.batch_class):
            return False
        return any((own.batch_class, (other.batch_class,)) in self.sets for other in others)

    def _vectors_of(self, batch_class: BatchClass) -> "_Vectors | None":
        """A class's own vectors, or those of the nearest batch size of its model (of two, the larger).

        What was told comes before what is assumed.
        """
        own = self._vectors.get(batch_class)
        if own is not None:
            return own
        model, version, bucket = batch_class.model, batch_class.version, batch_class.shape_bucket
        told = self._sizes.get((model, version, bucket))
        if not told:
            return self._assumption(batch_class)
        return self._vectors[BatchClass(model, version, _nearest(told, batch_class.batch_size), bucket)]

    def _assumption(self, batch_class: BatchClass) -> "_Vectors | None":
        assumed = self._assumed.get((batch_class.model, batch_class.version, batch_class.shape_bucket))
        return assumed[_nearest(assumed, batch_class.batch_size)] if assumed else None


def _nearest(sizes: Iterable[int], size: int) -> int:
    return min(sizes, key=lambda known: (abs(known - size), -known))


def _make_room(memo: dict[Any, Any]) -> None:
    if len(memo) >= _MEMO_LIMIT:
        memo.clear()


def _shared(demands: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """What all demand of each resource, and the level up to which each gets it."""
    totals: list[float] = []
    levels: list[float] = []
    for each in zip(*demands, strict=True):
        total = sum(each)
        totals.append(total)
        levels.append(ENOUGH if total <= 1.0 else fair_level(each))
    return totals, levels


def _rates(
    owns: Sequence[Stage],
    totals: Sequence[float],
    levels: Sequence[float],
    ahead_ns: float,
    beside: Sequence[Stage],
    at: int,
) -> list[float]:
    """`features` and their product with the sensitivity in one go, for several: decisions wait for this.

    `totals`, `levels` (see `_shared`) and `ahead_ns` include each itself; of those beside them, the one in its place is
    left out, the first in the place `at`.
    """
    found: list[float] = []
    for place, own in enumerate(owns, at):
        delay = own.presence
        k = 0
        for mine, pressed, short in own.terms:
            delay += pressed * (totals[k] - mine)
            if mine > (level := levels[k]):
                delay += short * (mine / level - 1.0)
            k += 1
        kernel_ns = own.kernel_ns
        if kernel_ns > 0.0 and k and totals[0] > 1.0:
            mine = own.demand[0]
            others, waited_ns = totals[0] - mine, ahead_ns - own.ahead_ns
            delay += own.waiting * waits(mine, others, kernel_ns, waited_ns)
            if others > FULL and own.blocked:
                delay += own.blocked * blocks(mine, others, kernel_ns, waited_ns)
        if own.corrections:
            for i, other in enumerate(beside):
                if i != place:
                    delay += own.corrections.get(other.batch_class, 0.0)
        slowdown = 1.0 + delay
        found.append(1.0 if slowdown <= 1.0 else 1.0 / slowdown if slowdown < MAX_SLOWDOWN else MIN_RATE)
    return found


class _Vectors:
    """A class's vectors, made ready for evaluation."""

    __slots__ = ("corrections", "phases", "sensitivity", "whole")

    def __init__(self, estimate: ClassEstimate) -> None:
        missing = feature_count(len(estimate.demand)) - len(estimate.sensitivity)
        self.sensitivity = (*estimate.sensitivity, *([0.0] * missing)) if estimate.sensitivity else ()
        self.corrections = {c.co_runner: c.delay for c in estimate.corrections}
        self.whole = Phase(1.0, estimate.demand, estimate.kernel_ns)
        self.phases = estimate.phases or (self.whole,)


def factor_at(quantiles: Sequence[QuantileFactor], level: float, co_runner_count: int, *, default: float) -> float:
    """The factor for a level and number of co-runners; `default` where none is told.

    Among entries of at least `level` and at most `co_runner_count`, the one nearest in number, then in level.
    """
    fitting = [q for q in quantiles if q.level >= level and q.co_runner_count <= co_runner_count]
    return min(fitting, key=lambda q: (-q.co_runner_count, q.level)).factor if fitting else default
