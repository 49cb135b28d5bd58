"""The one table from reasons to gRPC status codes, and how a refusal reaches a client.

Triton's code wherever Triton has the case (docs/protocol.md). A refusal carries `google.rpc.ErrorInfo` in its details:
domain "cotenant", the reason's name, and what is known of the times, so that a client in any language can read why.
"""

from collections.abc import Mapping

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2

from cotenant.v1 import types_pb2

_CODES: Mapping[int, grpc.StatusCode] = {
    types_pb2.REJECT_REASON_QUEUE_FULL: grpc.StatusCode.UNAVAILABLE,
    types_pb2.REJECT_REASON_EXPIRED_IN_QUEUE: grpc.StatusCode.DEADLINE_EXCEEDED,
    types_pb2.REJECT_REASON_PREDICTED_MISS: grpc.StatusCode.DEADLINE_EXCEEDED,
    types_pb2.REJECT_REASON_MODEL_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    types_pb2.REJECT_REASON_EXECUTOR_LOST: grpc.StatusCode.UNAVAILABLE,
    types_pb2.REJECT_REASON_SCHEDULER_LOST: grpc.StatusCode.UNAVAILABLE,
    types_pb2.REJECT_REASON_SHUTTING_DOWN: grpc.StatusCode.UNAVAILABLE,
    types_pb2.REJECT_REASON_CANCELLED: grpc.StatusCode.CANCELLED,
    types_pb2.REJECT_REASON_STAGING_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    types_pb2.REJECT_REASON_INPUTS_MISSING: grpc.StatusCode.UNAVAILABLE,
    types_pb2.REJECT_REASON_EXECUTION_FAILED: grpc.StatusCode.INTERNAL,
    types_pb2.REJECT_REASON_WINDOW_PASSED: grpc.StatusCode.DEADLINE_EXCEEDED,
    types_pb2.REJECT_REASON_QUOTA_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def code_of(reason: int) -> grpc.StatusCode:
    """The gRPC status of a `RejectReason`; INTERNAL for one this version does not know."""
    return _CODES.get(reason, grpc.StatusCode.INTERNAL)


def reason_name(reason: int) -> str:
    """The reason without its prefix, e.g. "PREDICTED_MISS"."""
    if reason not in types_pb2.RejectReason.values():
        return f"UNKNOWN_{reason}"
    return types_pb2.RejectReason.Name(types_pb2.RejectReason.ValueType(reason)).removeprefix("REJECT_REASON_")


def details(reason: int, message: str, facts: Mapping[str, str]) -> tuple[str, bytes]:
    """The trailing metadatum that carries a refusal's typed details."""
    info = error_details_pb2.ErrorInfo(reason=reason_name(reason), domain="cotenant", metadata=dict(facts))
    status = status_pb2.Status(code=code_pb2.Code.Value(code_of(reason).name), message=message)
    status.details.add().Pack(info)
    if retry_after_ms := float(facts.get("retry_after_ms", 0)):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(retry_after_ms * 1e6))
        status.details.add().Pack(retry)
    return "grpc-status-details-bin", status.SerializeToString()
