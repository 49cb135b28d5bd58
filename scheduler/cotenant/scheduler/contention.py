"""How batches on one device progress beside each other: the contract's rates, rolled forward.

Nothing here knows queues, deadlines or clocks. `cotenant.runtime.rolling` has the theory.
"""

from collections.abc import Sequence

from cotenant.runtime import rolling
from cotenant.runtime.estimates import BatchClass, EstimateTable


def advance(
    table: EstimateTable,
    classes: Sequence[BatchClass],
    work_ns: Sequence[float],
    remaining_ns: Sequence[float],
    duration_ns: int,
) -> list[float]:
    """Remaining solo work of each batch after all have run together for `duration_ns`; never below zero."""
    return rolling.advance(table.rates, [table.stages(c) for c in classes], work_ns, remaining_ns, duration_ns)


def finish_offsets(
    table: EstimateTable, classes: Sequence[BatchClass], work_ns: Sequence[float], remaining_ns: Sequence[float]
) -> list[int]:
    """Time from now until each batch ends, in ns, if nothing is added: departures speed up those that stay."""
    # In the order of their classes, so that a set is looked up once however its batches are ordered.
    order = sorted(range(len(classes)), key=lambda i: (classes[i], i))
    stages = [table.stages(classes[i]) for i in order]
    found = rolling.finish_offsets(table.rates, stages, [work_ns[i] for i in order], [remaining_ns[i] for i in order])
    offsets = [0] * len(classes)
    for i, offset in zip(order, found, strict=True):
        offsets[i] = round(offset)
    return offsets
