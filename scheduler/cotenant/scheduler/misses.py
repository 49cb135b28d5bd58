"""The last requests that were refused or late, for dashboards. Kept beside the core, used by no decision."""

from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from cotenant.scheduler.events import CANCELLED, Batch, BatchFinished, Launch, Refuse, Request

_KEPT = 32


class Late(msgspec.Struct, frozen=True, gc=False):
    """A request whose batch ended after its deadline; instants in ns."""

    request: Request
    batch: Batch
    launched_ns: int
    answered_ns: int
    duration_ns: int


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A request that was refused."""

    request: Request
    action: Refuse
    at_ns: int


class Misses:
    """See the module's text."""

    def __init__(self) -> None:
        self._last: deque[Late | Refused | tuple[int, Refuse]] = deque(maxlen=_KEPT)
        self._launched: dict[int, tuple[int, Launch]] = {}  # by batch: when, and what

    def launched(self, now_ns: int, action: Launch) -> None:
        """A batch was launched."""
        self._launched[action.batch.batch_id] = now_ns, action

    def finished(self, event: BatchFinished) -> None:
        """A batch has run."""
        launched_ns, launch = self._launched.pop(event.batch_id, (0, None))
        if launch is None or not launch.batch.deadline_ns:
            return
        answered_ns = max(event.at_ns, event.started_ns + event.duration_ns + event.output_ns)
        if launch.batch.deadline_ns < answered_ns and not event.failed:
            for request in launch.batch.requests:
                if 0 < request.deadline_ns < answered_ns:
                    self._last.append(Late(request, launch.batch, launched_ns, answered_ns, event.duration_ns))

    def dropped(self, batch_id: int) -> None:
        """A batch came back without having run."""
        self._launched.pop(batch_id, None)

    def held(self, device_id: str, batches: Iterable[Batch]) -> None:
        """What a device holds, of all that was launched on it."""
        there = {batch.batch_id for batch in batches}
        for batch_id, (_, launch) in list(self._launched.items()):
            if launch.device_id == device_id and batch_id not in there:
                del self._launched[batch_id]

    def refused(self, now_ns: int, action: Refuse) -> None:
        """A request was refused. A client that has gone misses nothing."""
        if action.reason != CANCELLED:
            self._last.append((now_ns, action))

    def newest(self, count: int, arrivals: Callable[[set[int]], dict[int, Request]]) -> list[Late | Refused]:
        """The last ones, newest first. `arrivals` finds requests by id; what it does not find is left out."""
        wanted = {miss[1].request_id for miss in list(self._last)[-count:] if isinstance(miss, tuple)}
        if wanted:
            known = arrivals(wanted)
            self._last = deque((m for miss in self._last if (m := _resolved(miss, wanted, known))), maxlen=_KEPT)
        last = list(self._last)[-count:]
        return [miss for miss in reversed(last) if not isinstance(miss, tuple)]


def _resolved(
    miss: Late | Refused | tuple[int, Refuse], wanted: set[int], known: dict[int, Request]
) -> Late | Refused | tuple[int, Refuse] | None:
    """A miss with its request, if that was wanted; None if it was not found."""
    if not isinstance(miss, tuple) or miss[1].request_id not in wanted:
        return miss
    at_ns, action = miss
    request = known.get(action.request_id)
    return Refused(request, action, at_ns) if request else None
