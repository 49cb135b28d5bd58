"""The HTTP server: takes requests, has the protocol's methods answer them, and writes what they say.

aiohttp reads and writes HTTP, nothing more: one handler takes every path, since the protocol's own table (`calls`) has
them all. Bodies are bounded, compressed ones as well; a client that goes away cancels its request.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

import grpc
import msgspec
import structlog
from aiohttp import web

from cotenant.frontend.catalogue import Catalogue
from cotenant.frontend.errors import RequestError, unsupported
from cotenant.frontend.rest import calls, encoding, requests, responses, values
from cotenant.frontend.rest.caller import Access, Caller
from cotenant.frontend.service import as_request_error
from cotenant.runtime.transport import Transport, local

_log = structlog.get_logger()

# Triton's status where it has the code; the others are those that gRPC's own gateways use.
STATUSES: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.ALREADY_EXISTS: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
KEEPALIVE_S = 75.0  # an idle connection; longer than the 60 s of proxies, which must not find it closed
BACKLOG = 1024


class RestServer:
    """See the module's text."""

    def __init__(
        self, catalogue: Catalogue, access: Access, *methods: object, max_body_bytes: int, max_connections: int
    ) -> None:
        """A method of the protocol is that of the first of `methods` that has it; 0 bytes are no limit."""
        self._catalogue, self._access, self._methods = catalogue, access, methods
        self._max_body, self._max_connections = max_body_bytes, max_connections
        application = web.Application(client_max_size=max_body_bytes)
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(
            application,
            handle_signals=False,
            handler_cancellation=True,
            auto_decompress=False,
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            shutdown_timeout=1.0,
        )
        self._listening: asyncio.Server | None = None
        self.port = 0

    # ---- its life

    async def bind(self, address: str, transport: Transport) -> None:
        """Takes requests at "host:port" or "unix:path". Raises RuntimeError where that cannot be had."""
        await self._runner.setup()
        loop, context = asyncio.get_running_loop(), transport.server_context("http/1.1")
        try:
            if address.startswith("unix:"):
                path = address.removeprefix("unix:")
                server = await loop.create_unix_server(self._protocol, path, ssl=context, backlog=BACKLOG)
            else:
                host, _, port = address.rpartition(":")
                server = await loop.create_server(
                    self._protocol, host.strip("[]"), int(port), ssl=context, backlog=BACKLOG
                )
                self.port = server.sockets[0].getsockname()[1]
        except (OSError, ValueError) as error:
            raise RuntimeError(f"cannot listen at {address!r} (--http-address): {error}") from error
        self._listening = server
        if context is None and not local(address):
            _log.warning("other hosts can reach this address, and it has no TLS (docs/security.md)", address=address)
        _log.info("listening", address=address, protocol="http" if context is None else "https")

    def _protocol(self) -> asyncio.Protocol:
        """Of a connection that was accepted; one too many is closed at once."""
        server = self._runner.server
        assert server is not None
        full = 0 < self._max_connections <= len(server.connections)
        return _Closing() if full else server()

    def drain(self) -> None:
        """Takes no new connections."""
        if self._listening is not None:
            self._listening.close()

    async def close(self) -> None:
        """Ends all connections."""
        self.drain()
        await self._runner.cleanup()

    # ---- one request

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answered(request)
        except Exception as error:  # ours included: a client gets an answer whatever is wrong here
            if isinstance(error, web.HTTPException):
                raise
            return _failed(as_request_error(error))

    async def _answered(self, request: web.Request) -> web.StreamResponse:
        path, caller = _decoded(request.rel_url.raw_path), Caller(request)
        if found := _INFER.fullmatch(path):
            if request.method != "POST":
                return _error(405, "Method Not Allowed")
            return await self._infer(request, caller, found["model"], found["version"] or "")
        route = calls.find(path)
        if route is None:
            return _error(404, "Not Found")
        return await self._call(request, caller, *route)

    async def _call(
        self, request: web.Request, caller: Caller, route: calls.Route, names: dict[str, str]
    ) -> web.StreamResponse:
        """Everything but inference."""
        method = route.verbs.get(request.method)
        if method is None:
            return _error(405, "Method Not Allowed")
        self._access.check(method, caller)
        body = await self._body(request) if request.method == "POST" else b""
        if isinstance(body, web.Response):
            return body
        told = values.parse(body) if body or (route.body and request.method == "POST") else None
        answer = await self._method(method)(route.request(names, told), caller)
        shown = route.answer(answer)
        if route.ready and not shown[route.ready]:
            return _error(400, _NOT_READY[route.ready, method])
        return _json(b"" if shown is None else msgspec.json.encode(shown))

    async def _infer(self, request: web.Request, caller: Caller, name: str, version: str) -> web.StreamResponse:
        self._access.check("ModelInfer", caller)
        model = self._catalogue.find(name, version)
        if model.decoupled:
            raise unsupported("HTTP end point doesn't support models with decoupled transaction policy")
        body = await self._body(request)
        if isinstance(body, web.Response):
            return body
        asked = requests.read(body, request.headers.get(requests.LENGTH_HEADER), model)
        asked.message.model_version = version
        answer = await self._method("ModelInfer")(asked.message, caller)
        content, json_bytes = responses.write(answer, asked)
        headers = {}
        if json_bytes is not None:
            headers = {requests.LENGTH_HEADER: str(json_bytes), "Content-Type": "application/octet-stream"}
        if chosen := encoding.wanted(request.headers.get("Accept-Encoding", "")):
            content = await encoding.packed(content, chosen)
            headers["Content-Encoding"] = chosen
        return _json(content, headers)

    async def _body(self, request: web.Request) -> bytes | web.Response:
        """The body, unpacked; or what its client is told instead."""
        form = request.headers.get("Content-Encoding", "identity")
        if form not in (*encoding.ENCODINGS, "identity", ""):
            return _error(501, "Unsupported compression type", {"Accept-Encoding": ", ".join(encoding.ENCODINGS)})
        try:
            body = await request.read()
            if form in encoding.ENCODINGS and body:
                return await encoding.unpacked(body, form, self._max_body or 2**40)
        except (web.HTTPRequestEntityTooLarge, encoding.TooLargeError):
            told = f"the body is larger than {self._max_body} bytes, the most that is taken (--max-message-mib)"
            return _error(413, told, {"Connection": "close"})
        return body

    def _method(self, name: str) -> Callable[[Any, Caller], Any]:
        found: Callable[[Any, Caller], Any] = next(getattr(one, name) for one in self._methods if hasattr(one, name))
        return found


