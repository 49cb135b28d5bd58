"""The scheduler's Prometheus metrics, read from books and ledger when someone asks."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cotenant.runtime import tenant_names
from cotenant.scheduler.shell import Shell


class SchedulerMetrics(Collector):
    """Collects on demand, so that deciding pays nothing for being watched."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """Nothing: names are only known when collected."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All metrics as of now."""
        yield from self._devices()
        yield from self._models()
        yield from self._tenants()
        ledger = self._shell.ledger
        decided = CounterMetricFamily("cotenant_decisions", "Groups of events decided.")
        decided.add_metric([], ledger.decision_count)
        spent = CounterMetricFamily("cotenant_decision_seconds", "Time spent deciding.")
        spent.add_metric([], ledger.decision_ns / 1e9)
        refused = CounterMetricFamily("cotenant_refusals", "Requests refused by the scheduler.", labels=["reason"])
        for reason, count in list(ledger.refusals.items()):
            refused.add_metric([reason], count)
        yield from (decided, spent, refused)

    def _devices(self) -> Iterator[Metric]:
        running = GaugeMetricFamily("cotenant_running_batches", "Batches that run now.", labels=["device"])
        queued = GaugeMetricFamily("cotenant_queued_requests", "Requests that wait.", labels=["device"])
        busy = CounterMetricFamily("cotenant_device_busy_seconds", "Time with a batch running.", labels=["device"])
        batches = CounterMetricFamily("cotenant_device_batch_seconds", "Time times batches running.", labels=["device"])
        online = GaugeMetricFamily("cotenant_device_online", "1 if its executor is connected.", labels=["device"])
        for device_id, device in list(self._shell.core.devices.items()):
            running.add_metric([device_id], len(device.running))
            queued.add_metric([device_id], device.queued)
            busy.add_metric([device_id], device.busy_ns / 1e9)
            batches.add_metric([device_id], device.batch_ns / 1e9)
            online.add_metric([device_id], device.online)
        yield from (running, queued, busy, batches, online)

    def _tenants(self) -> Iterator[Metric]:
        work = CounterMetricFamily("cotenant_tenant_work_seconds", "Solo work launched for it.", labels=["tenant"])
        for name, ledger in list(self._shell.ledger.tenants.items()):
            work.add_metric([tenant_names.shown(name)], ledger.work_ns / 1e9)
        pending = GaugeMetricFamily("cotenant_tenant_pending", "Its requests that wait.", labels=["tenant"])
        tenancy = self._shell.core.state.tenancy
        for name, account in list(tenancy.tenants.accounts.items()) if tenancy.active else ():
            pending.add_metric([tenant_names.shown(name)], account.pending)
        yield from (work, pending)

    def _models(self) -> Iterator[Metric]:
        labels = ["model", "version"]
        error = GaugeMetricFamily(
            "cotenant_prediction_error", "Mean relative error of recent forecasts.", labels=labels
        )
        cover = GaugeMetricFamily("cotenant_bound_coverage", "Share of recent batches within bound.", labels=labels)
        slow = GaugeMetricFamily("cotenant_slowdown", "Mean slowdown of recent batches.", labels=labels)
        batches = CounterMetricFamily("cotenant_batches", "Batches finished.", labels=labels)
        observed = CounterMetricFamily("cotenant_would_refuse", "Refusals in observe-only mode.", labels=labels)
        for key, ledger in list(self._shell.ledger.models.items()):
            for family, value in zip((error, cover, slow), ledger.means(), strict=True):
                family.add_metric(list(key), value)
            batches.add_metric(list(key), ledger.batches)
            observed.add_metric(list(key), ledger.would_refuse)
        yield from (error, cover, slow, batches, observed)
