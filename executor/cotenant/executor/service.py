"""`cotenant.v1.ExecutorService`: one long-lived stream per frontend, tensors in and answers out."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import structlog

from cotenant.executor.device import Device
from cotenant.executor.exchange import Exchange, FrontendPeer
from cotenant.executor.reports import Reports
from cotenant.v1 import executor_pb2 as pb
from cotenant.v1 import executor_pb2_grpc

_log = structlog.get_logger()
Context = grpc.aio.ServicerContext[Any, Any]


class ExecutorService(executor_pb2_grpc.ExecutorServiceServicer):
    """See the module's text."""

    def __init__(self, device: Device, exchange: Exchange, reports: Reports) -> None:
        self._device, self._exchange, self._reports = device, exchange, reports

    async def Exchange(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.ExchangeRequest], context: Context
    ) -> AsyncIterator[pb.ExchangeResponse]:
        """Runs a frontend's stream until either side ends it."""
        first = await anext(request_iterator, None)
        if first is None or not first.HasField("hello"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first frame must carry a hello")
        assert first is not None
        peer = self._exchange.connect(first.hello)
        welcome = peer.outbox.frame.welcome
        welcome.device_id = self._device.describe().device_id
        welcome.incarnation = self._reports.incarnation
        welcome.attached = peer.segment is not None
        if self._exchange.segment and peer.segment is not None:
            welcome.segment, welcome.nonce = self._exchange.segment.name, self._exchange.segment.nonce
        peer.outbox.touch()
        _log.info("frontend", frontend=peer.frontend_id, shared_memory=welcome.attached)
        self._exchange.take(peer, first)
        reading = asyncio.create_task(self._read(peer, request_iterator))
        reading.add_done_callback(lambda _: peer.outbox.close())
        try:
            async for frame in peer.outbox.frames():
                yield frame
        finally:
            reading.cancel()
            self._exchange.disconnect(peer)

    async def _read(self, peer: FrontendPeer, frames: AsyncIterator[pb.ExchangeRequest]) -> None:
        async for frame in frames:
            self._exchange.take(peer, frame)
