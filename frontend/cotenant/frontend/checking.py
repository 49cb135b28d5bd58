"""Checks a request against its model and turns it into what travels inside: buffers, shapes, bucket, budget.

Texts and codes are Triton's (docs/protocol.md). Nothing here waits or knows other services.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from cotenant.frontend import parameters
from cotenant.frontend.catalogue import ModelView
from cotenant.frontend.errors import MismatchError, invalid, mismatch
from cotenant.frontend.parameters import Parameters
from cotenant.frontend.regions import Place, Regions
from cotenant.frontend.tensors import InputTensor, OutputTensor, check_size, data_of
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.datatypes import NUMPY, Buffer
from cotenant.runtime.staging import aligned
from cotenant.v1 import types_pb2

_BATCH_NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each "
    "input shape. If you want to specify the full shape including the batch dim in your input dims config, try setting "
    "max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
)
_NO_REGIONS = Regions(allowed=False)

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
    # How outputs are to be handed out, by name, where not in the message: into a region, or as so many classes.
    deliveries: dict[str, Place | int] = field(default_factory=dict)
    asked: Parameters = parameters.NONE
    client_request_id: str = ""  # what the client calls it


def check(
    request: pb.ModelInferRequest,
    model: ModelView,
    remaining_s: float | None,
    *,
    traced: bool = False,
    regions: Regions = _NO_REGIONS,
) -> Checked:
    """Checks everything. `remaining_s` is what is left of the gRPC deadline.

    A `traced` request asks the executor how it ran, whether or not its client does. Raises RequestError.
    """
    asked = parameters.read(request)
    try:
        shapes = _shapes(request)
        buffers = _buffers(request, model, regions)
        deliveries = _deliveries(request, regions) if request.outputs else {}
        outputs = _outputs(request, model) if request.outputs else []
        if shapes.keys() != model.inputs.keys():
            _check_names(request, model)
        items = _batch_size(shapes, model)
        for tensor, shape, buffer in zip(request.inputs, shapes.values(), buffers, strict=True):
            _check_shape(tensor, shape, model)
            if items == 0:
                raise MismatchError(f"inference request batch-size must be >= 1 for '{model.name}'")
            check_size(tensor, buffer, model)
        whole = model.decoupled or not (model.variable or len(shapes) < len(model.inputs))
        bucket = "" if whole else _bucket(shapes, model)  # a decoupled model's requests are never joined
    except MismatchError as error:
        raise mismatch(str(error), request.id) from error
    header, data_bytes = _header(request, buffers, outputs)
    header.explain = asked.explain or traced
    timeouts = model.queue_timeout_ns
    timeout_ns = asked.timeout_ns or timeouts.get(asked.priority, timeouts.get(0, 0))
    budgets = (timeout_ns, model.options.slo_ns, parameters.remaining_ns(remaining_s))
    return Checked(
        header=header.SerializeToString(),
        buffers=buffers,
        data_bytes=data_bytes,
        batch_size=items,
        shape_bucket=bucket,
        budget_ns=min((budget for budget in budgets if budget), default=0),
        priority=asked.priority,
        explain=asked.explain,
        deliveries=deliveries,
        asked=asked,
        client_request_id=request.id,
    )


def _shapes(request: pb.ModelInferRequest) -> Shapes:
    shapes = {tensor.name: tuple(tensor.shape) for tensor in request.inputs}
    if len(shapes) < len(request.inputs):
        names = [tensor.name for tensor in request.inputs]
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise MismatchError(f"input '{twice}' already exists in request")
    return shapes


def _buffers(request: pb.ModelInferRequest, model: ModelView, regions: Regions) -> list[Buffer]:
    """The inputs' data, in their order: of the message, typed or raw, or of regions."""
    buffers: list[Buffer] = []
    raw, in_regions = request.raw_input_contents, 0
    for index, tensor in enumerate(request.inputs):
        place = regions.place_of(tensor) if tensor.parameters else None
        if place is None:
            buffers.append(data_of(tensor, raw, index - in_regions, model.name))
            continue
        if tensor.HasField("contents"):
            raise invalid(
                f"unexpected 'content' provided when using shared memory for input tensor '{tensor.name}' "
                f"for model '{model.name}'"
            )
        in_regions += 1
        buffers.append(regions.read(place))
    return buffers


