"""What the scheduler knows: devices, what runs on them, what waits for them. No decisions.

Policies read these objects and never write them; only the core does.
"""

from bisect import bisect_left, insort
from collections.abc import Hashable, Mapping, Sequence

import msgspec

from cotenant.runtime.estimates import BatchClass, EstimateTable, factor_at
from cotenant.scheduler.contention import Together
from cotenant.scheduler.events import Batch, DeviceSpec, ModelSpec, Profile, Request
from cotenant.scheduler.fairness import Fairness
from cotenant.scheduler.queues import Entry, Queue, QueueKey
from cotenant.scheduler.settings import ModelSettings
from cotenant.scheduler.widening import Widening

__all__ = ["Device", "Queue", "QueueKey", "Running", "Window", "with_model_settings"]

# Until the predictor has told a bound: what a forecast is multiplied by, alone and beside others.
COLD_SOLO_FACTOR = 1.25
COLD_FACTOR = 1.5
MEMO_LIMIT = 65536  # things remembered of one device; bounds memory
ORDERS = 9  # the last ones, that count
SOLO_RUNS = 10  # of a class, the last ones, whose durations are kept: Clockwork's window

NO_SETTINGS: Mapping[str, ModelSettings] = {}


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
        table.assume_nothing()  # of an earlier incarnation's profiles
        self.estimates_version = 0
        self.answer_overhead_ns = self.least_overhead_ns = 0
        self.orders_ns: tuple[int, ...] = ()
        self.order_ns = 0  # what an order usually takes; 0 if that is not known
        self.profiles: dict[QueueKey, dict[int, Profile]] = {}  # by batch size, ascending
        self.solo_runs: dict[BatchClass, tuple[int, ...]] = {}  # durations of the last batches that ran alone, in ns
        self.widening = Widening()
        self._widened = 1.0  # as it is applied
        self.models: dict[tuple[str, str], ModelSpec] = {}  # as they hold
        self.declared: dict[tuple[str, str], ModelSpec] = {}  # as executors told
        self.model_settings = NO_SETTINGS  # by model: what holds in the place of that
        self.ranks: dict[str, int] = {}  # of tenants; queues put them before everything else
        self.fair: Fairness | None = None  # keeps the ranks, where tenants are told apart
        self.memory_bytes: dict[tuple[str, str], int] = {}
        self.running: dict[int, Running] = {}  # changed by `begin` and `end` alone
        self.queues: dict[QueueKey, Queue] = {}
        self.line: list[Entry] = []  # all that waits, most urgent first
        self.window: Window | None = None
        self.updated_ns = now_ns
        self.busy_ns = 0
        self.batch_ns = 0
        self.wake_ns = 0
        self.number = 0  # devices are decided for in the order in which they joined
        # What follows from the rest, and is kept until that changes.
        self.beliefs = 0  # counts changes of what is believed; see `refresh`
        self.works: dict[BatchClass, int] = {}  # solo times
        self.remembered: dict[Hashable, float] = {}  # for policies: what they worked out of beliefs alone
        self._known_revision = -1
        self._heads: list[Entry] = []  # of all queues, most urgent first
        self._emptied: dict[QueueKey, Queue] = {}  # queues that are likely to be wanted again
        self._changed: dict[QueueKey, Queue] = {}  # of which the latest start must be asked again
        self._latest: dict[QueueKey, int] = {}
        self._latest_at = -1
        self._together: Together | None = None
        self._offsets: list[int] | None = None

    # ---- what waits

    @property
    def queued(self) -> int:
        """Requests that wait for this device."""
        return len(self.line)

    def rank_of(self, queue: Queue) -> int:
        """Of the tenant of a queue's first request; 0 where all are alike. For policies with an order of their own."""
        return self.ranks.get(queue.head.tenant, 0) if self.ranks else 0

    def by_urgency(self) -> list[Queue]:
        """The queues in which something waits, most urgent head first."""
        return [entry[3] for entry in self._heads]

    def enqueue(self, request: Request) -> Queue:
        """Adds a request to its queue, made if need be. Raises KeyError if its model is not loaded here."""
        key = (request.model, request.version, request.shape_bucket)
        queue = self.queues.get(key)
        if queue is None:
            spec = self.models[request.model, request.version]
            queue = self._emptied.pop(key, None)
            if queue is None or queue.spec is not spec:
                queue = Queue(key, spec, self.ranks)
            self.queues[key] = queue
        entry = queue.entry_of(request)
        if queue.add(entry):
            self._new_head(queue, before=queue.entry_at(1) if len(queue) > 1 else None)
        insort(self.line, entry)
        self._changed[key] = queue
        return queue

    def _new_head(self, queue: Queue, before: Entry | None) -> None:
        """Keeps `_heads` after the first of a queue changed."""
        heads = self._heads
        if before is not None:
            del heads[bisect_left(heads, before)]
        if len(queue):
            insort(heads, queue.entry_at(0))

    def respecify(self, spec: ModelSpec) -> None:
        """A model was loaded, or its settings changed: its queues follow what is now said of it, order included."""
        self.declared[spec.model, spec.version] = spec
        if settings := self.model_settings.get(spec.model):
            spec = with_model_settings(spec, settings)
        self.models[spec.model, spec.version] = spec
        for queue in self.queues.values():
            if queue.key[:2] == (spec.model, spec.version) and queue.spec != spec:
                queue.respecify(spec)
        self._sort()

    def reorder(self) -> None:
        """Sorts all that waits again, after `ranks` changed."""
        for queue in self.queues.values():
            queue.respecify(queue.spec)
        self._sort()

    def _sort(self) -> None:
        """Puts everything that waits in line again."""
        self.line = sorted([entry for queue in self.queues.values() for entry in queue.entries()])
        self._heads = sorted([queue.entry_at(0) for queue in self.queues.values()])
        self._changed.update(self.queues)

    def dequeue(self, request: Request) -> None:
        """Takes a request out of its queue; an empty queue goes, so that the books hold only what waits.

        Raises KeyError if it does not wait here.
        """
        key = (request.model, request.version, request.shape_bucket)
        queue = self.queues[key]
        urgency = queue.urgency_of(request)
        first = queue.entry_at(0)
        if queue.remove(urgency):
            self._new_head(queue, before=first)
        del self.line[bisect_left(self.line, urgency)]
        self._changed[key] = queue
        if not len(queue):
            if len(self._emptied) >= MEMO_LIMIT:
                self._emptied.clear()
            self._emptied[key] = self.queues.pop(key)

    def latest_start_ns(self) -> int:
        """The last instant at which everything that waits could still be in time, each alone; 0 without deadlines."""
        self.refresh()
        if self._latest_at != self.beliefs:
            self._latest_at = self.beliefs
            self._changed.update(self.queues)
        for key, queue in self._changed.items():
            if len(queue) and (latest_ns := queue.latest_start_ns(self)):
                self._latest[key] = latest_ns
            else:
                self._latest.pop(key, None)
        self._changed.clear()
        return min(self._latest.values(), default=0)

    # ---- what runs

    def running_of(self, model: str, version: str) -> int:
        """Batches of one version of a model that run now."""
        return sum(r.batch_class.model == model and r.batch_class.version == version for r in self.running.values())

    def begin(self, body: Running) -> None:
        """One more batch runs."""
        self.running[body.batch.batch_id] = body
        self._together = self._offsets = None

    def end(self, batch_id: int) -> Running:
        """A batch runs no longer. Raises KeyError if it did not."""
        self._together = self._offsets = None
        return self.running.pop(batch_id)

    def restart(self, body: Running, started_ns: int) -> None:
        """A batch that was thought to run has only begun."""
        body.started_ns = started_ns
        self.believe_orders((*self.orders_ns[1 - ORDERS :], max(0, started_ns - body.launched_ns)))
        body.remaining_ns = float(body.batch.forecast.work_ns)
        self._offsets = None

    def advance(self, now_ns: int) -> None:
        """Brings remaining work and the integrals of use up to `now_ns`. Going back in time does nothing."""
        elapsed = now_ns - self.updated_ns
        if elapsed <= 0:
            return
        self.updated_ns = now_ns
        if not self.running:
            return
        self._offsets = None
        bodies = self.running.values()
        self.busy_ns += elapsed
        self.batch_ns += elapsed * len(bodies)
        left = self._rolling().advance([body.remaining_ns for body in bodies], elapsed)
        for body, remaining in zip(bodies, left, strict=True):
            # One that should have ended has not: expect a twentieth of its work more, again and again.
            least = body.batch.forecast.work_ns * 0.05
            body.remaining_ns = max(least, remaining)

    def finish_offsets(self, extra: BatchClass | None = None, extra_work_ns: int = 0) -> list[int]:
        """Time until each running batch ends, in the order they run, and until `extra` would if launched now."""
        together = self._rolling()
        if extra is not None:
            remaining = [body.remaining_ns for body in self.running.values()]
            return together.finish_offsets_with(remaining, extra, extra_work_ns)
        if self._offsets is None:  # several ask between two changes
            self._offsets = together.finish_offsets([body.remaining_ns for body in self.running.values()])
        return self._offsets

    def classes(self) -> tuple[BatchClass, ...]:
        """What runs, in order."""
        return self._rolling().classes

    def _rolling(self) -> Together:
        """What runs, ready to be rolled by what is believed now."""
        found = self._together
        if found is None or found.revision != self.table.revision:
            bodies = self.running.values()
            classes = [body.batch.batch_class for body in bodies]
            found = self._together = Together(self.table, classes, [body.batch.forecast.work_ns for body in bodies])
            self._offsets = None
        return found

    # ---- what is believed

    def believe_overhead(self, usual_ns: int, least_ns: int) -> None:
        """What answers take from the end of a batch, usually and at least."""
        self.answer_overhead_ns, self.least_overhead_ns = usual_ns, least_ns
        self.beliefs += 1

    def believe_orders(self, orders_ns: tuple[int, ...]) -> None:
        """What the last orders took, from the launch of a batch to its start; the usual one counts."""
        self.orders_ns = orders_ns
        self.order_ns = sorted(orders_ns)[len(orders_ns) // 2] if orders_ns else 0

    def refresh(self) -> None:
        """Forgets what was worked out of a table that has changed since."""
        if self.table.revision != self._known_revision:
            self._known_revision = self.table.revision
            self._forget()

    def _forget(self) -> None:
        self.beliefs += 1
        self.works.clear()
        self.remembered.clear()

    def add_profile(self, profile: Profile) -> None:
        """Keeps a solo measurement."""
        known = profile.batch_class
        sizes = self.profiles.setdefault((known.model, known.version, known.shape_bucket), {})
        sizes[known.batch_size] = profile
        if next(reversed(sizes)) != max(sizes):
            for size in sorted(sizes):
                sizes[size] = sizes.pop(size)
        if profile.demand:
            self.table.assume(known, profile.demand, profile.kernel_ns, profile.phases)
        self.solo_runs.pop(known, None)
        self._forget()

    def drop_profiles(self, model: str, version: str) -> None:
        """Forgets what was measured of a version."""
        for key in [key for key in self.profiles if key[:2] == (model, version)]:
            del self.profiles[key]
        self.table.assume_nothing(model, version)
        for known in [known for known in self.solo_runs if (known.model, known.version) == (model, version)]:
            del self.solo_runs[known]
        self._forget()

    def note_solo_run(self, batch_class: BatchClass, duration_ns: int) -> None:
        """Keeps how long a batch took that ran alone."""
        self.solo_runs[batch_class] = (*self.solo_runs.get(batch_class, ())[1 - SOLO_RUNS :], duration_ns)

    def work_ns(self, batch_class: BatchClass) -> int:
        """Believed solo time of a class: learned, else measured, else drawn from other sizes; 0 if unknown."""
        if self.table.revision != self._known_revision:
            self.refresh()
        found = self.works.get(batch_class)
        if found is None:
            estimate = self.table.classes.get(batch_class)
            found = estimate.work_ns if estimate and estimate.work_ns else self.profiled_ns(batch_class)
            if len(self.works) >= MEMO_LIMIT:
                self.works.clear()
            self.works[batch_class] = found
        return found

    def solo_ns(self, batch_class: BatchClass) -> int:
        """From the start of a batch that runs alone to its answers, at least; 0 if its work is unknown."""
        work = self.work_ns(batch_class)
        return work + self.least_overhead_ns if work else 0

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
        if self.table.sets and (explicit := self.table.set_factor(batch_class, co_runners, level)):
            return explicit * self._widened
        self.refresh()
        key = (batch_class, level, co_runner_count)
        factor = self.remembered.get(key)
        if factor is None:
            cold = COLD_FACTOR if co_runner_count else COLD_SOLO_FACTOR
            estimate = self.table.classes.get(batch_class)
            factor = factor_at(estimate.quantiles, level, co_runner_count, default=cold) if estimate else cold
            self.remember(key, factor)
        return factor * self._widened

    def widen(self) -> None:
        """Applies what has become of `widening`."""
        if self._widened != self.widening.applied:
            self._widened = self.widening.applied
            self._forget()

    def remember(self, key: Hashable, value: float) -> float:
        """Keeps what was worked out of what is believed, until that changes."""
        if len(self.remembered) >= MEMO_LIMIT:
            self.remembered.clear()
        self.remembered[key] = value
        return value


def with_model_settings(spec: ModelSpec, settings: ModelSettings) -> ModelSpec:
    """What holds of a model, where it was told so and settings say otherwise."""
    given = {name: value for name, value in msgspec.structs.asdict(settings).items() if value is not None}
    return msgspec.structs.replace(spec, **given)
