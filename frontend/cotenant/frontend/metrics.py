"""The frontend's Prometheus metrics, made of the statistics when someone asks.

Triton's names where Triton has them (docs/protocol.md); ours, with histograms, begin with `cotenant_`.
"""

from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from cotenant.frontend.dispatch import Dispatcher
from cotenant.frontend.statistics import Histogram, ModelStatistics, Statistics
from cotenant.runtime import tenant_names
from cotenant.runtime.metrics import LATENCY_BUCKETS_S, triton_counter

_LABELS = ["model", "version"]
_Value = Callable[[ModelStatistics], float]

_TRITON: tuple[tuple[str, str, _Value], ...] = (
    ("nv_inference_request_success", "Requests answered with outputs", lambda s: s.success.count),
    ("nv_inference_count", "Items in requests answered with outputs", lambda s: s.inference_count),
    ("nv_inference_exec_count", "Batches run", lambda s: s.execution_count),
    ("nv_inference_request_duration_us", "Time from arrival to answer, in us", lambda s: s.success.ns / 1e3),
    ("nv_inference_queue_duration_us", "Time from arrival to execution, in us", lambda s: s.queue.ns / 1e3),
    ("nv_inference_compute_input_duration_us", "Time to gather inputs, in us", lambda s: s.compute.input.ns / 1e3),
    ("nv_inference_compute_infer_duration_us", "Time of execution, in us", lambda s: s.compute.infer.ns / 1e3),
    ("nv_inference_compute_output_duration_us", "Time to hand out outputs, in us", lambda s: s.compute.output.ns / 1e3),
    ("nv_cache_num_hits_per_model", "Requests answered from the response cache", lambda s: s.cache_hit.count),
    ("nv_cache_num_misses_per_model", "Requests not found in the response cache", lambda s: s.cache_miss.count),
    ("nv_cache_hit_duration_per_model", "Time of finding cached answers, in us", lambda s: s.cache_hit.ns / 1e3),
    ("nv_cache_miss_duration_per_model", "Time of not finding and keeping, in us", lambda s: s.cache_miss.ns / 1e3),
)
_OURS: tuple[tuple[str, str, _Value], ...] = (
    ("cotenant_request_in_time", "Requests answered within their budget, or without having one", lambda s: s.in_time),
    ("cotenant_request_late", "Requests answered after their budget", lambda s: s.late),
)
_HISTOGRAMS: tuple[tuple[str, str, Callable[[ModelStatistics], Histogram]], ...] = (
    ("cotenant_request_latency_seconds", "From arrival to answer", lambda s: s.latencies),
    ("cotenant_request_queue_seconds", "From arrival to the start of the batch", lambda s: s.queueing),
)


class FrontendMetrics(Collector):
    """See the module's text. Collects on the thread of whoever asks."""

    def __init__(self, statistics: Statistics, dispatcher: Dispatcher) -> None:
        self._statistics, self._dispatcher = statistics, dispatcher
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """Nothing: labels are only known when collected."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All metrics as of now."""
        models = list(self._statistics.models.items())
        for name, text, value in _TRITON:
            yield triton_counter(name, text, _LABELS, ((key, value(stats)) for key, stats in models))
        by_reason = (((*key, reason), n) for key, stats in models for reason, n in stats.failures.items())
        text = "Requests that got no outputs"
        yield triton_counter("nv_inference_request_failure", text, [*_LABELS, "reason"], by_reason)
        pending = GaugeMetricFamily("nv_inference_pending_request_count", "Requests not answered yet", labels=_LABELS)
        for key, stats in models:
            pending.add_metric(key, stats.pending)
        yield pending
        yield from self._ours(models)

    def _tenants(self) -> Iterator[Metric]:
        by_outcome = CounterMetricFamily(
            "cotenant_tenant_requests", "Requests of a tenant by outcome", labels=["tenant", "outcome"]
        )
        over = CounterMetricFamily("cotenant_tenant_over_quota", "Refusals for a quota", labels=["tenant"])
        for tenant, counts in list(self._statistics.tenants.tenants.items()):
            name = tenant_names.shown(tenant)
            for outcome, count in counts.outcomes().items():
                by_outcome.add_metric([name, outcome], count)
            over.add_metric([name], counts.over_quota)
        yield from (by_outcome, over)

    def _ours(self, models: list[tuple[tuple[str, str], ModelStatistics]]) -> Iterator[Metric]:
        for name, text, value in _OURS:
            counter = CounterMetricFamily(name, text, labels=_LABELS)
            for key, stats in models:
                counter.add_metric(key, value(stats))
            yield counter
        refused = CounterMetricFamily("cotenant_request_refused", "Refusals by reason", labels=[*_LABELS, "reason"])
        for key, stats in models:
            for reason, count in list(stats.refusals.items()):
                refused.add_metric([*key, reason], count)
        yield refused
        yield from self._tenants()
        for name, text, of in _HISTOGRAMS:
            histogram = HistogramMetricFamily(name, text, labels=_LABELS)
            for key, stats in models:
                counts = list(accumulate(of(stats).counts))
                bounds = [*map(str, LATENCY_BUCKETS_S), "+Inf"]
                histogram.add_metric(key, list(zip(bounds, counts, strict=True)), of(stats).ns / 1e9)
            yield histogram
        staging = self._dispatcher.staging
        used = GaugeMetricFamily("cotenant_staging_bytes", "Shared memory for inputs, in bytes", labels=["state"])
        used.add_metric(["used"], staging.used_bytes)
        used.add_metric(["capacity"], staging.capacity_bytes)
        yield used
