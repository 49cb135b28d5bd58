"""Our learner: slowdowns of a fluid model, learned online from whole batches that met changing neighbours.

Theory. A batch that needs `work` of solo time and progresses at rate 1 - w·phi(t) while others run beside it ends
when the integral of its rate reaches its work. So over its whole life, however often its neighbours changed,

    1 - work / elapsed  =  w · mean(phi)            mean over its slices, weighted by their durations

which is linear in w: one equation per finished batch, exact for batches that met many neighbours. Both sides are
divided by *elapsed*, not by work: noise in the elapsed time then scales neither the features nor the target's
reference, and a batch that never met anyone teaches nothing about w (its mean phi is zero), only about its work.

There are two levels: weights shared by all classes of the device, whose prior says that batches share each resource in
proportion; and a deviation per class, whose prior is zero.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from cotenant.predictor.gaussian import Vector, Weights
from cotenant.predictor.learner import BASIS_OBSERVED, BASIS_PRIOR, BASIS_PROFILE
from cotenant.predictor.observations import Observation, Profile, Slice
from cotenant.predictor.rates import RateLearner
from cotenant.runtime.estimates import MIN_RATE, BatchClass, ClassEstimate, features

# Standard deviation of a batch's mean loss around the model's: noise of execution times of some percent.
NOISE = 0.05
# How much the shared weights and the classes' deviations may differ from their priors, as standard deviations.
SHARED_SPREAD, CLASS_SPREAD = 0.5, 0.25
# a²: a weight not excited for 1/(1 - a²) batches has returned to its prior.
SHARED_MEMORY, CLASS_MEMORY = 0.9995, 0.998
# Solo times are followed with this weight per batch that ran alone, each step bounded.
WORK_STEP, WORK_STEP_LIMIT = 0.05, 0.25
LOSS_LIMIT = 1.0 - MIN_RATE
RETELL = 0.02  # once a shared weight has moved so far, all classes are told again


def shared_prior(resources: int) -> Vector:
    """Nothing for the mere presence of others, a little for their pressure, and proportional sharing at saturation."""
    return np.array([0.02, *([0.05] * resources), *([0.6] * resources)])


@dataclass(slots=True)
class ClassState:
    """What is known of one class."""

    work_ns: float
    demand: tuple[float, ...]
    deviation: Weights
    samples: int = 0  # batches that met others
    solo_samples: int = 0
    profiled: bool = False


class _KeptDevice(msgspec.Struct):
    mean: list[float]
    covariance: list[list[float]]


class _KeptClass(msgspec.Struct):
    work_ns: float
    demand: tuple[float, ...]
    mean: list[float]
    covariance: list[list[float]]
    samples: int
    solo_samples: int
    profiled: bool


class Fluid(RateLearner):
    """See the module's text, and `Learner`."""

    def __init__(self, resources: int) -> None:
        self._resources = resources
        self.shared = Weights(shared_prior(resources), SHARED_SPREAD, SHARED_MEMORY, NOISE)
        self.states: dict[BatchClass, ClassState] = {}
        self._dirty: dict[BatchClass, None] = {}
        self._told = self.shared.mean.copy()

    @property
    def classes(self) -> Collection[BatchClass]:
        """See `Learner.classes`."""
        return self.states.keys()

    # ---- learning

    def learn_profile(self, profile: Profile) -> None:
        """See `Learner.learn_profile`."""
        state = self._state(profile.batch_class)
        state.work_ns, state.profiled = float(profile.work_ns), True
        state.demand = (*profile.demand, *([0.0] * self._resources))[: self._resources]
        self._dirty[profile.batch_class] = None

    def learn_batch(self, seen: Observation) -> None:
        """See `Learner.learn_batch`."""
        state = self._state(seen.batch_class)
        alone_ns = sum(part.duration_ns for part in seen.slices if not part.co_runners)
        if alone_ns >= 0.99 * seen.duration_ns:
            self._learn_work(state, seen.duration_ns)
        else:
            self._learn_loss(state, seen)
        self._dirty[seen.batch_class] = None

    def _learn_work(self, state: ClassState, duration_ns: int) -> None:
        if state.work_ns <= 0.0:
            state.work_ns = float(duration_ns)
        # The median is what forecasts are about: a step of fixed size up or down follows it, outliers or not.
        step = max(-WORK_STEP_LIMIT, min(WORK_STEP_LIMIT, duration_ns / state.work_ns - 1.0))
        state.work_ns *= 1.0 + WORK_STEP * step * 2.0
        state.solo_samples += 1

    def _learn_loss(self, state: ClassState, seen: Observation) -> None:
        x = self._mean_features(state, seen.slices) / seen.duration_ns
        if state.work_ns <= 0.0:  # never measured alone: infer its work from what its neighbours should have cost
            state.work_ns = seen.duration_ns * max(MIN_RATE, 1.0 - float(self.shared.mean @ x))
        loss = max(-LOSS_LIMIT, min(LOSS_LIMIT, 1.0 - state.work_ns / seen.duration_ns))
        self.shared.learn(x, loss - float(state.deviation.mean @ x))
        state.deviation.learn(x, loss - float(self.shared.mean @ x))
        state.samples += 1

    def _mean_features(self, state: ClassState, slices: Sequence[Slice]) -> Vector:
        total = np.zeros(1 + 2 * self._resources)
        for part in slices:
            if part.co_runners:
                total += part.duration_ns * np.array(self._features(state.demand, part.co_runners))
        return total

    def _features(self, demand: tuple[float, ...], co_runners: Sequence[BatchClass]) -> list[float]:
        pressure = [0.0] * self._resources
        for other in co_runners:
            known = self.states.get(other)
            theirs = known.demand if known else (1.0,) * self._resources
            for k in range(self._resources):
                pressure[k] += theirs[k]
        return features(demand, pressure, len(co_runners))

    def _state(self, batch_class: BatchClass) -> ClassState:
        state = self.states.get(batch_class)
        if state is None:
            state = self.states[batch_class] = ClassState(0.0, (0.5,) * self._resources, self._no_deviation())
        return state

    def _no_deviation(self) -> Weights:
        return Weights(np.zeros(1 + 2 * self._resources), CLASS_SPREAD, CLASS_MEMORY, NOISE)

    def forget(self, batch_class: BatchClass) -> None:
        """See `Learner.forget`."""
        self.states.pop(batch_class, None)
        self._dirty.pop(batch_class, None)

    # ---- telling

    def work_ns(self, batch_class: BatchClass) -> float:
        """See `Learner.work_ns`."""
        state = self.states.get(batch_class)
        return state.work_ns if state else 0.0

    def rate(self, batch_class: BatchClass, co_runners: Sequence[BatchClass]) -> float:
        """See `RateLearner.rate`."""
        state = self.states.get(batch_class)
        if state is None:
            return 1.0
        loss = float((self.shared.mean + state.deviation.mean) @ self._features(state.demand, co_runners))
        return min(1.0, max(MIN_RATE, 1.0 - loss))

    def changed(self) -> list[BatchClass]:
        """See `Learner.changed`: all classes once the shared weights have moved."""
        if float(np.abs(self.shared.mean - self._told).max()) > RETELL:
            self._told = self.shared.mean.copy()
            changed = list(self.states)
        else:
            changed = list(self._dirty)
        self._dirty.clear()
        return changed

    def estimate(self, batch_class: BatchClass) -> ClassEstimate:
        """See `Learner.estimate`."""
        state = self.states[batch_class]
        sensitivity = self.shared.mean + state.deviation.mean
        return ClassEstimate(
            batch_class,
            round(state.work_ns),
            tuple(round(float(d), 4) for d in state.demand),
            tuple(round(float(w), 5) for w in sensitivity),
            sample_count=state.samples + state.solo_samples,
            basis=BASIS_OBSERVED if state.samples else BASIS_PROFILE if state.profiled else BASIS_PRIOR,
        )

    # ---- keeping

    def dump(self) -> bytes:
        """See `Learner.dump`."""
        return msgspec.msgpack.encode(_KeptDevice(self.shared.mean.tolist(), self.shared.covariance.tolist()))

    def dump_class(self, batch_class: BatchClass) -> bytes:
        """See `Learner.dump_class`."""
        state = self.states[batch_class]
        kept = _KeptClass(
            state.work_ns,
            state.demand,
            state.deviation.mean.tolist(),
            state.deviation.covariance.tolist(),
            state.samples,
            state.solo_samples,
            state.profiled,
        )
        return msgspec.msgpack.encode(kept)

    def restore(self, device: bytes, classes: Mapping[BatchClass, bytes]) -> None:
        """See `Learner.restore`."""
        shared = msgspec.msgpack.decode(device, type=_KeptDevice)
        self.shared.restore(shared.mean, shared.covariance)
        for batch_class, blob in classes.items():
            kept = msgspec.msgpack.decode(blob, type=_KeptClass)
            deviation = self._no_deviation()
            deviation.restore(kept.mean, kept.covariance)
            self.states[batch_class] = ClassState(
                kept.work_ns, kept.demand, deviation, kept.samples, kept.solo_samples, kept.profiled
            )
        self._told = self.shared.mean.copy()
