"""Keeps a subscription to the predictor; what it pushes becomes events. Without it, the last estimates serve on."""

import asyncio
from typing import cast

import grpc
import structlog

from cotenant.runtime.server import open_channel
from cotenant.scheduler import codec
from cotenant.scheduler.service import SchedulerService
from cotenant.scheduler.shell import Shell
from cotenant.v1 import predictor_pb2, predictor_pb2_grpc

_log = structlog.get_logger()


async def watch(address: str, shell: Shell, service: SchedulerService, levels: list[float]) -> None:
    """Subscribes for ever, and again half a second after each break."""
    async with open_channel(address) as channel:
        stub = cast("predictor_pb2_grpc.PredictorServiceAsyncStub", predictor_pb2_grpc.PredictorServiceStub(channel))
        while True:
            try:
                async for push in stub.WatchEstimates(predictor_pb2.WatchEstimatesRequest(levels=levels)):
                    if not service.predictor_connected:
                        service.predictor_connected = True
                        _log.info("predictor", state="connected", address=address)
                    for event in codec.estimates(push, list(shell.core.tables)):
                        shell.post(event)
            except grpc.aio.AioRpcError as error:
                if service.predictor_connected:
                    _log.warning("predictor", state="lost", address=address, error=error.details())
            service.predictor_connected = False
            await asyncio.sleep(0.5)
