"""Learners by name. A name with a dot is that of a river regressor, or of anything with `learn_one`, `predict_one`."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

from cotenant.predictor.baselines.colocation import Colocation
from cotenant.predictor.baselines.regression import Offline, Regression, Rls, Sgd
from cotenant.predictor.baselines.simple import Clockwork, Ignore
from cotenant.predictor.baselines.two_verbs import TwoVerbs
from cotenant.predictor.fluid import Fluid
from cotenant.predictor.learner import Factory, Learner
from cotenant.predictor.observations import Running
from cotenant.runtime.estimates import BatchClass

DEFAULT = "fluid"

_OPTIMISERS: Mapping[str, type[Regression]] = {"offline": Offline, "sgd": Sgd, "rls": Rls}
_SMOOTHINGS = {"static": 0.0, "ewma13": 1 / 3, "ewma12": 1 / 2, "ewma23": 2 / 3}


def _colocation(name: str, kind: type[Regression], smoothing: float, *, compute: bool) -> Factory:
    return lambda resources: Colocation(name, resources, kind, smoothing, compute=compute)


LEARNERS: Mapping[str, Factory] = {
    "fluid": Fluid,
    "ignore": partial(Ignore, "ignore"),
    "clockwork": partial(Clockwork, "clockwork"),
    "gpulets": _colocation("gpulets", Offline, 0.0, compute=False),
    **{
        f"{features}-{optimiser}": _colocation(f"{features}-{optimiser}", kind, smoothing, compute=True)
        for features, smoothing in _SMOOTHINGS.items()
        for optimiser, kind in _OPTIMISERS.items()
    },
}


@runtime_checkable
class Trained(Protocol):
    """A learner whose training ends."""

    @property
    def needs_training(self) -> bool:
        """Whether it only collects until then, and predicts slowdown 1."""
        ...

    def fit(self) -> None:
        """Ends it."""
        ...


@runtime_checkable
class BoundedByItself(Protocol):
    """A learner with a bound of its own, at whatever coverage that has."""

    def bound_ns(self, batch_class: BatchClass, running: Sequence[Running]) -> float:
        """Bound of a batch that starts now beside `running`; 0 if unknown."""
        ...


@runtime_checkable
class FollowsPace(Protocol):
    """A learner that follows what slows all batches of its device alike."""

    def expect_pace(self, ratio: float | None) -> None:
        """A change was announced: times by this finite factor above 0 at most, or by one that is not known (None)."""
        ...


def make(name: str, resources: int) -> Learner:
    """A learner for a device of so many resources. Raises ValueError if there is none of that name."""
    factory = LEARNERS.get(name)
    if factory is None and "." in name:
        return TwoVerbs(name, resources)
    if factory is None:
        raise ValueError(f"there is no learner '{name}'; there are {', '.join(LEARNERS)}, and river's by dotted name")
    return factory(resources)
