"""Goodput: as much work as the device can carry beside each other, and only what is expected to be in time.

Rules, in order; those of `edf` hold where nothing else is said.
1. A request that even an empty device could not answer in time is rejected, at once or as soon as that is so. Nothing
   else is refused: how much a device will carry is known less well than who can no longer make it, and who is refused
   early for want of room is often one there would have been room for. When a request would be answered behind all that
   is ahead of it (`backlog.py`) decides between devices.
2. Of the most urgent queues, that batch is launched which adds most to the device's useful progress: the sum over what
   runs of its progress rate, times what its batch size saves. Beside whom a batch runs is chosen so.
3. What is launched past a more urgent request must end, by its bound, before the last instant at which that one could
   safely start alone.
4. What adds nothing waits while others run, unless it is pressing: it has little more slack than its own duration.
"""

from collections.abc import Sequence

from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler import backlog
from cotenant.scheduler.books import Device, Queue
from cotenant.scheduler.events import Request
from cotenant.scheduler.planning import Candidate, class_of, consider, earlier, solo_finish_ns
from cotenant.scheduler.policies.earliest_deadline import EarliestDeadline, as_launch
from cotenant.scheduler.policy import Outlook, Turn

LOOK = 4  # queues looked at, most urgent first: each costs a roll or two
WORTH = 0.02  # of the present progress, that a launch must add
BETTER = 1.05  # times the gain of a more urgent one, to go before it
PRESSING = 1.5  # times its duration: less slack than that is little


class Goodput(EarliestDeadline):
    """See the module's text."""

    name = "goodput"

    def outlook(self, device: Device, request: Request, now_ns: int) -> Outlook:
        """Rejects what would be late even alone."""
        if outlook := self.alone(device, request, now_ns):
            return outlook
        behind_ns = backlog.finish_ns(device, request.request_id, now_ns, self.level)
        return Outlook(max(solo_finish_ns(device, request, now_ns), behind_ns), None)

    def turn(self, device: Device, now_ns: int) -> Turn:
        """The launch that adds most, or how long to wait for one."""
        hopeless = self.doomed(device, now_ns)
        if hopeless.rejections or len(device.running) >= device.spec.max_concurrency:
            return hopeless
        if any(not body.batch.forecast.work_ns for body in device.running.values()):
            return hopeless
        before = progress(device, [body.batch_class for body in device.running.values()])
        best: tuple[float, Queue, Candidate] | None = None
        queues, until_ns = self.looked_at(device, now_ns)
        wake_ns, must_end_by = earlier(hopeless.wake_ns, until_ns), 0
        for queue in queues:
            if not device.work_ns(class_of(queue, queue.batch_at(0)[1])):
                if device.running:
                    break  # it runs alone: the device empties for it
                if best is None:
                    return Turn([], self._launch(device, queue, now_ns, 0), wake_ns)
                break
            if candidate := self._largest(device, queue, now_ns, must_end_by):
                gain = self.gain(device, queue, candidate, before, now_ns)
                if gain <= 0.0:
                    wake_ns = earlier(wake_ns, pressing_ns(queue, candidate, now_ns))
                elif best is None or gain > BETTER * best[0]:
                    best = gain, queue, candidate
            must_end_by = earlier(must_end_by, self._last_safe_start(device, queue, now_ns))
        return Turn([], as_launch(best[1], best[2], now_ns) if best else None, wake_ns)

    def looked_at(self, device: Device, now_ns: int) -> tuple[list[Queue], int]:
        """The most urgent queues that may launch now, and when the first of those that wait for fuller batches will."""
        found: list[Queue] = []
        wake_ns = 0
        for queue in device.by_urgency():
            if queue.spec.max_instances and device.running_of(*queue.key[:2]) >= queue.spec.max_instances:
                continue
            if (until_ns := self._fill_until(device, queue, now_ns)) > now_ns:
                wake_ns = earlier(wake_ns, until_ns)
            elif len(found) < LOOK:
                found.append(queue)
        return found, wake_ns

    def _largest(self, device: Device, queue: Queue, now_ns: int, must_end_by: int) -> Candidate | None:
        """The largest batch of a queue's first requests that keeps every deadline."""
        requests, items = queue.batch_at(0)
        while requests:
            candidate = consider(device, queue, requests, items, now_ns, self.level)
            if self._acceptable(device, candidate, must_end_by):
                return candidate
            requests = requests[: len(requests) // 2]
            items = sum([request.batch_size for request in requests])
        return None

    def gain(self, device: Device, queue: Queue, candidate: Candidate, before: float, now_ns: int) -> float:
        """What a launch adds to the device's useful progress; 0 if it should wait."""
        after = progress(device, [*(body.batch_class for body in device.running.values()), candidate.batch_class])
        gain = after - before
        if not device.running or gain > WORTH * before:
            return max(gain, 1e-9)
        return 1e-9 if pressing_ns(queue, candidate, now_ns) <= now_ns else 0.0


def pressing_ns(queue: Queue, candidate: Candidate, now_ns: int) -> int:
    """When the head of a queue is pressing, so that its batch no longer waits; `now_ns` if it is.

    Its duration shrinks while others end, so that may come later; it is asked again then, at least a 16th of it apart.
    """
    duration_ns = candidate.mean_finish_ns - now_ns
    due_ns = queue.head.deadline_ns or queue.urgency_at(0)[1]
    at_ns = due_ns - int(PRESSING * duration_ns)
    return now_ns if at_ns <= now_ns else max(at_ns, now_ns + duration_ns // 16)


def progress(device: Device, classes: Sequence[BatchClass]) -> float:
    """Useful solo progress per unit of time: of the work that their items would take one by one."""
    if not classes:
        return 0.0
    rates = device.table.rates(tuple([device.table.mean(known) for known in sorted(classes)]))
    return sum([rate * saved(device, known) for rate, known in zip(rates, sorted(classes), strict=True)])


def saved(device: Device, known: BatchClass) -> float:
    """How much more its items would take one by one than in a batch; 1 where that is not known."""
    if known.batch_size == 1:
        return 1.0
    work = device.work_ns(known)
    single = device.work_ns(BatchClass(known.model, known.version, 1, known.shape_bucket))
    return known.batch_size * single / work if work and single else 1.0
