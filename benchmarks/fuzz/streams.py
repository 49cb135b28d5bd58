"""Streams that are held open to a handler, and servers that say what a fuzzer has them say."""

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

from fuzz.loopback import AbortedError, Context, LocalServer, Network


class Stream:
    """A client's stream to one handler; what is answered is handed on as it comes."""

    def __init__(self, handler: Any, heard: Callable[[Any], None]) -> None:
        self._handler, self._heard = handler, heard
        self._frames: asyncio.Queue[Any] = asyncio.Queue()
        self.error: AbortedError | None = None
        self.raised: Exception | None = None
        self.task = asyncio.create_task(self._run())

    def send(self, frame: Any) -> None:
        """Sends a message."""
        self._frames.put_nowait(frame)

    async def _sent(self) -> AsyncIterator[Any]:
        while (frame := await self._frames.get()) is not None:
            yield frame

    async def _run(self) -> None:
        try:
            async for response in self._handler.stream_stream(self._sent(), Context()):
                self._heard(response)
        except AbortedError as error:
            self.error = error
        except Exception as error:  # what is raised is looked at by the target
            self.raised = error

    async def close(self) -> None:
        """Ends it as a client does that has gone."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def unread(data: bytes) -> bytes:
    return data


class Speaker:
    """A server at an address: each of its streams sends what `say` is given, and hands on what it hears."""

    def __init__(self, network: Network, address: str) -> None:
        self.server = LocalServer(network)
        self.server.bind(address)

    def stream(self, path: str, reads: Any, hear: Callable[["Said", Any], None], *, streaming: bool = True) -> "Said":
        """A method that answers with a stream, to a stream or to one request."""
        said = Said(hear)
        handler = SimpleNamespace(
            request_streaming=streaming,
            request_deserializer=reads.FromString,
            response_serializer=unread,
            stream_stream=said.serve,
            unary_stream=said.answer,
        )
        self.server.handlers[path] = handler
        return said


class Said:
    """One method of a speaker."""

    def __init__(self, hear: Callable[["Said", Any], None]) -> None:
        self._hear = hear
        self._frames: asyncio.Queue[bytes] = asyncio.Queue()
        self.opened = 0

    def say(self, frame: bytes) -> None:
        self._frames.put_nowait(frame)

    async def serve(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[bytes]:
        del context
        reading = asyncio.create_task(self._listen(requests))
        try:
            async for frame in self._said():
                yield frame
        finally:
            reading.cancel()

    async def answer(self, request: Any, context: Context) -> AsyncIterator[bytes]:
        del context
        self._hear(self, request)
        async for frame in self._said():
            yield frame

    async def _said(self) -> AsyncIterator[bytes]:
        self._frames = asyncio.Queue()
        self.opened += 1
        while True:
            yield await self._frames.get()

    async def _listen(self, requests: AsyncIterator[Any]) -> None:
        async for request in requests:
            self._hear(self, request)
