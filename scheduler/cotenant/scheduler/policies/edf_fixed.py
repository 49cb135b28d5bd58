"""Earliest deadline first at a fixed concurrency, predicting nothing. A baseline: what a classic real-time queue does.

Rules, in order:
1. A request whose deadline has passed while it waited is dropped; nothing else is ever refused for being late.
2. Whenever fewer batches run than the device may run at once, the queue whose head is most urgent (priority, then
   deadline) launches the largest batch it has.

It does not ask who runs beside whom, nor how long anything takes, and waits for no fuller batch.
"""

from cotenant.scheduler.baselines import backlog_finish_ns, expired, may_run, unaware_launch
from cotenant.scheduler.books import Device
from cotenant.scheduler.events import Request
from cotenant.scheduler.policy import Outlook, Turn


class EdfFixed:
    """See the module's text."""

    name = "edf-fixed"

    def __init__(self, level: float) -> None:
        self.level = level

    def outlook(self, device: Device, request: Request, now_ns: int) -> Outlook:
        """Admits everything."""
        return Outlook(backlog_finish_ns(device, request, now_ns, device.spec.max_concurrency), None)

    def turn(self, device: Device, now_ns: int) -> Turn:
        """The most urgent batch, if there is a lane for it."""
        gone = self.doomed(device, now_ns)
        if gone.rejections or len(device.running) >= device.spec.max_concurrency:
            return gone
        for queue in device.by_urgency():
            if may_run(device, queue):
                requests, _ = queue.batch_at(0)
                return Turn([], unaware_launch(device, queue, requests, now_ns, self.level), gone.wake_ns)
        return gone

    def doomed(self, device: Device, now_ns: int) -> Turn:
        """What has waited past its deadline."""
        return expired(device, now_ns)
