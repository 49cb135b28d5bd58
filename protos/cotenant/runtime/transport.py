"""How a process proves who it is, and whom it believes: credentials of servers and channels, from settings.

Each process has one `Transport`, set at its start by `configure`; without one, all is in clear, as it should be only
between processes of one host. Files are read again when they change (`reloading`). docs/security.md tells how to use
it.
"""

import ipaddress
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog

from cotenant.runtime import access, certificates, http2, tls
from cotenant.runtime.certificates import Certificates
from cotenant.runtime.channels import Adding, Making, Metadata, RenewedChannel
from cotenant.runtime.guard import Denials, Guard
from cotenant.runtime.reloading import Reloaded
from cotenant.runtime.settings import setting

_log = structlog.get_logger()
Options = Sequence[tuple[str, Any]]


@dataclass(frozen=True)
class TransportSettings:
    """What all services share: who they are, whom they believe, who may do what."""

    tls_certificate: str = setting("", "certificate chain shown to peers, PEM; empty for no TLS", metavar="FILE")
    tls_key: str = setting("", "its private key, PEM", metavar="FILE")
    tls_client_ca: str = setting(
        "", "CAs of which a client must show a certificate, PEM; empty: clients need none", metavar="FILE"
    )
    tls_ca: str = setting(
        "", "CAs of the services connected to, PEM; empty: they are connected to without TLS", metavar="FILE"
    )
    tls_server_name: str = setting("", "name expected in their certificates; default: that of the address")
    access: str = setting("", "who may do what, TOML (docs/security.md); empty for the default", metavar="FILE")
    http2: str = setting("own", "whose HTTP/2 carries gRPC", choices=["own", "grpcio"])
    token_file: str = setting("", "bearer token shown to the services connected to", metavar="FILE")


