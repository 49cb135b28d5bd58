"""One stream of a connection: whole messages in, whole messages out, as much as both sides' windows allow."""

import asyncio
import zlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc

from cotenant.runtime.http2 import frames
from cotenant.runtime.http2.frames import DATA, END_STREAM, HEAD_BYTES, ProtocolError, head

if TYPE_CHECKING:
    from cotenant.runtime.http2.connection import Connection

PREFIX_BYTES = 5  # of a gRPC message: whether it is compressed, and its length
JOINED_BYTES = 65_536  # what is smaller is cheaper to copy together than to write in pieces
HELD_BYTES = 8 * 2**20  # messages that nobody took yet; beyond, the peer gets no more credit
_WBITS = {b"gzip": 31, b"deflate": 15}


class MessageError(Exception):
    """A message that is not accepted. The call ends with `code`, and others go on."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


def _too_large(told: str) -> MessageError:
    return MessageError(grpc.StatusCode.RESOURCE_EXHAUSTED, f"Received message larger than max ({told})")


def _broken(text: str) -> MessageError:
    return MessageError(grpc.StatusCode.INTERNAL, text)


class Stream:
    """Messages of one call. Subclasses take what arrives: `_message`, `_ended`, `_fields`, and `lost`."""

    def __init__(self, connection: "Connection", stream_id: int, largest: int) -> None:
        """`largest`: bytes that a message may have; 0 for no limit."""
        self.connection, self.stream_id, self._largest = connection, stream_id, largest
        self.encoding = b"identity"
        # Receiving
        self.peer_ended = False
        self._prefix = b""  # a part of one
        self._parts: list[bytes] = []  # of the message that is arriving
        self._missing = -1  # bytes of it; -1 between messages
        self._compressed = False
        self._uncredited = 0
        self.held_bytes = 0
        # Sending
        self.window = connection.peer_window
        self.ended = False  # no more will be sent
        self._pending: deque[bytes | memoryview] = deque()  # what found no window
        self._last = b""  # what goes after all data
        self._last_ends = False
        self._drained: asyncio.Future[None] | None = None

    # ---- what a kind of stream does

    def _message(self, message: bytes) -> None:
        raise NotImplementedError

    def _ended(self) -> None:
        raise NotImplementedError

    def fields(self, fields: Any, *, ends: bool) -> None:
        """Header fields arrived: the first of an answer, or trailers. Raises ProtocolError."""
        raise NotImplementedError

    def lost(self, code: int | None, reason: str) -> None:
        """The peer reset the stream with a code, or the connection is gone (None)."""
        raise NotImplementedError

    def refused(self, error: MessageError) -> None:
        """The peer sent what is not accepted."""
        raise NotImplementedError

    # ---- receiving

    def receive(self, data: bytes, start: int, end: int) -> None:
        """Takes bytes of DATA frames."""
        if not self.peer_ended:
            self._uncredited += end - start
            if self._uncredited >= self.connection.stream_credit:
                self.credit()
                if self._uncredited > self.connection.stream_window:
                    raise ProtocolError("more data than the window allowed", frames.FLOW_CONTROL_ERROR)
        try:
            self._split(data, start, end)
        except MessageError as error:
            self._missing = -1
            self._parts.clear()
            self.refused(error)

    def _split(self, data: bytes, start: int, end: int) -> None:
        while start < end:
            if self._missing < 0:
                if self._prefix or end - start < PREFIX_BYTES:
                    take = min(PREFIX_BYTES - len(self._prefix), end - start)
                    self._prefix += data[start : start + take]
                    start += take
                    if len(self._prefix) < PREFIX_BYTES:
                        return
                    self._begin(self._prefix, 0)
                    self._prefix = b""
                else:
                    self._begin(data, start)
                    start += PREFIX_BYTES
            take = min(self._missing, end - start)
            if take == self._missing and not self._parts:
                self._missing = -1
                self._whole(data[start : start + take])
            else:
                self._parts.append(data[start : start + take])
                self._missing -= take
                if not self._missing:
                    self._missing = -1
                    parts, self._parts = self._parts, []
                    self._whole(b"".join(parts))
            start += take
        if self._missing == 0:  # a message without content ends with its prefix
            self._missing = -1
            self._whole(b"")

    def _begin(self, data: bytes, at: int) -> None:
        if data[at] > 1:
            raise _broken(f"a message begins with {data[at]}")
        self._compressed = data[at] == 1
        (size,) = frames.unpack_one(data, at + 1)
        if self._largest and size > self._largest:
            raise _too_large(f"{size} vs. {self._largest}")
        self._missing = size

    def _whole(self, message: bytes) -> None:
        self._message(self._inflated(message) if self._compressed else message)

    def _inflated(self, message: bytes) -> bytes:
        """Raises MessageError before more is unpacked than allowed, or for what cannot be."""
        if self.encoding not in _WBITS:
            raise _broken(f"a compressed message with grpc-encoding {self.encoding.decode('latin-1')}")
        unpacker = zlib.decompressobj(_WBITS[self.encoding])
        try:
            whole = unpacker.decompress(message, self._largest + 1 if self._largest else 0)
        except zlib.error as error:
            raise _broken(f"a message that cannot be decompressed: {error}") from error
        if self._largest and len(whole) > self._largest:
            raise _too_large(f"decompressed more than {self._largest}")
        return whole

    def end_received(self) -> None:
        """The peer sends no more."""
        self.peer_ended = True
        if self._missing >= 0 or self._prefix:
            self.refused(_broken("the stream ended within a message"))
        self._ended()
        self.connection.forget_if_done(self)

    def credit(self) -> None:
        """Lets the peer send as much again, unless too much waits to be taken already."""
        if self._uncredited and self.held_bytes < HELD_BYTES and not self.peer_ended:
            self.connection.write(frames.window_update(self.stream_id, self._uncredited))
            self._uncredited = 0

    # ---- sending

    def send(self, message: bytes, before: bytes = b"", after: bytes = b"", *, end: bool = False) -> None:
        """Sends a message as soon as windows allow.

        `before` are frames in front of it, which need no window; `after` a frame that ends the stream. `end`: the
        message itself does.
        """
        connection, size = self.connection, len(message) + PREFIX_BYTES
        prefix = b"\0" + len(message).to_bytes(4, "big")
        if (
            size > connection.peer_frame
            or size > self.window
            or size > connection.window
            or self._pending
            or connection.paused
        ):
            self._queue(prefix, message, before)
            self._last, self._last_ends = after, bool(after) or end
            self.flush()
            return
        self.window -= size
        connection.window -= size
        start = before + head(DATA, END_STREAM if end else 0, self.stream_id, size) + prefix
        if size <= JOINED_BYTES:
            connection.write(start + message + after)
        else:
            connection.write(start)
            connection.write(message)
            if after:
                connection.write(after)
        if end or after:
            self._sent_all()

    def _queue(self, prefix: bytes, message: bytes, before: bytes) -> None:
        if before:
            self.connection.write(before)
        if len(message) <= JOINED_BYTES:
            self._pending.append(prefix + message)
        else:
            self._pending += (prefix, memoryview(message))

    def send_last(self, last: bytes) -> None:
        """Sends a frame that ends the stream, after all messages."""
        if self._pending:
            self._last, self._last_ends = last, True
        else:
            self.connection.write(last)
            self._sent_all()

    def half_close(self) -> None:
        """No more messages from here."""
        if not self.ended and not self._last_ends:
            self.send_last(head(DATA, END_STREAM, self.stream_id, 0))

    def flush(self) -> None:
        """Sends what waits, as far as the windows allow."""
        connection, pending = self.connection, self._pending
        while pending:
            piece = pending[0]
            room = min(self.window, connection.window, connection.peer_frame)
            if room <= 0 or connection.paused:
                connection.blocked[self.stream_id] = self
                return
            take = min(room, len(piece))
            if take == len(piece):
                pending.popleft()
            else:
                pending[0] = memoryview(piece)[take:]
            self.window -= take
            connection.window -= take
            ends = self._last_ends and not self._last and not pending
            connection.write(head(DATA, END_STREAM if ends else 0, self.stream_id, take))
            connection.write(piece if take == len(piece) else memoryview(piece)[:take])
        connection.blocked.pop(self.stream_id, None)
        if self._last:
            connection.write(self._last)
        if self._last_ends:
            self._sent_all()
        if self._drained and not self._drained.done():
            self._drained.set_result(None)

    @property
    def waits(self) -> bool:
        """Whether something that was sent found no room yet."""
        return bool(self._pending)

    async def drained(self) -> None:
        """Returns when all that was sent is on its way, or never will be."""
        while self._pending:
            if self._drained is None or self._drained.done():
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)

    def _sent_all(self) -> None:
        self.ended = True
        self.connection.forget_if_done(self)

    def drop(self) -> None:
        """Forgets what waits to be sent."""
        self.ended = self.peer_ended = True
        self._pending.clear()
        self._parts.clear()
        self.connection.blocked.pop(self.stream_id, None)
        if self._drained and not self._drained.done():
            self._drained.set_result(None)

    def reset(self, code: int) -> None:
        """Ends the stream both ways, at once."""
        if not (self.ended and self.peer_ended):
            self.connection.write(frames.reset(self.stream_id, code))
        self.drop()
        self.connection.forget_if_done(self)


class Inbox:
    """Messages that arrived and were not taken yet, for one reader: an iterator that gives credit as it goes."""

    def __init__(self, stream: Stream | None, read: Callable[[bytes], Any]) -> None:
        """`read` makes a message of bytes. A stream that is not there yet is told later."""
        self.stream, self._read = stream, read
        self._messages: deque[bytes] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._over = False
        self._error: BaseException | None = None

    def put(self, message: bytes) -> None:
        """Adds a message."""
        self._messages.append(message)
        if self.stream:
            self.stream.held_bytes += len(message)
        self._wake()

    def end(self, error: BaseException | None = None) -> None:
        """There will be no more; whoever reads on gets the error, or the end."""
        self._over, self._error = True, error
        self._wake()

    def _wake(self) -> None:
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(None)

    def __aiter__(self) -> "Inbox":
        return self

    async def __anext__(self) -> Any:
        while not self._messages:
            if self._over:
                raise self._error or StopAsyncIteration
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        message = self._messages.popleft()
        if stream := self.stream:
            full = stream.held_bytes >= HELD_BYTES
            stream.held_bytes -= len(message)
            if full:
                stream.credit()
        return self._read(message)


assert HEAD_BYTES + PREFIX_BYTES < frames.DEFAULT_MAX_FRAME
