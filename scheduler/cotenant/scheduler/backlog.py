"""All that waits for a device, as one stream of work: when each request would be answered, at the cost of one pass.

Theory. A device that runs k batches beside each other makes S units of solo progress per unit of time, S between 1 and
k: the sum of their progress rates. What is ahead of a request, running or more urgent, is W of solo work, so it is done
after W / S; the request's own batch then has a k-th of the device, and takes k / S of its work. A request in a batch of
b costs a b-th of that batch's work, so a queue that fills its batches costs less for each of its requests. This is
coarser than rolling batch by batch, but right in the mean where queues are long, which is where admission matters, and
it costs the same few additions for each request however many models wait.
"""

from bisect import bisect_left
from operator import itemgetter

from cotenant.scheduler.books import Device, Queue
from cotenant.scheduler.events import Request
from cotenant.scheduler.queues import Urgency

_queue_of = itemgetter(3)  # of an entry in line


def cost_ns(device: Device, queue: Queue, beside: int, level: float) -> tuple[float, float]:
    """What one request of a queue costs, and how long its batch takes on `beside` lanes; solo work.

    Its batch is the largest there is, or the largest there may be. The second goes from when the device has done what
    is ahead of it to the bound of its end: the last of what is ahead runs beside it, and began before.
    """
    items = min(queue.spec.max_batch_size, len(queue)) if queue.spec.batching else 1
    batch_class = queue.class_of(items)
    work = float(device.work_ns(batch_class))
    factor = device.bound_factor(batch_class, level, beside - 1)
    return work / items, work * (factor * beside - (beside - 1) / 2)


def shares_ns(device: Device, beside: int, level: float) -> dict[Queue, float]:
    """What one request of each queue costs; worked out again for queues that have changed since the last call."""
    kept = device.shares
    device.refresh()
    if kept.rest_on != device.beliefs:
        kept.rest_on = device.beliefs
        kept.changed.update(device.queues)
    for queue in kept.changed.values():
        if len(queue):
            kept.ns[queue] = cost_ns(device, queue, beside, level)[0]
        else:
            kept.ns.pop(queue, None)
    kept.changed.clear()
    return kept.ns


def speed(device: Device) -> float:
    """Solo progress per unit of time of what runs now; at least 1."""
    bodies = device.running.values()
    if len(bodies) < 2:
        return 1.0
    return max(1.0, sum(device.table.rates(tuple([device.table.mean(body.batch_class) for body in bodies]))))


def waiting_batches(device: Device, enough: int) -> int:
    """Batches that what waits would make, counted up to `enough`."""
    found = 0
    for queue in device.queues.values():
        count = len(queue)
        found += -(-count // queue.spec.max_batch_size) if queue.spec.batching else count
        if found >= enough:
            break
    return found


def finish_ns(device: Device, request: Request, now_ns: int, level: float) -> int:
    """When a request that waits for the device will be answered, by the bound of its own batch.

    Raises KeyError if it does not wait there.
    """
    queue = device.queue_of(request)
    urgency = queue.urgency_of(request)
    lanes, running = max(1, device.spec.max_concurrency), len(device.running)
    beside = min(lanes, running + waiting_batches(device, lanes))
    ahead_ns = 0.0
    if running + beside > lanes:  # it must wait for some of them to end
        ahead_ns = sum([body.remaining_ns for body in device.running.values()])
    ahead_ns += _line_ns(device, urgency, beside, level)
    tail_ns = cost_ns(device, queue, beside, level)[1]
    return now_ns + int((ahead_ns + tail_ns) / speed(device)) + device.answer_overhead_ns


def waiting_ns(device: Device, request: Request, level: float) -> int:
    """How long what waits before a request, and its own batch, would take a device that runs nothing now.

    Raises KeyError if it does not wait there.
    """
    queue = device.queue_of(request)
    beside = max(1, min(device.spec.max_concurrency, waiting_batches(device, device.spec.max_concurrency)))
    ahead_ns = _line_ns(device, queue.urgency_of(request), beside, level)
    return int((ahead_ns + cost_ns(device, queue, beside, level)[1]) / speed(device))


def _line_ns(device: Device, urgency: Urgency, beside: int, level: float) -> float:
    """Solo work of all that waits and is more urgent."""
    shares, line = shares_ns(device, beside, level), device.line
    return sum(map(shares.__getitem__, map(_queue_of, line[: bisect_left(line, urgency)])))
