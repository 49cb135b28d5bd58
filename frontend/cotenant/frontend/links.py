"""The frontend's streams: one to the scheduler, one to each executor. Kept up for ever, resumed after each break."""

import asyncio
from typing import cast

import grpc
import structlog

from cotenant.frontend.catalogue import RETURN_NS, Catalogue
from cotenant.frontend.dispatch import Dispatcher
from cotenant.frontend.pending import Pending
from cotenant.frontend.statistics import Statistics
from cotenant.runtime.clock import PeerClock, clock_id, now_ns
from cotenant.runtime.outbox import Outbox
from cotenant.runtime.server import DENIED, DENIED_S, open_channel
from cotenant.runtime.silence import until_silent
from cotenant.runtime.staging import Segment
from cotenant.v1 import executor_pb2, executor_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc

_log = structlog.get_logger()

PING_S = 0.25
REPORT_S = 0.5
RECONNECT_S = 0.2


class ExecutorLink:
    """The data path to one incarnation of one executor."""

    def __init__(self, state: scheduler_pb2.ExecutorState, dispatcher: Dispatcher, links: "Links") -> None:
        self.device_id = state.device.device_id
        self.incarnation = state.incarnation
        self._address = state.address
        self._dispatcher, self._links = dispatcher, links
        self._outbox: Outbox[executor_pb2.ExchangeRequest] | None = None
        self._outputs: Segment | None = None
        self._broken = False
        self.attached = False
        self.confirmed = True  # the present scheduler knows it
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            opened = open_channel(self._address)
        except ValueError as error:  # it must not be shown what we would show it
            _log.error("executor", device=self.device_id, state="unreachable", error=str(error))
            return
        async with opened as channel:
            stub = cast("executor_pb2_grpc.ExecutorServiceAsyncStub", executor_pb2_grpc.ExecutorServiceStub(channel))
            while True:
                try:
                    await self._converse(stub)
                except grpc.aio.AioRpcError as error:
                    _log.debug("executor", device=self.device_id, state="unreachable", error=error.details())
                    await _if_denied(error, "executor", self._address)
                except Exception:  # whatever a frame held, the next stream may be better
                    _log.exception("executor", device=self.device_id, state="misunderstood")
                self._forget()
                await asyncio.sleep(RECONNECT_S)

    async def _converse(self, stub: "executor_pb2_grpc.ExecutorServiceAsyncStub") -> None:
        outbox: Outbox[executor_pb2.ExchangeRequest] = Outbox(executor_pb2.ExchangeRequest)
        hello = outbox.frame.hello
        hello.frontend_id = self._dispatcher.frontend_id
        if segment := self._dispatcher.staging.segment:
            hello.segment, hello.nonce = segment.name, segment.nonce
        outbox.touch()
        stream = stub.Exchange(outbox.frames())
        try:
            async for frame in stream:
                if frame.HasField("welcome"):
                    self._welcomed(frame.welcome)
                    self._outbox = outbox
                    self._stage_again()
                for answer in frame.answers:
                    self._answered(answer)
        finally:
            stream.cancel()
            outbox.close()  # or whoever waits for its next frame waits for ever

    def _welcomed(self, welcome: executor_pb2.ExchangeWelcome) -> None:
        self.attached = welcome.attached
        if welcome.segment:
            self._outputs = Segment.attach(self._dispatcher.staging.folder, welcome.segment, welcome.nonce)
        self._links.attachment(self)
        if self._broken:
            self._dispatcher.answers_lost()
        self._broken = True  # the next one is the successor of this one
        _log.info("executor", device=self.device_id, state="connected", shared_memory=self.attached)

    def _forget(self) -> None:
        """The stream broke: what was attached is not any more."""
        self._outbox = None
        if self.attached:
            self.attached = False
            self._links.attachment(self)
        if self._outputs:
            self._outputs.close()
            self._outputs = None

    def _answered(self, answer: executor_pb2.Answer) -> None:
        """Hands an answer on; outputs in shared memory are copied there, so that the block is free at once."""
        if not answer.HasField("staged"):
            self._dispatcher.answered(answer, memoryview(answer.inline), self.device_id)
            return
        place = answer.staged
        outputs = self._outputs
        data = outputs.view[place.offset : place.offset + place.byte_size] if outputs else None
        self._dispatcher.answered(answer, data, self.device_id)
        if self._outbox is not None:
            self._outbox.frame.releases.add(offset=place.offset)
            self._outbox.touch()

    def stage(self, assign: scheduler_pb2.Assign) -> None:
        """Sends a request's tensors to an executor that does not share our memory."""
        if pending := self._dispatcher.pending.get(assign.request_id):
            pending.staged_at[self.device_id] = assign.attempt
            self._stage(pending)

    def _stage(self, pending: Pending) -> None:
        if self._outbox is None:
            return  # they follow when there is a stream
        tensors, data = self._dispatcher.tensors(pending)
        attempt = pending.staged_at[self.device_id]
        self._outbox.frame.stages.add(request_id=pending.request_id, attempt=attempt, tensors=tensors, data=data)
        self._outbox.touch()

    def _stage_again(self) -> None:
        """What a broken stream took with it, and what was assigned before there was one."""
        for pending in self._dispatcher.pending.values():
            if self.device_id in pending.staged_at:
                self._stage(pending)

    def forget(self, request_id: int) -> None:
        """A request that was staged will not run there."""
        if self._outbox is not None:
            self._outbox.frame.forgotten_request_ids.append(request_id)
            self._outbox.touch()

    def stop(self, request_id: int) -> None:
        """Nobody waits for a request any more."""
        if self._outbox is not None:
            self._outbox.frame.cancelled_request_ids.append(request_id)
            self._outbox.touch()

    def close(self) -> None:
        """Ends the stream."""
        self.task.cancel()
        self._forget()


