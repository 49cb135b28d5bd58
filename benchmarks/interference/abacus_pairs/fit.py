"""Fitting a law by gradient on the logarithm of the makespan; forecasts for any rows."""

from collections.abc import Callable

import numpy as np
import torch

from .dataset import Floats, Groups, Ints
from .law import Batch, Law

ROWS_PER_STEP = 2048
STEP, WARM_UP = 0.02, 0.15  # largest step of Adam's one-cycle schedule, and the share of steps it rises for
CORNER2 = 1e-5  # |r| is smoothed as sqrt(r^2 + CORNER2): the fit is of medians, and differentiable


def fit(law: Law, groups: Groups, rows: Ints, epochs: int, seed: int) -> float:
    """Fits in place; returns the loss of the last epoch."""
    parameters = list(law.parameters.values())
    optimizer = torch.optim.Adam(parameters, lr=STEP, betas=(0.9, 0.98))
    steps = max(1, len(rows) // ROWS_PER_STEP)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, STEP, total_steps=epochs * steps, pct_start=WARM_UP)
    target = torch.from_numpy(np.log(groups.makespan_us)).float()
    random = np.random.default_rng(seed)
    loss_of_epoch = 0.0
    for _ in range(epochs):
        loss_of_epoch = 0.0
        for chunk in np.array_split(random.permutation(rows), steps):
            residual = torch.log(law.forecast(Batch.of(groups, chunk))) - target[chunk]
            loss = torch.sqrt(residual**2 + CORNER2).mean() + law.penalty(len(rows))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            loss_of_epoch += loss.item() / steps
    return loss_of_epoch


def evaluate(function: Callable[[Batch], torch.Tensor], groups: Groups, rows: Ints) -> Floats:
    """A law's `forecast` or `solo` for rows; the last axis is the rows'."""
    with torch.no_grad():
        chunks = np.array_split(rows, max(1, len(rows) // (4 * ROWS_PER_STEP)))
        return np.concatenate([function(Batch.of(groups, chunk)).double().numpy() for chunk in chunks], axis=-1)
