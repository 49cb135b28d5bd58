"""Transport security: who is let in, what files may be replaced by, and what is sent in clear."""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from cotenant.cli import identity
from cotenant.runtime import certificates, reloading, transport
from cotenant.runtime.access import digest
from cotenant.runtime.metrics import exposition
from cotenant.runtime.reloading import Reloaded
from cotenant.runtime.server import CHANNEL_OPTIONS, limits
from cotenant.runtime.transport import Transport, TransportSettings, local
from cotenant.runtime.transport_metrics import TransportMetrics
from secured import ECHO, echoed, issue, server_settings, serving

TOKEN = "a-token-that-nobody-guesses"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a server `scheduler`, and clients `viewer` and `stranger`."""
    folder = tmp_path_factory.mktemp("certificates")
    issue(folder, "scheduler", server=True)
    issue(folder, "viewer")
    issue(folder, "stranger")
    return folder


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """What is logged, whatever was configured before."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG))
    with capture_logs() as entries:
        yield entries


def client(me: Path) -> Transport:
    return Transport(identity.settings(me))


def refusal(server: TransportSettings, caller: TransportSettings, address: str = "127.0.0.1:0") -> grpc.aio.AioRpcError:
    """How a call ends that must not succeed."""

    async def attempt() -> grpc.aio.AioRpcError:
        async with serving(Transport(server), address) as listening:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await echoed(Transport(caller), listening)
            return caught.value

    return asyncio.run(attempt())


# ---- who is let in


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_both_sides_prove_who_they_are(folder: Path, tmp_path: Path, kind: str) -> None:
    async def ask() -> bytes:
        address = "127.0.0.1:0" if kind == "tcp" else f"unix:{tmp_path / 'server.sock'}"
        async with serving(Transport(server_settings(folder / "scheduler")), address) as listening:
            return await echoed(client(folder / "viewer"), listening, b"hello")

    assert asyncio.run(ask()) == b"hello"


def test_a_certificate_without_the_role_is_denied_by_name(folder: Path, logged: list[Any]) -> None:
    error = refusal(server_settings(folder / "scheduler"), identity.settings(folder / "stranger"))
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED
    wanted = "GetStatus needs the role 'frontend' or 'viewer', which certificate 'stranger' does not have"
    assert error.details() == wanted
    denied = next(entry for entry in logged if entry["event"] == "call denied")
    assert (denied["method"], denied["caller"], denied["code"]) == (ECHO, "certificate 'stranger'", "PERMISSION_DENIED")


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("nothing", "the server wants a certificate"),
        ("another authority's", "the server does not accept the certificate"),
        ("expired", "certificate has expired"),
        ("an unbelieved server", "self-signed certificate in certificate chain"),
        ("another server's name", "Hostname mismatch, certificate is not valid for 'elsewhere'"),
    ],
)
def test_who_cannot_prove_it_gets_no_connection_and_is_told_why(
    folder: Path, tmp_path: Path, case: str, reason: str, logged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = str(folder / "ca.pem")
    if case == "nothing":
        caller = TransportSettings(tls_ca=ca)
    elif case == "another server's name":
        caller = TransportSettings(tls_ca=ca, tls_server_name="elsewhere")
    else:
        other = issue(
            tmp_path, "viewer", days=-1 if case == "expired" else 1, issuer=folder if case == "expired" else None
        )
        believed = str(tmp_path / "ca.pem") if case == "an unbelieved server" else ca
        caller = TransportSettings(tls_certificate=f"{other}.pem", tls_key=f"{other}.key", tls_ca=believed)
    with monkeypatch.context() as patch:
        if case == "expired":  # it would not even be used, so it has to expire after it was read
            patch.setattr(certificates, "_facts", lambda *_: (("viewer",), 0.0))
        asking = Transport(caller)

    async def attempt() -> None:
        server = Transport(server_settings(folder / "scheduler"))
        async with serving(server) as address, asking.channel(address, CHANNEL_OPTIONS) as channel:
            call: Any = channel.unary_unary(ECHO)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"x", timeout=10)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            for _ in range(100):
                if any(entry["event"] == "no secure connection" for entry in logged):
                    break
                await asyncio.sleep(0.05)

    asyncio.run(attempt())
    (told,) = [entry["reason"] for entry in logged if entry["event"] == "no secure connection"]
    assert reason in told


