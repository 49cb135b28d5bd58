"""Compressed bodies: gzip and deflate, never more than a limit, and never long on the event loop."""

import asyncio
import zlib

from cotenant.frontend.errors import invalid

_WINDOWS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}  # as zlib names the two formats
ENCODINGS = tuple(_WINDOWS)
_LONG_BYTES = 64 * 1024  # takes about a millisecond: more is done in a thread


class TooLargeError(ValueError):
    """A body that is larger than allowed once it is unpacked."""


async def unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    """What was compressed. Raises RequestError for what was not, TooLargeError for more than `limit` bytes."""
    if len(body) > _LONG_BYTES // 8:  # it may grow a thousandfold
        return await asyncio.to_thread(_unpack, body, encoding, limit)
    return _unpack(body, encoding, limit)


def _unpack(body: bytes, encoding: str, limit: int) -> bytes:
    parts: list[bytes] = []
    size, rest = 0, body
    while rest or not parts:
        stream = zlib.decompressobj(_WINDOWS[encoding])
        try:
            part = stream.decompress(rest, limit - size + 1)
        except zlib.error as error:
            raise invalid(f"the body is not {encoding}: {error}") from error
        size += len(part)
        if size > limit:
            raise TooLargeError
        if not stream.eof:
            raise invalid(f"the body is not {encoding}: it is cut off")
        parts.append(part)
        rest = stream.unused_data  # gzip may have several parts
    return b"".join(parts)


async def packed(body: bytes, encoding: str) -> bytes:
    """A compressed body."""
    return await asyncio.to_thread(_pack, body, encoding) if len(body) > _LONG_BYTES else _pack(body, encoding)


def _pack(body: bytes, encoding: str) -> bytes:
    stream = zlib.compressobj(1, zlib.DEFLATED, _WINDOWS[encoding])
    return stream.compress(body) + stream.flush()


def wanted(accept: str) -> str:
    """The encoding that a client likes best of ours; "" for none (Accept-Encoding, RFC 9110)."""
    liked: list[tuple[float, str]] = []
    for one in accept.split(","):
        name, _, parameter = one.partition(";")
        quality = parameter.strip().removeprefix("q=") if parameter else "1"
        try:
            liked.append((float(quality), name.strip().lower()))
        except ValueError:
            continue
    ours = [(quality, name) for quality, name in liked if name in _WINDOWS and quality > 0]
    return max(ours, key=lambda entry: (entry[0], entry[1]))[1] if ours else ""
