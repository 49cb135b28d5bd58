"""The recent past, for those who ask about a request: what entered the core and what it decided, in the log's terms.

Kept are the very events and actions that passed, in *stretches*. Each begins with a snapshot of the core, so that it
can be replayed as a part of a log can. Nothing is encoded or looked up before somebody asks; what is long comes in
pieces, so that the asked can do something else between them. The oldest stretch goes when there is more than allowed.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from time import thread_time_ns
from typing import NamedTuple, TypeAlias

import msgspec

from cotenant.scheduler import record, snapshot
from cotenant.scheduler.core import FRONTEND_SHIFT, Core
from cotenant.scheduler.events import (
    Action,
    BatchDropped,
    BatchFinished,
    BatchStarted,
    DeviceJoined,
    DeviceLost,
    EstimatesPushed,
    Event,
    FrontendLost,
    KernelTimings,
    Launch,
    Refuse,
    Request,
    RequestArrived,
)
from cotenant.scheduler.misses import Misses
from cotenant.scheduler.snapshot import DeviceSnapshot

Past: TypeAlias = tuple[int, tuple[Event, ...], tuple[Action, ...]]  # one call of the core: instant, events, actions

_STRETCHES = 16  # of which all that is kept consists, where that is possible
_REST = 1000  # times what a snapshot took: in a world so large that it takes long, there are fewer of them
_LAST = 20_000  # groups that are looked through at once for those that were just refused
_PIECE = 200  # groups that are looked through or encoded before something else may be done
# Bytes that the things of a group occupy, as `tests/test_lives.py` measures them.
_GROUP, _REQUEST, _FINISHED, _SLICE, _EVENT, _ACTION, _LAUNCH = 300, 700, 700, 170, 260, 100, 700
_KERNEL, _CLASS = 160, 3000
_BULK = ("models", "memory_bytes", "profiles", "queued", "solo_runs")  # of a device: tuples of what never changes
_encoder = msgspec.json.Encoder()
_device = msgspec.json.Decoder(DeviceSnapshot)


class Life(NamedTuple):
    """A request that is remembered, and the stretches that may tell of it."""

    request: Request
    stretches: tuple["Stretch", ...]


class Stretch:
    """A part of the past. What may change in the core is encoded at once; the rest, which is most of it, is not."""

    def __init__(self, core: Core) -> None:
        self.groups: list[Past] = []
        self.requests = 0
        taken = snapshot.take(core)
        self.devices, self.tables, self.unplaced = taken.devices, taken.tables, taken.unplaced
        self._head = _encoder.encode(msgspec.structs.replace(taken, devices=(), tables=()))
        self._devices = [_encoder.encode(_without_bulk(device)) for device in taken.devices]
        self.groups_bytes = 0
        self.snapshot_bytes = len(self._head) + sum(map(len, self._devices))
        self.snapshot_bytes += 8 * sum(len(table.classes) + len(table.sets) for table in taken.tables)

    def queued_or_running(self) -> Iterator[Request]:
        """What was there when it began."""
        yield from self.unplaced
        for device in self.devices:
            yield from device.queued
            for body in device.running:
                yield from body.batch.requests

    def snapshot(self) -> Iterator[bytes]:
        """The core as it was when this began, in pieces that make one line of a log."""
        yield self._head[:-1]
        for i, (small, whole) in enumerate(zip(self._devices, self.devices, strict=True)):
            device = msgspec.structs.replace(_device.decode(small), **_bulk(whole))
            yield (b"," if i else b',"devices":[') + _encoder.encode(device)
        yield b"]" if self.devices else b""
        for i, table in enumerate(self.tables):
            yield (b"," if i else b',"tables":[') + _encoder.encode(table)
        yield b"]}\n" if self.tables else b"}\n"


def _without_bulk(device: DeviceSnapshot) -> DeviceSnapshot:
    return msgspec.structs.replace(device, **dict.fromkeys(_BULK, ()))


def _bulk(device: DeviceSnapshot) -> dict[str, object]:
    return {name: getattr(device, name) for name in _BULK}


class Lives:
    """See the module's text."""

    def __init__(
        self,
        core: Core,
        *,
        epoch: int,
        software: str,
        max_requests: int,
        max_bytes: int,
        cpu_ns: Callable[[], int] = thread_time_ns,
    ) -> None:
        self._cpu_ns = cpu_ns
        self._header = record.header(epoch, 0, software)  # one for all, so that a request always came at the same date
        self._max_requests, self._max_bytes = max_requests, max_bytes
        self._stretches = deque([Stretch(core)])
        self._rested_ns = 0  # until then no stretch begins that need not
        self.misses = Misses()

    @property
    def requests(self) -> int:
        """Requests whose arrival is remembered."""
        return sum(stretch.requests for stretch in self._stretches)

    @property
    def byte_size(self) -> int:
        """About what all this occupies."""
        return sum(stretch.groups_bytes + stretch.snapshot_bytes for stretch in self._stretches)

    @property
    def since_ns(self) -> int:
        """From which instant on the past is remembered; 0 if nothing is."""
        return next((stretch.groups[0][0] for stretch in self._stretches if stretch.groups), 0)

    def add(self, core: Core, now_ns: int, events: Sequence[Event], actions: Sequence[Action]) -> None:
        """Remembers one call of the core; `core` is as it is after it."""
        stretch, misses = self._stretches[-1], self.misses
        stretch.groups.append((now_ns, tuple(events), tuple(actions)))
        occupied = _GROUP
        for event in events:  # types are compared, not matched: this is done for every request
            if type(event) is RequestArrived:
                stretch.requests += 1
                occupied += _REQUEST
            elif type(event) is BatchFinished:
                occupied += _FINISHED + _SLICE * len(event.slices)
                misses.finished(event)
            elif type(event) is BatchStarted:
                occupied += _EVENT
            else:
                occupied += self._rare(event)
        for action in actions:
            if type(action) is Launch:
                occupied += _LAUNCH
                misses.launched(now_ns, action)
            elif type(action) is Refuse:
                misses.refused(now_ns, action)
            occupied += _ACTION
        stretch.groups_bytes += occupied
        filled = max(stretch.groups_bytes / self._max_bytes, stretch.requests / self._max_requests)
        if filled * _STRETCHES >= 1.0 and (now_ns >= self._rested_ns or filled >= 0.5):
            self._next_stretch(core, now_ns)

    def _rare(self, event: Event) -> int:
        """Takes an event that is no part of every request's life; about how many bytes it occupies."""
        match event:
            case KernelTimings():
                return _EVENT + _KERNEL * len(event.kernels)
            case EstimatesPushed():
                return _EVENT + _CLASS * (len(event.classes) + len(event.sets))
            case DeviceJoined():
                self.misses.held(event.device.device_id, event.held)
                return _EVENT + _CLASS * len(event.profiles) + _REQUEST * len(event.held)
            case DeviceLost():
                self.misses.held(event.device_id, ())
            case BatchDropped():
                self.misses.dropped(event.batch_id)
        return _EVENT

    def _next_stretch(self, core: Core, now_ns: int) -> None:
        """Begins one; lets the oldest go, so that there is room for it. The last whole one always stays."""
        started = self._cpu_ns()
        self._stretches.append(Stretch(core))
        self._rested_ns = now_ns + _REST * (self._cpu_ns() - started)
        room = 1 - 1 / _STRETCHES
        while len(self._stretches) > 2 and (
            self.byte_size > room * self._max_bytes or self.requests > room * self._max_requests
        ):
            self._stretches.popleft()

    def find(self, wanted: Callable[[Request], bool]) -> Iterator[Life | None]:
        """The requests that are wanted, oldest first. None stands between pieces of the search."""
        stretches = tuple(self._stretches)
        seen: set[int] = set()
        for i, stretch in enumerate(stretches):
            for request in stretch.queued_or_running() if i == 0 else ():
                if wanted(request) and request.request_id not in seen:
                    seen.add(request.request_id)
                    yield Life(request, stretches)
            for at, (_, events, _) in enumerate(stretch.groups[:]):
                for event in events:
                    if not isinstance(event, RequestArrived) or not wanted(event.request):
                        continue
                    if event.request.request_id not in seen:
                        seen.add(event.request.request_id)
                        yield Life(event.request, stretches[i:])
                if at % _PIECE == 0:
                    yield None

    def arrivals(self, request_ids: set[int]) -> dict[int, Request]:
        """These requests, as far as they arrived within the last groups."""
        found: dict[int, Request] = {}
        past = (past for stretch in reversed(self._stretches) for past in reversed(stretch.groups))
        for _, events, _ in itertools.islice(past, _LAST):
            for event in events:
                if isinstance(event, RequestArrived) and event.request.request_id in request_ids:
                    found[event.request.request_id] = event.request
            if len(found) == len(request_ids):
                break
        return found

    def log(self, life: Life) -> Iterator[bytes]:
        """A log that tells of a request, from before its arrival to its end or to now, in pieces."""
        first, *_ = life.stretches
        yield _encoder.encode(self._header) + b"\n"
        yield from first.snapshot()
        end = _End(life.request.request_id, first)
        lines: list[bytes] = []
        for stretch in life.stretches:
            for past in stretch.groups[:]:
                lines.append(_encoder.encode(record.Group(*past)) + b"\n")
                if end.reached(past):
                    yield b"".join(lines)
                    return
                if len(lines) == _PIECE:
                    yield b"".join(lines)
                    lines.clear()
        yield b"".join(lines)


class _End:
    """Knows a request's end when it comes by."""

    def __init__(self, request_id: int, began: Stretch) -> None:
        self._request_id = request_id
        running = (body.batch for device in began.devices for body in device.running)
        self._batches = {batch.batch_id for batch in running if self._in(batch.requests)}

    def _in(self, requests: Sequence[Request]) -> bool:
        return any(request.request_id == self._request_id for request in requests)

    def reached(self, past: Past) -> bool:
        """Whether the request ends with this."""
        _, events, actions = past
        ended = False
        for event in events:
            if isinstance(event, BatchFinished):
                ended |= event.batch_id in self._batches
            elif isinstance(event, FrontendLost):
                ended |= not self._batches and event.frontend_id == self._request_id >> FRONTEND_SHIFT
        for action in actions:
            if isinstance(action, Launch) and self._in(action.batch.requests):
                self._batches.add(action.batch.batch_id)
            elif isinstance(action, Refuse):
                ended |= action.request_id == self._request_id
        return ended
