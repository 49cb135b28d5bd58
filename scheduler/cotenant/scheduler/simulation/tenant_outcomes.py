"""What a simulation found of tenants: what clients of each saw, and the work that was launched for it."""

from dataclasses import dataclass, field

from cotenant.scheduler import events as ev
from cotenant.scheduler.simulation.outcome import ModelOutcome


@dataclass
class TenantOutcome(ModelOutcome):
    """What clients of a tenant saw; `work_ns` is its share of the solo work of batches."""

    over_quota: int = 0  # of those refused
    work_ns: int = 0


@dataclass
class TenantOutcomes:
    """See the module's text. Tenants are called as their clients call them, also where the core has them as one."""

    of: dict[str, TenantOutcome] = field(default_factory=dict)
    _tenants: dict[int, str] = field(default_factory=dict)  # of requests that wait or run, by id

    def offered(self, request: ev.Request) -> None:
        """A request arrives."""
        self._tenants[request.request_id] = request.tenant
        self.of.setdefault(request.tenant, TenantOutcome()).offered += 1

    def launched(self, batch: ev.Batch) -> None:
        """A batch is ordered."""
        for request in batch.requests:
            share_ns = batch.forecast.work_ns * request.batch_size // batch.batch_class.batch_size
            self.of[self._tenants[request.request_id]].work_ns += share_ns

    def refused(self, refusal: ev.Refuse) -> None:
        """A request is refused."""
        found = self.of[self._tenants.pop(refusal.request_id)]
        found.refused += 1
        found.over_quota += refusal.excess is not None

    def answered(self, request: ev.Request, latency_ns: int, *, late: bool) -> None:
        """A request is answered with outputs."""
        found = self.of[self._tenants.pop(request.request_id)]
        found.latencies_ns.append(latency_ns)
        found.late += late
        found.in_time += not late
