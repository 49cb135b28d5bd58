"""Learners by name. A name with a dot is that of a river regressor, or of anything with `learn_one`, `predict_one`."""

from collections.abc import Mapping

from cotenant.predictor.fluid import Fluid
from cotenant.predictor.learner import Factory, Learner

DEFAULT = "fluid"

LEARNERS: Mapping[str, Factory] = {"fluid": Fluid}


def make(name: str, resources: int) -> Learner:
    """A learner for a device of so many resources. Raises ValueError if there is none of that name."""
    factory = LEARNERS.get(name)
    if factory is None:
        raise ValueError(f"there is no learner '{name}'; there are {', '.join(LEARNERS)}")
    return factory(resources)
