"""Our keys in the `parameters` of a model's configuration (`config.pbtxt`), read and checked in one place.

| key | meaning |
|---|---|
| `slo_ms` | latency objective of a request, in milliseconds; requests may ask for less |
| `shape_buckets` | lengths that variable dimensions are padded up to, ascending, e.g. "16,32,64,128" |
| `pad_values` | what an input is padded with, if not 0, e.g. "input_ids=1" |
| `idempotent` | "false" if a request must not run twice, even if an executor died meanwhile; so decoupled models' |
| `execute_delay_ms` | identity backend: how long it pretends to work |
| `profile_batch_sizes` | batch sizes that are measured alone at load, e.g. "1,4,8"; default: powers of two |

Keys that are not ours are passed to the backend and otherwise ignored.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from cotenant.inference import inference_pb2 as pb

T = TypeVar("T")
SLO_MS = "slo_ms"


class ModelOptions(msgspec.Struct, frozen=True):
    """What a model's `parameters` say of serving it."""

    slo_ns: int = 0
    shape_buckets: tuple[int, ...] = ()
    pad_values: Mapping[str, float] = {}
    idempotent: bool = True
    execute_delay_ns: int = 0
    profile_batch_sizes: tuple[int, ...] = ()


def read(config: pb.ModelConfig) -> ModelOptions:
    """The options of a model. Raises ValueError that names the model, the parameter and what it may be."""

    def value(key: str, parse: Callable[[str], T], default: T, what: str) -> T:
        if key not in config.parameters:
            return default
        text = config.parameters[key].string_value
        try:
            return parse(text)
        except ValueError as error:
            raise ValueError(f"model '{config.name}': parameter '{key}' is {text!r}, expected {what}") from error

    return ModelOptions(
        slo_ns=value(SLO_MS, _milliseconds, 0, "a positive number of milliseconds"),
        shape_buckets=value("shape_buckets", _ascending, (), "ascending positive integers separated by commas"),
        pad_values=value("pad_values", _assignments, {}, "input=number pairs separated by commas"),
        # Of several responses some may have been delivered when an executor dies.
        idempotent=value("idempotent", _boolean, True, "true or false")
        and not config.model_transaction_policy.decoupled,
        execute_delay_ns=value("execute_delay_ms", _milliseconds, 0, "a positive number of milliseconds"),
        profile_batch_sizes=value("profile_batch_sizes", _ascending, (), "ascending positive integers"),
    )


def _milliseconds(text: str) -> int:
    number = float(text)
    if not 0 <= number < 1e9:
        raise ValueError(text)
    return round(number * 1e6)


def _ascending(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    if any(n < 1 for n in numbers) or list(numbers) != sorted(set(numbers)):
        raise ValueError(text)
    return numbers


def _assignments(text: str) -> dict[str, float]:
    pairs = [part.partition("=") for part in text.split(",")]
    return {name.strip(): float(number) for name, _, number in pairs}


def _boolean(text: str) -> bool:
    table: dict[str, Any] = {"true": True, "1": True, "false": False, "0": False}
    if text.strip().lower() not in table:
        raise ValueError(text)
    return bool(table[text.strip().lower()])
