"""Triton's dynamic batcher with instance counts: every model for itself. A baseline.

Source: `GetDynamicBatch` in `src/dynamic_batch_scheduler.cc` of triton-inference-server/core, and its configuration.

Rules, in order:
1. A request whose deadline has passed while it waited is rejected: its deadline stands for Triton's queue timeout with
   the action REJECT. Nothing is refused because it is predicted to be late; nothing is predicted.
2. A model runs at most as many batches at once as it has instances, one if its configuration names none. Nothing else
   keeps batches apart, whoever runs and whatever its deadline; only the device's own limit on batches at once, which
   Triton does not have: give the device as many lanes as there are instances to compare with it.
3. Within a model, requests go in order of priority level, then of arrival. A batch takes them in that order as long as
   they fit, and passes over none.
4. Without a queue delay, or once the oldest request of the batch has waited for it, the batch goes; a preferred size
   (the maximum if none is named) goes at once, and so does a batch that nothing more fits into. Without a queue delay
   the largest preferred size that can be formed is taken.
5. Of models that could launch at the same instant, the one whose oldest request came first does.

Not there: sequence and ensemble scheduling, the rate limiter, timeouts that delay instead of rejecting.
"""

from collections.abc import Sequence

from cotenant.scheduler.baselines import backlog_finish_ns, expired, may_run, unaware_launch
from cotenant.scheduler.books import Device, Queue
from cotenant.scheduler.events import ModelSpec, Request
from cotenant.scheduler.planning import earlier
from cotenant.scheduler.policy import Outlook, Turn


class Triton:
    """See the module's text."""

    name = "triton"

    def __init__(self, level: float) -> None:
        self.level = level

    def outlook(self, device: Device, request: Request, now_ns: int) -> Outlook:
        """Admits everything."""
        return Outlook(backlog_finish_ns(device, request, now_ns, device.spec.max_concurrency), None)

    def turn(self, device: Device, now_ns: int) -> Turn:
        """The next batch of any model with a free instance."""
        gone = self.doomed(device, now_ns)
        if gone.rejections or len(device.running) >= device.spec.max_concurrency:
            return gone
        wake_ns = gone.wake_ns
        for queue in sorted(device.queues.values(), key=lambda q: (device.rank_of(q), _oldest(q))):
            if not may_run(device, queue, instances=1):
                continue
            requests, until_ns = _batch(queue.spec, _in_order(queue), now_ns)
            if requests:
                return Turn([], unaware_launch(device, queue, requests, now_ns, self.level), wake_ns)
            wake_ns = earlier(wake_ns, until_ns)
        return Turn([], None, wake_ns)

    def doomed(self, device: Device, now_ns: int) -> Turn:
        """What has waited past its deadline."""
        return expired(device, now_ns)


def _oldest(queue: Queue) -> tuple[int, int]:
    return min((request.arrival_ns, request.request_id) for request in queue)


def _in_order(queue: Queue) -> list[Request]:
    return sorted(queue, key=lambda r: (queue.level_of(r), r.arrival_ns, r.request_id))


def _batch(spec: ModelSpec, waiting: Sequence[Request], now_ns: int) -> tuple[list[Request], int]:
    """The batch to run now, or none and until when more is waited for."""
    if not spec.batching:
        return [waiting[0]], 0
    sizes = spec.preferred_batch_sizes or (spec.max_batch_size,)
    pending: list[Request] = []
    items = best = 0  # `best`: how many requests make the largest preferred size
    for request in waiting:
        if pending and not best and items + request.batch_size > max(sizes):
            best = len(pending)
        if pending and (request.alone or pending[0].alone or items + request.batch_size > spec.max_batch_size):
            full = True
            break
        pending.append(request)
        items += request.batch_size
        if items in sizes:
            best = len(pending)
    else:
        full = pending[0].alone
    until_ns = min(request.arrival_ns for request in pending) + spec.max_queue_delay_ns
    waited = spec.max_queue_delay_ns > 0 and now_ns >= until_ns
    if best and not waited:
        return pending[:best], 0
    if full or waited or not spec.max_queue_delay_ns or items >= max(sizes):
        return pending, 0
    return [], until_ns
