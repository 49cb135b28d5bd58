"""REST with TLS: the same certificates, the same rules and the same replaced files as gRPC."""

import asyncio
import contextlib
import http.client
import json
import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cotenant.cli.certificates import make
from cotenant.frontend.catalogue import Catalogue
from cotenant.frontend.rest.caller import Access
from cotenant.frontend.rest.server import RestServer
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.access import digest
from cotenant.runtime.transport import Transport, TransportSettings
from secured import issue, server_settings

TOKEN = "tok-51d0"


class Methods:
    """Answers with who called."""

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.ServerMetadataResponse(name=str(sorted(context.auth_context().items())))

    async def LogSettings(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.LogSettingsResponse()


@contextlib.asynccontextmanager
async def serving(transport: Transport) -> AsyncIterator[int]:
    server = RestServer(Catalogue(), Access(transport.guard, None), Methods(), max_body_bytes=1000, max_connections=2)
    await server.bind("127.0.0.1:0", transport)
    try:
        yield server.port
    finally:
        await server.close()


def context(ca: Path, me: Path | None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(ca))
    if me:
        made.load_cert_chain(f"{me}.pem", f"{me}.key")
    return made


def asked(port: int, tls: ssl.SSLContext, path: str = "/v2", **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPSConnection("localhost", port, timeout=10, context=tls)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(tmp_path / "certs", names=["camera"])
    issue(tmp_path / "certs", "server", server=True)
    (tmp_path / "access.toml").write_text(f'admin = ["name:admin", "sha256:{digest(TOKEN)}"]\n')
    return tmp_path


def running(folder: Path, test: Callable[[int, Path], Awaitable[None]]) -> None:
    """Runs a test against a server that asks for certificates."""

    async def main() -> None:
        certs = folder / "certs"
        transport = Transport(server_settings(certs / "server", access=str(folder / "access.toml")))
        async with serving(transport) as port:
            await test(port, certs)

    asyncio.run(main())


def test_certificates_and_tokens_count_as_over_grpc(folder: Path) -> None:
    async def test(port: int, certs: Path) -> None:
        ca = certs / "ca.pem"
        with pytest.raises(OSError, match=r"certificate|reset|EOF|closed"):
            await asyncio.to_thread(asked, port, context(ca, None))
        camera, admin = context(ca, certs / "camera"), context(ca, certs / "admin")
        status, told = await asyncio.to_thread(asked, port, camera)
        assert status == 200
        assert "('x509_common_name', [b'camera'])" in told["name"]
        status, told = await asyncio.to_thread(asked, port, camera, "/v2/logging")
        assert status == 403
        assert told["error"].startswith("LogSettings needs the role 'admin', which certificate 'camera' does not have")
        assert (await asyncio.to_thread(asked, port, admin, "/v2/logging"))[0] == 200
        for token, wanted in ((TOKEN, 200), ("another", 401)):
            status, _ = await asyncio.to_thread(asked, port, camera, "/v2/logging", authorization=f"Bearer {token}")
            assert status == wanted

    running(folder, test)


def test_replaced_certificates_count_from_the_next_connection_on(folder: Path) -> None:
    """The server's own, and the authority of its clients."""
    make(folder / "next", names=["camera"])
    issue(folder / "next", "server", server=True)

    async def test(port: int, certs: Path) -> None:
        old = context(certs / "ca.pem", certs / "camera")
        assert (await asyncio.to_thread(asked, port, old))[0] == 200
        new = context(folder / "next" / "ca.pem", folder / "next" / "camera")
        with pytest.raises(ssl.SSLError):
            await asyncio.to_thread(asked, port, new)
        for name in ("ca.pem", "server.pem", "server.key"):
            shutil.copy(folder / "next" / name, certs / name)
        assert (await asyncio.to_thread(asked, port, new))[0] == 200
        with pytest.raises(OSError, match=r"certificate|reset|EOF|closed"):
            await asyncio.to_thread(asked, port, old)

    running(folder, test)


def test_too_many_connections_are_closed() -> None:
    async def test() -> None:
        transport = Transport(TransportSettings())
        async with serving(transport) as port:
            links = [http.client.HTTPConnection("127.0.0.1", port, timeout=10) for _ in range(3)]

            def ask(link: http.client.HTTPConnection) -> int:
                link.request("GET", "/v2")
                answer = link.getresponse()
                answer.read()
                return answer.status

            for link in links[:2]:
                assert await asyncio.to_thread(ask, link) == 200
            with pytest.raises((OSError, http.client.RemoteDisconnected)):
                await asyncio.to_thread(ask, links[2])
            assert await asyncio.to_thread(ask, links[0]) == 200
            for link in links:
                link.close()

    asyncio.run(test())
