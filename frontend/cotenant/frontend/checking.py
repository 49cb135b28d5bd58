"""Checks a request against its model and turns it into what travels inside: buffers, shapes, bucket, budget.

Texts and codes are Triton's (docs/protocol.md). Nothing here waits or knows other services.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cotenant.frontend.catalogue import ModelView, TensorView
from cotenant.frontend.errors import RequestError, invalid
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.datatypes import NUMPY, Buffer, join_bytes
from cotenant.runtime.staging import aligned
from cotenant.v1 import types_pb2

# Which field of `contents` carries which datatype (open-inference protocol, "Tensor Contents").
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_BATCH_NOTE = (
    " NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each "
    "input shape."
)
EXPLAIN = "cotenant_explain"  # request parameter: tell times, prediction and co-runners in the response


@dataclass(slots=True)
class Checked:
    """A request that its model can run."""

    header: bytes  # a serialised TensorSet
    buffers: list[Buffer]
    data_bytes: int  # of the buffers, each aligned
    batch_size: int
    shape_bucket: str
    budget_ns: int  # 0 if there is none
    priority: int
    explain: bool


def check(request: pb.ModelInferRequest, model: ModelView, remaining_s: float | None) -> Checked:
    """Checks everything. `remaining_s` is what is left of the gRPC deadline. Raises RequestError."""
    request_id = request.id
    timeout_ns, priority, explain = _parameters(request, request_id)
    inputs = request.inputs
    _check_names(request, model, request_id)
    raw = request.raw_input_contents
    header = types_pb2.TensorSet(explain=explain)
    buffers: list[Buffer] = []
    offset = 0
    batch_size = 0
    lengths: list[int] = []
    shapes: list[str] = []
    for index, tensor in enumerate(inputs):
        view = model.inputs[tensor.name]
        shape = tuple(tensor.shape)
        items = _check_shape(tensor, view, model, shape, request_id)
        if batch_size and items != batch_size:
            raise invalid(
                f"input '{tensor.name}' batch size does not match other inputs for '{model.name}'", request_id
            )
        batch_size = items
        buffer = _data(tensor, raw, index, view, model, math.prod(shape), request_id)
        header.tensors.add(name=tensor.name, datatype=view.datatype, shape=shape, offset=offset, byte_size=len(buffer))
        offset += aligned(len(buffer))
        buffers.append(buffer)
        if view.variable:
            first = len(shape) - len(view.dims)
            lengths += (shape[first + axis] for axis in view.variable)
            shapes.append("x".join(str(shape[first + axis]) for axis in view.variable))
    for output in request.outputs:
        if output.name not in model.outputs:
            raise invalid(f"unexpected inference output '{output.name}' for model '{model.name}'", request_id)
        if "classification" in output.parameters:
            raise invalid("output parameter 'classification' is not supported by this version", request_id)
        header.requested_outputs.append(output.name)
    bucket = _bucket(model, lengths, shapes, request_id)
    if len(inputs) < len(model.inputs):
        bucket += "".join(f"-{name}" for name in model.inputs if all(t.name != name for t in inputs))
    budgets = [b for b in (timeout_ns, model.options.slo_ns, _nanoseconds(remaining_s)) if b]
    return Checked(
        header.SerializeToString(),
        buffers,
        offset,
        max(1, batch_size),
        bucket,
        min(budgets, default=0),
        priority,
        explain,
    )


def _nanoseconds(remaining_s: float | None) -> int:
    """Budget left by gRPC; at least one nanosecond where there is a deadline, since 0 means there is none."""
    return 0 if remaining_s is None else max(1, int(min(remaining_s, 1e9) * 1e9))


def _parameters(request: pb.ModelInferRequest, request_id: str) -> tuple[int, int, bool]:
    """Timeout in ns, priority, and whether to explain."""
    if not request.parameters:
        return 0, 0, False
    timeout_ns = priority = 0
    explain = False
    for key, parameter in request.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if key == "timeout":
            if kind != "int64_param":
                raise invalid("invalid value type for 'timeout' parameter, expected int64_param.", request_id)
            if parameter.int64_param < 0:
                raise invalid("invalid value for 'timeout', expected value >= 0.", request_id)
            timeout_ns = parameter.int64_param * 1000
        elif key == "priority":
            if kind not in ("int64_param", "uint64_param"):
                raise invalid(
                    "invalid value type for 'priority' parameter, expected int64_param or uint64_param.", request_id
                )
            priority = parameter.int64_param if kind == "int64_param" else parameter.uint64_param
            if priority < 0:
                raise invalid("invalid value for 'priority', expected value >= 0.", request_id)
            priority = min(priority, 2**31)
        elif key == EXPLAIN:
            if kind != "bool_param":
                raise invalid(f"invalid value type for '{EXPLAIN}' parameter, expected bool_param.", request_id)
            explain = parameter.bool_param
        elif key in ("sequence_id", "sequence_start", "sequence_end"):
            _check_sequence(key, kind, parameter, request_id)
        elif key.startswith("triton_") and key != "triton_enable_empty_final_response":
            raise invalid(
                "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified: "
                f"'{key}'",
                request_id,
            )
    return timeout_ns, priority, explain


def _check_sequence(key: str, kind: str | None, parameter: pb.InferParameter, request_id: str) -> None:
    if key == "sequence_id":
        if kind not in ("int64_param", "string_param"):
            raise invalid(
                "invalid value type for 'sequence_id' parameter, expected int64_param or string_param.", request_id
            )
        if parameter.int64_param or parameter.string_param:
            raise invalid("sequences are not supported by this version", request_id)
    elif kind != "bool_param":
        raise invalid(f"invalid value type for '{key}' parameter, expected bool_param.", request_id)


def _check_names(request: pb.ModelInferRequest, model: ModelView, request_id: str) -> None:
    inputs = request.inputs
    names = {tensor.name for tensor in inputs}
    if len(names) < len(inputs):
        seen: set[str] = set()
        for tensor in inputs:
            if tensor.name in seen:
                raise invalid(f"input '{tensor.name}' already exists in request", request_id)
            seen.add(tensor.name)
    for name in names:
        if name not in model.inputs:
            raise invalid(f"unexpected inference input '{name}' for model '{model.name}'", request_id)
    missing = [name for name, view in model.inputs.items() if not view.optional and name not in names]
    if missing:
        got = ",".join(f"'{tensor.name}'" for tensor in inputs)
        raise invalid(
            f"expected {model.required} inputs but got {len(inputs)} inputs for model '{model.name}'. "
            f"Got input(s) [{got}], but missing required input(s) [{','.join(repr(m) for m in missing)}]. "
            "Please provide all required input(s).",
            request_id,
        )


def _check_shape(
    tensor: pb.ModelInferRequest.InferInputTensor,
    view: TensorView,
    model: ModelView,
    shape: tuple[int, ...],
    request_id: str,
) -> int:
    """Checks datatype and shape; returns the number of items (1 for a model that does not batch)."""
    if tensor.datatype != view.datatype:
        raise invalid(
            f"inference input '{tensor.name}' data-type is '{tensor.datatype}', but model '{model.name}' expects "
            f"'{view.datatype}'",
            request_id,
        )
    batched = model.max_batch_size > 0
    expected = (-1, *view.dims) if batched else view.dims
    if len(shape) != len(expected) or any(s != e and (e != -1 or s < 0) for s, e in zip(shape, expected, strict=True)):
        note = _BATCH_NOTE if batched else ""
        raise invalid(
            f"unexpected shape for input '{tensor.name}' for model '{model.name}'. "
            f"Expected {_brackets(expected)}, got {_brackets(shape)}.{note}",
            request_id,
        )
    if not batched:
        return 1
    if not 1 <= shape[0] <= model.max_batch_size:
        if shape[0] < 1:
            raise invalid(f"inference request batch-size must be >= 1 for '{model.name}'", request_id)
        raise invalid(f"inference request batch-size must be <= {model.max_batch_size} for '{model.name}'", request_id)
    return shape[0]


def _brackets(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _data(
    tensor: pb.ModelInferRequest.InferInputTensor,
    raw: Sequence[bytes],
    index: int,
    view: TensorView,
    model: ModelView,
    elements: int,
    request_id: str,
) -> Buffer:
    """The input's raw bytes, of the right number."""
    if "shared_memory_region" in tensor.parameters:
        region = tensor.parameters["shared_memory_region"].string_param
        raise invalid(
            f"Unable to find shared memory region: '{region}' (shared memory is not supported by this version)",
            request_id,
        )
    if raw:
        if tensor.HasField("contents"):
            raise invalid(
                f"contents field must not be specified when using raw_input_contents for '{tensor.name}' "
                f"for model '{model.name}'",
                request_id,
            )
        if index >= len(raw):
            raise invalid(
                f"unable to find data for input tensor '{tensor.name}' for model '{model.name}' in request.", request_id
            )
        buffer: Buffer = raw[index]
    else:
        buffer = _from_contents(tensor, view, model, elements, request_id)
    if view.element_bytes == 0:
        _check_strings(buffer, tensor.name, model.name, elements, request_id)
    elif len(buffer) != elements * view.element_bytes:
        raise invalid(
            f"input byte size mismatch for input '{tensor.name}' for model '{model.name}'. "
            f"Expected {elements * view.element_bytes}, got {len(buffer)}",
            request_id,
        )
    return buffer


