"""Starts the predictor: settings, wiring, run. `export` and `import` instead of settings move what was learned."""

import asyncio
import sqlite3
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import structlog

from cotenant.predictor import learners, transfer
from cotenant.predictor.knowledge import MAX_CLASSES
from cotenant.predictor.metrics import PredictorMetrics
from cotenant.predictor.service import PredictorService
from cotenant.predictor.store import Store
from cotenant.runtime import logs, metrics, server, settings
from cotenant.runtime.settings import setting
from cotenant.runtime.transport import TransportSettings
from cotenant.v1 import predictor_pb2_grpc

_log = structlog.get_logger()


@dataclass(frozen=True)
class PredictorSettings(TransportSettings):
    """The predictor's settings."""

    listen: str = setting("127.0.0.1:8004", "where executors and the scheduler connect, host:port or unix:path")
    learner: str = setting(learners.DEFAULT, "what learns, see docs/predictors.md; a name with a dot is imported")
    state: str = setting("", "file that keeps what was learned; empty to forget at exit", metavar="FILE")
    max_classes: int = setting(MAX_CLASSES, "batch classes kept, over all devices; the least recently used go first")
    metrics: str = setting("127.0.0.1:8014", "where Prometheus reads metrics, host:port; empty for nowhere")
    drain_s: float = setting(2.0, "longest time to stop after SIGTERM, in s")
    log_level: str = setting("info", "debug, info, warning or error")
    log_format: str = setting("json", "how log lines look", choices=["json", "console"])


async def serve(options: PredictorSettings) -> None:
    """Runs until a signal. Raises ValueError for settings or state that make no sense."""
    if options.max_classes < 1:
        raise ValueError(f"max-classes must be at least 1, got {options.max_classes}")
    store = Store(Path(options.state).expanduser() if options.state else None)
    service = PredictorService(store, learner=options.learner, max_classes=options.max_classes)
    process = server.Server(service_names=["cotenant.v1.PredictorService"])
    predictor_pb2_grpc.add_PredictorServiceServicer_to_server(service, process.grpc)
    process.bind(options.listen)
    stop_metrics = metrics.serve(PredictorMetrics(service).registry, options.metrics)
    keeping = asyncio.create_task(service.keeper.run())
    _log.info(
        "listening",
        address=options.listen,
        software=version("cotenant"),
        learner=options.learner,
        classes_known=len(service.knowledge.used),
    )
    await process.run(drain=service.keeper.save, grace_s=options.drain_s)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    store.close()
    stop_metrics()


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m cotenant.predictor`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] in transfer.COMMANDS:
            transfer.main(arguments)
            return
        options = settings.read(PredictorSettings, "predictor", __doc__, arguments)
        logs.configure("predictor", level=options.log_level, style=options.log_format)
        server.run(serve(options), options)
    except (OSError, RuntimeError, ValueError, sqlite3.Error) as error:  # an address that is taken, a file that is none
        raise SystemExit(f"cotenant.predictor: {error}") from error


if __name__ == "__main__":
    main()
