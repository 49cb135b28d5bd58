"""Keeps a subscription to the predictor; what it pushes becomes events. Without it, the last estimates serve on."""

import asyncio
from typing import cast

import grpc
import structlog

from cotenant.runtime.server import DENIED, DENIED_S, open_channel
from cotenant.scheduler import codec
from cotenant.scheduler.service import SchedulerService
from cotenant.scheduler.shell import Shell
from cotenant.v1 import predictor_pb2, predictor_pb2_grpc

_log = structlog.get_logger()


async def watch(address: str, shell: Shell, service: SchedulerService) -> None:
    """Subscribes for ever, and again half a second after each break."""
    async with open_channel(address) as channel:
        stub = cast("predictor_pb2_grpc.PredictorServiceAsyncStub", predictor_pb2_grpc.PredictorServiceStub(channel))
        while True:
            try:
                if await _take(stub, address, shell, service):
                    continue
            except grpc.aio.AioRpcError as error:
                denied = error.code() in DENIED
                if service.predictor_connected or denied:
                    _log.warning("predictor", state="lost", address=address, error=error.details())
                await asyncio.sleep(DENIED_S if denied else 0.0)
            except Exception:  # whatever a push held, the next stream may be better
                _log.exception("predictor", state="misunderstood", address=address)
            service.predictor_connected = False
            await asyncio.sleep(0.5)


async def _take(
    stub: "predictor_pb2_grpc.PredictorServiceAsyncStub", address: str, shell: Shell, service: SchedulerService
) -> bool:
    """Takes what is pushed until the stream ends; ends it, and returns true, if another level of bounds is in use."""
    level = shell.core.config.level
    call = stub.WatchEstimates(predictor_pb2.WatchEstimatesRequest(levels=[level]))
    async for push in call:
        if not service.predictor_connected:
            service.predictor_connected = True
            _log.info("predictor", state="connected", address=address)
        for event in codec.estimates(push, list(shell.core.tables)):
            shell.post(event)
        if shell.core.config.level != level:
            call.cancel()
            return True
    return False
