"""What `cotenant top` shows, as plain data: one state of the scheduler, and what changed since the one before.

Encoded as JSON these types are the output of `cotenant top --json`; fields may be added to it.
"""

import time

import msgspec

from cotenant.cli import estimate_versions, misses
from cotenant.runtime import tenant_names
from cotenant.runtime.status import reason_name
from cotenant.v1 import executor_pb2, scheduler_pb2

# What lowers clocks and slows nobody.
_HARMLESS = (executor_pb2.THROTTLE_REASON_UNSPECIFIED, executor_pb2.THROTTLE_REASON_GPU_IDLE)


class RunningBatch(msgspec.Struct):
    """A batch that runs now; times in ms."""

    batch_class: str
    elapsed_ms: float
    remaining_ms: float  # predicted


class DeviceView(msgspec.Struct):
    """A device. `busy` and `batches_at_once` are means since the sample before (since the start in the first)."""

    device_id: str
    name: str
    online: bool
    max_concurrency: int
    queued: int
    running: list[RunningBatch]
    busy: float  # share of time in which at least one batch ran
    batches_at_once: float
    memory_used_bytes: int
    memory_bytes: int
    throttled: list[str]  # by what, in words; empty also where its driver does not tell
    sm_clock_mhz: int  # 0 if not told, like the most it may be
    sm_clock_max_mhz: int


class ModelView(msgspec.Struct):
    """A version of a model. Counts are since the scheduler's start, `recent_*` since the sample before."""

    model: str
    version: str
    availability: str
    slo_ms: float  # 0 if it has none
    queued: int
    in_time: int
    late: int
    refused: int
    failed: int
    attainment: float | None  # in time / all that was answered, refused or failed; None if nothing was
    recent_per_s: float
    recent_attainment: float | None
    batches: int
    items_per_batch: float
    prediction_error: float  # mean of |predicted - measured| / measured over recent batches
    bound_coverage: float
    slowdown: float
    would_refuse: int


class Miss(msgspec.Struct):
    """A request that was refused or late; `cotenant explain` tells all of it."""

    request_id: int
    client_request_id: str
    model: str
    version: str
    age_s: float
    reason: str  # "LATE", or why it was refused
    why: str  # in one line


class TenantView(msgspec.Struct):
    """A tenant. Counts are since the scheduler's start, `recent_*` since the sample before."""

    tenant: str
    weight: float
    pending: int  # requests that wait
    in_time: int
    late: int
    refused: int
    failed: int
    over_quota: int
    attainment: float | None
    recent_per_s: float
    recent_attainment: float | None
    recent_share: float | None  # of the solo work that was launched; None if none was
    recent_devices: float  # devices' worth of solo work


class TopView(msgspec.Struct):
    """Everything."""

    scheduler: str
    uptime_s: float
    interval_s: float
    policy: str
    observe_only: bool
    predictor_connected: bool
    estimates_version: int
    estimates_age_s: float | None  # None where the version does not tell; ours do
    frontend_count: int
    decision_count: int
    decision_mean_us: float
    recent_decisions_per_s: float
    recent_decision_us: float
    devices: list[DeviceView]
    models: list[ModelView]
    misses: list[Miss]  # the last ones, newest first
    tenants: list[TenantView]  # empty where nobody names one


def view(address: str, now: scheduler_pb2.GetStatusResponse, before: scheduler_pb2.GetStatusResponse | None) -> TopView:
    """The view of two samples. What is new since `before`, or if the scheduler started anew, counts from zero."""
    if before is None or before.uptime_ns > now.uptime_ns:
        before = scheduler_pb2.GetStatusResponse(now_ns=now.now_ns - now.uptime_ns)
    interval_s = max(1e-9, (now.now_ns - before.now_ns) / 1e9)
    decided = now.decision_count - before.decision_count
    devices = {d.device.device_id: d for d in before.devices}
    models = {(m.model, m.version): m for m in before.models}
    return TopView(
        scheduler=address,
        uptime_s=now.uptime_ns / 1e9,
        interval_s=interval_s,
        policy=now.policy,
        observe_only=now.observe_only,
        predictor_connected=now.predictor_connected,
        estimates_version=now.estimates_version,
        estimates_age_s=estimate_versions.age_s(now.estimates_version, time.time()),
        frontend_count=now.frontend_count,
        decision_count=now.decision_count,
        decision_mean_us=now.decision_ns / 1e3 / max(1, now.decision_count),
        recent_decisions_per_s=decided / interval_s,
        recent_decision_us=(now.decision_ns - before.decision_ns) / 1e3 / max(1, decided),
        devices=[
            _device(d, devices.get(d.device.device_id), interval_s)
            for d in sorted(now.devices, key=lambda d: d.device.device_id)
        ],
        models=[_model(m, models.get((m.model, m.version)), interval_s) for m in now.models],
        misses=[_miss(miss) for miss in now.misses],
        tenants=_tenants(now, before, interval_s),
    )


