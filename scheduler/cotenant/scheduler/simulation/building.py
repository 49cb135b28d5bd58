"""Makes of a world what a simulation takes: models on devices, streams of arrivals, a law.

A *setting* says at which point of a sweep a world is simulated: times so much load, so bursty, with so much patience,
on so many devices.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler.simulation import observed_delays, traces
from cotenant.scheduler.simulation.arrivals import Bursty, Diurnal, Periodic, Poisson, Process, Recorded, Stream
from cotenant.scheduler.simulation.emulated_law import EmulatedLaw
from cotenant.scheduler.simulation.laws import Law, work_ns
from cotenant.scheduler.simulation.learned_law import LearnedLaw
from cotenant.scheduler.simulation.measured_law import MeasuredLaw
from cotenant.scheduler.simulation.models import SimulatedModel
from cotenant.scheduler.simulation.observed_delays import AnyDelays
from cotenant.scheduler.simulation.timing import Delays
from cotenant.scheduler.simulation.world import LEARNED, MEASURED, ArrivalsTable, ModelTable, World


@dataclass(frozen=True)
class Setting:
    """One point of a sweep; `cv` and `devices` of None are the world's own."""

    rate: float = 1.0
    cv: float | None = None
    slo: float = 1.0
    devices: int | None = None


def models(world: World, setting: Setting, law: Law) -> list[SimulatedModel]:
    """All models with their load and where they are loaded."""
    found: list[SimulatedModel] = []
    for table in world.models:
        one = SimulatedModel(
            table.name,
            table.personality,
            _rate(world, table) * setting.rate,
            round(table.slo_ms * 1e6 * setting.slo),
            table.max_batch_size,
            table.time_scale,
            table.priority,
            clients=table.clients or _clients(world, table),
            tenants=tuple(table.tenants.items()),
            instances=table.instances,
        )
        found += [replace(one, name=name) for name in _names(table)]
    wanted = [table.devices for table in world.models for _ in range(table.copies)]
    return _placed(found, wanted, setting.devices or world.devices.count, law)


def _names(table: ModelTable) -> list[str]:
    return [table.name] if table.copies == 1 else [f"{table.name}-{i}" for i in range(table.copies)]


def _placed(found: Sequence[SimulatedModel], wanted: Sequence[int], devices: int, law: Law) -> list[SimulatedModel]:
    """Gives each model as many devices as it wants, the busiest model first, on those with the least to do."""
    load, held = [0.0] * devices, [0] * devices
    placed = list(found)
    order = sorted(range(len(found)), key=lambda i: (-_load(found[i], law), i))
    for i in order:
        count = wanted[i]
        if not 0 < count < devices:
            continue
        chosen = sorted(range(devices), key=lambda d: (load[d], held[d], d))[:count]
        for device in chosen:
            load[device] += _load(found[i], law) / count
            held[device] += 1
        placed[i] = replace(found[i], devices=tuple(sorted(chosen)))
    return placed


def _load(model: SimulatedModel, law: Law) -> float:
    """Devices that a model's load would keep busy by single items, alone."""
    return max(model.rate_per_s, float(model.clients)) * work_ns(law, BatchClass(model.name, "1", 1)) / 1e9


def law(world: World) -> Law:
    """The law of the world's devices. Raises ValueError or OSError for a table or log that is none."""
    devices = world.devices
    if devices.kind == MEASURED:
        works = {
            name: {int(size): ms * 1e6 * table.time_scale for size, ms in table.work_ms.items()}
            for table in world.models
            for name in _names(table)
        }
        aliases = {name: table.name for table in world.models for name in _names(table)}
        return MeasuredLaw(world.path(devices.table), works, aliases, devices.concurrency)
    if devices.kind == LEARNED:
        aliases = {name: table.name for table in world.models for name in _names(table)}
        return LearnedLaw(world.path(devices.log), aliases, devices.concurrency)
    recipes = {m.name: m.recipe for m in _unplaced(world)}
    return EmulatedLaw(recipes, devices.concurrency, devices.law)


def _unplaced(world: World) -> list[SimulatedModel]:
    return [
        SimulatedModel(name, table.personality, 0.0, 0, table.max_batch_size, table.time_scale)
        for table in world.models
        for name in _names(table)
    ]


def delays(world: World) -> AnyDelays:
    """What lies between the services. Raises ValueError or OSError for a log or load that is none."""
    told = world.delays
    if told.log:
        return observed_delays.read(world.path(told.log), world.path(told.load) if told.load else None)
    return Delays(*(round(us * 1e3) for us in (told.order_us, told.report_us, told.answer_us)))


# ---- arrivals


def streams(world: World, setting: Setting) -> list[Stream]:
    """Who arrives when. A trace of the world's own is dealt to all models that have no arrivals of their own."""
    shared: dict[str, float] = {}
    found: list[Stream] = []
    for table in world.models:
        if table.clients or _clients(world, table):
            continue
        rates = {name: _rate(world, table) * setting.rate for name in _names(table)}
        told = table.arrivals or world.arrivals
        if table.arrivals is None and told.kind == "trace" and told.format not in {"disb", "load"}:
            shared |= rates
            continue
        found += [Stream(_process(world, told, setting, name), {name: rate}) for name, rate in rates.items()]
    if shared:
        found.append(Stream(_process(world, world.arrivals, setting, ""), shared))
    return found


def _process(world: World, told: ArrivalsTable, setting: Setting, model: str) -> Process:
    if setting.cv is not None:
        return Bursty(setting.cv) if setting.cv != 1.0 else Poisson()
    match told.kind:
        case "bursty":
            return Bursty(told.cv)
        case "periodic":
            return Periodic()
        case "diurnal":
            return Diurnal(told.curve, told.period_s)
        case "trace":
            return _trace(world.path(told.file), told, setting, model)
        case _:
            return Poisson()


def _trace(path: Path, told: ArrivalsTable, setting: Setting, model: str) -> Process:
    match told.format:
        case "azure-llm":
            process: Process = _azure(path)
        case "disb":
            process = _disb(path, told.task)[0]
        case "load":
            process = traces.load(path, model)
        case _:
            process = traces.seconds(path, model)
    if isinstance(process, Recorded) and told.speed:
        return replace(process, speed=told.speed * setting.rate)
    return process


@cache
def _azure(path: Path) -> Recorded:
    return traces.azure_llm(path)


@cache
def _disb(path: Path, task: str) -> tuple[Process, float, int]:
    return traces.disb(path, task)


def _rate(world: World, table: ModelTable) -> float:
    """A model's rate, or that of its trace."""
    told = table.arrivals or world.arrivals
    if table.rate or told.kind != "trace":
        return table.rate
    if told.format == "disb":
        process, rate, _ = _disb(world.path(told.file), told.task)
    else:
        process, rate = _trace(world.path(told.file), told, Setting(), table.name), 0.0
    if isinstance(process, Recorded) and len(process.at_s) > 1 and process.at_s[-1] > 0.0:
        rate = (len(process.at_s) - 1) / process.at_s[-1] * (told.speed or 1.0)
    return rate


def _clients(world: World, table: ModelTable) -> int:
    told = table.arrivals or world.arrivals
    return _disb(world.path(told.file), told.task)[2] if told.kind == "trace" and told.format == "disb" else 0
