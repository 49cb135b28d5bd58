"""The frontend's streams: one to the scheduler, one to each executor. Kept up for ever, resumed after each break."""

import asyncio
from typing import cast

import grpc
import structlog

from cotenant.frontend.catalogue import Catalogue
from cotenant.frontend.dispatch import Dispatcher
from cotenant.frontend.statistics import Statistics
from cotenant.runtime.clock import PeerClock, boot_id, now_ns
from cotenant.runtime.outbox import Outbox
from cotenant.runtime.server import open_channel
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
        self.attached = False
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with open_channel(self._address) as channel:
            stub = cast("executor_pb2_grpc.ExecutorServiceAsyncStub", executor_pb2_grpc.ExecutorServiceStub(channel))
            while True:
                try:
                    await self._converse(stub)
                except grpc.aio.AioRpcError as error:
                    _log.debug("executor", device=self.device_id, state="unreachable", error=error.details())
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
                for answer in frame.answers:
                    self._answered(answer)
        finally:
            stream.cancel()

    def _welcomed(self, welcome: executor_pb2.ExchangeWelcome) -> None:
        self.attached = welcome.attached
        if welcome.segment:
            self._outputs = Segment.attach(self._dispatcher.staging.folder, welcome.segment, welcome.nonce)
        self._links.attachment(self)
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
        if answer.HasField("staged"):
            if self._outputs is None:
                return
            place = answer.staged
            data = self._outputs.view[place.offset : place.offset + place.byte_size]
            if not self._dispatcher.answered(answer, data):
                self.release(answer)
        else:
            self._dispatcher.answered(answer, memoryview(answer.inline))

    def release(self, answer: executor_pb2.Answer) -> None:
        """Outputs have been read."""
        if self._outbox is not None and answer.HasField("staged"):
            self._outbox.frame.releases.add(offset=answer.staged.offset)
            self._outbox.touch()

    def owns(self, segment: str) -> bool:
        """Whether outputs in a segment of that name are this executor's."""
        return self._outputs is not None and self._outputs.name == segment

    def stage(self, assign: scheduler_pb2.Assign) -> None:
        """Sends a request's tensors to an executor that does not share our memory."""
        pending = self._dispatcher.pending.get(assign.request_id)
        if pending is None or self._outbox is None:
            return  # the launch comes back as lacking its inputs
        tensors, data = self._dispatcher.tensors(pending)
        self._outbox.frame.stages.add(request_id=assign.request_id, attempt=assign.attempt, tensors=tensors, data=data)
        self._outbox.touch()

    def close(self) -> None:
        """Ends the stream."""
        self.task.cancel()
        self._forget()


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
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """Connects, and again after each break, until cancelled."""
        async with open_channel(self._address) as channel:
            self.channel = channel
            stub = cast(
                "scheduler_pb2_grpc.SchedulerServiceAsyncStub", scheduler_pb2_grpc.SchedulerServiceStub(channel)
            )
            while True:
                try:
                    await self._converse(stub)
                except grpc.aio.AioRpcError as error:
                    if error.code() == grpc.StatusCode.ALREADY_EXISTS and not self._dispatcher.pending:
                        self._dispatcher.new_id()
                    _log.debug("scheduler", state="unreachable", error=error.details())
                await asyncio.sleep(RECONNECT_S)

    async def _converse(self, stub: "scheduler_pb2_grpc.SchedulerServiceAsyncStub") -> None:
        outbox: Outbox[scheduler_pb2.ConnectFrontendRequest] = Outbox(scheduler_pb2.ConnectFrontendRequest)
        outbox.frame.hello.frontend_id = self._dispatcher.frontend_id
        outbox.frame.hello.boot_id, outbox.frame.hello.version = boot_id(), self._software
        outbox.touch()
        ticking = asyncio.create_task(self._tick(outbox))
        stream = stub.ConnectFrontend(outbox.frames())
        try:
            async for frame in stream:
                self._take(frame, outbox)
        finally:
            ticking.cancel()
            stream.cancel()
            if self._outbox is not None:
                _log.warning("scheduler", state="lost", address=self._address)
            self._outbox = None
            self.connected.clear()
            self._dispatcher.disconnected()

    async def _tick(self, outbox: Outbox[scheduler_pb2.ConnectFrontendRequest]) -> None:
        """Signs of life, and reports of what clients saw."""
        reported_ns = 0
        while True:
            outbox.frame.ping.sent_ns = now_ns()
            if now_ns() - reported_ns >= REPORT_S * 1e9:
                reported_ns = now_ns()
                self._statistics.report(outbox.frame)
            outbox.touch()
            await asyncio.sleep(PING_S)

    def _take(
        self, frame: scheduler_pb2.ConnectFrontendResponse, outbox: Outbox[scheduler_pb2.ConnectFrontendRequest]
    ) -> None:
        dispatcher = self._dispatcher
        if frame.HasField("hello"):
            self._welcomed(frame.hello, outbox)
        for state in frame.executors:
            self._executor(state)
        for model in frame.models:
            self._catalogue.apply(model)
        for assign in frame.assigns:
            if link := self.executors.get(assign.device_id):
                link.stage(assign)
        for refusal in frame.refusals:
            dispatcher.refuse(refusal)
        if frame.HasField("pong"):
            pong = frame.pong
            dispatcher.clock.observe(pong.ping_sent_ns, pong.received_ns, pong.sent_ns, now_ns())
        if frame.HasField("hello"):
            dispatcher.connected(outbox, dispatcher.clock)  # after models and executors are known
            self.connected.set()

    def _welcomed(
        self, hello: scheduler_pb2.SchedulerHello, outbox: Outbox[scheduler_pb2.ConnectFrontendRequest]
    ) -> None:
        shared = bool(hello.boot_id) and hello.boot_id == boot_id()
        if shared != self._dispatcher.clock.shared:
            self._dispatcher.clock = PeerClock(shared=shared)
        if hello.epoch != self._epoch:
            self._epoch = hello.epoch
            self._catalogue.clear()
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
        if known is None and not state.lost:
            self.executors[device_id] = ExecutorLink(state, self._dispatcher, self)
        self._catalogue.executors_connected = bool(self.executors)

    def attachment(self, link: ExecutorLink) -> None:
        """Tells the scheduler whether an executor maps our memory."""
        if self._outbox is not None:
            self._outbox.frame.attachments.add(
                device_id=link.device_id, incarnation=link.incarnation, attached=link.attached
            )
            self._outbox.touch()

    def release(self, device_answer: executor_pb2.Answer) -> None:
        """Outputs have been read; the executor whose segment they lie in may use them again."""
        for link in self.executors.values():
            if link.owns(device_answer.staged.segment):
                link.release(device_answer)
                return

    def close(self) -> None:
        """Ends all streams."""
        for link in self.executors.values():
            link.close()
