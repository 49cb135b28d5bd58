"""The scheduler's decisions: `handle(now_ns, events) -> actions`.

Theory of operation. The core is a state machine. Its input is time and events, its output actions; it has no clock,
does no I/O, takes no lock, logs nothing and draws no random number, so the same events in the same order give the
same actions, live, simulated or replayed from a log. Each call applies all events that were waiting, brings the
books of the devices concerned up to `now_ns`, and then lets the policy take turns on each of them until it has
nothing left to do. Containers are ordered and ties are broken by id.

A request is in exactly one place: in a queue of the device it is assigned to, or in a batch that runs. It leaves by
`Refuse`, or by the end of its batch (the executor has answered it then), and is forgotten. Events about unknown
requests, batches or devices are late news of something settled, and are ignored.

Loading and unloading models is in `lifecycle.py`, what is known in `books.py`, what to decide in `policies/`.
"""

from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any, ClassVar

import msgspec

from cotenant.runtime.estimates import BatchClass, EstimateTable
from cotenant.scheduler import events as ev
from cotenant.scheduler.books import Device, Running, Window
from cotenant.scheduler.lifecycle import Lifecycle
from cotenant.scheduler.policy import LaunchBatch, Policy, Rejection

FRONTEND_SHIFT = 33  # request id = frontend id << 33 | counter
# A window waits this long for the device to empty by itself; then launches pause until it has.
WINDOW_PATIENCE_NS = 500_000_000
# An executor that does not give a window back keeps its device for at most this long.
WINDOW_LIMIT_NS = 2_000_000_000
# After so long without an answer, half is forgotten of what answers were measured to take beyond execution and the
# setting: where everything is refused for being late there is nothing to measure.
OVERHEAD_PATIENCE_NS = 2_000_000_000
# Devices that a request is offered to at least, those with the least to do first; to more only if none takes it.
CHOICES = 2
# Devices that are not here of which what is believed is kept: as many as a predictor of ours knows.
MAX_AWAY = 1024


class CoreConfig(msgspec.Struct, frozen=True):
    """What does not change while the core runs; part of every log's snapshots.

    After a start, requests for models that nobody serves yet wait for `settle_ns`: the frontends of an earlier
    scheduler may be back before its executors are. Batch ids count from `first_batch_id`, which differs after every
    start, so that late news of an earlier scheduler's batches is never taken for news of this one's.
    """

    policy: str = "edf"
    level: float = 0.95
    observe_only: bool = False
    max_pending: int = 16384
    answer_overhead_ns: int = 2_000_000
    settle_ns: int = 2_000_000_000
    first_batch_id: int = 1
    load_all: bool = True
    load_models: tuple[str, ...] = ()


