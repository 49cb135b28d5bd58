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
        service, knowledge = self._service, self._service.knowledge
        intake, keeper = knowledge.intake, service.keeper
        yield _counter("events", "Events received.", knowledge.events)
        yield _counter("events_missed", "Events that never arrived.", knowledge.missed)
        yield _counter("events_repeated", "Events that were seen before, or came out of order.", knowledge.repeated)
        yield _counter(
            "clock_jumps", "Events that happened more than 1 s before the one before.", knowledge.clock_jumps
        )
        yield _counter("classes_forgotten", "Classes forgotten for others that ran later.", knowledge.forgotten)
        yield _counter("pushed_bytes", "Bytes of estimates pushed.", service.pushed_bytes)
        yield _counter("write_failures", "Times that state could not be written.", keeper.failures)
        yield GaugeMetricFamily("cotenant_predictor_write_seconds", "Duration of the last write.", value=keeper.write_s)
        yield GaugeMetricFamily("cotenant_predictor_watchers", "Subscribers.", value=len(service.watchers))
        rejected = CounterMetricFamily("cotenant_predictor_events_rejected", "Events not learned.", labels=["reason"])
        for reason, count in list(intake.rejected.items()):
            rejected.add_metric([reason], count)
        yield rejected
        yield from self._devices()

    def _devices(self) -> Iterator[Metric]:
        classes = GaugeMetricFamily("cotenant_predictor_classes", "Batch classes known.", labels=["device"])
        batches = GaugeMetricFamily("cotenant_predictor_batches", "Batches learned from.", labels=["device"])
        error = GaugeMetricFamily("cotenant_predictor_error", "Mean relative error of forecasts.", labels=["device"])
        for device_id, known in list(self._service.knowledge.devices.items()):
            errors = list(known.model.errors)
            classes.add_metric([device_id], len(known.model.classes))
            batches.add_metric([device_id], known.batches)
            error.add_metric([device_id], sum(errors) / len(errors) if errors else 0.0)
        yield from (classes, batches, error)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"cotenant_predictor_{name}", text, value=value)
