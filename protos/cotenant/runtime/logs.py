"""JSON lines on stderr, through structlog; every line tells the service, and context variables add ids.

A line that cannot be written (a full disk, a reader that has gone) is lost: logging never fails who logs.
"""

import logging
import sys
from dataclasses import dataclass
from typing import TextIO, cast

import structlog


@dataclass(slots=True)
class Switches:
    """What this process logs; may be changed while it runs."""

    info: bool = True
    warning: bool = True
    error: bool = True
    verbose: int = 0  # debug lines, where above 0

    def start(self, level: int) -> None:
        """As a level of `logging` says."""
        self.info, self.warning, self.error = (level <= n for n in (logging.INFO, logging.WARNING, logging.ERROR))
        self.verbose = int(level <= logging.DEBUG)

    def __call__(self, logger: object, method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        """A processor of structlog's, the first: ends lines that are off."""
        del logger
        on = {"debug": self.verbose > 0, "info": self.info, "warning": self.warning}.get(method, self.error)
        if not on:
            raise structlog.DropEvent
        return event


switches = Switches()


class Lines:
    """Where lines go. As a file for structlog, it has `write` and `flush`; see the module's text for what they lose."""

    def __init__(self) -> None:
        self.file: TextIO = sys.stderr
        self.lost = 0  # since the last line that was written

    def write(self, line: str) -> None:
        """Writes a line, if that can be done; the next that can be written is told how many could not."""
        try:
            self.file.write(line)
        except OSError:
            self.lost += 1
        else:
            self.lost = 0

    def flush(self) -> None:
        """Hands what was written to the system."""
        try:
            self.file.flush()
        except OSError:
            self.lost += 1


lines = Lines()


def _tell_lost(logger: object, method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """A processor of structlog's: a line after lost ones says how many there were."""
    del logger, method
    if lines.lost:
        event["lines_lost"] = lines.lost
    return event


# By default a trace tells the values of local variables, among which are clients' tokens and tensors.
_TRACES = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def configure(service: str, *, level: str = "info", style: str = "json") -> None:
    """Sets up logging for this process. `style` is "json" or "console"; `level` a name of `logging`.

    Raises ValueError for a level that does not exist.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log level {level!r} does not exist; choose debug, info, warning or error")
    renderer: structlog.types.Processor
    if style == "console":
        traces: structlog.types.Processor = structlog.processors.format_exc_info
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    else:
        traces, renderer = _TRACES, structlog.processors.JSONRenderer()
    switches.start(number)
    lines.file, lines.lost = sys.stderr, 0
    structlog.configure(
        processors=[
            switches,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _tell_lost,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            traces,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", lines)),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
