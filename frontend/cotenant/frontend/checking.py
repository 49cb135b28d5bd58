"""Checks a request against its model and turns it into what travels inside: buffers, shapes, bucket, budget.

Texts and codes are Triton's (docs/protocol.md). Nothing here waits or knows other services.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from cotenant.frontend import parameters
from cotenant.frontend.catalogue import ModelView
from cotenant.frontend.errors import MismatchError, invalid, mismatch, unsupported
from cotenant.frontend.tensors import InputTensor, data_of, refuse_shared_memory
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.datatypes import Buffer
from cotenant.runtime.staging import aligned
from cotenant.v1 import types_pb2

_BATCH_NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each "
    "input shape."
)


Shapes: TypeAlias = dict[str, tuple[int, ...]]  # by name of the input, in the request's order


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
    explain: bool  # the client wants to know how it ran


def check(
    request: pb.ModelInferRequest, model: ModelView, remaining_s: float | None, *, traced: bool = False
) -> Checked:
    """Checks everything. `remaining_s` is what is left of the gRPC deadline.

    A `traced` request asks the executor how it ran, whether or not its client does. Raises RequestError.
    """
    asked = parameters.read(request)
    try:
        shapes = {tensor.name: tuple(tensor.shape) for tensor in request.inputs}
        if len(shapes) < len(request.inputs) or shapes.keys() != model.inputs.keys():
            _check_names(request, model)
        for tensor, shape in zip(request.inputs, shapes.values(), strict=True):
            _check_shape(tensor, shape, model)
        items = _batch_size(shapes, model)
        bucket = _bucket(shapes, model) if model.variable or len(shapes) < len(model.inputs) else ""
        header, buffers, data_bytes = _tensors(request, model)
    except MismatchError as error:
        raise mismatch(str(error), request.id) from error
    header.explain = asked.explain or traced
    budgets = (asked.timeout_ns, model.options.slo_ns, parameters.remaining_ns(remaining_s))
    return Checked(
        header=header.SerializeToString(),
        buffers=buffers,
        data_bytes=data_bytes,
        batch_size=items,
        shape_bucket=bucket,
        budget_ns=min((budget for budget in budgets if budget), default=0),
        priority=asked.priority,
        explain=asked.explain,
    )


def _tensors(request: pb.ModelInferRequest, model: ModelView) -> tuple[types_pb2.TensorSet, list[Buffer], int]:
    """What lies in the block, the inputs' data, and its size in bytes, each input aligned."""
    header = types_pb2.TensorSet(requested_outputs=_outputs(request, model) if request.outputs else ())
    buffers: list[Buffer] = []
    offset = 0
    raw = request.raw_input_contents
    for index, tensor in enumerate(request.inputs):
        if tensor.parameters:
            refuse_shared_memory(tensor)
        buffer = data_of(tensor, raw, index, model)
        size = len(buffer)
        header.tensors.add(
            name=tensor.name, datatype=tensor.datatype, shape=tensor.shape, offset=offset, byte_size=size
        )
        offset += aligned(size)
        buffers.append(buffer)
    return header, buffers, offset


def _check_names(request: pb.ModelInferRequest, model: ModelView) -> None:
    inputs = request.inputs
    names: set[str] = set()
    for tensor in inputs:
        if tensor.name in names:
            raise MismatchError(f"input '{tensor.name}' already exists in request")
        if tensor.name not in model.inputs:
            raise invalid(f"unexpected inference input '{tensor.name}' for model '{model.name}'")
        names.add(tensor.name)
    missing = [name for name, view in model.inputs.items() if not view.optional and name not in names]
    if missing:
        known, required = len(model.inputs), model.required
        wanted = f"{known} inputs" if known == required else f"number of inputs between {required} and {known}"
        raise MismatchError(
            f"expected {wanted} but got {len(inputs)} inputs for model '{model.name}'. "
            f"Got input(s) {_quoted(t.name for t in inputs)}, but missing required input(s) {_quoted(missing)}. "
            "Please provide all required input(s)."
        )


def _quoted(names: Iterable[str]) -> str:
    return "[" + ",".join(f"'{name}'" for name in names) + "]"


def _outputs(request: pb.ModelInferRequest, model: ModelView) -> list[str]:
    """Names of the outputs asked for; empty for all."""
    names: list[str] = []
    for output in request.outputs:
        if output.name not in model.outputs:
            raise invalid(f"unexpected inference output '{output.name}' for model '{model.name}'")
        if output.name in names:
            raise MismatchError(f"output '{output.name}' already exists in request")
        if output.parameters:
            refuse_shared_memory(output)
            if "classification" in output.parameters:
                raise unsupported("output parameter 'classification' is not supported by this version of Cotenant")
        names.append(output.name)
    return names


def _check_shape(tensor: InputTensor, shape: tuple[int, ...], model: ModelView) -> None:
    """Checks datatype and shape of an input by themselves."""
    view = model.inputs[tensor.name]
    if tensor.datatype != view.datatype:
        raise MismatchError(
            f"inference input '{tensor.name}' data-type is '{tensor.datatype}', but model '{model.name}' expects "
            f"'{view.datatype}'"
        )
    expected = view.shape
    if len(shape) == len(expected):
        for size, wanted in zip(shape, expected, strict=True):
            if size < 0 or wanted not in (size, -1):
                break
        else:
            return
    if len(shape) == len(expected) and min(shape) < 0:
        raise MismatchError(
            f"All input dimensions should be specified for input '{tensor.name}' for model '{model.name}', "
            f"got {_brackets(shape)}"
        )
    raise MismatchError(
        f"unexpected shape for input '{tensor.name}' for model '{model.name}'. Expected {_brackets(expected)}, "
        f"got {_brackets(shape)}. {_BATCH_NOTE if model.max_batch_size else ''}".rstrip()
    )


def _brackets(shape: Iterable[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _batch_size(shapes: Shapes, model: ModelView) -> int:
    """Items in the request; 1 where the model does not batch."""
    if not model.max_batch_size or not shapes:
        return 1
    items = next(iter(shapes.values()))[0]
    for name, shape in shapes.items():
        if shape[0] != items:
            raise MismatchError(f"input '{name}' batch size does not match other inputs for '{model.name}'")
    if items > model.max_batch_size:
        raise MismatchError(f"inference request batch-size must be <= {model.max_batch_size} for '{model.name}'")
    if items < 1:
        raise MismatchError(f"inference request batch-size must be >= 1 for '{model.name}'")
    return items


def _bucket(shapes: Shapes, model: ModelView) -> str:
    """What of the shapes decides who may share a batch.

    The declared bucket that fits the longest variable dimension; without declared buckets, the exact lengths. Optional
    inputs that are absent are named behind it: requests with and without one cannot be joined.
    """
    bucket = ""
    if model.variable:
        lengths = [[shape[axis] for axis in model.inputs[name].variable] for name, shape in shapes.items()]
        bucket = _declared(lengths, model) if model.buckets else ",".join("x".join(map(str, n)) for n in lengths if n)
    return bucket + "".join(f"-{name}" for name in model.inputs if name not in shapes)


def _declared(lengths: list[list[int]], model: ModelView) -> str:
    longest = max((n for of_input in lengths for n in of_input), default=0)
    for bucket in model.buckets:
        if longest <= bucket:
            return str(bucket)
    raise MismatchError(
        f"a variable dimension is {longest}, but model '{model.name}' declares buckets up to {model.buckets[-1]} "
        "(parameter 'shape_buckets')"
    )


__all__ = ["Checked", "check"]
