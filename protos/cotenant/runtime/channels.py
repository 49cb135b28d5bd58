"""A channel that shows the certificates and the token of now: gRPC's own keep for life what they were made with.

Every call goes over a connection that was opened with the files as they are. When they change, the next call opens a
new one; calls on the old one end in peace, and it is closed after the last.
"""

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, NamedTuple

import grpc
import structlog

_log = structlog.get_logger()
Metadata = Sequence[tuple[str, str]]
LOOK_S = 0.25  # between looks at how calls end
REPEAT_S = 60.0  # the same reason is told so often


class Making(NamedTuple):
    """How a channel is made now; one that was made of something equal is as good as new."""

    of: object
    make: Callable[[], grpc.aio.Channel]


class _Underlying:
    """One of gRPC's channels, with the calls that are open on it."""

    def __init__(self, making: Making) -> None:
        self.made_of = making.of
        self.channel = making.make()
        self.closing: asyncio.Task[None] | None = None
        self._open_calls = 0
        self._retired = False

    def opened(self, call: Any) -> None:
        """Keeps the connection until this call is done."""
        self._open_calls += 1
        call.add_done_callback(self._ended)

    def _ended(self, _: object) -> None:
        self._open_calls -= 1
        self._close_if_idle()

    def retire(self) -> None:
        """No new call will come."""
        self._retired = True
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._retired and self._open_calls == 0 and self.closing is None:
            self.closing = asyncio.ensure_future(self.channel.close())


class RenewedChannel(grpc.aio.Channel):
    """See the module's text."""

    def __init__(
        self, address: str, making: Callable[[], Making], metadata: Callable[[], Metadata], explain: Callable[[], str]
    ) -> None:
        """`metadata` goes with each call. `explain` says why no connection can be had, or ""; it may block."""
        self._address, self._making, self._metadata, self._explain = address, making, metadata, explain
        self._current = _Underlying(making())
        self._older: list[_Underlying] = []
        self._looking: asyncio.Task[None] | None = None
        self._ended: Any = None  # the call that ended last

    def _now(self) -> _Underlying:
        """The channel for a call that begins now."""
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._look())
        making = self._making()
        if making.of != self._current.made_of:
            self._current.retire()
            self._older = [older for older in (*self._older, self._current) if older.closing is None]
            self._current = _Underlying(making)
        return self._current

    async def _look(self) -> None:
        """Says why calls that ended did not get through. gRPC often knows only that a socket was closed."""
        told, told_s = "", 0.0
        while True:
            await asyncio.sleep(LOOK_S)
            call, self._ended = self._ended, None
            if call is None or await call.code() != grpc.StatusCode.UNAVAILABLE:
                continue
            reason = await asyncio.to_thread(self._explain)
            if reason and (reason != told or monotonic() - told_s > REPEAT_S):
                told, told_s = reason, monotonic()
                _log.warning("no secure connection", address=self._address, reason=reason)

    def _note(self, call: Any) -> None:
        self._ended = call

    def _method(self, kind: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """A method that looks for its channel at every call."""
        made: dict[_Underlying, Any] = {}

        def start(*request: Any, metadata: Metadata | None = None, **more: Any) -> Any:
            underlying = self._now()
            if underlying not in made:
                made.clear()
                made[underlying] = getattr(underlying.channel, kind)(*arguments, **options)
            call = made[underlying](*request, metadata=(*(metadata or ()), *self._metadata()), **more)
            underlying.opened(call)
            call.add_done_callback(self._note)
            return call

        return start

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        """See grpc.aio.Channel."""
        return self._method("unary_unary", arguments, options)

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        """See grpc.aio.Channel."""
        return self._method("unary_stream", arguments, options)

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        """See grpc.aio.Channel."""
        return self._method("stream_unary", arguments, options)

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        """See grpc.aio.Channel."""
        return self._method("stream_stream", arguments, options)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """See grpc.aio.Channel."""
        return self._now().channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """See grpc.aio.Channel."""
        await self._now().channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """See grpc.aio.Channel."""
        await self._now().channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Ends all calls, after `grace` seconds where that is told."""
        if self._looking:
            self._looking.cancel()
        await asyncio.gather(*(one.channel.close(grace) for one in (*self._older, self._current)))

    async def __aenter__(self) -> "RenewedChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Adding(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """For blocking channels: adds metadata to every call."""

    def __init__(self, metadata: Callable[[], Metadata]) -> None:
        self._metadata = metadata

    def _begin(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details._replace(metadata=(*(details.metadata or ()), *self._metadata())), request)

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """See grpc."""
        return self._begin(continuation, client_call_details, request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """See grpc."""
        return self._begin(continuation, client_call_details, request)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """See grpc."""
        return self._begin(continuation, client_call_details, request_iterator)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """See grpc."""
        return self._begin(continuation, client_call_details, request_iterator)
