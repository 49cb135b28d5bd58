"""The data of one input: raw bytes as they came, or made of typed contents; of the right type, number and size."""

import math
import struct
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from cotenant.frontend.catalogue import ModelView
from cotenant.frontend.errors import MismatchError, invalid
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.datatypes import NUMPY, Buffer, join_bytes

InputTensor: TypeAlias = pb.ModelInferRequest.InferInputTensor
OutputTensor: TypeAlias = pb.ModelInferRequest.InferRequestedOutputTensor

# Which field of `contents` carries which datatype; FP16 and BF16 travel raw only.
CONTENTS = {
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
# How Triton calls what lies in a field that does not fit the input.
_DATATYPE_OF_FIELD = {field: datatype for datatype, field in CONTENTS.items()}
_LENGTH = struct.Struct("<I")


def data_of(tensor: InputTensor, raw: Sequence[bytes], index: int, model: str) -> Buffer:
    """The raw bytes of the `index`-th input that travels in the message; only its datatype says what they should be.

    Raises RequestError where the request contradicts itself.
    """
    if tensor.HasField("contents"):
        if raw:
            raise invalid(
                f"contents field must not be specified when using raw_input_contents for '{tensor.name}' "
                f"for model '{model}'"
            )
        return _from_contents(tensor, model)
    if index >= len(raw):
        raise invalid(f"unable to find data for input tensor '{tensor.name}' for model '{model}' in request.")
    return raw[index]


def check_size(tensor: InputTensor, buffer: Buffer, model: ModelView) -> None:
    """Raises MismatchError where an input's data is not what its shape asks for."""
    view = model.inputs[tensor.name]
    elements = math.prod(tensor.shape)
    if view.element_bytes == 0:
        _check_strings(buffer, elements, f"'{tensor.name}' for model '{model.name}'")
    elif len(buffer) != elements * view.element_bytes:
        raise MismatchError(
            f"input byte size mismatch for input '{tensor.name}' for model '{model.name}'. "
            f"Expected {elements * view.element_bytes}, got {len(buffer)}"
        )


def _from_contents(tensor: InputTensor, model: str) -> Buffer:
    datatype = tensor.datatype if tensor.datatype in NUMPY else "<invalid>"
    field = CONTENTS.get(datatype)
    for descriptor, _ in tensor.contents.ListFields():
        if descriptor.name != field:
            raise invalid(
                f"unexpected explicit tensor data for input tensor '{tensor.name}' for model '{model}' "
                f"of type '{_DATATYPE_OF_FIELD[descriptor.name]}', expected datatype '{datatype}'"
            )
    values = getattr(tensor.contents, field) if field else ()
    if datatype == "BYTES":
        return join_bytes(values)
    try:
        return np.array(values, dtype=NUMPY.get(datatype)).tobytes()
    except OverflowError as error:
        raise invalid(
            f"input '{tensor.name}' for model '{model}' holds a value that {datatype} cannot: {error}"
        ) from error


def _check_strings(buffer: Buffer, elements: int, of: str) -> None:
    """Walks the elements of a BYTES tensor: each a length of four bytes, and as many bytes as it says.

    A wrong number of them is told before an element that is cut off.
    """
    position = count = 0
    end = len(buffer)
    cut = ""
    while position < end:
        if position + 4 > end:
            raise MismatchError(
                f"incomplete string length indicator for inference input {of}, expecting 4 bytes but only "
                f"{end - position} bytes available. Please make sure the string length indicator is in one buffer."
            )
        count += 1
        if count > elements:
            raise MismatchError(
                f"unexpected number of string elements {count} for inference input {of}, expecting {elements}"
            )
        (length,) = _LENGTH.unpack_from(buffer, position)
        position += 4
        if position + length > end:
            cut = f"expecting string of length {length} but only {end - position} bytes available"
        position += length
    if count != elements:
        raise MismatchError(f"expected {elements} string elements for inference input {of}, got {count}")
    if cut:
        raise MismatchError(f"incomplete string data for inference input {of}, {cut}")
