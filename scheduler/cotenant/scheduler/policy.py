"""What a policy is: functions from the books of one device to what should happen there. Data in, data out.

A policy owns no state that a decision depends on, reads no clock and performs nothing; the core carries out what it
returns. docs/policies.md tells how to write one: a file in `policies/`, and a line in `POLICIES`.
"""

from typing import NamedTuple, Protocol

from cotenant.scheduler.books import Device, QueueKey
from cotenant.scheduler.events import Forecast, Request


class Rejection(NamedTuple):
    """A request that should not run, and why."""

    request: Request
    reason: str
    message: str
    predicted_finish_ns: int
    earliest_possible_ns: int


class LaunchBatch(NamedTuple):
    """These requests of one queue should run now, as one batch."""

    queue: QueueKey
    requests: tuple[Request, ...]
    items: int
    forecast: Forecast
    deadline_ns: int
    latest_start_ns: int


class Outlook(NamedTuple):
    """What awaits a request that has just been queued, and who is refused in its stead if it stays here."""

    finish_ns: int
    rejection: Rejection | None
    instead: Rejection | None = None


class Turn(NamedTuple):
    """One step: what to reject, at most one launch, and when to be asked again if nothing happens (0: never).

    After a launch or a rejection the policy is asked again at once.
    """

    rejections: list[Rejection]
    launch: LaunchBatch | None = None
    wake_ns: int = 0


class Policy(Protocol):
    """See the module's text. `level` is the level of bounds to decide with."""

    name: str

    def outlook(self, device: Device, request: Request, now_ns: int) -> Outlook:
        """Judges a request that was just added to its queue on this device.

        Its finish is never before it could be answered if it ran alone from now on (`solo_finish_ns`).
        """
        ...

    def turn(self, device: Device, now_ns: int) -> Turn:
        """Decides the next step. The device is online, its window is not granted, and its books are at `now_ns`."""
        ...

    def doomed(self, device: Device, now_ns: int) -> Turn:
        """Rejects what can no longer be answered in time, launching nothing; `wake_ns` is when more will be."""
        ...
