"""Starts the predictor: settings, wiring, run."""

import asyncio
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import structlog

from cotenant.predictor.metrics import PredictorMetrics
from cotenant.predictor.service import PredictorService
from cotenant.predictor.store import Store
from cotenant.runtime import logs, metrics, server, settings
from cotenant.runtime.settings import setting
from cotenant.v1 import predictor_pb2_grpc

_log = structlog.get_logger()


@dataclass(frozen=True)
class PredictorSettings:
    """The predictor's settings."""

    listen: str = setting("127.0.0.1:8004", "where executors and the scheduler connect, host:port or unix:path")
    state: str = setting("", "file that keeps what was learned; empty to forget at exit", metavar="FILE")
    metrics: str = setting("127.0.0.1:8014", "where Prometheus reads metrics, host:port; empty for nowhere")
    drain_s: float = setting(2.0, "longest time to stop after SIGTERM, in s")
    log_level: str = setting("info", "debug, info, warning or error")
    log_format: str = setting("json", "how log lines look", choices=["json", "console"])


async def serve(options: PredictorSettings) -> None:
    """Runs until a signal."""
    store = Store(Path(options.state).expanduser() if options.state else None)
    service = PredictorService(store)
    process = server.Server(service_names=["cotenant.v1.PredictorService"])
    predictor_pb2_grpc.add_PredictorServiceServicer_to_server(service, process.grpc)
    process.bind(options.listen)
    stop_metrics = metrics.serve(PredictorMetrics(service).registry, options.metrics)
    keeping = asyncio.create_task(service.keep())
    classes = sum(len(model.classes) for model in service.devices.values())
    _log.info("listening", address=options.listen, software=version("cotenant"), classes_known=classes)
    await process.run(drain=service.save, grace_s=options.drain_s)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    store.close()
    stop_metrics()


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m cotenant.predictor`."""
    options = settings.read(PredictorSettings, "predictor", __doc__, argv)
    logs.configure("predictor", level=options.log_level, style=options.log_format)
    try:
        server.run(serve(options))
    except (OSError, RuntimeError, ValueError, sqlite3.Error) as error:  # an address that is taken, a file that is none
        raise SystemExit(f"cotenant.predictor: {error}") from error


if __name__ == "__main__":
    main()
