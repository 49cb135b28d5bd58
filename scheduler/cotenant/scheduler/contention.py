"""How batches on one device progress beside each other: the contract's rates, rolled forward.

Nothing here knows queues, deadlines or clocks. `cotenant.runtime.rolling` has the theory.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import TypeVar

from cotenant.runtime import rolling
from cotenant.runtime.estimates import BatchClass, EstimateTable

_Number = TypeVar("_Number", int, float)


class Together:
    """Batches that run together, ready to be rolled: in the order of their classes, so that a set is one set.

    `order` tells of each batch, in that order, its number among those it was made of. It holds as long as the table's
    `revision` does.
    """

    __slots__ = ("classes", "order", "revision", "stages", "table", "work_ns")

    def __init__(self, table: EstimateTable, classes: Sequence[BatchClass], work_ns: Sequence[float]) -> None:
        self.table, self.revision = table, table.revision
        self.order = list(range(len(classes)))
        if len(classes) > 1:
            self.order.sort(key=lambda i: (classes[i], i))
        self.classes = tuple([classes[i] for i in self.order])
        self.stages = [table.stages(known) for known in self.classes]
        self.work_ns = [work_ns[i] for i in self.order]

    def advance(self, remaining_ns: Sequence[float], duration_ns: int) -> list[float]:
        """Remaining solo work of each batch after all have run together for `duration_ns`; never below zero."""
        if len(self.order) == 1 and len(self.stages[0]) == 1:
            left_ns = remaining_ns[0] - duration_ns
            return [left_ns if left_ns > rolling.ROUNDING_NS else 0.0]
        left = [remaining_ns[i] for i in self.order]
        found = rolling.advance(self.table.rates, self.stages, self.work_ns, left, duration_ns)
        return self._in_turn(found)

    def finish_offsets(self, remaining_ns: Sequence[float]) -> list[int]:
        """Time from now until each batch ends, in ns, if nothing is added: departures speed up those that stay."""
        left = [remaining_ns[i] for i in self.order]
        found = rolling.finish_offsets(self.table.rates, self.stages, self.work_ns, left)
        return self._in_turn([round(offset) for offset in found])

    def finish_offsets_with(self, remaining_ns: Sequence[float], extra: BatchClass, work_ns: int) -> list[int]:
        """The same with one more, which begins now and is the last of what is returned."""
        if not self.order:
            return [work_ns]  # alone it takes what it takes
        at = bisect_right(self.classes, extra)
        stages, works, left = list(self.stages), list(self.work_ns), [remaining_ns[i] for i in self.order]
        stages.insert(at, self.table.stages(extra))
        works.insert(at, work_ns)
        left.insert(at, float(work_ns))
        found = [round(offset) for offset in rolling.finish_offsets(self.table.rates, stages, works, left)]
        own = found.pop(at)
        found = self._in_turn(found)
        found.append(own)
        return found

    def _in_turn(self, found: list[_Number]) -> list[_Number]:
        if len(found) < 2:
            return found
        told = list(found)
        for i, one in zip(self.order, found, strict=True):
            told[i] = one
        return told


def advance(
    table: EstimateTable,
    classes: Sequence[BatchClass],
    work_ns: Sequence[float],
    remaining_ns: Sequence[float],
    duration_ns: int,
) -> list[float]:
    """See `Together.advance`."""
    return Together(table, classes, work_ns).advance(remaining_ns, duration_ns)


def finish_offsets(
    table: EstimateTable, classes: Sequence[BatchClass], work_ns: Sequence[float], remaining_ns: Sequence[float]
) -> list[int]:
    """See `Together.finish_offsets`."""
    return Together(table, classes, work_ns).finish_offsets(remaining_ns)