def _device(
    now: scheduler_pb2.DeviceStatus, before: scheduler_pb2.DeviceStatus | None, interval_s: float
) -> DeviceView:
    before = before or scheduler_pb2.DeviceStatus()
    return DeviceView(
        device_id=now.device.device_id,
        name=now.device.name,
        online=now.online,
        max_concurrency=now.device.max_concurrency,
        queued=now.queued,
        running=[RunningBatch(_class(r), r.elapsed_ns / 1e6, r.remaining_ns / 1e6) for r in now.running],
        # The scheduler adds to these at events, so a long batch may be counted in a later interval than it ran in.
        busy=min(1.0, max(0, now.busy_ns - before.busy_ns) / 1e9 / interval_s),
        batches_at_once=max(0, now.batch_ns - before.batch_ns) / 1e9 / interval_s,
        memory_used_bytes=now.memory_used_bytes,
        memory_bytes=now.device.memory_bytes,
        throttled=_throttled(now.state),
        sm_clock_mhz=now.state.sm_clock_mhz,
        sm_clock_max_mhz=now.state.sm_clock_max_mhz,
    )


def _throttled(state: executor_pb2.DeviceState) -> list[str]:
    known = [r for r in state.throttle_reasons if r in executor_pb2.ThrottleReason.values() and r not in _HARMLESS]
    names = (executor_pb2.ThrottleReason.Name(reason).removeprefix("THROTTLE_REASON_") for reason in known)
    return [name.lower().replace("_", " ") for name in names]


def _class(running: scheduler_pb2.RunningStatus) -> str:
    known = running.batch_class
    bucket = f"@{known.shape_bucket}" if known.shape_bucket else ""
    return f"{known.model}:{known.version}{bucket} x{known.batch_size}"


def _model(now: scheduler_pb2.ModelStatus, before: scheduler_pb2.ModelStatus | None, interval_s: float) -> ModelView:
    before = before or scheduler_pb2.ModelStatus()
    recent = _ended(now) - _ended(before)
    return ModelView(
        model=now.model,
        version=now.version,
        availability=scheduler_pb2.ModelAvailability.Name(now.availability).removeprefix("MODEL_AVAILABILITY_"),
        slo_ms=now.slo_ns / 1e6,
        queued=now.queued,
        in_time=now.in_time,
        late=now.late,
        refused=now.refused,
        failed=now.failed,
        attainment=now.in_time / _ended(now) if _ended(now) else None,
        recent_per_s=recent / interval_s,
        recent_attainment=(now.in_time - before.in_time) / recent if recent else None,
        batches=now.batches,
        items_per_batch=now.items / now.batches if now.batches else 0.0,
        prediction_error=now.prediction_error,
        bound_coverage=now.bound_coverage,
        slowdown=now.slowdown,
        would_refuse=now.would_refuse,
    )


def _miss(miss: scheduler_pb2.Miss) -> Miss:
    why = (
        misses.refused(reason_name(miss.reason), miss.message)
        if miss.reason
        else misses.late(
            miss.budget_ns / 1e6,
            miss.answered_ns / 1e6,
            miss.launched_ns / 1e6,
            miss.duration_ns / 1e6,
            miss.forecast.duration_ns / 1e6,
            miss.forecast.bound_ns / 1e6,
        )
    )
    reason = reason_name(miss.reason) if miss.reason else "LATE"
    return Miss(miss.request_id, miss.client_request_id, miss.model, miss.version, miss.age_ns / 1e9, reason, why)


def _tenants(
    now: scheduler_pb2.GetStatusResponse, before: scheduler_pb2.GetStatusResponse, interval_s: float
) -> list[TenantView]:
    old = {tenant.tenant: tenant for tenant in before.tenants}
    new = [(tenant, old.get(tenant.tenant, scheduler_pb2.TenantStatus())) for tenant in now.tenants]
    all_ns = sum(max(0, tenant.work_ns - was.work_ns) for tenant, was in new)
    return [_tenant(tenant, was, interval_s, all_ns) for tenant, was in new]


def _tenant(
    now: scheduler_pb2.TenantStatus, before: scheduler_pb2.TenantStatus, interval_s: float, all_ns: int
) -> TenantView:
    recent, work_ns = _ended(now) - _ended(before), max(0, now.work_ns - before.work_ns)
    return TenantView(
        tenant=tenant_names.shown(now.tenant),
        weight=now.weight,
        pending=now.pending,
        in_time=now.in_time,
        late=now.late,
        refused=now.refused,
        failed=now.failed,
        over_quota=now.over_quota,
        attainment=now.in_time / _ended(now) if _ended(now) else None,
        recent_per_s=recent / interval_s,
        recent_attainment=(now.in_time - before.in_time) / recent if recent else None,
        recent_share=work_ns / all_ns if all_ns else None,
        recent_devices=work_ns / 1e9 / interval_s,
    )


def _ended(model: scheduler_pb2.ModelStatus | scheduler_pb2.TenantStatus) -> int:
    return model.in_time + model.late + model.refused + model.failed
