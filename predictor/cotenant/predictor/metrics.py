"""The predictor's Prometheus metrics, read when someone asks."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cotenant.predictor.service import PredictorService


class PredictorMetrics(Collector):
    """Collects on demand."""

    def __init__(self, service: PredictorService) -> None:
        self._service = service
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """Nothing: labels are only known when collected."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All metrics as of now."""
        service = self._service
        events = CounterMetricFamily("cotenant_predictor_events", "Events received.")
        events.add_metric([], service.events)
        gaps = CounterMetricFamily("cotenant_predictor_events_missed", "Events that never arrived.")
        gaps.add_metric([], service.gaps)
        rejected = CounterMetricFamily("cotenant_predictor_events_rejected", "Events not learned.", labels=["reason"])
        for reason, count in list(service.intake.rejected.items()):
            rejected.add_metric([reason], count)
        classes = GaugeMetricFamily("cotenant_predictor_classes", "Batch classes known.", labels=["device"])
        error = GaugeMetricFamily("cotenant_predictor_error", "Mean relative error of forecasts.", labels=["device"])
        for device_id, model in list(service.devices.items()):
            classes.add_metric([device_id], len(model.classes))
            errors = list(model.errors)
            error.add_metric([device_id], sum(errors) / len(errors) if errors else 0.0)
        yield from (events, gaps, rejected, classes, error)