def test_clear_text_does_not_get_through(folder: Path) -> None:
    error = refusal(server_settings(folder / "scheduler"), TransportSettings())
    assert error.code() == grpc.StatusCode.UNAVAILABLE


# ---- tokens


def rules(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def token_file(path: Path, token: str = TOKEN) -> str:
    path.write_text(token + "\n", encoding="utf-8")
    return str(path)


def test_a_token_gives_its_role_and_no_other(tmp_path: Path) -> None:
    server = TransportSettings(access=rules(tmp_path / "access", f'viewer = ["sha256:{digest(TOKEN)}"]'))
    caller = TransportSettings(token_file=token_file(tmp_path / "token"))

    async def ask() -> bytes:
        async with serving(Transport(server)) as address:
            return await echoed(Transport(caller), address)

    assert asyncio.run(ask()) == b"x"
    other = TransportSettings(access=rules(tmp_path / "other", f'executor = ["sha256:{digest(TOKEN)}"]'))
    error = refusal(other, caller)
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED
    assert TOKEN not in (error.details() or "")


def test_nobody_and_a_wrong_token_are_told_apart(tmp_path: Path) -> None:
    server = TransportSettings(access=rules(tmp_path / "access", f'viewer = ["sha256:{digest(TOKEN)}"]'))
    error = refusal(server, TransportSettings())
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    assert "show a client certificate or a bearer token" in (error.details() or "")
    error = refusal(server, TransportSettings(token_file=token_file(tmp_path / "token", "guessed")))
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    assert error.details() == "GetStatus: the bearer token is not known"


def test_a_token_never_travels_in_clear_to_another_host(tmp_path: Path) -> None:
    transport = Transport(TransportSettings(token_file=token_file(tmp_path / "token")))
    with pytest.raises(ValueError, match="in clear to scheduler:8003") as caught:
        transport.channel("scheduler:8003", [])
    assert TOKEN not in str(caught.value)
    with pytest.raises(ValueError, match="in clear"):
        transport.blocking_channel("10.0.0.1:8003", [])


def test_a_service_that_would_show_its_token_to_all_does_not_start(tmp_path: Path) -> None:
    flags = [f"--token-file={token_file(tmp_path / 'token')}", "--scheduler=elsewhere:8003", "--metrics="]
    line = [sys.executable, "-m", "cotenant.frontend", f"--listen=unix:{tmp_path / 'x.sock'}", *flags]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    expected = "cotenant.frontend: the token would travel in clear to elsewhere:8003: set tls-ca, and use TLS there"
    assert done.stderr.strip().splitlines()[-1] == expected


def test_blocking_channels_are_secured_as_well(folder: Path, tmp_path: Path) -> None:
    access = rules(tmp_path / "access", f'viewer = ["sha256:{digest(TOKEN)}"]')
    server = server_settings(folder / "scheduler", access=access)
    caller = identity.settings(folder / "stranger", token_file(tmp_path / "token"))

    def ask(address: str) -> list[bytes]:
        with Transport(caller).blocking_channel(address, CHANNEL_OPTIONS) as channel:
            once: Any = channel.unary_unary(ECHO)
            return [once(b"a", timeout=10)]

    async def main() -> list[bytes]:
        async with serving(Transport(server)) as address:
            return await asyncio.to_thread(ask, address)

    assert asyncio.run(main()) == [b"a"]


def test_where_clients_need_no_certificate_nobody_is_anybody_but_by_a_token(folder: Path, tmp_path: Path) -> None:
    files = {"tls_certificate": f"{folder / 'scheduler'}.pem", "tls_key": f"{folder / 'scheduler'}.key"}
    access = rules(tmp_path / "access", f'viewer = ["sha256:{digest(TOKEN)}"]')
    ca = str(folder / "ca.pem")
    error = refusal(TransportSettings(**files), TransportSettings(tls_ca=ca))
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED

    async def ask() -> bytes:
        caller = Transport(TransportSettings(tls_ca=ca, token_file=token_file(tmp_path / "token")))
        async with serving(Transport(TransportSettings(**files, access=access))) as address:
            return await echoed(caller, address)

    assert asyncio.run(ask()) == b"x"


# ---- files that are replaced


def test_certificates_are_replaced_under_load_and_nothing_is_lost(tmp_path: Path) -> None:
    """Afterwards only what the new authority has signed is believed, on both sides; what is open goes on."""
    issue(tmp_path, "scheduler", server=True)
    issue(tmp_path, "admin")

    async def main() -> None:
        server, caller = Transport(server_settings(tmp_path / "scheduler")), client(tmp_path / "admin")
        async with serving(server) as address, caller.channel(address, CHANNEL_OPTIONS) as channel:
            once: Any = channel.unary_unary(ECHO)
            stream: Any = channel.stream_stream(ECHO + "s")()
            await stream.write(b"before")
            assert await stream.read() == b"before"
            done, stop = 0, asyncio.Event()

            async def load() -> None:
                nonlocal done
                while not stop.is_set():
                    assert await once(b"x", timeout=10) == b"x"
                    done += 1

            loads = [asyncio.create_task(load()) for _ in range(8)]
            old = client(tmp_path / "admin")
            assert await echoed(old, address) == b"x"
            for name in ("ca.pem", "ca.key"):
                (tmp_path / name).unlink()
            issue(tmp_path, "admin")  # makes another authority
            issue(tmp_path, "scheduler", server=True)
            before = done
            while done < before + 200:
                await asyncio.sleep(0.01)
                assert not any(task.done() for task in loads), "a call was lost"
            assert await echoed(client(tmp_path / "admin"), address) == b"x"
            await stream.write(b"after")
            assert await stream.read() == b"after"
            stop.set()
            await asyncio.gather(*loads)
        assert server.certificates is not None
        assert caller.certificates is not None
        assert (server.certificates.taken, caller.certificates.taken) == (1, 1)

    asyncio.run(main())


def test_a_channel_that_reconnects_shows_the_files_of_now(tmp_path: Path) -> None:
    issue(tmp_path, "scheduler", server=True)
    issue(tmp_path, "admin")
    address = f"unix:{tmp_path / 'server.sock'}"

    async def main() -> bytes:
        async with client(tmp_path / "admin").channel(address, CHANNEL_OPTIONS) as channel:
            once: Any = channel.unary_unary(ECHO)
            async with serving(Transport(server_settings(tmp_path / "scheduler")), address):
                await once(b"x", timeout=10)
            for name in ("ca.pem", "ca.key"):
                (tmp_path / name).unlink()
            issue(tmp_path, "admin")  # makes another authority
            issue(tmp_path, "scheduler", server=True)
            async with serving(Transport(server_settings(tmp_path / "scheduler")), address):
                return bytes(await once(b"again", timeout=10, wait_for_ready=True))

    assert asyncio.run(main()) == b"again"


def test_what_cannot_be_used_does_not_take_the_place_of_what_can(
    tmp_path: Path, logged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    me = issue(tmp_path, "scheduler", server=True)
    monkeypatch.setattr(reloading, "SETTLE_S", 0.05)
    transport = Transport(server_settings(me))
    assert transport.certificates is not None
    good = transport.certificates.get()
    for content in (b"", b"not a certificate", (tmp_path / "ca.pem").read_bytes()):  # the last: of another key
        fresh = tmp_path / "fresh"
        fresh.write_bytes(content)
        fresh.replace(f"{me}.pem")
        assert transport.certificates.get() is good
        time.sleep(0.1)
        assert transport.certificates.get() is good
    assert transport.certificates.kept == 3
    told = [entry for entry in logged if entry["event"].startswith("not reloaded")]
    assert len(told) == 3
    assert f"{me}.pem" in told[0]["error"]
    issue(tmp_path, "scheduler", server=True)
    assert transport.certificates.get() is not good


def test_an_expired_certificate_is_not_taken(tmp_path: Path) -> None:
    me = issue(tmp_path, "scheduler", server=True, days=-1)
    with pytest.raises(ValueError, match=r"scheduler\.pem with the key .*: certificate verify failed: .* has expired"):
        Transport(server_settings(me))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_no_session_outlives_its_connection(folder: Path, version: ssl.TLSVersion) -> None:
    """Who resumed one would be believed without a certificate, by authorities that may have been replaced."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(folder / "viewer.pem", folder / "viewer.key")

    def connect(port: int, session: ssl.SSLSession | None) -> ssl.SSLSession | None:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname="localhost", session=session) as connection,
        ):
            if not connection.recv(9):  # the server's settings: the handshake is over on both sides
                raise ConnectionError("turned away")
            assert not connection.session_reused
            return connection.session

    async def main() -> None:
        async with serving(Transport(server_settings(folder / "scheduler"))) as address:
            port = int(address.rpartition(":")[2])
            session = await asyncio.to_thread(connect, port, None)
            if session is None or not session.id:
                return  # there is nothing to go on with
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                await asyncio.to_thread(connect, port, session)

    asyncio.run(main())


def test_rules_and_tokens_are_replaced_too(tmp_path: Path) -> None:
    access, token = tmp_path / "access", tmp_path / "token"
    server = Transport(TransportSettings(access=rules(access, 'viewer = ["name:nobody"]')))
    caller = Transport(TransportSettings(token_file=token_file(token)))

    async def main() -> bytes:
        async with serving(server) as address, caller.channel(address, CHANNEL_OPTIONS) as channel:
            once: Any = channel.unary_unary(ECHO)
            with pytest.raises(grpc.aio.AioRpcError, match="not known"):
                await once(b"x", timeout=10)
            token_file(token, "another")
            rules(access, f'viewer = ["sha256:{digest("another")}"]')
            return bytes(await once(b"x", timeout=10))

    assert asyncio.run(main()) == b"x"


def test_a_file_that_is_written_in_two_steps_is_no_mistake(tmp_path: Path, logged: list[Any]) -> None:
    path = tmp_path / "number"
    path.write_text("1")
    number = Reloaded("number", [path], lambda: int(path.read_text()))
    path.write_text("")
    os.utime(path, ns=(1, 1))
    assert number.get() == 1
    path.write_text("23")
    assert number.get() == 23
    assert (number.taken, number.kept) == (1, 0)
    assert not [entry for entry in logged if entry["log_level"] == "error"]


# ---- settings and limits


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"tls_certificate": "a.pem"}, "tls-key"),
        ({"tls_client_ca": "a.pem"}, "give tls-certificate as well"),
    ],
)
def test_settings_that_secure_nothing_are_refused(settings: dict[str, str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Transport(TransportSettings(**settings))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("unix:/run/x.sock", True),
        ("localhost:1", True),
        ("127.1.2.3:1", True),
        ("[::1]:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("localhost.example.com:1", False),
    ],
)
def test_what_other_hosts_cannot_reach(address: str, expected: bool) -> None:
    assert local(address) is expected


@pytest.mark.parametrize(("address", "warnings"), [("0.0.0.0:0", 1), ("127.0.0.1:0", 0)])
def test_clear_text_for_others_is_warned_of_once(address: str, warnings: int, logged: list[Any]) -> None:
    async def main() -> None:
        async with serving(Transport(TransportSettings()), address):
            pass

    asyncio.run(main())
    found = [entry for entry in logged if entry["log_level"] == "warning"]
    assert len(found) == warnings


def test_what_exceeds_a_limit_is_refused_with_the_limit(tmp_path: Path) -> None:
    options = limits(message_mib=1, streams=8, connections=64)

    async def main() -> dict[str, tuple[grpc.StatusCode, str]]:
        clear = Transport(TransportSettings())
        found: dict[str, tuple[grpc.StatusCode, str]] = {}
        async with serving(clear, options=options) as address:
            calls: dict[str, dict[str, Any]] = {
                "message": {"message": bytes(2**20 + 1)},
                "compressed": {"message": bytes(2**26), "compression": grpc.Compression.Gzip},
                "metadata": {"metadata": (("large", "x" * 20_000),)},
            }
            for what, arguments in calls.items():
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await echoed(clear, address, **arguments)
                found[what] = caught.value.code(), caught.value.details() or ""
            assert await echoed(clear, address, bytes(2**20)) == bytes(2**20)
        return found

    found = asyncio.run(main())
    assert {code for code, _ in found.values()} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert "1048577 vs. 1048576" in found["message"][1]
    assert "larger than max" in found["compressed"][1]
    assert "16384" in found["metadata"][1]


def test_connections_beyond_the_limit_are_closed_and_others_go_on() -> None:
    async def main() -> tuple[list[bool], bytes]:
        clear = Transport(TransportSettings())
        async with serving(clear, options=limits(message_mib=1, streams=8, connections=2)) as address:
            channels = [clear.channel(address, CHANNEL_OPTIONS) for _ in range(4)]
            calls: list[Any] = [channel.unary_unary(ECHO) for channel in channels]
            served = [await call(b"x", timeout=10) == b"x" for call in calls[:2]]
            for call in calls[2:]:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(b"x", timeout=10)
                assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            for channel in channels[2:]:
                await channel.close()
            still = await calls[0](b"still", timeout=10)
            for channel in channels[:2]:
                await channel.close()
            return served, still

    served, still = asyncio.run(main())
    assert served == [True, True]
    assert still == b"still"


@pytest.mark.long
def test_a_client_that_pings_without_end_is_cut_off() -> None:
    every_50_ms = [
        ("grpc.keepalive_time_ms", 50),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]

    async def main() -> grpc.aio.AioRpcError:
        clear = Transport(TransportSettings())
        async with serving(clear) as address, clear.channel(address, every_50_ms) as channel:
            stream: Any = channel.stream_stream(ECHO + "s")()
            await stream.write(b"x")
            assert await stream.read() == b"x"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asyncio.wait_for(stream.read(), 10)
            return caught.value

    error = asyncio.run(main())
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert error.details() == "Too many pings"


def test_prometheus_learns_of_certificates_reloads_and_denials(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_own", Transport(TransportSettings()))
    registry = CollectorRegistry()
    registry.register(TransportMetrics())
    assert exposition(registry) == b""
    me = issue(tmp_path, "scheduler", server=True)
    own = transport.configure(server_settings(me))

    async def denied() -> None:
        async with serving(own) as address:
            with pytest.raises(grpc.aio.AioRpcError, match="needs the role"):
                await echoed(client(issue(tmp_path, "stranger")), address)

    asyncio.run(denied())
    issue(tmp_path, "scheduler", server=True)
    text = exposition(registry).decode()
    expiry_s = float(text.split("cotenant_certificate_expiry_timestamp_seconds ")[-1].split()[0])
    assert abs(expiry_s - time.time() - 86400) < 600
    assert 'cotenant_reload_total{outcome="taken",what="certificates"} 1.0' in text
    assert 'cotenant_call_denied_total{code="PERMISSION_DENIED"} 1.0' in text
