"""A world to simulate, as a TOML file describes it: models, load, devices, policies, beliefs (docs/simulate.md).

Reading checks everything that can be checked without running: an error names the file and the field.
"""

import tomllib
from pathlib import Path
from typing import Literal

import msgspec

from cotenant.executor.emulated_gpu import LAWS, personalities
from cotenant.predictor import learners
from cotenant.runtime import tenant_names
from cotenant.scheduler import settings
from cotenant.scheduler.policies import POLICIES
from cotenant.scheduler.settings import FAIR_TURN_NS, Settings, TenantSettings
from cotenant.scheduler.simulation.beliefs import SOLO, TRUE

CLAIRVOYANT = "clairvoyant"  # stands among policies, and is the bound that none exceeds
KERNELS, PHASES, MEASURED, LEARNED = "kernels", "phases", "measured", "learned"
# A policy that stands for a paper is run with the learner of that paper, where none is named.
PREDICTORS = {"seed-paper": "ewma12-rls"}


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file; a field it does not know is a mistake."""


class ArrivalsTable(_Table, frozen=True):
    """When requests come; see `arrivals.py` and `traces.py` for the kinds."""

    kind: Literal["poisson", "bursty", "periodic", "diurnal", "trace"] = "poisson"
    cv: float = 1.0
    curve: tuple[float, ...] = ()
    period_s: float = 60.0
    file: str = ""
    format: Literal["seconds", "azure-llm", "disb", "load"] = "seconds"
    task: str = ""
    speed: float = 0.0


class ModelTable(_Table, frozen=True):
    """A model, or `copies` of one. `rate` is in requests per s for each of them; `instances` 0 stands for no limit."""

    name: str
    personality: str = ""
    rate: float = 0.0
    slo_ms: float = 0.0
    max_batch_size: int = 8
    priority: int = 0
    time_scale: float = 1.0
    devices: int = 0
    copies: int = 1
    clients: int = 0
    instances: int = 0
    work_ms: dict[str, float] = {}
    tenants: dict[str, float] = {}
    arrivals: ArrivalsTable | None = None


class DevicesTable(_Table, frozen=True):
    """Devices, all alike. `noise` replaces the relative standard deviation of a batch's work."""

    count: int = 1
    kind: Literal["kernels", "phases", "measured", "learned"] = "phases"
    law: str = "fair"
    concurrency: int = 4
    noise: float | None = None
    table: str = ""
    log: str = ""


class DelaysTable(_Table, frozen=True):
    """What lies between the services: told, or as a log and the document of its load have them."""

    order_us: float = 400.0
    report_us: float = 300.0
    answer_us: float = 500.0
    log: str = ""
    load: str = ""


class TenantTable(_Table, frozen=True):
    """What a tenant may, and how it counts; what is left out is as for "*" (docs/tenants.md)."""

    name: str
    weight: float | None = None
    requests_per_s: float | None = None
    burst_requests: int | None = None
    device_share: float | None = None
    burst_work_ms: float | None = None
    max_pending: int | None = None

    def settings(self) -> TenantSettings:
        """As a scheduler is told."""
        burst_ns = None if self.burst_work_ms is None else round(self.burst_work_ms * 1e6)
        name = "" if self.name == tenant_names.DEFAULT else self.name
        return TenantSettings(
            name,
            self.weight,
            self.requests_per_s,
            self.burst_requests,
            self.device_share,
            burst_ns,
            self.max_pending,
        )


class World(_Table, frozen=True):
    """The whole file. `folder` is where it lies: paths in it are relative to that."""

    models: tuple[ModelTable, ...]
    seconds: float = 60.0
    seeds: int = 1
    policy: str | tuple[str, ...] = "goodput"
    predictor: str = "fluid"
    learn_seconds: float | None = None
    warmup_seconds: float = 0.0
    level: float = 0.95
    devices: DevicesTable = DevicesTable()
    arrivals: ArrivalsTable = ArrivalsTable()
    delays: DelaysTable = DelaysTable()
    tenants: tuple[TenantTable, ...] = ()
    fair_turn_ms: float = FAIR_TURN_NS / 1e6
    folder: str = "."

    @property
    def policies(self) -> tuple[str, ...]:
        """Policies as they are named: NAME, or NAME:PREDICTOR."""
        return (self.policy,) if isinstance(self.policy, str) else self.policy

    def path(self, name: str) -> Path:
        """A file that the world names."""
        return Path(self.folder, name)


def named(entry: str, predictor: str) -> tuple[str, str]:
    """Policy and predictor that an entry (NAME or NAME:PREDICTOR) means where the world's predictor is this one."""
    policy, _, own = entry.partition(":")
    return policy, own or PREDICTORS.get(policy, predictor)


