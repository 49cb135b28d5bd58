"""Why a turn of a policy left a request waiting, read from the books the turn was taken on.

What binds every policy (places, limits on instances, windows, a device that is away) is told for all. Why a place that
was free stayed so is told for `edf` and `goodput`, by their own rules; of other policies only that they waited.
"""

from typing import NamedTuple

from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler.books import Device
from cotenant.scheduler.events import Request
from cotenant.scheduler.planning import Candidate, class_of, consider
from cotenant.scheduler.policies.earliest_deadline import EarliestDeadline
from cotenant.scheduler.policies.goodput import LOOK, Goodput, staying
from cotenant.scheduler.policy import Policy, Turn
from cotenant.scheduler.queues import Queue


class Passed(NamedTuple):
    """A request was passed over. `why` is the same text for the same reason, so that such turns can be counted."""

    why: str
    launched: str = ""  # class of the batch that was launched instead


def why(policy: Policy, device: Device, request: Request, turn: Turn, now_ns: int, *, may_launch: bool) -> Passed:
    """Why the request was not launched by this turn; its batches are in the books as before it."""
    queue = device.queues[request.model, request.version, request.shape_bucket]
    if turn.launch is not None:
        return _another(policy, device, queue, request, turn, now_ns)
    if turn.rejections:
        return Passed("requests that could no longer be in time were refused first")
    if not device.online:
        return Passed("its device was away")
    if not may_launch:
        return Passed("the device was, or was about to be, its executor's alone, to measure")
    if len(device.running) >= device.spec.max_concurrency:
        return Passed(f"all {device.spec.max_concurrency} places of the device were taken")
    if queue.spec.max_instances and device.running_of(*queue.key[:2]) >= queue.spec.max_instances:
        return Passed(f"{queue.spec.max_instances} batches of its model ran, as many as its instances allow")
    if device.limits is not None and not device.limits.allow(device, queue.spec):
        names = ", ".join(need.name for need in queue.spec.resources)
        return Passed(f"others used the resources that its model needs of the rate limiter: {names}")
    if isinstance(policy, EarliestDeadline):
        return Passed(_held_back(policy, device, queue, request, now_ns))
    return Passed(f"policy '{policy.name}' launched nothing{' beside what ran' if device.running else ''}")


def _another(policy: Policy, device: Device, queue: Queue, request: Request, turn: Turn, now_ns: int) -> Passed:
    """Something else was launched."""
    assert turn.launch is not None
    launched = turn.launch
    other = device.queues[launched.queue]
    model, version, bucket = launched.queue
    name = str(BatchClass(model, version, launched.items, bucket))
    if other is queue:
        return Passed("requests of its own queue that were ahead of it were launched", name)
    first, own = (device.ranks.get(one.tenant, 0) for one in (launched.requests[0], request))
    if first < own:
        return Passed("a tenant that had had less of the device went first", name)
    if other.urgency_of(launched.requests[0]) < queue.urgency_of(request):
        return Passed("more urgent requests were launched", name)
    if isinstance(policy, EarliestDeadline):
        return Passed(
            f"{_held_back(policy, device, queue, request, now_ns)}, so less urgent requests were launched", name
        )
    return Passed("less urgent requests were launched past it", name)


def _held_back(policy: EarliestDeadline, device: Device, queue: Queue, request: Request, now_ns: int) -> str:
    """By the rules of `edf`, in the order in which they decide, and by what `goodput` adds to them."""
    if reason := _filling(queue, now_ns):
        return reason
    if isinstance(policy, Goodput) and queue not in policy.looked_at(device, now_ns)[0]:
        return f"the {LOOK} most urgent queues are looked at, and its own was not among them"
    unknown = [body for body in device.running.values() if not body.batch.forecast.work_ns]
    if unknown:
        return f"{unknown[0].batch_class} ran, of which it was not known how long it takes: nothing runs beside that"
    smallest = _smallest(queue, request)
    items = sum(one.batch_size for one in smallest)
    if not device.work_ns(class_of(queue, items)):
        return "it was not known how long its batch takes, so it had to run alone and the device had to empty"
    candidate = consider(device, queue, smallest, items, now_ns, policy.level)
    bound_ns = candidate.bound_finish_ns if device.running else candidate.mean_finish_ns
    if candidate.deadline_ns and bound_ns > candidate.deadline_ns:
        return "beside what ran, its batch was not sure enough to be in time"
    if candidate.harms:
        return f"beside it {_harmed(device, candidate, now_ns, policy.level)} would not have been sure to be in time"
    if request not in queue.batch_at(0)[0]:
        return "requests of its own queue that were ahead of it could not be launched"
    if isinstance(policy, Goodput) and policy.gain(device, queue, candidate, staying(device)[0], now_ns) <= 0.0:
        return "beside what ran it would have added nothing to what the device gets done, and it could still wait"
    return "a more urgent request waited for the device to empty, and a launch could have kept it waiting too long"


def _smallest(queue: Queue, request: Request) -> list[Request]:
    """The smallest batch with it that is tried: of halves of what heads the queue; itself if it is behind that."""
    tried, _ = queue.batch_at(0)
    if request not in tried:
        return [request]
    while request in (half := tried[: len(tried) // 2]):
        tried = half
    return tried


def _filling(queue: Queue, now_ns: int) -> str:
    """Whether its queue waited for a fuller batch (rule 5)."""
    spec = queue.spec
    if not spec.batching or not spec.max_queue_delay_ns:
        return ""
    _, items = queue.batch_at(0)
    until_ns = min(one.arrival_ns for one in queue) + spec.max_queue_delay_ns
    if items >= spec.max_batch_size or items in spec.preferred_batch_sizes or until_ns <= now_ns:
        return ""
    return f"its model waits up to {spec.max_queue_delay_ns / 1e6:g} ms for a fuller batch"


def _harmed(device: Device, candidate: Candidate, now_ns: int, level: float) -> str:
    """The batches that run and would no longer end in time, by the rule that `Candidate.harms` sums up."""
    without = device.finish_offsets()
    beside = device.finish_offsets(candidate.batch_class, candidate.forecast.work_ns)
    found: list[str] = []
    for body, before, after in zip(device.running.values(), without, beside, strict=False):
        factor = device.bound_factor(body.batch_class, level, max(1, body.batch.forecast.co_runner_count))
        room_ns = body.batch.deadline_ns - now_ns - device.answer_overhead_ns
        if body.batch.deadline_ns and after * factor > room_ns >= before * factor:
            found.append(str(body.batch_class))
    return " and ".join(found) or "a batch that ran"
