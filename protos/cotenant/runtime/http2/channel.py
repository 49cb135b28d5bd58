"""A gRPC channel on the event loop, with the methods of `grpc.aio.Channel` that services here use."""

import asyncio
import ssl
from collections.abc import Sequence
from typing import Any

import grpc
import structlog

from cotenant.runtime.http2 import fields, frames
from cotenant.runtime.http2.calling import ClientStream, RpcCall, UnaryCall, UnavailableError
from cotenant.runtime.http2.connection import Connection
from cotenant.runtime.http2.fields import Fields

_log = structlog.get_logger()
CONNECT_S = 20.0
LARGEST_STREAM_ID = 2**31 - 1
BACKOFF_GROWTH = 1.6
STATE_S = 0.05  # between looks of those who wait for another state


def _known(done: "asyncio.Future[Any]") -> None:
    """Takes note of an error, so that the loop does not tell of it when nobody waits any more."""
    if not done.cancelled():
        done.exception()


class ClientConnection(Connection):
    """A connection to a server."""

    def __init__(self, keepalive_s: float, keepalive_timeout_s: float) -> None:
        super().__init__(keepalive_s=keepalive_s, keepalive_timeout_s=keepalive_timeout_s)
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ready.add_done_callback(_known)
        self.retired = False  # no new streams
        self._next_id = 1
        self._room: list[asyncio.Future[None]] = []

    def begun(self) -> None:
        """See Connection."""
        self.greet({frames.ENABLE_PUSH: 0}, before=frames.PREFACE)

    def parse(self, fields: Fields) -> Any:
        """See Connection."""
        return fields

    def opened(self, stream_id: int, fields: Any, *, ends: bool) -> None:
        """See Connection."""
        del fields, ends
        if not stream_id % 2 or stream_id >= self._next_id:
            raise frames.ProtocolError("a server opened a stream")

    def going_away(self, last_stream_id: int, reason: str) -> None:
        """See Connection."""
        self.retired = True
        self.why = "Too many pings" if reason == "too_many_pings" else reason or "the server goes away"
        for stream_id in [i for i in self.streams if i > last_stream_id]:
            stream = self.streams.pop(stream_id)
            stream.drop()
            stream.lost(frames.REFUSED_STREAM, self.why)
        self._close_if_idle()

    def over(self) -> None:
        """See Connection."""
        self.retired = True
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(self.why))
        self._wake()

    def _settings(self, flags: int, payload: bytes) -> None:
        super()._settings(flags, payload)
        if self.settled and not self.ready.done():
            self.ready.set_result(None)
        self._wake()

    def forget_if_done(self, stream: Any) -> None:
        """See Connection."""
        super().forget_if_done(stream)
        if self._room:
            self._wake()
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self.retired and not self.streams and not self.closed:
            self.close()

    def _wake(self) -> None:
        waiting, self._room = self._room, []
        for one in waiting:
            if not one.done():
                one.set_result(None)

    async def has_room(self) -> None:
        """Returns when another stream may be opened, or the connection is over."""
        while len(self.streams) >= self.peer_streams and not self.closed:
            self._room.append(asyncio.get_running_loop().create_future())
            await self._room[-1]

    def next_id(self) -> int:
        """The next stream's number."""
        stream_id, self._next_id = self._next_id, self._next_id + 2
        if self._next_id > LARGEST_STREAM_ID:
            self.retired = True
        return stream_id


