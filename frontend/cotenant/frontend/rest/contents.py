"""Tensors as JSON arrays: read into raw bytes, written of them. FP16 and BF16 travel as binary data alone."""

import itertools
import json
import types
from typing import Any

import msgspec
import numpy as np

from cotenant.frontend.errors import invalid
from cotenant.frontend.rest import values
from cotenant.runtime.datatypes import NUMPY, Buffer, from_raw, join_bytes

# Kind of a JSON value by kind of the element, as numpy calls it.
_KINDS = {"b": "boolean", "u": "unsigned", "i": "signed", "f": "number", "O": "string"}
_TYPES: dict[str, Any] = {"b": bool, "u": int, "i": int, "f": float, "O": str}
_DEPTH = 8  # arrays in arrays that are read fast; deeper ones are read as well
_BINARY_ONLY = ("FP16", "BF16")


def _decoders(kind: str) -> list[Any]:
    """For arrays of elements of one kind, in 0, 1, 2, ... arrays more."""
    nested, found = _TYPES[kind], []
    for _ in range(_DEPTH):
        nested = types.GenericAlias(list, nested)
        found.append(msgspec.json.Decoder(nested))
    return found


_DECODERS = {kind: _decoders(kind) for kind in _KINDS}


def read(content: Any, datatype: str, elements: int, name: str) -> Buffer:
    """The raw bytes of an input's "data": JSON text, or a value. How arrays are nested does not matter, as in Triton.

    Raises RequestError.
    """
    if datatype in _BINARY_ONLY:
        raise invalid(
            f"receiving {datatype} data via JSON is not supported. Please use the binary data format for input {name}"
        )
    kind = NUMPY[datatype].kind
    flat = _fast(content, kind)
    if flat is None:
        flat = _slow(content, kind)
    if datatype == "BYTES":
        return join_bytes(flat)  # whose number is checked with the rest
    if len(flat) != elements:
        raise values.wrong("Unable to parse 'data': Shape does not match true shape of 'data' field")
    return _packed(flat, datatype, name)


def _fast(content: Any, kind: str) -> list[Any] | None:
    """The elements, if they are all of the kind and lie equally deep."""
    if not isinstance(content, msgspec.Raw):
        return None
    text = bytes(content)
    depth = len(text) - len(text.lstrip(b"[ \t\r\n"))
    depth = text[:depth].count(b"[")
    if not 0 < depth <= _DEPTH:
        return None
    try:
        flat: list[Any] = _DECODERS[kind][depth - 1].decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    for _ in range(depth - 1):
        flat = list(itertools.chain.from_iterable(flat))
    return flat


def _slow(content: Any, kind: str) -> list[Any]:
    """The elements, or what is wrong with the first that is."""
    value = values.parse(bytes(content)) if isinstance(content, msgspec.Raw) else content
    values.expect(value, "array", "data")
    flat: list[Any] = []
    rest: list[Any] = [iter(value)]
    while rest:
        for one in rest[-1]:
            if isinstance(one, list):
                rest.append(iter(one))
                break
            if kind == "O" and not isinstance(one, str):
                raise values.wrong("Unable to parse JSON bytes array: attempt to access JSON non-string as string")
            flat.append(values.expect(one, _KINDS[kind], "data"))
        else:
            rest.pop()
    return flat


def _packed(flat: list[Any], datatype: str, name: str) -> bytes:
    """Raises RequestError for a value that the datatype cannot hold."""
    dtype = NUMPY[datatype]
    if dtype.kind == "f":
        wide = np.array(flat, np.float64)
        with np.errstate(over="ignore"):
            packed = wide.astype(dtype)
        if dtype.itemsize < wide.itemsize and (np.isinf(packed) & np.isfinite(wide)).any():
            raise _too_large(datatype, name)
        return packed.tobytes()
    if dtype.kind == "b":
        return np.array(flat, dtype).tobytes()
    if flat:
        least, most, limits = min(flat), max(flat), np.iinfo(dtype)
        for extreme in (least, most):
            values.expect(extreme, _KINDS[dtype.kind], "data")
        if not (limits.min <= least and most <= limits.max):
            raise _too_large(datatype, name)
    return np.array(flat, dtype).tobytes()


def _too_large(datatype: str, name: str) -> Exception:
    return invalid(f"input '{name}' holds a value that {datatype} cannot")


def write(content: bytes, datatype: str, name: str) -> msgspec.Raw:
    """The JSON array of an output. Raises RequestError for what JSON cannot say."""
    if datatype in _BINARY_ONLY:
        raise invalid(
            f"sending {datatype} data via JSON is not supported. Please use the binary data format for output"
        )
    array = from_raw(content, datatype, (-1,))
    if datatype == "BYTES":
        try:
            return msgspec.Raw(msgspec.json.encode([element.decode() for element in array]))
        except UnicodeDecodeError:
            raise invalid(
                f"output '{name}' holds bytes that are no UTF-8, which JSON cannot carry. "
                "Please use the binary data format for output"
            ) from None
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return msgspec.Raw(json.dumps(array.tolist(), separators=(",", ":")).encode())  # NaN, Infinity, -Infinity
    return msgspec.Raw(msgspec.json.encode(array.tolist()))
