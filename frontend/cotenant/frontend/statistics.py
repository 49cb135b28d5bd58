"""What has been served: Triton's statistics, Prometheus metrics, and reports to the scheduler. Counts only."""

import time
from collections import deque
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cotenant.frontend.catalogue import ModelView
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.metrics import LATENCY_BUCKETS_S
from cotenant.v1 import executor_pb2, scheduler_pb2

_LABELS = ["model", "version"]


@dataclass(slots=True)
class Duration:
    """A count and a sum of nanoseconds."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """One more."""
        self.count += 1
        self.ns += ns

    def put(self, message: pb.StatisticDuration) -> None:
        """Writes it."""
        message.count, message.ns = self.count, self.ns


@dataclass(slots=True)
class Batches:
    """What ran at one batch size."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


class ModelStatistics:
    """Counts of one version of a model."""

    def __init__(self) -> None:
        self.last_inference_ms = 0
        self.inference_count = self.execution_count = 0
        self.success, self.fail, self.queue = Duration(), Duration(), Duration()
        self.compute_input, self.compute_infer, self.compute_output = Duration(), Duration(), Duration()
        self.batches: dict[int, Batches] = {}

    def put(self, message: pb.ModelStatistics) -> None:
        """Writes them as Triton does."""
        message.last_inference = self.last_inference_ms
        message.inference_count, message.execution_count = self.inference_count, self.execution_count
        stats = message.inference_stats
        for name in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"):
            getattr(self, name).put(getattr(stats, name))
        for size in sorted(self.batches):
            row, batches = message.batch_stats.add(batch_size=size), self.batches[size]
            batches.compute_input.put(row.compute_input)
            batches.compute_infer.put(row.compute_infer)
            batches.compute_output.put(row.compute_output)


@dataclass(slots=True)
class _Report:
    """What one model's clients saw since the last report to the scheduler."""

    in_time: int = 0
    late: int = 0
    refused: int = 0
    failed: int = 0
    overhead_ns: deque[int] = field(default_factory=lambda: deque(maxlen=256))


class Metrics:
    """Prometheus: Triton's names where Triton has them, ours with histograms."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, labels: list[str] = _LABELS) -> Counter:
            return Counter(name, text, labels, registry=registry)

        self.success = counter("nv_inference_request_success", "Number of successful inference requests")
        self.failure = counter("nv_inference_request_failure", "Number of failed requests", [*_LABELS, "reason"])
        self.count = counter("nv_inference_count", "Number of inferences performed")
        self.executions = counter("nv_inference_exec_count", "Number of model executions performed")
        self.request_us = counter("nv_inference_request_duration_us", "Cumulative request duration in us")
        self.queue_us = counter("nv_inference_queue_duration_us", "Cumulative queueing duration in us")
        self.input_us = counter("nv_inference_compute_input_duration_us", "Cumulative input duration in us")
        self.infer_us = counter("nv_inference_compute_infer_duration_us", "Cumulative inference duration in us")
        self.output_us = counter("nv_inference_compute_output_duration_us", "Cumulative output duration in us")
        self.refused = counter("cotenant_request_refused", "Requests refused, by reason", [*_LABELS, "reason"])
        self.late = counter("cotenant_request_late", "Requests answered after their SLO")
        self.in_time = counter("cotenant_request_in_time", "Requests answered within their SLO")
        self.pending = Gauge(
            "nv_inference_pending_request_count", "Requests not answered yet", _LABELS, registry=registry
        )
        self.latency = Histogram(
            "cotenant_request_latency_seconds",
            "From arrival to answer",
            _LABELS,
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.queue = Histogram(
            "cotenant_request_queue_seconds",
            "From arrival to the start of the batch",
            _LABELS,
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )


class _Bound:
    """Everything about one version of a model, with the metrics' labels looked up once."""

    def __init__(self, metrics: Metrics, name: str, version: str) -> None:
        self.statistics = ModelStatistics()
        self.success = metrics.success.labels(name, version)
        # Triton always shows all four.
        self.failures = {
            r: metrics.failure.labels(name, version, r) for r in ("REJECTED", "CANCELED", "BACKEND", "OTHER")
        }
        self.count = metrics.count.labels(name, version)
        self.executions = metrics.executions.labels(name, version)
        self.request_us = metrics.request_us.labels(name, version)
        self.queue_us = metrics.queue_us.labels(name, version)
        self.input_us = metrics.input_us.labels(name, version)
        self.infer_us = metrics.infer_us.labels(name, version)
        self.output_us = metrics.output_us.labels(name, version)
        self.late = metrics.late.labels(name, version)
        self.in_time = metrics.in_time.labels(name, version)
        self.pending = metrics.pending.labels(name, version)
        self.latency = metrics.latency.labels(name, version)
        self.queue = metrics.queue.labels(name, version)