class _Closing(asyncio.Protocol):
    """A connection that is not served."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


_INFER = calls.infer_path()
_NOT_READY = {
    ("live", "ServerLive"): "Server not live",
    ("ready", "ServerReady"): "Server not ready",
    ("ready", "ModelReady"): "Model version not ready",
}


def _decoded(path: str) -> str:
    """Names may be percent-encoded; a slash in one stays so, and is no name."""
    return "/".join(unquote(part) if "%2f" not in part.lower() else part for part in path.split("/"))


def _json(content: bytes, headers: Mapping[str, str] = {}) -> web.Response:
    return web.Response(body=content, headers={"Content-Type": "application/json", **headers})


def _error(status: int, message: str, headers: Mapping[str, str] = {}) -> web.Response:
    content = msgspec.json.encode({"error": message})
    return web.Response(status=status, body=content, headers={"Content-Type": "application/json", **headers})


def _failed(error: RequestError) -> web.Response:
    """An error; what is known of a refusal stands beside its text."""
    told: dict[str, Any] = {"error": error.message}
    headers = {"Content-Type": "application/json"}
    if error.refusal:
        told["cotenant"] = {"status": error.code.name, "reason": error.reason, **error.facts}
    if retry_ms := error.facts.get("retry_after_ms"):
        headers["Retry-After"] = str(max(1, round(float(retry_ms) / 1000)))
    status = STATUSES.get(error.code, 500)
    return web.Response(status=status, body=msgspec.json.encode(told), headers=headers)
