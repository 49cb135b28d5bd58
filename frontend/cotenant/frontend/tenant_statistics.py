"""What clients of each tenant saw. Counts only, of a bounded number of tenants; `metrics.py` shows them.

The scheduler tells which tenants have settings, and how many others to tell apart; the rest is counted as one.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from cotenant.frontend.errors import RequestError
from cotenant.runtime import tenant_names
from cotenant.v1 import scheduler_pb2, types_pb2

_OTHERS = 256  # until the scheduler has told
# What went wrong on our side, or was given up by the client; all other reasons are refusals.
_FAILURES = (
    types_pb2.REJECT_REASON_CANCELLED,
    types_pb2.REJECT_REASON_EXECUTION_FAILED,
    types_pb2.REJECT_REASON_EXECUTOR_LOST,
    types_pb2.REJECT_REASON_SCHEDULER_LOST,
    types_pb2.REJECT_REASON_INPUTS_MISSING,
)


@dataclass(slots=True)
class TenantCounts:
    """Requests of one tenant."""

    in_time: int = 0
    late: int = 0
    refused: int = 0
    failed: int = 0
    over_quota: int = 0  # of those refused

    def outcomes(self) -> dict[str, int]:
        """By outcome, each request once."""
        return {"in_time": self.in_time, "late": self.late, "refused": self.refused, "failed": self.failed}


class TenantStatistics:
    """See the module's text."""

    def __init__(self) -> None:
        self.tenants: dict[str, TenantCounts] = {}
        self._reported: dict[str, dict[str, int]] = {}
        self._known: frozenset[str] = frozenset()
        self._others = _OTHERS

    def know(self, names: Iterable[str], others: int) -> None:
        """Takes whom to tell apart. What was counted for others so far stays theirs."""
        self._known, self._others = frozenset(names), others

    def of(self, tenant: str) -> TenantCounts:
        """The counts that a tenant's requests go to."""
        found = self.tenants.get(tenant)
        if found is None:
            apart = tenant in self._known or tenant in ("", tenant_names.OTHERS)
            if not apart and sum(name not in self._known for name in self.tenants) >= self._others:
                return self.of(tenant_names.OTHERS)
            found = self.tenants[tenant] = TenantCounts()
        return found

    def succeeded(self, tenant: str, *, late: bool) -> None:
        """A request was answered with outputs."""
        counts = self.of(tenant)
        counts.late += late
        counts.in_time += not late

    def failed(self, tenant: str, error: RequestError) -> None:
        """A request got no outputs. What was wrong in itself is not counted."""
        if not error.refusal:
            return
        counts = self.of(tenant)
        counts.over_quota += error.refusal == types_pb2.REJECT_REASON_QUOTA_EXCEEDED
        if error.refusal in _FAILURES:
            counts.failed += 1
        else:
            counts.refused += 1

    def report(self, frame: scheduler_pb2.ConnectFrontendRequest) -> None:
        """Writes what clients saw since the last report."""
        for tenant, counts in self.tenants.items():
            now, before = counts.outcomes(), self._reported.get(tenant, {})
            fresh = {outcome: count - before.get(outcome, 0) for outcome, count in now.items()}
            if any(fresh.values()):
                frame.tenant_statistics.add(tenant=tenant, **fresh)
                self._reported[tenant] = now
