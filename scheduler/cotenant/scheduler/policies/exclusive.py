"""One batch at a time, first come first served: what unplanned queueing on one GPU does, without its surprises.

A baseline. It batches, refuses nothing for being late until its deadline has passed in the queue, and never lets two
batches share the device.
"""

from cotenant.scheduler.baselines import backlog_finish_ns, expired, unaware_launch
from cotenant.scheduler.books import Device
from cotenant.scheduler.events import Request
from cotenant.scheduler.policy import Outlook, Turn


class Exclusive:
    """See the module's text."""

    name = "exclusive-fifo"

    def __init__(self, level: float) -> None:
        self.level = level

    def outlook(self, device: Device, request: Request, now_ns: int) -> Outlook:
        """Admits everything."""
        return Outlook(backlog_finish_ns(device, request, now_ns, 1), None)

    def turn(self, device: Device, now_ns: int) -> Turn:
        """The oldest request with what batches with it, once the device is empty."""
        gone = self.doomed(device, now_ns)
        if gone.rejections or device.running or not device.queues:
            return gone
        waiting = device.runnable()
        if not waiting:
            return gone
        queue = min(waiting, key=lambda q: (device.rank_of(q), min((r.arrival_ns, r.request_id) for r in q)))
        requests, _ = queue.batch_at(0)
        return Turn([], unaware_launch(device, queue, requests, now_ns, self.level), gone.wake_ns)

    def doomed(self, device: Device, now_ns: int) -> Turn:
        """What has waited past its deadline."""
        return expired(device, now_ns)
