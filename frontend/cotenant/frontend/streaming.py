"""Requests of one stream: they run at once, and are answered in the order in which they came.

An error is an answer like any other, and the stream goes on. The responses of a decoupled model join the answers as
they come: they keep their order, and nobody waits for those that have not come. While the service drains, what was
accepted is answered before the stream ends with the reason.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing

from cotenant.frontend import errors
from cotenant.frontend.decoupled import failure
from cotenant.frontend.errors import RequestError
from cotenant.inference import inference_pb2 as pb
from cotenant.v1.types_pb2 import REJECT_REASON_EXECUTION_FAILED as EXECUTION_FAILED

# Answers of one stream that may be outstanding; further requests wait in gRPC's flow control.
STREAM_LIMIT = 256
# Likewise bytes of requests that run and of answers that wait: a client that does not read must not fill our memory.
STREAM_BYTES = 32 * 2**20
WEIGHED_FROM = 16  # below so many outstanding answers they are not counted: to weigh a message is to serialise it

Weighed = tuple[pb.ModelStreamInferResponse, int]  # with its bytes
Infer = Callable[[pb.ModelInferRequest], Awaitable[pb.ModelInferResponse]]
Respond = Callable[[pb.ModelInferRequest], AsyncGenerator[pb.ModelStreamInferResponse, None]]
Entry = tuple["asyncio.Future[Weighed]", asyncio.Semaphore]  # what will be an answer, and whose place it occupies


class Stream:
    """One call of `ModelStreamInfer`. `infer` runs one request; `respond` has a decoupled model answer one.

    `respond` is asked for a request if `decoupled` says so. With `end_on_failure`, a request that was accepted and
    failed ends the stream with its status.
    """

    def __init__(
        self,
        infer: Infer,
        respond: Respond | None = None,
        decoupled: Callable[[pb.ModelInferRequest], bool] = lambda _: False,
        *,
        end_on_failure: bool = False,
    ) -> None:
        self._infer, self._respond, self._decoupled = infer, respond, decoupled
        self._end_on_failure = end_on_failure
        self._entries: asyncio.Queue[Entry | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(STREAM_LIMIT)
        self._responses = asyncio.Semaphore(STREAM_LIMIT)  # of decoupled models, that wait to be read
        self._pumps: set[asyncio.Task[None]] = set()  # requests to decoupled models
        self._ending: asyncio.Task[None] | None = None
        self._bytes = 0
        self._eased = asyncio.Event()
        self._draining = False

    def drain(self) -> None:
        """Takes no more requests; the stream ends when those taken are answered."""
        self._draining = True
        self._eased.set()
        self._end()

    def _end(self) -> None:
        """No request comes any more: the stream ends behind the last answer."""
        if self._pumps:
            self._ending = asyncio.create_task(self._end_after(set(self._pumps)))
        else:
            self._entries.put_nowait(None)

    async def _end_after(self, pumps: set["asyncio.Task[None]"]) -> None:
        await asyncio.wait(pumps)
        self._entries.put_nowait(None)

    async def answers(
        self, requests: AsyncIterator[pb.ModelInferRequest | None]
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """The responses. Raises RequestError where the stream is to end with a status."""
        reader = asyncio.create_task(self._read(requests))
        try:
            while (entry := await self._entries.get()) is not None:
                answer, size = await entry[0]
                yield answer
                entry[1].release()
                self._weigh(-size)
            if not self._draining:
                await reader  # has ended, well or not
        finally:
            reader.cancel()
            for pump in self._pumps:
                pump.cancel()
            while not self._entries.empty():
                if entry := self._entries.get_nowait():
                    entry[0].cancel()
        if self._draining:
            raise errors.draining()

    async def _read(self, requests: AsyncIterator[pb.ModelInferRequest | None]) -> None:
        try:
            async for request in requests:
                await self._room.acquire()
                await self._ease()
                if self._draining:
                    return
                if request is not None and self._respond is not None and self._decoupled(request):
                    pump = asyncio.create_task(self._pump(request, self._respond))
                    self._pumps.add(pump)
                    pump.add_done_callback(self._pumps.discard)
                    continue
                size = request.ByteSize() if request and self._entries.qsize() >= WEIGHED_FROM else 0
                self._weigh(size)
                self._entries.put_nowait((asyncio.create_task(self._answer(request, size)), self._room))
        finally:
            self._end()

    async def _ease(self) -> None:
        """Waits until there is room for more bytes."""
        while self._bytes > STREAM_BYTES and not self._draining:
            self._eased.clear()
            await self._eased.wait()

    async def _pump(self, request: pb.ModelInferRequest, respond: Respond) -> None:
        """Puts the responses to one request among the answers."""
        try:
            async with aclosing(respond(request)) as responses:
                async for one in responses:
                    if one.error_message and self._end_on_failure:
                        await self._put(errors.refused(EXECUTION_FAILED, one.error_message))
                        return
                    await self._put(one)
        except RequestError as error:
            ends = self._end_on_failure and error.refusal
            await self._put(error if ends else failure(error, request.id, request.model_name if error.refusal else ""))
        finally:
            self._room.release()

    async def _put(self, one: pb.ModelStreamInferResponse | RequestError) -> None:
        await self._responses.acquire()
        await self._ease()
        entry: asyncio.Future[Weighed] = asyncio.get_running_loop().create_future()
        if isinstance(one, RequestError):
            entry.set_exception(one)
        else:
            size = one.ByteSize()
            self._weigh(size)
            entry.set_result((one, size))
        self._entries.put_nowait((entry, self._responses))

    def _weigh(self, size: int) -> None:
        self._bytes += size
        self._eased.set()

    async def _answer(self, request: pb.ModelInferRequest | None, size: int) -> Weighed:
        """Has a request of so many bytes run. They count until it is answered, then those of the answer."""
        try:
            answer = await self._answered(request)
        finally:
            self._weigh(-size)
        size = answer.ByteSize() if self._entries.qsize() >= WEIGHED_FROM else 0
        self._weigh(size)
        return answer, size

    async def _answered(self, request: pb.ModelInferRequest | None) -> pb.ModelStreamInferResponse:
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
