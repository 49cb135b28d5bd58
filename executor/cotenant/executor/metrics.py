"""The executor's Prometheus metrics, read when someone asks."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cotenant.executor.device import Device
from cotenant.executor.exchange import Exchange
from cotenant.executor.models import Models
from cotenant.executor.reports import Reports


class ExecutorMetrics(Collector):
    """Collects on demand."""

    def __init__(self, device: Device, models: Models, exchange: Exchange, reports: Reports) -> None:
        self._device, self._models, self._exchange, self._reports = device, models, exchange, reports
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
