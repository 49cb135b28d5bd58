"""Deciding by pairs: at most two batches at once, each slowed by the other by a factor that is fixed at launch.

The loop that gpulets and the seed paper have in common; they differ in where solo times and slowdowns come from
(`policies/`). Rules, in order:
1. A request that even an empty device could not answer in time is rejected at once.
2. Queues are tried by urgency of their head (priority, then deadline), and in each the largest batch first.
3. A batch is launched on an empty device if it ends in time alone. Beside one other it is launched if it ends in time
   slowed by that one all along, and that one ends in time slowed as the policy says. Two is the most.
4. A class without a solo time or a slowdown runs alone, and nothing is launched beside it.
"""

from abc import ABC, abstractmethod

from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler.baselines import backlog_finish_ns, forecast_of, hopeless, launch_of, may_run, missing
from cotenant.scheduler.books import Device, Queue, Running
from cotenant.scheduler.events import PREDICTED_MISS, Forecast, Request
from cotenant.scheduler.planning import class_of, most_urgent_deadline
from cotenant.scheduler.policy import Outlook, Turn

AT_ONCE = 2


class PairPolicy(ABC):
    """See the module's text."""

    def __init__(self, level: float) -> None:
        self.level = level

    @abstractmethod
    def work_ns(self, device: Device, batch_class: BatchClass) -> int:
        """Solo time of a class; 0 if unknown."""

    @abstractmethod
    def slowdown(self, device: Device, victim: BatchClass, other: BatchClass) -> float:
        """By how much `victim` is slowed by `other` beside it, at least 1; 0 if unknown."""

    def slowdown_of_running(self, device: Device, body: Running, joining: BatchClass) -> float:
        """By how much a running batch is slowed, over its whole life, if another joins it; 0 if unknown."""
        return self.slowdown(device, body.batch_class, joining)

    # ---- what policies do

    def outlook(self, device: Device, request: Request, now_ns: int) -> Outlook:
        """Rejects what would be late even alone."""
        finish_ns = backlog_finish_ns(device, request, now_ns, min(AT_ONCE, device.spec.max_concurrency))
        own = BatchClass(request.model, request.version, request.batch_size, request.shape_bucket)
        alone_ns = now_ns + self.work_ns(device, own) + device.least_overhead_ns
        if 0 < request.deadline_ns < alone_ns:
            return Outlook(finish_ns, missing(request, PREDICTED_MISS, alone_ns))
        return Outlook(finish_ns, None)

    def turn(self, device: Device, now_ns: int) -> Turn:
        """The most urgent batch that may begin."""
        late = self.doomed(device, now_ns)
        if late.rejections or len(device.running) >= min(AT_ONCE, device.spec.max_concurrency):
            return late
        for queue in device.by_urgency():
            if not may_run(device, queue):
                continue
            requests, _ = queue.batch_at(0)
            while requests:
                if forecast := self._fits(device, queue, requests, now_ns):
                    return Turn([], launch_of(device, queue, requests, forecast, now_ns), late.wake_ns)
                requests = requests[:-1]
        return late

    def _fits(self, device: Device, queue: Queue, requests: list[Request], now_ns: int) -> Forecast | None:
        """What is predicted of a batch that may be launched now (rule 3)."""
        own = class_of(queue, sum(request.batch_size for request in requests))
        work_ns, slowdown = self.work_ns(device, own), 1.0
        for body in device.running.values():
            slowdown = self.slowdown(device, own, body.batch_class)
            if not work_ns or not slowdown or not self._spares(device, body, own):
                return None
        duration_ns = int(work_ns * slowdown)
        deadline_ns = most_urgent_deadline(requests)
        if 0 < deadline_ns < now_ns + duration_ns + device.answer_overhead_ns:
            return None
        return forecast_of(device, work_ns, duration_ns, self.level)

    def _spares(self, device: Device, body: Running, joining: BatchClass) -> bool:
        """Whether a running batch ends in time with another beside it; one that will be late anyway does not object."""
        work_ns, slowdown = body.batch.forecast.work_ns, self.slowdown_of_running(device, body, joining)
        if not work_ns or not slowdown:
            return False
        begun_ns, before_ns = body.started_ns or body.launched_ns, body.batch.forecast.duration_ns
        room_ns = body.batch.deadline_ns - device.answer_overhead_ns - begun_ns
        return not body.batch.deadline_ns or before_ns > room_ns or work_ns * slowdown <= room_ns

    def doomed(self, device: Device, now_ns: int) -> Turn:
        """What would be late even alone."""
        return hopeless(device, now_ns, lambda known: self.work_ns(device, known))
