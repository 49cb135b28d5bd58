"""What baseline policies share: giving up, choosing a device, and launches as they are told to the core.

Nothing here predicts slowdowns. What a baseline knows of a batch's duration it brings along, as a function of the
batch class; what it does with that is in its own file in `policies/`.
"""

from collections.abc import Callable

from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler.books import Device, Queue
from cotenant.scheduler.events import EXPIRED_IN_QUEUE, Forecast, Request
from cotenant.scheduler.planning import class_of, consider, earlier, most_urgent_deadline, solo_finish_ns
from cotenant.scheduler.policy import LaunchBatch, Rejection, Turn

WorkNs = Callable[[BatchClass], int]


def expired(device: Device, now_ns: int) -> Turn:
    """Rejects what has waited past its deadline; `wake_ns` is when the next one will have."""
    rejections: list[Rejection] = []
    wake_ns = 0
    for queue in device.queues.values():
        for request in queue:
            if not request.deadline_ns:
                continue
            if now_ns > request.deadline_ns:
                solo = solo_finish_ns(device, request, now_ns)
                message = "its deadline passed while it waited"
                rejections.append(Rejection(request, EXPIRED_IN_QUEUE, message, solo, solo))
            else:
                wake_ns = earlier(wake_ns, request.deadline_ns + 1)
    return Turn(rejections, None, wake_ns)


def hopeless(device: Device, begin_ns: int, work_ns: WorkNs) -> Turn:
    """Rejects what would be late even if it were the next to begin, alone; `wake_ns` is when the next one will be."""
    rejections: list[Rejection] = []
    wake_ns = 0
    for queue in device.queues.values():
        for request in queue:
            if not request.deadline_ns:
                continue
            needed_ns = work_ns(class_of(queue, request.batch_size)) + device.least_overhead_ns
            if begin_ns + needed_ns > request.deadline_ns:
                rejections.append(missing(request, EXPIRED_IN_QUEUE, begin_ns + needed_ns))
            else:
                wake_ns = earlier(wake_ns, request.deadline_ns - needed_ns + 1)
    return Turn(rejections, None, wake_ns)


def missing(request: Request, reason: str, finish_ns: int) -> Rejection:
    """The rejection of a request that would be answered at `finish_ns` at the earliest."""
    message = f"predicted to finish {(finish_ns - request.deadline_ns) / 1e6:.1f} ms late even alone"
    return Rejection(request, reason, message, finish_ns, finish_ns)


def backlog_finish_ns(device: Device, request: Request, now_ns: int, lanes: int) -> int:
    """When a request would be answered after all that waits here, on so many lanes without interference.

    Baselines that say nothing of several devices are given the shortest queue, in time.
    """
    ahead = 0.0
    for body in device.running.values():
        ahead += body.remaining_ns
    for queue in device.queues.values():
        size = min(queue.spec.max_batch_size, len(queue)) if queue.spec.batching else 1
        ahead += device.work_ns(class_of(queue, size)) * (len(queue) / size)
    return max(solo_finish_ns(device, request, now_ns), now_ns + int(ahead / lanes) + device.answer_overhead_ns)


def may_run(device: Device, queue: Queue, instances: int = 0) -> bool:
    """Whether the model's limit on instances, or else `instances` (0: no limit), lets one more batch of it run."""
    if device.limits is not None and not device.limits.allow(device, queue.spec):
        return False
    limit = queue.spec.max_instances or instances
    return not limit or device.running_of(*queue.key[:2]) < limit


def forecast_of(device: Device, work_ns: int, duration_ns: int, level: float) -> Forecast:
    """A baseline's own prediction, which knows no bounds."""
    version, beside = device.estimates_version, len(device.running)
    return Forecast(work_ns, duration_ns, duration_ns, level, version, beside)


def launch_of(device: Device, queue: Queue, requests: list[Request], forecast: Forecast, now_ns: int) -> LaunchBatch:
    """A launch that the executor drops if it cannot begin in time for the duration that was predicted."""
    items, deadline_ns = sum(request.batch_size for request in requests), most_urgent_deadline(requests)
    latest_ns = max(now_ns, deadline_ns - device.least_overhead_ns - forecast.work_ns) if deadline_ns else 0
    return LaunchBatch(queue.key, tuple(requests), items, forecast, deadline_ns, latest_ns)


def unaware_launch(device: Device, queue: Queue, requests: list[Request], now_ns: int, level: float) -> LaunchBatch:
    """A launch of a policy that predicts nothing: its forecast is for the record only, and it is never dropped."""
    items = sum(request.batch_size for request in requests)
    candidate = consider(device, queue, requests, items, now_ns, level)
    return LaunchBatch(queue.key, tuple(requests), items, candidate.forecast, candidate.deadline_ns, 0)
