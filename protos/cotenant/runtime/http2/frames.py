"""HTTP/2's frames (RFC 9113, section 4 and 6) and gRPC's prefix of messages, as bytes."""

import struct

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, WITH_PRIORITY = 0x4, 0x8, 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0x0, 0x1, 0x2, 0x3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = 0x5, 0x6, 0x7, 0x8, 0x9
ENHANCE_YOUR_CALM = 0xB

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DEFAULT_WINDOW = 65_535
DEFAULT_MAX_FRAME = 16_384
LARGEST_WINDOW = 2**31 - 1

_head = struct.Struct(">HBBBL")  # length in two pieces, kind, flags, stream
_setting = struct.Struct(">HL")
_two = struct.Struct(">LL")
_one = struct.Struct(">L")
HEAD_BYTES = 9
unpack_head = _head.unpack_from
unpack_one = _one.unpack_from


class ProtocolError(Exception):
    """A peer broke the protocol, so the connection ends. `code` is one of HTTP/2's error codes."""

    def __init__(self, message: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.code = code


def head(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    """The nine bytes in front of a frame's payload."""
    return _head.pack(length >> 8, length & 0xFF, kind, flags, stream_id)


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return head(kind, flags, stream_id, len(payload)) + payload


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_setting.pack(*pair) for pair in values.items()))


def read_settings(payload: bytes) -> dict[int, int]:
    """What a SETTINGS frame says. Raises ProtocolError if it cannot be split."""
    if len(payload) % _setting.size:
        raise ProtocolError("settings of no whole number", FRAME_SIZE_ERROR)
    return dict(_setting.iter_unpack(payload))


def window_update(stream_id: int, credit: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream_id, _one.pack(credit))


def reset(stream_id: int, code: int) -> bytes:
    """A RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream_id, _one.pack(code))


def goaway(last_stream_id: int, code: int, reason: str = "") -> bytes:
    """A GOAWAY frame."""
    return frame(GOAWAY, 0, 0, _two.pack(last_stream_id, code) + reason.encode())


def headers(stream_id: int, block: bytes, *, end_stream: bool) -> bytes:
    """A HEADERS frame, with CONTINUATION frames where the block is longer than every peer accepts."""
    ends = END_STREAM if end_stream else 0
    if len(block) <= DEFAULT_MAX_FRAME:
        return frame(HEADERS, END_HEADERS | ends, stream_id, block)
    pieces = [block[i : i + DEFAULT_MAX_FRAME] for i in range(0, len(block), DEFAULT_MAX_FRAME)]
    parts = [frame(HEADERS, ends, stream_id, pieces[0])]
    parts += [frame(CONTINUATION, 0, stream_id, piece) for piece in pieces[1:-1]]
    parts.append(frame(CONTINUATION, END_HEADERS, stream_id, pieces[-1]))
    return b"".join(parts)


def without_padding(flags: int, payload: bytes) -> bytes:
    """The payload of a HEADERS or DATA frame without padding and priority. Raises ProtocolError."""
    start, end = 0, len(payload)
    if flags & PADDED:
        if not payload or payload[0] >= end:
            raise ProtocolError("more padding than payload")
        start, end = 1, end - payload[0]
    if flags & WITH_PRIORITY:
        start += 5
    if start > end:
        raise ProtocolError("a frame too short for its flags", FRAME_SIZE_ERROR)
    return payload[start:end]
