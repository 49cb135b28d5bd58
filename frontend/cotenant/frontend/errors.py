"""What the frontend answers instead of outputs: a gRPC status, a text in Triton's words, and typed details."""

from collections.abc import Mapping

import grpc

from cotenant.runtime import status
from cotenant.v1 import types_pb2


class RequestError(Exception):
    """A request that is not answered with outputs.

    `details` is trailing metadata, or empty; `reason` is for counting.
    """

    def __init__(
        self, code: grpc.StatusCode, message: str, details: tuple[tuple[str, bytes], ...] = (), reason: str = ""
    ) -> None:
        super().__init__(message)
        self.reason = reason or code.name
        self.code = code
        self.message = message
        self.details = details


def invalid(message: str, request_id: str = "") -> RequestError:
    """The request contradicts the model's configuration, or itself."""
    prefix = f"[request id: {request_id or '<id_unknown>'}] "
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, prefix + message)


def refused(reason: int, message: str, facts: Mapping[str, str]) -> RequestError:
    """A refusal with its reason."""
    details = (status.details(reason, message, facts),)
    return RequestError(status.code_of(reason), message, details, status.reason_name(reason))


def unknown_model(name: str, version: str = "") -> RequestError:
    """A model, or a version of it, that the repository does not hold."""
    what = f"version {version} is not found" if version else "is not found"
    return RequestError(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{name}' {what}")


def no_versions(name: str) -> RequestError:
    """A model none of whose versions serves."""
    return RequestError(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{name}' has no available versions")


def draining() -> RequestError:
    """The server stops."""
    message = "GRPC server is shutting down and has stopped accepting new requests."
    return refused(types_pb2.REJECT_REASON_SHUTTING_DOWN, message, {})
