"""Any object with `learn_one(x, y)` and `predict_one(x)` as a learner: every regressor of river fits.

It is asked for the slowdown of a batch beside a set, as a plain dict of numbers (`row`), and taught the slowdown of
whole batches with what ran beside them averaged over their lives. Forecasts integrate its slowdowns over the
departures to come, as for every learner that knows a rate.
"""

import inspect
import io
import math
import pickle
from importlib import import_module
from typing import Any, Protocol, cast

from cotenant.predictor.baselines.known import Demand, KnownClasses
from cotenant.predictor.observations import Observation
from cotenant.predictor.rates import RateLearner
from cotenant.runtime.estimates import MIN_RATE, BatchClass, Stage

_RESOURCES = ("compute", "cache", "memory_bandwidth")
# What the state of a regressor may be made of, besides its own package.
_PLAIN = {"collections", "copyreg", "math", "random", "datetime"}
_PLAIN_BUILTINS = {"set", "frozenset", "dict", "list", "tuple", "complex", "object", "bytearray", "range", "slice"}
_PLAIN_NUMPY = {"_reconstruct", "scalar", "ndarray", "dtype", "_frombuffer", "float64", "int64", "bool_"}


class Regressor(Protocol):
    """The two verbs."""

    def learn_one(self, x: dict[str, float], y: float) -> object:
        """Takes a row."""
        ...

    def predict_one(self, x: dict[str, float]) -> float:
        """Predicts the target of a row."""
        ...


def regressor(dotted: str) -> Regressor:
    """A regressor by its dotted name, seeded where it takes a seed. Raises ValueError if there is none."""
    module, _, name = dotted.rpartition(".")
    try:
        kind = getattr(import_module(module), name)
        made = kind(**({"seed": 0} if _takes_seed(kind) else {}))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"there is no regressor '{dotted}': {error}") from error
    if not (callable(getattr(made, "learn_one", None)) and callable(getattr(made, "predict_one", None))):
        raise ValueError(f"'{dotted}' is no regressor: it must have learn_one and predict_one")
    return cast("Regressor", made)


def _takes_seed(kind: Any) -> bool:
    try:
        return "seed" in inspect.signature(kind).parameters
    except ValueError:  # some of those written in C do not say
        return False


class TwoVerbs(RateLearner, KnownClasses):
    """See the module's text, and `Learner`."""

    def __init__(self, name: str, resources: int) -> None:
        """`name` is the regressor's. Raises ValueError if there is none."""
        RateLearner.__init__(self)
        KnownClasses.__init__(self, name, resources)
        self.regressor = regressor(name)
        extra = [f"resource_{k}" for k in range(len(_RESOURCES), resources)]
        names = [*_RESOURCES, *extra][:resources]
        self._own = [f"own_{n}_share" for n in names]
        self._others = [f"others_{n}_share" for n in names]

    def row(self, batch_class: BatchClass, others: Demand, co_runner_count: float) -> dict[str, float]:
        """What the regressor is told: numbers of size 1, so that it needs no scaling."""
        own = self.demand(batch_class, 0.5)
        return {
            **dict(zip(self._own, own, strict=True)),
            **dict(zip(self._others, others, strict=True)),
            "co_runner_count": co_runner_count,
            "batch_size_log2_items": math.log2(batch_class.batch_size),
            "work_log10_ms": math.log10(max(1.0, self.work_ns(batch_class)) / 1e6),
        }

    def learn_batch(self, seen: Observation) -> None:
        """See `Learner.learn_batch`."""
        self.see(seen)
        others, count = [0.0] * self.resources, 0.0
        for part in seen.slices:
            share = part.duration_ns / seen.duration_ns
            count += share * len(part.co_runners)
            for other in part.co_runners:
                for k, demand in enumerate(self.demand(other, 1.0)):
                    others[k] += share * demand
        slowdown = min(1.0 / MIN_RATE, seen.duration_ns / max(1.0, self.work_ns(seen.batch_class)))
        try:
            self.regressor.learn_one(self.row(seen.batch_class, tuple(others), count), slowdown)
        except (ArithmeticError, ValueError):  # its numbers, not ours: what it cannot take it does without
            return

    def rate(self, own: Stage, others: tuple[Stage, ...]) -> float:
        """See `RateLearner.rate`."""
        if own.batch_class not in self.facts or not others:
            return 1.0
        theirs = [0.0] * self.resources
        for other in others:
            for k, demand in enumerate(self.demand(other.batch_class, 1.0)):
                theirs[k] += demand
        try:
            slowdown = float(self.regressor.predict_one(self.row(own.batch_class, tuple(theirs), len(others))))
        except (ArithmeticError, ValueError):
            return 1.0
        return min(1.0, max(MIN_RATE, 1.0 / slowdown)) if 1.0 < slowdown < math.inf else 1.0

    def work_ns(self, batch_class: BatchClass) -> float:
        """See `Learner.work_ns`."""
        return KnownClasses.work_ns(self, batch_class)

    def dump_state(self) -> bytes:
        """The regressor, pickled."""
        return pickle.dumps(self.regressor)

    def restore_state(self, state: bytes) -> None:
        """Becomes what was dumped. Raises ValueError for a pickle of anything but the regressor and plain data."""
        try:
            self.regressor = cast("Regressor", _Unpickler(state, self.name.partition(".")[0]).load())
        except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, TypeError) as error:
            raise ValueError(f"kept state of '{self.name}' cannot be read: {error}") from error


class _Unpickler(pickle.Unpickler):
    """Reads nothing but objects of one package and plain data: a state file may come from elsewhere."""

    def __init__(self, state: bytes, package: str) -> None:
        super().__init__(io.BytesIO(state))
        self._package = package

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle names. Raises UnpicklingError where that is not allowed."""
        root = module.partition(".")[0]
        plain = {"builtins": _PLAIN_BUILTINS, "numpy": _PLAIN_NUMPY}.get(root)
        private = name.startswith("_") and name not in _PLAIN_NUMPY | {"_reconstructor"}
        if root in (self._package, "river") or (root in _PLAIN and not private) or (plain and name in plain):
            found = super().find_class(module, name)
            if callable(found) and str(getattr(found, "__module__", root)).partition(".")[0] == root:
                return found
        raise pickle.UnpicklingError(f"'{module}.{name}' is not of '{self._package}'")
