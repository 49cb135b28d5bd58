"""A request's parameters: which are ours, which are the protocol's, and what they may be (docs/protocol.md)."""

from dataclasses import dataclass
from typing import Any

from cotenant.frontend.errors import RequestError, invalid
from cotenant.inference import inference_pb2 as pb

EXPLAIN = "cotenant_explain"  # tell times, prediction and co-runners in the response
BUDGET_LIMIT_NS = 10**18  # some thirty years: more would not fit the instants that travel inside
_PRIORITY_LIMIT = 2**31
_ALLOWED_TRITON = "triton_enable_empty_final_response"
# What a parameter of a client's own may be; such parameters are accepted and change nothing.
_CUSTOM = ("int64_param", "bool_param", "string_param", "double_param")


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the parameters of a request ask for."""

    timeout_ns: int = 0  # 0 if there is none
    priority: int = 0  # 0 for the model's default, 1 the most urgent
    explain: bool = False
    sequence_id: int | str = 0  # 0 or "" for none
    sequence_start: bool = False
    sequence_end: bool = False


NONE = Parameters()


def read(request: pb.ModelInferRequest) -> Parameters:
    """The parameters of a request. Raises RequestError with Triton's words where one is not what it may be."""
    if not request.parameters:
        return NONE
    timeout_ns = priority = 0
    explain = False
    sequence: dict[str, Any] = {}
    for key, parameter in request.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if key == "timeout":
            timeout_ns = _timeout_ns(parameter, kind)
        elif key == "priority":
            priority = _priority(parameter, kind)
        elif key == EXPLAIN:
            _expect(key, kind, "bool_param")
            explain = parameter.bool_param
        elif key == "sequence_id":
            _expect(key, kind, "int64_param", "string_param")
            sequence[key] = parameter.int64_param or parameter.string_param
        elif key in ("sequence_start", "sequence_end"):
            _expect(key, kind, "bool_param")
            sequence[key] = parameter.bool_param
        elif key == _ALLOWED_TRITON:
            _expect(key, kind, "bool_param")
        elif key.startswith("triton_"):
            raise invalid(
                "parameter keys starting with 'triton_' are reserved for Triton usage. "
                f"Only the following keys starting with 'triton_' are allowed: {_ALLOWED_TRITON}"
            )
        elif kind not in _CUSTOM:
            raise _wrong_type(key, "int64_param, bool_param, or string_param")
    return Parameters(timeout_ns, priority, explain, **sequence)


def _timeout_ns(parameter: pb.InferParameter, kind: str | None) -> int:
    _expect("timeout", kind, "int64_param")
    if parameter.int64_param < 0:
        raise invalid("invalid value for 'timeout', expected value >= 0.")
    return min(parameter.int64_param * 1000, BUDGET_LIMIT_NS)


def _priority(parameter: pb.InferParameter, kind: str | None) -> int:
    _expect("priority", kind, "int64_param", "uint64_param")
    value = parameter.int64_param if kind == "int64_param" else parameter.uint64_param
    if value < 0:
        raise invalid("invalid value for 'priority', expected value >= 0.")
    return min(value, _PRIORITY_LIMIT)


def _expect(key: str, kind: str | None, *allowed: str) -> None:
    if kind not in allowed:
        raise _wrong_type(key, " or ".join(allowed))


def _wrong_type(key: str, allowed: str) -> RequestError:
    return invalid(f"invalid value type for '{key}' parameter, expected {allowed}.")


def remaining_ns(remaining_s: float | None) -> int:
    """What gRPC's deadline leaves; 0 if there is none, else at least 1, since 0 stands for none."""
    return 0 if remaining_s is None else max(1, int(min(remaining_s, BUDGET_LIMIT_NS / 1e9) * 1e9))


__all__ = ["BUDGET_LIMIT_NS", "EXPLAIN", "NONE", "Parameters", "read", "remaining_ns"]
