"""What has been served: Triton's statistics, and reports to the scheduler. Counts only; `metrics.py` shows them.

Requests are counted by version of a model, once they are known to be for one that serves. Plain integers, bumped on
the event loop's thread; whoever scrapes metrics reads them from another.
"""

import time
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field

from cotenant.frontend.catalogue import ModelView
from cotenant.frontend.errors import RequestError
from cotenant.frontend.response_statistics import Duration, Responses
from cotenant.frontend.tenant_statistics import TenantStatistics
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.metrics import LATENCY_BUCKETS_S
from cotenant.v1 import executor_pb2, scheduler_pb2, types_pb2

_BOUNDS_NS = tuple(round(bound * 1e9) for bound in LATENCY_BUCKETS_S)
# Triton's reasons of a failure, and what of ours is which; all other refusals are rejections.
REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
_TRITON_REASON = {
    0: "OTHER",  # wrong in itself
    types_pb2.REJECT_REASON_CANCELLED: "CANCELED",
    types_pb2.REJECT_REASON_EXECUTION_FAILED: "BACKEND",
    types_pb2.REJECT_REASON_EXECUTOR_LOST: "OTHER",
    types_pb2.REJECT_REASON_SCHEDULER_LOST: "OTHER",
    types_pb2.REJECT_REASON_INPUTS_MISSING: "OTHER",
}
_OVERHEADS_NEEDED = 20  # fewer say nothing about a 95th percentile


@dataclass(slots=True)
class Histogram:
    """Durations by `LATENCY_BUCKETS_S`; `counts` has one more for what is longer than all."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(_BOUNDS_NS) + 1))
    ns: int = 0

    def add(self, ns: int) -> None:
        """One more."""
        self.counts[bisect_left(_BOUNDS_NS, ns)] += 1
        self.ns += ns


@dataclass(slots=True)
class Compute:
    """What execution took: of requests, or of batches of one size."""

    input: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)
    output: Duration = field(default_factory=Duration)

    def add(self, execution: executor_pb2.Execution) -> None:
        """One more."""
        self.input.add(execution.input_ns)
        self.infer.add(execution.infer_ns)
        self.output.add(execution.output_ns)

    def put(self, message: "pb.InferStatistics | pb.InferBatchStatistics") -> None:
        """Writes it."""
        self.input.put(message.compute_input)
        self.infer.put(message.compute_infer)
        self.output.put(message.compute_output)


@dataclass(slots=True)
class ModelStatistics:
    """Counts of one version of a model."""

    last_inference_ms: int = 0  # since 1970
    inference_count: int = 0
    execution_count: int = 0
    pending: int = 0
    in_time: int = 0
    late: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    cache_hit: Duration = field(default_factory=Duration)  # looking up and answering
    cache_miss: Duration = field(default_factory=Duration)  # looking up in vain, and keeping
    compute: Compute = field(default_factory=Compute)
    batches: dict[int, Compute] = field(default_factory=dict)  # by batch size
    responses: Responses = field(default_factory=Responses)  # of a decoupled model
    failures: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    refusals: dict[str, int] = field(default_factory=dict)  # by our reason, cancellations and failures included
    latencies: Histogram = field(default_factory=Histogram)
    queueing: Histogram = field(default_factory=Histogram)

    def put(self, message: pb.ModelStatistics) -> None:
        """Writes them as Triton does."""
        message.last_inference = self.last_inference_ms
        message.inference_count, message.execution_count = self.inference_count, self.execution_count
        stats = message.inference_stats
        self.success.put(stats.success)
        self.fail.put(stats.fail)
        self.queue.put(stats.queue)
        self.compute.put(stats)
        self.cache_hit.put(stats.cache_hit)
        self.cache_miss.put(stats.cache_miss)
        for size in sorted(self.batches):
            self.batches[size].put(message.batch_stats.add(batch_size=size))
        self.responses.put(message)


@dataclass(slots=True)
class _Report:
    """What one model's clients saw since the last report to the scheduler."""

    in_time: int = 0
    late: int = 0
    refused: int = 0
    failed: int = 0
    overhead_ns: deque[int] = field(default_factory=lambda: deque(maxlen=256))


