"""Certificates and keys in PEM files: read, tried, and told about. The standard library's TLS does the judging.

A pair is used only after it has passed a handshake with itself in memory: that finds a key of another certificate, one
that is expired or not yet valid, and a file that is cut off, before any peer does.
"""

import contextlib
import os
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_END = "-----END CERTIFICATE-----"
_ANSWER_S = 3.0
_WRONG_PURPOSE = 26  # OpenSSL's X509_V_ERR_INVALID_PURPOSE


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a process shows its peers, and whom it believes; each part may be empty. PEM."""

    chain: bytes = b""
    key: bytes = field(default=b"", repr=False)
    server_ca: bytes = b""  # of servers that we connect to
    client_ca: bytes = b""  # of clients that connect to us
    names: tuple[str, ...] = ()  # common name and alternative names of the chain's first certificate
    expires_s: float = 0.0  # Unix time; 0 without a certificate


def read(certificate: str, key: str, server_ca: str, client_ca: str) -> Certificates:
    """Reads and tries the files, of which each may be "". Raises OSError, or ValueError that names the file."""
    chain, secret = (Path(path).read_bytes() if path else b"" for path in (certificate, key))
    names, expires_s = _facts(chain, secret, certificate, key) if certificate else ((), 0.0)
    return Certificates(chain, secret, _bundle(server_ca), _bundle(client_ca), names, expires_s)


def _bundle(path: str) -> bytes:
    """Certificates of authorities, of which at least one must be there."""
    if not path:
        return b""
    content = Path(path).read_bytes()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(f"{path}: not a file of CA certificates in PEM: {_reason(error)}") from error
    return content


def _facts(chain: bytes, secret: bytes, certificate: str, key: str) -> tuple[tuple[str, ...], float]:
    """Names and end of a certificate that passed a handshake with itself, as a server or as a client."""
    try:
        try:
            subject = _handshake(chain, secret, judged_by=0)
        except ssl.SSLCertVerificationError as error:
            if error.verify_code != _WRONG_PURPOSE:
                raise
            subject = _handshake(chain, secret, judged_by=1)
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(f"{certificate} with the key {key}: {_reason(error)}") from error
    names = [value for part in subject["subject"] for name, value in part if name == "commonName"]
    names += [value for _, value in subject.get("subjectAltName", ())]
    return tuple(dict.fromkeys(names)), float(ssl.cert_time_to_seconds(subject["notAfter"]))


def _handshake(chain: bytes, secret: bytes, *, judged_by: int) -> dict[str, Any]:
    """What the client (0) or the server (1) learns of the other's certificate. Raises ssl.SSLError if it refuses."""
    contexts = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    contexts[0].check_hostname = False
    contexts[0].verify_mode = ssl.CERT_NONE
    text, judge = chain.decode("ascii"), contexts[judged_by]
    if _END not in text:
        raise ValueError("there is no certificate in PEM in it")
    judge.verify_mode = ssl.CERT_REQUIRED
    judge.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it stands for itself: only dates, key and purpose are judged
    judge.load_verify_locations(cadata=text[: text.index(_END) + len(_END)] + "\n")
    with as_file(chain) as chain_file, as_file(secret) as key_file:
        for context in contexts:
            context.load_cert_chain(chain_file, key_file, password="")
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        contexts[0].wrap_bio(to_client, to_server),
        contexts[1].wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(4):  # TLS 1.3 takes two turns, 1.2 three
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends[judged_by].getpeercert() or {}


@contextlib.contextmanager
def as_file(content: bytes) -> Iterator[str]:
    """A name for what was read: the library takes names only, and a key must not be copied to a disk (Linux)."""
    with os.fdopen(os.memfd_create("pem"), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def why_not(address: str, name: str, certificate: str, key: str, server_ca: str) -> str:
    """Why TLS with an address fails, in words; "" if it does not, or nobody listens. Blocks for some seconds at most.

    gRPC tells a client of a refused certificate only that the socket was closed; its servers do not say why either.
    """
    try:
        read(certificate, key, server_ca, "")
        context = ssl.create_default_context(cafile=server_ca)
        context.set_alpn_protocols(["h2"])
        if certificate:
            context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:
        return _reason(error)
    try:
        raw = _connected(address)
    except OSError:
        return ""
    try:
        with raw, context.wrap_socket(raw, server_hostname=name) as connection:
            # In TLS 1.3 a server judges a client's certificate after the client's part; one that is content says more.
            heard = connection.recv(1)
    except OSError as error:
        return _reason(error)
    if heard:
        return ""
    return (
        f"the server does not accept the certificate {certificate}" if certificate else "the server wants a certificate"
    )


def _connected(address: str) -> socket.socket:
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_ANSWER_S)
        connection.connect(address.removeprefix("unix:"))
        return connection
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S)


def _reason(error: Exception) -> str:
    """The text of an error without the library's codes and places in its source."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(error)