class Core:
    """See the module's text."""

    def __init__(self, config: CoreConfig, policy: Policy) -> None:
        self.config = config
        self.policy = policy
        self.devices: dict[str, Device] = {}
        self.tables: dict[str, EstimateTable] = {}  # by device id, told or lost last at the end; outlive an executor
        self.estimates_versions: dict[str, int] = {}
        self.places: dict[int, tuple[str, int]] = {}  # request -> (device, batch it runs in or 0)
        self.waiting: dict[int, ev.Request] = {}
        self.unplaced: dict[int, ev.Request] = {}  # after a start: nobody serves their model yet
        self.settled_ns = 0  # until when that is waited for
        self.next_batch_id = config.first_batch_id
        self.answer_overhead_ns = config.answer_overhead_ns
        self.overhead_told_ns = 0
        self.draining = False
        self.lifecycle = Lifecycle(config.load_all, config.load_models)
        self.now_ns = 0
        self.timer_ns = 0
        self._actions: list[ev.Action] = []
        self._touched: set[str] = set()  # devices to decide for; iterated in the order in which they joined
        self._wakes: list[tuple[int, int, str]] = []  # heap; some are of what is no longer so
        self._backlogged: dict[str, None] = {}  # devices for which something waits
        self._joined = 0

    # ---- the one entrance

    def handle(self, now_ns: int, events: Sequence[ev.Event]) -> list[ev.Action]:
        """Applies all events, decides once, and returns what is to be done, in order. Time never goes back."""
        self.now_ns = max(now_ns, self.now_ns)
        self._actions = self.lifecycle.actions = []
        self._touched = set()
        while self._wakes and self._wakes[0][0] <= self.now_ns:
            wake = heappop(self._wakes)
            if self._is_due(wake):  # a core restored from a snapshot knows no others
                self._touched.add(wake[2])
        self.settled_ns = self.settled_ns or self.now_ns + self.config.settle_ns
        excess_ns = self.answer_overhead_ns - self.config.answer_overhead_ns
        if excess_ns > 0 and self.now_ns - self.overhead_told_ns > OVERHEAD_PATIENCE_NS:
            self._believe_overhead(self.config.answer_overhead_ns + excess_ns // 2)
        for event in events:
            self._HANDLERS[type(event)](self, event)
        if self.unplaced:
            self._place_again()
        touched = [self.devices[device_id] for device_id in self._touched if device_id in self.devices]
        touched.sort(key=_number)
        for device in touched:
            self._decide(device)
        if len(self.devices) > 1:
            self._balance(touched)
        self.lifecycle.finish_unloads(self.devices)
        self._set_timer()
        return self._actions

    def _set_timer(self) -> None:
        while self._wakes and not self._is_due(self._wakes[0]):
            heappop(self._wakes)
        wake_ns = self._wakes[0][0] if self._wakes else 0
        if self.unplaced:
            wake_ns = min(wake_ns or self.settled_ns, self.settled_ns)
        if wake_ns and (wake_ns != self.timer_ns or self.timer_ns <= self.now_ns):
            self._actions.append(ev.WakeAt(wake_ns))
        self.timer_ns = wake_ns

    def _is_due(self, wake: tuple[int, int, str]) -> bool:
        """Whether a device still wants to be asked then."""
        device = self.devices.get(wake[2])
        return device is not None and device.wake_ns == wake[0] and device.number == wake[1]

    def wake_at(self, device: Device, wake_ns: int) -> None:
        """Has a device asked again then; 0: not."""
        device.wake_ns = wake_ns
        if wake_ns:
            heappush(self._wakes, (wake_ns, device.number, device.spec.device_id))

    # ---- requests

    def _on_request_arrived(self, event: ev.RequestArrived) -> None:
        request = event.request
        if request.request_id in self.places or request.request_id in self.unplaced:
            return  # submitted again after a broken stream; it is in good hands
        if self.draining:
            self._refuse(request, ev.SHUTTING_DOWN, "the scheduler is shutting down")
        elif len(self.waiting) + len(self.unplaced) >= self.config.max_pending:
            self._refuse(request, ev.QUEUE_FULL, "Exceeds maximum queue size")
        else:
            self._place(request)

    def _on_request_cancelled(self, event: ev.RequestCancelled) -> None:
        if request := self.unplaced.pop(event.request_id, None):
            self._refuse(request, ev.CANCELLED, "cancelled by the client")
        device_id, batch_id = self.places.get(event.request_id, ("", 0))
        if device_id and not batch_id:
            request = self._unqueue(event.request_id)
            self._refuse(request, ev.CANCELLED, "cancelled by the client")

    def _on_frontend_lost(self, event: ev.FrontendLost) -> None:
        for request_id in [r for r in self.waiting if r >> FRONTEND_SHIFT == event.frontend_id]:
            self._unqueue(request_id)
        for request_id in [r for r in self.unplaced if r >> FRONTEND_SHIFT == event.frontend_id]:
            del self.unplaced[request_id]

    def _on_answer_overhead_measured(self, event: ev.AnswerOverheadMeasured) -> None:
        # Rises at once, falls slowly: a margin that is too small makes answers late.
        measured = event.overhead_ns
        self._believe_overhead(max(measured, self.answer_overhead_ns - (self.answer_overhead_ns - measured) // 16))

    def _believe_overhead(self, overhead_ns: int) -> None:
        self.answer_overhead_ns, self.overhead_told_ns = overhead_ns, self.now_ns
        for device in self.devices.values():
            device.answer_overhead_ns = overhead_ns

    def _on_drain_requested(self, event: ev.DrainRequested) -> None:
        del event
        self.draining = True

    def _place(self, request: ev.Request) -> None:
        """Queues a request where it will be answered first, or refuses it."""
        homes = [self.devices[device_id] for device_id in self.lifecycle.homes(request.model, request.version)]
        if not homes or not self.lifecycle.ready(request.model, request.version):
            if not homes and self.now_ns < self.settled_ns:
                self.unplaced[request.request_id] = request
                return
            what = f"model '{request.model}' version {request.version}"
            self._refuse(request, ev.MODEL_UNAVAILABLE, f"no device serves {what}")
            return
        best = None
        if len(homes) > 1:
            homes.sort(key=lambda device: self._load(device, request))
        for number, device in enumerate(homes):
            if best and number >= CHOICES and not best[1]:
                break  # the others have more to do
            option = self._option(device, request)
            best = option if best is None or option[:4] < best[:4] else best
        assert best
        self._settle(request, best[3], best[4])

    def _load(self, device: Device, request: ev.Request) -> tuple[bool, int, str]:
        """Orders devices by how much there is to do before a request, counted in requests like it."""
        known = BatchClass(request.model, request.version, request.batch_size, request.shape_bucket)
        ahead = len(device.line) + len(device.running) + 1
        return not device.online, ahead * device.work_ns(known), device.spec.device_id

    def _place_again(self) -> None:
        """Tries to place what waits for its model; refuses it once everyone has had time to come back."""
        unplaced, self.unplaced = self.unplaced, {}
        for request in unplaced.values():
            if request.request_id not in self.places:
                self._place(request)

    def _option(self, device: Device, request: ev.Request) -> tuple[bool, bool, int, str, Rejection | None]:
        """One device for a request: whether it is away, whether it would refuse, and when the answer would be there."""
        device.advance(self.now_ns)
        verdict = self._queue_full(device, request)
        finish_ns = 0
        if verdict is None:
            device.enqueue(request)
            finish_ns, verdict = self.policy.outlook(device, request, self.now_ns)
            device.dequeue(request)
        return not device.online, verdict is not None, finish_ns, device.spec.device_id, verdict

    def _settle(self, request: ev.Request, device_id: str, verdict: Rejection | None) -> None:
        if verdict is not None and not self._spare(verdict):
            self._refuse_as(verdict)
            return
        self._enqueue(request if verdict is None else _without_deadline(request), device_id)
        staged = request.tensors is not None
        self._actions.append(ev.Assign(request.request_id, request.attempt, device_id, staged))

    def _enqueue(self, request: ev.Request, device_id: str) -> None:
        self.devices[device_id].enqueue(request)
        self.waiting[request.request_id] = request
        self.places[request.request_id] = (device_id, 0)
        self._touched.add(device_id)

    def _queue_full(self, device: Device, request: ev.Request) -> Rejection | None:
        limit = device.models[request.model, request.version].max_queue_size
        if not limit:
            return None
        waiting = sum(len(q) for q in device.queues.values() if q.key[:2] == (request.model, request.version))
        return Rejection(request, ev.QUEUE_FULL, "Exceeds maximum queue size", 0, 0) if waiting >= limit else None

    def _unqueue(self, request_id: int) -> ev.Request:
        request = self.waiting.pop(request_id)
        device_id, _ = self.places.pop(request_id)
        if device := self.devices.get(device_id):
            device.dequeue(request)
            self._touched.add(device_id)
        return request

    def _refuse(self, request: ev.Request, reason: str, message: str) -> None:
        self._actions.append(ev.Refuse(request.request_id, request.attempt, reason, message))

    def _refuse_as(self, rejection: Rejection) -> None:
        request, reason, message, finish_ns, possible_ns = rejection
        self._actions.append(ev.Refuse(request.request_id, request.attempt, reason, message, finish_ns, possible_ns))

    def _spare(self, rejection: Rejection) -> bool:
        """In observe-only mode, records a refusal for lateness instead of issuing it."""
        if not self.config.observe_only or rejection.reason not in (ev.PREDICTED_MISS, ev.EXPIRED_IN_QUEUE):
            return False
        request, reason, message, finish_ns, possible_ns = rejection
        self._actions.append(ev.WouldRefuse(request.request_id, request.model, reason, message, finish_ns, possible_ns))
        return True

    # ---- devices

    def _on_device_joined(self, event: ev.DeviceJoined) -> None:
        device_id = event.device.device_id
        device = self.devices.get(device_id)
        if device is not None and device.incarnation != event.incarnation:
            self._lose(device)
            device = None
        if device is None:
            table = self.tables.setdefault(device_id, EstimateTable())
            device = Device(event.device, event.incarnation, table, self.now_ns)
            self.add(device)
            device.estimates_version = self.estimates_versions.get(device_id, 0)
            device.answer_overhead_ns = self.answer_overhead_ns
            for profile in event.profiles:
                device.add_profile(profile)
            for spec, memory_bytes in zip(event.loaded, event.memory_bytes, strict=True):
                self.lifecycle.loaded(device, spec, memory_bytes)
        device.online = True
        self._reconcile(device, event)
        self.lifecycle.joined(device, event.repository)
        self._touched.add(device_id)

    def add(self, device: Device) -> None:
        """One more device, the last in the order of decisions."""
        self._joined += 1
        device.number = self._joined
        self.devices[device.spec.device_id] = device
        if device.line:
            self._backlogged[device.spec.device_id] = None
        self.wake_at(device, device.wake_ns)

    def _reconcile(self, device: Device, event: ev.DeviceJoined) -> None:
        """Makes the books agree with the launches an executor says it holds."""
        device.advance(self.now_ns)
        held = {batch.batch_id for batch in event.held}
        for body in [body for batch_id, body in device.running.items() if batch_id not in held]:
            self._relaunch(device, body, device.running.pop(body.batch.batch_id).batch.requests)
        for batch, started_ns in zip(event.held, event.held_started_ns, strict=True):
            if batch.batch_id in device.running:
                continue
            ran_ns = max(0, self.now_ns - started_ns) if started_ns else 0
            remaining = max(batch.forecast.work_ns * 0.05, batch.forecast.work_ns - ran_ns)
            device.running[batch.batch_id] = Running(batch, self.now_ns - ran_ns, remaining, started_ns)
            self.next_batch_id = max(self.next_batch_id, batch.batch_id + 1)
            for request in batch.requests:
                if request.request_id in self.waiting:
                    self._unqueue(request.request_id)
                self.places[request.request_id] = (device.spec.device_id, batch.batch_id)

    def _on_device_suspended(self, event: ev.DeviceSuspended) -> None:
        if (device := self.devices.get(event.device_id)) and device.incarnation == event.incarnation:
            device.online = False
            self._touched.update(self.devices)  # those that are idle take what waits for it

    def _on_device_lost(self, event: ev.DeviceLost) -> None:
        if (device := self.devices.get(event.device_id)) and device.incarnation == event.incarnation:
            self._lose(device)

    def _lose(self, device: Device) -> None:
        """Forgets a device: what it ran or had waiting goes elsewhere, or is refused."""
        device_id = device.spec.device_id
        queued = [request for queue in device.queues.values() for request in queue]
        del self.devices[device_id]
        self._backlogged.pop(device_id, None)
        self._forget_tables(device_id)
        self.lifecycle.lost(device)
        for body in device.running.values():
            self._relaunch(device, body, body.batch.requests)
        for request in queued:
            del self.waiting[request.request_id], self.places[request.request_id]
            self._replace(request, device_id)

    def _relaunch(self, device: Device, body: Running, requests: Sequence[ev.Request]) -> None:
        """Finds another place for requests whose batch is gone; a repeated run must be harmless for that."""
        spec = device.models.get((body.batch_class.model, body.batch_class.version))
        for request in requests:
            self.places.pop(request.request_id, None)
            if spec is None or spec.idempotent:
                self._replace(msgspec.structs.replace(request, attempt=request.attempt + 1), device.spec.device_id)
            else:
                self._refuse(request, ev.EXECUTOR_LOST, f"the executor of '{device.spec.device_id}' was lost")

    def _replace(self, request: ev.Request, lost: str) -> None:
        if any((request.model, request.version) in d.models for d in self.devices.values()):
            self._place(request)
        else:
            self._refuse(request, ev.EXECUTOR_LOST, f"the executor of '{lost}' was lost, and no other serves the model")

    # ---- batches

    def _running(self, device_id: str, batch_id: int, at_ns: int) -> tuple[Device, Running] | None:
        """The device and batch an event is about, with the books brought to when it happened."""
        device = self.devices.get(device_id)
        if device is None or (body := device.running.get(batch_id)) is None:
            return None
        device.advance(min(at_ns, self.now_ns))
        self._touched.add(device_id)
        return device, body

    def _on_batch_started(self, event: ev.BatchStarted) -> None:
        if found := self._running(event.device_id, event.batch_id, event.at_ns):
            found[1].started_ns = event.at_ns
            found[1].remaining_ns = float(found[1].batch.forecast.work_ns)

    def _on_batch_finished(self, event: ev.BatchFinished) -> None:
        if found := self._running(event.device_id, event.batch_id, event.at_ns):
            device, body = found
            self.overhead_told_ns = self.now_ns
            del device.running[event.batch_id]
            for request in body.batch.requests:
                self.places.pop(request.request_id, None)
            if not event.failed and not any(part.co_runners for part in event.slices):
                device.note_solo_run(event.batch_class, event.duration_ns)

    def _on_batch_dropped(self, event: ev.BatchDropped) -> None:
        """What was dropped is placed again; the policy knows whether there is time left for it."""
        if found := self._running(event.device_id, event.batch_id, event.at_ns):
            device, body = found
            del device.running[event.batch_id]
            for request in body.batch.requests:
                self.places.pop(request.request_id, None)
                if request.request_id in event.missing:
                    self._refuse(request, ev.INPUTS_MISSING, "its tensors did not reach the executor in time")
                elif event.reason == ev.EXECUTION_FAILED:  # one of them may have spoiled it for the others
                    self._place(msgspec.structs.replace(request, alone=True))
                else:
                    self._place(request)

    def _on_kernel_timings(self, event: ev.KernelTimings) -> None:
        """For predictors and pictures only."""

    def _on_device_state(self, event: ev.DeviceState) -> None:
        """For predictors and pictures only."""

    # ---- models, windows, beliefs

    def _on_model_loaded(self, event: ev.ModelLoaded) -> None:
        if device := self.devices.get(event.device_id):
            self.lifecycle.loaded(device, event.spec, event.memory_bytes)

    def _on_model_load_failed(self, event: ev.ModelLoadFailed) -> None:
        self.lifecycle.load_failed(event.device_id, event.model, event.version, event.message)

    def _on_model_load_ended(self, event: ev.ModelLoadEnded) -> None:
        if device := self.devices.get(event.device_id):
            self.lifecycle.load_ended(device, event.model, event.versions)
            self._touched.add(event.device_id)

    def _on_model_unloaded(self, event: ev.ModelUnloaded) -> None:
        if device := self.devices.get(event.device_id):
            self.lifecycle.unloaded(device, event.model, event.version)

    def _on_repository_scanned(self, event: ev.RepositoryScanned) -> None:
        self.lifecycle.scanned(event.models)

    def _on_load_requested(self, event: ev.LoadRequested) -> None:
        self.lifecycle.load(event.model, event.ticket, self.devices)

    def _on_unload_requested(self, event: ev.UnloadRequested) -> None:
        self.lifecycle.unload(event.model, event.ticket)

    def _on_class_profiled(self, event: ev.ClassProfiled) -> None:
        if device := self.devices.get(event.device_id):
            device.add_profile(event.profile)
            self._touched.add(event.device_id)

    def _on_window_requested(self, event: ev.WindowRequested) -> None:
        if device := self.devices.get(event.device_id):
            device.window = Window(event.window_id, min(event.duration_ns, WINDOW_LIMIT_NS), self.now_ns)
            self._touched.add(event.device_id)

    def _on_window_released(self, event: ev.WindowReleased) -> None:
        device = self.devices.get(event.device_id)
        if device and device.window and device.window.window_id == event.window_id:
            device.window = None
            self._touched.add(event.device_id)

    def _on_estimates_pushed(self, event: ev.EstimatesPushed) -> None:
        table = self.tables.setdefault(event.device_id, EstimateTable())
        if device := self.devices.get(event.device_id):
            device.advance(self.now_ns)  # what has passed, passed at the old rates
            device.estimates_version = event.version
            self._touched.add(event.device_id)
        table.update(event.classes, event.sets, complete=event.complete)
        self.estimates_versions[event.device_id] = event.version
        self._forget_tables(event.device_id)

    def _forget_tables(self, device_id: str) -> None:
        """Of devices that are not here, drops tables that tell nothing, and the oldest beyond MAX_AWAY.

        The table of `device_id` has just been told, or its device lost, so it is the youngest.
        """
        table = self.tables.pop(device_id)
        if device_id in self.devices or table.classes or table.sets:
            self.tables[device_id] = table
        else:
            self.estimates_versions.pop(device_id, None)
        while len(self.tables) > len(self.devices) + MAX_AWAY:  # every device that is here has one
            oldest = next(other for other in self.tables if other not in self.devices)
            del self.tables[oldest]
            self.estimates_versions.pop(oldest, None)

    # ---- deciding

    def _decide(self, device: Device) -> None:
        """Lets the policy take turns on one device until it has nothing left to do."""
        device.advance(self.now_ns)
        while True:
            may_launch = device.online and not self._held_by_window(device)
            turn = (self.policy.turn if may_launch else self.policy.doomed)(device, self.now_ns)
            for rejection in turn.rejections:
                self._reject_waiting(device, rejection)
            if turn.launch is not None:
                self._launch(device, turn.launch)
            elif not turn.rejections:
                break
        wake_ns = turn.wake_ns
        if (window := device.window) and device.online:
            window_ns = window.until_ns or window.requested_ns + WINDOW_PATIENCE_NS
            if window_ns > self.now_ns:
                wake_ns = min(wake_ns or window_ns, window_ns)
        self.wake_at(device, wake_ns)
        if device.line:
            self._backlogged[device.spec.device_id] = None
        else:
            self._backlogged.pop(device.spec.device_id, None)

    def _balance(self, touched: Sequence[Device]) -> None:
        """Hands what waits for a busy device to one that has become idle.

        One that has been idle for long would have been given it when it arrived.
        """
        for idle in touched:
            while self._backlogged and not (idle.running or idle.queues or idle.window) and idle.online:
                busy = max([self.devices[d] for d in self._backlogged], key=lambda one: (one.queued, -one.number))
                queue = next((q for q in busy.by_urgency() if q.key[:2] in idle.models), None)
                if queue is None or (busy.online and not busy.running):
                    break
                for request in queue.batch_at(0)[0]:
                    self._unqueue(request.request_id)
                    self._settle(request, idle.spec.device_id, None)
                self._decide(idle)
                if not busy.line:
                    self._backlogged.pop(busy.spec.device_id, None)

    def _held_by_window(self, device: Device) -> bool:
        """Whether launches must wait for an executor that has, or is about to have, its device alone."""
        window = device.window
        if window is None:
            return False
        if window.until_ns:
            if self.now_ns < window.until_ns:
                return True
            device.window = None
            return False
        overdue = self.now_ns >= window.requested_ns + WINDOW_PATIENCE_NS
        if device.running or (device.queued and not overdue):
            return overdue
        window.until_ns = self.now_ns + window.duration_ns
        self._actions.append(ev.GrantWindow(device.spec.device_id, window.window_id, window.until_ns))
        return True

    def _reject_waiting(self, device: Device, rejection: Rejection) -> None:
        request = self._unqueue(rejection.request.request_id)
        if self._spare(rejection):
            self._enqueue(_without_deadline(request), device.spec.device_id)
        else:
            self._refuse_as(rejection)

    def _launch(self, device: Device, launch: LaunchBatch) -> None:
        model, version, bucket = launch.queue
        batch = ev.Batch(
            batch_id=self.next_batch_id,
            batch_class=BatchClass(model, version, launch.items, bucket),
            requests=launch.requests,
            forecast=launch.forecast,
            latest_start_ns=launch.latest_start_ns,
            deadline_ns=launch.deadline_ns,
        )
        self.next_batch_id += 1
        for request in launch.requests:
            self._unqueue(request.request_id)
            self.places[request.request_id] = (device.spec.device_id, batch.batch_id)
        device.running[batch.batch_id] = Running(batch, self.now_ns, float(launch.forecast.work_ns))
        self._actions.append(ev.Launch(device.spec.device_id, batch))

    _HANDLERS: ClassVar[Mapping[type[Any], Callable[["Core", Any], None]]] = {
        ev.RequestArrived: _on_request_arrived,
        ev.RequestCancelled: _on_request_cancelled,
        ev.FrontendLost: _on_frontend_lost,
        ev.AnswerOverheadMeasured: _on_answer_overhead_measured,
        ev.DrainRequested: _on_drain_requested,
        ev.DeviceJoined: _on_device_joined,
        ev.DeviceSuspended: _on_device_suspended,
        ev.DeviceLost: _on_device_lost,
        ev.BatchStarted: _on_batch_started,
        ev.BatchFinished: _on_batch_finished,
        ev.BatchDropped: _on_batch_dropped,
        ev.KernelTimings: _on_kernel_timings,
        ev.DeviceState: _on_device_state,
        ev.ModelLoaded: _on_model_loaded,
        ev.ModelLoadFailed: _on_model_load_failed,
        ev.ModelLoadEnded: _on_model_load_ended,
        ev.ModelUnloaded: _on_model_unloaded,
        ev.RepositoryScanned: _on_repository_scanned,
        ev.LoadRequested: _on_load_requested,
        ev.UnloadRequested: _on_unload_requested,
        ev.ClassProfiled: _on_class_profiled,
        ev.WindowRequested: _on_window_requested,
        ev.WindowReleased: _on_window_released,
        ev.EstimatesPushed: _on_estimates_pushed,
    }


def _number(device: Device) -> int:
    return device.number


def _without_deadline(request: ev.Request) -> ev.Request:
    """Observe-only mode: judged once, it keeps its place in the queue and is not judged again."""
    return msgspec.structs.replace(request, deadline_ns=0, order_ns=request.deadline_ns)
