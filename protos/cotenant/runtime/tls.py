"""TLS contexts of the standard library, made of what a process shows and believes now."""

import ssl
from collections.abc import Callable
from time import monotonic
from typing import Any, ClassVar

import structlog

from cotenant.runtime.certificates import Certificates, as_file

TELL_S = 1.0  # handshakes that fail for the same reason are logged so often: a log must not be filled from outside
_log = structlog.get_logger()


class _Told(ssl.SSLObject):
    """A server's end of a handshake, which says when it fails: the event loop keeps that to itself.

    Who would go on with a session of before is turned away: it was proven to authorities that may have been replaced.
    """

    told_s: ClassVar[dict[str, float]] = {}  # by reason, of which OpenSSL has so many

    def do_handshake(self) -> None:
        """See ssl.SSLObject."""
        try:
            super().do_handshake()
            if self.session_reused:
                raise ssl.SSLError(ssl.SSL_ERROR_SSL, "a session of before")
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            reason, now_s = getattr(error, "reason", None) or str(error), monotonic()
            if now_s - self.told_s.get(reason, -TELL_S) >= TELL_S:
                self.told_s[reason] = now_s
                _log.warning("handshake failed", reason=reason)
            raise


def server_context(current: Callable[[], Certificates], protocol: str = "h2") -> ssl.SSLContext:
    """A context for a listening server: each handshake is made with the certificates of its instant.

    Clients must show one where there are authorities of theirs. `protocol` is ALPN's name of what is spoken. Raises
    ssl.SSLError for certificates that make no sense.
    """
    made_of = current()
    newest = context = _server(made_of, protocol)

    def choose(connection: ssl.SSLObject, name: str | None, first: ssl.SSLContext) -> None:
        del name, first
        nonlocal newest, made_of
        now = current()
        if now is not made_of:
            newest, made_of = _server(now, protocol), now
        if newest is not context:
            connection.context = newest

    context.sni_callback = choose
    return context


def _server(now: Certificates, protocol: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _Told
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    if now.client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
    return _filled(context, now, now.client_ca, protocol)


def client_context(now: Certificates) -> ssl.SSLContext:
    """A context for a connection to a service."""
    return _filled(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), now, now.server_ca, "h2")


def _filled(context: ssl.SSLContext, now: Certificates, authorities: bytes, protocol: str) -> ssl.SSLContext:
    context.set_alpn_protocols([protocol])
    if authorities:
        context.load_verify_locations(cadata=authorities.decode("ascii"))
    if now.chain:
        with as_file(now.chain) as chain, as_file(now.key) as key:
            context.load_cert_chain(chain, key, password="")
    return context


def auth_context(transport: Any) -> dict[str, list[bytes]]:
    """What a peer proved with its certificate, by gRPC's names; empty without one, and for a transport that is gone."""
    connection = transport.get_extra_info("ssl_object") if transport else None
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
