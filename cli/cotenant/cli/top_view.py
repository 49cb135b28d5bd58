"""What `cotenant top` shows, as plain data: one state of the scheduler, and what changed since the one before.

Encoded as JSON these types are the output of `cotenant top --json`; fields may be added to it.
"""

import time

import msgspec

from cotenant.cli import estimate_versions
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


def _ended(model: scheduler_pb2.ModelStatus) -> int:
    return model.in_time + model.late + model.refused + model.failed
