"""Slowdowns of pairs as matrices, victim x aggressor, and ways to fill in what was not measured.

A fit takes a matrix of slowdowns with NaN where a pair was not seen, and returns one without: all that it would
predict. Ways that take `sibling` may begin from what another device's jobs were found to be.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

ROUNDS = 30  # of alternating least squares
MEAN_RIDGE = 1.0  # in rows: an effect seen once counts half


@dataclass(frozen=True)
class Factors:
    """slowdown = 1 + suffers @ presses.T, all of it >= 0."""

    suffers: Matrix  # [jobs, rank]
    presses: Matrix  # [jobs, rank]

    @property
    def slowdowns(self) -> Matrix:
        """[jobs, jobs]"""
        return 1.0 + self.suffers @ self.presses.T


def ignore(seen: Matrix) -> Matrix:
    """Nothing slows anything."""
    return np.ones_like(seen)


def mean(seen: Matrix) -> Matrix:
    """The geometric mean of all pairs."""
    return np.full_like(seen, np.exp(_overall(np.log(seen))))


def of_victim(seen: Matrix) -> Matrix:
    """The geometric mean of the victim's pairs, shrunk to that of all."""
    logs = np.log(seen)
    found: Matrix = np.exp(_overall(logs) + np.zeros_like(seen) + _effects(logs - _overall(logs))[:, None])
    return found


def of_aggressor(seen: Matrix) -> Matrix:
    """The geometric mean of the aggressor's pairs, shrunk to that of all."""
    return of_victim(seen.T).T


def two_way(seen: Matrix) -> Matrix:
    """log slowdown = overall + victim's effect + aggressor's effect."""
    logs = np.log(seen)
    overall = _overall(logs)
    victim, aggressor = np.zeros(len(seen)), np.zeros(len(seen))
    for _ in range(ROUNDS):
        victim = _effects(logs - overall - aggressor[None, :])
        aggressor = _effects((logs - overall - victim[:, None]).T)
    found: Matrix = np.exp(overall + victim[:, None] + aggressor[None, :])
    return found


def log_rank(rank: int, ridge: float = 0.3) -> Callable[[Matrix], Matrix]:
    """What two-way effects leave of the logarithms, as a product of factors of that rank."""

    def fit(seen: Matrix) -> Matrix:
        base = np.log(two_way(seen))
        left = np.log(seen) - base
        known = ~np.isnan(left)
        target, weights = np.where(known, left, 0.0), known.astype(float)
        start = np.random.default_rng(0).normal(0.0, 0.3, (2, len(seen), rank))
        u, v = start[0], start[1]
        for _ in range(ROUNDS):
            u = _solve(target, weights, v, np.zeros_like(u), ridge)
            v = _solve(target.T, weights.T, u, np.zeros_like(v), ridge)
        found: Matrix = np.exp(np.clip(base + u @ v.T, 0.0, None))
        return found

    return fit


def factorise(seen: Matrix, rank: int, sibling: Factors | None = None, ridge: float = 0.03) -> Factors:
    """Delays as products of non-negative factors, by alternating least squares of the relative error.

    Factors are drawn to the sibling's, all of them scaled alike to what was seen; without sibling, to the mean job.
    """
    known = ~np.isnan(seen)
    weights = np.where(known, 1.0 / np.where(known, seen, 1.0) ** 2, 0.0)
    target = np.where(known, seen - 1.0, 0.0)
    prior = sibling or _average_job(target, weights, len(seen), rank)
    told = prior.suffers @ prior.presses.T
    scale = ((weights * target * told).sum() + ridge) / ((weights * told * told).sum() + ridge)
    prior = Factors(prior.suffers * scale, prior.presses)
    suffers, presses = prior.suffers, prior.presses
    for _ in range(ROUNDS):
        suffers = np.clip(_solve(target, weights, presses, prior.suffers, ridge), 0.0, None)
        presses = np.clip(_solve(target.T, weights.T, suffers, prior.presses, ridge), 0.0, None)
    return Factors(suffers, presses)


def delay_rank(rank: int, ridge: float = 0.03) -> Callable[[Matrix], Matrix]:
    """`factorise` as a fit."""
    return lambda seen: factorise(seen, rank, ridge=ridge).slowdowns


def _average_job(target: Matrix, weights: Matrix, jobs: int, rank: int) -> Factors:
    """All jobs alike, but for what breaks the symmetry of the factors."""
    delay = float((weights * target).sum() / max(1e-9, weights.sum()))
    size = np.sqrt(max(0.01, delay) / rank)
    shape = 1.0 + 0.3 * np.random.default_rng(0).standard_normal((2, jobs, rank)) * (rank > 1)
    return Factors(size * np.clip(shape[0], 0.1, None), size * np.clip(shape[1], 0.1, None))


def _solve(target: Matrix, weights: Matrix, others: Matrix, prior: Matrix, ridge: float) -> Matrix:
    """Ridge regression of each row of `target` on `others`, towards `prior`."""
    gram = np.einsum("ab,bi,bj->aij", weights, others, others) + ridge * np.eye(others.shape[1])
    moment = np.einsum("ab,ab,bi->ai", weights, target, others) + ridge * prior
    solved: Matrix = np.linalg.solve(gram, moment[..., None])[..., 0]
    return solved


def _overall(logs: Matrix) -> float:
    return float(np.nanmean(logs)) if not np.isnan(logs).all() else 0.0


def _effects(left: Matrix) -> Matrix:
    """Mean of each row, shrunk to zero."""
    known = ~np.isnan(left)
    effects: Matrix = np.where(known, left, 0.0).sum(axis=1) / (known.sum(axis=1) + MEAN_RIDGE)
    return effects
