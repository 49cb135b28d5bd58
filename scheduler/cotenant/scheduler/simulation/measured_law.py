"""Measured slowdowns for a law: a table of who beside whom, and for larger sets the product of pairs.

The table is CSV with the columns `model, batch_size, co_runner, co_runner_batch_size, slowdown`, or JSON: a list of
`{"model": ..., "batch_size": ..., "beside": [{"model": ..., "batch_size": ...}, ...], "slowdown": ...}`, which can tell
larger sets, too. A slowdown is of `model` while the others run beside it: its time over what it would take alone.

A set that was measured is what the table says. Of any other, each batch is slowed by the product of its pairs; a batch
size that was not measured is taken to be the nearest that was (by ratio). Every pair of models must be in the table.
"""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cotenant.executor.phases import Cut
from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler.simulation.laws import Memo, Part, Unrecorded

NOISE = 0.02  # relative standard deviation of a batch's work: repeat noise of measured pairs on GPUs is 1 to 3 %

_Sized = tuple[str, int]  # model and batch size
_Key = tuple[_Sized, tuple[_Sized, ...]]


class MeasuredLaw(Unrecorded):
    """See the module's text."""

    def __init__(
        self, path: Path, works_ns: Mapping[str, Mapping[int, float]], aliases: Mapping[str, str], concurrency: int
    ) -> None:
        """`works_ns` tells solo times by model and batch size; `aliases` what the table calls a model.

        Raises ValueError that names file and line for a table that is none, or lacks a pair.
        """
        self._works, self._aliases, self._concurrency = works_ns, aliases, concurrency
        self._told = dict(read(path))
        self._sizes: dict[tuple[str, str], set[tuple[int, int]]] = {}
        for own, beside in self._told:
            if len(beside) == 1:
                self._sizes.setdefault((own[0], beside[0][0]), set()).add((own[1], beside[0][1]))
        names = sorted({aliases[model] for model in works_ns})
        for one in names:
            for other in names:
                if (one, other) not in self._sizes:
                    raise ValueError(f"{path}: how '{one}' is slowed beside '{other}' is not in it")
        self._numbers: dict[_Sized, int] = {}
        self._classes: list[_Sized] = []
        self._parts: dict[BatchClass, tuple[Part, ...]] = {}
        self._memo = Memo()
        self._most = _most(self._told.values(), concurrency)

    def parts(self, batch_class: BatchClass) -> tuple[Part, ...]:
        """See `Law.parts`."""
        found = self._parts.get(batch_class)
        if found is None:
            sized = (self._aliases[batch_class.model], batch_class.batch_size)
            if sized not in self._numbers:
                self._numbers[sized] = len(self._classes)
                self._classes.append(sized)
            work = between(self._works[batch_class.model], batch_class.batch_size)
            found = self._parts[batch_class] = (Part(self._numbers[sized], work),)
        return found

    def rates(self, numbers: tuple[int, ...]) -> tuple[float, ...]:
        """See `Law.rates`."""
        if len(numbers) < 2:
            return (1.0,) * len(numbers)
        return self._memo.get(numbers) or self._memo.keep(numbers, self._found(numbers))

    def _found(self, numbers: tuple[int, ...]) -> tuple[float, ...]:
        sized = [self._classes[number] for number in numbers]
        rates = []
        for i, own in enumerate(sized):
            others = tuple(sorted(sized[:i] + sized[i + 1 :]))
            slowdown = self._told.get((own, others))
            if slowdown is None:
                slowdown = math.prod(self._pair(own, other) for other in others)
            rates.append(1.0 / max(1.0, slowdown))
        return tuple(rates)

    def _pair(self, own: _Sized, other: _Sized) -> float:
        """The slowdown at the sizes nearest to these."""
        sizes = self._sizes[own[0], other[0]]
        mine, theirs = min(sizes, key=lambda s: (abs(math.log(s[0] / own[1])) + abs(math.log(s[1] / other[1])), s))
        return self._told[(own[0], mine), ((other[0], theirs),)]

    def noise(self, batch_class: BatchClass) -> float:  # noqa: ARG002
        """See `Law.noise`."""
        return NOISE

    def profile(self, batch_class: BatchClass) -> Cut:  # noqa: ARG002
        """See `Law.profile`: nothing is known of demands."""
        return Cut((), 0.0, ())

    def spent(self, batch_class: BatchClass) -> tuple[float, ...]:
        """See `Law.spent`."""
        return (self.parts(batch_class)[0].work_ns / self._most,)


def _most(slowdowns: Iterable[float], concurrency: int) -> float:
    """The most progress a device can make: all it may run at once, each slowed as little as any ever was."""
    least = max(1.0, min(slowdowns))
    return max(k / least ** (1 if k > 1 else 0) for k in range(1, concurrency + 1))


def between(sizes: Mapping[int, float], size: int) -> float:
    """Linear between measured sizes; beyond the largest in proportion, below the smallest the same."""
    below = max((s for s in sizes if s <= size), default=0)
    above = min((s for s in sizes if s >= size), default=0)
    if not below:
        return sizes[above]
    if not above:
        return sizes[below] * size / below
    if below == above:
        return sizes[size]
    return sizes[below] + (sizes[above] - sizes[below]) * (size - below) / (above - below)


def read(path: Path) -> Iterator[tuple[_Key, float]]:
    """The rows of a table. Raises ValueError that names file and row."""
    rows = _json_rows(path) if path.suffix == ".json" else _csv_rows(path)
    for number, row in enumerate(rows, 1):
        try:
            own = (str(row["model"]), int(row["batch_size"]))
            beside = tuple(sorted((str(one["model"]), int(one["batch_size"])) for one in row["beside"]))
            slowdown = float(row["slowdown"])
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{path}, row {number}: not a measured slowdown: {error!r}") from error
        if not beside or not 0.0 < slowdown < math.inf or min(own[1], *(size for _, size in beside)) < 1:
            raise ValueError(f"{path}, row {number}: expected co-runners, batch sizes and a slowdown above 0")
        yield (own, beside), slowdown


def _json_rows(path: Path) -> list[Any]:
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list):
        raise ValueError(f"{path}: expected a list of measured slowdowns")
    return rows


def _csv_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            beside = [{"model": row.get("co_runner"), "batch_size": row.get("co_runner_batch_size")}]
            yield {**row, "beside": beside}
