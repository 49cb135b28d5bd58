"""Our learner: slowdowns of a fluid model, learned online from whole batches that met changing neighbours.

Theory. While others run beside it, a batch progresses at the rate 1 / (1 + w·phi) of its solo speed: resources that
are shared in proportion to what is asked of them delay everybody in proportion to the excess, and what waits for the
kernels of others waits for all of them, so it is delays that add up, not losses of speed. A batch that needs `work`
ends when the integral of its rate reaches its work, however often its neighbours, or anybody's phase, changed:

    work · pace  =  sum over its slices of duration / (1 + w·phi(slice))

One equation per finished batch, exact for batches that met many neighbours. It is learned in logarithms,

    log(elapsed / work)  =  log pace + kappa - log(sum over slices of share / (1 + w·phi))

with share = duration / elapsed, because execution times are off by factors, early or late alike: the noise then stands
on one side alone, whereas an equation divided by work or by elapsed has it on both, and bends what is learned. An
extended Kalman filter takes each equation, its beliefs kept in blocks that share one innovation (what correlates across
blocks is dropped):

- `shared`: weights of all classes of the device; their prior says that batches share each resource in proportion.
- a *deviation* of each class from those weights, and `kappa`, by how much its solo time differs from what is believed.
- *pairs*: what a certain neighbour costs a class beyond its demand, shrunk to zero.
- *demand* of a class that came without a resource profile: what its neighbours suffer tells what it asks for.
- `pace`: what slows all classes of the device alike: a lower clock, a process nobody told us of.

A class that was never measured starts from its siblings of other batch sizes, a model that was never seen from the
shared weights and its resource profile. When a drift detector says that a class's errors have changed, its beliefs are
opened to new evidence again.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from zlib import crc32

import msgspec
import numpy as np

from cotenant.predictor.class_state import ClassState, KeptClass
from cotenant.predictor.gaussian import Belief, Vector
from cotenant.predictor.learner import BASIS_OBSERVED, BASIS_PRIOR, BASIS_PROFILE
from cotenant.predictor.observations import Observation, Profile
from cotenant.predictor.pace import Pace
from cotenant.predictor.rates import Piece, RateLearner
from cotenant.predictor.siblings import between
from cotenant.runtime.estimates import (
    MAX_SLOWDOWN,
    BatchClass,
    ClassEstimate,
    PairCorrection,
    Phase,
    Stage,
)
from cotenant.runtime.sharing import fair_weights, feature_count, features

# Standard deviations of what may be believed before anything is seen: weights, and logarithms of times.
SHARED_SPREAD, CLASS_SPREAD, PAIR_SPREAD = 0.6, 0.4, 0.1
BLOCKED_SPREAD = 0.03  # of a class's own weight of being blocked: who keeps processors is the device's affair
DEMAND_START, DEMAND_JITTER, DEMAND_SPREAD = 0.5, 0.15, 0.4  # where there is no profile, by resource
WORK_SPREAD, CHANGED_SPREAD, UNMEASURED_SPREAD = 0.03, 0.2, 0.4
# a²: a belief not excited for 1/(1 - a²) batches has returned to its prior.
SHARED_MEMORY, CLASS_MEMORY = 0.9999, 0.9998
# Noise of log(elapsed), as a variance: its floor, and how fast it follows what is seen.
NOISE_FLOOR, NOISE_STEP = 0.004**2, 0.02
OUTLIER = 3.0  # standard deviations beyond which an error counts no more than this
UNHEEDED = 0.03  # of the weight of being blocked
MAX_PAIRS = 32  # per class; the pair not met for longest goes first
MAX_MET = 4096  # co-locations whose features are kept
MAX_STRANGERS = 4096  # classes not known whose guesses are kept
# All classes are told again when what they share has moved so far: slowdowns, root mean square over what batches met of
# late, and the logarithm of times.
RETELL_SLOWDOWN, RETELL_TIME = 0.01, 0.01
MET_STEP, MET_STRIDE = 0.04, 4  # weight of a batch in "of late", for which every fourth is looked at


def shared_prior(resources: int) -> Vector:
    """What was never short while learning keeps this weight, and is met when more batches run at once."""
    weights: Vector = np.array(fair_weights(resources))
    return weights


class _KeptDevice(msgspec.Struct):
    mean: list[float]
    covariance: list[list[float]]
    pace: list[list[float]]


class Fluid(RateLearner):
    """See the module's text, and `Learner`."""

    def __init__(self, resources: int) -> None:
        super().__init__()
        self._resources = resources
        self._count = feature_count(resources)
        self.shared = Belief(shared_prior(resources), np.full(self._count, SHARED_SPREAD), SHARED_MEMORY)
        self.pace = Pace()
        self.states: dict[BatchClass, ClassState] = {}
        self._models: dict[tuple[str, str, str], dict[int, ClassState]] = {}  # by model, version, bucket: batch sizes
        self._strangers: dict[BatchClass, ClassState] = {}  # what is guessed of classes that are not known
        self._met: dict[tuple[Stage, tuple[Stage, ...]], Vector] = {}  # phi
        self._dirty: dict[BatchClass, None] = {}
        self._told = (self.shared.mean.copy(), 0.0)
        self._usual = np.zeros((self._count, self._count))  # mean of phi phi' over what batches met of late
        self._since_usual = MET_STRIDE - 1

    @property
    def classes(self) -> Collection[BatchClass]:
        """See `Learner.classes`."""
        return self.states.keys()

    # ---- learning

    def learn_profile(self, profile: Profile) -> None:
        """See `Learner.learn_profile`."""
        state = self._state(profile.batch_class)
        # A measurement now is made at the pace of now.
        state.work_ns, state.profiled = profile.work_ns / math.exp(self.pace.log), True
        state.belief.measured(-1, WORK_SPREAD)
        if profile.demand:
            fits = len(profile.demand) == self._resources
            demand = (*profile.demand, *([0.0] * self._resources))[: self._resources]
            state.tell(demand, profile.kernel_ns, profile.phases if fits else ())
            state.unsure = None
        self._strangers.clear()
        self._dirty[profile.batch_class] = None

    def learn_batch(self, seen: Observation) -> None:
        """See `Learner.learn_batch`."""
        state = self._state(seen.batch_class)
        rate, slope, pulls, asked = self._integrate(state, self.trace(seen.batch_class, seen.slices))
        beside = bool(pulls)
        if state.work_ns <= 0.0:  # never measured: what its neighbours should have cost tells
            state.work_ns = seen.duration_ns * rate / math.exp(self.pace.log)
        error = math.log(seen.duration_ns * rate / state.work_ns) - self.pace.log

        own_slope = np.ones(self._count + 1)
        own_slope[:-1] = slope
        if beside:  # who ran alone tells nothing of what is shared, and lets nothing be forgotten
            self.shared.pass_time()
        state.belief.pass_time()
        shared_gain, own_gain = self.shared.covariance @ slope, state.belief.covariance @ own_slope
        pairs = [(other, pull, *state.pairs.pop(other, (0.0, PAIR_SPREAD**2))) for other, pull in pulls.items()]
        spread = state.noise[beside] + float(slope @ shared_gain) + float(own_slope @ own_gain)
        spread += sum(pull * pull * variance for _, pull, _, variance in pairs) + self.pace.variance
        spread += sum(float((known.unsure * pull) @ pull) for known, pull in asked.values() if known.unsure is not None)
        limit = OUTLIER * math.sqrt(spread)
        bounded = max(-limit, min(limit, error))

        if beside:
            self.shared.take(shared_gain, spread, bounded)
            self._since_usual += 1
            if self._since_usual == MET_STRIDE:
                self._since_usual = 0
                self._usual += MET_STEP * (np.multiply.outer(slope, slope) - self._usual)
        state.belief.take(own_gain, spread, bounded)
        state.work_ns *= math.exp(float(state.belief.mean[-1]))
        state.belief.mean[-1] = 0.0
        for other, pull, mean, variance in pairs:
            gain = variance * pull / spread
            state.pairs[other] = (mean + gain * bounded, variance * (1.0 - gain * pull))
        while len(state.pairs) > MAX_PAIRS:
            del state.pairs[next(iter(state.pairs))]
        self._learn_demands(asked, bounded / spread, spread)
        self._follow(state, seen.batch_class, error, spread, beside=beside)

    def expect_pace(self, ratio: float | None) -> None:
        """See `FollowsPace.expect_pace`."""
        self.pace.expect(ratio)

    def _integrate(
        self, state: ClassState, pieces: Sequence[Piece]
    ) -> tuple[float, Vector, dict[BatchClass, float], dict[BatchClass, tuple[ClassState, Vector]]]:
        """Mean rate over a batch's life, and by how much the log of 1 / rate grows with what is believed.

        That is with each weight, with each pair, and with the demand of each neighbour that was never measured.
        """
        met = [piece for piece in pieces if piece.others]
        alone = sum([piece.share for piece in pieces if not piece.others])
        if not met:
            return alone, np.zeros(self._count), {}, {}
        weights = self._weights(state)
        rows = np.array([self._features(piece.own, piece.others) for piece in met])
        delays = rows @ weights
        beside = {piece.part: piece.others for piece in met}
        if state.pairs:
            costs = {part: self._pairs(state, others) for part, others in beside.items()}
            delays += [costs[piece.part] for piece in met]
        slowdowns = np.minimum(np.maximum(1.0 + delays, 1.0), MAX_SLOWDOWN)
        rates = np.array([piece.share for piece in met]) / slowdowns
        rate = alone + float(rates.sum())
        pull = rates / (slowdowns * rate)
        parts: dict[int, float] = {}
        for piece, each in zip(met, pull.tolist(), strict=True):
            parts[piece.part] = parts.get(piece.part, 0.0) + each
        pulls: dict[BatchClass, float] = {}
        for part, others in beside.items():
            for other in others:
                pulls[other.batch_class] = pulls.get(other.batch_class, 0.0) + parts[part]
        theirs = {known: self.states[known] for known in pulls if known in self.states}
        unsure = {known: one for known, one in theirs.items() if one.unsure is not None}
        asked: dict[BatchClass, tuple[ClassState, Vector]] = {}
        if unsure:
            for piece, each, x in zip(met, pull.tolist(), rows, strict=True):
                for known in [other.batch_class for other in piece.others if other.batch_class in unsure]:
                    before = asked[known][1] if known in asked else 0.0
                    weight = each * self._weight_of_demand(weights, piece.own.demand, x)
                    asked[known] = unsure[known], before + weight
        return rate, pull @ rows, pulls, asked

    def _weights(self, state: ClassState) -> Vector:
        """What a class's delays are weighted with.

        Of the last, for kernels that are blocked, `UNHEEDED` counts for nothing: it may be a hundred times a kernel's
        own duration, and where nobody is blocked chance alone would otherwise tell of some.
        """
        weights: Vector = self.shared.mean + state.belief.mean[:-1]
        blocked = weights[-1]
        weights[-1] = max(0.0, blocked - UNHEEDED) + min(0.0, blocked + UNHEEDED)
        return weights

    def _weight_of_demand(self, weights: Vector, own: tuple[float, ...], x: Vector) -> Vector:
        """By how much a slowdown grows with what a neighbour asks of each resource.

        That is the derivative of w·phi, taken to be that of proportional sharing where a resource is short: under fair
        sharing only those count who ask for less than their share, and whether they do is what is learned.
        """
        k = self._resources
        pressure, short, felt = (weights[1 + i * k : 1 + (i + 1) * k] for i in range(3))
        found: Vector = pressure + np.array(own) * felt + (x[1 + k : 1 + 2 * k] > 0.0) * short
        return found

    def _learn_demands(self, asked: Mapping[BatchClass, tuple[ClassState, Vector]], step: float, spread: float) -> None:
        """What a batch suffered beside those that were never measured tells what they ask for."""
        for other, (known, pull) in asked.items():
            if known.unsure is not None:
                gain = known.unsure * pull
                known.tell(tuple(np.clip(np.array(known.demand) + gain * step, 0.0, 1.0).tolist()))
                known.unsure = known.unsure * (1.0 - gain * pull / spread)
                self._dirty[other] = None
        if asked:
            self._strangers.clear()

    def _slowdown(self, state: ClassState, delay: float, others: tuple[Stage, ...]) -> float:
        if state.pairs:
            delay += self._pairs(state, others)
        return min(MAX_SLOWDOWN, max(1.0, 1.0 + delay))

    def _pairs(self, state: ClassState, others: tuple[Stage, ...]) -> float:
        """What these cost beyond what they demand."""
        pairs = state.pairs
        return sum([pairs[other.batch_class][0] for other in others if other.batch_class in pairs])

    def _follow(self, state: ClassState, batch_class: BatchClass, error: float, spread: float, *, beside: bool) -> None:
        """What an error says of the device's pace, of the class's noise, and of whether the class has changed."""
        self.pace.learn(batch_class.model, error, spread - self.pace.variance)
        noise = state.noise[beside]
        state.noise[beside] += NOISE_STEP * (max(NOISE_FLOOR, min(error * error, 9.0 * noise)) - noise)
        if state.drift.learn(error / math.sqrt(spread)):
            state.belief.open(self._spreads(CHANGED_SPREAD))
        state.samples += beside
        state.solo_samples += not beside
        self._dirty[batch_class] = None

    def _features(self, own: Stage, others: tuple[Stage, ...]) -> Vector:
        phi = self._met.get((own, others))
        if phi is None:
            if len(self._met) >= MAX_MET:
                self._met.clear()
            ahead_ns = sum([other.ahead_ns for other in others])
            phi = np.array(features(own.demand, [other.demand for other in others], own.kernel_ns, ahead_ns))
            self._met[own, others] = phi
        return phi

    def _known(self, batch_class: BatchClass) -> ClassState:
        """What is believed of a class, known or not."""
        state = self.states.get(batch_class) or self._strangers.get(batch_class)
        if state is None:
            if len(self._strangers) >= MAX_STRANGERS:
                self._strangers.clear()
            state = self._strangers[batch_class] = self._guess(batch_class)
        return state

    def _state(self, batch_class: BatchClass) -> ClassState:
        state = self.states.get(batch_class)
        if state is None:
            state = self._guess(batch_class)
            self._add(batch_class, state)
        return state

    def _add(self, batch_class: BatchClass, state: ClassState) -> None:
        self.states[batch_class] = state
        key = (batch_class.model, batch_class.version, batch_class.shape_bucket)
        self._models.setdefault(key, {})[batch_class.batch_size] = state
        self._strangers.clear()

    def _guess(self, batch_class: BatchClass) -> ClassState:
        """A class never heard of: between its siblings of other batch sizes, else what anything might be."""
        siblings = self._models.get((batch_class.model, batch_class.version, batch_class.shape_bucket), {})
        sized = {size: state for size, state in siblings.items() if state.work_ns > 0.0}
        nothing = Stage(batch_class, Phase(1.0, self._no_demand(batch_class)), None)
        if not sized:
            unsure = np.full(self._resources, DEMAND_SPREAD**2)
            return ClassState(0.0, nothing, (nothing,), unsure, self._no_belief(UNMEASURED_SPREAD))
        size = batch_class.batch_size
        work_ns = between(size, {n: state.work_ns for n, state in sized.items()})
        nearest = sized[min(sized, key=lambda n: abs(n - size))]
        inherited = None if nearest.unsure is None else nearest.unsure.copy()
        guess = ClassState(work_ns, nothing, (nothing,), inherited, self._no_belief(2 * WORK_SPREAD))
        guess.belief.mean[:-1] = nearest.belief.mean[:-1]
        demands = ({n: state.demand[k] for n, state in sized.items()} for k in range(self._resources))
        demand = tuple([min(1.0, max(0.0, between(size, known))) for known in demands])
        guess.tell(demand, *nearest.like(demand, work_ns))
        return guess

    def _no_demand(self, batch_class: BatchClass) -> tuple[float, ...]:
        """Half of everything, give or take what differs from class to class: equals could not be told apart."""
        noise = (crc32(f"{batch_class} {k}".encode()) / 2**31 - 1.0 for k in range(self._resources))
        return tuple(DEMAND_START + DEMAND_JITTER * n for n in noise)

    def _no_belief(self, work_spread: float) -> Belief:
        return Belief(np.zeros(self._count + 1), self._spreads(work_spread), CLASS_MEMORY)

    def _spreads(self, work_spread: float) -> Vector:
        return np.concatenate([np.full(self._count - 1, CLASS_SPREAD), (BLOCKED_SPREAD, work_spread)])

    def forget(self, batch_class: BatchClass) -> None:
        """See `Learner.forget`."""
        self.states.pop(batch_class, None)
        self._lives.forget(batch_class)
        self._strangers.clear()
        self._dirty.pop(batch_class, None)
        key = (batch_class.model, batch_class.version, batch_class.shape_bucket)
        siblings = self._models.get(key, {})
        siblings.pop(batch_class.batch_size, None)
        if not siblings:
            self._models.pop(key, None)

    # ---- telling

    def work_ns(self, batch_class: BatchClass) -> float:
        """See `Learner.work_ns`."""
        return self._known(batch_class).work_ns * math.exp(self.pace.log)

    def stages(self, batch_class: BatchClass) -> tuple[Stage, ...]:
        """See `RateLearner.stages`."""
        return self._known(batch_class).stages

    def mean(self, batch_class: BatchClass) -> Stage:
        """See `RateLearner.mean`."""
        return self._known(batch_class).mean

    def rate(self, own: Stage, others: tuple[Stage, ...]) -> float:
        """See `RateLearner.rate`: the contract's formula on what is believed."""
        if not others:
            return 1.0
        state = self._known(own.batch_class)
        weights = self._weights(state)
        return 1.0 / self._slowdown(state, float(weights @ self._features(own, others)), others)

    def changed(self) -> list[BatchClass]:
        """See `Learner.changed`: all classes once what they share has moved."""
        weights, log_pace = self._told
        moved = self.shared.mean - weights
        if (moved @ self._usual @ moved) > RETELL_SLOWDOWN**2 or abs(self.pace.log - log_pace) > RETELL_TIME:
            self._told = (self.shared.mean.copy(), self.pace.log)
            changed = list(self.states)
        else:
            changed = list(self._dirty)
        self._dirty.clear()
        return changed

    def estimate(self, batch_class: BatchClass) -> ClassEstimate:
        """See `Learner.estimate`."""
        state = self.states[batch_class]
        sensitivity = self._weights(state)
        return ClassEstimate(
            batch_class,
            round(self.work_ns(batch_class)),
            tuple(round(float(d), 4) for d in state.demand),
            tuple(round(float(w), 5) for w in sensitivity),
            tuple(PairCorrection(other, round(mean, 5)) for other, (mean, _) in state.pairs.items()),
            sample_count=state.samples + state.solo_samples,
            basis=BASIS_OBSERVED if state.samples else BASIS_PROFILE if state.profiled else BASIS_PRIOR,
            kernel_ns=state.mean.kernel_ns,
            phases=state.phases,
        )

    # ---- keeping

    def dump(self) -> bytes:
        """See `Learner.dump`."""
        kept = _KeptDevice(self.shared.mean.tolist(), self.shared.covariance.tolist(), self.pace.dump())
        return msgspec.msgpack.encode(kept)

    def dump_class(self, batch_class: BatchClass) -> bytes:
        """See `Learner.dump_class`."""
        state = self.states[batch_class]
        return msgspec.msgpack.encode(state.keep())

    def restore(self, device: bytes, classes: Mapping[BatchClass, bytes]) -> None:
        """See `Learner.restore`."""
        shared = msgspec.msgpack.decode(device, type=_KeptDevice)
        self.shared.restore(shared.mean, shared.covariance)
        self.pace.restore(shared.pace)
        for batch_class, blob in classes.items():
            kept = msgspec.msgpack.decode(blob, type=KeptClass)
            nothing = Stage(batch_class, Phase(1.0, kept.demand), None)
            belief = self._no_belief(WORK_SPREAD if kept.profiled else UNMEASURED_SPREAD)
            belief.restore(kept.mean, kept.covariance)
            state = ClassState(kept.work_ns, nothing, (nothing,), None, belief, noise=kept.noise)
            self._add(batch_class, state)
            state.tell(kept.demand, kept.kernel_ns, kept.phases)
            state.unsure = np.array(kept.unsure) if kept.unsure else None
            state.pairs = {other: (mean, variance) for other, mean, variance in kept.pairs}
            state.samples, state.solo_samples, state.profiled = kept.samples, kept.solo_samples, kept.profiled
        self._told = (self.shared.mean.copy(), self.pace.log)
