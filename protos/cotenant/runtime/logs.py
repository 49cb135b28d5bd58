"""JSON lines on stderr, through structlog; every line tells the service, and context variables add ids."""

import logging
import sys
from dataclasses import dataclass

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
    structlog.configure(
        processors=[
            switches,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            traces,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
