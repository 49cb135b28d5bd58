"""What is learned of one device: solo times, how much neighbours cost, and how far forecasts are off.

Theory. A batch that needs `work` of solo time and progresses at rate 1 - w·phi(t) while others run beside it ends
when the integral of its rate reaches its work. So over its whole life, however often its neighbours changed,

    1 - work / elapsed  =  w · mean(phi)            mean over its slices, weighted by their durations

which is linear in w: one equation per finished batch, exact for batches that met many neighbours. Both sides are
divided by *elapsed*, not by work: noise in the elapsed time then scales neither the features nor the target's
reference, and a batch that never met anyone teaches nothing about w (its mean phi is zero), only about its work.

Weights are learned by recursive least squares in its Kalman form. Between updates they drift back towards a prior as
a stationary process does (P <- a²P + (1 - a²)P0): old batches are forgotten, and where nothing is seen for long the
uncertainty returns to the prior's and never grows beyond it, so forgetting cannot wind up. There are two levels: a
vector shared by all classes of the device, whose prior says that batches share each resource in proportion; and a
deviation per class, whose prior is zero.
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cotenant.predictor.bounds import Bounds
from cotenant.runtime.estimates import MIN_RATE, BatchClass, ClassEstimate, features

Vector = npt.NDArray[np.float64]

BASIS_PRIOR, BASIS_PROFILE, BASIS_OBSERVED = 1, 2, 3

# Standard deviation of a batch's mean loss around the model's: noise of execution times of some percent.
NOISE = 0.05
# How much the shared weights and the classes' deviations may differ from their priors, as standard deviations.
SHARED_SPREAD, CLASS_SPREAD = 0.5, 0.25
# a²: a weight not excited for 1/(1 - a²) batches has returned to its prior.
SHARED_MEMORY, CLASS_MEMORY = 0.9995, 0.998
# Solo times are followed with this weight per batch that ran alone, each step bounded.
WORK_STEP, WORK_STEP_LIMIT = 0.05, 0.25
LOSS_LIMIT = 1.0 - MIN_RATE


class Weights:
    """A Gaussian belief over a weight vector, updated by one equation at a time."""

    def __init__(self, prior: Vector, spread: float, memory: float) -> None:
        self.prior = prior
        self.mean = prior.copy()
        self._spread2 = spread * spread
        self._memory = memory
        self.covariance = np.eye(len(prior)) * self._spread2

    def learn(self, x: Vector, y: float) -> float:
        """Takes the equation y = w·x + noise; returns the error before the update."""
        decay = self._memory
        self.mean = self.prior + (self.mean - self.prior) * decay**0.5
        self.covariance *= decay
        self.covariance[np.diag_indices_from(self.covariance)] += (1.0 - decay) * self._spread2
        px = self.covariance @ x
        error = y - float(self.mean @ x)
        gain = px / (NOISE * NOISE + float(x @ px))
        self.mean = self.mean + gain * error
        self.covariance -= np.outer(gain, px)
        return error


def shared_prior(resources: int) -> Vector:
    """Nothing for the mere presence of others, a little for their pressure, and proportional sharing at saturation."""
    return np.array([0.02, *([0.05] * resources), *([0.6] * resources)])


@dataclass
class ClassState:
    """What is known of one class."""

    batch_class: BatchClass
    work_ns: float
    demand: tuple[float, ...]
    deviation: Weights
    bounds: Bounds = field(default_factory=Bounds)
    samples: int = 0  # batches that met others
    solo_samples: int = 0
    profiled: bool = False


@dataclass(frozen=True)
class Observation:
    """A finished batch: durations in ns, co-runners by slice."""

    batch_class: BatchClass
    duration_ns: int
    slices: tuple[tuple[int, tuple[BatchClass, ...]], ...]
    forecast_ns: int = 0  # what the scheduler expected; 0 if nothing
    forecast_work_ns: int = 0
    co_runner_count: int = 0  # at launch


class DeviceModel:
    """See the module's text."""

    def __init__(self, device_id: str, resources: int) -> None:
        self.device_id = device_id
        self.resources = resources
        self.shared = Weights(shared_prior(resources), SHARED_SPREAD, SHARED_MEMORY)
        self.classes: dict[BatchClass, ClassState] = {}
        self.pooled = Bounds()
        self.errors: deque[float] = deque(maxlen=512)  # |forecast - actual| / actual of recent batches
        self._dirty: dict[BatchClass, None] = {}
        self._shared_published = self.shared.mean.copy()

    # ---- learning

    def learn_profile(self, batch_class: BatchClass, work_ns: int, demand: tuple[float, ...]) -> None:
        """Takes a solo measurement; it replaces what was believed of the solo time."""
        state = self._state(batch_class)
        state.work_ns, state.profiled = float(work_ns), True
        state.demand = (*demand, *([0.0] * self.resources))[: self.resources]
        self._dirty[batch_class] = None

    def learn_batch(self, seen: Observation) -> None:
        """Takes a finished batch."""
        state = self._state(seen.batch_class)
        if seen.forecast_ns:
            self._learn_bound(state, seen)
        alone_ns = sum(duration for duration, others in seen.slices if not others)
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
        x = self._mean_features(state, seen)
        if state.work_ns <= 0.0:  # never measured alone: infer its work from what its neighbours should have cost
            state.work_ns = seen.duration_ns * max(MIN_RATE, 1.0 - float(self.shared.mean @ x))
        loss = max(-LOSS_LIMIT, min(LOSS_LIMIT, 1.0 - state.work_ns / seen.duration_ns))
        self.shared.learn(x, loss - float(state.deviation.mean @ x))
        state.deviation.learn(x, loss - float(self.shared.mean @ x))
        state.samples += 1

    def _mean_features(self, state: ClassState, seen: Observation) -> Vector:
        total = np.zeros(1 + 2 * self.resources)
        for duration_ns, others in seen.slices:
            if others:
                pressure = [0.0] * self.resources
                for other in others:
                    known = self.classes.get(other)
                    demand = known.demand if known else (1.0,) * self.resources
                    for k in range(self.resources):
                        pressure[k] += demand[k]
                total += duration_ns * np.array(features(state.demand, pressure, len(others)))
        return total / seen.duration_ns

    def _learn_bound(self, state: ClassState, seen: Observation) -> None:
        ratio = seen.duration_ns / seen.forecast_ns
        state.bounds.learn(ratio, seen.co_runner_count)
        self.pooled.learn(ratio, seen.co_runner_count)
        self.errors.append(abs(ratio - 1.0) / ratio)

    def _state(self, batch_class: BatchClass) -> ClassState:
        state = self.classes.get(batch_class)
        if state is None:
            zero = np.zeros(1 + 2 * self.resources)
            deviation = Weights(zero, CLASS_SPREAD, CLASS_MEMORY)
            state = ClassState(batch_class, 0.0, (0.5,) * self.resources, deviation)
            self.classes[batch_class] = state
        return state

    # ---- telling

    def changed(self) -> list[BatchClass]:
        """Classes whose estimates differ from what was last told; all of them once the shared weights have moved."""
        if float(np.abs(self.shared.mean - self._shared_published).max()) > 0.02:
            self._shared_published = self.shared.mean.copy()
            changed = list(self.classes)
        else:
            changed = list(self._dirty)
        self._dirty.clear()
        return changed

    def estimate(self, batch_class: BatchClass, levels: tuple[float, ...]) -> ClassEstimate:
        """What is believed of a class. Raises KeyError for one never heard of."""
        state = self.classes[batch_class]
        basis = BASIS_OBSERVED if state.samples else BASIS_PROFILE if state.profiled else BASIS_PRIOR
        sensitivity = self.shared.mean + state.deviation.mean
        return ClassEstimate(
            batch_class,
            round(state.work_ns),
            tuple(round(float(d), 4) for d in state.demand),
            tuple(round(float(w), 5) for w in sensitivity),
            quantiles=state.bounds.factors(levels, self.pooled),
            sample_count=state.samples + state.solo_samples,
            basis=basis,
        )
