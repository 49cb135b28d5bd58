"""Reads JSON of clients, telling what is wrong as Triton does."""

import json
from collections.abc import Mapping
from typing import Any

import grpc
import msgspec

from cotenant.frontend.errors import RequestError

MISSING = object()  # what stands for a member that an object does not have

# What a value must be, and how Triton tells that it is not.
_KINDS: Mapping[str, str] = {
    "string": "attempt to access JSON non-string as string",
    "boolean": "attempt to access JSON non-boolean as boolean",
    "array": "attempt to access JSON non-array as array",
    "unsigned": "attempt to access JSON non-unsigned-integer as unsigned-integer",
    "signed": "attempt to access JSON non-signed-integer as signed-integer",
    "number": "attempt to access JSON non-number as double",
}


def wrong(message: str) -> RequestError:
    """Triton answers INTERNAL to JSON that is not what it should be."""
    return RequestError(grpc.StatusCode.INTERNAL, message)


def parse(body: bytes) -> Any:
    """Any JSON; NaN and Infinity as well, since answers have them. Raises RequestError."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise wrong(f"failed to parse the request JSON buffer: {error}") from error


def is_a(value: Any, kind: str) -> bool:
    """Whether a JSON value is of a kind, which is one of `_KINDS`."""
    if kind == "string":
        return isinstance(value, str)
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "array":
        return isinstance(value, list)
    if isinstance(value, bool) or not isinstance(value, int):
        return kind == "number" and isinstance(value, float)
    if kind == "unsigned":
        return 0 <= value < 2**64
    return kind == "number" or -(2**63) <= value < 2**63


def expect(value: Any, kind: str, name: str = "", verb: str = "parse") -> Any:
    """The value, if it is of a kind. Raises RequestError; with a `name` the text tells what could not be parsed."""
    if is_a(value, kind):
        return value
    text = f"attempt to access non-existing object member '{name}'" if value is MISSING else _KINDS[kind]
    raise wrong(f"Unable to {verb} '{name}': {text}" if name else text)


def members(value: Any, what: str = "") -> dict[str, Any]:
    """The members of an object. Raises RequestError for anything else."""
    if isinstance(value, dict):
        return value
    text = "attempt to get members for non-object"
    raise wrong(f"{what}: {text}" if what else text)


def parameters(value: Any) -> dict[str, Any]:
    """The parameters of an input or output, which are overlooked where they are no object, as in Triton."""
    return value if isinstance(value, dict) else {}
