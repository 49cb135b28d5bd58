"""What the scheduler knows: devices, what runs on them, what waits for them. No decisions.

Policies read these objects and never write them; only the core does.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence

import msgspec

from cotenant.runtime.estimates import BatchClass, EstimateTable, factor_at
from cotenant.scheduler.contention import Together
from cotenant.scheduler.events import Batch, DeviceSpec, ModelSpec, Profile
from cotenant.scheduler.fairness import Fairness
from cotenant.scheduler.queues import Queue, QueueKey
from cotenant.scheduler.rate_limits import RateLimits
from cotenant.scheduler.settings import ModelSettings
from cotenant.scheduler.waiting import Waiting
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


class Device(Waiting):
    """The books of one device."""

    def __init__(self, spec: DeviceSpec, incarnation: int, table: EstimateTable, now_ns: int) -> None:
        super().__init__()
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
        self.declared: dict[tuple[str, str], ModelSpec] = {}  # as executors told
        self.delays = False  # whether any of them ever waited for fuller batches
        self.model_settings = NO_SETTINGS  # by model: what holds in the place of that
        self.limits: RateLimits | None = None  # where resources are counted
        self.fair: Fairness | None = None  # keeps the ranks, where tenants are told apart
        self.memory_bytes: dict[tuple[str, str], int] = {}
        self.running: dict[int, Running] = {}  # changed by `begin` and `end` alone
        self.crowded: dict[QueueKey, int] = {}  # until when a queue counts as one that holds more than fits
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
        self._latest: dict[QueueKey, int] = {}
        self._latest_at = -1
        self._first_ns = 0  # the least of them; 0: there is none
        self._together: Together | None = None
        self._offsets: list[int] | None = None
        self._offsets_at = -1  # revision of the table that those rest on which were known before the batch began
        self._with: dict[tuple[BatchClass, int], list[int]] = {}  # offsets with one more, by what it is

    # ---- what waits

    def by_urgency(self) -> Iterator[Queue]:
        """The queues in which something waits whose batches could run, most urgent head first."""
        queues = self.heads()
        return queues if self.limits is None else self.limits.runnable(self, queues)

    def runnable(self) -> list[Queue]:
        """The queues in which something waits whose batches could run, in no order of urgency."""
        queues = self.queues.values()
        return list(queues if self.limits is None else self.limits.runnable(self, queues))

    def respecify(self, spec: ModelSpec) -> None:
        """A model was loaded, or its settings changed: its queues follow what is now said of it, order included."""
        self.declared[spec.model, spec.version] = spec
        if settings := self.model_settings.get(spec.model):
            spec = with_model_settings(spec, settings)
        self.models[spec.model, spec.version] = spec
        self.delays = self.delays or spec.max_queue_delay_ns > 0
        for queue in self.queues.values():
            if queue.key[:2] == (spec.model, spec.version) and queue.spec != spec:
                queue.respecify(spec)
        self._sort()

    def crowd(self, key: QueueKey, lasts_ns: int, now_ns: int) -> None:
        """A request of a queue was given up: for so long it counts as one that holds more than fits."""
        if key not in self.crowded:
            self.crowded = {other: until_ns for other, until_ns in self.crowded.items() if until_ns > now_ns}
        self.crowded[key] = now_ns + lasts_ns

    def latest_start_ns(self) -> int:
        """The last instant at which everything that waits could still be in time, each alone; 0 without deadlines."""
        self.refresh()
        if self._latest_at != self.beliefs:
            self._latest_at = self.beliefs
            self._changed.update(self.queues)
        if self._changed:
            first_ns = self._first_ns
            for key, queue in self._changed.items():
                before_ns = self._latest.get(key, 0)
                latest_ns = queue.latest_start_ns(self) if len(queue) else 0
                if latest_ns:
                    self._latest[key] = latest_ns
                    first_ns = min(first_ns, latest_ns)
                elif before_ns:
                    del self._latest[key]
                if before_ns == self._first_ns != latest_ns:
                    first_ns = 0  # what was the first no longer is
            self._changed.clear()
            self._first_ns = first_ns or min(self._latest.values(), default=0)
        return self._first_ns

    # ---- what runs

    def running_of(self, model: str, version: str) -> int:
        """Batches of one version of a model that run now."""
        return sum(r.batch_class.model == model and r.batch_class.version == version for r in self.running.values())

    def begin(self, body: Running) -> None:
        """One more batch runs."""
        found = self._with.get((body.batch.batch_class, body.batch.forecast.work_ns))
        whole = body.remaining_ns == body.batch.forecast.work_ns
        self.running[body.batch.batch_id] = body
        self._forget_offsets()
        self._together, self._offsets = None, found if whole else None
        self._offsets_at = self.table.revision

    def end(self, batch_id: int) -> Running:
        """A batch runs no longer. Raises KeyError if it did not."""
        self._forget_offsets()
        self._together = None
        return self.running.pop(batch_id)

    def restart(self, body: Running, started_ns: int) -> None:
        """A batch that was thought to run has only begun."""
        body.started_ns = started_ns
        self.believe_orders((*self.orders_ns[1 - ORDERS :], max(0, started_ns - body.launched_ns)))
        body.remaining_ns = float(body.batch.forecast.work_ns)
        self._forget_offsets()

    def advance(self, now_ns: int) -> None:
        """Brings remaining work and the integrals of use up to `now_ns`. Going back in time does nothing."""
        elapsed = now_ns - self.updated_ns
        if elapsed <= 0:
            return
        self.updated_ns = now_ns
        if not self.running:
            return
        self._forget_offsets()
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
        if extra is None:
            if self._offsets is None:  # several ask between two changes
                self._offsets = together.finish_offsets([body.remaining_ns for body in self.running.values()])
            return self._offsets
        found = self._with.get((extra, extra_work_ns))
        if found is None:
            remaining = [body.remaining_ns for body in self.running.values()]
            found = together.finish_offsets_with(remaining, extra, extra_work_ns)
            self._with[extra, extra_work_ns] = found
        return found

    def _forget_offsets(self) -> None:
        self._offsets = None
        self._with.clear()

    def classes(self) -> tuple[BatchClass, ...]:
        """What runs, in order."""
        return self._rolling().classes

    def _rolling(self) -> Together:
        """What runs, ready to be rolled by what is believed now."""
        found = self._together
        if found is None or found.revision != self.table.revision:
            bodies = self.running.values()
            classes = [body.batch.batch_class for body in bodies]
            if found is not None or self._offsets_at != self.table.revision:
                self._forget_offsets()
            found = self._together = Together(self.table, classes, [body.batch.forecast.work_ns for body in bodies])
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
        if size in sizes:
            return sizes[size].work_ns
        if below == above:  # what was measured is a batch of nothing
            return 0
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
