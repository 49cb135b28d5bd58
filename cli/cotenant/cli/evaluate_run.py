"""Has predictors predict and learn along a log's steps, each with what was known at that instant.

At `Launched` a predictor forecasts, at `Ended` it first explains the batch with the slices it really met, then learns
it. Bounds stand round each one's own forecasts, made as our service makes them, except for those that bring their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import thread_time_ns
from typing import Protocol

import numpy as np

from cotenant.cli.evaluate_log import Ended, Launched, Ran, Recording, Stated, Told
from cotenant.cli.evaluate_metrics import Floats
from cotenant.predictor import learners
from cotenant.predictor.announcing import Announcing
from cotenant.predictor.device_model import DeviceModel
from cotenant.predictor.intake import MAX_RATIO
from cotenant.predictor.observations import Observation
from cotenant.runtime.estimates import BatchClass, factor_at
from cotenant.scheduler.books import COLD_FACTOR, COLD_SOLO_FACTOR
from cotenant.v1 import types_pb2


@dataclass(slots=True)
class Forecast:
    """Of one batch at its launch; durations in ns, 0 for unknown."""

    duration_ns: float
    bounds_ns: tuple[float, ...]  # by level


NOTHING = Forecast(0.0, ())


class Predictor(Protocol):
    """What is judged."""

    def tell(self, told: Told) -> None:
        """Takes a solo measurement."""
        ...

    def state(self, stated: Stated) -> None:
        """Takes what a device's driver told."""
        ...

    def forecast(self, ran: Ran) -> Forecast:
        """Predicts a batch that starts now."""
        ...

    def explain(self, ran: Ran) -> float:
        """Duration in ns of a batch whose slices are known, from what was known before it; 0 for unknown."""
        ...

    def learn(self, ran: Ran, forecast: Forecast) -> None:
        """Takes a batch with what was forecast of it."""
        ...


@dataclass(slots=True)
class Judged:
    """What one predictor said of each batch, in order of the batches' starts."""

    launch_ns: Floats
    explained_ns: Floats
    bounds_ns: Floats  # [levels, batches]

    @classmethod
    def joined(cls, parts: Sequence["Judged"]) -> "Judged":
        """Of several recordings, one after another."""
        return cls(
            np.concatenate([part.launch_ns for part in parts]),
            np.concatenate([part.explained_ns for part in parts]),
            np.concatenate([part.bounds_ns for part in parts], axis=1),
        )


def run(predictor: Predictor, recording: Recording, levels: Sequence[float], *, learning: bool = True) -> Judged:
    """Takes a predictor along a recording. Without `learning` it is still told of solo measurements and of clocks."""
    index = {id(ran): i for i, ran in enumerate(recording.batches)}
    launch, explained, bounds = np.zeros(len(index)), np.zeros(len(index)), np.zeros((len(levels), len(index)))
    judged = Judged(launch, explained, bounds)
    pending: dict[int, Forecast] = {}
    for step in recording.steps:
        match step:
            case Told():
                predictor.tell(step)
            case Stated():
                predictor.state(step)
            case Launched(_, ran):
                forecast = pending[id(ran)] = predictor.forecast(ran)
                i = index[id(ran)]
                launch[i] = forecast.duration_ns
                if forecast.bounds_ns:
                    bounds[:, i] = forecast.bounds_ns
            case Ended(_, ran):
                explained[index[id(ran)]] = predictor.explain(ran)
                forecast = pending.pop(id(ran), NOTHING)
                if learning:
                    predictor.learn(ran, forecast)
    return judged


