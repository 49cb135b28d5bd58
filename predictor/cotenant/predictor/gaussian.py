"""A Gaussian belief over some numbers, with forgetting that cannot wind up."""

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]


_STRIDE = 8  # steps of forgetting that are done at once


class Belief:
    """Mean and covariance of a block of numbers, updated by a Kalman filter.

    Between updates numbers drift back towards a prior as a stationary process does (P <- a²P + (1 - a²)P0): old
    evidence is forgotten, and where nothing is seen for long the uncertainty returns to the prior's and never grows
    beyond it.
    """

    def __init__(self, prior: Vector, spreads: Vector, memory: float) -> None:
        """`spreads`: standard deviations of the prior; `memory`: a²."""
        self.prior = prior
        self.mean = prior.copy()
        self._variances = spreads * spreads
        self._memory = memory**_STRIDE
        self._keep = self._memory**0.5
        self.covariance = np.diag(self._variances)
        self._diagonal = slice(None, None, len(prior) + 1)
        self._passed = 0

    def pass_time(self) -> None:
        """One step of forgetting; it is done for several at once."""
        self._passed += 1
        if self._passed < _STRIDE:
            return
        self._passed = 0
        self.mean = self.prior + (self.mean - self.prior) * self._keep
        self.covariance *= self._memory
        self.covariance.ravel()[self._diagonal] += (1.0 - self._memory) * self._variances

    def take(self, gain: Vector, spread: float, error: float) -> None:
        """One equation: `gain` is the covariance times the equation's slope, `spread` the variance of `error`."""
        self.mean = self.mean + gain * (error / spread)
        self.covariance -= np.multiply.outer(gain, gain / spread)

    def measured(self, index: int, spread: float) -> None:
        """One of the numbers was told from elsewhere, with this standard deviation."""
        self._variances[index] = spread * spread
        self.covariance[index, :] = self.covariance[:, index] = 0.0
        self.covariance[index, index] = spread * spread

    def open(self, spreads: Vector) -> None:
        """What is believed has changed: this uncertainty round the present mean."""
        self.covariance = np.diag(spreads * spreads)

    def restore(self, mean: list[float], covariance: list[list[float]]) -> None:
        """Becomes a belief that was kept. Raises ValueError if it is of another size."""
        kept, spread = np.array(mean), np.array(covariance)
        if kept.shape != self.mean.shape or spread.shape != self.covariance.shape:
            raise ValueError(f"kept beliefs are of {len(mean)} numbers, {len(self.mean)} are expected")
        self.mean, self.covariance = kept, spread
