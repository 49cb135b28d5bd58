"""Between the contract's messages and the core's vocabulary. Nothing is decided here.

Instants on a scheduler's streams are on the scheduler's clock already (the peer converts), so they are copied.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

from google.protobuf.message import DecodeError

from cotenant.inference import inference_pb2
from cotenant.runtime import model_options
from cotenant.runtime.estimates import (
    BatchClass,
    ClassEstimate,
    PairCorrection,
    Phase,
    QuantileFactor,
    SetEstimate,
    sound_phases,
)
from cotenant.runtime.status import reason_name
from cotenant.scheduler import events as ev
from cotenant.v1 import executor_pb2, predictor_pb2, scheduler_pb2, types_pb2

_ABSURD_NS = 10**15  # no work takes eleven days
_MOST_NS = 2**63 - 1  # that a forecast can tell
_LATEST_NS = 2**61  # of an instant, in 73 years; differences still have 63 bits
_MOST = 2**20  # items of a request, and attempts: many in one batch, or one more, still have 32 bits
_ID_CHARACTERS = 256  # of a client's id
_VERSION_DIGITS = 20  # more than 64 bits hold
_ABSURD = 1e6  # no demand, weight, slowdown or factor is of this size; false for NaN as well

# ---- from the wire -------------------------------------------------------------------------------------------------


def batch_class(message: types_pb2.BatchClass) -> BatchClass:
    """A class of batches."""
    return BatchClass(message.model, message.version, message.batch_size, message.shape_bucket)


def request(message: scheduler_pb2.Submit) -> ev.Request:
    """A request as a frontend submitted it. Raises ValueError for counts or instants that no request has."""
    _check_counts(message)
    if max(abs(message.arrival_ns), abs(message.deadline_ns)) > _LATEST_NS:
        raise ValueError(f"request {message.request_id} has instants beyond {_LATEST_NS} ns")
    return ev.Request(
        message.request_id,
        message.attempt,
        message.model,
        message.version,
        max(1, message.batch_size),
        message.arrival_ns,
        message.deadline_ns,
        message.priority,
        message.shape_bucket,
        _tensors(message.tensors) if message.HasField("tensors") else None,
        message.traceparent,
        client_request_id=client_request_id(message.client_request_id),
        tenant=message.tenant,
    )


def _check_counts(message: scheduler_pb2.Submit | scheduler_pb2.LaunchedRequest) -> None:
    for what, count in (("items", message.batch_size), ("attempts", message.attempt)):
        if count > _MOST:
            raise ValueError(f"request {message.request_id} has {count} {what}, expected up to {_MOST}")


def client_request_id(given: str) -> str:
    """As much of a client's own id as is kept."""
    return given[:_ID_CHARACTERS]


def _tensors(message: types_pb2.StagedTensors) -> ev.Tensors:
    return ev.Tensors(message.segment, message.offset, message.byte_size)


def model_spec(config_bytes: bytes, version: str) -> ev.ModelSpec:
    """What the core must know of a model. Raises ValueError if configuration or version make no sense."""
    try:
        config = inference_pb2.ModelConfig.FromString(config_bytes)
    except DecodeError as error:
        raise ValueError(f"the configuration of a model is not a serialised ModelConfig: {error}") from error
    if not (version.isascii() and version.isdecimal() and len(version) < _VERSION_DIGITS):
        raise ValueError(f"the version of model '{config.name}' must be a decimal number, got '{version[:100]}'")
    options = model_options.read(config)
    batching = config.dynamic_batching
    policy = batching.default_queue_policy
    oldest, direct = config.sequence_batching.oldest, config.sequence_batching.direct  # empty where not configured
    batches = config.HasField("dynamic_batching") or config.HasField("sequence_batching")
    delay_us = max(x.max_queue_delay_microseconds for x in (batching, oldest, direct))
    return ev.ModelSpec(
        model=config.name,
        version=version,
        max_batch_size=max(1, config.max_batch_size),
        batching=batches and config.max_batch_size > 1,
        preferred_batch_sizes=tuple(batching.preferred_batch_size or oldest.preferred_batch_size),
        max_queue_delay_ns=delay_us * 1000,
        max_queue_size=policy.max_queue_size,
        priority_levels=batching.priority_levels,
        default_priority=batching.default_priority_level,
        max_instances=sum(max(1, group.count) for group in config.instance_group),
        slo_ns=options.slo_ns,
        idempotent=options.idempotent,
        resources=_needs(config),
        queue_sizes={level: own.max_queue_size for level, own in sorted(batching.priority_queue_policy.items())},
    )


