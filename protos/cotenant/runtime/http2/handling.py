"""A call at the server: the handler that answers it, and the context that the handler sees."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from grpc.aio import AbortError

from cotenant.runtime.http2 import fields as fd
from cotenant.runtime.http2 import frames
from cotenant.runtime.http2.fields import Metadata
from cotenant.runtime.http2.frames import ProtocolError
from cotenant.runtime.http2.heads import Head, Method
from cotenant.runtime.http2.stream import Inbox, MessageError, Stream

if TYPE_CHECKING:
    from cotenant.runtime.http2.server import ServerConnection

_log = structlog.get_logger()
_OK = grpc.StatusCode.OK
_FIRST = (
    (b":status", b"200"),
    (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", b"identity,deflate,gzip"),
)
_FIRST_BLOCK = fd.block(_FIRST)
_OK_BLOCK = fd.block([(b"grpc-status", b"0")])


class Call(Stream):
    """One call, and the context its handler is given: what `grpc.aio.ServicerContext` offers."""

    connection: "ServerConnection"

    def __init__(self, connection: "ServerConnection", stream_id: int, head: Head, largest: int) -> None:
        super().__init__(connection, stream_id, largest)
        self._head = head
        self.encoding = head.encoding
        self.task: asyncio.Task[None] | None = None
        self._method: Method | None = None
        self._request: bytes | None = None
        self._inbox: Inbox | None = None
        self._over = False  # answered, or given up
        self._began = False  # the answer's first fields are sent
        self._started_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._trailing: tuple[tuple[str, str | bytes], ...] = ()
        self._first_metadata: tuple[tuple[str, str | bytes], ...] = ()
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._callbacks: list[Callable[[Any], None]] = []
        self._cancelled = False

    # ---- the stream's side

    def begin(self) -> None:
        """Looks for the method; one that reads a stream begins at once."""
        head, server = self._head, self.connection.server
        if head.http_status != b"200":
            self._end_in_http()
            return
        if head.problem:
            self._finish(*head.problem)
            return
        if head.timeout_s is not None:
            loop = asyncio.get_running_loop()
            self._started_s = loop.time()
            self._timer = loop.call_later(head.timeout_s, self._expired)
        self._method = server.method(head.path)
        if self._method is None:
            self._finish(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        elif self._method.streams_in:
            self._inbox = Inbox(self, self._method.read)
            self._start()

    def _start(self) -> None:
        self.connection.calls.add(self)
        self.task = asyncio.get_running_loop().create_task(self._serve())
        self.task.add_done_callback(self._served)  # also if it is cancelled before its first step

    def _served(self, _: object) -> None:
        self.connection.calls.discard(self)

    def _message(self, message: bytes) -> None:
        if self._inbox is not None:
            self._inbox.put(message)
        elif self._request is not None:
            self._finish(grpc.StatusCode.INTERNAL, "one request was expected, and more came")
        else:
            self._request = message

    def _ended(self) -> None:
        if self._inbox is not None:
            self._inbox.end()
        elif self.task is None and not self._over:
            if self._request is None:
                self._finish(grpc.StatusCode.INTERNAL, "one request was expected, and none came")
            else:
                self._start()

    def fields(self, fields: Any, *, ends: bool) -> None:
        """A client's trailers."""
        del fields
        if not ends:
            raise ProtocolError("header fields in the middle of a call")
        self.end_received()

    def lost(self, code: int | None, reason: str) -> None:
        """See Stream."""
        del code, reason
        self._cancelled = not self._over
        self._give_up()
        if self._inbox is not None:
            self._inbox.end(asyncio.CancelledError())

    def refused(self, error: MessageError) -> None:
        """See Stream."""
        self._finish(error.code, f"SERVER: {error}")

    def _expired(self) -> None:
        self._finish(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def stop(self) -> None:
        """Ends a call because the server stops."""
        self._finish(grpc.StatusCode.UNAVAILABLE, "the server stops")

    def _give_up(self) -> None:
        self._over = True
        if self._timer:
            self._timer.cancel()
        if self.task and not self.task.done() and self.task is not asyncio.current_task():
            self.task.cancel()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    # ---- the handler's side

    async def _serve(self) -> None:
        method = self._method
        assert method is not None
        try:
            if self.connection.server.asks:
                asked = await self.connection.server.intercepted(self._head.path, self._head.metadata)
                if asked is None:
                    self._finish(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
                    return
                method = self._method = asked
            await self._answer(method)
        except AbortError:
            self._finish(self._code or grpc.StatusCode.UNKNOWN, self._details)
        except asyncio.CancelledError:
            if not self._over:
                self._finish(grpc.StatusCode.CANCELLED, "the handler was cancelled")
        except Exception as error:
            _log.exception("handler", method=self._head.path)
            self._finish(grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}: {error}")

    async def _answer(self, method: Method) -> None:
        given: Any = self._inbox
        if given is None:
            assert self._request is not None
            given = method.read(self._request)
            self._request = b""
        if method.generates:
            answers = method.behaviour(given, self)
            try:
                async for response in answers:
                    await self.write(response)
            finally:
                await answers.aclose()
            self._finish(self._code or _OK, self._details)
            return
        response = await method.behaviour(given, self)
        if self._over:
            return
        if method.streams_out or self._code not in {None, _OK}:
            self._finish(self._code or _OK, self._details)
            return
        body = method.write(response)
        self._over = True
        if self._timer:
            self._timer.cancel()
        self.send(body, self._first(), self._trailers(_OK, ""))
        self._give_up()

    def _first(self) -> bytes:
        """The fields in front of the answer, once."""
        if self._began:
            return b""
        self._began = True
        block = _FIRST_BLOCK
        if self._first_metadata:
            block += fd.block(fd.of_metadata(self._first_metadata))
        return frames.headers(self.stream_id, block, end_stream=False)

    def _trailers(self, code: grpc.StatusCode, details: str) -> bytes:
        """The fields behind it, or all there are."""
        if code is _OK and not self._trailing and self._began:
            return frames.headers(self.stream_id, _OK_BLOCK, end_stream=True)
        found: list[tuple[bytes, bytes]] = [] if self._began else [*_FIRST[:2]]
        found.append((b"grpc-status", str(code.value[0]).encode()))
        if details:
            found.append((b"grpc-message", fd.of_message(details)))
        found += fd.of_metadata(self._trailing)
        return frames.headers(self.stream_id, fd.block(found), end_stream=True)

    def _finish(self, code: grpc.StatusCode, details: str) -> None:
        """Ends the call with a status, unless it has ended."""
        if self._over:
            return
        self._over = True
        self._code, self._details = code, details
        self.send_last(self._trailers(code, details))
        self._give_up()

    def _end_in_http(self) -> None:
        """Answers what speaks HTTP/2 and no gRPC."""
        self._over = True
        block = fd.block([(b":status", self._head.http_status)])
        self.send_last(frames.headers(self.stream_id, block, end_stream=True))

    def _sent_all(self) -> None:
        super()._sent_all()
        if not self.peer_ended:  # the client need not go on sending, and what it has sent is not looked at
            self.connection.write(frames.reset(self.stream_id, frames.NO_ERROR))
            self.peer_ended = True
            self.connection.forget_if_done(self)

    # ---- the context

    def invocation_metadata(self) -> Metadata:
        """See grpc.aio.ServicerContext."""
        return self._head.metadata

    def peer(self) -> str:
        """See grpc.aio.ServicerContext."""
        return self.connection.peer

    def auth_context(self) -> dict[str, list[bytes]]:
        """See grpc.aio.ServicerContext; empty without TLS, and for a client without a certificate."""
        return self.connection.auth_context

    def time_remaining(self) -> float | None:
        """Seconds until the client's deadline; None without one."""
        if self._head.timeout_s is None:
            return None
        return max(0.0, self._started_s + self._head.timeout_s - asyncio.get_running_loop().time())

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> Any:
        """Ends the call with a status. Raises AbortError always."""
        if code is _OK:
            code, details = grpc.StatusCode.UNKNOWN, "a call was aborted with the status OK"
        self._code, self._details = code, details
        self._trailing = tuple(trailing_metadata or ()) or self._trailing
        raise AbortError

    async def write(self, message: Any) -> None:
        """Sends an answer; returns when there is room for the next."""
        assert self._method is not None
        if self._over:
            raise asyncio.CancelledError
        self.send(self._method.write(message), self._first())
        if self.waits:
            await self.drained()

    async def read(self) -> Any:
        """The next request, or grpc.aio.EOF."""
        assert self._inbox is not None
        try:
            return await anext(self._inbox)
        except StopAsyncIteration:
            return grpc.aio.EOF

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """See grpc.aio.ServicerContext."""
        self._first_metadata = tuple(initial_metadata)
        self.connection.write(self._first())

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """See grpc.aio.ServicerContext."""
        self._trailing = tuple(trailing_metadata)

    def trailing_metadata(self) -> Any:
        """See grpc.aio.ServicerContext."""
        return self._trailing

    def set_code(self, code: grpc.StatusCode) -> None:
        """See grpc.aio.ServicerContext."""
        self._code = code

    def set_details(self, details: str) -> None:
        """See grpc.aio.ServicerContext."""
        self._details = details

    def code(self) -> grpc.StatusCode | None:
        """See grpc.aio.ServicerContext."""
        return self._code

    def details(self) -> str:
        """See grpc.aio.ServicerContext."""
        return self._details

    def cancelled(self) -> bool:
        """Whether the client gave the call up."""
        return self._cancelled

    def done(self) -> bool:
        """Whether the call has ended."""
        return self._over

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """See grpc.aio.ServicerContext."""
        self._callbacks.append(callback)
