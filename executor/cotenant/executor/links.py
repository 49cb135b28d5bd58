"""The executor's streams to the scheduler and to the predictor: kept up for ever, resumed after each break."""

import asyncio
from collections.abc import Callable
from typing import cast

import grpc
import structlog

from cotenant.executor.device import Device
from cotenant.executor.models import Models
from cotenant.executor.reports import Reports, Unacknowledged
from cotenant.executor.runner import Runner
from cotenant.runtime.clock import PeerClock, clock_id, now_ns
from cotenant.runtime.outbox import Outbox
from cotenant.runtime.server import DENIED, DENIED_S, open_channel
from cotenant.runtime.silence import until_silent
from cotenant.v1 import executor_pb2 as pb
from cotenant.v1 import predictor_pb2, predictor_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc

_log = structlog.get_logger()

PING_S = 0.25
RECONNECT_S = 0.2
LEAVE_NS = 1_000_000_000
_REFUSED = (grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.INVALID_ARGUMENT)
LINGER_S = 0.02  # events for the predictor wait so long for company: learning can wait, batches cannot


def on_peer_clock(event: pb.ExecutorEvent, clock: PeerClock) -> pb.ExecutorEvent:
    """The event with its instants on the peer's clock; the very same where the clock is shared."""
    if clock.shared:
        return event
    moved = pb.ExecutorEvent()
    moved.CopyFrom(event)
    moved.at_ns = clock.to_peer(event.at_ns)
    if moved.HasField("batch_finished"):
        moved.batch_finished.started_ns = clock.to_peer(event.batch_finished.started_ns)
    return moved


class SchedulerLink:
    """Takes orders from the scheduler, tells it what happens, and asks for windows."""

    def __init__(
        self, address: str, device: Device, models: Models, reports: Reports, *, own_address: str, software: str
    ) -> None:
        self._address, self._device, self._models, self._reports = address, device, models, reports
        self._own_address, self._software = own_address, software
        self.runner: Runner | None = None
        self.clock = PeerClock(shared=True)
        self._outbox: Outbox[scheduler_pb2.ConnectExecutorRequest] | None = None
        self._windows: dict[int, asyncio.Future[int]] = {}
        self._next_window = 0
        self._loads: set[asyncio.Task[None]] = set()
        reports.listeners.append(self._on_event)

    # ---- events out

    def _on_event(self, event: pb.ExecutorEvent) -> None:
        if self._outbox is not None:
            self._outbox.frame.events.append(on_peer_clock(event, self.clock))
            self._outbox.touch()

    # ---- the stream

    async def run(self) -> None:
        """Connects, and again after each break, until cancelled."""
        while True:
            await self._connect()
            _log.warning("scheduler", state="silent", address=self._address)

    async def _connect(self) -> None:
        """Converses over one connection, again after each break, until the scheduler falls silent."""
        async with open_channel(self._address) as channel:
            stub = cast(
                "scheduler_pb2_grpc.SchedulerServiceAsyncStub", scheduler_pb2_grpc.SchedulerServiceStub(channel)
            )
            while True:
                try:
                    await self._converse(stub)
                except TimeoutError:
                    return
                except grpc.aio.AioRpcError as error:
                    denied = error.code() in DENIED
                    refused = denied or error.code() in _REFUSED
                    (_log.error if refused else _log.debug)("scheduler", state="unreachable", error=error.details())
                    await asyncio.sleep(DENIED_S if denied else 0.0)
                except Exception:  # whatever a frame held, the next stream may be better
                    _log.exception("scheduler", state="misunderstood")
                await asyncio.sleep(RECONNECT_S)

    async def _converse(self, stub: "scheduler_pb2_grpc.SchedulerServiceAsyncStub") -> None:
        outbox: Outbox[scheduler_pb2.ConnectExecutorRequest] = Outbox(scheduler_pb2.ConnectExecutorRequest)
        pinging = asyncio.create_task(self._ping(outbox))
        stream = stub.ConnectExecutor(outbox.frames())
        try:
            async for frame in until_silent(stream):
                if frame.HasField("hello"):
                    self._greeted(frame.hello)
                self._take(frame)
                if self._outbox is None:  # its clock is known now, so we can tell it what we have in its time
                    self._introduce(outbox)
        finally:
            was_connected, self._outbox = self._outbox is not None, None
            pinging.cancel()
            stream.cancel()
            outbox.close()  # or whoever waits for its next frame waits for ever
            for window in self._windows.values():
                if not window.done():
                    window.set_exception(ConnectionResetError())
            if was_connected:
                _log.warning("scheduler", state="lost", address=self._address)

    def _hello(self) -> scheduler_pb2.ExecutorHello:
        assert self.runner is not None
        to_peer = self.clock.to_peer
        return scheduler_pb2.ExecutorHello(
            device=self._device.describe(),
            incarnation=self._reports.incarnation,
            address=self._own_address,
            clock_id=clock_id(),
            version=self._software,
            held=[
                scheduler_pb2.HeldBatch(launch=order, started_ns=to_peer(started_ns))
                for order, started_ns in self.runner.held.values()
            ],
            loaded=[version.announce() for version in self._models.table.values()],
            profiles=[profile for version in self._models.table.values() for profile in version.profiles],
            repository=self._models.scan(),
        )

    def _greeted(self, hello: scheduler_pb2.SchedulerHello) -> None:
        """Another scheduler's clock may be another clock; its first pong comes with its hello."""
        assert self.runner is not None
        shared = bool(hello.clock_id) and hello.clock_id == clock_id()
        self.clock = self.runner.clock = PeerClock(shared=shared)
        _log.info("scheduler", state="connected", address=self._address, epoch=hello.epoch, shared_clock=shared)

    def _introduce(self, outbox: Outbox[scheduler_pb2.ConnectExecutorRequest]) -> None:
        """Tells what is held, and all that was not acknowledged. The receiver ignores what it has seen."""
        outbox.frame.hello.CopyFrom(self._hello())
        outbox.frame.events.extend(on_peer_clock(event, self.clock) for event in self._reports.to_scheduler.all())
        outbox.touch()
        self._outbox = outbox

    async def _ping(self, outbox: Outbox[scheduler_pb2.ConnectExecutorRequest]) -> None:
        while True:
            outbox.frame.ping.sent_ns = now_ns()
            outbox.touch()
            await asyncio.sleep(PING_S)

    # ---- orders in

    def _take(self, frame: scheduler_pb2.ConnectExecutorResponse) -> None:
        assert self.runner is not None
        from_peer = self.clock.from_peer
        for order in frame.launches:
            if not self.clock.shared:
                order.earliest_start_ns = from_peer(order.earliest_start_ns)
                order.latest_start_ns = from_peer(order.latest_start_ns)
                order.deadline_ns = from_peer(order.deadline_ns)
            self.runner.launch(order)
        for load in frame.loads:
            task = asyncio.create_task(self._models.load(load.model, load.override))
            self._loads.add(task)
            task.add_done_callback(self._loads.discard)
        for unload in frame.unloads:
            self._models.unload(unload.model, unload.version)
        for window in frame.windows:
            if (waiting := self._windows.get(window.window_id)) and not waiting.done():
                waiting.set_result(from_peer(window.until_ns))
        if frame.scan_repository:
            event = self._reports.event()
            event.repository_scanned.CopyFrom(self._models.scan())
            self._reports.tell(event)
        self._reports.to_scheduler.acknowledge(frame.acknowledged_sequence)
        if frame.HasField("pong"):
            self.clock.observe(frame.pong.ping_sent_ns, frame.pong.received_ns, frame.pong.sent_ns, now_ns())

    async def leave(self) -> None:
        """Asks to be given no more launches; returns when those that are on their way are here, or after a second."""
        event = self._reports.event()
        event.draining.SetInParent()
        self._reports.tell(event)
        until_ns = now_ns() + LEAVE_NS
        while self._outbox is not None and self._reports.to_scheduler.holds(event) and now_ns() < until_ns:
            await asyncio.sleep(0.005)

    # ---- windows

    async def acquire_window(self, duration_ns: int, model: str) -> tuple[Callable[[], None], int]:
        """The device alone for a while; returns what gives it back, and until when it holds."""
        while True:
            self._next_window += 1
            window_id = self._next_window
            granted = self._windows[window_id] = asyncio.get_running_loop().create_future()
            event = self._reports.event()
            requested = event.window_requested
            requested.window_id, requested.duration_ns, requested.model = window_id, duration_ns, model
            self._reports.tell(event)
            try:
                until_ns = await granted
            except ConnectionResetError:
                await asyncio.sleep(RECONNECT_S)  # ask the next scheduler
                continue
            finally:
                self._windows.pop(window_id, None)

            def give_back(window_id: int = window_id) -> None:
                event = self._reports.event()
                event.window_released.window_id = window_id
                self._reports.tell(event)

            return give_back, until_ns


