"""Goodput: as much work as the device can carry beside each other, and only what is expected to be in time.

Rules, in order; those of `edf` hold where nothing else is said.
1. A request that even an empty device could not answer in time is rejected, at once or as soon as that is so. While
   all are in time nothing else is refused: how much a device will carry is known less well than who can no longer make
   it, and who is refused early for want of room is often one there would have been room for. When a request would be
   answered behind all that is ahead of it (`backlog.py`) decides between devices.
   A queue is crowded for as long as a request's time after one of its own was given up. Who joins it then, and would be
   late, and not only because of what runs now (what waits before it fills `FULL` of its time), pushes out the one like
   it (same priority and tenant) that is due first: one of them must go, and who goes last has most time left, so that
   batches are full and in time. Without this all that runs in an overload is what has almost no time left, in small
   batches, and late.
2. Of the most urgent queues, that batch is launched which adds most to the device's useful progress: the sum over what
   stays of its progress rate, times what its batch size saves. Beside whom a batch runs is chosen so. What will have
   ended by the time the order arrives does not count: so a device that runs one batch after another does not stand idle
   while its executor tells of an end and waits for the next order.
3. A launch, and what it does to those that run, is judged between mean and bound, at `CAUTION` of the way: by
   bounds alone, wide ones leave the device empty. What is launched past a more urgent request must so end before the
   last instant at which that one could start alone; who is past it keeps nobody waiting.
4. What adds nothing waits while others run, unless it is pressing: it has little more slack than its own duration.
5. What rule 3 would not let go goes at its last chance: if it would be late when it waits for the next end, is in time
   in the mean, and makes nobody late in the mean.
6. Beside one batch in `EXPLORE` that runs alone, what would wait goes if there is twice the room that it needs in the
   mean: what is never run beside each other is never learned, and a belief that forbids it would stay for ever.
Who asks for a level of `STRICT` or more prefers a refusal to a risk: rule 3 goes by bounds, and 5 and 6 do not hold. In
a crowded queue others wait who need no risk: 5 and 6 do not hold either, and rule 3 goes by `CAREFUL`.
"""

from bisect import insort

from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler import backlog
from cotenant.scheduler.books import Device, Queue
from cotenant.scheduler.events import PREDICTED_MISS, Request
from cotenant.scheduler.planning import (
    Candidate,
    consider,
    earlier,
    harms,
    most_urgent_deadline,
    solo_finish_ns,
)
from cotenant.scheduler.policies.earliest_deadline import EarliestDeadline, as_launch
from cotenant.scheduler.policy import Outlook, Rejection, Turn

LOOK = 4  # queues looked at, most urgent first: each costs a roll or two
CAUTION = 0.4  # of the way from the mean to the bound: two in three are in time then
CAREFUL = 0.8  # the same where there are enough to choose from
WORTH = 0.02  # of the present progress, that a launch must add
BETTER = 1.05  # times the gain of a more urgent one, to go before it
PRESSING = 1.5  # times its duration: less slack than that is little
STRICT = 0.99  # level from which a refusal is better than a risk
EXPLORE = 31  # odd, so that it meets all who take turns
ROOM = 2.0  # times what is expected, to explore
FULL = 0.75  # of the time that a request has, filled by those that wait before it
SMALLEST = 1e-9  # a gain: goes, after everything that adds something
ROUNDING_NS = 2  # by so little a roll may end before the work alone


