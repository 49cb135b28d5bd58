"""Earliest deadline first, several batches at once, launching only what is expected to keep every deadline.

Rules, in order:
1. A request that even an empty device could not answer in time is rejected at once.
2. Queues are served by urgency of their head: priority, then deadline.
3. A batch is launched beside others only if the bound of its end keeps its own most urgent deadline, and the bounds
   of the batches that run keep theirs. Smaller batches are tried where a large one fails. On an empty device the
   mean decides: nothing else is at stake, and waiting would gain nothing.
4. While a more urgent request waits for the device to empty, what is launched past it must be expected to end before
   that request's last safe start.
5. A model with a queue delay waits for a preferred batch size, never past the last safe start of its head.
6. A class whose work is unknown runs alone: the device empties for it, and nothing is launched beside it.
"""

from cotenant.scheduler.books import Device, Queue
from cotenant.scheduler.events import EXPIRED_IN_QUEUE, PREDICTED_MISS, Request
from cotenant.scheduler.planning import Candidate, class_of, consider, earlier, plan, solo_finish_ns
from cotenant.scheduler.policy import LaunchBatch, Outlook, Rejection, Turn


class EarliestDeadline:
    """See the module's text."""

    name = "edf"

    def __init__(self, level: float) -> None:
        self.level = level

    # ---- admission

    def outlook(self, device: Device, request: Request, now_ns: int) -> Outlook:
        """Rejects what would be late, and what would make others late that have been admitted."""
        if outlook := self.alone(device, request, now_ns):
            return outlook
        solo_ns = solo_finish_ns(device, request, now_ns)
        planned = plan(device, now_ns, self.level, request.tenant)
        finish_ns = planned.finish_ns.get(request.request_id, solo_ns)
        if finish_ns > request.deadline_ns:
            why = f"behind {device.queued - 1} waiting and {len(device.running)} running"
            return Outlook(finish_ns, missing(request, PREDICTED_MISS, now_ns, finish_ns, solo_ns, why))
        if planned.late and (harmed := planned.late - self._late_without(device, request, now_ns)) > 0:
            message = f"running it would make {harmed} admitted request(s) late"
            return Outlook(finish_ns, Rejection(request, PREDICTED_MISS, message, finish_ns, solo_ns))
        return Outlook(finish_ns, None)

    def alone(self, device: Device, request: Request, now_ns: int) -> Outlook | None:
        """What is certain without a look at what waits and runs; None if that matters."""
        solo_ns = solo_finish_ns(device, request, now_ns)
        if 0 < request.deadline_ns < solo_ns:
            return Outlook(solo_ns, missing(request, PREDICTED_MISS, now_ns, solo_ns, solo_ns, "even alone"))
        if not request.deadline_ns or (device.queued == 1 and not device.running):
            return Outlook(solo_ns, None)
        return None

    def _late_without(self, device: Device, request: Request, now_ns: int) -> int:
        device.dequeue(request)
        late = plan(device, now_ns, self.level, request.tenant).late
        device.enqueue(request)
        return late

    # ---- launching

    def turn(self, device: Device, now_ns: int) -> Turn:
        """The next launch, or how long to wait for it."""
        hopeless = self.doomed(device, now_ns)
        if hopeless.rejections or len(device.running) >= device.spec.max_concurrency:
            return hopeless
        if any(not body.batch.forecast.work_ns for body in device.running.values()):
            return hopeless  # rule 6
        wake_ns = hopeless.wake_ns
        must_end_by = 0  # rule 4
        for queue in device.by_urgency():
            if queue.spec.max_instances and device.running_of(*queue.key[:2]) >= queue.spec.max_instances:
                continue
            if (until_ns := self._fill_until(device, queue, now_ns)) > now_ns:
                wake_ns = earlier(wake_ns, until_ns)
                continue
            if not device.work_ns(class_of(queue, queue.batch_at(0)[1])) and device.running:
                return Turn([], None, wake_ns)  # rule 6: the device empties for it
            if launch := self._launch(device, queue, now_ns, must_end_by):
                return Turn([], launch, wake_ns)
            must_end_by = earlier(must_end_by, self._last_safe_start(device, queue, now_ns))
        return Turn([], None, wake_ns)

    def _launch(self, device: Device, queue: Queue, now_ns: int, must_end_by: int) -> LaunchBatch | None:
        requests, items = queue.batch_at(0)
        while requests:
            candidate = consider(device, queue, requests, items, now_ns, self.level)
            if self._acceptable(device, candidate, must_end_by):
                return as_launch(device, queue, candidate, now_ns)
            requests = requests[: len(requests) // 2]
            items = sum(request.batch_size for request in requests)
        return None

    def _acceptable(self, device: Device, candidate: Candidate, must_end_by: int) -> bool:
        if must_end_by and candidate.bound_finish_ns > must_end_by:
            return False
        if not device.running:
            return not candidate.deadline_ns or candidate.mean_finish_ns <= candidate.deadline_ns
        if candidate.deadline_ns and candidate.bound_finish_ns > candidate.deadline_ns:
            return False
        return not candidate.harms

    def _fill_until(self, device: Device, queue: Queue, now_ns: int) -> int:
        """Until when a queue waits for a fuller batch; now or earlier if it does not (rule 5)."""
        spec = queue.spec
        if not spec.batching or not spec.max_queue_delay_ns:
            return 0
        _, items = queue.batch_at(0)
        if items >= spec.max_batch_size or items in spec.preferred_batch_sizes:
            return 0
        oldest = min(request.arrival_ns for request in queue)
        return earlier(oldest + spec.max_queue_delay_ns, self._last_safe_start(device, queue, now_ns))

    def _last_safe_start(self, device: Device, queue: Queue, now_ns: int) -> int:
        """When the head must run at the latest, alone, to be in time by its bound; 0 if it has no deadline."""
        head = queue.head
        if not head.deadline_ns:
            return 0
        batch_class = class_of(queue, head.batch_size)
        bound = device.work_ns(batch_class) * device.bound_factor(batch_class, self.level, 0)
        return max(now_ns, head.deadline_ns - device.answer_overhead_ns - int(bound))

    # ---- giving up

    def doomed(self, device: Device, now_ns: int) -> Turn:
        """What even an empty device could not answer in time, and when the next one will be."""
        first_ns = device.latest_start_ns()
        if not first_ns or first_ns >= now_ns:
            return Turn([], None, first_ns and first_ns + 1)
        rejections: list[Rejection] = []
        wake_ns = 0
        for queue in device.queues.values():
            latest_ns = queue.latest_start_ns(device)
            if latest_ns and latest_ns < now_ns:
                latest_ns = 0
                for request in queue:
                    finish_ns = solo_finish_ns(device, request, now_ns)
                    if 0 < request.deadline_ns < finish_ns:
                        rejections.append(
                            missing(request, EXPIRED_IN_QUEUE, now_ns, finish_ns, finish_ns, "after queueing")
                        )
                    elif request.deadline_ns:
                        latest_ns = earlier(latest_ns, request.deadline_ns - (finish_ns - now_ns))
            if latest_ns:
                wake_ns = earlier(wake_ns, latest_ns + 1)
        return Turn(rejections, None, wake_ns)


def as_launch(device: Device, queue: Queue, candidate: Candidate, now_ns: int) -> LaunchBatch:
    """A candidate as it is told to the core. It is dropped where it comes too late to be in time even alone."""
    needed_ns = candidate.forecast.work_ns + device.least_overhead_ns
    return LaunchBatch(
        queue.key,
        tuple(candidate.requests),
        candidate.batch_class.batch_size,
        candidate.forecast,
        candidate.deadline_ns,
        max(candidate.deadline_ns - needed_ns, now_ns) if candidate.deadline_ns else 0,
    )


def missing(request: Request, reason: str, now_ns: int, finish_ns: int, solo_ns: int, why: str) -> Rejection:
    """The rejection of a request that would be late, with how late and why."""
    over_ms = (finish_ns - request.deadline_ns) / 1e6
    budget_ms = (request.deadline_ns - request.arrival_ns) / 1e6
    waited = f", {(now_ns - request.arrival_ns) / 1e6:.1f} ms of it gone" if reason == EXPIRED_IN_QUEUE else ""
    message = f"predicted to finish {over_ms:.1f} ms late {why} (budget {budget_ms:.1f} ms{waited})"
    return Rejection(request, reason, message, finish_ns, solo_ns)
