"""Linear regression y = w · x in three ways: least squares once, stochastic gradient descent, recursive least squares.

All collect what least squares needs until `fit()`, which ends a training: the three then start from the same weights.
The first changes no more; the others go on from there with every further row. Without `fit()` those two learn from
nothing, and the first stays at its start. Whatever the rows, weights stay finite.
"""

from abc import ABC, abstractmethod

import msgspec
import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

# The papers name neither; these served the baselines best, of 0.003 to 0.3 and of 0.98 to 0.9995, after a training on
# one emulated load and over three others (the same models, other models, all). Rows that recursive least squares
# effectively remembers are 1 / (1 - FORGETTING).
LEARNING_RATE = 0.03
FORGETTING = 0.998
START_COVARIANCE = 10.0
_LEAST_SINGULAR = 1e-10  # relative; below it, least squares takes the smallest weights


class _Kept(msgspec.Struct):
    weights: list[float]
    gram: list[list[float]]
    moment: list[float]
    rows: int
    fitted: bool
    covariance: list[list[float]]


class Regression(ABC):
    """See the module's text. The first feature is the constant 1, and before anything is learned y is 1."""

    def __init__(self, features: int) -> None:
        self.weights: Vector = np.zeros(features)
        self.weights[0] = 1.0
        self.rows = 0  # collected for `fit`
        self.fitted = False
        self._gram = np.zeros((features, features))
        self._moment = np.zeros(features)

    def predict(self, x: Vector) -> float:
        """The scalar product of weights and row."""
        return float(self.weights @ x)

    def learn(self, x: Vector, y: float) -> None:
        """Takes a row."""
        if not self.fitted:
            self._gram += np.outer(x, x)
            self._moment += x * y
            self.rows += 1
        self._step(x, y)

    @abstractmethod
    def _step(self, x: Vector, y: float) -> None:
        """Moves the weights by one row."""

    def fit(self) -> None:
        """Least squares over all rows so far; where they leave weights undecided, the nearest to the start."""
        if self.fitted or not self.rows:
            return
        start = np.zeros(len(self.weights))
        start[0] = 1.0
        solved = np.linalg.lstsq(self._gram, self._moment - self._gram @ start, rcond=_LEAST_SINGULAR)[0]
        self.weights, self.fitted = start + solved, True

    def dump(self) -> bytes:
        """All of it."""
        kept = _Kept(
            self.weights.tolist(),
            self._gram.tolist(),
            self._moment.tolist(),
            self.rows,
            self.fitted,
            self._covariance(),
        )
        return msgspec.msgpack.encode(kept)

    def restore(self, state: bytes) -> None:
        """Becomes what was dumped. Raises ValueError if that is of another size."""
        kept = msgspec.msgpack.decode(state, type=_Kept)
        if len(kept.weights) != len(self.weights):
            raise ValueError(f"kept weights are {len(kept.weights)} numbers, {len(self.weights)} are expected")
        self.weights, self.rows, self.fitted = np.array(kept.weights), kept.rows, kept.fitted
        self._gram, self._moment = np.array(kept.gram), np.array(kept.moment)
        self._restore_covariance(kept.covariance)

    def _covariance(self) -> list[list[float]]:
        return []

    def _restore_covariance(self, kept: list[list[float]]) -> None:
        if kept:
            raise ValueError("kept weights have a covariance, none is expected")


class Offline(Regression):
    """Least squares over what it was given before `fit()`."""

    def _step(self, x: Vector, y: float) -> None:
        """Nothing."""


class Sgd(Regression):
    """Plain stochastic gradient descent on the squared error, with a step that never overshoots its row."""

    def _step(self, x: Vector, y: float) -> None:
        rate = min(LEARNING_RATE, 1.0 / float(x @ x))
        self.weights = self.weights + (rate * (y - self.predict(x))) * x


class Rls(Regression):
    """Recursive least squares with exponential forgetting."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self._p: Vector = np.eye(features) * START_COVARIANCE

    def _step(self, x: Vector, y: float) -> None:
        px = self._p @ x
        scale = 1.0 / (FORGETTING + float(x @ px))
        self.weights = self.weights + px * (scale * (y - self.predict(x)))
        self._p -= np.outer(px, px) * scale  # exactly symmetric, or forgetting lets the difference grow without end
        # Directions that little excites must not wind up, or the next row that does throws the weights about.
        if float(self._p.trace()) < START_COVARIANCE * len(x):
            self._p /= FORGETTING

    def fit(self) -> None:
        """Goes on from least squares as if it had forgotten on the way there."""
        before = self.fitted
        super().fit()
        if self.fitted and not before:
            remembered = min(1.0, 1.0 / (1.0 - FORGETTING) / self.rows)
            self._p[:] = np.linalg.inv(remembered * self._gram + np.eye(len(self.weights)) / START_COVARIANCE)

    def _covariance(self) -> list[list[float]]:
        kept: list[list[float]] = self._p.tolist()
        return kept

    def _restore_covariance(self, kept: list[list[float]]) -> None:
        self._p = np.array(kept)
        if self._p.shape != (len(self.weights),) * 2:
            raise ValueError(f"a kept covariance is {self._p.shape}, {len(self.weights)} squared is expected")
