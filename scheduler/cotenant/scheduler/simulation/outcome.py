"""What a simulation found: of each model what its clients saw, and of batches how forecasts held."""

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cotenant.scheduler.simulation.tenant_outcomes import TenantOutcomes


def _instants() -> "array[int]":
    return array("q")


def _shares() -> "array[float]":
    return array("d")


@dataclass
class ModelOutcome:
    """What clients of a model saw. `latencies_ns` are those of answered requests, in the order of their ends."""

    offered: int = 0
    in_time: int = 0
    late: int = 0
    refused: int = 0
    latencies_ns: "array[int]" = field(default_factory=_instants)

    def answered(self, latency_ns: int, *, late: bool) -> None:
        """One more answer."""
        self.latencies_ns.append(latency_ns)
        self.late += late
        self.in_time += not late

    @property
    def slo_attainment(self) -> float:
        """Share of offered requests answered in time; a refusal is a miss. 1 if nothing was offered."""
        return self.in_time / self.offered if self.offered else 1.0


@dataclass
class SimulationOutcome:
    """What a simulation found. Prediction errors are |forecast - actual| / actual of batches.

    `busy_ns` is the sum of the durations of batches, `co_runner_ns` of the time they shared, counted once for each
    co-runner.
    """

    models: dict[str, ModelOutcome]
    duration_ns: int
    batches: int = 0
    errors: "array[float]" = field(default_factory=_shares)
    covered: int = 0
    co_runner_ns: int = 0
    busy_ns: int = 0
    dropped: int = 0  # launches whose latest start had passed when they reached their device
    core_ns: int = field(default=0, compare=False)  # CPU time spent in the core
    tenants: "TenantOutcomes | None" = None  # none where nobody is told apart

    @property
    def offered(self) -> int:
        """Requests of all models."""
        return sum(m.offered for m in self.models.values())

    @property
    def in_time(self) -> int:
        """Requests of all models that were answered in time."""
        return sum(m.in_time for m in self.models.values())

    @property
    def slo_attainment(self) -> float:
        """Over all models."""
        return self.in_time / self.offered if self.offered else 1.0

    @property
    def goodput_per_s(self) -> float:
        """Requests answered in time per second."""
        return self.in_time / (self.duration_ns / 1e9)
