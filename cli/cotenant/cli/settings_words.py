"""Settings of a running scheduler as people write them: `KEY=VALUE`, and what there is in a table.

Durations have their unit in the key, so what travels in ns is written in ms or us.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from cotenant.runtime import tenant_names
from cotenant.v1 import scheduler_pb2 as pb


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


class Word(NamedTuple):
    """A key: its field in the contract, how its value is read, and how many of the field's unit one of the key's is."""

    field: str
    read: Callable[[str], Any]
    scale: int = 1
    expected: str = "a number"


_COUNT = "a whole number"
PLAIN = {
    "policy": Word("policy", str),
    "level": Word("level", float),
    "observe_only": Word("observe_only", _boolean, expected="true or false"),
    "max_pending": Word("max_pending", int, expected=_COUNT),
    "answer_overhead_us": Word("answer_overhead_ns", float, 1000),
    "max_tenants": Word("max_tenants", int, expected=_COUNT),
    "fair_turn_ms": Word("fair_turn_ns", float, 1_000_000),
}
MODEL = {
    "slo_ms": Word("slo_ns", float, 1_000_000),
    "priority_levels": Word("priority_levels", int, expected=_COUNT),
    "default_priority": Word("default_priority", int, expected=_COUNT),
    "max_queue_size": Word("max_queue_size", int, expected=_COUNT),
    "max_queue_delay_us": Word("max_queue_delay_ns", float, 1000),
}
TENANT = {
    "weight": Word("weight", float),
    "requests_per_s": Word("requests_per_s", float),
    "burst_requests": Word("burst_requests", int, expected=_COUNT),
    "device_share": Word("device_share", float),
    "burst_work_ms": Word("burst_work_ns", float, 1_000_000),
    "max_pending": Word("max_pending", int, expected=_COUNT),
}


def request(assignments: Iterable[str]) -> pb.UpdateSettingsRequest:
    """What to ask a scheduler for. Raises ValueError that names the assignment and what was expected."""
    asked = pb.UpdateSettingsRequest()
    for text in assignments:
        key, equals, value = text.rpartition("=")
        kind, _, rest = key.partition(".")
        if not equals or not key:
            raise ValueError(f"{text!r}: expected KEY=VALUE")
        if kind == "model" and rest:
            _assign_entry(text, rest, value, MODEL, asked.models, asked.reset_models, "model")
        elif kind == "tenant" and rest:
            _assign_entry(text, rest, value, TENANT, asked.tenants, asked.reset_tenants, "tenant")
        elif key in PLAIN:
            _assign(text, asked, PLAIN[key], value)
        else:
            raise ValueError(f"{text!r}: there is no setting '{key}'; there are {', '.join(PLAIN)}, and {_forms()}")
    return asked


def _forms() -> str:
    return f"model.NAME.KEY ({', '.join(MODEL)}) and tenant.NAME.KEY ({', '.join(TENANT)})"


def _assign_entry(
    text: str, rest: str, value: str, words: dict[str, Word], entries: Any, resets: Any, kind: str
) -> None:
    if not value:  # `tenant.acme=`: nothing of its own any more
        resets.append(rest)
        return
    name, _, key = rest.rpartition(".")
    if not name or key not in words:
        raise ValueError(f"{text!r}: expected {kind}.NAME.KEY=VALUE with one of {', '.join(words)}, or {kind}.NAME=")
    found = next((entry for entry in entries if getattr(entry, kind) == name), None)
    _assign(text, found if found is not None else entries.add(**{kind: name}), words[key], value)


def _assign(text: str, message: Any, word: Word, value: str) -> None:
    try:
        read = word.read(value)
        setattr(message, word.field, round(read * word.scale) if word.scale != 1 else read)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r}: expected {word.expected}") from error


def assignments(settings: pb.Settings) -> Iterator[tuple[str, str]]:
    """Settings as they would be written, with every plain one and of models and tenants those that were set."""
    for key, word in PLAIN.items():
        yield key, _text(settings, word)
    for kind, words, entries in (("model", MODEL, settings.models), ("tenant", TENANT, settings.tenants)):
        for entry in entries:
            name = entry.model if isinstance(entry, pb.ModelSettings) else tenant_names.shown(entry.tenant)
            for key, word in words.items():
                if entry.HasField(word.field):
                    yield f"{kind}.{name}.{key}", _text(entry, word)


def _text(message: Any, word: Word) -> str:
    value = getattr(message, word.field)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value / word.scale:.12g}" if isinstance(value, int | float) else str(value)