async def _if_denied(error: grpc.aio.AioRpcError, peer: str, address: str) -> None:
    if error.code() in DENIED:
        _log.error(peer, state="denied", address=address, error=error.details())
        await asyncio.sleep(DENIED_S)


class Links:
    """The stream to the scheduler, and the executors it tells of."""

    def __init__(
        self, address: str, dispatcher: Dispatcher, catalogue: Catalogue, statistics: Statistics, *, software: str
    ) -> None:
        self._address, self._software = address, software
        self._dispatcher, self._catalogue, self._statistics = dispatcher, catalogue, statistics
        self._outbox: Outbox[scheduler_pb2.ConnectFrontendRequest] | None = None
        self._epoch = 0
        self.executors: dict[str, ExecutorLink] = {}
        self.channel: grpc.aio.Channel | None = None
        self.connected, self.lost = asyncio.Event(), asyncio.Event()  # one of them is set, once `run` has begun
        self._confirm_until_ns = 0
        dispatcher.on_stop = self._stop
        dispatcher.on_forget = self._forget_at
        self._barriers: list[tuple[int, asyncio.Future[None]]] = []  # with when its ping was sent

    def _forget_at(self, device_id: str, request_id: int) -> None:
        if link := self.executors.get(device_id):
            link.forget(request_id)

    def _stop(self, request_id: int) -> None:
        """Which executor runs a request, only the scheduler knows: the others will not mind."""
        for link in self.executors.values():
            link.stop(request_id)

    async def run(self) -> None:
        """Connects, and again after each break, until cancelled."""
        while True:
            await self._connect()
            _log.warning("scheduler", state="silent", address=self._address)

    async def _connect(self) -> None:
        """Converses over one connection, again after each break, until the scheduler falls silent."""
        async with open_channel(self._address) as channel:
            self.channel = channel
            stub = cast(
                "scheduler_pb2_grpc.SchedulerServiceAsyncStub", scheduler_pb2_grpc.SchedulerServiceStub(channel)
            )
            while True:
                try:
                    await self._converse(stub)
                except TimeoutError:
                    return
                except grpc.aio.AioRpcError as error:
                    if error.code() == grpc.StatusCode.ALREADY_EXISTS and not self._dispatcher.pending:
                        self._dispatcher.new_id()
                    _log.debug("scheduler", state="unreachable", error=error.details())
                    await _if_denied(error, "scheduler", self._address)
                except Exception:  # whatever a frame held, the next stream may be better
                    _log.exception("scheduler", state="misunderstood")
                await asyncio.sleep(RECONNECT_S)

    async def _converse(self, stub: "scheduler_pb2_grpc.SchedulerServiceAsyncStub") -> None:
        outbox: Outbox[scheduler_pb2.ConnectFrontendRequest] = Outbox(scheduler_pb2.ConnectFrontendRequest)
        outbox.frame.hello.frontend_id = self._dispatcher.frontend_id
        outbox.frame.hello.clock_id, outbox.frame.hello.version = clock_id(), self._software
        outbox.touch()
        ticking = asyncio.create_task(self._tick(outbox))
        stream = stub.ConnectFrontend(outbox.frames())
        try:
            async for frame in until_silent(stream):
                self._take(frame, outbox)
        finally:
            ticking.cancel()
            stream.cancel()
            outbox.close()
            if self._outbox is not None:
                _log.warning("scheduler", state="lost", address=self._address)
            self._outbox = None
            self._pass_barriers(now_ns())
            self.connected.clear()
            self.lost.set()
            self._dispatcher.disconnected()

    async def _tick(self, outbox: Outbox[scheduler_pb2.ConnectFrontendRequest]) -> None:
        """Signs of life, and reports of what clients saw."""
        reported_ns = 0
        while True:
            outbox.frame.ping.sent_ns = now_ns()
            self._catalogue.drop_unconfirmed()
            self._drop_unconfirmed()
            if now_ns() - reported_ns >= REPORT_S * 1e9:
                reported_ns = now_ns()
                self._statistics.report(outbox.frame)
            outbox.touch()
            await asyncio.sleep(PING_S)

    def _take(
        self, frame: scheduler_pb2.ConnectFrontendResponse, outbox: Outbox[scheduler_pb2.ConnectFrontendRequest]
    ) -> None:
        dispatcher = self._dispatcher
        dispatcher.heard()
        if frame.HasField("hello"):
            self._welcomed(frame.hello, outbox)
        for state in frame.executors:
            self._executor(state)
        for model in frame.models:
            self._catalogue.apply(model)
        for assign in frame.assigns:
            if link := self.executors.get(assign.device_id):
                link.stage(assign)
        if frame.HasField("tenants"):
            self._statistics.tenants.know(frame.tenants.names, frame.tenants.others)
        for refusal in frame.refusals:
            dispatcher.refuse(refusal)
        if frame.HasField("pong"):
            pong = frame.pong
            dispatcher.clock.observe(pong.ping_sent_ns, pong.received_ns, pong.sent_ns, now_ns())
            self._pass_barriers(pong.ping_sent_ns)
        if self._outbox is outbox and dispatcher.clock.known and not self.connected.is_set():
            # Models and executors are known now; between hosts, so is the offset of the clocks.
            dispatcher.connected(outbox)
            self.lost.clear()
            self.connected.set()

    def _welcomed(
        self, hello: scheduler_pb2.SchedulerHello, outbox: Outbox[scheduler_pb2.ConnectFrontendRequest]
    ) -> None:
        shared = bool(hello.clock_id) and hello.clock_id == clock_id()
        if shared != self._dispatcher.clock.shared or (not shared and hello.epoch != self._epoch):
            self._dispatcher.clock = PeerClock(shared=shared)  # another scheduler's may be another clock
        if hello.epoch != self._epoch:
            self._epoch = hello.epoch
            self._catalogue.doubt()
            self._confirm_until_ns = now_ns() + RETURN_NS
            for link in self.executors.values():
                link.confirmed = False
        self._outbox = outbox
        for link in self.executors.values():
            self.attachment(link)
        _log.info("scheduler", state="connected", address=self._address, epoch=hello.epoch, shared_clock=shared)

    def _executor(self, state: scheduler_pb2.ExecutorState) -> None:
        device_id = state.device.device_id
        known = self.executors.get(device_id)
        same = known is not None and known.incarnation == state.incarnation
        if known and same == state.lost:  # this one is lost, or another takes its place
            known.close()
            del self.executors[device_id]
            known = None
            self._dispatcher.answers_lost()
        if known is None and not state.lost:
            self.executors[device_id] = ExecutorLink(state, self._dispatcher, self)
        elif known is not None:
            known.confirmed = True
        self._catalogue.executors_connected = bool(self.executors)

    def _drop_unconfirmed(self) -> None:
        """Ends streams to executors that a scheduler's restart outlived, and that never returned to it."""
        if now_ns() < self._confirm_until_ns:
            return
        for device_id in [d for d, link in self.executors.items() if not link.confirmed]:
            self.executors.pop(device_id).close()
        self._catalogue.executors_connected = bool(self.executors)

    def attachment(self, link: ExecutorLink) -> None:
        """Tells the scheduler whether an executor maps our memory."""
        if self._outbox is not None:
            self._outbox.frame.attachments.add(
                device_id=link.device_id, incarnation=link.incarnation, attached=link.attached
            )
            self._outbox.touch()

    async def barrier(self) -> None:
        """Returns when all that the scheduler had told before this call has arrived, or the stream has broken.

        What it answers to a call of its own may overtake what it tells on the stream.
        """
        if self._outbox is None:
            return
        passed = asyncio.get_running_loop().create_future()
        self._outbox.frame.ping.sent_ns = now_ns()
        self._barriers.append((self._outbox.frame.ping.sent_ns, passed))
        self._outbox.touch()
        await passed

    def _pass_barriers(self, until_ns: int) -> None:
        for sent_ns, passed in self._barriers:
            if sent_ns <= until_ns and not passed.done():
                passed.set_result(None)
        self._barriers = [entry for entry in self._barriers if not entry[1].done()]

    def close(self) -> None:
        """Ends all streams."""
        for link in self.executors.values():
            link.close()
