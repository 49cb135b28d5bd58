"""Triton's trace extension: which requests are traced, globally and per model, changed while the server runs.

A setting that a model does not have itself is the global one; one that nobody gave is what the server was started
with. Values are Triton's texts; so are errors. For the event loop's thread only.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import grpc

from cotenant.frontend.errors import RequestError, invalid, unsupported

TRITON, OPENTELEMETRY = "triton", "opentelemetry"
_INTEGER = re.compile(r"\s*([+-]?[0-9]+)")  # what C++ reads of a text, whatever follows
_LEVELS = ("TIMESTAMPS", "TENSORS")
# Of each number: the least and most it may be, and as which range Triton tells that.
_RANGES = {
    "trace_rate": (0, 2**31 - 1, 2**32 - 1),
    "trace_count": (-1, 2**31 - 1, 2**31 - 1),
    "log_frequency": (0, 2**31 - 1, 2**32 - 1),
}


@dataclass(frozen=True, slots=True)
class Given:
    """What was set, of one model or of all; None where nothing was."""

    levels: tuple[str, ...] | None = None  # empty for OFF
    trace_rate: int | None = None  # one request in so many; 0: those alone whose client traces
    trace_count: int | None = None  # so many, and then no more; -1: without end
    log_frequency: int | None = None  # traces in a file; 0: all in one


@dataclass(frozen=True, slots=True)
class InForce:
    """What holds for a model."""

    levels: tuple[str, ...]
    trace_rate: int
    trace_count: int
    log_frequency: int


@dataclass(slots=True)
class _Counts:
    """Requests seen and traced since a setting was made."""

    seen: int = 0
    traced: int = 0


@dataclass
class TraceSettings:
    """See the module's text. `file` is where traces go in mode "triton"; empty for nowhere."""

    mode: str
    file: str = ""
    started_with: InForce = field(default_factory=lambda: InForce((), 1000, -1, 0))
    _given: dict[str, Given] = field(default_factory=lambda: {"": Given()})  # by model; "" for all
    _counts: dict[str, _Counts] = field(default_factory=lambda: {"": _Counts()})

    def of(self, model: str) -> InForce:
        """What holds for a model; "" for those without settings of their own."""
        own, everywhere, first = self._given.get(model, Given()), self._given[""], self.started_with
        return InForce(
            *(
                next(v for v in (getattr(own, key), getattr(everywhere, key), getattr(first, key)) if v is not None)
                for key in ("levels", "trace_rate", "trace_count", "log_frequency")
            )
        )

    def update(self, model: str, settings: Mapping[str, Sequence[str]]) -> None:
        """Changes what is named, for a model or ("") for all; a setting without value is taken back.

        Raises RequestError, and changes nothing, where a value is none.
        """
        if "trace_file" in settings:
            raise unsupported("trace file location can not be updated through network protocol")
        before = self._given.get(model, Given())
        after = before
        if "trace_level" in settings:
            after = replace(after, levels=_levels(settings["trace_level"], before.levels))
        numbers = {key: _number(key, settings[key]) for key in _RANGES if key in settings}
        if numbers:
            after = Given(after.levels, *(numbers.get(key, getattr(after, key)) for key in _RANGES))
        self._given[model] = after
        try:
            self._check(self.of(model))
        except RequestError:
            self._given[model] = before
            raise
        finally:
            if model and self._given[model] == Given():
                del self._given[model]
                self._counts.pop(model, None)
        if model in self._given:
            self._counts[model] = _Counts()

    def _check(self, holds: InForce) -> None:
        reason = ""
        if not holds.levels:
            return
        if holds.trace_rate == 0:
            reason = "sample rate must be non-zero"
        elif self.mode == TRITON and not self.file:
            reason = "trace file name is not given"
        if reason:
            raise invalid(f"Attempting to set invalid trace setting :{reason}")
        if "TENSORS" in holds.levels:
            raise RequestError(grpc.StatusCode.UNIMPLEMENTED, "trace level TENSORS is not supported, only TIMESTAMPS")

    def sample(self, model: str, *, wanted: bool) -> bool:
        """Whether a request is traced; `wanted` where its client is tracing it."""
        holds = self.of(model)
        if not holds.levels:
            return False
        counts = self._counts.get(model) or self._counts[""]
        counts.seen += 1
        due = holds.trace_rate > 0 and counts.seen % holds.trace_rate == 0
        if due and 0 <= holds.trace_count <= counts.traced:
            due = False
        counts.traced += due
        return due or wanted

    def shown(self, model: str) -> dict[str, list[str]]:
        """What holds, as Triton tells it."""
        holds = self.of(model)
        told = {
            "trace_level": list(holds.levels) or ["OFF"],
            "trace_rate": [str(holds.trace_rate)],
            "trace_count": [str(self._left(model, holds))],
            "trace_mode": [self.mode],
        }
        if self.mode == TRITON:
            told |= {"log_frequency": [str(holds.log_frequency)], "trace_file": [self.file]}
        return told

    def _left(self, model: str, holds: InForce) -> int:
        counts = self._counts.get(model) or self._counts[""]
        return holds.trace_count if holds.trace_count < 0 else max(0, holds.trace_count - counts.traced)


def _levels(values: Sequence[str], before: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if not values:
        return None
    if "OFF" in values:
        if len(values) > 1:
            raise invalid("Expect only one trace level 'OFF' is specified")
        return ()
    known = tuple(level for level in _LEVELS if level in values)
    return known or before  # what is not known changes nothing


def _number(key: str, values: Sequence[str]) -> int | None:
    if not values:
        return None
    if len(values) > 1:
        raise invalid(f"expect only 1 value for '{key}'")
    least, most, told_most = _RANGES[key]
    found = _INTEGER.match(values[0])
    if not found:
        raise invalid(f"Unable to parse '{key}', got: {values[0]}")
    number = int(found[1][:100])  # what is longer is out of range, too, and Python reads no thousands of digits
    if key == "trace_count" and -(2**31) <= number < least:
        raise invalid(f"Unable to parse '{key}'. Expecting value >= {least}, got: {values[0]}")
    if not least <= number <= most:
        raise invalid(f"Unable to parse '{key}', value is out of range [ {least}, {told_most} ], got: {values[0]}")
    return number
