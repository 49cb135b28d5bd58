"""Makes the message of an inference request of its body: JSON, behind it binary data, or binary data alone."""

import math
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cotenant.frontend.catalogue import ModelView
from cotenant.frontend.errors import invalid, mismatch
from cotenant.frontend.rest import contents, values
from cotenant.frontend.rest.values import MISSING, expect
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.datatypes import NUMPY, join_bytes

LENGTH_HEADER = "Inference-Header-Content-Length"
_NO_DATA = msgspec.Raw()
_SOURCES = ("data", "binary_data_size", "shared_memory_region")
_ONLY_ONE = (
    "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
    "'shared_memory_region' in 'parameters'. "
)


class _Input(msgspec.Struct):
    name: Any = MISSING
    datatype: Any = MISSING
    shape: Any = MISSING
    parameters: Any = MISSING
    data: msgspec.Raw = _NO_DATA  # read once it is known what of


class _Body(msgspec.Struct):
    id: Any = MISSING
    parameters: Any = MISSING
    outputs: Any = MISSING
    inputs: list[_Input] | None = None


_BODY = msgspec.json.Decoder(_Body)


@dataclass(slots=True)
class Asked:
    """A request, and which outputs its client wants as binary data."""

    message: pb.ModelInferRequest
    all_binary: bool = False
    binary: set[str] = field(default_factory=set)

    def as_binary(self, output: str) -> bool:
        """Whether an output is to follow the JSON as binary data."""
        return output in self.binary or (self.all_binary and not self.message.outputs)


def read(body: bytes, length: str | None, model: ModelView) -> Asked:
    """The request that a body holds, of which the first `length` bytes are JSON, or all. Raises RequestError."""
    size = _header_size(length, len(body))
    message = pb.ModelInferRequest(model_name=model.name)
    if size == 0:
        return _raw(message, body, model)
    found = _parse(body[:size])
    if found.id is not MISSING:
        message.id = expect(found.id, "string", "id")
    asked = Asked(message)
    if found.parameters is not MISSING:
        _parameters(asked, values.members(found.parameters, "failed to get request params."))
    rest = memoryview(body)[size:]
    if found.inputs is None:
        expect(MISSING, "array", "inputs")
    for one in found.inputs or ():
        rest = _input(message, one, rest, model)
    if rest:
        raise invalid(f"unexpected additional input data for model '{model.name}'")
    if found.outputs is not MISSING:
        for output in expect(found.outputs, "array", "outputs"):
            _output(asked, output)
    return asked


def _header_size(length: str | None, body: int) -> int:
    """How much of a body is JSON; 0 if it is binary data alone."""
    if length is None:
        return body
    try:
        size = int(length)
    except ValueError:
        raise invalid(f"expected a number in header '{LENGTH_HEADER}', got: {length}") from None
    if not 0 <= size <= body:
        raise invalid(f"inference header size should be in range (0, {body}), got: {size}")
    return size


def _parse(text: bytes) -> _Body:
    try:
        return _BODY.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return _parse_slowly(text)


def _parse_slowly(text: bytes) -> _Body:
    """What is odd, such as NaN among the numbers, or wrong."""
    told = values.parameters(values.parse(text))
    found = _Body(*(told.get(key, MISSING) for key in ("id", "parameters", "outputs")))
    inputs = expect(told.get("inputs", MISSING), "array", "inputs")
    keys = ("name", "datatype", "shape", "parameters", "data")
    found.inputs = [_Input(**{key: one[key] for key in keys if key in one}) for one in map(values.parameters, inputs)]
    return found


def _parameters(asked: Asked, told: dict[str, Any]) -> None:
    """Parameters of the request, each in the field where the protocol has it."""
    put = asked.message.parameters
    for key, value in told.items():
        if key == "binary_data_output":
            asked.all_binary = expect(value, "boolean", key)
        elif key in ("sequence_start", "sequence_end"):
            put[key].bool_param = expect(value, "boolean", key)
        elif key in ("priority", "timeout"):
            put[key].int64_param = min(expect(value, "unsigned", key), 2**63 - 1)
        elif key == "sequence_id" and not (values.is_a(value, "unsigned") and values.is_a(value, "signed")):
            put[key].string_param = expect(value, "string", key)
        elif key.startswith("triton_"):
            raise invalid(
                "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified."
            )
        elif isinstance(value, bool):
            put[key].bool_param = value
        elif isinstance(value, str):
            put[key].string_param = value
        elif values.is_a(value, "signed"):
            put[key].int64_param = value
        elif values.is_a(value, "number"):
            put[key].double_param = value
        else:
            raise invalid(f"parameter '{key}' has invalid type. It should be either 'int', 'bool', or 'string'.")