def _from_contents(
    tensor: pb.ModelInferRequest.InferInputTensor, view: TensorView, model: ModelView, elements: int, request_id: str
) -> bytes:
    field = _CONTENTS.get(view.datatype)
    if not tensor.HasField("contents"):
        if elements == 0:
            return b""
        raise invalid(
            f"unable to find data for input tensor '{tensor.name}' for model '{model.name}' in request.", request_id
        )
    for descriptor, _ in tensor.contents.ListFields():
        if descriptor.name != field:
            given = next((d for d, f in _CONTENTS.items() if f == descriptor.name), descriptor.name)
            raise invalid(
                f"unexpected explicit tensor data for input tensor '{tensor.name}' for model '{model.name}' "
                f"of type '{given}', expected datatype '{view.datatype}'",
                request_id,
            )
    values = getattr(tensor.contents, field) if field else ()
    if len(values) != elements:
        raise invalid(
            f"unexpected number of elements {len(values)} for inference input '{tensor.name}', expecting {elements} "
            f"for model '{model.name}'",
            request_id,
        )
    if view.datatype == "BYTES":
        return join_bytes(values)
    try:
        return np.array(values, dtype=NUMPY[view.datatype]).tobytes()
    except OverflowError as error:
        raise invalid(
            f"inference input '{tensor.name}' for model '{model.name}' holds a value that {view.datatype} cannot: "
            f"{error}",
            request_id,
        ) from error


