"""Prometheus metrics of one process, served over HTTP."""

from collections.abc import Callable

import structlog
from prometheus_client import CollectorRegistry, start_http_server

_log = structlog.get_logger()

# From a tenth of a millisecond to half a minute, about 1.5x apart where SLOs live.
LATENCY_BUCKETS_S = (
    1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 7.5e-3, 1e-2, 1.5e-2, 2e-2, 3e-2, 5e-2, 7.5e-2,
    0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0,
)  # fmt: skip


def serve(registry: CollectorRegistry, address: str) -> Callable[[], None]:
    """Serves `registry` at "host:port"; nothing where the address is empty. Returns what ends it.

    Raises OSError if the address is taken.
    """
    if not address:
        return lambda: None
    host, _, port = address.rpartition(":")
    server, thread = start_http_server(int(port), addr=host or "0.0.0.0", registry=registry)
    _log.info("metrics", address=f"{host}:{server.server_port}")

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
