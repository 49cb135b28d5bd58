"""TLS contexts of the standard library, made of what a process shows and believes now."""

import ssl
from collections.abc import Callable
from time import monotonic
from typing import Any, ClassVar

import structlog

from cotenant.runtime.certificates import Certificates, as_file

_ALPN = ["h2"]
TELL_S = 1.0  # handshakes that fail for the same reason are logged so often: a log must not be filled from outside
_log = structlog.get_logger()


class _Told(ssl.SSLObject):
    """A server's end of a handshake, which says when it fails: the event loop keeps that to itself."""

    told_s: ClassVar[dict[str, float]] = {}  # by reason, of which OpenSSL has so many

    def do_handshake(self) -> None:
        """See ssl.SSLObject."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            reason, now_s = error.reason or "unknown", monotonic()
            if now_s - self.told_s.get(reason, -TELL_S) >= TELL_S:
                self.told_s[reason] = now_s
                _log.warning("handshake failed", reason=reason)
            raise


def server_context(current: Callable[[], Certificates], *, client_certificates: bool) -> ssl.SSLContext:
    """A context for a listening server: each handshake is made with the certificates of its instant.

    `client_certificates`: clients must show one. Raises ssl.SSLError for certificates that make no sense.
    """
    context, made_of = _server(current(), client_certificates), current()
    newest = context

    def choose(connection: ssl.SSLObject, name: str | None, first: ssl.SSLContext) -> None:
        del name, first
        nonlocal newest, made_of
        now = current()
        if now is not made_of:
            newest, made_of = _server(now, client_certificates), now
        if newest is not context:
            connection.context = newest

    context.sni_callback = choose
    return context


def _server(now: Certificates, client_certificates: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _Told
    if client_certificates:
        context.verify_mode = ssl.CERT_REQUIRED
    return _filled(context, now, now.client_ca)


def client_context(now: Certificates) -> ssl.SSLContext:
    """A context for a connection to a service."""
    return _filled(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), now, now.server_ca)


def _filled(context: ssl.SSLContext, now: Certificates, authorities: bytes) -> ssl.SSLContext:
    context.set_alpn_protocols(_ALPN)
    if authorities:
        context.load_verify_locations(cadata=authorities.decode("ascii"))
    if now.chain:
        with as_file(now.chain) as chain, as_file(now.key) as key:
            context.load_cert_chain(chain, key, password="")
    return context


def auth_context(transport: Any) -> dict[str, list[bytes]]:
    """What a peer proved with its certificate, by gRPC's names; empty without one."""
    connection = transport.get_extra_info("ssl_object")
    shown = connection.getpeercert() if connection else None
    if not shown:
        return {}
    names = [value for part in shown.get("subject", ()) for name, value in part if name == "commonName"]
    others = [value for _, value in shown.get("subjectAltName", ())]
    return {
        "transport_security_type": [b"ssl"],
        "x509_common_name": [name.encode() for name in names],
        "x509_subject_alternative_name": [name.encode() for name in others],
    }
