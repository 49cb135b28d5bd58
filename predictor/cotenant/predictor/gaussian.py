"""Linear equations learned one at a time, with forgetting that cannot wind up."""

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]


class Weights:
    """A Gaussian belief over a weight vector: recursive least squares in its Kalman form.

    Between updates weights drift back towards a prior as a stationary process does (P <- a²P + (1 - a²)P0): old
    equations are forgotten, and where nothing is seen for long the uncertainty returns to the prior's and never grows
    beyond it.
    """

    def __init__(self, prior: Vector, spread: float, memory: float, noise: float) -> None:
        """`spread`: standard deviation of the prior; `memory`: a²; `noise`: standard deviation of an equation."""
        self.prior = prior
        self.mean = prior.copy()
        self._spread2, self._noise2 = spread * spread, noise * noise
        self._memory = memory
        self._keep = memory**0.5
        self.covariance = np.eye(len(prior)) * self._spread2

    def learn(self, x: Vector, y: float) -> float:
        """Takes the equation y = w·x + noise; returns the error before the update."""
        self.mean = self.prior + (self.mean - self.prior) * self._keep
        self.covariance *= self._memory
        self.covariance.ravel()[:: len(self.mean) + 1] += (1.0 - self._memory) * self._spread2
        px = self.covariance @ x
        error = y - float(self.mean @ x)
        gain = px / (self._noise2 + float(x @ px))
        self.mean = self.mean + gain * error
        self.covariance -= np.outer(gain, px)
        return error

    def restore(self, mean: list[float], covariance: list[list[float]]) -> None:
        """Becomes a belief that was kept. Raises ValueError if it is of another size."""
        if np.shape(mean) != self.mean.shape or np.shape(covariance) != self.covariance.shape:
            raise ValueError(f"kept weights are {len(mean)} numbers, {len(self.mean)} are expected")
        self.mean, self.covariance = np.array(mean), np.array(covariance)
