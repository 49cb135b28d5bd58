"""What the scheduler knows: devices, what runs on them, what waits for them. No decisions.

Policies read these objects and never write them; only the core does.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

import msgspec

from cotenant.runtime.estimates import BatchClass, EstimateTable, factor_at
from cotenant.scheduler import contention
from cotenant.scheduler.events import Batch, DeviceSpec, ModelSpec, Profile, Request

# Requests without a deadline are ordered as if they had this much time, so that they age and never starve.
PATIENCE_NS = 10_000_000_000
# Until the predictor has told a bound: what a forecast is multiplied by, alone and beside others.
COLD_SOLO_FACTOR = 1.25
COLD_FACTOR = 1.5

QueueKey = tuple[str, str, str]  # model, version, shape bucket


class Queue:
    """Requests of one model, version and bucket that wait for one device, most urgent first.

    Order: priority, then deadline, then id.
    """

    def __init__(self, key: QueueKey, spec: ModelSpec) -> None:
        self.key = key
        self.spec = spec
        self._entries: list[tuple[int, int, int, Request]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Request]:
        return (entry[3] for entry in self._entries)

    @property
    def head(self) -> Request:
        """The most urgent request. Raises IndexError if none waits."""
        return self._entries[0][3]

    def urgency_of(self, request: Request) -> tuple[int, int, int]:
        """Sort key of a request, in this queue or not.

        Priority counts from the model's default, so that models with different numbers of levels compare: 1 is the
        most urgent, 0 and what is beyond the model's levels stand for its default.
        """
        levels = self.spec.priority_levels
        default = self.spec.default_priority or (levels + 1) // 2 or 2
        known = request.priority if not levels or request.priority <= levels else 0
        level = (known or default) - default
        order_ns = request.order_ns or request.deadline_ns or request.arrival_ns + PATIENCE_NS
        return level, order_ns, request.request_id

    def add(self, request: Request) -> None:
        """Inserts a request at its place."""
        insort(self._entries, (*self.urgency_of(request), request))

    def remove(self, request: Request) -> None:
        """Takes a request out. Raises KeyError if it is not there."""
        index = bisect_left(self._entries, self.urgency_of(request))
        if index == len(self._entries) or self._entries[index][3].request_id != request.request_id:
            raise KeyError(request.request_id)
        del self._entries[index]

    def urgency_at(self, start: int) -> tuple[int, int, int]:
        """Sort key of the request at an index, smaller is more urgent. Raises IndexError past the end."""
        return self._entries[start][:3]

    def batch_at(self, start: int) -> tuple[list[Request], int]:
        """The largest batch that can be formed from index `start` on, and its number of items.

        A model without dynamic batching runs each request as a batch of its own.
        """
        chosen: list[Request] = []
        items = 0
        for entry in self._entries[start : start + (self.spec.max_batch_size if self.spec.batching else 1)]:
            request = entry[3]
            if chosen and (request.alone or items + request.batch_size > self.spec.max_batch_size):
                break
            chosen.append(request)
            items += request.batch_size
            if request.alone:
                break
        return chosen, items


class Running(msgspec.Struct):
    """A batch that was launched. `remaining_ns` is solo work left, as believed at the device's `updated_ns`."""

    batch: Batch
    launched_ns: int
    remaining_ns: float
    started_ns: int = 0

    @property
    def batch_class(self) -> BatchClass:
        """What runs."""
        return self.batch.batch_class


class Window(msgspec.Struct):
    """An executor's wish to have its device alone; `until_ns` is 0 until granted."""

    window_id: int
    duration_ns: int
    requested_ns: int
    until_ns: int = 0


