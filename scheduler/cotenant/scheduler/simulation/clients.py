"""Clients in virtual time: they number requests; in a closed loop they send the next when the last was answered."""

from collections.abc import Iterable, Iterator

from cotenant.scheduler import events as ev
from cotenant.scheduler.simulation.models import SimulatedModel
from cotenant.scheduler.simulation.timing import START_NS


class Clients:
    """All clients of a simulation."""

    def __init__(self) -> None:
        self._numbers = 0
        self.end_ns = 0  # from when on nothing is sent

    def arrival(self, model: SimulatedModel, at_ns: int) -> ev.RequestArrived:
        """The next request, of this model, at this instant."""
        self._numbers += 1
        deadline_ns = at_ns + model.slo_ns if model.slo_ns else 0
        return ev.RequestArrived(
            ev.Request(self._numbers, 1, model.name, "1", 1, at_ns, deadline_ns, priority=model.priority)
        )

    def opening(self, models: Iterable[SimulatedModel]) -> Iterator[ev.RequestArrived]:
        """The first requests of closed loops."""
        for model in models:
            for _ in range(model.clients):
                yield self.arrival(model, START_NS + 1)

    def next_of_loop(self, model: SimulatedModel, at_ns: int) -> ev.RequestArrived | None:
        """What the client sends whose request was answered, or may try again, at this instant."""
        return self.arrival(model, at_ns) if model.clients and at_ns < self.end_ns else None
