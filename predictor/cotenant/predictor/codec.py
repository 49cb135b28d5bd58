"""From what is believed to the contract's messages."""

import math
from collections.abc import Sequence
from typing import cast

from cotenant.runtime.estimates import BatchClass, ClassEstimate, QuantileFactor, sound_phases
from cotenant.v1 import predictor_pb2 as pb
from cotenant.v1 import types_pb2


def read_class(message: types_pb2.BatchClass) -> BatchClass:
    """A class of batches."""
    return BatchClass(message.model, message.version, message.batch_size, message.shape_bucket)


def put_class(message: types_pb2.BatchClass, known: BatchClass) -> None:
    """Writes a class of batches."""
    message.model, message.version = known.model, known.version
    message.batch_size, message.shape_bucket = known.batch_size, known.shape_bucket


def sound(estimate: ClassEstimate) -> bool:
    """Whether all its numbers are some: learners may be anybody's."""
    delays = [correction.delay for correction in estimate.corrections]
    numbers = (*estimate.demand, *estimate.sensitivity, *delays, estimate.kernel_ns)
    return (
        estimate.work_ns >= 0
        and all(map(math.isfinite, numbers))
        and sound_phases(estimate.phases, len(estimate.demand))
        and all(math.isfinite(q.factor) and q.factor >= 1.0 for q in estimate.quantiles)
    )


def put_estimate(message: pb.ClassEstimate, device_id: str, estimate: ClassEstimate) -> None:
    """Writes an estimate."""
    message.device_id = device_id
    put_class(message.batch_class, estimate.batch_class)
    message.work_ns = estimate.work_ns
    message.demand.extend(estimate.demand)
    message.sensitivity.extend(estimate.sensitivity)
    for correction in estimate.corrections:
        put_class(message.corrections.add(delay=correction.delay).co_runner, correction.co_runner)
    for q in estimate.quantiles:
        message.quantiles.add(level=q.level, factor=q.factor, co_runner_count=q.co_runner_count)
    message.sample_count = estimate.sample_count
    message.basis = cast("pb.Basis", estimate.basis)
    message.kernel_ns = estimate.kernel_ns
    for phase in estimate.phases:
        message.phases.add(end=phase.end, demand=phase.demand, kernel_ns=phase.kernel_ns)


def put_set(
    message: pb.SetEstimate,
    device_id: str,
    victim: BatchClass,
    co_runners: Sequence[BatchClass],
    slowdown: float,
    sample_count: int,
    quantiles: Sequence[QuantileFactor],
) -> None:
    """Writes an explicit value."""
    message.device_id, message.slowdown, message.sample_count = device_id, slowdown, sample_count
    put_class(message.batch_class, victim)
    for other in co_runners:
        put_class(message.co_runners.add(), other)
    for q in quantiles:
        message.quantiles.add(level=q.level, factor=q.factor, co_runner_count=q.co_runner_count)