def _check_strings(buffer: Buffer, name: str, model: str, elements: int, request_id: str) -> None:
    """Walks the elements of a BYTES tensor."""
    position = count = 0
    end = len(buffer)
    while position < end:
        if count == elements:
            raise invalid(
                f"unexpected number of string elements {count + 1} for inference input '{name}', expecting {elements}",
                request_id,
            )
        if position + 4 > end:
            raise invalid(
                f"incomplete string length indicator for inference input '{name}', expecting {4} bytes but only "
                f"{end - position} bytes available",
                request_id,
            )
        length = int.from_bytes(buffer[position : position + 4], "little")
        position += 4
        if position + length > end:
            raise invalid(
                f"incomplete string data for inference input '{name}', expecting string of length {length} but only "
                f"{end - position} bytes available",
                request_id,
            )
        position += length
        count += 1
    if count != elements:
        raise invalid(
            f"expected {elements} string elements for inference input '{name}', got {count} for model '{model}'",
            request_id,
        )


def _bucket(model: ModelView, lengths: list[int], shapes: list[str], request_id: str) -> str:
    """The declared bucket that fits the longest variable dimension; without declared buckets, the exact shapes."""
    if not lengths:
        return ""
    if not model.buckets:
        return ",".join(shapes)
    longest = max(lengths)
    for bucket in model.buckets:
        if longest <= bucket:
            return str(bucket)
    raise invalid(
        f"a variable dimension is {longest}, but model '{model.name}' declares buckets up to {model.buckets[-1]} "
        "(parameter 'shape_buckets')",
        request_id,
    )


__all__ = ["EXPLAIN", "Checked", "RequestError", "check"]
