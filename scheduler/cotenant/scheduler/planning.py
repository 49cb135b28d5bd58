"""Forecasts that policies share: of one launch, and of everything that waits.

Pure arithmetic on the books. A *forecast* rolls the batches that run and one candidate to their ends. A *plan* lists
what waits onto the device's lanes, most urgent first, at the rates expected beside what the other lanes then hold:
coarser, but its cost grows with the number of batches that wait and not with what they do to each other.
"""

from heapq import heapify, heappop, heappush, heapreplace
from typing import NamedTuple

from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler.books import Device, Queue
from cotenant.scheduler.events import Forecast, Request

# A plan looks this many batches ahead. Admission keeps queues far shorter; only observe-only mode can exceed it.
PLAN_LIMIT = 256


class Candidate(NamedTuple):
    """A launch under consideration, with what it would do."""

    batch_class: BatchClass
    requests: list[Request]
    forecast: Forecast
    deadline_ns: int  # most urgent deadline in it; 0 if none
    mean_finish_ns: int
    bound_finish_ns: int
    harms: bool  # a batch that runs would no longer end in time, by its bound


def class_of(queue: Queue, items: int) -> BatchClass:
    """The class of a batch of `items` from this queue."""
    return queue.class_of(items)


def earlier(a: int, b: int) -> int:
    """The earlier of two instants, of which 0 stands for none."""
    return min(a, b) if a and b else a or b


def most_urgent_deadline(requests: list[Request]) -> int:
    """The earliest deadline among requests; 0 if none has one."""
    return min((r.deadline_ns for r in requests if r.deadline_ns), default=0)


def solo_finish_ns(device: Device, request: Request, now_ns: int) -> int:
    """When a request would be answered at the earliest, if it ran alone from now on; with an unknown class, now."""
    work = device.work_ns(BatchClass(request.model, request.version, request.batch_size, request.shape_bucket))
    return now_ns + work + device.least_overhead_ns if work else now_ns


def consider(
    device: Device, queue: Queue, requests: list[Request], items: int, now_ns: int, level: float, caution: float = 1.0
) -> Candidate:
    """Forecasts the launch of `requests` now, beside what runs. The class's work must be known.

    `caution` is how much of the way from mean to bound counts where harm to others is judged.
    """
    batch_class = queue.class_of(items)
    work = device.work_ns(batch_class)
    co_runners = len(device.running)
    offsets = device.finish_offsets(batch_class, work)
    duration = offsets[-1]
    beside = [body.batch_class for body in device.running.values()] if device.table.sets else ()
    bound = int(duration * device.bound_factor(batch_class, level, co_runners, beside))
    beyond = device.order_ns + device.answer_overhead_ns
    return Candidate(
        batch_class,
        requests,
        Forecast(work, duration, bound, level, device.estimates_version, co_runners),
        most_urgent_deadline(requests),
        now_ns + duration + beyond,
        now_ns + bound + beyond,
        co_runners > 0 and harms(device, offsets, now_ns, level, caution),
    )


def harms(device: Device, offsets: list[int], now_ns: int, level: float, caution: float = 1.0) -> bool:
    """Whether a batch that would have ended in time no longer does, with the candidate beside it.

    By its bound at `level`, in the mean, or between the two: `caution` is the share of the way.
    """
    without = device.finish_offsets()
    for body, before, after in zip(device.running.values(), without, offsets, strict=False):
        if deadline := body.batch.deadline_ns:
            beside = max(1, body.batch.forecast.co_runner_count)
            factor = 1.0 + caution * (device.bound_factor(body.batch_class, level, beside) - 1.0)
            room = deadline - now_ns - device.answer_overhead_ns
            if after * factor > room >= before * factor:
                return True
    return False


class Plan(NamedTuple):
    """When what waits is expected to be answered."""

    finish_ns: dict[int, int]  # by request id, with the bound's factor applied to its own batch
    late: int  # requests expected to miss


def plan(device: Device, now_ns: int, level: float, tenant: str = "") -> Plan:
    """Lists all that waits onto lanes, in order of urgency.

    Requests of tenants who come after `tenant`, for they had more than their share, do not count among the late.
    """
    ranks = device.ranks
    last = ranks.get(tenant, 0)
    lanes = _lanes(device, now_ns)
    instances = _instance_ends(device, now_ns)
    heads = [(queue.urgency_at(0), queue.key, 0) for queue in device.queues.values()]
    heapify(heads)
    finish: dict[int, int] = {}
    late = 0
    for _ in range(PLAN_LIMIT):
        if not heads:
            break
        _, key, index = heads[0]
        queue = device.queues[key]
        requests, items = queue.batch_at(index)
        if (following := index + len(requests)) < len(queue):
            heapreplace(heads, (queue.urgency_at(following), key, following))
        else:
            heappop(heads)
        answered = _place(device, lanes, instances, queue, class_of(queue, items), level) + device.answer_overhead_ns
        for request in requests:
            finish[request.request_id] = answered
            if 0 < request.deadline_ns < answered and (not ranks or ranks.get(request.tenant, 0) <= last):
                late += 1
    return Plan(finish, late)


def _lanes(device: Device, now_ns: int) -> list[tuple[int, BatchClass]]:
    """A heap of (free from, last class): one lane for each batch that may run at once."""
    nothing = BatchClass("", "", 0)
    lanes = [(now_ns, nothing)] * max(0, device.spec.max_concurrency - len(device.running))
    lanes += [
        (now_ns + offset, body.batch_class)
        for offset, body in zip(device.finish_offsets(), device.running.values(), strict=True)
    ]
    heapify(lanes)
    return lanes


def _instance_ends(device: Device, now_ns: int) -> dict[tuple[str, str], list[int]]:
    """When the running batches of models with a limit on instances end."""
    ends: dict[tuple[str, str], list[int]] = {}
    for offset, body in zip(device.finish_offsets(), device.running.values(), strict=True):
        key = (body.batch_class.model, body.batch_class.version)
        if key in device.models and device.models[key].max_instances:
            heappush(ends.setdefault(key, []), now_ns + offset)
    return ends


def _place(
    device: Device,
    lanes: list[tuple[int, BatchClass]],
    instances: dict[tuple[str, str], list[int]],
    queue: Queue,
    batch_class: BatchClass,
    level: float,
) -> int:
    """Puts one batch on the lane that is free first; returns the bound of its end."""
    start = lanes[0][0]
    limit = queue.spec.max_instances
    ends = instances.setdefault(queue.key[:2], []) if limit else []
    if limit and len(ends) >= limit:  # a model that may run only so often waits for one of its own to end
        start = max(start, heappop(ends))
    others = [(free, other) for free, other in lanes[1:] if free > start and other.batch_size]
    beside = [other for _, other in others]
    work = device.work_ns(batch_class)
    # However slow beside them, it is no later than if it waited until they have ended.
    alone = max((free for free, _ in others), default=start) - start + work
    duration = min(work / device.table.progress_rate(batch_class, beside), alone)
    end = start + int(duration)
    heapreplace(lanes, (end, batch_class))
    if limit:
        heappush(ends, end)
    return start + int(duration * device.bound_factor(batch_class, level, len(beside), beside))
