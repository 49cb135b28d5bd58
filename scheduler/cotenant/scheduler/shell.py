"""The live shell round the core: one task owns it, empties its inbox, decides once, performs.

Streams put events into the inbox and take frames from outboxes; nothing here awaits a peer. Every action is
performed at once by writing to an outbox or by finishing what someone waits for, so the core's books and the world
differ only by what is in flight.
"""

import asyncio
import os
from dataclasses import dataclass, field
from time import perf_counter_ns

import structlog

from cotenant.runtime.clock import now_ns
from cotenant.runtime.outbox import Outbox
from cotenant.scheduler import codec, settings_codec
from cotenant.scheduler import events as ev
from cotenant.scheduler.core import FRONTEND_SHIFT, Core
from cotenant.scheduler.ledger import Ledger
from cotenant.scheduler.lives import Lives
from cotenant.scheduler.record import Recorder
from cotenant.scheduler.settings import Settings
from cotenant.v1 import executor_pb2, scheduler_pb2, types_pb2

_log = structlog.get_logger()

FLUSH_S = 0.5  # a record that is read while it is written is at most so far behind

ToFrontend = scheduler_pb2.ConnectFrontendResponse
ToExecutor = scheduler_pb2.ConnectExecutorResponse


@dataclass
class FrontendLink:
    """A connected frontend."""

    frontend_id: int
    outbox: Outbox[ToFrontend] = field(default_factory=lambda: Outbox(ToFrontend))
    attached: set[tuple[str, int]] = field(default_factory=set)  # (device, incarnation) that map its memory
    seen_ns: int = field(default_factory=now_ns)  # when it was last heard of


@dataclass
class ExecutorLink:
    """An executor that is connected, or whose lease still runs (`outbox` is None then)."""

    hello: scheduler_pb2.ExecutorHello
    outbox: Outbox[ToExecutor] | None = None
    acknowledged: int = 0
    seen_ns: int = 0  # when it was last heard of
    lease: asyncio.TimerHandle | None = None
    state: executor_pb2.DeviceState | None = None  # of its device, as told last


