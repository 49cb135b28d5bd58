"""Runs a gRPC server until it is told to stop, and stops it well.

The first SIGTERM or SIGINT drains: health turns to NOT_SERVING, no new connection is taken, what was accepted is
finished within the grace. A second one ends now.
"""

import asyncio
import ctypes
import gc
import os
import resource
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import grpc
import structlog
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from cotenant.runtime import transport
from cotenant.runtime.transport import Transport, TransportSettings

# Both sides send large tensors, so both lift gRPC's limit of 4 MiB; streams live for days, so dead peers must be
# noticed: a ping every 10 s, given up after 5.
CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
]
SERVER_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 60_000),  # a client that vanished without a word is given up after 80 s
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.server_handshake_timeout_ms", 10_000),  # connections that only occupy a place
    ("grpc.max_metadata_size", 8_192),  # more may be refused, and above the next line always is
    ("grpc.absolute_max_metadata_size", 16_384),
    ("grpc.so_reuseport", 0),  # two servers on one port would share its connections unnoticed
]
POLL_S = 1.0  # between looks at files that may be replaced: certificates, rules, tokens

OPEN_FILES_KEPT = 256  # of this process, for all but connections
# A peer that does not know us, or allows us nothing: asking again at once is of no use, and somebody must be told.
DENIED = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
DENIED_S = 2.0  # wait so long before asking again

_log = structlog.get_logger()
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def limits(*, message_mib: int, streams: int, connections: int) -> list[tuple[str, int]]:
    """Options of a server whose clients are not ours; 0 connections: as many as this process may have files open.

    A larger message is answered RESOURCE_EXHAUSTED, which names both sizes. More streams on one connection wait at the
    client. More connections are closed at once, which their clients see as UNAVAILABLE.
    """
    return [
        ("grpc.max_receive_message_length", message_mib * 2**20 or -1),
        ("grpc.max_concurrent_streams", streams),
        ("grpc.max_allowed_incoming_connections", connection_limit(connections)),
    ]


def connection_limit(told: int) -> int:
    """Connections that a server may have at a time; for 0, as many as this process may have files open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return told or max(64, min(files, 2**20) - OPEN_FILES_KEPT)


class Health:
    """`grpc.health.v1` for one server: "" stands for the whole of it."""

    def __init__(self) -> None:
        self.servicer = HealthServicer()
        self.names = [""]

    async def set(self, *, serving: bool) -> None:
        """Tells all who ask or watch."""
        state = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in self.names:
            await self.servicer.set(name, state)


class Server:
    """A gRPC server with health, bound but not yet started."""

    def __init__(
        self,
        *,
        service_names: list[str],
        options: Sequence[tuple[str, int]] = (),
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        secured: Transport | None = None,
    ) -> None:
        """`options` are gRPC's and win over ours; `secured` is the process's own transport unless told otherwise."""
        self._transport = secured or transport.own()
        guards = [self._transport.guard] if self._transport.guard else []
        chosen = {**dict(SERVER_OPTIONS), **dict(options)}  # of two that are told, gRPC would take the first
        self.grpc = self._transport.server(list(chosen.items()), [*guards, *interceptors])
        self.health = Health()
        self.health.names += service_names
        health_pb2_grpc.add_HealthServicer_to_server(self.health.servicer, self.grpc)
        self.port = 0

    def bind(self, address: str) -> int:
        """Listens at `address` ("host:port" or "unix:path"); returns the port. Raises RuntimeError if it is taken."""
        self.port = self._transport.bind(self.grpc, address)
        if self.port == 0 and not address.startswith("unix:"):
            raise RuntimeError(f"cannot listen at {address!r}: the address is taken or not ours")
        return self.port

    async def run(self, *, drain: Callable[[], Awaitable[None]], grace_s: float, ready: bool = True) -> None:
        """Serves until the first signal, drains for at most `grace_s` seconds, and returns."""
        stop, now = asyncio.Event(), asyncio.Event()
        _on_signals(stop, now)
        await self.grpc.start()
        await self.health.set(serving=ready)
        _collect_rarely()
        watching = asyncio.create_task(_watch(self._transport))
        await stop.wait()
        watching.cancel()
        _log.info("draining", grace_s=grace_s)
        await self.health.set(serving=False)
        draining = asyncio.ensure_future(drain())
        hurry = asyncio.ensure_future(now.wait())
        await asyncio.wait({draining, hurry}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        for task in (draining, hurry):
            task.cancel()
        await self.grpc.stop(grace=None if now.is_set() else min(grace_s, 1.0))
        _log.info("stopped", hurried=now.is_set())


def _collect_rarely() -> None:
    """Has Python look for cycles a thirtieth as often as it would, and never among what was there at the start.

    Requests make few cycles and many objects; at Python's own thresholds the search took 7 % of the scheduler's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


async def _watch(watched: Transport) -> None:
    """Looks at files that may be replaced, so that what is wrong with them is told when it is done."""
    while watched.reloaded:
        await asyncio.sleep(POLL_S)
        for content in watched.reloaded:
            content.get()


def _on_signals(stop: asyncio.Event, now: asyncio.Event) -> None:
    def on_signal() -> None:
        (now if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)


def open_channel(address: str, secured: Transport | None = None) -> grpc.aio.Channel:
    """A channel to another service, with our limits and reconnect times, and the process's own transport by default."""
    return (secured or transport.own()).channel(address, CHANNEL_OPTIONS)


def run(main: Coroutine[Any, Any, None], settings: TransportSettings | None = None) -> None:
    """Runs a service's main coroutine on uvloop (20 to 30 % less CPU per message than asyncio's loop).

    `settings` become the process's transport; raises OSError or ValueError for what is wrong with them.
    """
    try:
        transport.configure(settings or TransportSettings())
    except BaseException:
        main.close()
        raise
    if os.environ.get("COTENANT_DIE_WITH_PARENT"):
        _die_with_parent()
    uvloop.run(main)


def _die_with_parent() -> None:
    """Has the system send this process SIGTERM when the one that started it dies (Linux)."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    except (OSError, AttributeError):
        _log.debug("this system cannot tell that a parent died")
