"""What the frontend answers instead of outputs: a gRPC status, a text in Triton's words, and typed details."""

from collections.abc import Mapping

import grpc

from cotenant.runtime import status
from cotenant.v1 import types_pb2

# A status travels in HTTP/2 trailers, which clients limit to 8 KiB: percent-encoded, and once more in the details.
MESSAGE_BYTES = 1024


class RequestError(Exception):
    """A request that is not answered with outputs.

    `refusal` is the `RejectReason` of one that was well formed, 0 for others; `facts` is what is known of its times.
    """

    def __init__(
        self, code: grpc.StatusCode, message: str, *, refusal: int = 0, facts: Mapping[str, str] | None = None
    ) -> None:
        self.code = code
        self.message = _clipped(message)
        self.refusal = refusal
        self.facts = facts or {}
        super().__init__(self.message)

    @property
    def reason(self) -> str:
        """One word, for counting and for clients."""
        return status.reason_name(self.refusal) if self.refusal else self.code.name

    @property
    def details(self) -> tuple[tuple[str, bytes], ...]:
        """Trailing metadata that tells a refusal's reason and facts; empty for other errors."""
        return (status.details(self.refusal, self.message, self.facts),) if self.refusal else ()


def _clipped(message: str) -> str:
    encoded = message.encode("utf-8", "replace")
    if len(encoded) <= MESSAGE_BYTES:
        return message
    return encoded[: MESSAGE_BYTES - 3].decode("utf-8", "ignore") + "..."


class MismatchError(ValueError):
    """An input or output contradicts the model's configuration; the text lacks the request's id."""


def mismatch(text: str, request_id: str) -> RequestError:
    """A `MismatchError` as Triton tells it."""
    return invalid(named(request_id) + text)


def named(request_id: str) -> str:
    """What precedes a text about a request that has a client's id, or none."""
    return f"[request id: {request_id or '<id_unknown>'}] "


def invalid(message: str) -> RequestError:
    """A request that contradicts itself or the protocol."""
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, message)


def unsupported(message: str) -> RequestError:
    """Something the protocol has and we do not serve."""
    return RequestError(grpc.StatusCode.UNIMPLEMENTED, message)


def unreadable(message_type: str) -> RequestError:
    """Bytes that are no message. The code is gRPC's own for this."""
    return RequestError(grpc.StatusCode.INTERNAL, f"Unable to parse request: it is not a serialised {message_type}")


def refused(reason: int, message: str, facts: Mapping[str, str] | None = None) -> RequestError:
    """A refusal with its reason, which clients can read from the details."""
    return RequestError(status.code_of(reason), message, refusal=reason, facts=facts)


def unknown_model(name: str, version: str = "") -> RequestError:
    """A model, or a version of it, that the repository does not hold."""
    what = f" version {version} is not found" if version else " is not found"
    return RequestError(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{name}'{what}")


def no_versions(name: str) -> RequestError:
    """A model none of whose versions serves."""
    return RequestError(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{name}' has no available versions")


def not_ready(name: str, version: str) -> RequestError:
    """A version that is there and does not serve."""
    message = f"Request for unknown model: '{name}' version {version} is not at ready state"
    return RequestError(grpc.StatusCode.UNAVAILABLE, message)


def unknown_region(name: str, kind: str = "") -> RequestError:
    """A region of a client's shared memory that was not registered."""
    return RequestError(grpc.StatusCode.NOT_FOUND, f"Unable to find {kind}shared memory region: '{name}'")


def draining() -> RequestError:
    """The server stops."""
    message = "GRPC server is shutting down and has stopped accepting new requests."
    return refused(types_pb2.REJECT_REASON_SHUTTING_DOWN, message)
