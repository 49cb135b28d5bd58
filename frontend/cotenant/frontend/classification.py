"""Triton's classification extension: the k largest values of an output, as "value:index" or "value:index:label"."""

from collections.abc import Sequence

import numpy as np

from cotenant.frontend.errors import invalid
from cotenant.runtime.datatypes import NUMPY, Array, join_bytes
from cotenant.v1 import types_pb2

_DATATYPES = {"UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP32", "FP64"}


def classes(
    tensor: types_pb2.Tensor, data: bytes, count: int, *, batched: bool, labels: Sequence[str]
) -> tuple[list[int], bytes]:
    """Shape and data of the BYTES tensor that takes the place of an output; of each item of a batch where `batched`.

    Equal values keep their order. Raises RequestError for a datatype whose values have none.
    """
    if tensor.datatype not in _DATATYPES:
        raise invalid(f"class result not available for output due to unsupported type '{tensor.datatype}'")
    values = np.frombuffer(data, NUMPY[tensor.datatype])
    outer = [tensor.shape[0]] if batched and tensor.shape else []
    items = values.reshape(outer[0] if outer else 1, -1) if values.size else values.reshape(0, 0)
    length = int(np.prod(tensor.shape[len(outer) :], dtype=np.int64))
    told = [text for item in items for text in _largest(item, count, labels)]
    return [*outer, min(count, length)], join_bytes(told)


def _largest(values: Array, count: int, labels: Sequence[str]) -> list[str]:
    last = len(values) - 1
    order = last - np.argsort(values[::-1], kind="stable")[::-1]
    return [_told(values[index], int(index), labels) for index in order[:count]]


def _told(value: np.generic, index: int, labels: Sequence[str]) -> str:
    number = f"{value:f}" if value.dtype.kind == "f" else str(value)
    label = f":{labels[index]}" if index < len(labels) and labels[index] else ""
    return f"{number}:{index}{label}"
