"""Requests of one stream: they run at once, and are answered in the order in which they came.

An error is an answer like any other, and the stream goes on. While the service drains, what was accepted is answered
before the stream ends with the reason.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from cotenant.frontend import errors
from cotenant.frontend.errors import RequestError
from cotenant.inference import inference_pb2 as pb

# Answers of one stream that may be outstanding; further requests wait in gRPC's flow control.
STREAM_LIMIT = 256

Infer = Callable[[pb.ModelInferRequest], Awaitable[pb.ModelInferResponse]]


class Stream:
    """One call of `ModelStreamInfer`. `infer` runs one request.

    With `end_on_failure`, a request that was accepted and failed ends the stream with its status.
    """

    def __init__(self, infer: Infer, *, end_on_failure: bool = False) -> None:
        self._infer = infer
        self._end_on_failure = end_on_failure
        self._tasks: asyncio.Queue[asyncio.Task[pb.ModelStreamInferResponse] | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(STREAM_LIMIT)
        self._draining = False

    def drain(self) -> None:
        """Takes no more requests; the stream ends when those taken are answered."""
        self._draining = True
        self._tasks.put_nowait(None)

    async def answers(
        self, requests: AsyncIterator[pb.ModelInferRequest | None]
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """The responses. Raises RequestError where the stream is to end with a status."""
        reader = asyncio.create_task(self._read(requests))
        try:
            while (task := await self._tasks.get()) is not None:
                yield await task
                self._room.release()
            if not self._draining:
                await reader  # has ended, well or not
        finally:
            reader.cancel()
            while not self._tasks.empty():
                if task := self._tasks.get_nowait():
                    task.cancel()
        if self._draining:
            raise errors.draining()

    async def _read(self, requests: AsyncIterator[pb.ModelInferRequest | None]) -> None:
        try:
            async for request in requests:
                await self._room.acquire()
                if self._draining:
                    return
                self._tasks.put_nowait(asyncio.create_task(self._answer(request)))
        finally:
            self._tasks.put_nowait(None)

    async def _answer(self, request: pb.ModelInferRequest | None) -> pb.ModelStreamInferResponse:
        try:
            if request is None:
                raise errors.unreadable("inference.ModelInferRequest")
            result = await self._infer(request)
        except RequestError as error:
            if self._end_on_failure and error.refusal:
                raise
            return failure(error, request.id if request else "")
        result.parameters["triton_final_response"].bool_param = True
        return pb.ModelStreamInferResponse(infer_response=result)


def failure(error: RequestError, request_id: str) -> pb.ModelStreamInferResponse:
    """An error as it travels in a stream; status and facts, which have no field of their own, are parameters."""
    message = pb.ModelStreamInferResponse(error_message=error.message)
    message.infer_response.id = request_id
    parameters = message.infer_response.parameters
    parameters["cotenant_status"].string_param = error.code.name
    parameters["cotenant_reason"].string_param = error.reason
    for key, fact in error.facts.items():
        parameters[f"cotenant_{key}"].string_param = fact
    return message