class Statistics:
    """All models."""

    def __init__(self) -> None:
        self.models: dict[tuple[str, str], ModelStatistics] = {}
        self._reports: dict[str, _Report] = {}
        self.tenants = TenantStatistics()

    def of(self, model: ModelView) -> ModelStatistics:
        """Statistics of a version, made if it is new."""
        key = (model.name, model.version)
        found = self.models.get(key)
        if found is None:
            found = self.models[key] = ModelStatistics()
        return found

    def _report(self, name: str) -> _Report:
        report = self._reports.get(name)
        if report is None:
            report = self._reports[name] = _Report()
        return report

    def succeeded(
        self,
        model: ModelView,
        execution: executor_pb2.Execution,
        *,
        items: int,
        queue_ns: int,
        total_ns: int,
        late: bool,
        measured: bool = True,
    ) -> None:
        """A request was answered with outputs, `total_ns` after it arrived.

        An ensemble has no execution of its own: nothing is `measured` that tells what answers take.
        """
        stats, report = self.of(model), self._report(model.name)
        stats.last_inference_ms = time.time_ns() // 1_000_000
        stats.inference_count += items
        stats.success.add(total_ns)
        stats.queue.add(queue_ns)
        stats.compute.add(execution)
        stats.latencies.add(total_ns)
        stats.queueing.add(queue_ns)
        if late:
            stats.late += 1
            report.late += 1
        else:
            stats.in_time += 1
            report.in_time += 1
        if measured:
            report.overhead_ns.append(max(0, total_ns - queue_ns - execution.input_ns - execution.infer_ns))

    def cached(self, model: ModelView, *, total_ns: int, lookup_ns: int) -> None:
        """A request was answered from the cache; as in Triton, no inference is counted."""
        stats, report = self.of(model), self._report(model.name)
        stats.success.add(total_ns)
        stats.cache_hit.add(lookup_ns)
        stats.latencies.add(total_ns)
        stats.in_time += 1
        report.in_time += 1

    def ran(self, model: ModelView, execution: executor_pb2.Execution) -> None:
        """A batch ran."""
        stats = self.of(model)
        stats.execution_count += 1
        stats.batches.setdefault(execution.batch_size, Compute()).add(execution)

    def failed(self, model: ModelView, error: RequestError, total_ns: int) -> None:
        """A request got no outputs. What was wrong in itself is not the service's failure, nor reported as such."""
        stats = self.of(model)
        stats.fail.add(total_ns)
        reason = _TRITON_REASON.get(error.refusal, "REJECTED")
        stats.failures[reason] += 1
        if not error.refusal:
            return
        stats.refusals[error.reason] = stats.refusals.get(error.reason, 0) + 1
        if reason == "REJECTED":
            self._report(model.name).refused += 1
        else:
            self._report(model.name).failed += 1

    def report(self, frame: scheduler_pb2.ConnectFrontendRequest) -> None:
        """Writes what clients saw since the last report."""
        self.tenants.report(frame)
        for name, report in self._reports.items():
            if not (report.in_time or report.late or report.refused or report.failed):
                continue
            overheads: list[int] = []
            if len(report.overhead_ns) >= _OVERHEADS_NEEDED:
                # Told once: what was measured while the machine was overloaded must not outlive that.
                overheads = sorted(report.overhead_ns)
                report.overhead_ns.clear()
            frame.statistics.add(
                model=name,
                in_time=report.in_time,
                late=report.late,
                refused=report.refused,
                failed=report.failed,
                answer_overhead_ns=overheads[int(0.95 * (len(overheads) - 1))] if overheads else 0,
            )
            report.in_time = report.late = report.refused = report.failed = 0
