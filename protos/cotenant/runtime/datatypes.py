"""KServe v2 datatypes: sizes, numpy equivalents, and the encoding of BYTES.

Raw tensors are little-endian, row-major, without padding; a BYTES element is a u32 length followed by its bytes.
BF16, which numpy does not have, is held as its 16 bits in uint16.
"""

import struct
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Buffer: TypeAlias = bytes | bytearray | memoryview

NUMPY: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(np.object_),
}

_LENGTH = struct.Struct("<I")


def element_size(datatype: str) -> int:
    """Bytes per element; 0 for BYTES, whose elements vary. Raises KeyError for a datatype that does not exist."""
    return 0 if datatype == "BYTES" else NUMPY[datatype].itemsize


def from_raw(data: Buffer, datatype: str, shape: tuple[int, ...]) -> Array:
    """The array that raw bytes stand for, without a copy where the datatype allows it.

    Raises ValueError if the bytes do not fit datatype and shape.
    """
    if datatype == "BYTES":
        elements = np.empty(len(split := split_bytes(data)), dtype=np.object_)
        elements[:] = split
        return elements.reshape(shape)
    return np.frombuffer(data, dtype=NUMPY[datatype]).reshape(shape)


def to_raw(array: Array, datatype: str) -> Buffer:
    """Raw bytes of an array, without a copy where it lies contiguously in the right type."""
    if datatype == "BYTES":
        return join_bytes(array.ravel())
    if array.dtype != NUMPY[datatype]:
        array = array.astype(NUMPY[datatype])
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def split_bytes(data: Buffer) -> list[bytes]:
    """The elements of a raw BYTES tensor. Raises ValueError where a length or an element is cut off."""
    view = memoryview(data)
    elements: list[bytes] = []
    position, end = 0, len(view)
    while position < end:
        if position + 4 > end:
            raise ValueError("incomplete string length indicator")
        (length,) = _LENGTH.unpack_from(view, position)
        position += 4
        if position + length > end:
            raise ValueError("incomplete string data")
        elements.append(bytes(view[position : position + length]))
        position += length
    return elements


def join_bytes(elements: Iterable[Any]) -> bytes:
    """Raw BYTES tensor of elements, which may be bytes or text (encoded as UTF-8)."""
    parts: list[bytes] = []
    for element in elements:
        content = element if isinstance(element, bytes) else str(element).encode()
        parts += (_LENGTH.pack(len(content)), content)
    return b"".join(parts)
