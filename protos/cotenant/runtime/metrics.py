"""Prometheus metrics of one process, served over HTTP."""

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from cotenant.runtime.transport_metrics import TransportMetrics

_log = structlog.get_logger()

# From a tenth of a millisecond to half a minute, about 1.5x apart where SLOs live.
LATENCY_BUCKETS_S = (
    1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 7.5e-3, 1e-2, 1.5e-2, 2e-2, 3e-2, 5e-2, 7.5e-2,
    0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0,
)  # fmt: skip

_TRITON_NAME = re.compile(rb"^# (HELP|TYPE) (nv_\w+)_total ", re.MULTILINE)


def triton_counter(
    name: str, text: str, labels: Sequence[str], values: Iterable[tuple[tuple[str, ...], float]], /
) -> Metric:
    """A counter under Triton's very name; the library's own class would append `_total` to it."""
    metric = Metric(name, text, "counter")
    for key, value in values:
        metric.add_sample(name, dict(zip(labels, key, strict=True)), value)
    return metric


def exposition(registry: CollectorRegistry) -> bytes:
    """All metrics in Prometheus' text format, Triton's counters without the `_total` that the library appends."""
    return _TRITON_NAME.sub(rb"# \1 \2 ", generate_latest(registry))


def serve(registry: CollectorRegistry, address: str) -> Callable[[], None]:
    """Serves `registry` at "host:port"; nothing where the address is empty. Returns what ends it.

    Raises OSError if the address is taken.
    """
    if not address:
        return lambda: None

    registry.register(TransportMetrics())

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # in s: whoever sends nothing must not keep a thread

        def do_GET(self) -> None:
            body = exposition(registry)
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE_LATEST)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Scrapes are no news."""

    host, _, port = address.rpartition(":")
    server = ThreadingHTTPServer((host or "0.0.0.0", int(port)), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    _log.info("metrics", address=f"{host}:{server.server_port}")

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
