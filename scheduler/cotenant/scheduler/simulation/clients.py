"""Clients in virtual time: they number requests; in a closed loop they send the next when the last was answered."""

import random
from collections.abc import Iterable, Iterator

from cotenant.runtime import tenant_names
from cotenant.scheduler import events as ev
from cotenant.scheduler.simulation.models import SimulatedModel
from cotenant.scheduler.simulation.timing import START_NS


class Clients:
    """All clients of a simulation."""

    def __init__(self, seed: int = 0) -> None:
        self._numbers = 0
        self._seed = seed
        self._chances: dict[str, random.Random] = {}  # of tenants, by model
        self.end_ns = 0  # from when on nothing is sent

    def arrival(self, model: SimulatedModel, at_ns: int) -> ev.RequestArrived:
        """The next request, of this model, at this instant."""
        self._numbers += 1
        deadline_ns = at_ns + model.slo_ns if model.slo_ns else 0
        return ev.RequestArrived(
            ev.Request(
                self._numbers,
                1,
                model.name,
                "1",
                1,
                at_ns,
                deadline_ns,
                priority=model.priority,
                tenant=self._tenant(model) if model.tenants else "",
            )
        )

    def _tenant(self, model: SimulatedModel) -> str:
        """Whose request it is, by chance in proportion to the shares."""
        chance = self._chances.get(model.name)
        if chance is None:
            chance = self._chances[model.name] = random.Random(f"{self._seed} tenants {model.name}")  # noqa: S311
        names, shares = zip(*model.tenants, strict=True)
        found: str = chance.choices(names, shares)[0]
        return tenant_names.read(found)

    def opening(self, models: Iterable[SimulatedModel]) -> Iterator[ev.RequestArrived]:
        """The first requests of closed loops."""
        for model in models:
            for _ in range(model.clients):
                yield self.arrival(model, START_NS + 1)

    def next_of_loop(self, model: SimulatedModel, at_ns: int) -> ev.RequestArrived | None:
        """What the client sends whose request was answered, or may try again, at this instant."""
        return self.arrival(model, at_ns) if model.clients and at_ns < self.end_ns else None
