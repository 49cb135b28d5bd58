"""What Prometheus learns of a process's transport: when certificates end, what was reloaded, who was turned away."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from cotenant.runtime import transport


class TransportMetrics:
    """A collector for `prometheus_client`; empty where nothing is secured."""

    def collect(self) -> Iterator[Metric]:
        """The metrics as of now."""
        own = transport.own()
        if own.certificates and (expires_s := own.certificates.get().expires_s):
            text = "When the certificate in use ends, Unix time"
            yield GaugeMetricFamily("cotenant_certificate_expiry_timestamp_seconds", text, expires_s)
        if own.reloaded:
            text = "Files that were replaced: their content was taken over, or the last good one kept"
            reloads = CounterMetricFamily("cotenant_reload", text, labels=["what", "outcome"])
            for one in own.reloaded:
                reloads.add_metric([one.what, "taken"], one.taken)
                reloads.add_metric([one.what, "kept"], one.kept)
            yield reloads
        if own.guard:
            denied = CounterMetricFamily("cotenant_call_denied", "Calls that were not allowed", labels=["code"])
            for code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
                denied.add_metric([code], own.denials.counts[code])
            yield denied
