"""Services of one process that call each other without sockets: a server, channels and contexts in gRPC's place.

Everything else of the services is the real thing, started by their own `serve`: messages are serialised and parsed at
each call, streams are streams, and what a handler raises is noted as gRPC would hide it (UNKNOWN). So a fuzzer reaches
every handler a thousand times a second, and sees what broke.
"""

import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from cotenant.runtime import server

CLIENTS = ("cotenant.frontend.links", "cotenant.executor.links", "cotenant.scheduler.predictions")


class AbortedError(Exception):
    """A handler ended its call with a status."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code, self.details = code, details


class Context:
    """What handlers ask of a call."""

    def __init__(self, timeout_s: float | None = None, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        self._timeout_s, self._metadata = timeout_s, metadata

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        del trailing_metadata
        raise AbortedError(code, details)

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def time_remaining(self) -> float | None:
        return self._timeout_s

    def auth_context(self) -> dict[str, Any]:
        return {}

    def peer(self) -> str:
        return "loopback"


def _as_it_is(message: Any) -> Any:
    return message


class Network:
    """Servers by address, and what was raised where nothing should be."""

    def __init__(self, altered: Callable[[Any], Any] = _as_it_is) -> None:
        """`altered` is what becomes of a message of our own services on its way."""
        self.altered = altered
        self.servers: dict[str, LocalServer] = {}
        self.raised: list[str] = []

    def handler(self, address: str, method: str) -> Any:
        """The handler of a method. Raises AioRpcError where nobody listens."""
        found = self.servers.get(address)
        if found is None or method not in found.handlers:
            raise failure(grpc.StatusCode.UNAVAILABLE, f"nobody listens at {address}")
        return found.handlers[method]

    def explain(self, method: str, error: Exception) -> grpc.aio.AioRpcError:
        """What a caller sees of an error."""
        if isinstance(error, grpc.aio.AioRpcError):
            return error
        if isinstance(error, AbortedError):
            return failure(error.code, error.details)
        if isinstance(error, DecodeError):
            return failure(grpc.StatusCode.INTERNAL, "Exception deserializing request!")
        self.raised.append(f"{method}: {type(error).__name__}: {error}")
        return failure(grpc.StatusCode.UNKNOWN, str(error))

    @contextmanager
    def in_place_of_grpc(self) -> Iterator[None]:
        """Has services that are started now find each other here."""
        modules = [importlib.import_module(name) for name in CLIENTS]
        before = server.Server, [module.open_channel for module in modules]
        server.Server = lambda **_: LocalServer(self)  # type: ignore[assignment,misc]
        for module in modules:
            module.open_channel = lambda address, secured=None: Channel(self, address)  # noqa: ARG005
        try:
            yield
        finally:
            server.Server = before[0]  # type: ignore[misc]
            for module, opened in zip(modules, before[1], strict=True):
                module.open_channel = opened


def failure(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


class _Collector:
    """Takes the handlers that services register."""

    def __init__(self, handlers: dict[str, Any]) -> None:
        self._handlers = handlers

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self._handlers.update({f"/{service}/{name}": handler for name, handler in handlers.items()})

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        for generic in handlers:
            self._handlers.update(generic._method_handlers)  # noqa: SLF001 (gRPC tells them in no other way)


class _Health:
    names: tuple[str, ...] = ()

    async def set(self, *, serving: bool) -> None:
        self.serving = serving


class LocalServer:
    """In the place of `server.Server`."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.handlers: dict[str, Any] = {}
        self.grpc = _Collector(self.handlers)
        self.health = _Health()
        self._stop = asyncio.Event()
        self._address = ""

    def bind(self, address: str) -> int:
        self._address = address
        self._network.servers[address] = self
        return 1

    async def run(self, *, drain: Callable[[], Awaitable[None]], grace_s: float, ready: bool = True) -> None:
        """Serves until `stop`, then drains as a real one does."""
        await self.health.set(serving=ready)
        await self._stop.wait()
        with suppress(TimeoutError):
            await asyncio.wait_for(drain(), grace_s)
        self._network.servers.pop(self._address, None)

    def stop(self) -> None:
        self._stop.set()


class Channel:
    """In the place of `grpc.aio.Channel`."""

    def __init__(self, network: Network, address: str) -> None:
        self._network, self._address = network, address

    async def __aenter__(self) -> "Channel":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def close(self, grace: float | None = None) -> None:
        del grace

    def _method(self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any) -> Any:
        def call(request: Any, timeout: float | None = None, metadata: Any = ()) -> "Call":
            context = Context(timeout, tuple(metadata or ()))
            return Call(self._network, self._address, path, request, request_serializer, response_deserializer, context)

        return call

    unary_unary = unary_stream = stream_stream = _method


class Call:
    """A call that is under way: to be awaited, or iterated."""

    def __init__(
        self, network: Network, address: str, path: str, request: Any, write: Any, read: Any, context: Context
    ) -> None:
        self._network, self._address, self._path = network, address, path
        self._request, self._write, self._read, self._context = request, write, read, context
        self._responses: AsyncIterator[Any] | None = None

    def __await__(self) -> Any:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        try:
            handler = self._network.handler(self._address, self._path)
            request = handler.request_deserializer(self._write(self._network.altered(self._request)))
            answer = await handler.unary_unary(request, self._context)
            return self._read(handler.response_serializer(self._network.altered(answer)))
        except Exception as error:
            raise self._network.explain(self._path, error) from None

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            handler = self._network.handler(self._address, self._path)
            if handler.request_streaming:
                request = self._frames(handler)
                self._responses = handler.stream_stream(request, self._context)
            else:
                request = handler.request_deserializer(self._write(self._network.altered(self._request)))
                self._responses = handler.unary_stream(request, self._context)
            async for response in self._responses:
                yield self._read(handler.response_serializer(self._network.altered(response)))
        except Exception as error:
            raise self._network.explain(self._path, error) from None

    async def _frames(self, handler: Any) -> AsyncIterator[Any]:
        async for message in self._request:
            yield handler.request_deserializer(self._write(self._network.altered(message)))

    def cancel(self) -> None:
        """Ends the call at the server, too."""
        responses, self._responses = self._responses, None
        if responses is not None:
            asyncio.get_running_loop().create_task(_closed(responses))


async def _closed(responses: Any) -> None:
    with suppress(RuntimeError, AbortedError):  # it runs, and ends with its caller
        await responses.aclose()
