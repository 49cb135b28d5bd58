"""What stands in front of a call: its head as the client wrote it, and the method that it names."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc

from cotenant.runtime.http2 import fields as fd
from cotenant.runtime.http2.fields import Fields, Metadata
from cotenant.runtime.http2.frames import ProtocolError


class Head(NamedTuple):
    """What the fields in front of a call say; equal fields give the same."""

    path: str
    timeout_s: float | None
    encoding: bytes
    metadata: Metadata
    problem: tuple[grpc.StatusCode, str] | None
    http_status: bytes  # other than 200 for what is no gRPC at all


def head_of(fields: Fields, metadata_bytes: int) -> Head:
    """Reads the fields; what is wrong with them becomes the call's answer."""
    path, timeout, encoding, problem = "", None, b"identity", None
    kind = method = b""
    size = 0
    for name, value in fields:
        size += len(name) + len(value) + 32
        if name == b":path":
            path = value.decode("latin-1")
        elif name == b"grpc-timeout":
            timeout = value
        elif name == b"grpc-encoding":
            encoding = value
        elif name == b"content-type":
            kind = value
        elif name == b":method":
            method = value
    seconds: float | None = None
    metadata: Metadata = ()
    try:
        seconds = fd.timeout_s(timeout) if timeout is not None else None
        metadata = fd.metadata_of(fields)
    except ProtocolError as error:
        problem = (grpc.StatusCode.INTERNAL, str(error))
    if size > metadata_bytes:
        text = f"received metadata size exceeds hard limit ({size} vs. {metadata_bytes})"
        problem = (grpc.StatusCode.RESOURCE_EXHAUSTED, text)
    elif encoding not in {b"identity", b"gzip", b"deflate"}:
        text = f"Compression algorithm '{encoding.decode('latin-1')}' is not supported"
        problem = (grpc.StatusCode.UNIMPLEMENTED, text)
    status = b"200" if kind.startswith(b"application/grpc") else b"415"
    return Head(path, seconds, encoding, metadata, problem, b"405" if method != b"POST" else status)


class Method:
    """A handler, looked at once."""

    def __init__(self, handler: Any) -> None:
        """Raises TypeError for a behaviour that is neither a coroutine nor an asynchronous generator."""
        self.streams_in: bool = handler.request_streaming
        self.streams_out: bool = handler.response_streaming
        found = (handler.stream_stream, handler.unary_stream, handler.stream_unary, handler.unary_unary)
        self.behaviour: Callable[..., Any] = next(one for one in found if one)
        self.read: Callable[[bytes], Any] = handler.request_deserializer or bytes
        self.write: Callable[[Any], bytes] = handler.response_serializer or bytes
        self.generates = inspect.isasyncgenfunction(self.behaviour)
        if not self.generates and not inspect.iscoroutinefunction(self.behaviour):
            raise TypeError(f"{self.behaviour} blocks the event loop: expected a coroutine or asynchronous generator")