class Statistics:
    """All models."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._metrics = Metrics(self.registry)
        self._models: dict[tuple[str, str], _Bound] = {}
        self._reports: dict[str, _Report] = {}

    def of(self, name: str, version: str) -> ModelStatistics:
        """Statistics of a version, made if it is new."""
        return self._bound(name, version).statistics

    def _bound(self, name: str, version: str) -> _Bound:
        bound = self._models.get((name, version))
        if bound is None:
            bound = self._models[name, version] = _Bound(self._metrics, name, version)
        return bound

    def _report(self, name: str) -> _Report:
        report = self._reports.get(name)
        if report is None:
            report = self._reports[name] = _Report()
        return report

    def arrived(self, model: ModelView) -> None:
        """A request was submitted."""
        self._bound(model.name, model.version).pending.inc()

    def left(self, model: ModelView) -> None:
        """A submitted request has its answer, or nobody waits for it any more."""
        self._bound(model.name, model.version).pending.dec()

    def succeeded(
        self,
        model: ModelView,
        execution: executor_pb2.Execution,
        *,
        items: int,
        queue_ns: int,
        total_ns: int,
        late: bool,
    ) -> None:
        """A request was answered with outputs, `total_ns` after it arrived."""
        bound = self._bound(model.name, model.version)
        stats = bound.statistics
        stats.last_inference_ms = time.time_ns() // 1_000_000
        stats.inference_count += items
        stats.success.add(total_ns)
        stats.queue.add(queue_ns)
        stats.compute_input.add(execution.input_ns)
        stats.compute_infer.add(execution.infer_ns)
        stats.compute_output.add(execution.output_ns)
        bound.success.inc()
        bound.count.inc(items)
        if execution.first_of_batch:
            self._batch(bound, execution)
        bound.request_us.inc(total_ns / 1e3)
        bound.queue_us.inc(queue_ns / 1e3)
        bound.input_us.inc(execution.input_ns / 1e3)
        bound.infer_us.inc(execution.infer_ns / 1e3)
        bound.output_us.inc(execution.output_ns / 1e3)
        bound.latency.observe(total_ns / 1e9)
        bound.queue.observe(queue_ns / 1e9)
        report = self._report(model.name)
        if late:
            bound.late.inc()
            report.late += 1
        else:
            bound.in_time.inc()
            report.in_time += 1
        report.overhead_ns.append(max(0, total_ns - queue_ns - execution.input_ns - execution.infer_ns))

    def _batch(self, bound: _Bound, execution: executor_pb2.Execution) -> None:
        bound.statistics.execution_count += 1
        bound.executions.inc()
        batches = bound.statistics.batches.setdefault(execution.batch_size, Batches())
        batches.compute_input.add(execution.input_ns)
        batches.compute_infer.add(execution.infer_ns)
        batches.compute_output.add(execution.output_ns)

    def failed(self, model: ModelView, total_ns: int, *, reason: str, kind: str) -> None:
        """A request got no outputs. `kind` is Triton's reason, `reason` ours (empty if it is no refusal)."""
        bound = self._bound(model.name, model.version)
        bound.statistics.fail.add(total_ns)
        bound.failures[kind].inc()
        if kind == "REJECTED":
            self._metrics.refused.labels(model.name, model.version, reason).inc()
            self._report(model.name).refused += 1
        else:
            self._report(model.name).failed += 1

    def report(self, frame: scheduler_pb2.ConnectFrontendRequest) -> None:
        """Writes what clients saw since the last report."""
        for name, report in self._reports.items():
            if not (report.in_time or report.late or report.refused or report.failed):
                continue
            overheads = sorted(report.overhead_ns)
            frame.statistics.add(
                model=name,
                in_time=report.in_time,
                late=report.late,
                refused=report.refused,
                failed=report.failed,
                answer_overhead_ns=overheads[int(0.95 * (len(overheads) - 1))] if len(overheads) >= 20 else 0,
            )
            report.in_time = report.late = report.refused = report.failed = 0