def _needs(config: inference_pb2.ModelConfig) -> tuple[ev.Need, ...]:
    """What a batch needs of the rate limiter's resources: of each what its most demanding instances need."""
    found: dict[tuple[str, bool], int] = {}
    for group in config.instance_group:
        for resource in group.rate_limiter.resources:
            key = (resource.name, getattr(resource, "global"))
            found[key] = max(found.get(key, 0), resource.count)
    return tuple(ev.Need(name, count, shared) for (name, shared), count in sorted(found.items()) if count)


def model_name(config_bytes: bytes) -> str:
    """Name of the model in a serialised configuration. Raises ValueError if it is none."""
    try:
        return inference_pb2.ModelConfig.FromString(config_bytes).name
    except DecodeError as error:
        raise ValueError(f"the configuration of a model is not a serialised ModelConfig: {error}") from error


def profile(message: executor_pb2.ClassProfiled) -> ev.Profile:
    """A solo measurement."""
    known = batch_class(message.batch_class)
    demand, phases = tuple(message.demand), _phases(message.phases)
    return ev.Profile(
        known,
        min(message.work_ns, _ABSURD_NS),
        message.samples,
        demand,
        message.spread,
        _basis(message.basis),
        message.kernel_ns if 0.0 <= message.kernel_ns < _ABSURD_NS else 0.0,
        phases if sound_phases(phases, len(demand)) else (),
    )


def _phases(messages: Iterable[types_pb2.Phase]) -> tuple[Phase, ...]:
    return tuple(Phase(message.end, tuple(message.demand), message.kernel_ns) for message in messages)


def _basis(value: executor_pb2.ProfileBasis) -> str:
    """Empty for one that is not told, or that only a newer version knows."""
    if value not in executor_pb2.ProfileBasis.values() or value == executor_pb2.PROFILE_BASIS_UNSPECIFIED:
        return ""
    return executor_pb2.ProfileBasis.Name(value).removeprefix("PROFILE_BASIS_")


def forecast(message: types_pb2.Forecast) -> ev.Forecast:
    """What was expected of a launch."""
    return ev.Forecast(
        min(message.work_ns, _ABSURD_NS),
        message.duration_ns,
        message.bound_ns,
        message.level,
        message.estimates_version,
        message.co_runner_count,
    )


def device_spec(message: types_pb2.Device) -> ev.DeviceSpec:
    """A device."""
    return ev.DeviceSpec(
        message.device_id,
        message.kind,
        message.name,
        message.memory_bytes,
        max(1, message.max_concurrency),
        tuple(message.resources),
    )


def _batch(message: scheduler_pb2.Launch) -> ev.Batch:
    known = message.batch_class
    for one in message.requests:
        _check_counts(one)
    requests = tuple(
        ev.Request(
            r.request_id,
            r.attempt,
            known.model,
            known.version,
            max(1, r.batch_size),
            arrival_ns=0,
            deadline_ns=message.deadline_ns,
            shape_bucket=known.shape_bucket,
            tensors=_tensors(r.tensors) if r.HasField("tensors") else None,
            traceparent=r.traceparent,
        )
        for r in message.requests
    )
    return ev.Batch(
        message.batch_id,
        batch_class(known),
        requests,
        forecast(message.forecast),
        message.latest_start_ns,
        message.deadline_ns,
    )


def joined(hello: scheduler_pb2.ExecutorHello) -> ev.DeviceJoined:
    """An executor's introduction. Raises ValueError if what it has loaded makes no sense."""
    return ev.DeviceJoined(
        device_spec(hello.device),
        hello.incarnation,
        tuple(model_spec(m.model_config, m.version) for m in hello.loaded),
        tuple(m.memory_bytes for m in hello.loaded),
        tuple(map(profile, hello.profiles)),
        tuple(m.model for m in hello.repository.models),
        tuple(_batch(h.launch) for h in hello.held),
        tuple(h.started_ns for h in hello.held),
    )


