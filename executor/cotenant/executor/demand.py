"""What share of a device's resources a batch class keeps busy when alone: the rule from measurements to a vector.

The best source that there is counts, and the vector says which: Nsight Compute's own measurement; else operations and
bytes that were counted, over measured time and the device's peaks; else an estimate from outside.

What batches share of a CPU's processors is cores: one that waits for memory is as occupied as one that multiplies, and
two that multiply on two cores do not slow each other. So "sm" is CPU time there, and operations per second elsewhere.

Counted bytes go through a hierarchy. What an operator takes from the one before it is still in a cache that holds all
that this operator touches; weights were last touched a run ago, so they are still in a cache that holds the whole run.
Of what does not fit, the part that exceeds the cache is missed. Misses of a core's own caches load the shared one
("l2"), misses of that one load the memory ("dram"). On a GPU no cache before L2 outlasts a kernel.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from cotenant.executor.backend import Operator
from cotenant.executor.nsight import KernelProfiles
from cotenant.executor.peaks import Peaks
from cotenant.executor.phases import Cut, Piece, cut
from cotenant.runtime.estimates import BatchClass, Phase

# As `ProfileBasis` of the contract, by name.
Basis = Literal["NSIGHT", "OPERATORS", "MODEL", "OUTSIDE", "EMULATED"]
RESOURCES = ("sm", "l2", "dram")


class Solo(NamedTuple):
    """What is known of a class that ran alone."""

    batch_class: BatchClass
    work_ns: int  # median of a run
    cpu_ns: int  # CPU time of that run
    weight_bytes: int  # what a run reads of the model: its weights, or all it occupies where these are not told apart
    io_bytes: int  # of inputs and outputs
    operators: Sequence[Operator] = ()  # none where they cannot be counted
    kernels: KernelProfiles | None = None


class Demand(NamedTuple):
    """Shares of RESOURCES in [0, 1], and what they rest on."""

    shares: tuple[float, ...]
    basis: Basis
    kernel_ns: float = 0.0  # mean duration of its kernels; 0 if unknown
    phases: tuple[Phase, ...] = ()  # where it is not the same all along


def of_solo(solo: Solo, peaks: Peaks, *, cores: int, threads: int) -> Demand:
    """The demand of a class on a device.

    Args:
        solo: what was measured and counted.
        peaks: of the device.
        cores: that batches of a CPU share; 0 for a device that is not one.
        threads: cores that one batch may use.
    """
    occupied = solo.cpu_ns / max(1, solo.work_ns) / cores if cores else 0.0
    known = solo.batch_class
    if solo.kernels and (found := solo.kernels.demand(known.batch_size, known.shape_bucket, solo.work_ns)):
        return Demand(found.demand, "NSIGHT", found.kernel_ns, found.phases)
    if solo.operators:
        busy_s = _counted(solo.operators, solo.work_ns, peaks, peaks.private_bytes * threads)
        run_s = max(1, solo.work_ns) / 1e9
        sm, l2, dram = (sum(column) / run_s for column in zip(*busy_s, strict=True))
        shares = (_share(occupied if cores else sm), _share(l2), _share(dram))
        if not any(operator.duration_ns for operator in solo.operators):
            return Demand(shares, "MODEL")
        found = _cut(solo.operators, busy_s, run_s, occupied if cores else None)
        return Demand(shares, "OPERATORS", found.kernel_ns, found.phases)
    touched = solo.weight_bytes + solo.io_bytes
    moved = touched / (max(1, solo.work_ns) / 1e9) / peaks.memory_bytes_per_s
    # Nothing tells what the processors of a GPU do: as busy as can be is the safe side.
    return Demand((_share(occupied) if cores else 1.0, _share(touched / peaks.cache_bytes), _share(moved)), "OUTSIDE")


def _cut(
    operators: Sequence[Operator], busy_s: Sequence[tuple[float, ...]], run_s: float, occupied: float | None
) -> Cut:
    """Phases of a run; `occupied` is the share of the processors throughout, where they are a CPU's.

    What passes between operators is spread over them. Operators of a CPU are no kernels that others wait for.
    """
    total_ns = sum(operator.duration_ns for operator in operators)
    pieces = []
    for operator, (sm, l2, dram) in zip(operators, busy_s, strict=True):
        if lasts_s := run_s * operator.duration_ns / total_ns:
            shares = (
                _share(sm / lasts_s if occupied is None else occupied),
                _share(l2 / lasts_s),
                _share(dram / lasts_s),
            )
            pieces.append(Piece(lasts_s * 1e9, float(operator.duration_ns) if occupied is None else 0.0, shares))
    return cut(pieces)


def _counted(
    operators: Sequence[Operator], work_ns: int, peaks: Peaks, private_bytes: int
) -> list[tuple[float, float, float]]:
    """For how many seconds each operator keeps each resource busy, at its peak, and never longer than it runs."""
    total_ns = sum(operator.duration_ns for operator in operators)
    scale = min(1.0, work_ns / total_ns) if total_ns else 0.0  # tracing makes operators longer, never shorter
    footprint = sum(o.weight_bytes for o in operators) + max(o.activation_bytes for o in operators)
    busy_s: list[tuple[float, float, float]] = []
    for operator in operators:
        rate = peaks.product_rate(operator.element_bytes)
        longest_s = operator.duration_ns * scale / 1e9 if total_ns else float("inf")
        busy_s.append(
            (
                min(longest_s, operator.flops / rate if rate else 0.0),
                min(longest_s, _missed(operator, footprint, private_bytes) / peaks.cache_bytes_per_s),
                min(longest_s, _missed(operator, footprint, peaks.cache_bytes) / peaks.memory_bytes_per_s),
            )
        )
    return busy_s


def _missed(operator: Operator, footprint: int, capacity: int) -> float:
    """Bytes that an operator does not find in a cache."""
    touched = operator.weight_bytes + operator.activation_bytes
    return operator.activation_bytes * _beyond(touched, capacity) + operator.weight_bytes * _beyond(footprint, capacity)


def _beyond(size: int, capacity: int) -> float:
    return max(0.0, 1 - capacity / size) if size else 0.0


def _share(value: float) -> float:
    return min(1.0, value)
