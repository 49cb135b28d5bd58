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
SOLO_RUNS = 10  # of a class, the last ones, whose durations are kept: Clockwork's window

QueueKey = tuple[str, str, str]  # model, version, shape bucket


class Queue:
    """Requests of one model, version and bucket that wait for one device, most urgent first.

    Order: priority, then deadline, then id.
    """

    def __init__(self, key: QueueKey, spec: ModelSpec) -> None:
        self.key = key
        self.spec = spec
        self.changes = 0  # counted, so that what was worked out of it is known to be old
        self._entries: list[tuple[int, int, int, Request]] = []
        self._latest: tuple[tuple[int, ...], int] = ((), 0)
        self.cost: tuple[tuple[int, ...], float, float] = ((), 0.0, 0.0)  # kept by `backlog.py`

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

    def respecify(self, spec: ModelSpec) -> None:
        """Puts what waits in the order that this asks for."""
        waiting = list(self)
        self.spec, self._entries = spec, []
        for request in waiting:
            self.add(request)

    def add(self, request: Request) -> None:
        """Inserts a request at its place."""
        self.changes += 1
        insort(self._entries, (*self.urgency_of(request), request))

    def remove(self, request: Request) -> None:
        """Takes a request out. Raises KeyError if it is not there."""
        index = bisect_left(self._entries, self.urgency_of(request))
        if index == len(self._entries) or self._entries[index][3].request_id != request.request_id:
            raise KeyError(request.request_id)
        self.changes += 1
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

    def latest_start_ns(self, device: "Device") -> int:
        """The last instant at which each of its requests could still be answered in time, alone on the device.

        0 if none has a deadline. Kept until something changes that it depends on.
        """
        state = (self.changes, device.table.revision, device.profile_changes, device.answer_overhead_ns)
        if state != self._latest[0]:
            work_ns: dict[int, int] = {}  # by batch size
            latest = 0
            for _, _, _, request in self._entries:
                if request.deadline_ns:
                    size = request.batch_size
                    if size not in work_ns:
                        work_ns[size] = device.solo_ns(self.key, size)
                    start_ns = request.deadline_ns - work_ns[size]
                    latest = min(latest or start_ns, start_ns)
            self._latest = state, latest
        return self._latest[1]


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
        self.solo_runs: dict[BatchClass, tuple[int, ...]] = {}  # durations of the last batches that ran alone, in ns
        self.models: dict[tuple[str, str], ModelSpec] = {}
        self.memory_bytes: dict[tuple[str, str], int] = {}
        self.running: dict[int, Running] = {}
        self.queues: dict[QueueKey, Queue] = {}
        self.line: list[tuple[int, int, int, Queue]] = []  # all that waits, most urgent first
        self.profile_changes = 0  # counted
        self.window: Window | None = None
        self.updated_ns = now_ns
        self.busy_ns = 0
        self.batch_ns = 0
        self.wake_ns = 0
        self.number = 0  # devices are decided for in the order in which they joined
        self._offsets_of: tuple[int, tuple[int, ...], tuple[float, ...]] | None = None
        self._offsets: list[int] = []

    # ---- what waits

    @property
    def queued(self) -> int:
        """Requests that wait for this device."""
        return len(self.line)

    def by_urgency(self) -> list[Queue]:
        """The queues in which something waits, most urgent head first."""
        return list(dict.fromkeys([entry[3] for entry in self.line]))

    def enqueue(self, request: Request) -> Queue:
        """Adds a request to its queue, made if need be. Raises KeyError if its model is not loaded here."""
        key = (request.model, request.version, request.shape_bucket)
        queue = self.queues.get(key)
        if queue is None:
            queue = self.queues[key] = Queue(key, self.models[request.model, request.version])
        queue.add(request)
        insort(self.line, (*queue.urgency_of(request), queue))
        return queue

    def respecify(self, spec: ModelSpec) -> None:
        """A model was loaded again: its queues follow what is now said of it, their order included."""
        self.models[spec.model, spec.version] = spec
        for queue in self.queues.values():
            if queue.key[:2] == (spec.model, spec.version) and queue.spec != spec:
                waiting = list(queue)
                self.line = [entry for entry in self.line if entry[3] is not queue]
                queue.respecify(spec)
                for request in waiting:
                    insort(self.line, (*queue.urgency_of(request), queue))

    def dequeue(self, request: Request) -> None:
        """Takes a request out of its queue; an empty queue goes, so that the books hold only what waits.

        Raises KeyError if it does not wait here.
        """
        key = (request.model, request.version, request.shape_bucket)
        queue = self.queues[key]
        queue.remove(request)
        del self.line[bisect_left(self.line, queue.urgency_of(request))]
        if not len(queue):
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
        self.solo_runs.pop(known, None)
        self.profile_changes += 1

    def note_solo_run(self, batch_class: BatchClass, duration_ns: int) -> None:
        """Keeps how long a batch took that ran alone."""
        self.solo_runs[batch_class] = (*self.solo_runs.get(batch_class, ())[1 - SOLO_RUNS :], duration_ns)

    def work_ns(self, batch_class: BatchClass) -> int:
        """Believed solo time of a class: learned, else measured, else drawn from other sizes; 0 if unknown."""
        if (estimate := self.table.classes.get(batch_class)) and estimate.work_ns:
            return estimate.work_ns
        return self.profiled_ns(batch_class)

    def solo_ns(self, key: QueueKey, items: int) -> int:
        """From the start of a batch that runs alone to its answers; 0 if its work is unknown."""
        work = self.work_ns(BatchClass(key[0], key[1], items, key[2]))
        return work + self.answer_overhead_ns if work else 0

    def profiled_ns(self, batch_class: BatchClass) -> int:
        """Solo time of a class as it was measured, or drawn from other sizes; 0 if unknown."""
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

    def profiled_demand(self, batch_class: BatchClass) -> tuple[float, ...]:
        """Shares of the resources a class keeps busy alone, as measured or drawn from other sizes; empty if unknown."""
        sizes = self.profiles.get((batch_class.model, batch_class.version, batch_class.shape_bucket), {})
        size, told = batch_class.batch_size, [s for s in sizes if sizes[s].demand]
        below = max((s for s in told if s <= size), default=0)
        above = min((s for s in told if s >= size), default=0)
        if below == above or not (below and above):
            return sizes[below or above].demand if told else ()
        part = (size - below) / (above - below)
        ends = zip(sizes[below].demand, sizes[above].demand, strict=False)
        return tuple([low + (high - low) * part for low, high in ends])

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
