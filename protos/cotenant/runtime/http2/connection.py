"""One HTTP/2 connection, either end: frames in, frames out, windows, pings. What streams carry is theirs to know."""

import asyncio
import time
from typing import Any, cast

import structlog

from cotenant.runtime.http2 import frames
from cotenant.runtime.http2.fields import Fields, Reader
from cotenant.runtime.http2.frames import ProtocolError
from cotenant.runtime.http2.stream import Stream

_log = structlog.get_logger()
OWN_MAX_FRAME = 2**20
OWN_WINDOW = 4 * 2**20  # of a stream
OWN_CONNECTION_WINDOW = 64 * 2**20
LARGEST_BLOCK = 65_536  # bytes of header fields; beyond, the connection ends
WRITTEN_AHEAD = 4 * 2**20  # bytes the peer has not read; beyond, messages wait
ANSWERS_WAITING = 10_000  # acknowledgements a peer may make us owe it without reading them
CLOSE_S = 5.0
PING_BYTES = b"cotenant"


class Connection(asyncio.Protocol):
    """See the module's text. A subclass says what opens a stream, and what begins a connection."""

    expects = b""  # what a peer sends before its first frame
    stream_credit = OWN_WINDOW // 2  # received bytes after which a stream's peer is told that it may send more

    def __init__(self, *, keepalive_s: float, keepalive_timeout_s: float) -> None:
        """A ping goes after `keepalive_s` in which nothing came; without an answer the connection is given up."""
        self._keepalive_s, self._keepalive_timeout_s = keepalive_s, keepalive_timeout_s
        self.streams: dict[int, Stream] = {}
        self.blocked: dict[int, Stream] = {}  # streams that wait for a window
        self.window = frames.DEFAULT_WINDOW
        # What a peer may send unasked: until our settings arrive, it is what the protocol says.
        self.stream_window = max(OWN_WINDOW, frames.DEFAULT_WINDOW)
        self.peer_window = frames.DEFAULT_WINDOW  # of a new stream
        self.peer_frame = frames.DEFAULT_MAX_FRAME
        self.peer_streams = 2**31
        self.paused = False  # the peer does not read what was written
        self.closed = False
        self.settled = False  # the peer's settings arrived
        self.last_stream_id = 0  # that the peer opened
        self._reader = Reader(self.parse, LARGEST_BLOCK)
        self._rest = b""
        self._expected = self.expects
        self._data_left, self._data_stream, self._data_ends = 0, cast("Stream | None", None), False
        self._block: tuple[int, int, bytearray] | None = None  # of HEADERS that are not complete
        self._uncredited = 0
        self.strikes = 0  # pings that came too soon, since something of a call was sent
        self._owed = 0  # acknowledgements written while paused
        self._transport: Any = None
        self._write: Any = None
        self._heard_s = 0.0
        self._pinged_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.why = ""  # it ended

    # ---- what an end does

    def parse(self, fields: Fields) -> Any:
        """What `opened` and streams are given for a block's fields; it is kept for equal ones. Raises ProtocolError."""
        raise NotImplementedError

    def opened(self, stream_id: int, fields: Any, *, ends: bool) -> None:
        """HEADERS arrived for a stream that is not open. Raises ProtocolError."""
        raise NotImplementedError

    def begun(self) -> None:
        """The transport is there."""
        raise NotImplementedError

    def going_away(self, last_stream_id: int, reason: str) -> None:
        """The peer takes no more streams than those up to the last."""

    def answered(self, ping: bytes) -> None:
        """A ping of ours came back."""

    def pinged(self) -> None:
        """The peer asks for a sign of life. Raises ProtocolError if it asks too often."""

    def over(self) -> None:
        """The connection is gone, and all its streams know."""

    # ---- the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = transport
        self._write = self._transport.write
        self._heard_s = time.monotonic()
        self._transport.set_write_buffer_limits(high=WRITTEN_AHEAD)
        self._arm(self._keepalive_s)
        self.begun()

    def greet(self, settings: dict[int, int], before: bytes = b"") -> None:
        """Sends our settings."""
        ours = settings | {frames.INITIAL_WINDOW_SIZE: OWN_WINDOW, frames.MAX_FRAME_SIZE: OWN_MAX_FRAME}
        more = OWN_CONNECTION_WINDOW - frames.DEFAULT_WINDOW
        self.write(before + frames.settings(ours) + frames.window_update(0, more))

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self.closed:
            return
        self._heard_s = 0.0  # now; the clock is read when it matters
        try:
            self._take(self._rest + data if self._rest else data)
        except ProtocolError as error:
            self.fail(error)
        except Exception as error:  # ours: other connections go on
            _log.exception("connection", state="failed")
            self.fail(ProtocolError(f"an error of this end: {error!r}", frames.INTERNAL_ERROR))

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.closed = True
        if self._timer:
            self._timer.cancel()
        self.why = self.why or (f"the connection broke: {exc}" if exc else "the peer closed the connection")
        self._end_streams()
        self.over()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self.paused = True

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self.paused, self._owed = False, 0
        self._flush_blocked()

    # ---- writing

    def write(self, data: bytes | memoryview) -> None:
        """Writes frames; nothing on a connection that ended."""
        if not self.closed:
            self.strikes = 0
            self._write(data)

    def _answer(self, data: bytes) -> None:
        """Writes what a peer can ask for as often as it likes."""
        if self.paused:
            self._owed += 1
            if self._owed > ANSWERS_WAITING:
                raise ProtocolError("asks and does not read the answers", frames.ENHANCE_YOUR_CALM)
        if not self.closed:
            self._write(data)

    def _flush_blocked(self) -> None:
        for stream in list(self.blocked.values()):
            stream.flush()

    def fail(self, error: ProtocolError) -> None:
        """Ends the connection for what the peer did."""
        if not self.closed:
            self.why = self.why or str(error)
            self.write(frames.goaway(self.last_stream_id, error.code, str(error)))
            if self.paused:  # it would not read that either
                self.abort(self.why)
            elif self._transport.can_write_eof():
                # What it still sends is read: the system answers unread data with a reset, which overtakes our reason.
                self._transport.write_eof()
                asyncio.get_running_loop().call_later(CLOSE_S, self._transport.abort)
                self.closed = True
                self._end_streams()
            self.close()

    def _end_streams(self) -> None:
        for stream in list(self.streams.values()):
            stream.drop()
            stream.lost(None, self.why)
        self.streams.clear()

    def close(self) -> None:
        """Ends the connection once what was written is sent, or soon if the peer does not take it."""
        if self._transport and not self.closed:
            self._transport.close()
            asyncio.get_running_loop().call_later(CLOSE_S, self._transport.abort)
        self.closed = True

    def abort(self, why: str) -> None:
        """Ends the connection now."""
        self.why = self.why or why
        if self._transport:
            self._transport.abort()
        self.closed = True

    # ---- reading

    def _take(self, data: bytes) -> None:
        i, n = 0, len(data)
        if self._expected:
            i = self._greeted(data)
            if not i:
                self._rest = data
                return
        while not self.closed:
            if self._data_left:
                took = min(self._data_left, n - i)
                self._data(data, i, i + took)
                i += took
            if n - i < frames.HEAD_BYTES:
                break
            high, low, kind, flags, stream_id = frames.unpack_head(data, i)
            length = high << 8 | low
            if length > OWN_MAX_FRAME:
                raise ProtocolError("a frame larger than told", frames.FRAME_SIZE_ERROR)
            if kind == frames.DATA and not flags & frames.PADDED and self._block is None:
                i += frames.HEAD_BYTES
                self._data_begins(stream_id & 0x7FFFFFFF, length, ends=bool(flags & frames.END_STREAM))
                continue
            if kind != frames.DATA and length > LARGEST_BLOCK:
                raise ProtocolError("a frame larger than any of ours", frames.FRAME_SIZE_ERROR)
            if n - i < frames.HEAD_BYTES + length:
                break
            start = i + frames.HEAD_BYTES
            i = start + length
            self._frame(kind, flags, stream_id & 0x7FFFFFFF, data[start:i])
        self._rest = data[i:] if i < n else b""

    def _greeted(self, data: bytes) -> int:
        expected = self._expected
        if not expected.startswith(data[: len(expected)]):
            raise ProtocolError("this is not HTTP/2")
        if len(data) < len(expected):
            return 0
        self._expected = b""
        return len(expected)

    def _data_begins(self, stream_id: int, length: int, *, ends: bool) -> None:
        stream = self.streams.get(stream_id)
        if stream is None and not stream_id > 0:
            raise ProtocolError("data of no stream")
        self._uncredited += length
        if self._uncredited > OWN_CONNECTION_WINDOW:
            raise ProtocolError("more data than the connection's window allowed", frames.FLOW_CONTROL_ERROR)
        if self._uncredited >= OWN_CONNECTION_WINDOW // 2:
            self._answer(frames.window_update(0, self._uncredited))
            self._uncredited = 0
        self._data_stream, self._data_left, self._data_ends = stream, length, ends
        if not length:
            self._data(b"", 0, 0)

    def _data(self, data: bytes, start: int, end: int) -> None:
        """A part of a DATA frame."""
        self._data_left -= end - start
        stream = self._data_stream
        if stream is None or stream.peer_ended:
            return  # of a stream that was reset
        if end > start:
            stream.receive(data, start, end)
        if not self._data_left and self._data_ends and not stream.peer_ended:
            stream.end_received()

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is not None and (kind != frames.CONTINUATION or stream_id != self._block[0]):
            raise ProtocolError("a header block was interrupted")
        match kind:
            case frames.HEADERS:
                block = frames.without_padding(flags, payload)
                if flags & frames.END_HEADERS:
                    self._headers(stream_id, flags, block)
                else:
                    self._block = (stream_id, flags, bytearray(block))
            case frames.CONTINUATION:
                self._continued(flags, payload)
            case frames.WINDOW_UPDATE:
                self._credited(stream_id, payload)
            case frames.DATA:
                data = frames.without_padding(flags & frames.PADDED, payload)
                unseen = len(payload) - len(data)
                self._uncredited += unseen
                self._data_begins(stream_id, len(data), ends=bool(flags & frames.END_STREAM))
                if data:
                    self._data(data, 0, len(data))
            case frames.RST_STREAM:
                self._reset(stream_id, payload)
            case frames.PING:
                self._ping(flags, payload)
            case frames.SETTINGS:
                self._settings(flags, payload)
            case frames.GOAWAY:
                last, _ = int.from_bytes(payload[:4], "big"), payload[4:8]
                self.going_away(last & 0x7FFFFFFF, payload[8:].decode("utf-8", "replace"))
            case frames.PUSH_PROMISE:
                raise ProtocolError("a push was promised, and none was allowed")

    def _continued(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise ProtocolError("a continuation of nothing")
        stream_id, first_flags, block = self._block
        block += payload
        if len(block) > LARGEST_BLOCK:
            raise ProtocolError("a header block without end", frames.ENHANCE_YOUR_CALM)
        if flags & frames.END_HEADERS:
            self._block = None
            self._headers(stream_id, first_flags, bytes(block))

    def _headers(self, stream_id: int, flags: int, block: bytes) -> None:
        fields, ends = self._reader.read(block), bool(flags & frames.END_STREAM)
        stream = self.streams.get(stream_id)
        if stream is None:
            self.opened(stream_id, fields, ends=ends)
        elif not stream.peer_ended:
            stream.fields(fields, ends=ends)

    def _credited(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError("a window update of another size", frames.FRAME_SIZE_ERROR)
        credit = frames.unpack_one(payload, 0)[0] & 0x7FFFFFFF
        if stream_id == 0:
            self.window += credit
            if not credit or self.window > frames.LARGEST_WINDOW:
                raise ProtocolError("a window out of bounds", frames.FLOW_CONTROL_ERROR)
            if self.blocked:
                self._flush_blocked()
        elif stream := self.streams.get(stream_id):
            stream.window += credit
            if not credit or stream.window > frames.LARGEST_WINDOW:
                raise ProtocolError("a stream's window out of bounds", frames.FLOW_CONTROL_ERROR)
            if stream_id in self.blocked:
                stream.flush()

    def _reset(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError("a reset of another size", frames.FRAME_SIZE_ERROR)
        if stream := self.streams.pop(stream_id, None):
            stream.drop()
            stream.lost(frames.unpack_one(payload, 0)[0], "the peer reset the stream")

    def _ping(self, flags: int, payload: bytes) -> None:
        if len(payload) != 8:
            raise ProtocolError("a ping of another size", frames.FRAME_SIZE_ERROR)
        if flags & frames.ACK:
            self.answered(payload)
        else:
            self.pinged()
            self._answer(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _settings(self, flags: int, payload: bytes) -> None:
        if flags & frames.ACK:
            self.stream_window = OWN_WINDOW
            return
        values = frames.read_settings(payload)
        window = values.get(frames.INITIAL_WINDOW_SIZE, self.peer_window)
        frame = values.get(frames.MAX_FRAME_SIZE, self.peer_frame)
        if window > frames.LARGEST_WINDOW:
            raise ProtocolError("an initial window out of bounds", frames.FLOW_CONTROL_ERROR)
        if not frames.DEFAULT_MAX_FRAME <= frame < 2**24:
            raise ProtocolError("a largest frame out of bounds")
        for stream in self.streams.values():
            stream.window += window - self.peer_window
        self.peer_window, self.peer_frame = window, frame
        self.peer_streams = values.get(frames.MAX_CONCURRENT_STREAMS, self.peer_streams)
        self._answer(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self.settled = True
        self._flush_blocked()

    def forget_if_done(self, stream: Stream) -> None:
        """A stream that ended both ways is no more."""
        if stream.ended and stream.peer_ended:
            self.streams.pop(stream.stream_id, None)

    # ---- life

    def _arm(self, after_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(after_s, self._look)

    def _look(self) -> None:
        """Whether the peer lives: what came since the last look counts as heard now."""
        now_s = time.monotonic()
        if self._heard_s == 0.0:
            self._heard_s, self._pinged_s = now_s, 0.0
        if self._pinged_s and now_s - self._pinged_s >= self._keepalive_timeout_s:
            self.abort("keepalive: the peer does not answer")
            return
        if not self._pinged_s and now_s - self._heard_s >= self._keepalive_s * 0.9:
            self._pinged_s = now_s
            self.write(frames.frame(frames.PING, 0, 0, PING_BYTES))
        self._arm(min(self._keepalive_s, self._keepalive_timeout_s))