class PredictorLink:
    """Streams events to the predictor; without one they wait in a bounded buffer."""

    def __init__(self, address: str, device: Device, reports: Reports, models: Models) -> None:
        self._address, self._device, self._reports, self._models = address, device, reports, models
        self._buffer: Unacknowledged = reports.to_predictor
        self._outbox: Outbox[predictor_pb2.ObserveRequest] | None = None
        reports.listeners.append(self._on_event)

    def _on_event(self, event: pb.ExecutorEvent) -> None:
        if self._outbox is not None and not self._outbox.full:
            self._outbox.frame.events.append(event)
            self._outbox.touch()

    async def run(self) -> None:
        """Connects, and again after each break, until cancelled."""
        async with open_channel(self._address) as channel:
            stub = cast(
                "predictor_pb2_grpc.PredictorServiceAsyncStub", predictor_pb2_grpc.PredictorServiceStub(channel)
            )
            while True:
                try:
                    await self._converse(stub)
                except grpc.aio.AioRpcError as error:
                    denied = error.code() in DENIED
                    (_log.error if denied else _log.debug)("predictor", state="unreachable", error=error.details())
                    await asyncio.sleep(DENIED_S if denied else 0.0)
                except Exception:  # whatever a frame held, the next stream may be better
                    _log.exception("predictor", state="misunderstood")
                self._outbox = None
                await asyncio.sleep(RECONNECT_S)

    async def _converse(self, stub: "predictor_pb2_grpc.PredictorServiceAsyncStub") -> None:
        outbox: Outbox[predictor_pb2.ObserveRequest] = Outbox(predictor_pb2.ObserveRequest, linger_s=LINGER_S)
        outbox.frame.hello.device.CopyFrom(self._device.describe())
        outbox.frame.hello.incarnation = self._reports.incarnation
        profiles = (profile for version in self._models.table.values() for profile in version.profiles)
        outbox.frame.hello.profiles.extend(profiles)
        outbox.frame.events.extend(self._buffer.all())
        outbox.touch()
        stream = stub.Observe(outbox.frames())
        self._outbox = outbox
        try:
            async for response in stream:
                self._buffer.acknowledge(response.acknowledged_sequence)
        finally:
            self._outbox = None
            stream.cancel()
            outbox.close()