class Local:
    """One of our learners by name, with bounds, for each device of the log."""

    def __init__(self, name: str, devices: Mapping[str, types_pb2.Device], levels: tuple[float, ...]) -> None:
        """Raises ValueError if there is no such learner."""
        learners.make(name, 1)
        self._name, self._devices, self._levels = name, devices, levels
        self.models: dict[str, DeviceModel] = {}
        self._announcing: dict[str, Announcing] = {}
        self.update_ns: list[int] = []  # CPU time of each update, bounds included
        self.predict_ns: list[int] = []  # CPU time of each forecast at launch

    def fit(self, trained_on: Sequence[Recording]) -> None:
        """Ends the training of learners that have one.

        Their bounds are then made anew, round what the fitted learner says of the batches it was fitted on: those
        round what it said before tell nothing.
        """
        fitted: dict[str, tuple[bytes, dict[BatchClass, bytes]]] = {}
        for device_id, model in self.models.items():
            if not isinstance(model.learner, learners.Trained):
                return
            model.learner.fit()
            fitted[device_id] = model.learner.dump(), {c: model.learner.dump_class(c) for c in model.classes}
        self.models.clear()
        self._announcing.clear()
        for device_id, state in fitted.items():
            self._model(device_id).learner.restore(*state)
        for recording in trained_on:
            run(self, recording, self._levels)
        for device_id, state in fitted.items():
            learner = learners.make(self._name, len(self._devices[device_id].resources))
            learner.restore(*state)
            self.models[device_id].learner = learner

    def _model(self, device_id: str) -> DeviceModel:
        model = self.models.get(device_id)
        if model is None:
            resources = len(self._devices[device_id].resources)
            model = self.models[device_id] = DeviceModel(device_id, resources, self._name)
        return model

    def tell(self, told: Told) -> None:
        """See `Predictor`."""
        self._model(told.device_id).learn_profile(told.profile)

    def state(self, stated: Stated) -> None:
        """See `Predictor`: as our service does."""
        announcing = self._announcing.setdefault(stated.device_id, Announcing())
        if announced := announcing.learn(stated.clocks):
            self._model(stated.device_id).expect_pace(announced.ratio)

    def forecast(self, ran: Ran) -> Forecast:
        """See `Predictor`."""
        model = self._model(ran.device_id)
        known = ran.batch_class
        work_ns = model.learner.work_ns(known)
        if work_ns <= 0.0:
            return NOTHING
        began = thread_time_ns()
        slowdown = model.learner.forecast(known, ran.running)
        self.predict_ns.append(thread_time_ns() - began)
        duration_ns = work_ns * slowdown
        if isinstance(model.learner, learners.BoundedByItself):
            return Forecast(duration_ns, (model.learner.bound_ns(known, ran.running),) * len(self._levels))
        quantiles = model.estimate(known, self._levels).quantiles if known in model.classes else ()
        cold = COLD_FACTOR if ran.running else COLD_SOLO_FACTOR
        factors = (factor_at(quantiles, level, len(ran.running), default=cold) for level in self._levels)
        return Forecast(duration_ns, tuple(duration_ns * factor for factor in factors))

    def explain(self, ran: Ran) -> float:
        """See `Predictor`."""
        learner = self._model(ran.device_id).learner
        return learner.work_ns(ran.batch_class) * learner.explain(ran.batch_class, ran.seen.slices)

    def learn(self, ran: Ran, forecast: Forecast) -> None:
        """See `Predictor`."""
        seen, model = observed(ran, forecast), self._model(ran.device_id)
        began = thread_time_ns()
        model.learn_batch(seen)
        self.update_ns.append(thread_time_ns() - began)


def observed(ran: Ran, forecast: Forecast) -> Observation:
    """A batch as if it had been launched on this forecast; on none where it is senselessly far off."""
    forecast_ns = round(forecast.duration_ns)
    if not forecast_ns or not 1.0 / MAX_RATIO <= ran.seen.duration_ns / forecast_ns <= MAX_RATIO:
        forecast_ns = 0
    return replace(ran.seen, forecast_ns=forecast_ns, co_runner_count=len(ran.running))


class Recorded:
    """The forecasts that the log tells its batches were launched on, with the bound at the level it was asked for."""

    def __init__(self, levels: Sequence[float]) -> None:
        self._levels = levels

    def tell(self, told: Told) -> None:
        """Nothing: it has been said."""

    def state(self, stated: Stated) -> None:
        """Nothing."""

    def forecast(self, ran: Ran) -> Forecast:
        """See `Predictor`."""
        bounds = tuple(float(ran.bound_ns) if abs(level - ran.level) < 1e-9 else 0.0 for level in self._levels)
        return Forecast(float(ran.seen.forecast_ns), bounds)

    def explain(self, ran: Ran) -> float:  # noqa: ARG002
        """Unknown."""
        return 0.0

    def learn(self, ran: Ran, forecast: Forecast) -> None:
        """Nothing."""
