"""A call from the client's side: what it sends, what comes back, and how it ended."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from grpc.aio import AioRpcError
from grpc.aio import Metadata as AioMetadata

from cotenant.runtime.http2 import fields as fd
from cotenant.runtime.http2 import frames
from cotenant.runtime.http2.frames import ProtocolError
from cotenant.runtime.http2.stream import Inbox, MessageError, Stream

if TYPE_CHECKING:
    from cotenant.runtime.http2.channel import Channel, ClientConnection

# gRPC's mapping of resets and of HTTP's codes (its PROTOCOL-HTTP2 document, and http-grpc-status-mapping).
_OF_RESET = {
    frames.REFUSED_STREAM: grpc.StatusCode.UNAVAILABLE,
    frames.CANCEL: grpc.StatusCode.CANCELLED,
    frames.ENHANCE_YOUR_CALM: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_OF_HTTP = {
    b"400": grpc.StatusCode.INTERNAL,
    b"401": grpc.StatusCode.UNAUTHENTICATED,
    b"403": grpc.StatusCode.PERMISSION_DENIED,
    b"404": grpc.StatusCode.UNIMPLEMENTED,
    b"429": grpc.StatusCode.UNAVAILABLE,
    b"502": grpc.StatusCode.UNAVAILABLE,
    b"503": grpc.StatusCode.UNAVAILABLE,
    b"504": grpc.StatusCode.UNAVAILABLE,
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class UnavailableError(Exception):
    """No connection can be had."""


class Status(NamedTuple):
    """How a call ended."""

    code: grpc.StatusCode
    details: str
    trailing: fd.Metadata = ()
    cancelled_here: bool = False


class ClientStream(Stream):
    """The stream of a call."""

    connection: "ClientConnection"

    def __init__(self, connection: "ClientConnection", call: "RpcCall", largest: int) -> None:
        super().__init__(connection, connection.next_id(), largest)
        self._call = call
        self._answered = False
        connection.streams[self.stream_id] = self

    def _message(self, message: bytes) -> None:
        self._call.inbox.put(message)

    def _ended(self) -> None:
        self._call.finish(Status(grpc.StatusCode.INTERNAL, "the server ended the stream without a status"))

    def fields(self, fields: Any, *, ends: bool) -> None:
        """See Stream."""
        http = fd.field(fields, b":status")
        if http is not None and http.startswith(b"1"):
            return
        if not self._answered:
            self._answered = True
            self.encoding = fd.field(fields, b"grpc-encoding") or b"identity"
            if not ends:
                self._call.first_metadata = fd.metadata_of(fields)
        if ends or (http is not None and http != b"200"):
            self._call.finish(_status(fields, http))
            self.peer_ended = True
            if not self.ended:
                self.reset(frames.CANCEL)  # what is left to send helps nobody
            self.connection.forget_if_done(self)

    def lost(self, code: int | None, reason: str) -> None:
        """See Stream."""
        found = grpc.StatusCode.UNAVAILABLE if code is None else _OF_RESET.get(code, grpc.StatusCode.INTERNAL)
        self._call.finish(Status(found, reason if code is None else f"{reason} with code {code}"))

    def refused(self, error: MessageError) -> None:
        """See Stream."""
        self._call.finish(Status(error.code, f"CLIENT: {error}"))
        self.reset(frames.CANCEL)


def _status(fields: fd.Fields, http: bytes | None) -> Status:
    told = fd.field(fields, b"grpc-status")
    if told is None:
        code = _OF_HTTP.get(http or b"", grpc.StatusCode.UNKNOWN)
        return Status(code, f"the server answered in HTTP only, with {(http or b'nothing').decode('latin-1')}")
    code = _CODES.get(int(told) if told.isdigit() else -1, grpc.StatusCode.UNKNOWN)
    return Status(code, fd.message_of(fd.field(fields, b"grpc-message") or b""), fd.metadata_of(fields))


class RpcCall:
    """A call whose answers are a stream; what `grpc.aio` calls a StreamStreamCall or UnaryStreamCall."""

    def __init__(
        self,
        channel: "Channel",
        method: str,
        write: Callable[[Any], bytes],
        read: Callable[[bytes], Any],
        timeout_s: float | None,
        metadata: Any,
        *,
        wait: bool,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._channel, self._method, self._write = channel, method, write
        self._timeout_s, self._metadata, self._wait = timeout_s, tuple(metadata or ()), wait
        self._until_s = loop.time() + timeout_s if timeout_s is not None else None
        self._ended: asyncio.Future[Status] = loop.create_future()
        self._stream: ClientStream | None = None
        self._opened: asyncio.Future[None] = loop.create_future()
        self._timer = loop.call_later(timeout_s, self._expired) if timeout_s is not None else None
        self._callbacks: list[Callable[[Any], None]] = []
        self._task: asyncio.Task[None] | None = None
        self.first_metadata: fd.Metadata = ()
        self.inbox = Inbox(None, read)
        channel.calls.add(self)

    # ---- how it goes

    def start(self, request: Any, *, streams_in: bool) -> None:
        """Begins it. A call that streams and is given no requests waits for `write`."""
        if not streams_in and (connection := self._channel.at_hand()) is not None:
            self._ask(connection, request)
            return
        self._task = asyncio.get_running_loop().create_task(self._run(request, streams_in=streams_in))

    async def _run(self, request: Any, *, streams_in: bool) -> None:
        try:
            connection = await self._channel.connected(wait=self._wait)
            await connection.has_room()
            if connection.closed:
                raise UnavailableError(connection.why)
            if not streams_in:
                self._ask(connection, request)
                return
            connection.write(self._first(connection))
            if not self._opened.done():
                self._opened.set_result(None)
            if request is not None:
                async for one in request:
                    await self.write(one)
                await self.done_writing()
        except UnavailableError as error:
            self.finish(Status(grpc.StatusCode.UNAVAILABLE, str(error)))
        except asyncio.CancelledError:
            if not self._ended.done():
                self.cancel()
        except Exception as error:  # of the iterator, or of what it gave
            self.finish(Status(grpc.StatusCode.UNKNOWN, f"sending failed: {error!r}"))
            if self._stream:
                self._stream.reset(frames.CANCEL)

    def _ask(self, connection: "ClientConnection", request: Any) -> None:
        """Sends the one request there is."""
        body = self._write(request)
        first = self._first(connection)
        assert self._stream is not None
        self._stream.send(body, first, end=True)

    def _first(self, connection: "ClientConnection") -> bytes:
        """Opens the stream; the frame in front of all others."""
        block = self._channel.fields(self._method)
        more = fd.of_metadata(self._metadata)
        if self._until_s is not None:
            left_s = max(0.0, self._until_s - asyncio.get_running_loop().time())
            more.append((b"grpc-timeout", fd.of_timeout(left_s)))
        self._stream = self.inbox.stream = ClientStream(connection, self, self._channel.largest)
        return frames.headers(self._stream.stream_id, block + fd.block(more), end_stream=False)

    def finish(self, status: Status) -> None:
        """It ended; the first to say how is right."""
        if self._ended.done():
            return
        self._ended.set_result(status)
        self._channel.calls.discard(self)
        if self._timer:
            self._timer.cancel()
        if not self._opened.done():
            self._opened.set_result(None)
        if self._task and self._task is not asyncio.current_task():
            self._task.cancel()
        self.inbox.end(self._error(status))
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def _error(self, status: Status) -> BaseException | None:
        if status.code is grpc.StatusCode.OK:
            return None
        if status.cancelled_here:
            return asyncio.CancelledError()
        first, trailing = AioMetadata(*self.first_metadata), AioMetadata(*status.trailing)
        return AioRpcError(status.code, first, trailing, details=status.details)

    def _expired(self) -> None:
        self.finish(Status(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))
        if self._stream:
            self._stream.reset(frames.CANCEL)

    # ---- as in grpc.aio

    def cancel(self) -> bool:
        """Gives it up; False if it had ended."""
        if self._ended.done():
            return False
        self.finish(Status(grpc.StatusCode.CANCELLED, "Locally cancelled by application!", cancelled_here=True))
        if self._stream:
            self._stream.reset(frames.CANCEL)
        return True

    def cancelled(self) -> bool:
        """Whether it was cancelled, here or there."""
        return self._ended.done() and self._ended.result().code is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        """Whether it ended."""
        return self._ended.done()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls back when it ended, at once if it has."""
        if self._ended.done():
            callback(self)
        else:
            self._callbacks.append(callback)

    def time_remaining(self) -> float | None:
        """Seconds until its deadline."""
        return None if self._until_s is None else max(0.0, self._until_s - asyncio.get_running_loop().time())

    async def code(self) -> grpc.StatusCode:
        """How it ended, once it has."""
        return (await asyncio.shield(self._ended)).code

    async def details(self) -> str:
        """The status's message."""
        return (await asyncio.shield(self._ended)).details

    async def initial_metadata(self) -> AioMetadata:
        """What came before the first answer; waits for the end, which is all that is needed here."""
        await asyncio.shield(self._ended)
        return AioMetadata(*self.first_metadata)

    async def trailing_metadata(self) -> AioMetadata:
        """What came after the last answer."""
        return AioMetadata(*(await asyncio.shield(self._ended)).trailing)

    async def write(self, request: Any) -> None:
        """Sends one request; returns when there is room for the next."""
        if self._stream is None:
            await self._opened
        stream = self._stream
        if stream is None or self._ended.done():
            raise self._error(self._ended.result()) or asyncio.InvalidStateError("the call has ended")
        stream.send(self._write(request))
        if stream.waits:
            await stream.drained()

    async def done_writing(self) -> None:
        """No more requests."""
        if self._stream is None:
            await self._opened
        if self._stream is not None:
            self._stream.half_close()

    async def read(self) -> Any:
        """The next answer, or grpc.aio.EOF."""
        try:
            return await anext(self.inbox)
        except StopAsyncIteration:
            return grpc.aio.EOF

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.inbox


class UnaryCall(RpcCall):
    """A call with one answer: awaiting it gives that, or raises AioRpcError."""

    def __await__(self) -> Any:
        return self._result().__await__()

    async def _result(self) -> Any:
        try:
            status = await asyncio.shield(self._ended)
        except asyncio.CancelledError:
            self.cancel()
            raise
        if error := self._error(status):
            raise error
        try:
            return await anext(self.inbox)
        except StopAsyncIteration:
            first, trailing = AioMetadata(*self.first_metadata), AioMetadata(*status.trailing)
            details = "one answer was expected, and none came"
            raise AioRpcError(grpc.StatusCode.INTERNAL, first, trailing, details=details) from None


__all__ = ["ClientStream", "ProtocolError", "RpcCall", "Status", "UnaryCall", "UnavailableError"]
