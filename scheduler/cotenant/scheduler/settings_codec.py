"""Between settings, the contract's messages, and the file in which a scheduler keeps them."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cotenant.inference import inference_pb2
from cotenant.runtime import model_options, tenant_names
from cotenant.scheduler.settings import Change, ModelSettings, Settings, TenantSettings, check
from cotenant.v1 import scheduler_pb2 as pb

_Entry = TypeVar("_Entry", ModelSettings, TenantSettings)
_PLAIN = (
    *("policy", "level", "observe_only", "max_pending"),
    *("answer_overhead_ns", "max_tenants", "fair_turn_ns"),
)

# ---- the contract


def change(message: pb.UpdateSettingsRequest) -> Change:
    """What is asked for."""
    return Change(
        {name: getattr(message, name) for name in _PLAIN if message.HasField(name)},
        tuple(_entry(ModelSettings, entry) for entry in message.models),
        tuple(_entry(TenantSettings, entry) for entry in message.tenants),
        tuple(message.reset_models),
        tuple(map(_kept_name, message.reset_tenants)),
    )


def _entry(kind: type[_Entry], message: Any) -> _Entry:
    fields = {field.name: value for field, value in message.ListFields()}
    if kind is TenantSettings:
        fields["tenant"] = _kept_name(message.tenant)
    return kind(**{"model": "", **fields} if kind is ModelSettings else fields)


def _kept_name(name: str) -> str:
    return "" if name == tenant_names.DEFAULT else name


def put_settings(message: pb.Settings, settings: Settings) -> None:
    """Writes settings."""
    for name in ("revision", *_PLAIN):
        setattr(message, name, getattr(settings, name))
    for model in settings.models:
        message.models.add(**_given(model))
    for tenant in settings.tenants:
        message.tenants.add(**_given(tenant))


def known_tenants(settings: Settings) -> pb.KnownTenants:
    """Whom frontends are to count apart."""
    names = [entry.tenant for entry in settings.tenants if entry.tenant != tenant_names.ALL]
    return pb.KnownTenants(names=names, others=settings.max_tenants)


def _given(entry: ModelSettings | TenantSettings) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(entry).items() if value is not None}


# ---- a model's configuration, as clients and frontends see it


def with_model_settings(config_bytes: bytes, settings: ModelSettings) -> bytes:
    """A serialised ModelConfig with what holds in the place of it."""
    config = inference_pb2.ModelConfig.FromString(config_bytes)
    if settings.slo_ns:
        config.parameters[model_options.SLO_MS].string_value = f"{settings.slo_ns / 1e6:.6f}"
    elif settings.slo_ns is not None:
        config.parameters.pop(model_options.SLO_MS, None)
    if config.HasField("dynamic_batching"):
        batching = config.dynamic_batching
        if settings.priority_levels is not None:
            batching.priority_levels = settings.priority_levels
        if settings.default_priority is not None:
            batching.default_priority_level = settings.default_priority
        if settings.max_queue_size is not None:
            batching.default_queue_policy.max_queue_size = settings.max_queue_size
        if settings.max_queue_delay_ns is not None:
            batching.max_queue_delay_microseconds = settings.max_queue_delay_ns // 1000
    return config.SerializeToString()


# ---- the file


def read(path: Path, started_with: Settings, policies: Collection[str]) -> Settings:
    """What a file keeps, over what the scheduler was started with.

    Raises OSError, or ValueError that names the file and what is wrong.
    """
    try:
        told = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        whole = {**msgspec.to_builtins(started_with), **told, "revision": 0}
        if unknown := whole.keys() - set(Settings.__struct_fields__):
            raise ValueError(f"there is no setting '{min(unknown)}'")
        settings = msgspec.convert(whole, Settings)
        check(settings, policies)
    except (ValueError, msgspec.MsgspecError) as error:
        raise ValueError(f"{path}: {error}") from error
    return settings


def write(path: Path, settings: Settings) -> None:
    """Keeps settings in a file, whole or not at all. Raises OSError."""
    fields = (name for name in Settings.__struct_fields__ if name != "revision")
    told = {name: msgspec.to_builtins(getattr(settings, name)) for name in fields}
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n")
    fresh.replace(path)