def _input(message: pb.ModelInferRequest, one: _Input, rest: memoryview, model: ModelView) -> memoryview:
    """Adds an input; returns the binary data that is left for the others."""
    told = values.parameters(one.parameters)
    sources = [key for key in _SOURCES if (one.data is not _NO_DATA if key == "data" else key in told)]
    if len(sources) != 1:
        set_fields = f"But set {' '.join(map(repr, sources))}" if sources else "But no field is set"
        raise invalid(_ONLY_ONE + set_fields)
    name = expect(one.name, "string", "name")
    datatype = expect(one.datatype, "string", "datatype")
    shape = [_dimension(size) for size in expect(one.shape, "array", "shape")]
    if datatype not in NUMPY:
        raise invalid(f"invalid datatype for input {name}")
    tensor = message.inputs.add(name=name, datatype=datatype, shape=shape)
    if sources == ["shared_memory_region"]:
        _region(tensor, told)
    elif sources == ["data"]:
        raw = contents.read(one.data, datatype, math.prod(shape), name)
        message.raw_input_contents.append(bytes(raw))
    else:
        size = expect(told["binary_data_size"], "unsigned", "binary_data_size")
        if size > len(rest):
            raise invalid(
                f"unexpected size for input '{name}', expecting {size - len(rest)} additional bytes "
                f"for model '{model.name}'"
            )
        message.raw_input_contents.append(bytes(rest[:size]))
        return rest[size:]
    return rest


def _dimension(size: Any) -> int:
    return min(int(expect(size, "unsigned", "shape")), 2**63 - 1)


def _region(tensor: Any, told: dict[str, Any]) -> None:
    """Where in shared memory a tensor lies. Triton takes a size that is not told as 0."""
    put = tensor.parameters
    put["shared_memory_region"].string_param = expect(told["shared_memory_region"], "string", "shared_memory_region")
    for key in ("shared_memory_byte_size", "shared_memory_offset"):
        put[key].int64_param = min(expect(told.get(key, 0), "unsigned", key), 2**63 - 1)


def _output(asked: Asked, told: Any) -> None:
    output = values.parameters(told)
    name = expect(output.get("name", MISSING), "string", "name")
    wanted = values.parameters(output.get("parameters"))
    tensor = asked.message.outputs.add(name=name)
    classes = expect(wanted.get("classification", 0), "unsigned", "classification", "set")
    binary = expect(wanted.get("binary_data", False), "boolean", "binary_data")
    if "shared_memory_region" in wanted:
        for key, is_set in (("classification", classes), ("binary_data", binary)):
            if is_set:
                raise invalid(f"Output can't set both 'shared_memory_region' and '{key}'")
        _region(tensor, wanted)
    elif classes:
        tensor.parameters["classification"].int64_param = min(classes, 2**63 - 1)
    if binary:
        asked.binary.add(name)


def _raw(message: pb.ModelInferRequest, body: bytes, model: ModelView) -> Asked:
    """Binary data alone is the one input that the model has, of one item; outputs are binary data as well."""
    if len(model.inputs) != 1:
        text = (
            "Raw request must only have 1 input (found 1) to be deduced but got "
            f"{len(model.inputs)} inputs in '{model.name}' model configuration"
        )
        raise mismatch(text, "")
    ((name, view),) = model.inputs.items()
    shape = list(view.shape)
    if model.max_batch_size:
        shape[0] = 1
    if view.datatype == "BYTES":
        if math.prod(shape) != 1:
            raise mismatch(f"For BYTE datatype raw input '{name}', the model must have input shape [1]", "")
        body = join_bytes([body])
    elif unknown := shape.count(-1):
        if unknown > 1:
            raise mismatch(f"The shape of the raw input '{name}' can not be deduced, several lengths of it vary", "")
        known = view.element_bytes * -math.prod(shape)
        shape[shape.index(-1)] = len(body) // known if known else 0
    message.inputs.add(name=name, datatype=view.datatype, shape=shape)
    message.raw_input_contents.append(body)
    return Asked(message, all_binary=True)
