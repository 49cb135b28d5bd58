"""The contract's rule for estimates: how fast a batch progresses beside any set of others.

`predictor.proto` states the formula (`ClassEstimate`); this is the one implementation, used by the scheduler to
decide and by the predictor to answer. It is pure, and uses only + - * / on floats in a fixed order, so two machines
get the same bits.
"""

from bisect import insort
from collections.abc import Iterable, Sequence

import msgspec

_MEMO_LIMIT = 65536  # bounds memory; reached only by absurd numbers of classes
MAX_SLOWDOWN = 50.0  # no batch is predicted to be slowed more: rates must stay positive
MIN_RATE = 1.0 / MAX_SLOWDOWN


class BatchClass(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """The unit of prediction: model, version, number of items, and the bucket lengths were padded to."""

    model: str
    version: str
    batch_size: int
    shape_bucket: str = ""

    def __str__(self) -> str:
        bucket = f"@{self.shape_bucket}" if self.shape_bucket else ""
        return f"{self.model}:{self.version}{bucket} x{self.batch_size}"


class QuantileFactor(msgspec.Struct, frozen=True):
    """The bound at `level` is the forecast times `factor` (>= 1), beside `co_runner_count` others or more."""

    level: float
    factor: float
    co_runner_count: int = 0


class PairCorrection(msgspec.Struct, frozen=True):
    """Added to the delay for each co-runner of this class."""

    co_runner: BatchClass
    delay: float


class ClassEstimate(msgspec.Struct, frozen=True):
    """What is believed of one class on one device; see `ClassEstimate` in predictor.proto for the meaning."""

    batch_class: BatchClass
    work_ns: int
    demand: tuple[float, ...] = ()
    sensitivity: tuple[float, ...] = ()
    corrections: tuple[PairCorrection, ...] = ()
    quantiles: tuple[QuantileFactor, ...] = ()
    sample_count: int = 0
    basis: int = 0


class SetEstimate(msgspec.Struct, frozen=True):
    """The slowdown of one class beside given others, told explicitly; it wins over the vectors."""

    batch_class: BatchClass
    co_runners: tuple[BatchClass, ...]
    slowdown: float
    quantiles: tuple[QuantileFactor, ...] = ()
    sample_count: int = 0


def features(demand: Sequence[float], pressure: Sequence[float], co_runner_count: int) -> list[float]:
    """Phi of a batch of `demand` beside co-runners whose demands sum to `pressure`; both of K values, phi of 1 + 4K.

    Overload is by how much a batch that needs one resource alone is slowed when all get their proportional share of
    it: at a total demand of t > 1 it takes t times as long. Demands are means over a batch's life, so pressure and
    overload are felt in proportion to how much of its own life a batch needs the resource: hence both once more,
    times its own demand.
    """
    overload = [max(0.0, own + others - 1.0) for own, others in zip(demand, pressure, strict=True)]
    felt = [own * others for own, others in zip(demand, pressure, strict=True)]
    starved = [own * over for own, over in zip(demand, overload, strict=True)]
    return [1.0 if co_runner_count else 0.0, *pressure, *overload, *felt, *starved]


def feature_count(resources: int) -> int:
    """Values of phi for so many resources."""
    return 1 + 4 * resources


class EstimateTable:
    """Everything believed of one device. Look-ups are memoised until the next change."""

    def __init__(self) -> None:
        self.classes: dict[BatchClass, ClassEstimate] = {}
        self.sets: dict[tuple[BatchClass, tuple[BatchClass, ...]], SetEstimate] = {}
        self._vectors: dict[BatchClass, _Vectors] = {}
        self._sizes: dict[tuple[str, str, str], list[int]] = {}  # by model, version and bucket: what is known of it
        self._stand_ins: dict[BatchClass, _Vectors | None] = {}  # of classes that are not known
        self._rates: dict[tuple[BatchClass, tuple[BatchClass, ...]], float] = {}
        self._set_rates: dict[tuple[BatchClass, ...], tuple[float, ...]] = {}

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
        self._stand_ins.clear()
        self._rates.clear()
        self._set_rates.clear()

    def set_rates(self, classes: tuple[BatchClass, ...]) -> tuple[float, ...]:
        """Progress rate of each of `classes` while all of them run together."""
        rates = self._set_rates.get(classes)
        if rates is None:
            if len(self._set_rates) >= _MEMO_LIMIT:
                self._set_rates.clear()
            rates = self._set_rates[classes] = tuple(
                self.progress_rate(victim, classes[:i] + classes[i + 1 :]) for i, victim in enumerate(classes)
            )
        return rates

    def progress_rate(self, victim: BatchClass, co_runners: Sequence[BatchClass]) -> float:
        """Solo progress per unit of time, in [MIN_RATE, 1], of `victim` while `co_runners` run beside it."""
        if not co_runners:
            return 1.0
        key = (victim, tuple(sorted(co_runners)) if len(co_runners) > 1 else tuple(co_runners))
        rate = self._rates.get(key)
        if rate is None:
            if len(self._rates) >= _MEMO_LIMIT:
                self._rates.clear()
            rate = self._rates[key] = self._evaluate(*key)
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

    def _evaluate(self, victim: BatchClass, co_runners: tuple[BatchClass, ...]) -> float:
        if explicit := self.sets.get((victim, co_runners)):
            return max(MIN_RATE, 1.0 / max(1.0, explicit.slowdown))
        own = self._vectors_of(victim)
        if own is not None and own.sensitivity:
            return self._from_vectors(own, co_runners)
        # Only pairs are known, or nothing: multiply, which is on the safe side (three batches that share one
        # resource fairly slow each other threefold; the product of the pairs says four). An unknown pair counts 2.
        slowdown = 1.0
        for other in co_runners:
            pair = self.sets.get((victim, (other,)))
            slowdown *= max(1.0, pair.slowdown) if pair else 2.0
        return max(MIN_RATE, 1.0 / slowdown)

    def _vectors_of(self, batch_class: BatchClass) -> "_Vectors | None":
        """A class's own vectors, or those of the nearest batch size of its model (of two, the larger)."""
        own = self._vectors.get(batch_class)
        if own is not None:
            return own
        if batch_class in self._stand_ins:
            return self._stand_ins[batch_class]
        if len(self._stand_ins) >= _MEMO_LIMIT:
            self._stand_ins.clear()
        model, version, bucket = batch_class.model, batch_class.version, batch_class.shape_bucket
        sizes = self._sizes.get((model, version, bucket), [])
        nearest = min(sizes, key=lambda size: (abs(size - batch_class.batch_size), -size), default=None)
        found = None if nearest is None else self._vectors[BatchClass(model, version, nearest, bucket)]
        self._stand_ins[batch_class] = found
        return found

    def _from_vectors(self, own: "_Vectors", co_runners: tuple[BatchClass, ...]) -> float:
        """`features` and their product with the sensitivity in one go, for decisions wait for it."""
        weights, resources = own.sensitivity, len(own.demand)
        unknown = (1.0,) * resources
        theirs = [known.demand or unknown if (known := self._vectors_of(c)) else unknown for c in co_runners]
        delay = weights[0]
        for k, mine in enumerate(own.demand):
            pressure = 0.0
            for demand in theirs:
                pressure += demand[k] if k < len(demand) else 0.0
            delay += (weights[1 + k] + weights[1 + 2 * resources + k] * mine) * pressure
            if (overload := mine + pressure - 1.0) > 0.0:
                delay += (weights[1 + resources + k] + weights[1 + 3 * resources + k] * mine) * overload
        if own.corrections:
            for other in co_runners:
                delay += own.corrections.get(other, 0.0)
        return 1.0 / min(MAX_SLOWDOWN, max(1.0, 1.0 + delay))


class _Vectors:
    """A class's vectors, made ready for evaluation."""

    __slots__ = ("corrections", "demand", "sensitivity")

    def __init__(self, estimate: ClassEstimate) -> None:
        self.demand = estimate.demand
        missing = feature_count(len(estimate.demand)) - len(estimate.sensitivity)
        self.sensitivity = (*estimate.sensitivity, *([0.0] * missing)) if estimate.sensitivity else ()
        self.corrections = {c.co_runner: c.delay for c in estimate.corrections}


def factor_at(quantiles: Sequence[QuantileFactor], level: float, co_runner_count: int, *, default: float) -> float:
    """The factor for a level and number of co-runners; `default` where none is told.

    Among entries of at least `level` and at most `co_runner_count`, the one nearest in number, then in level.
    """
    fitting = [q for q in quantiles if q.level >= level and q.co_runner_count <= co_runner_count]
    return min(fitting, key=lambda q: (-q.co_runner_count, q.level)).factor if fitting else default
