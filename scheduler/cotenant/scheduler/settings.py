"""What can be changed while the scheduler runs: plain data, its checks, and how a change is applied to it.

A change is checked whole before any of it holds. What models and tenants leave open (None) is as their configuration,
or the settings of tenant "*", say.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

import msgspec

from cotenant.runtime import tenant_names

WEIGHTS = (0.001, 1000.0)
FAIR_TURN_NS = 50_000_000
_MAX_NS = 10**15  # eleven days; more is a mistake of units
_MAX_RATE = 1e9


class ModelSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What holds for all versions of a model in the place of its configuration."""

    model: str
    slo_ns: int | None = None
    priority_levels: int | None = None
    default_priority: int | None = None
    max_queue_size: int | None = None
    max_queue_delay_ns: int | None = None


class TenantSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a tenant may, and how it counts. 0 stands for no limit."""

    tenant: str
    weight: float | None = None
    requests_per_s: float | None = None
    burst_requests: int | None = None
    device_share: float | None = None
    burst_work_ns: int | None = None
    max_pending: int | None = None


class Settings(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything; `revision` counts changes since the start. The fields are those of `CoreConfig` of the same name."""

    policy: str
    level: float
    revision: int = 0
    observe_only: bool = False
    max_pending: int = 16384
    answer_overhead_ns: int = 2_000_000
    max_tenants: int = 256
    fair_turn_ns: int = FAIR_TURN_NS
    models: tuple[ModelSettings, ...] = ()
    tenants: tuple[TenantSettings, ...] = ()


class Change(msgspec.Struct, frozen=True):
    """What is to become of settings: `plain` fields by name, and of each model and tenant the fields that are given.

    What is reset has no settings of its own any more; that comes first.
    """

    plain: Mapping[str, bool | int | float | str] = {}
    models: tuple[ModelSettings, ...] = ()
    tenants: tuple[TenantSettings, ...] = ()
    reset_models: tuple[str, ...] = ()
    reset_tenants: tuple[str, ...] = ()

    def told(self) -> dict[str, object]:
        """What it changes, for a log of the service."""
        told: dict[str, object] = dict(self.plain)
        for name in ("models", "tenants", "reset_models", "reset_tenants"):
            if value := getattr(self, name):
                told[name] = msgspec.to_builtins(value)
        return told


_Entry = TypeVar("_Entry", ModelSettings, TenantSettings)


def changed(settings: Settings, change: Change, policies: Collection[str]) -> Settings:
    """The settings after a change. Raises ValueError that names the field, if anything of it cannot be."""
    models = {entry.model: entry for entry in settings.models}
    tenants = {entry.tenant: entry for entry in settings.tenants}
    for kind, known, gone in (("model", models, change.reset_models), ("tenant", tenants, change.reset_tenants)):
        for name in gone:
            if known.pop(name, None) is None:
                raise ValueError(f"reset_{kind}s: {kind} '{_shown(kind, name)}' has no settings of its own")
    for model in change.models:
        models[model.model] = _over(models.get(model.model), model)
    for tenant in change.tenants:
        tenants[tenant.tenant] = _over(tenants.get(tenant.tenant), tenant)
    result = msgspec.structs.replace(
        settings,
        **change.plain,
        revision=settings.revision + 1,
        models=tuple(models[name] for name in sorted(models)),
        tenants=tuple(tenants[name] for name in sorted(tenants)),
    )
    check(result, policies)
    return result


def _over(old: _Entry | None, new: _Entry) -> _Entry:
    """An entry with what is given of another."""
    if old is None:
        return new
    given = {name: value for name, value in msgspec.structs.asdict(new).items() if value is not None}
    return msgspec.structs.replace(old, **given)


def check(settings: Settings, policies: Collection[str]) -> None:
    """Raises ValueError that names the field and what was expected."""
    if settings.policy not in policies:
        known = ", ".join(sorted(policies))
        raise ValueError(f"policy: there is no policy '{settings.policy}'; there are {known}")
    if not 0.0 < settings.level < 1.0:
        raise ValueError(f"level: expected a share between 0 and 1, got {settings.level:g}")
    _within("max_pending", settings.max_pending, 1, 10**9)
    _within("answer_overhead_ns", settings.answer_overhead_ns, 0, _MAX_NS)
    _within("max_tenants", settings.max_tenants, 0, 10**5)
    _within("fair_turn_ns", settings.fair_turn_ns, 10**5, _MAX_NS)
    for model in settings.models:
        _check_model(model)
    for tenant in settings.tenants:
        _check_tenant(tenant)
    _unique("models", (model.model for model in settings.models))
    _unique("tenants", (tenant.tenant for tenant in settings.tenants))


def _check_model(entry: ModelSettings) -> None:
    if not entry.model:
        raise ValueError("models: the name of a model is expected")
    field = f"models '{entry.model}'."
    _within(field + "slo_ns", entry.slo_ns, 0, _MAX_NS)
    _within(field + "priority_levels", entry.priority_levels, 0, 10**6)
    _within(field + "default_priority", entry.default_priority, 0, 10**6)
    _within(field + "max_queue_size", entry.max_queue_size, 0, 10**9)
    _within(field + "max_queue_delay_ns", entry.max_queue_delay_ns, 0, _MAX_NS)
    if entry.priority_levels and (entry.default_priority or 0) > entry.priority_levels:
        raise ValueError(f"{field}default_priority: expected at most {entry.priority_levels}, the priority_levels")


def _check_tenant(entry: TenantSettings) -> None:
    if entry.tenant not in (tenant_names.ALL, tenant_names.OTHERS):
        try:
            known = tenant_names.read(entry.tenant)
        except ValueError as error:
            raise ValueError(f"tenants: {error}") from error
        if known != entry.tenant:
            raise ValueError(f"tenants: '{entry.tenant}' is kept under the empty name")
    field = f"tenants '{tenant_names.shown(entry.tenant)}'."
    _within(field + "weight", entry.weight, *WEIGHTS)
    _within(field + "requests_per_s", entry.requests_per_s, 0.0, _MAX_RATE)
    _within(field + "burst_requests", entry.burst_requests, 0, 10**9)
    _within(field + "device_share", entry.device_share, 0.0, 1e6)
    _within(field + "burst_work_ns", entry.burst_work_ns, 0, _MAX_NS)
    _within(field + "max_pending", entry.max_pending, 0, 10**9)


def _within(field: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:  # false for NaN as well
        raise ValueError(f"{field}: expected {least:g} to {most:g}, got {value:g}")


def _unique(field: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{field}: there are two of the name '{name}'")
        seen.add(name)


def _shown(kind: str, name: str) -> str:
    return tenant_names.shown(name) if kind == "tenant" else name