def executor_event(device_id: str, message: executor_pb2.ExecutorEvent) -> ev.Event | None:
    """What an executor told, or None for an event this version does not know. Raises ValueError like `model_spec`."""
    match message.WhichOneof("event"):
        case "batch_started":
            return ev.BatchStarted(device_id, message.batch_started.batch_id, message.at_ns)
        case "batch_finished":
            return _finished(device_id, message.at_ns, message.batch_finished)
        case "batch_dropped":
            dropped = message.batch_dropped
            missing = tuple(dropped.missing_request_ids)
            return ev.BatchDropped(device_id, dropped.batch_id, message.at_ns, reason_name(dropped.reason), missing)
        case "kernel_timings":
            timed = message.kernel_timings
            kernels = tuple(ev.KernelTiming(k.name, k.offset_ns, k.duration_ns) for k in timed.kernels)
            return ev.KernelTimings(device_id, timed.batch_id, batch_class(timed.batch_class), timed.kind, kernels)
        case "device_state":
            return ev.DeviceState(device_id, message.at_ns, readings(message.device_state))
        case "model_loaded":
            loaded = message.model_loaded
            spec = model_spec(loaded.model_config, loaded.version)
            return ev.ModelLoaded(device_id, spec, loaded.memory_bytes, loaded.load_ns)
        case "model_load_failed":
            failed = message.model_load_failed
            return ev.ModelLoadFailed(device_id, failed.model, failed.version, failed.message)
        case "model_load_ended":
            ended = message.model_load_ended
            return ev.ModelLoadEnded(device_id, ended.model, tuple(ended.versions))
        case "model_unloaded":
            return ev.ModelUnloaded(device_id, message.model_unloaded.model, message.model_unloaded.version)
        case "class_profiled":
            return ev.ClassProfiled(device_id, profile(message.class_profiled))
        case "window_requested":
            wanted = message.window_requested
            return ev.WindowRequested(device_id, wanted.window_id, wanted.duration_ns, wanted.model)
        case "window_released":
            return ev.WindowReleased(device_id, message.window_released.window_id)
        case "repository_scanned":
            return ev.RepositoryScanned(device_id, tuple(m.model for m in message.repository_scanned.models))
        case _:
            return None


def _finished(device_id: str, at_ns: int, message: executor_pb2.BatchFinished) -> ev.BatchFinished:
    return ev.BatchFinished(
        device_id,
        message.batch_id,
        at_ns,
        message.started_ns,
        message.duration_ns,
        batch_class(message.batch_class),
        tuple(map(_slice, message.slices)),
        message.input_ns,
        message.output_ns,
        forecast(message.forecast) if message.HasField("forecast") else None,
        message.failed,
    )


def readings(message: executor_pb2.DeviceState) -> ev.Readings:
    """What a device's driver tells. Numbers that are none, or that JSON readers cannot hold, are left out."""
    told = {
        field.name: value
        for field, value in message.ListFields()
        if field.name in ev.Readings.__struct_fields__
        and field.name != "throttle_reasons"
        and -_ABSURD_NS < value < _ABSURD_NS
    }
    reasons = tuple(map(_throttle_reason, message.throttle_reasons)) if message.throttle_reasons_known else None
    return ev.Readings(**told, throttle_reasons=reasons)


def _throttle_reason(value: executor_pb2.ThrottleReason) -> str:
    """Its name; that of no reason for one that only a newer version knows."""
    known = value if value in executor_pb2.ThrottleReason.values() else executor_pb2.THROTTLE_REASON_UNSPECIFIED
    return executor_pb2.ThrottleReason.Name(known).removeprefix("THROTTLE_REASON_")


def _slice(message: types_pb2.Slice) -> ev.Slice:
    others, elapsed_ns = tuple(map(batch_class, message.co_runners)), tuple(message.co_runner_elapsed_ns)
    return ev.Slice(message.duration_ns, others, elapsed_ns if len(elapsed_ns) == len(others) else ())


def estimates(message: predictor_pb2.WatchEstimatesResponse, device_ids: Sequence[str]) -> Iterator[ev.EstimatesPushed]:
    """A push, by device. A complete one also clears devices it does not name.

    A predictor may be anybody's: entries with numbers that are none, or that make no sense, are left out.
    """
    classes: dict[str, list[ClassEstimate]] = {d: [] for d in device_ids} if message.complete else {}
    sets: dict[str, list[SetEstimate]] = {}
    for c in message.classes:
        if _sound((*c.demand, *c.sensitivity, *(p.delay for p in c.corrections)), c.quantiles):
            classes.setdefault(c.device_id, []).append(_class_estimate(c))
    for s in message.sets:
        if not _sound((s.slowdown,), s.quantiles) or s.slowdown <= 0.0:
            continue
        sets.setdefault(s.device_id, []).append(
            SetEstimate(
                batch_class(s.batch_class),
                tuple(map(batch_class, s.co_runners)),
                s.slowdown,
                _quantiles(s.quantiles),
                s.sample_count,
            )
        )
    for device_id in dict.fromkeys((*classes, *sets)):
        yield ev.EstimatesPushed(
            device_id,
            message.version,
            message.complete,
            tuple(classes.get(device_id, ())),
            tuple(sets.get(device_id, ())),
        )


