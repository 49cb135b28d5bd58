"""The contract's rule for estimates: how fast a batch progresses beside any set of others.

`predictor.proto` states the formula (`ClassEstimate`); this is the one implementation, used by the scheduler to
decide and by the predictor to answer. It is pure, and uses only + - * / on floats in a fixed order, so two machines
get the same bits.
"""

from collections.abc import Iterable, Sequence

import msgspec

_MEMO_LIMIT = 65536  # bounds memory; reached only by absurd numbers of classes
MIN_RATE = 0.02  # no batch is predicted to be slowed more than fiftyfold: rates must stay positive


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
    """Added to the loss for each co-runner of this class."""

    co_runner: BatchClass
    loss: float


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
    """Phi of a batch of `demand` beside co-runners whose demands sum to `pressure`; both of K values, phi of 1 + 2K.

    The last K are what a batch that needs one resource alone loses when all get their proportional share of it:
    at a total demand of t > 1 it runs at 1/t.
    """
    saturation = [1.0 - 1.0 / max(1.0, own + others) for own, others in zip(demand, pressure, strict=True)]
    return [1.0 if co_runner_count else 0.0, *pressure, *saturation]


class EstimateTable:
    """Everything believed of one device. Look-ups are memoised until the next change."""

    def __init__(self) -> None:
        self.classes: dict[BatchClass, ClassEstimate] = {}
        self.sets: dict[tuple[BatchClass, tuple[BatchClass, ...]], SetEstimate] = {}
        self._rates: dict[tuple[BatchClass, tuple[BatchClass, ...]], float] = {}
        self._set_rates: dict[tuple[BatchClass, ...], tuple[float, ...]] = {}

    def update(self, classes: Iterable[ClassEstimate], sets: Iterable[SetEstimate], *, complete: bool) -> None:
        """Merges what is new, or replaces everything if `complete`."""
        if complete:
            self.classes.clear()
            self.sets.clear()
        self.classes.update((estimate.batch_class, estimate) for estimate in classes)
        self.sets.update(((s.batch_class, tuple(sorted(s.co_runners))), s) for s in sets)
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
        key = (victim, tuple(sorted(co_runners)))
        rate = self._rates.get(key)
        if rate is None:
            if len(self._rates) >= _MEMO_LIMIT:
                self._rates.clear()
            rate = self._rates[key] = self._evaluate(*key)
        return rate

    def _evaluate(self, victim: BatchClass, co_runners: tuple[BatchClass, ...]) -> float:
        if explicit := self.sets.get((victim, co_runners)):
            return max(MIN_RATE, 1.0 / max(1.0, explicit.slowdown))
        own = self.classes.get(victim)
        if own is not None and own.sensitivity:
            return self._from_vectors(own, co_runners)
        # Only pairs are known, or nothing: multiply, which is on the safe side (three batches that share one
        # resource fairly slow each other threefold; the product of the pairs says four). An unknown pair counts 2.
        slowdown = 1.0
        for other in co_runners:
            pair = self.sets.get((victim, (other,)))
            slowdown *= max(1.0, pair.slowdown) if pair else 2.0
        return max(MIN_RATE, 1.0 / slowdown)

    def _from_vectors(self, own: ClassEstimate, co_runners: tuple[BatchClass, ...]) -> float:
        pressure = [0.0] * len(own.demand)
        for other in co_runners:
            estimate = self.classes.get(other)
            demand = estimate.demand if estimate and estimate.demand else ()
            for k in range(len(pressure)):
                pressure[k] += demand[k] if k < len(demand) else (0.0 if demand else 1.0)
        loss = 0.0
        for weight, value in zip(own.sensitivity, features(own.demand, pressure, len(co_runners)), strict=False):
            loss += weight * value
        for correction in own.corrections:
            loss += correction.loss * co_runners.count(correction.co_runner)
        return min(1.0, max(MIN_RATE, 1.0 - loss))


def factor_at(quantiles: Sequence[QuantileFactor], level: float, co_runner_count: int, *, default: float) -> float:
    """The factor for a level and number of co-runners; `default` where none is told.

    Among entries of at least `level` and at most `co_runner_count`, the one nearest in number, then in level.
    """
    fitting = [q for q in quantiles if q.level >= level and q.co_runner_count <= co_runner_count]
    return min(fitting, key=lambda q: (-q.co_runner_count, q.level)).factor if fitting else default
