"""One batch at a time, first come first served: what unplanned queueing on one GPU does, without its surprises.

A baseline. It batches, refuses nothing for being late until its deadline has passed in the queue, and never lets two
batches share the device.
"""

from cotenant.scheduler.books import Device
from cotenant.scheduler.events import EXPIRED_IN_QUEUE, Request
from cotenant.scheduler.planning import consider, solo_finish_ns
from cotenant.scheduler.policy import LaunchBatch, Outlook, Rejection, Turn


class Exclusive:
    """See the module's text."""

    name = "exclusive-fifo"

    def __init__(self, level: float) -> None:
        self.level = level

    def outlook(self, device: Device, request: Request, now_ns: int) -> Outlook:
        """Admits everything."""
        return Outlook(solo_finish_ns(device, request, now_ns), None)

    def turn(self, device: Device, now_ns: int) -> Turn:
        """The oldest request with what batches with it, once the device is empty."""
        expired = self.doomed(device, now_ns)
        if expired.rejections or device.running:
            return expired
        if not device.queues:
            return expired
        queue = min(device.queues.values(), key=lambda q: min((r.arrival_ns, r.request_id) for r in q))
        requests, items = queue.batch_at(0)
        candidate = consider(device, queue, requests, items, now_ns, self.level)
        launch = LaunchBatch(queue.key, tuple(requests), items, candidate.forecast, candidate.deadline_ns, 0)
        return Turn([], launch, expired.wake_ns)

    def doomed(self, device: Device, now_ns: int) -> Turn:
        """What has waited past its deadline."""
        rejections: list[Rejection] = []
        wake_ns = 0
        for queue in device.queues.values():
            for request in queue:
                if not request.deadline_ns:
                    continue
                if now_ns > request.deadline_ns:
                    solo = solo_finish_ns(device, request, now_ns)
                    rejections.append(
                        Rejection(request, EXPIRED_IN_QUEUE, "its deadline passed while it waited", solo, solo)
                    )
                else:
                    wake_ns = min(wake_ns or request.deadline_ns + 1, request.deadline_ns + 1)
        return Turn(rejections, None, wake_ns)
