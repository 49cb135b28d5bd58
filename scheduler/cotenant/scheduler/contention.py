"""How batches on one device progress beside each other.

Theory. A batch needs `work_ns` of solo time. While a set of batches shares the device, each progresses at
`progress_rate(class, co-runners)` <= 1; it ends when the integral of its rate over time reaches its work. Between
two changes of the set all rates are constant, so finish times follow by rolling from departure to departure: with n
batches at most n rounds, each with one look-up of the set's rates. Nothing here knows queues, deadlines or clocks.
"""

from collections.abc import Sequence

from cotenant.runtime.estimates import BatchClass, EstimateTable


def advance(
    table: EstimateTable, classes: Sequence[BatchClass], remaining_ns: Sequence[float], duration_ns: int
) -> list[float]:
    """Remaining solo work of each batch after all have run together for `duration_ns`; never below zero."""
    rates = table.set_rates(tuple(classes))
    return [max(0.0, left - rate * duration_ns) for left, rate in zip(remaining_ns, rates, strict=True)]


def finish_offsets(table: EstimateTable, classes: Sequence[BatchClass], remaining_ns: Sequence[float]) -> list[int]:
    """Time from now until each batch ends, in ns, if nothing is added: departures speed up those that stay."""
    order = sorted(range(len(classes)), key=lambda i: (classes[i], i))
    left = [remaining_ns[i] for i in order]
    present = [classes[i] for i in order]
    offsets = [0] * len(classes)
    elapsed = 0.0
    while present:
        rates = table.set_rates(tuple(present))
        step = min(work / rate for work, rate in zip(left, rates, strict=True))
        elapsed += step
        for i in range(len(present) - 1, -1, -1):
            left[i] -= rates[i] * step
            if left[i] <= 1.0:  # less than a nanosecond of work: rounding
                offsets[order[i]] = round(elapsed)
                del left[i], present[i], order[i]
    return offsets
