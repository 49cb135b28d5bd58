"""TLS for servers that speak HTTP: the certificates, and who must show one, are those of the process's transport.

Rule: what gRPC accepts is accepted here, and files that are replaced count from the next connection on, as they do
there.
"""

import ssl
from typing import Any

from cotenant.runtime.certificates import Certificates, as_file
from cotenant.runtime.transport import Transport


def server_context(transport: Transport) -> ssl.SSLContext | None:
    """A context that always shows the certificate of now; None for a transport without TLS."""
    if not transport.settings.tls_certificate or transport.certificates is None:
        return None
    watched = transport.certificates
    told = watched.get()
    made = _context(told)

    def newest(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Called as each handshake begins."""
        nonlocal told, made
        del name, context
        now = watched.get()
        if now is not told:
            told, made = now, _context(now)
        connection.context = made

    first = _context(told)
    first.sni_callback = newest
    return first


def _context(now: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    with as_file(now.chain) as chain, as_file(now.key) as key:
        context.load_cert_chain(chain, key, password="")
    if now.client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=now.client_ca.decode("ascii"))
    return context


def names_of(certificate: dict[str, Any] | None) -> dict[str, list[bytes]]:
    """Whom a client's verified certificate names, by gRPC's words."""
    if not certificate:
        return {}
    common = [value for names in certificate["subject"] for key, value in names if key == "commonName"]
    alternative = [value for _, value in certificate.get("subjectAltName", ())]
    return {
        "x509_common_name": [name.encode() for name in common],
        "x509_subject_alternative_name": [name.encode() for name in alternative],
    }
