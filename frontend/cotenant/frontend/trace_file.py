"""Traces of requests in a file, in the format of Triton's mode "triton", which its tools read.

A list of objects: what the request was, and after it instants of its life on the monotonic clock, in ns. Everything is
in one file, or, where `log_frequency` says how many traces make a file, in FILE.0, FILE.1 and so on.
"""

import json
from pathlib import Path
from typing import TextIO

import structlog

from cotenant.frontend.dispatch import Answered, Pending
from cotenant.frontend.errors import RequestError
from cotenant.frontend.trace_settings import TraceSettings
from cotenant.runtime.clock import now_ns

_log = structlog.get_logger()


class TraceFile:
    """The file, or files, of a server."""

    def __init__(self, settings: TraceSettings) -> None:
        self._settings = settings
        self._path = Path(settings.file)
        self._last_id = self._index = 0
        self._whole: TextIO | None = None
        self._collected: list[str] = []

    def span(self, traceparent: str, model: str, arrival_ns: int) -> "FiledSpan":
        """The trace of a request that has arrived."""
        self._last_id += 1
        return FiledSpan(self, self._last_id, traceparent, model, arrival_ns)

    def add(self, model: str, lines: list[str]) -> None:
        """Takes a trace that has ended. What cannot be written is lost, and told."""
        together = self._settings.of(model).log_frequency
        try:
            if together:
                self._collected.append(",".join(lines))
                if len(self._collected) >= together:
                    self._write_index()
                return
            if self._whole is None:
                self._whole = self._path.open("w", encoding="utf-8")
                self._whole.write("[" + ",".join(lines))
            else:
                self._whole.write("," + ",".join(lines))
        except OSError as error:
            _log.error("trace not written", file=self._settings.file, error=str(error))

    def _write_index(self) -> None:
        lines, self._collected = self._collected, []
        path = self._path.with_name(f"{self._path.name}.{self._index}")
        self._index += 1
        path.write_text(f"[{','.join(lines)}]", encoding="utf-8")

    def close(self) -> None:
        """Writes what is left."""
        try:
            if self._collected:
                self._write_index()
            if self._whole is not None:
                self._whole.write("]")
                self._whole.close()
        except OSError as error:
            _log.error("trace not written", file=self._settings.file, error=str(error))


class FiledSpan:
    """A request's trace; a `Span` of tracing.py."""

    sampled = False  # it needs no details from the executor

    def __init__(self, file: TraceFile, number: int, traceparent: str, model: str, arrival_ns: int) -> None:
        self.traceparent = traceparent
        self._file, self._id, self._model, self._version = file, number, model, ""
        self._instants = [("REQUEST_START", arrival_ns)]

    def answered(self, pending: Pending, answered: Answered) -> None:
        """See `Span`."""
        execution = answered.answer.execution
        started_ns = answered.started_ns
        ended_ns = started_ns + execution.infer_ns
        self._version = pending.model.version
        self._instants += [
            ("QUEUE_START", pending.arrival_ns),
            ("COMPUTE_START", started_ns - execution.input_ns),
            ("COMPUTE_INPUT_END", started_ns),
            ("COMPUTE_OUTPUT_START", ended_ns),
            ("COMPUTE_END", ended_ns + execution.output_ns),
        ]

    def failed(self, error: RequestError) -> None:
        """See `Span`: it has no more instants than it lived."""

    def end(self) -> None:
        """See `Span`."""
        self._instants.append(("REQUEST_END", now_ns()))
        what = {"id": self._id, "model_name": self._model, "model_version": int(self._version or -1)}
        rows = [what, *({"id": self._id, "timestamps": [{"name": n, "ns": ns}]} for n, ns in self._instants)]
        self._file.add(self._model, [json.dumps(row, separators=(",", ":")) for row in rows])