def read(path: Path) -> World:
    """Raises ValueError that names file and field where it is none, OSError where it cannot be read."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        world = msgspec.convert({**document, "folder": str(path.parent)}, World, strict=True)
        check(world)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return world


def check(world: World) -> None:
    """Raises ValueError that names the field."""
    if not world.models:
        raise ValueError("models: at least one is expected")
    names = [model.name for model in world.models]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"models: there are two of the name '{name}'")
    _positive("seconds", world.seconds)
    _positive("seeds", world.seeds)
    _positive("devices.count", world.devices.count)
    _positive("devices.concurrency", world.devices.concurrency)
    if not 0.0 < world.level < 1.0:
        raise ValueError(f"level: expected a share between 0 and 1, got {world.level:g}")
    if world.devices.law not in LAWS:
        raise ValueError(f"devices.law: there is no law '{world.devices.law}'; there are {', '.join(LAWS)}")
    for field, kind in (("table", MEASURED), ("log", LEARNED)):
        if (world.devices.kind == kind) != bool(getattr(world.devices, field)):
            raise ValueError(f"devices.{field}: a file is expected where, and only where, devices.kind is '{kind}'")
    if world.delays.load and not world.delays.log:
        raise ValueError("delays.log: a log is expected where delays.load names the load that it records")
    if not 0.0 <= world.warmup_seconds < world.seconds:
        raise ValueError(f"warmup_seconds: expected 0 or more, and less than seconds, got {world.warmup_seconds:g}")
    for entry in world.policies:
        _check_policy(*named(entry, world.predictor))
    _check_arrivals("arrivals", world.arrivals)
    for model in world.models:
        _check_model(model, world.devices.kind)
    _check_tenants(world)


def _check_tenants(world: World) -> None:
    tenants = tuple(table.settings() for table in world.tenants)
    settings.check(Settings("", world.level, fair_turn_ns=round(world.fair_turn_ms * 1e6), tenants=tenants), [""])
    for model in world.models:
        for name, share in model.tenants.items():
            tenant_names.read(name)
            _positive(f"models '{model.name}'.tenants.{name}", share)


def _positive(field: str, value: float) -> None:
    if value <= 0:
        raise ValueError(f"{field}: expected a number above 0, got {value:g}")


def _check_policy(policy: str, predictor: str) -> None:
    if policy != CLAIRVOYANT and policy not in POLICIES:
        raise ValueError(f"policy: there is no policy '{policy}'; there are {', '.join((*POLICIES, CLAIRVOYANT))}")
    if predictor not in (TRUE, SOLO):
        try:
            learners.make(predictor, 3)
        except (ValueError, ImportError, AttributeError) as error:
            raise ValueError(f"predictor: {error}; and '{TRUE}' and '{SOLO}'") from error


def _check_arrivals(field: str, told: ArrivalsTable) -> None:
    if told.kind == "bursty":
        _positive(f"{field}.cv", told.cv)
    if told.kind == "diurnal":
        _positive(f"{field}.period_s", told.period_s)
        if not told.curve or min(told.curve) < 0.0 or max(told.curve) <= 0.0:
            raise ValueError(f"{field}.curve: expected rates, of which one is above 0")
    if (told.kind == "trace") != bool(told.file):
        raise ValueError(f"{field}.file: a trace is expected where, and only where, the kind is 'trace'")
    if told.format == "disb" and not told.task:
        raise ValueError(f"{field}.task: the id of one of the workload's tasks is expected")
    if told.speed < 0.0:
        raise ValueError(f"{field}.speed: expected how many times as fast it is played, or 0, got {told.speed:g}")


def _check_model(model: ModelTable, kind: str) -> None:
    field = f"models '{model.name}'"
    for name in ("max_batch_size", "time_scale", "copies"):
        _positive(f"{field}.{name}", getattr(model, name))
    for name in ("rate", "slo_ms", "priority", "devices", "clients", "instances"):
        if getattr(model, name) < 0:
            raise ValueError(f"{field}.{name}: expected 0 or more, got {getattr(model, name):g}")
    if kind in (KERNELS, PHASES) and model.personality not in personalities():
        raise ValueError(f"{field}.personality: expected one of {', '.join(personalities())}")
    if kind == MEASURED and not model.work_ms:
        raise ValueError(f"{field}.work_ms: expected ms by batch size, as {{1 = 5.0, 8 = 9.4}}")
    if any(not size.isdigit() or int(size) < 1 or ms <= 0.0 for size, ms in model.work_ms.items()):
        raise ValueError(f"{field}.work_ms: expected ms above 0 by batch size, as {{1 = 5.0, 8 = 9.4}}")
    if model.arrivals is not None:
        _check_arrivals(f"{field}.arrivals", model.arrivals)
