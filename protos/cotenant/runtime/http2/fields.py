"""Header fields: HPACK (RFC 7541), and what gRPC writes into them (its PROTOCOL-HTTP2 document)."""

import base64
import binascii
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar
from urllib.parse import quote_from_bytes, unquote_to_bytes

import hpack
from hpack.exceptions import HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable

from cotenant.runtime.http2.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ProtocolError

Fields = tuple[tuple[bytes, bytes], ...]
Parsed = TypeVar("Parsed")
_REMEMBERED = 256  # blocks; a client repeats few
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_OF_HTTP = frozenset(
    {b"te", b"content-type", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding", b"grpc-status"}
    | {b"grpc-message", b"content-length", b"host"}
)
# All printable ASCII but "%" stands for itself in a message.
_SAFE = bytes(c for c in range(0x20, 0x7F) if c != 0x25)


class Metadatum(NamedTuple):
    """One entry of a call's metadata."""

    key: str
    value: str | bytes


Metadata = tuple[Metadatum, ...]


class _Table(HeaderTable):
    """Knows when it was changed: until then equal blocks mean equal fields."""

    changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        super().add(name, value)


class Reader(Generic[Parsed]):
    """Decodes blocks of one connection, in their order. What one meant is remembered while it stays true."""

    def __init__(self, parse: Callable[[Fields], Parsed], largest: int) -> None:
        """`parse` makes something of fields; `largest`: bytes of one block's fields together, as HTTP/2 counts."""
        self._parse = parse
        self._decoder = hpack.Decoder(max_header_list_size=largest)
        self._table = self._decoder.header_table = _Table()
        self._known: dict[bytes, Parsed] = {}
        self._as_of = 0

    def read(self, block: bytes) -> Parsed:
        """What a block says. Raises ProtocolError; the connection cannot go on after it."""
        known = self._known.get(block)
        if known is not None:
            return known
        try:
            fields = tuple((bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True))
        except OversizedHeaderListError as error:
            raise ProtocolError("received metadata size exceeds limit", ENHANCE_YOUR_CALM) from error
        except HPACKError as error:
            raise ProtocolError(f"header fields that cannot be decoded: {error}", COMPRESSION_ERROR) from error
        parsed = self._parse(fields)
        if self._table.changes != self._as_of or self._table.resized or len(self._known) >= _REMEMBERED:
            self._known.clear()
            self._as_of, self._table.resized = self._table.changes, False
        else:
            self._known[block] = parsed
        return parsed


def _length(n: int) -> bytes:
    """A string's length: seven bits, then more (RFC 7541, 5.1)."""
    if n < 127:
        return bytes((n,))
    n -= 127
    out = bytearray((127,))
    while n >= 128:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def block(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A block that stands for itself: literal fields that change no table."""
    return b"".join(b"\0" + _length(len(name)) + name + _length(len(value)) + value for name, value in fields)


def of_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> list[tuple[bytes, bytes]]:
    """Metadata as fields; keys that end in "-bin" hold bytes. Raises ValueError for what no header can hold."""
    fields = []
    for key, value in metadata:
        if key.endswith("-bin"):
            raw = base64.b64encode(value if isinstance(value, bytes) else value.encode()).rstrip(b"=")
        else:
            raw = value if isinstance(value, bytes) else value.encode()
            if any(c < 0x20 or c > 0x7E for c in raw):
                raise ValueError(f"metadata {key!r} holds what no header can: {value!r}")
        fields.append((key.lower().encode("ascii"), raw))
    return fields


def metadata_of(fields: Fields) -> Metadata:
    """Metadata among fields. Raises ProtocolError."""
    found = []
    for name, value in fields:
        if name in _OF_HTTP or name[:1] == b":":
            continue
        if name.endswith(b"-bin"):
            found += [Metadatum(name.decode("ascii"), _decoded(piece)) for piece in value.split(b",")]
        else:
            found.append(Metadatum(name.decode("ascii", "replace"), value.decode("latin-1")))
    return tuple(found)


def _decoded(value: bytes) -> bytes:
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4))
    except binascii.Error as error:
        raise ProtocolError(f"metadata that is not base64: {value!r}") from error


def timeout_s(value: bytes) -> float:
    """A `grpc-timeout`. Raises ProtocolError."""
    text = value.decode("latin-1")
    if not 2 <= len(text) <= 9 or not text[:-1].isdecimal() or text[-1] not in _UNITS_S:
        raise ProtocolError(f"no timeout: {text!r}")
    return int(text[:-1]) * _UNITS_S[text[-1]]


def of_timeout(seconds: float) -> bytes:
    """A `grpc-timeout` of at most eight digits."""
    for unit, scale in (("n", 1e9), ("u", 1e6), ("m", 1e3)):
        if seconds * scale < 1e8:
            return f"{max(0, round(seconds * scale))}{unit}".encode()
    return f"{min(round(seconds), 99_999_999)}S".encode()


def of_message(message: str) -> bytes:
    """A status's message: UTF-8, percent-encoded."""
    return quote_from_bytes(message.encode("utf-8", "surrogateescape"), _SAFE).encode()


def message_of(value: bytes) -> str:
    """The text of a status's message."""
    return unquote_to_bytes(value).decode("utf-8", "replace")


def field(fields: Sequence[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    """The first value of a field."""
    return next((value for name, value in fields if name == wanted), None)
