"""A gRPC server on the event loop, with the methods of `grpc.aio.Server` that services here use."""

import asyncio
import contextlib
import errno
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import structlog

from cotenant.runtime import tls
from cotenant.runtime.http2 import frames
from cotenant.runtime.http2.connection import Connection
from cotenant.runtime.http2.fields import Fields
from cotenant.runtime.http2.handling import Call
from cotenant.runtime.http2.heads import Head, Method, head_of

_log = structlog.get_logger()
BACKLOG = 1024
STRIKES = 2  # that a client has, as gRPC's own servers give
STOPS, RETIRING = "the server stops", b"retiring"
DRAIN_S = 0.05  # between looks at whether all calls have ended


class Limits(NamedTuple):
    """Of one server, from the options that gRPC knows by these names."""

    message_bytes: int = 4 * 2**20  # max_receive_message_length; 0 for none
    streams: int = 2**31 - 1  # max_concurrent_streams, of one connection
    connections: int = 2**31 - 1  # max_allowed_incoming_connections
    metadata_bytes: int = 16_384  # absolute_max_metadata_size
    keepalive_s: float = 7200.0
    keepalive_timeout_s: float = 20.0
    handshake_s: float = 120.0
    ping_s: float = 300.0  # min_ping_interval_without_data: pings that come sooner, and get nothing else, are strikes


def limits_of(options: Sequence[tuple[str, Any]]) -> Limits:
    """The limits that options of gRPC's tell."""
    told = dict(options)
    message = told.get("grpc.max_receive_message_length", Limits.message_bytes)
    defaults = Limits()
    return Limits(
        max(0, message),
        told.get("grpc.max_concurrent_streams", defaults.streams),
        told.get("grpc.max_allowed_incoming_connections", defaults.connections),
        told.get("grpc.absolute_max_metadata_size", defaults.metadata_bytes),
        told.get("grpc.keepalive_time_ms", 7_200_000) / 1e3,
        told.get("grpc.keepalive_timeout_ms", 20_000) / 1e3,
        told.get("grpc.server_handshake_timeout_ms", 120_000) / 1e3,
        told.get("grpc.http2.min_ping_interval_without_data_ms", 300_000) / 1e3,
    )


class _CallDetails(NamedTuple):
    method: str
    invocation_metadata: Any


