"""The executor's Prometheus metrics, read when someone asks."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cotenant.executor.device import Device
from cotenant.executor.exchange import Exchange
from cotenant.executor.gpu_state import REASONS, GpuState
from cotenant.executor.models import Models
from cotenant.executor.reports import Reports
from cotenant.v1 import executor_pb2 as pb

# Of a GPU's state: metric, field, unit of the metric per unit of the field, and what it is.
_STATE = (
    ("memory_used_bytes", "memory_used_bytes", 1, "Memory in use on the GPU, by all processes."),
    ("memory_bytes", "memory_total_bytes", 1, "Memory of the GPU."),
    ("sm_clock_hertz", "sm_clock_mhz", 1e6, "Clock of the multiprocessors."),
    ("sm_clock_max_hertz", "sm_clock_max_mhz", 1e6, "The most that clock may be."),
    ("memory_clock_hertz", "memory_clock_mhz", 1e6, "Clock of the memory."),
    ("memory_clock_max_hertz", "memory_clock_max_mhz", 1e6, "The most that clock may be."),
    ("power_watts", "power_w", 1, "Power drawn."),
    ("power_limit_watts", "power_limit_w", 1, "The most power it may draw."),
    ("temperature_celsius", "temperature_c", 1, "Temperature of the chip."),
    ("utilisation_ratio", "utilisation", 1, "Share of time in which any kernel ran."),
)


class ExecutorMetrics(Collector):
    """Collects on demand."""

    def __init__(
        self, device: Device, models: Models, exchange: Exchange, reports: Reports, state: GpuState | None = None
    ) -> None:
        self._device, self._models, self._exchange, self._reports = device, models, exchange, reports
        self._state = state
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """Nothing: labels are only known when collected."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All metrics as of now."""
        device_id = self._device.describe().device_id
        running = GaugeMetricFamily("cotenant_executor_running_batches", "Batches on the device.", labels=["device"])
        running.add_metric([device_id], self._device.timeline.running)
        memory = GaugeMetricFamily("cotenant_model_memory_bytes", "Memory of a model.", labels=["model", "version"])
        for (model, version), loaded in list(self._models.table.items()):
            memory.add_metric([model, version], loaded.model.memory_bytes)
        lost = CounterMetricFamily("cotenant_events_lost", "Events dropped because a receiver was away.", labels=["to"])
        lost.add_metric(["scheduler"], self._reports.to_scheduler.lost)
        lost.add_metric(["predictor"], self._reports.to_predictor.lost)
        waiting = GaugeMetricFamily("cotenant_events_waiting", "Events not acknowledged yet.", labels=["to"])
        waiting.add_metric(["scheduler"], len(self._reports.to_scheduler))
        waiting.add_metric(["predictor"], len(self._reports.to_predictor))
        used = GaugeMetricFamily("cotenant_output_bytes_used", "Shared memory that outputs occupy.", labels=["device"])
        used.add_metric([device_id], self._exchange.used_bytes)
        yield from (running, memory, lost, waiting, used)
        if self._state and self._state.latest:
            yield from _gpu(device_id, self._state.latest)


def _gpu(device_id: str, state: pb.DeviceState) -> Iterator[Metric]:
    """What the driver told last; nothing of what it does not tell."""
    for name, field, scale, text in _STATE:
        if state.HasField(field):
            gauge = GaugeMetricFamily(f"cotenant_gpu_{name}", text, labels=["device"])
            gauge.add_metric([device_id], getattr(state, field) * scale)
            yield gauge
    if state.throttle_reasons_known:
        gauge = GaugeMetricFamily(
            "cotenant_gpu_throttled", "1 if this holds the clocks below their most.", labels=["device", "reason"]
        )
        for reason in REASONS.values():
            name = pb.ThrottleReason.Name(reason).removeprefix("THROTTLE_REASON_").lower()
            gauge.add_metric([device_id, name], float(reason in state.throttle_reasons))
        yield gauge