def _header(
    request: pb.ModelInferRequest, buffers: list[Buffer], outputs: list[str]
) -> tuple[types_pb2.TensorSet, int]:
    """What lies in the block, and the size of the inputs' data in bytes, each input aligned."""
    header = types_pb2.TensorSet(requested_outputs=outputs)
    offset = 0
    for tensor, buffer in zip(request.inputs, buffers, strict=True):
        size = len(buffer)
        header.tensors.add(
            name=tensor.name, datatype=tensor.datatype, shape=tensor.shape, offset=offset, byte_size=size
        )
        offset += aligned(size)
    return header, offset


def _check_names(request: pb.ModelInferRequest, model: ModelView) -> None:
    """That inputs are known, and those that are required are there; too few are told before an unknown one."""
    names = [tensor.name for tensor in request.inputs]
    if len(names) >= model.required:
        for name in names:
            if name not in model.inputs:
                raise invalid(f"unexpected inference input '{name}' for model '{model.name}'")
    missing = [name for name, view in model.inputs.items() if not view.optional and name not in names]
    if missing:
        known, required = len(model.inputs), model.required
        wanted = f"{known} inputs" if known == required else f"number of inputs between {required} and {known}"
        raise MismatchError(
            f"expected {wanted} but got {len(names)} inputs for model '{model.name}'. "
            f"Got input(s) {_quoted(names)}, but missing required input(s) {_quoted(missing)}. "
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
        names.append(output.name)
    return names


def _deliveries(request: pb.ModelInferRequest, regions: Regions) -> dict[str, Place | int]:
    found: dict[str, Place | int] = {}
    for output in request.outputs:
        if not output.parameters:
            continue
        if "shared_memory_region" in output.parameters and "classification" in output.parameters:
            raise invalid("output can't set both 'shared_memory_region' and 'classification'")
        if place := regions.place_of(output):
            found[output.name] = place
        elif "classification" in output.parameters:
            found[output.name] = _classes(output)
    return found


def _classes(output: OutputTensor) -> int:
    """How many classes are asked for of an output."""
    parameter = output.parameters["classification"]
    if parameter.WhichOneof("parameter_choice") != "int64_param":
        raise invalid("invalid value type for 'classification' parameter, expected int64_param")
    if parameter.int64_param <= 0:
        raise invalid("invalid value for 'classification' parameter, expected >= 0")
    return parameter.int64_param


def _check_shape(tensor: InputTensor, shape: tuple[int, ...], model: ModelView) -> None:
    """Checks datatype and shape of an input by themselves."""
    view = model.inputs[tensor.name]
    if tensor.datatype != view.datatype:
        raise MismatchError(
            f"inference input '{tensor.name}' data-type is "
            f"'{tensor.datatype if tensor.datatype in NUMPY else '<invalid>'}', but model '{model.name}' expects "
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
        f"got {_brackets(shape)}. {_BATCH_NOTE if model.max_batch_size else ''}"
    )


def _brackets(shape: Iterable[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _batch_size(shapes: Shapes, model: ModelView) -> int:
    """Items in the request; 1 where the model does not batch."""
    if not model.max_batch_size or not shapes:
        return 1
    for name, shape in shapes.items():
        if not shape:
            raise MismatchError(f"input '{name}' has no shape but model requires batch dimension for '{model.name}'")
    items = next(iter(shapes.values()))[0]
    for name, shape in shapes.items():
        if shape[0] != items:
            raise MismatchError(f"input '{name}' batch size does not match other inputs for '{model.name}'")
    if items > model.max_batch_size:
        raise MismatchError(f"inference request batch-size must be <= {model.max_batch_size} for '{model.name}'")
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