def _sound(numbers: Iterable[float], quantiles: Iterable[predictor_pb2.QuantileFactor]) -> bool:
    """Whether all numbers are finite and of sane size, levels in (0, 1) and factors at least 1."""
    return all(-_ABSURD < n < _ABSURD for n in numbers) and all(
        0.0 < q.level < 1.0 <= q.factor < _ABSURD for q in quantiles
    )


def _class_estimate(message: predictor_pb2.ClassEstimate) -> ClassEstimate:
    phases = _phases(message.phases)
    return ClassEstimate(
        batch_class(message.batch_class),
        min(message.work_ns, _ABSURD_NS),
        tuple(message.demand),
        tuple(message.sensitivity),
        tuple(PairCorrection(batch_class(c.co_runner), c.delay) for c in message.corrections),
        _quantiles(message.quantiles),
        message.sample_count,
        message.basis,
        message.kernel_ns if 0.0 <= message.kernel_ns < _ABSURD_NS else 0.0,
        phases if sound_phases(phases, len(message.demand)) else (),
    )


def _quantiles(messages: Sequence[predictor_pb2.QuantileFactor]) -> tuple[QuantileFactor, ...]:
    return tuple(QuantileFactor(q.level, q.factor, q.co_runner_count) for q in messages)


# ---- to the wire ---------------------------------------------------------------------------------------------------


def put_launch(message: scheduler_pb2.Launch, batch: ev.Batch) -> None:
    """Writes an order to run a batch."""
    known, expected = batch.batch_class, batch.forecast
    message.batch_id = batch.batch_id
    message.latest_start_ns = batch.latest_start_ns
    message.deadline_ns = batch.deadline_ns
    put_class(message.batch_class, known)
    put_forecast(message.forecast, expected)
    for r in batch.requests:
        tensors = None
        if r.tensors:
            tensors = types_pb2.StagedTensors(
                segment=r.tensors.segment, offset=r.tensors.offset, byte_size=r.tensors.byte_size
            )
        message.requests.add(
            request_id=r.request_id,
            attempt=r.attempt,
            batch_size=r.batch_size,
            tensors=tensors,
            traceparent=r.traceparent,
        )


def put_class(message: types_pb2.BatchClass, known: BatchClass) -> None:
    """Writes a class of batches."""
    message.model, message.version = known.model, known.version
    message.batch_size, message.shape_bucket = known.batch_size, known.shape_bucket


def put_forecast(message: types_pb2.Forecast, expected: ev.Forecast) -> None:
    """Writes what is expected of a launch."""
    message.work_ns = min(_MOST_NS, expected.work_ns)
    message.duration_ns = min(_MOST_NS, expected.duration_ns)
    message.bound_ns = min(_MOST_NS, expected.bound_ns)
    message.level, message.estimates_version = expected.level, expected.estimates_version
    message.co_runner_count = expected.co_runner_count


def reject_reason(name: str) -> types_pb2.RejectReason:
    """A reason as the contract numbers it."""
    return cast("types_pb2.RejectReason", types_pb2.RejectReason.Value("REJECT_REASON_" + name))


def put_refusal(message: scheduler_pb2.Refusal, action: ev.Refuse) -> None:
    """Writes a refusal."""
    message.request_id, message.attempt, message.message = action.request_id, action.attempt, action.message
    message.reason = reject_reason(action.reason)
    message.predicted_finish_ns = action.predicted_finish_ns
    message.earliest_possible_ns = action.earliest_possible_ns
    if action.excess:
        message.quota, message.retry_after_ns = action.excess.quota, action.excess.retry_after_ns


def availability(name: str) -> scheduler_pb2.ModelAvailability:
    """A model's state as the contract numbers it."""
    number = scheduler_pb2.ModelAvailability.Value("MODEL_AVAILABILITY_" + name)
    return cast("scheduler_pb2.ModelAvailability", number)
