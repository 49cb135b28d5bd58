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
from cotenant.runtime.estimates import BatchClass

# As `ProfileBasis` of the contract, by name.
Basis = Literal["NSIGHT", "OPERATORS", "MODEL", "OUTSIDE", "EMULATED"]
RESOURCES = ("sm", "l2", "dram")


class Solo(NamedTuple):
    """What is known of a class that ran alone."""

    batch_class: BatchClass
    work_ns: int  # median of a run
    cpu_ns: int  # CPU time of that run
    memory_bytes: int  # of the model
    io_bytes: int  # of inputs and outputs
    operators: Sequence[Operator] = ()  # none where they cannot be counted
    kernels: KernelProfiles | None = None


class Demand(NamedTuple):
    """Shares of RESOURCES in [0, 1], and what they rest on."""

    shares: tuple[float, ...]
    basis: Basis


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
        return Demand(found, "NSIGHT")
    if solo.operators:
        sm, l2, dram = _counted(solo.operators, solo.work_ns, peaks, peaks.private_bytes * threads)
        basis: Basis = "OPERATORS" if any(operator.duration_ns for operator in solo.operators) else "MODEL"
        return Demand((_share(occupied if cores else sm), _share(l2), _share(dram)), basis)
    touched = solo.memory_bytes + solo.io_bytes
    moved = touched / (max(1, solo.work_ns) / 1e9) / peaks.memory_bytes_per_s
    # Nothing tells what the processors of a GPU do: as busy as can be is the safe side.
    return Demand((_share(occupied) if cores else 1.0, _share(touched / peaks.cache_bytes), _share(moved)), "OUTSIDE")


def _counted(operators: Sequence[Operator], work_ns: int, peaks: Peaks, private_bytes: int) -> tuple[float, ...]:
    """Mean over the run of each operator's rates over the peaks, none above 1 for as long as it runs."""
    total_ns = sum(operator.duration_ns for operator in operators)
    scale = min(1.0, work_ns / total_ns) if total_ns else 0.0  # tracing makes operators longer, never shorter
    footprint = sum(o.weight_bytes for o in operators) + max(o.activation_bytes for o in operators)
    busy_s = [0.0, 0.0, 0.0]
    for operator in operators:
        needed_s = (
            operator.flops / rate if (rate := peaks.product_rate(operator.element_bytes)) else 0.0,
            _missed(operator, footprint, private_bytes) / peaks.cache_bytes_per_s,
            _missed(operator, footprint, peaks.cache_bytes) / peaks.memory_bytes_per_s,
        )
        longest_s = operator.duration_ns * scale / 1e9 if total_ns else float("inf")
        busy_s = [busy + min(needed, longest_s) for busy, needed in zip(busy_s, needed_s, strict=True)]
    return tuple(busy / (max(1, work_ns) / 1e9) for busy in busy_s)


def _missed(operator: Operator, footprint: int, capacity: int) -> float:
    """Bytes that an operator does not find in a cache."""
    touched = operator.weight_bytes + operator.activation_bytes
    return operator.activation_bytes * _beyond(touched, capacity) + operator.weight_bytes * _beyond(footprint, capacity)


def _beyond(size: int, capacity: int) -> float:
    return max(0.0, 1 - capacity / size) if size else 0.0


def _share(value: float) -> float:
    return min(1.0, value)
