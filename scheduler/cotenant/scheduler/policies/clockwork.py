"""Clockwork: one batch at a time, whose duration is known, and nothing that would be late. A baseline.

Source: Gujarati et al., "Serving DNNs like Clockwork" (OSDI 2020), and `concurrent_infer_and_load_scheduler` of its
controller.

Rules, in order:
1. A batch is predicted to take as long as the longest of the last ten batches of its class that ran alone (the 99th
   percentile of ten); before there are any, as long as was measured when its model was loaded.
2. A request that would be late even if it were the next to run, by itself, once what runs has ended as predicted, is
   rejected: on arrival, or as soon as that is so. Nothing late is executed.
3. Nothing is launched while something runs.
4. Each queue offers the largest batch, of its most urgent requests, that is predicted to meet the deadlines of all in
   it. Of these the one goes that must begin first to do so. Without a deadline that is as the queue orders it.
5. The launch carries the last instant at which it may begin; an executor that is later drops it.

Not there: loading weights on demand, and so the choice of what to load and evict (models are loaded throughout);
scheduling ahead of the device (Clockwork keeps 10 ms of work with a worker, here the next order leaves when a batch has
ended); scaling by the clock of the GPU; the limit on the duration of batches above one. Its margin of 5 ms before the
deadline is the time that answers are measured to take. Of several devices a request gets the one with least to do.
"""

from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler.baselines import backlog_finish_ns, forecast_of, hopeless, launch_of, missing
from cotenant.scheduler.books import Device, Queue
from cotenant.scheduler.events import PREDICTED_MISS, Request
from cotenant.scheduler.planning import class_of, most_urgent_deadline
from cotenant.scheduler.policy import Outlook, Turn


class Clockwork:
    """See the module's text."""

    name = "clockwork"

    def __init__(self, level: float) -> None:
        self.level = level

    def outlook(self, device: Device, request: Request, now_ns: int) -> Outlook:
        """Rejects what would be late even as the next to run."""
        finish_ns = backlog_finish_ns(device, request, now_ns, 1)
        own = BatchClass(request.model, request.version, request.batch_size, request.shape_bucket)
        next_ns = _free_ns(device, now_ns) + predicted_ns(device, own) + device.answer_overhead_ns
        if 0 < request.deadline_ns < next_ns:
            return Outlook(finish_ns, missing(request, PREDICTED_MISS, next_ns))
        return Outlook(finish_ns, None)

    def turn(self, device: Device, now_ns: int) -> Turn:
        """The batch that must begin first, once the device is empty."""
        late = self.doomed(device, now_ns)
        if late.rejections or device.running or not device.queues:
            return late
        offers = [self._offer(device, queue, now_ns) for queue in device.runnable()]
        if not offers:
            return late
        _, _, queue, requests = min(offers, key=lambda offer: (device.rank_of(offer[2]), *offer[:2]))
        work_ns = predicted_ns(device, class_of(queue, _items(requests)))
        forecast = forecast_of(device, work_ns, work_ns, self.level)
        return Turn([], launch_of(device, queue, requests, forecast, now_ns), late.wake_ns)

    def _offer(
        self, device: Device, queue: Queue, now_ns: int
    ) -> tuple[int, tuple[str, str, str], Queue, list[Request]]:
        """When it must begin, the queue's key, the queue, and the batch."""
        requests, _ = queue.batch_at(0)
        while True:
            needed_ns = predicted_ns(device, class_of(queue, _items(requests))) + device.answer_overhead_ns
            deadline_ns = most_urgent_deadline(requests)
            if len(requests) == 1 or not deadline_ns or now_ns + needed_ns <= deadline_ns:
                return (deadline_ns or queue.urgency_at(0)[1]) - needed_ns, queue.key, queue, requests
            requests = requests[:-1]

    def doomed(self, device: Device, now_ns: int) -> Turn:
        """What would be late even as the next to run."""
        return hopeless(device, _free_ns(device, now_ns), lambda known: predicted_ns(device, known))


def predicted_ns(device: Device, batch_class: BatchClass) -> int:
    """Rule 1; 0 if nothing is known."""
    return max(device.solo_runs.get(batch_class, ()), default=0) or device.profiled_ns(batch_class)


def _free_ns(device: Device, now_ns: int) -> int:
    """When what runs will have ended, as it was predicted; now if that is overdue."""
    return max(
        [now_ns, *((r.started_ns or r.launched_ns) + r.batch.forecast.duration_ns for r in device.running.values())]
    )


def _items(requests: list[Request]) -> int:
    return sum(request.batch_size for request in requests)