class Goodput(EarliestDeadline):
    """See the module's text."""

    name = "goodput"

    def __init__(self, level: float) -> None:
        super().__init__(level)
        self._caution = CAUTION if level < STRICT else 1.0

    def outlook(self, device: Device, request: Request, now_ns: int) -> Outlook:
        """Rejects what would be late even alone, or another for whom there is no room beside it."""
        if outlook := self.alone(device, request, now_ns):
            return outlook
        behind_ns = backlog.finish_ns(device, request, now_ns, self.level)
        instead = self._pushed_out(device, request, now_ns) if behind_ns > request.deadline_ns else None
        return Outlook(max(solo_finish_ns(device, request, now_ns), behind_ns), None, instead)

    def _pushed_out(self, device: Device, request: Request, now_ns: int) -> Rejection | None:
        """Who gives way to a request that would be late: the first like it, where the queue holds more than fits."""
        queue = device.queue_of(request)
        if not crowded(device, queue, now_ns):
            return None
        if backlog.waiting_ns(device, request, self.level) <= FULL * (request.deadline_ns - now_ns):
            return None
        for other in queue:
            if other is request:
                break
            if other.priority == request.priority and other.tenant == request.tenant and other.deadline_ns:
                solo_ns = solo_finish_ns(device, other, now_ns)
                message = f"{len(queue)} wait for it, more than can be in time: gave way to one that has more time left"
                return Rejection(other, PREDICTED_MISS, message, solo_ns, solo_ns)
        return None

    def turn(self, device: Device, now_ns: int) -> Turn:
        """The launch that adds most, or how long to wait for one."""
        hopeless = self.doomed(device, now_ns)
        if hopeless.rejections or len(device.running) >= device.spec.max_concurrency:
            return hopeless
        for body in device.running.values():
            if not body.batch.forecast.work_ns:
                return hopeless
        best: tuple[float, Queue, Candidate] | None = None
        queues, until_ns = self.looked_at(device, now_ns)
        wake_ns, must_end_by = earlier(hopeless.wake_ns, until_ns), 0
        beside, next_ns = staying(device)
        if queues and next_ns > device.order_ns > 0:
            wake_ns = earlier(wake_ns, now_ns + next_ns - device.order_ns)
        for number, queue in enumerate(queues):
            if number:
                must_end_by = earlier(must_end_by, self._last_safe_start(device, queues[number - 1], now_ns))
            requests, items = queue.batch_at(0)
            if not device.work_ns(queue.class_of(items)):
                if device.running:
                    break  # it runs alone: the device empties for it
                if best is None:
                    return Turn([], self._launch(device, queue, now_ns, 0), wake_ns)
                break
            if best is not None and not self._may_beat(device, queue, requests, items, beside, BETTER * best[0]):
                continue
            candidate, dares = self._largest(device, queue, requests, items, now_ns, must_end_by)
            if candidate:
                gain = self.gain(device, queue, candidate, beside, now_ns)
                if gain <= 0.0 and not dares:
                    wake_ns = earlier(wake_ns, pressing_ns(queue, candidate, now_ns))
                elif best is None or gain > BETTER * best[0]:
                    best = max(gain, SMALLEST), queue, candidate
        return Turn([], as_launch(device, best[1], best[2], now_ns) if best else None, wake_ns)

    def looked_at(self, device: Device, now_ns: int) -> tuple[list[Queue], int]:
        """The most urgent queues that may launch now, and when the first of those that wait for fuller batches will."""
        found: list[Queue] = []
        wake_ns = 0
        for queue in device.by_urgency():
            spec = queue.spec
            if spec.max_instances and device.running_of(*queue.key[:2]) >= spec.max_instances:
                continue
            if spec.max_queue_delay_ns and (until_ns := self._fill_until(device, queue, now_ns)) > now_ns:
                wake_ns = earlier(wake_ns, until_ns)
            elif len(found) < LOOK:
                found.append(queue)
            elif not device.delays:
                break  # of those that are not looked at, none is waited for
        return found, wake_ns

    def _largest(
        self, device: Device, queue: Queue, requests: list[Request], items: int, now_ns: int, must_end_by: int
    ) -> tuple[Candidate | None, bool]:
        """The largest batch of a queue's first `requests` that keeps every deadline, or the smallest if that dares.

        The second is whether it goes although it adds nothing (rules 5 and 6).
        """
        busy = crowded(device, queue, now_ns)
        caution = max(self._caution, CAREFUL) if busy else self._caution
        dares = not busy and self.level < STRICT
        while True:
            alone = len(requests) == 1
            if alone or not self._too_long(device, queue, requests, items, now_ns, must_end_by):
                candidate = consider(device, queue, requests, items, now_ns, self.level, caution)
                if self._fits(device, candidate, must_end_by, caution):
                    return candidate, dares and self._explores(device, candidate, now_ns)
            if alone:
                break
            requests = requests[: len(requests) // 2]
            items = sum([request.batch_size for request in requests])
        if dares and (self._last_chance(device, candidate, now_ns) or self._explores(device, candidate, now_ns)):
            return candidate, True
        return None, False

    def _too_long(
        self, device: Device, queue: Queue, requests: list[Request], items: int, now_ns: int, must_end_by: int
    ) -> bool:
        """Whether a batch is not acceptable even if nobody slows it, so that it need not be rolled."""
        due_ns = earlier(must_end_by, most_urgent_deadline(requests))
        if not due_ns:
            return False
        batch_class = queue.class_of(items)
        work_ns = device.work_ns(batch_class) - ROUNDING_NS
        return now_ns + work_ns + device.order_ns + device.answer_overhead_ns > due_ns

    def _may_beat(
        self,
        device: Device,
        queue: Queue,
        requests: list[Request],
        items: int,
        beside: tuple[BatchClass, ...],
        least: float,
    ) -> bool:
        """Whether a batch of a queue may gain more than `least`, in whatever size it would be in time."""
        needed = least + progress(device, beside)
        while progress(device, with_one_more(beside, queue.class_of(items))) <= needed:
            if len(requests) == 1:
                return False
            requests = requests[: len(requests) // 2]
            items = sum([request.batch_size for request in requests])
        return True

    def _fits(self, device: Device, candidate: Candidate, must_end_by: int, caution: float) -> bool:
        """Whether all are likely in time. A device whose batches will have ended when it begins counts as empty."""
        spread_ns = candidate.bound_finish_ns - candidate.mean_finish_ns
        likely_ns = candidate.mean_finish_ns + int(caution * spread_ns)
        if must_end_by and likely_ns > must_end_by:
            return False
        if not staying(device)[0]:
            return not candidate.deadline_ns or candidate.mean_finish_ns <= candidate.deadline_ns
        return not candidate.harms and (not candidate.deadline_ns or likely_ns <= candidate.deadline_ns)

    def _last_safe_start(self, device: Device, queue: Queue, now_ns: int) -> int:
        """When the head must run at the latest, alone, to be likely in time; 0 if it has no deadline, or that is past.

        Who is past it is not sure to be in time whatever else is launched, and keeps nobody waiting.
        """
        head = queue.head
        if not head.deadline_ns:
            return 0
        batch_class = queue.class_of(head.batch_size)
        factor = 1.0 + self._caution * (device.bound_factor(batch_class, self.level, 0) - 1.0)
        beyond_ns = device.order_ns + device.answer_overhead_ns
        start_ns = head.deadline_ns - beyond_ns - int(device.work_ns(batch_class) * factor)
        return start_ns if start_ns >= now_ns else 0

    def _last_chance(self, device: Device, candidate: Candidate, now_ns: int) -> bool:
        """Rule 5."""
        if not device.running or candidate.mean_finish_ns > candidate.deadline_ns:
            return False
        if candidate.mean_finish_ns + min(device.finish_offsets()) <= candidate.deadline_ns:
            return False
        return not _harms_mean(device, candidate, now_ns, 1.0)

    def _explores(self, device: Device, candidate: Candidate, now_ns: int) -> bool:
        """Rule 6. Batch ids tell which; the policy keeps no state."""
        if len(device.running) != 1 or next(iter(device.running)) % EXPLORE:
            return False
        room_ns = candidate.deadline_ns - now_ns
        if candidate.deadline_ns and ROOM * (candidate.mean_finish_ns - now_ns) > room_ns:
            return False
        return not _harms_mean(device, candidate, now_ns, ROOM)

    def gain(
        self, device: Device, queue: Queue, candidate: Candidate, beside: tuple[BatchClass, ...], now_ns: int
    ) -> float:
        """What a launch adds to the useful progress of what stays, see `staying`; 0 if it should wait."""
        before = progress(device, beside)
        gain = progress(device, with_one_more(beside, candidate.batch_class)) - before
        if not beside or gain > WORTH * before:
            return max(gain, SMALLEST)
        return SMALLEST if pressing_ns(queue, candidate, now_ns) <= now_ns else 0.0


def crowded(device: Device, queue: Queue, now_ns: int) -> bool:
    """Whether more was asked of a queue than fits, a request's time ago or later."""
    return device.crowded.get(queue.key, 0) > now_ns


def with_one_more(beside: tuple[BatchClass, ...], batch_class: BatchClass) -> tuple[BatchClass, ...]:
    """A set with one more class in it, in order."""
    found = list(beside)
    insort(found, batch_class)
    return tuple(found)


def staying(device: Device) -> tuple[tuple[BatchClass, ...], int]:
    """What will still run when an order arrives that is given now, in order, and in how long the first of it ends."""
    order_ns = device.order_ns
    if not order_ns or not device.running:
        return device.classes(), 0
    stays: list[BatchClass] = []
    next_ns = 0
    for body, offset in zip(device.running.values(), device.finish_offsets(), strict=True):
        if offset > order_ns:
            insort(stays, body.batch_class)
            next_ns = earlier(next_ns, offset)
    return tuple(stays), next_ns


def _harms_mean(device: Device, candidate: Candidate, now_ns: int, times: float) -> bool:
    """Whether somebody who runs would be late in the mean if everything took so many times as long."""
    offsets = device.finish_offsets(candidate.batch_class, candidate.forecast.work_ns)
    return harms(device, [round(offset * times) for offset in offsets], now_ns, 0.95, 0.0)


def pressing_ns(queue: Queue, candidate: Candidate, now_ns: int) -> int:
    """When the head of a queue is pressing, so that its batch no longer waits; `now_ns` if it is.

    Its duration shrinks while others end, so that may come later; it is asked again then, at least a 16th of it apart.
    """
    duration_ns = candidate.mean_finish_ns - now_ns
    due_ns = queue.head.deadline_ns or queue.urgency_at(0)[1]
    at_ns = due_ns - int(PRESSING * duration_ns)
    return now_ns if at_ns <= now_ns else max(at_ns, now_ns + duration_ns // 16)


def progress(device: Device, classes: tuple[BatchClass, ...]) -> float:
    """Useful solo progress per unit of time: of the work that their items would take one by one. In order."""
    if not classes:
        return 0.0
    device.refresh()
    found = device.remembered.get(classes)
    if found is None:
        rates = device.table.rates(tuple([device.table.mean(known) for known in classes]))
        found = sum([rate * saved(device, known) for rate, known in zip(rates, classes, strict=True)])
        device.remember(classes, found)
    return found


def saved(device: Device, known: BatchClass) -> float:
    """How much more its items would take one by one than in a batch; 1 where that is not known."""
    if known.batch_size == 1:
        return 1.0
    work = device.work_ns(known)
    single = device.work_ns(BatchClass(known.model, known.version, 1, known.shape_bucket))
    return known.batch_size * single / work if work and single else 1.0