class Device:
    """The books of one device."""

    def __init__(self, spec: DeviceSpec, incarnation: int, table: EstimateTable, now_ns: int) -> None:
        self.spec = spec
        self.incarnation = incarnation
        self.online = True
        self.table = table
        self.estimates_version = 0
        self.answer_overhead_ns = 0
        self.profiles: dict[QueueKey, dict[int, Profile]] = {}  # by batch size, ascending
        self.models: dict[tuple[str, str], ModelSpec] = {}
        self.memory_bytes: dict[tuple[str, str], int] = {}
        self.running: dict[int, Running] = {}
        self.queues: dict[QueueKey, Queue] = {}
        self.window: Window | None = None
        self.updated_ns = now_ns
        self.busy_ns = 0
        self.batch_ns = 0
        self.wake_ns = 0
        self._offsets_of: tuple[int, tuple[int, ...], tuple[float, ...]] | None = None
        self._offsets: list[int] = []

    # ---- what waits

    @property
    def queued(self) -> int:
        """Requests that wait for this device."""
        return sum(map(len, self.queues.values()))

    def by_urgency(self) -> list[Queue]:
        """The queues in which something waits, most urgent head first."""
        return sorted(self.queues.values(), key=lambda queue: queue.urgency_at(0))

    def enqueue(self, request: Request) -> Queue:
        """Adds a request to its queue, made if need be. Raises KeyError if its model is not loaded here."""
        key = (request.model, request.version, request.shape_bucket)
        queue = self.queues.get(key)
        if queue is None:
            queue = self.queues[key] = Queue(key, self.models[request.model, request.version])
        queue.add(request)
        return queue

    def dequeue(self, request: Request) -> None:
        """Takes a request out of its queue; an empty queue goes, so that the books hold only what waits.

        Raises KeyError if it does not wait here.
        """
        key = (request.model, request.version, request.shape_bucket)
        self.queues[key].remove(request)
        if not len(self.queues[key]):
            del self.queues[key]

    # ---- what runs

    def running_of(self, model: str, version: str) -> int:
        """Batches of one version of a model that run now."""
        return sum(r.batch_class.model == model and r.batch_class.version == version for r in self.running.values())

    def advance(self, now_ns: int) -> None:
        """Brings remaining work and the integrals of use up to `now_ns`. Going back in time does nothing."""
        elapsed = now_ns - self.updated_ns
        if elapsed <= 0:
            return
        self.updated_ns = now_ns
        bodies = list(self.running.values())
        if not bodies:
            return
        self.busy_ns += elapsed
        self.batch_ns += elapsed * len(bodies)
        classes, works = [r.batch_class for r in bodies], [r.batch.forecast.work_ns for r in bodies]
        left = contention.advance(self.table, classes, works, [r.remaining_ns for r in bodies], elapsed)
        for body, remaining in zip(bodies, left, strict=True):
            # One that should have ended has not: expect a twentieth of its work more, again and again.
            body.remaining_ns = max(remaining, body.batch.forecast.work_ns * 0.05)

    def finish_offsets(self, extra: BatchClass | None = None, extra_work_ns: int = 0) -> list[int]:
        """Time until each running batch ends, in the order they run, and until `extra` would if launched now."""
        bodies = self.running.values()
        remaining = [r.remaining_ns for r in bodies]
        if extra is None:
            state = (self.table.revision, tuple(self.running), tuple(remaining))
            if state == self._offsets_of:  # several ask between two changes
                return self._offsets
        classes = [r.batch_class for r in bodies]
        works = [r.batch.forecast.work_ns for r in bodies]
        if extra is not None:
            classes.append(extra)
            works.append(extra_work_ns)
            remaining.append(float(extra_work_ns))
            return contention.finish_offsets(self.table, classes, works, remaining)
        self._offsets_of, self._offsets = state, contention.finish_offsets(self.table, classes, works, remaining)
        return self._offsets

    # ---- what is believed

    def add_profile(self, profile: Profile) -> None:
        """Keeps a solo measurement."""
        known = profile.batch_class
        sizes = self.profiles.setdefault((known.model, known.version, known.shape_bucket), {})
        sizes[known.batch_size] = profile
        for size in sorted(sizes):
            sizes[size] = sizes.pop(size)

    def work_ns(self, batch_class: BatchClass) -> int:
        """Believed solo time of a class: learned, else measured, else drawn from other sizes; 0 if unknown."""
        if (estimate := self.table.classes.get(batch_class)) and estimate.work_ns:
            return estimate.work_ns
        sizes = self.profiles.get((batch_class.model, batch_class.version, batch_class.shape_bucket))
        if not sizes:
            return 0
        size = batch_class.batch_size
        below = max((s for s in sizes if s <= size), default=0)
        above = min((s for s in sizes if s >= size), default=0)
        if below == above:
            return sizes[size].work_ns
        if below and above:  # linear between the nearest measured sizes
            low, high = sizes[below].work_ns, sizes[above].work_ns
            return low + (high - low) * (size - below) // (above - below)
        return sizes[below].work_ns * size // below if below else sizes[above].work_ns

    def bound_factor(
        self, batch_class: BatchClass, level: float, co_runner_count: int, co_runners: Sequence[BatchClass] = ()
    ) -> float:
        """What a forecast of this class beside so many others is multiplied by, to be exceeded at most 1 - level.

        What was told explicitly for these `co_runners` wins over what is told of the class.
        """
        if explicit := self.table.set_factor(batch_class, co_runners, level):
            return explicit
        cold = COLD_FACTOR if co_runner_count else COLD_SOLO_FACTOR
        estimate = self.table.classes.get(batch_class)
        return factor_at(estimate.quantiles, level, co_runner_count, default=cold) if estimate else cold
