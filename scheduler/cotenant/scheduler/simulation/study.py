"""Simulations of a world, one after another: a row of figures for each policy, setting and seed.

Beside the usual figures a row has DISB's three: latency of real-time requests (those with an SLO), by how much it is
above what a request alone would take, and the throughput of everything.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cotenant.runtime import tenant_names
from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler import events as ev
from cotenant.scheduler.settings import Settings
from cotenant.scheduler.simulation import building, clairvoyant
from cotenant.scheduler.simulation.building import Setting
from cotenant.scheduler.simulation.engine import KERNELS, PHASES, Simulation
from cotenant.scheduler.simulation.laws import Law, work_ns
from cotenant.scheduler.simulation.models import SimulatedModel
from cotenant.scheduler.simulation.outcome import ModelOutcome, SimulationOutcome
from cotenant.scheduler.simulation.timing import FOREVER_NS, START_NS
from cotenant.scheduler.simulation.world import CLAIRVOYANT, World, named
from cotenant.scheduler.tenants import Tenants

Tell = Callable[[float], None]  # how much of a simulation is done, 0 to 1


class ModelRow(msgspec.Struct, frozen=True):
    """What clients of one model saw. Percentiles are of answered requests, None where there were none."""

    model: str
    slo_ms: float
    offered: int
    in_time: int
    late: int
    refused: int
    p50_ms: float | None
    p99_ms: float | None


class TenantRow(msgspec.Struct, frozen=True):
    """What clients of one tenant saw, and its share of the work that was launched."""

    tenant: str
    weight: float
    offered: int
    in_time: int
    late: int
    refused: int
    over_quota: int
    work_share: float | None
    p50_ms: float | None
    p99_ms: float | None


class Row(msgspec.Struct, frozen=True):
    """One simulation. Figures that a policy cannot have are None: of the bound, everything but `in_time`."""

    policy: str
    predictor: str
    seed: int
    rate: float
    cv: float | None
    slo: float
    devices: int
    offered: int
    in_time: int
    late: int | None
    refused: int | None
    attainment: float
    goodput_per_s: float
    cpu_s: float
    realtime_ms: float | None = None
    realtime_increase: float | None = None
    throughput_per_s: float | None = None
    batches: int | None = None
    dropped: int | None = None
    co_runners: float | None = None
    running: float | None = None
    forecast_error: float | None = None
    within_bound: float | None = None
    core_s: float | None = None
    models: tuple[ModelRow, ...] = ()
    tenants: tuple[TenantRow, ...] = ()


@dataclass(frozen=True)
class Extras:
    """What a simulation leaves besides its row."""

    record: Path | None = None
    observer: Callable[[ev.BatchFinished], None] | None = None
    timed: bool = False


class Study:
    """Simulations of one world. The law is made once, since what it finds out serves all of them."""

    def __init__(self, world: World) -> None:
        """Raises ValueError or OSError for files of the world that are not what they should be."""
        self.world = world
        self.law: Law = building.law(world)
        self.delays = building.delays(world)

    def run(
        self, entry: str, setting: Setting, seed: int, tell: Tell = lambda _: None, extras: Extras = Extras()
    ) -> Row:
        """One simulation of a policy (NAME or NAME:PREDICTOR). Raises ValueError where parts do not fit together."""
        models = building.models(self.world, setting, self.law)
        began_s = time.process_time()
        if entry.partition(":")[0] == CLAIRVOYANT:
            return self._bound(models, setting, seed, began_s)
        gc.disable()
        try:
            simulation = self._simulation(entry, models, setting, seed, extras)
            duration_ns = round(self.world.seconds * 1e9)
            for i, done_ns in enumerate(simulation.steps(duration_ns)):
                if i == 0:  # what joining has made stays, and need not be looked at again and again
                    gc.freeze()
                    gc.enable()
                tell(min(1.0, done_ns / duration_ns))
        finally:
            gc.unfreeze()
            gc.enable()
        cpu_s = time.process_time() - began_s
        return self._row(entry, models, setting, seed, simulation.outcome, cpu_s, timed=extras.timed)

    def offered(self, setting: Setting, seed: int) -> int:
        """Requests that arrive, without those of closed loops, which depend on the answers."""
        models = building.models(self.world, setting, self.law)
        simulation = self._simulation("edf:solo", models, setting, seed, Extras())
        from_ns = START_NS + round(self.world.warmup_seconds * 1e9)
        requests = simulation.requests(round(self.world.seconds * 1e9))
        return sum(request.arrival_ns >= from_ns for request in requests)

    def missed(self, entry: str, setting: Setting, seed: int, at_most: float) -> int:
        """Requests that were not answered in time, or of those the first that are more than `at_most`."""
        if entry.partition(":")[0] == CLAIRVOYANT:
            row = self.run(entry, setting, seed)
            return row.offered - row.in_time
        models = building.models(self.world, setting, self.law)
        simulation = self._simulation(entry, models, setting, seed, Extras())
        missed = 0
        for _ in simulation.steps(round(self.world.seconds * 1e9)):
            missed = sum(m.late + m.refused for m in simulation.outcome.models.values())
            if missed > at_most:
                return missed
        return sum(m.late + m.refused for m in simulation.outcome.models.values())

    def _simulation(
        self, entry: str, models: Sequence[SimulatedModel], setting: Setting, seed: int, extras: Extras
    ) -> Simulation:
        world = self.world
        policy, predictor = named(entry, world.predictor)
        return Simulation(
            models,
            devices=setting.devices or world.devices.count,
            concurrency=world.devices.concurrency,
            policy=policy,
            level=world.level,
            seed=seed,
            record=extras.record,
            law=world.devices.law,
            kind=KERNELS if world.devices.kind == KERNELS else PHASES,
            custom_law=self.law,
            predictor=predictor,
            learn_ns=FOREVER_NS if world.learn_seconds is None else round(world.learn_seconds * 1e9),
            streams=building.streams(world, setting),
            noise=world.devices.noise,
            timed=extras.timed,
            warmup_ns=round(self.world.warmup_seconds * 1e9),
            delays=self.delays,
            observer=extras.observer,
            tenants=tuple(table.settings() for table in world.tenants),
            fair_turn_ns=round(world.fair_turn_ms * 1e6),
        )

    def _bound(self, models: Sequence[SimulatedModel], setting: Setting, seed: int, began_s: float) -> Row:
        simulation = self._simulation("edf:solo", models, setting, seed, Extras())
        devices = setting.devices or self.world.devices.count
        requests = simulation.requests(round(self.world.seconds * 1e9))
        found = clairvoyant.bound(requests, models, self.law, devices, simulation.delays)
        seconds = self.world.seconds
        return Row(
            CLAIRVOYANT,
            "",
            seed,
            setting.rate,
            setting.cv,
            setting.slo,
            devices,
            found.offered,
            found.in_time,
            None,
            None,
            found.in_time / found.offered if found.offered else 1.0,
            found.in_time / seconds,
            time.process_time() - began_s,
        )

    def _row(
        self,
        entry: str,
        models: Sequence[SimulatedModel],
        setting: Setting,
        seed: int,
        outcome: SimulationOutcome,
        cpu_s: float,
        *,
        timed: bool,
    ) -> Row:
        policy, predictor = named(entry, self.world.predictor)
        devices = setting.devices or self.world.devices.count
        latency_ms, increase = self._realtime(models, outcome)
        answered = sum(m.in_time + m.late for m in outcome.models.values())
        batches = outcome.batches
        return Row(
            policy,
            predictor,
            seed,
            setting.rate,
            setting.cv,
            setting.slo,
            devices,
            outcome.offered,
            outcome.in_time,
            sum(m.late for m in outcome.models.values()),
            sum(m.refused for m in outcome.models.values()),
            outcome.slo_attainment,
            outcome.goodput_per_s,
            cpu_s,
            latency_ms,
            increase,
            answered / (self.world.seconds - self.world.warmup_seconds),
            batches,
            outcome.dropped,
            outcome.co_runner_ns / outcome.busy_ns if outcome.busy_ns else None,
            outcome.busy_ns / (self.world.seconds * 1e9 * devices),
            _percentile(sorted(outcome.errors), 0.5),
            outcome.covered / batches if batches else None,
            outcome.core_ns / 1e9 if timed else None,
            tuple(_model_row(model, outcome.models[model.name]) for model in models),
            tuple(self._tenant_rows(outcome)),
        )

    def _tenant_rows(self, outcome: SimulationOutcome) -> Iterator[TenantRow]:
        found = outcome.tenants.of if outcome.tenants else {}
        all_ns = sum(seen.work_ns for seen in found.values())
        known = Tenants(Settings("", 0.5, tenants=tuple(table.settings() for table in self.world.tenants)))
        for name in sorted(found):
            seen = found[name]
            latencies = sorted(seen.latencies_ns)
            p50, p99 = _percentile(latencies, 0.5), _percentile(latencies, 0.99)
            yield TenantRow(
                tenant_names.shown(name),
                known.weight(name),
                seen.offered,
                seen.in_time,
                seen.late,
                seen.refused,
                seen.over_quota,
                seen.work_ns / all_ns if all_ns else None,
                None if p50 is None else p50 / 1e6,
                None if p99 is None else p99 / 1e6,
            )

    def _realtime(
        self, models: Sequence[SimulatedModel], outcome: SimulationOutcome
    ) -> tuple[float | None, float | None]:
        """Mean latency of answered requests with an SLO, in ms, and the mean of what it is above alone, as a share."""
        delays = self.delays.least
        total_ns = increase = 0.0
        count = 0
        for model in models:
            latencies = outcome.models[model.name].latencies_ns
            if not model.slo_ns or not latencies:
                continue
            alone_ns = work_ns(self.law, BatchClass(model.name, "1", 1)) + delays.order_ns + delays.answer_ns
            own_ns = float(sum(latencies))
            total_ns += own_ns
            increase += own_ns / alone_ns - len(latencies)
            count += len(latencies)
        return (total_ns / count / 1e6, increase / count) if count else (None, None)


def _model_row(model: SimulatedModel, seen: ModelOutcome) -> ModelRow:
    latencies = sorted(seen.latencies_ns)
    p50, p99 = _percentile(latencies, 0.5), _percentile(latencies, 0.99)
    return ModelRow(
        model.name,
        model.slo_ns / 1e6,
        seen.offered,
        seen.in_time,
        seen.late,
        seen.refused,
        None if p50 is None else p50 / 1e6,
        None if p99 is None else p99 / 1e6,
    )


def _percentile(ascending: Sequence[float], share: float) -> float | None:
    """The shortest that so large a share does not exceed; None of nothing."""
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)] if ascending else None