class Shell:
    """See the module's text."""

    def __init__(
        self, core: Core, *, lease_ns: int, recorder: Recorder | None = None, lives: Lives | None = None
    ) -> None:
        self.core = core
        self.ledger = Ledger()
        self.recorder, self.lives = recorder, lives
        self.epoch = int.from_bytes(os.urandom(6), "big")
        self.frontends: dict[int, FrontendLink] = {}
        self.executors: dict[str, ExecutorLink] = {}
        self.loaded: dict[tuple[str, str], executor_pb2.ModelLoaded] = {}
        self.repository: dict[str, executor_pb2.RepositoryScanned] = {}  # by device
        self.scanned = asyncio.Event()
        self._overrides: dict[str, types_pb2.ModelOverride] = {}  # what models were loaded with last, if with anything
        self._tickets: dict[int, asyncio.Future[ev.TicketDone]] = {}
        self._next_ticket = 1
        self._lease_s = lease_ns / 1e9
        self._inbox: list[ev.Event] = []
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._flush: asyncio.TimerHandle | None = None

    # ---- the owner

    def post(self, event: ev.Event) -> None:
        """Puts an event into the inbox; it is applied with all others of this turn of the loop."""
        self._inbox.append(event)
        self._wake.set()

    async def run(self) -> None:
        """Owns the core. Ends only by cancellation, or by an error of ours, which ends the process."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            events, self._inbox = self._inbox, []
            now = now_ns()
            started = perf_counter_ns()
            actions = self.core.handle(now, events)
            self.ledger.decided(perf_counter_ns() - started)
            for action in actions:
                self._perform(action)
            if self.lives:
                self.lives.add(self.core, now, events, actions)
            if self.recorder:
                self.recorder.write(self.core, now, events, actions)
                if self._flush is None:
                    self._flush = asyncio.get_running_loop().call_later(FLUSH_S, self._flush_record)

    def _flush_record(self) -> None:
        self._flush = None
        if self.recorder:
            self.recorder.flush()

    def _perform(self, action: ev.Action) -> None:
        match action:
            case ev.Launch():
                if self.core.state.tenancy.active:
                    self.ledger.launched(action.batch)
                if outbox := self._executor(action.device_id):
                    codec.put_launch(outbox.frame.launches.add(), action.batch)
                    outbox.touch()
            case ev.Assign():
                self._assign(action)
            case ev.Refuse():
                self._refuse(action)
            case ev.WakeAt():
                self._wake_at(action.at_ns)
            case ev.WouldRefuse():
                self.ledger.would_refuse(action)
                _log.info("would refuse", request_id=action.request_id, model=action.model, why=action.message)
            case ev.GrantWindow() | ev.LoadModel() | ev.UnloadModel():
                self._order(action)
            case ev.ModelChanged():
                self._tell_model(action)
            case ev.TicketDone():
                if (future := self._tickets.pop(action.ticket, None)) and not future.done():
                    future.set_result(action)

    def _refuse(self, action: ev.Refuse) -> None:
        self.ledger.refusals[action.reason] = self.ledger.refusals.get(action.reason, 0) + 1
        if action.excess:
            self.ledger.tenant(action.excess.tenant).over_quota += 1
        if frontend := self.frontends.get(action.request_id >> FRONTEND_SHIFT):
            codec.put_refusal(frontend.outbox.frame.refusals.add(), action)
            frontend.outbox.touch()

    def _order(self, action: ev.GrantWindow | ev.LoadModel | ev.UnloadModel) -> None:
        """Orders to an executor about models and windows."""
        outbox = self._executor(action.device_id)
        if outbox is None:
            return
        match action:
            case ev.GrantWindow():
                outbox.frame.windows.add(window_id=action.window_id, until_ns=action.until_ns)
            case ev.LoadModel():
                outbox.frame.loads.add(model=action.model, override=self._overrides.get(action.model))
            case ev.UnloadModel():
                outbox.frame.unloads.add(model=action.model, version=action.version)
        outbox.touch()

    def _tell_model(self, action: ev.ModelChanged) -> None:
        _log.info("model", model=action.model, version=action.version, state=action.availability, why=action.reason)
        for frontend in self.frontends.values():
            self.put_model(frontend.outbox.frame.models.add(), action)
            frontend.outbox.touch()

    def _assign(self, action: ev.Assign) -> None:
        """Tells the frontend only if it must act: an executor that maps its memory reads the tensors where they lie."""
        frontend = self.frontends.get(action.request_id >> FRONTEND_SHIFT)
        executor = self.executors.get(action.device_id)
        if not frontend or not executor:
            return
        if not action.staged or (action.device_id, executor.hello.incarnation) not in frontend.attached:
            frontend.outbox.frame.assigns.add(
                request_id=action.request_id, attempt=action.attempt, device_id=action.device_id
            )
            frontend.outbox.touch()

    def _wake_at(self, at_ns: int) -> None:
        if self._timer:
            self._timer.cancel()
        delay_s = max(0, at_ns - now_ns()) / 1e9
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._wake.set)

    def _executor(self, device_id: str) -> Outbox[ToExecutor] | None:
        link = self.executors.get(device_id)
        return link.outbox if link else None

    # ---- frontends

    def put_model(self, message: scheduler_pb2.ModelState, change: ev.ModelChanged) -> None:
        """Writes the state of a version of a model, with what the executors told of it."""
        message.model, message.version, message.reason = change.model, change.version, change.reason
        message.availability = codec.availability(change.availability)
        message.device_ids.extend(change.device_ids)
        if loaded := self.loaded.get((change.model, change.version)):
            message.model_config = loaded.model_config
            if settings := self.core.state.model_settings.get(change.model):
                message.model_config = settings_codec.with_model_settings(loaded.model_config, settings)
            message.memory_bytes, message.load_ns = loaded.memory_bytes, loaded.load_ns
            message.labels.extend(loaded.labels)

    def connect_frontend(self, link: FrontendLink) -> None:
        """Introduces a frontend: it is told of all executors and models."""
        self.frontends[link.frontend_id] = link
        link.outbox.frame.tenants.CopyFrom(settings_codec.known_tenants(self.core.config.settings))
        for executor in self.executors.values():
            self._put_executor(link, executor, lost=False)
        for model, versions in self.core.lifecycle.versions.items():
            for version, state in versions.items():
                change = ev.ModelChanged(model, version, state.availability, state.reason, tuple(state.device_ids))
                self.put_model(link.outbox.frame.models.add(), change)
        link.outbox.touch()

    def disconnect_frontend(self, link: FrontendLink) -> None:
        """A frontend's stream broke."""
        if self.frontends.get(link.frontend_id) is link:
            del self.frontends[link.frontend_id]
            self.post(ev.FrontendLost(link.frontend_id))

    def _put_executor(self, frontend: FrontendLink, executor: ExecutorLink, *, lost: bool) -> None:
        hello = executor.hello
        frontend.outbox.frame.executors.add(
            device=hello.device, incarnation=hello.incarnation, address=hello.address, lost=lost
        )
        frontend.outbox.touch()

    # ---- executors

    def connect_executor(self, hello: scheduler_pb2.ExecutorHello, outbox: Outbox[ToExecutor]) -> ExecutorLink:
        """Introduces an executor, new or back. Raises ValueError if what it says of its models makes no sense."""
        event = codec.joined(hello)
        device_id = hello.device.device_id
        known = self.executors.get(device_id)
        same = known is not None and known.hello.incarnation == hello.incarnation
        if known and known.lease:
            known.lease.cancel()
        link = ExecutorLink(hello, outbox, known.acknowledged if known and same else 0, now_ns())
        link.state = known.state if known and same else None
        self.executors[device_id] = link
        self.repository[device_id] = hello.repository
        for loaded in hello.loaded:
            self._remember(loaded)
        for frontend in self.frontends.values():
            if known and not same:
                self._put_executor(frontend, known, lost=True)
            self._put_executor(frontend, link, lost=False)
        self.post(event)
        _log.info("executor", device=device_id, state="back" if same else "joined", address=hello.address)
        return link

    def executor_events(self, link: ExecutorLink, events: list[executor_pb2.ExecutorEvent]) -> None:
        """Takes what an executor told, each event once. Raises ValueError like `codec.executor_event`."""
        link.seen_ns = now_ns()
        for message in events:
            if message.sequence <= link.acknowledged:
                continue
            link.acknowledged = message.sequence
            kind = message.WhichOneof("event")
            event = codec.executor_event(link.hello.device.device_id, message)
            if kind == "model_loaded":
                self._remember(message.model_loaded)
            elif kind == "repository_scanned":
                self.repository[link.hello.device.device_id] = message.repository_scanned
                self.scanned.set()
            elif kind == "device_state":
                link.state = message.device_state
            elif kind == "draining":  # as if its stream were broken: what it runs, runs out, and nothing is added
                self.post(ev.DeviceSuspended(link.hello.device.device_id, link.hello.incarnation))
            if event:
                if isinstance(event, ev.BatchFinished):
                    self.ledger.finished(event)
                self.post(event)

    def _remember(self, loaded: executor_pb2.ModelLoaded) -> None:
        self.loaded[codec.model_name(loaded.model_config), loaded.version] = loaded

    def disconnect_executor(self, link: ExecutorLink) -> None:
        """An executor's stream broke: its lease runs, and then it is lost."""
        device_id, incarnation = link.hello.device.device_id, link.hello.incarnation
        if self.executors.get(device_id) is not link:
            return
        link.outbox = None
        self.post(ev.DeviceSuspended(device_id, incarnation))
        link.lease = asyncio.get_running_loop().call_later(self._lease_s, self._lease_ended, link)

    def heard_of(self, link: ExecutorLink | FrontendLink) -> bool:
        """Whether an executor, or a frontend, gave a sign of life within a lease."""
        return now_ns() - link.seen_ns <= self._lease_s * 1e9

    async def watch_leases(self) -> None:
        """Gives up streams that stand but over which nothing comes: an executor that is stopped, or cut off."""
        while True:
            await asyncio.sleep(self._lease_s / 4)
            for link in list(self.executors.values()):
                if link.outbox is not None and not self.heard_of(link):
                    _log.warning("executor silent", device=link.hello.device.device_id)
                    link.outbox.close()
                    self.disconnect_executor(link)

    def _lease_ended(self, link: ExecutorLink) -> None:
        device_id = link.hello.device.device_id
        if self.executors.get(device_id) is link:
            del self.executors[device_id]
            self.repository.pop(device_id, None)
            for frontend in self.frontends.values():
                self._put_executor(frontend, link, lost=True)
            self.post(ev.DeviceLost(device_id, link.hello.incarnation))
            _log.warning("executor lost", device=device_id)

    # ---- models on request

    async def load(self, model: str, override: types_pb2.ModelOverride | None = None) -> ev.TicketDone:
        """Loads a model, from the repository or what takes its place; returns how that went."""
        before = self._override(model, override)
        ticket, done = self._new_ticket()
        self.post(ev.LoadRequested(model, ticket))
        result = await done
        if result.error:
            self._override(model, before)  # what serves is what was loaded before
        return result

    def _override(self, model: str, override: types_pb2.ModelOverride | None) -> types_pb2.ModelOverride | None:
        """Keeps what devices are to load, those that come later too; returns what that was before."""
        before = self._overrides.pop(model, None)
        if override is not None and (override.config_json or override.files):
            self._overrides[model] = override
        return before

    async def unload(self, model: str) -> ev.TicketDone:
        """Unloads a model; returns how that went."""
        ticket, done = self._new_ticket()
        self.post(ev.UnloadRequested(model, ticket))
        return await done

    async def change_settings(self, settings: Settings) -> None:
        """Has settings hold that were checked; returns when they do, and frontends are told."""
        ticket, done = self._new_ticket()
        self.post(ev.SettingsChanged(settings, ticket))
        await done
        for frontend in self.frontends.values():
            frontend.outbox.frame.tenants.CopyFrom(settings_codec.known_tenants(settings))
            frontend.outbox.touch()

    def _new_ticket(self) -> tuple[int, "asyncio.Future[ev.TicketDone]"]:
        ticket, self._next_ticket = self._next_ticket, self._next_ticket + 1
        done = self._tickets[ticket] = asyncio.get_running_loop().create_future()
        return ticket, done

    async def scan(self) -> None:
        """Has the executors re-read their repositories; returns when one has told, or after a second."""
        self.scanned.clear()
        asked = [link.outbox for link in self.executors.values() if link.outbox]
        for outbox in asked:
            outbox.frame.scan_repository = True
            outbox.touch()
        if asked:
            try:
                await asyncio.wait_for(self.scanned.wait(), timeout=1.0)
            except TimeoutError:
                _log.warning("no executor told its repository within a second")
