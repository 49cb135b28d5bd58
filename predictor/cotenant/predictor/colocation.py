"""May these share a device, and what will it cost each? The plain answer, and why."""

from collections.abc import Sequence
from typing import cast

from cotenant.predictor.codec import put_class
from cotenant.predictor.known_device import KnownDevice
from cotenant.predictor.observations import Running
from cotenant.predictor.sets import SetKey
from cotenant.runtime.estimates import BatchClass, ClassEstimate, factor_at
from cotenant.v1 import predictor_pb2 as pb

WIDE = 2.0  # the factor where no bound is known


def answer(known: KnownDevice, batches: Sequence[BatchClass], level: float) -> pb.EstimateColocationResponse:
    """What sharing costs each while all of them run. Raises KeyError for a class never heard of."""
    estimates = [known.estimate(batch_class, (level,)) for batch_class in batches]
    slowdowns: list[float] = []
    response = pb.EstimateColocationResponse()
    for i, estimate in enumerate(estimates):
        others = tuple(sorted((*batches[:i], *batches[i + 1 :])))
        slowdown = known.slowdown(SetKey(estimate.batch_class, others)) if others else 1.0
        slowdowns.append(slowdown)
        factor = max(1.0, factor_at(estimate.quantiles, level, len(others), default=WIDE))
        member = response.members.add(
            work_ns=estimate.work_ns,
            slowdown=slowdown,
            slowdown_bound=factor * slowdown,
            sample_count=estimate.sample_count,
            basis=cast("pb.Basis", estimate.basis),
        )
        put_class(member.batch_class, estimate.batch_class)
    response.throughput_gain = _gain(known, estimates, slowdowns)
    response.explanation = explain(known, estimates, response.throughput_gain)
    return response


def _gain(known: KnownDevice, estimates: Sequence[ClassEstimate], slowdowns: Sequence[float]) -> float:
    """Solo times added, over the time all take if they start together; 1 for one batch, 0 where a time is unknown."""
    if any(not e.work_ns for e in estimates):
        return 0.0
    ends: list[float] = []
    for i, estimate in enumerate(estimates):
        beside = [Running(e.batch_class, ()) for e in (*estimates[:i], *estimates[i + 1 :])]
        slowdown = known.model.learner.forecast(estimate.batch_class, beside) if beside else 1.0
        ends.append(estimate.work_ns * min(slowdowns[i], max(1.0, slowdown)))
    return sum(e.work_ns for e in estimates) / max(ends)


def explain(known: KnownDevice, estimates: Sequence[ClassEstimate], gain: float) -> str:
    """Which resource is short and who asks for it, whether sharing pays, and how much this rests on."""
    parts = [_resources(known, estimates)]
    if len(estimates) > 1 and gain:
        parts.append(f"together they finish {gain:.2f} times as fast as one after another")
    if guessed := [str(e.batch_class) for e in estimates if not e.sample_count]:
        parts.append(f"not measured yet: {', '.join(dict.fromkeys(guessed))}")
    elif borrowed := [str(e.batch_class) for e in estimates if e.batch_class in known.inherited]:
        parts.append(f"known from another device of this make: {', '.join(dict.fromkeys(borrowed))}")
    return "; ".join(parts)


def _resources(known: KnownDevice, estimates: Sequence[ClassEstimate]) -> str:
    demands = [(e, e.demand) for e in estimates if any(e.demand)]
    if not demands:
        return "no resource profile is known"
    totals = [sum(d[k] for _, d in demands if k < len(d)) for k in range(max(len(d) for _, d in demands))]
    k = max(range(len(totals)), key=totals.__getitem__)
    names = known.spec.resources
    name = names[k] if k < len(names) else f"resource {k}"
    if totals[k] <= 1.0:
        return f"no resource is oversubscribed; {name} is used most, {totals[k]:.0%} of it"
    most, demand = max(demands, key=lambda row: row[1][k] if k < len(row[1]) else 0.0)
    return f"{name} is oversubscribed: {totals[k]:.0%} of it is asked for, {demand[k]:.0%} by {most.batch_class}"
