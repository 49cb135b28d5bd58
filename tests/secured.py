"""What tests of TLS and of rules share: certificates, and a server in this process that answers with who called."""

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc

from cotenant.cli import identity
from cotenant.cli.certificates import Authority, write
from cotenant.runtime.server import CHANNEL_OPTIONS, Server
from cotenant.runtime.transport import Transport, TransportSettings

ECHO = "/cotenant.v1.SchedulerService/GetStatus"  # a method that needs a role; here it echoes


def issue(folder: Path, name: str, *, server: bool = False, days: float = 1, issuer: Path | None = None) -> Path:
    """Writes NAME.pem and NAME.key, signed by the authority of `issuer` or of the folder; returns FOLDER/NAME."""
    folder.mkdir(parents=True, exist_ok=True)
    hosts = ["localhost", "127.0.0.1"] if server else []
    write(folder, name, *Authority.of(issuer or folder).issue(name, hosts, server=server, days=days))
    return folder / name


def server_settings(me: Path, **more: str) -> TransportSettings:
    """A server that is FOLDER/NAME and asks clients for certificates."""
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in identity.flags(me.parent, me.name))
    return TransportSettings(**{**{k.replace("-", "_"): v for k, v in flags.items()}, **more})


class Echo(grpc.GenericRpcHandler):
    """Answers `ECHO` with its request: once, or as often as a stream asks."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        async def once(request: bytes, context: Any) -> bytes:
            return request

        async def many(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            async for request in requests:
                yield request

        if handler_call_details.method == ECHO:
            return grpc.unary_unary_rpc_method_handler(once)
        if handler_call_details.method == ECHO + "s":
            return grpc.stream_stream_rpc_method_handler(many)
        return None


@contextlib.asynccontextmanager
async def serving(
    transport: Transport, address: str = "127.0.0.1:0", options: list[tuple[str, int]] | None = None
) -> AsyncIterator[str]:
    """An echoing server for a while; gives its address."""
    server = Server(service_names=[], secured=transport, options=options or [])
    server.grpc.add_generic_rpc_handlers((Echo(),))
    port = server.bind(address)
    await server.grpc.start()
    try:
        yield address if address.startswith("unix:") else f"localhost:{port}"
    finally:
        await server.grpc.stop(None)


async def echoed(transport: Transport, address: str, message: bytes = b"x", **more: Any) -> bytes:
    """One call on a channel of its own."""
    async with transport.channel(address, CHANNEL_OPTIONS) as channel:
        call: Callable[..., Any] = channel.unary_unary(ECHO)
        return bytes(await call(message, timeout=10, **more))