class Transport:
    """See the module's text."""

    def __init__(self, settings: TransportSettings) -> None:
        """Raises OSError for a file that is not there, ValueError for settings or files that make no sense."""
        _check(settings)
        self.settings = settings
        self.denials = Denials()
        self.certificates = self._certificates()
        self._rules = _reloaded("access rules", settings.access, access.read_rules)
        self._token = _reloaded("token", settings.token_file, _read_token)
        self.guard = Guard(self._rules, self.denials) if settings.access or settings.tls_certificate else None
        self.reloaded = [one for one in (self.certificates, self._rules, self._token) if one is not None]

    def _certificates(self) -> Reloaded[Certificates] | None:
        s = self.settings
        files = (s.tls_certificate, s.tls_key, s.tls_ca, s.tls_client_ca)
        if not any(files):
            return None
        paths = [Path(file) for file in files if file]
        return Reloaded("certificates", paths, lambda: certificates.read(*files))

    # ---- servers

    def server(self, options: Options, interceptors: Sequence[grpc.aio.ServerInterceptor]) -> grpc.aio.Server:
        """A server that is not bound yet. `options` are gRPC's."""
        if self.settings.http2 == "grpcio":
            return grpc.aio.server(options=options, interceptors=interceptors)
        return http2.Server(options=options, interceptors=interceptors, secured=self.server_context("h2"))

    def server_context(self, protocol: str) -> ssl.SSLContext | None:
        """For a listening server that speaks a protocol, by ALPN's name; None without TLS."""
        if not self.settings.tls_certificate:
            return None
        assert self.certificates is not None
        return tls.server_context(self.certificates.get, protocol)

    def bind(self, server: grpc.aio.Server, address: str) -> int:
        """Has a server listen at an address; returns the port. Raises RuntimeError if it cannot be had."""
        if not self.settings.tls_certificate:
            if not local(address):
                _log.warning(
                    "other hosts can reach this address, and it has no TLS (docs/security.md)", address=address
                )
            return server.add_insecure_port(address)
        assert self.certificates is not None
        own = self.certificates.get()
        clients = "must show a certificate" if self.settings.tls_client_ca else "need no certificate"
        days = int((own.expires_s - time.time()) / 86400)
        _log.info("secured", address=address, names=own.names, expires_in_days=days, clients=clients)
        if isinstance(server, http2.Server):
            return server.bind(address)
        return server.add_secure_port(address, self._server_credentials())

    def _server_credentials(self) -> grpc.ServerCredentials:
        """For one address: gRPC asks at each new connection whether there is something newer than it was told last."""
        assert self.certificates is not None
        watched, told = self.certificates, self.certificates.get()

        def newer() -> Any:
            nonlocal told
            now = watched.get()
            if now is told:
                return None
            told = now
            return _configuration(now)

        required = bool(self.settings.tls_client_ca)
        return grpc.dynamic_ssl_server_credentials(_configuration(told), newer, require_client_authentication=required)

    # ---- channels

    def channel(self, address: str, options: Options) -> grpc.aio.Channel:
        """A channel to a service. Raises ValueError if the token would travel in clear to another host."""
        if not self.settings.tls_ca and self._token is None:
            return self._in_clear(address, options)
        self.check_token(address)
        return RenewedChannel(
            address, lambda: self._making(address, options), self.metadata, lambda: self._why_not(address)
        )

    def _in_clear(self, address: str, options: Options) -> grpc.aio.Channel:
        if self.settings.http2 == "grpcio":
            return grpc.aio.insecure_channel(address, options=options)
        return http2.Channel(address, options)

    def blocking_channel(self, address: str, options: Options) -> grpc.Channel:
        """As `channel`, for threads; it keeps the certificates of now. Raises ValueError likewise."""
        self.check_token(address)
        if self.settings.tls_ca:
            made = grpc.secure_channel(address, self._channel_credentials(), options=self._named(address, options))
        else:
            made = grpc.insecure_channel(address, options=options)
        return grpc.intercept_channel(made, Adding(self.metadata)) if self._token else made

    def _making(self, address: str, options: Options) -> Making:
        if not self.settings.tls_ca:
            return Making(None, lambda: self._in_clear(address, options))
        assert self.certificates is not None
        now = self.certificates.get()
        if self.settings.http2 == "own":
            name = self.settings.tls_server_name
            return Making(
                now, lambda: http2.Channel(address, options, secured=tls.client_context(now), server_name=name)
            )
        named = self._named(address, options)
        return Making(now, lambda: grpc.aio.secure_channel(address, self._channel_credentials(), options=named))

    def _channel_credentials(self) -> grpc.ChannelCredentials:
        assert self.certificates is not None
        now = self.certificates.get()
        return grpc.ssl_channel_credentials(now.server_ca, now.key or None, now.chain or None)

    def _named(self, address: str, options: Options) -> list[tuple[str, Any]]:
        """A socket of this host has no name of its own."""
        name = self.settings.tls_server_name or ("localhost" if address.startswith("unix:") else "")
        return [*options, *([("grpc.ssl_target_name_override", name)] if name else [])]

    def metadata(self) -> Metadata:
        """What goes with each call: the token, where there is one."""
        return (("authorization", f"Bearer {self._token.get()}"),) if self._token else ()

    def check_token(self, address: str) -> None:
        """Raises ValueError if the token would travel in clear to another host."""
        if self._token is not None and not self.settings.tls_ca and not local(address):
            raise ValueError(f"the token would travel in clear to {address}: set tls-ca, and use TLS there")

    def _why_not(self, address: str) -> str:
        s = self.settings
        if not s.tls_ca:
            return ""
        host = "localhost" if address.startswith("unix:") else address.rpartition(":")[0].strip("[]")
        return certificates.why_not(address, s.tls_server_name or host, s.tls_certificate, s.tls_key, s.tls_ca)


def _check(settings: TransportSettings) -> None:
    if bool(settings.tls_certificate) != bool(settings.tls_key):
        raise ValueError("tls-certificate and tls-key belong together: give both or none")
    if settings.tls_client_ca and not settings.tls_certificate:
        raise ValueError(
            "tls-client-ca asks for certificates of clients, which needs TLS: give tls-certificate as well"
        )


def _reloaded(what: str, path: str, read: Callable[[str], Any]) -> Reloaded[Any] | None:
    return Reloaded(what, [Path(path)], lambda: read(path)) if path else None


def _read_token(path: str) -> str:
    """Raises ValueError for a file that holds anything but one word; it is not repeated."""
    token = Path(path).read_text(encoding="ascii").strip()
    if not token or len(token.split()) != 1:
        raise ValueError(f"{path}: expected one token, and nothing else")
    return token


def _configuration(now: Certificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(now.key, now.chain)], now.client_ca or None)


def local(address: str) -> bool:
    """Whether only processes of this host can reach an address: a socket, or the loopback interface."""
    host = address.rpartition(":")[0].strip("[]")
    if address.startswith("unix:") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_own = Transport(TransportSettings())


def configure(settings: TransportSettings) -> Transport:
    """Sets this process's transport. Raises OSError or ValueError for settings and files that make no sense.

    `settings` may be those of a service; the addresses of its peers are looked at as well.
    """
    global _own  # noqa: PLW0603 (as for logging: a process has one)
    made = Transport(settings)
    for peer in ("scheduler", "predictor"):
        if address := getattr(settings, peer, ""):
            made.check_token(address)
    _own = made
    return made


def own() -> Transport:
    """This process's transport."""
    return _own
