"""Asks a running scheduler for the life of a request: the answer is the part of a log that tells of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import grpc

from cotenant.cli.explain_names import is_id, is_trace
from cotenant.runtime.server import open_channel
from cotenant.v1 import scheduler_pb2 as pb
from cotenant.v1 import scheduler_pb2_grpc

_ANSWER_S = 30.0


async def fetch(address: str, request: str, model: str, log: Path) -> tuple[int, list[int]]:
    """Writes the log; returns the request's id, and those of others of that name, newest first.

    Raises ValueError if the scheduler knows no such request, and AioRpcError if it does not answer.
    """
    async with open_channel(address) as channel:
        stub = cast("scheduler_pb2_grpc.SchedulerServiceAsyncStub", scheduler_pb2_grpc.SchedulerServiceStub(channel))
        unknown = ""
        for question in _questions(request, model):
            try:
                return await _ask(stub, question, log)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                unknown = error.details() or ""
    raise ValueError(f"no request '{request}' at {address}: {unknown}")


def _questions(request: str, model: str) -> Iterator[pb.ExplainRequest]:
    """What the name may mean, the surest first."""
    if is_id(request):
        yield pb.ExplainRequest(request_id=int(request))
    if is_trace(request):
        yield pb.ExplainRequest(trace_id=request)
    yield pb.ExplainRequest(client_request_id=request, model=model)


async def _ask(
    stub: "scheduler_pb2_grpc.SchedulerServiceAsyncStub", question: pb.ExplainRequest, log: Path
) -> tuple[int, list[int]]:
    request_id, others = 0, list[int]()
    with log.open("wb") as file:
        async for piece in stub.Explain(question, timeout=_ANSWER_S):
            if piece.request_id:
                request_id, others = piece.request_id, list(piece.other_request_ids)
            file.write(piece.log)
    return request_id, others