class Channel(grpc.aio.Channel):
    """See the module's text. It connects when the first call is made, and again after each break."""

    def __init__(
        self,
        target: str,
        options: Sequence[tuple[str, Any]] = (),
        *,
        secured: ssl.SSLContext | None = None,
        server_name: str = "",
    ) -> None:
        """`target`: "host:port", "dns:///host:port" or "unix:path"; `options` are gRPC's.

        With `secured` there is TLS, and the server must be `server_name`: by default the host, "localhost" for a path.
        """
        self._secured = secured
        told = dict(options)
        self.target = target.removeprefix("dns:").removeprefix("///")
        self.authority = "localhost" if target.startswith("unix:") else self.target
        self._server_name = server_name or (self.authority.rpartition(":")[0].strip("[]") or "localhost")
        self.largest = max(0, told.get("grpc.max_receive_message_length", 4 * 2**20))
        self._keepalive = (
            told.get("grpc.keepalive_time_ms", 2**31) / 1e3,
            told.get("grpc.keepalive_timeout_ms", 20_000) / 1e3,
        )
        self._first_wait_s = told.get("grpc.initial_reconnect_backoff_ms", 1000) / 1e3
        self._longest_wait_s = told.get("grpc.max_reconnect_backoff_ms", 120_000) / 1e3
        self._wait_s = self._first_wait_s
        self._retry_s = 0.0
        self._problem = ""
        self._connecting: asyncio.Task[ClientConnection] | None = None
        self._connection: ClientConnection | None = None
        self._older: set[ClientConnection] = set()
        self.calls: set[RpcCall] = set()
        self._blocks: dict[str, bytes] = {}
        self._closed = False

    # ---- the connection

    def at_hand(self) -> ClientConnection | None:
        """The connection, where there is one with room for a call."""
        current = self._connection
        if current is None or current.retired or current.closed or len(current.streams) >= current.peer_streams:
            return None
        return current

    def fields(self, method: str) -> bytes:
        """The fields that all calls of a method begin with."""
        block = self._blocks.get(method)
        if block is None:
            block = self._blocks[method] = fields.block(
                [
                    (b":method", b"POST"),
                    (b":scheme", b"https" if self._secured else b"http"),
                    (b":path", method.encode()),
                    (b":authority", self.authority.encode()),
                    (b"te", b"trailers"),
                    (b"content-type", b"application/grpc"),
                    (b"user-agent", b"cotenant"),
                    (b"grpc-accept-encoding", b"identity,deflate,gzip"),
                ]
            )
        return block

    async def connected(self, *, wait: bool = False) -> ClientConnection:
        """The connection for a call. Raises UnavailableError; `wait`: for ever, instead of that."""
        while True:
            if self._closed:
                raise UnavailableError("the channel is closed")
            current = self._connection
            if current is not None and not current.retired and not current.closed:
                return current
            loop = asyncio.get_running_loop()
            if self._connecting is None:
                pause_s = self._retry_s - loop.time()
                if pause_s > 0 and not wait:
                    raise UnavailableError(self._problem)
                if pause_s > 0:
                    await asyncio.sleep(pause_s)
                    continue
                self._connecting = loop.create_task(self._connect())
                self._connecting.add_done_callback(_known)
            try:
                return await asyncio.shield(self._connecting)
            except OSError as error:
                if not wait:
                    raise UnavailableError(str(error)) from error

    async def _connect(self) -> ClientConnection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                made = await self._opened(loop)
                try:
                    await made.ready
                except BaseException:
                    made.abort("given up")
                    raise
        except (OSError, TimeoutError, ValueError) as error:
            self._problem = f"failed to connect to {self.target}: {error or 'no answer in time'}"
            self._retry_s = loop.time() + self._wait_s
            self._wait_s = min(self._wait_s * BACKOFF_GROWTH, self._longest_wait_s)
            raise OSError(self._problem) from error
        finally:
            self._connecting = None
        self._wait_s, self._retry_s = self._first_wait_s, 0.0
        self._older = {one for one in self._older if not one.closed}
        if self._connection is not None and not self._connection.closed:
            self._older.add(self._connection)
        self._connection = made
        return made

    async def _opened(self, loop: asyncio.AbstractEventLoop) -> ClientConnection:
        def protocol() -> ClientConnection:
            return ClientConnection(*self._keepalive)

        secured: dict[str, Any] = {}
        if self._secured:
            secured = {"ssl": self._secured, "server_hostname": self._server_name}
        if self.target.startswith("unix:"):
            path = self.target.removeprefix("unix:").removeprefix("//")
            return (await loop.create_unix_connection(protocol, path, **secured))[1]
        host, _, port = self.target.rpartition(":")
        return (await loop.create_connection(protocol, host.strip("[]"), int(port), **secured))[1]

    async def channel_ready(self) -> None:
        """Returns when there is a connection."""
        await self.connected(wait=True)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """See grpc.aio.Channel; IDLE and TRANSIENT_FAILURE are told apart by whether the last attempt failed."""
        del try_to_connect
        if self._closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        if self._connection is not None and not self._connection.closed:
            return grpc.ChannelConnectivity.READY
        if self._connecting is not None:
            return grpc.ChannelConnectivity.CONNECTING
        return grpc.ChannelConnectivity.TRANSIENT_FAILURE if self._retry_s else grpc.ChannelConnectivity.IDLE

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """See grpc.aio.Channel."""
        while self.get_state() is last_observed_state:
            await asyncio.sleep(STATE_S)

    async def close(self, grace: float | None = None) -> None:
        """Ends all calls, after `grace` seconds where that is told."""
        if grace and self.calls:
            await asyncio.wait([asyncio.ensure_future(call.code()) for call in self.calls], timeout=grace)
        self._closed = True
        for call in list(self.calls):
            call.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        for connection in (self._connection, *self._older):
            if connection is not None and not connection.closed:
                connection.write(frames.goaway(0, frames.NO_ERROR))
                connection.close()
        await asyncio.sleep(0)

    async def __aenter__(self) -> "Channel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ---- methods

    def unary_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
    ) -> Any:
        """See grpc.aio.Channel."""
        return self._method(UnaryCall, method, request_serializer, response_deserializer, streams_in=False)

    def unary_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
    ) -> Any:
        """See grpc.aio.Channel."""
        return self._method(RpcCall, method, request_serializer, response_deserializer, streams_in=False)

    def stream_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
    ) -> Any:
        """See grpc.aio.Channel."""
        return self._method(UnaryCall, method, request_serializer, response_deserializer, streams_in=True)

    def stream_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
    ) -> Any:
        """See grpc.aio.Channel."""
        return self._method(RpcCall, method, request_serializer, response_deserializer, streams_in=True)

    def _method(self, kind: Any, method: str, write: Any, read: Any, *, streams_in: bool) -> Any:
        def start(
            request: Any = None,
            *,
            timeout: float | None = None,
            metadata: Any = None,
            wait_for_ready: bool | None = None,
            **_: Any,
        ) -> Any:
            call = kind(self, method, write or bytes, read or bytes, timeout, metadata, wait=bool(wait_for_ready))
            call.start(request, streams_in=streams_in)
            return call

        return start


__all__ = ["Channel", "ClientConnection", "ClientStream"]
