"""What people ask about: how well predictions held, what clients saw. Kept beside the core, used by no decision."""

from collections import deque

from cotenant.runtime import tenant_names
from cotenant.scheduler import events as ev
from cotenant.v1 import scheduler_pb2

_RECENT = 256  # batches over which means are taken
_MOST = 2**63 - 1  # of a count, however much is reported; also databases of metrics hold that
_TENANTS = 2048  # told apart; frontends tell of fewer each


class _Outcomes:
    """What clients saw, as frontends report it."""

    def __init__(self) -> None:
        self.in_time = self.late = self.refused = self.failed = 0

    def add(self, told: scheduler_pb2.TenantStatistics | scheduler_pb2.FrontendStatistics) -> None:
        """Adds a report."""
        self.in_time = min(_MOST, self.in_time + told.in_time)
        self.late = min(_MOST, self.late + told.late)
        self.refused = min(_MOST, self.refused + told.refused)
        self.failed = min(_MOST, self.failed + told.failed)


class ModelLedger(_Outcomes):
    """Counts of one version of a model."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = self.items = self.would_refuse = 0
        self.recent: deque[tuple[float, bool, float]] = deque(maxlen=_RECENT)  # |error|, in bound, slowdown

    def means(self) -> tuple[float, float, float]:
        """Mean relative error, share within the bound, and mean slowdown of recent batches; zeros if none ran."""
        count = len(self.recent) or 1
        error, covered, slowdown = (sum(float(row[k]) for row in self.recent) / count for k in range(3))
        return error, covered, slowdown


class TenantLedger(_Outcomes):
    """Counts of one tenant."""

    def __init__(self) -> None:
        super().__init__()
        self.over_quota = self.work_ns = 0


class Ledger:
    """Counts of all models, and of the core itself."""

    def __init__(self) -> None:
        self.models: dict[tuple[str, str], ModelLedger] = {}
        self.decision_count = 0
        self.decision_ns = 0
        self.refusals: dict[str, int] = {}
        self.tenants: dict[str, TenantLedger] = {}

    def of(self, model: str, version: str) -> ModelLedger:
        """The ledger of a version, made if it is new."""
        return self.models.setdefault((model, version), ModelLedger())

    def decided(self, duration_ns: int) -> None:
        """One call of the core took so long."""
        self.decision_count += 1
        self.decision_ns += duration_ns

    def finished(self, event: ev.BatchFinished) -> None:
        """A batch has run."""
        known = event.batch_class
        ledger = self.of(known.model, known.version)
        ledger.batches += 1
        ledger.items += known.batch_size
        if event.forecast and event.duration_ns and event.forecast.work_ns and not event.failed:
            error = abs(event.forecast.duration_ns - event.duration_ns) / event.duration_ns
            within = event.duration_ns <= event.forecast.bound_ns
            ledger.recent.append((error, within, event.duration_ns / event.forecast.work_ns))

    def would_refuse(self, action: ev.WouldRefuse) -> None:
        """Observe-only mode let a request through."""
        for (model, _), ledger in self.models.items():
            ledger.would_refuse += model == action.model

    def tenant(self, name: str) -> TenantLedger:
        """The ledger of a tenant, made if it is new; of too many, one that all others share."""
        found = self.tenants.get(name)
        if found is None:
            name = name if len(self.tenants) < _TENANTS else tenant_names.OTHERS
            found = self.tenants.setdefault(name, TenantLedger())
        return found

    def launched(self, batch: ev.Batch) -> None:
        """A batch is launched; each tenant has its share of it."""
        for request in batch.requests:
            share_ns = batch.forecast.work_ns * request.batch_size // batch.batch_class.batch_size
            self.tenant(request.tenant).work_ns += share_ns

    def tenant_reported(self, statistics: scheduler_pb2.TenantStatistics) -> None:
        """What a frontend's clients of one tenant saw."""
        self.tenant(statistics.tenant).add(statistics)

    def reported(self, statistics: scheduler_pb2.FrontendStatistics, versions: list[str]) -> None:
        """What a frontend's clients saw; booked under the latest version that serves."""
        self.of(statistics.model, versions[-1] if versions else "").add(statistics)
