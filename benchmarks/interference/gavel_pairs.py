"""The measured pairs of the Gavel data set: jobs by number, slowdowns as matrices of victim x aggressor.

What is not known is NaN.
"""

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from low_rank import Matrix

from cotenant.runtime.estimates import BatchClass

GPUS = ("k80", "p100", "v100")
Pair = tuple[int, int]


class Jobs:
    """The jobs by number, and their matrices of slowdowns."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError if the file holds no measured pair."""
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        measured = [row for row in rows if row["slowdown_a"]]
        if not measured:
            raise ValueError(f"{path}: no row has a slowdown")
        self.rows, self.measured = len(rows), len(measured)
        self.names = sorted({row["job_a"] for row in measured})
        number = {name: i for i, name in enumerate(self.names)}
        self.classes = [_class(name) for name in self.names]
        self.slowdowns = {gpu: np.full((len(number), len(number)), np.nan) for gpu in GPUS}
        self.work_ns: dict[str, dict[int, int]] = {gpu: {} for gpu in GPUS}
        for row in measured:
            a, b = number[row["job_a"]], number[row["job_b"]]
            self.slowdowns[row["gpu"]][a, b] = float(row["slowdown_a"])
            self.work_ns[row["gpu"]][a] = round(1e9 / float(row["solo_a_steps_s"]))


def _class(name: str) -> BatchClass:
    size = re.search(r"\(batch size (\d+)\)", name)
    return BatchClass(name.partition(" (")[0], "1", int(size[1]) if size else 1)


def pairs(slowdowns: Matrix) -> list[Pair]:
    """Pairs that were measured, each once."""
    return [(a, b) for a, b in np.argwhere(~np.isnan(slowdowns)).tolist() if a <= b]


def only(slowdowns: Matrix, chosen: Iterable[Pair]) -> Matrix:
    """The matrix with these pairs alone, in both directions."""
    kept = np.full_like(slowdowns, np.nan)
    for a, b in chosen:
        kept[a, b], kept[b, a] = slowdowns[a, b], slowdowns[b, a]
    return kept


def shuffled(slowdowns: Matrix, seed: int) -> list[Pair]:
    """All pairs in random order."""
    found = pairs(slowdowns)
    return [found[i] for i in np.random.default_rng(seed).permutation(len(found))]


def mean_of(several: Sequence[Matrix]) -> Matrix:
    """Geometric mean of what was measured."""
    logs = np.log(np.stack(several))
    count = (~np.isnan(logs)).sum(axis=0)
    return np.where(count > 0, np.exp(np.nansum(logs, axis=0) / np.maximum(1, count)), np.nan)