class Server(grpc.aio.Server):
    """See the module's text."""

    def __init__(
        self,
        *,
        options: Sequence[tuple[str, Any]] = (),
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        secured: ssl.SSLContext | None = None,
    ) -> None:
        """`options` are gRPC's; those that have no meaning here are ignored. With `secured` all ports have TLS."""
        self._secured = secured
        self.limits = limits_of(options)
        self._interceptors = list(interceptors)
        self._generic: list[grpc.GenericRpcHandler] = []
        self._handlers: dict[str, Method | None] = {}
        self._registered: dict[str, Any] = {}
        self._sockets: list[socket.socket] = []
        self._paths: list[Path] = []
        self._listening: list[asyncio.Server] = []
        self.connections: set[ServerConnection] = set()
        self.stopping = False
        self._stopped = asyncio.Event()

    # ---- what is served

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        """See grpc.aio.Server."""
        self._generic += generic_rpc_handlers
        self._handlers.clear()

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """See grpc.aio.Server."""
        self._registered |= {f"/{service_name}/{name}": handler for name, handler in method_handlers.items()}
        self._handlers.clear()

    def method(self, path: str) -> Method | None:
        """The method of a path, as far as no interceptor is asked; None if there is none."""
        if path not in self._handlers:
            if len(self._handlers) > 10_000:  # paths are the clients' to invent
                self._handlers.clear()
            found = self._handler(_CallDetails(path, ()))
            self._handlers[path] = Method(found) if found else None
        return self._handlers[path]

    @property
    def asks(self) -> bool:
        """Whether there are interceptors, and `intercepted` must be awaited for each call."""
        return bool(self._interceptors)

    async def intercepted(self, path: str, metadata: Any) -> Method | None:
        """The method of a call that has passed the interceptors."""
        details = _CallDetails(path, metadata)

        async def ask(i: int, details: Any) -> Any:
            if i == len(self._interceptors):
                return self._handler(details)

            async def more(details: Any) -> Any:
                return await ask(i + 1, details)

            return await self._interceptors[i].intercept_service(more, details)

        handler = await ask(0, details)
        return Method(handler) if handler else None

    def _handler(self, details: Any) -> Any:
        if found := self._registered.get(details.method):
            return found
        return next((found for generic in self._generic if (found := generic.service(details))), None)

    # ---- where

    def add_insecure_port(self, address: str) -> int:
        """See `bind`. Raises TypeError where there is TLS."""
        if self._secured:
            raise TypeError("this server has TLS: use bind")
        return self.bind(address)

    def bind(self, address: str) -> int:
        """Listens at "host:port" or "unix:path"; the port. Raises RuntimeError if the address cannot be had."""
        try:
            return self._bind(address)
        except (OSError, ValueError) as error:
            raise RuntimeError(f"cannot listen at {address!r}: {error}") from error

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """Raises NotImplementedError: gRPC's credentials cannot be looked into."""
        raise NotImplementedError("give the server an SSLContext")

    def _bind(self, address: str) -> int:
        if address.startswith("unix:"):
            path = Path(address.removeprefix("unix:").removeprefix("//"))
            _remove_dead(path)
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listening.bind(str(path))
            self._listen(listening)
            self._paths.append(path)
            return 1  # as gRPC says
        host, _, port_text = address.rpartition(":")
        port = int(port_text)
        for family, where in _places(host.strip("[]")):
            try:
                listening = socket.socket(family, socket.SOCK_STREAM)
            except OSError:  # a host may lack IPv6
                continue
            try:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if where == "::" else 1)
                listening.bind((where, port))
                self._listen(listening)
            except OSError as error:
                listening.close()
                if error.errno == errno.EADDRNOTAVAIL and self._sockets:
                    continue  # "localhost" of a host without ::1
                raise
            port = listening.getsockname()[1]
        if not self._sockets:
            raise OSError("no address family for it")
        return port

    def _listen(self, listening: socket.socket) -> None:
        listening.listen(BACKLOG)
        listening.setblocking(False)
        self._sockets.append(listening)

    async def start(self) -> None:
        """Takes connections."""
        loop = asyncio.get_running_loop()
        secured: dict[str, Any] = {}
        if self._secured:
            secured = {"ssl": self._secured, "ssl_handshake_timeout": self.limits.handshake_s}
        for listening in self._sockets:
            make: Any = loop.create_unix_server if listening.family == socket.AF_UNIX else loop.create_server
            self._listening.append(
                await make(lambda: ServerConnection(self), sock=listening, backlog=BACKLOG, **secured)
            )

    async def stop(self, grace: float | None = None) -> None:
        """Takes no more calls; cancels, after `grace` seconds, those that have not ended."""
        self.stopping = True
        for listening in self._listening:
            listening.close()
        for path in self._paths:
            path.unlink(missing_ok=True)
        for connection in self.connections:
            connection.retire()
        loop = asyncio.get_running_loop()
        until_s = loop.time() + (grace or 0.0)
        while any(connection.busy for connection in self.connections) and loop.time() < until_s:
            await asyncio.sleep(DRAIN_S)
        calls = [call for connection in self.connections for call in connection.calls]
        for call in calls:
            call.stop()
        await asyncio.gather(*(call.task for call in calls if call.task), return_exceptions=True)
        for connection in list(self.connections):
            connection.close()
        await asyncio.sleep(0)
        self._stopped.set()

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 (as in grpc.aio)
        """See grpc.aio.Server."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), timeout)
        return self._stopped.is_set()


class ServerConnection(Connection):
    """A client's connection."""

    expects = frames.PREFACE

    def __init__(self, server: Server) -> None:
        limits = server.limits
        super().__init__(keepalive_s=limits.keepalive_s, keepalive_timeout_s=limits.keepalive_timeout_s)
        self.server = server
        self.calls: set[Call] = set()  # whose handlers run
        self.peer = "unknown"
        self.auth_context: dict[str, list[bytes]] = {}
        self._retired = False  # and the client knows
        self._client_pinged_s = -1e9

    def begun(self) -> None:
        """See Connection."""
        server, limits = self.server, self.server.limits
        if len(server.connections) >= limits.connections or server.stopping:
            self.abort("too many connections")
            return
        server.connections.add(self)
        self.peer = _peer(self._transport)
        self.auth_context = tls.auth_context(self._transport)
        offered = {frames.MAX_HEADER_LIST_SIZE: limits.metadata_bytes}
        if limits.streams < 2**31 - 1:
            offered[frames.MAX_CONCURRENT_STREAMS] = limits.streams
        self.greet(offered)
        asyncio.get_running_loop().call_later(limits.handshake_s, self._greeted_in_time)

    def _greeted_in_time(self) -> None:
        if not self.settled and not self.closed:
            self.abort("no greeting in time")

    def pinged(self) -> None:
        """See Connection."""
        now_s, before_s = time.monotonic(), self._client_pinged_s
        self._client_pinged_s = now_s
        if now_s - before_s < self.server.limits.ping_s:
            self.strikes += 1
            if self.strikes > STRIKES:
                raise frames.ProtocolError("too_many_pings", frames.ENHANCE_YOUR_CALM)

    def over(self) -> None:
        """See Connection."""
        self.server.connections.discard(self)

    @property
    def busy(self) -> bool:
        """Whether there are calls, or may be some on their way."""
        return not self.closed and (bool(self.streams) or not self._retired)

    def parse(self, fields: Fields) -> Head:
        """See Connection."""
        return head_of(fields, self.server.limits.metadata_bytes)

    def opened(self, stream_id: int, fields: Any, *, ends: bool) -> None:
        """See Connection."""
        if not stream_id % 2:
            raise frames.ProtocolError("a stream with an even number")
        if stream_id <= self.last_stream_id:
            return  # it ended here before the peer knew
        # What was cancelled occupies a place until its handler has ended, or a client could have any number at work.
        if self._retired or len(self.calls) >= self.server.limits.streams:
            self._answer(frames.reset(stream_id, frames.REFUSED_STREAM))
            self.last_stream_id = stream_id
            return
        self.last_stream_id = stream_id
        call = Call(self, stream_id, fields, self.server.limits.message_bytes)
        self.streams[stream_id] = call
        call.peer_ended = ends
        call.begin()
        if ends:
            call.end_received()

    def retire(self) -> None:
        """Tells the client to open no more calls; those that it opened before it knew are still taken."""
        if not self.closed:
            self.write(frames.goaway(2**31 - 1, frames.NO_ERROR, STOPS) + frames.frame(frames.PING, 0, 0, RETIRING))

    def answered(self, ping: bytes) -> None:
        """See Connection."""
        if ping == RETIRING and not self._retired:
            self._retired = True
            self.write(frames.goaway(self.last_stream_id, frames.NO_ERROR, STOPS))


def _places(host: str) -> list[tuple[socket.AddressFamily, str]]:
    """Where to bind for a host."""
    if host in {"", "*", "::"} and socket.has_ipv6:
        return [(socket.AF_INET6, "::")]  # which takes IPv4 as well
    if host in {"", "*"}:
        return [(socket.AF_INET, "0.0.0.0")]
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        unique = dict.fromkeys((family, str(where[0])) for family, _, _, _, where in found)
        return sorted(unique)  # IPv4 first
    return [(socket.AF_INET if version == 4 else socket.AF_INET6, host)]


def _remove_dead(path: Path) -> None:
    """Removes a socket whose owner is dead. Raises OSError for one that somebody serves."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise OSError(errno.EADDRINUSE, "somebody listens there")


def _peer(transport: asyncio.BaseTransport) -> str:
    """A client's address, as gRPC writes it."""
    name = transport.get_extra_info("peername")
    if not isinstance(name, tuple):
        return "unix:"
    host = str(name[0]).removeprefix("::ffff:")
    return f"ipv6:[{host}]:{name[1]}" if ":" in host else f"ipv4:{host}:{name[1]}"
