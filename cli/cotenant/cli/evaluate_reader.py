"""Reads logs for `evaluate`: records become the contract's messages, which predictors check and learn from, and steps.

Everything goes through the predictor's own intake, so what it would not learn from is not judged either, but counted.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from cotenant.cli import evaluate_solo, report_log
from cotenant.cli import report_records as records
from cotenant.cli.evaluate_log import (
    Ended,
    Launched,
    Ran,
    Recording,
    Stated,
    Told,
    find_neighbours,
    find_running,
    order,
)
from cotenant.cli.evaluate_solo import Measured, SoloTimes
from cotenant.predictor.codec import put_class
from cotenant.predictor.intake import Intake
from cotenant.runtime.estimates import BatchClass
from cotenant.v1 import executor_pb2, types_pb2

# Instants of executors are mapped onto the log's clock, with an error; beyond it, an end later than its telling is
# none.
_CLOCK_ERROR_NS = 10_000_000
_REASONS: dict[str, Any] = {  # as the log names them
    name.removeprefix("THROTTLE_REASON_"): number for name, number in executor_pb2.ThrottleReason.items()
}


def read(path: Path, *, percentile: float = 50.0, measured: Measured | None = None) -> Recording:
    """A log with all its parts; solo times are those at `percentile`, 50 or 95.

    `measured` carries solo times from one log to the next. Raises ValueError that names the log and what it lacks.
    """
    reader = _Reader(percentile, {} if measured is None else measured)
    for part in report_log.parts(path):
        for record in report_log.records_of(part):
            reader.take(record)
    recording = reader.recording(str(path))
    if not recording.batches:
        why = ", ".join(f"{count} {reason}" for reason, count in recording.rejected.items())
        raise ValueError(f"{path}: no batch in it that ran well and has slices{': ' + why if why else ''}")
    return recording


class _Reader:
    """Takes records in order."""

    def __init__(self, percentile: float, measured: Measured) -> None:
        self._percentile, self._measured = percentile, measured
        self._intake = Intake()
        self._specs: dict[str, records.Device] = {}
        self._told: list[tuple[int, str, records.Profile | Stated | Ran]] = []  # in the log's order
        self._last_told: dict[tuple[str, BatchClass], records.Profile] = {}
        self._known_ns = 0

    def take(self, record: records.Line) -> None:
        """One record."""
        if record.type == "Snapshot":
            for device in record.devices:
                self._join(record.now_ns, device.device, device.profiles)
        elif record.type == "Group":
            for raw in record.events:
                self._take_event(record.now_ns, raw)
        elif record.type not in records.RECORDS:
            self._intake.reject("of unknown types", record.type)

    def _take_event(self, now_ns: int, raw: msgspec.Raw) -> None:
        name = records.kind(raw)
        if name not in ("DeviceJoined", "ClassProfiled", "BatchFinished", "DeviceState"):
            if name not in records.TYPES:
                self._intake.reject("of unknown types", name)
            return
        try:
            told = records.DECODERS[name].decode(raw)
        except (msgspec.ValidationError, UnicodeDecodeError) as error:
            self._intake.reject("not understood", error)
            return
        match told:
            case records.Joined():
                self._join(now_ns, told.device, told.profiles)
            case records.Profiled():
                self._profile(now_ns, told.device_id, told.profile)
            case records.State():
                self._state(now_ns, told)
            case records.Finished():
                self._finish(now_ns, told)

    def _join(self, now_ns: int, device: records.Device, profiles: Sequence[records.Profile]) -> None:
        self._specs[device.device_id] = device
        for profile in profiles:
            self._profile(now_ns, device.device_id, profile)

    def _profile(self, now_ns: int, device_id: str, profile: records.Profile) -> None:
        """Told once: parts of a log, and executors that return, repeat what was known."""
        if self._last_told.get((device_id, profile.batch_class)) != profile:
            self._last_told[device_id, profile.batch_class] = profile
            self._known_ns = max(self._known_ns, now_ns)
            self._told.append((self._known_ns, device_id, profile))

    def _state(self, now_ns: int, told: records.State) -> None:
        message = _device_state(told)
        if message is None or not told.device_id:
            self._intake.reject("not understood", told.device_id)
        elif clocks := self._intake.device_state(message):
            self._known_ns = max(self._known_ns, now_ns)
            stated = Stated(told.device_id, self._known_ns, clocks, message)
            self._told.append((self._known_ns, told.device_id, stated))

    def _finish(self, now_ns: int, told: records.Finished) -> None:
        message = _finished(told)
        if message is None or told.started_ns < 0 or not told.device_id:
            self._intake.reject("not understood", told.batch_id)
            return
        seen = self._intake.finished(message, told.at_ns)
        if seen is None:
            if told.failed:
                self._intake.reject("failed", told.batch_id)
            return
        if told.started_ns + seen.duration_ns > now_ns + _CLOCK_ERROR_NS:
            self._intake.reject("clock", f"batch {told.batch_id} ended after it was told of")
            return
        self._known_ns = max(self._known_ns, now_ns, told.started_ns + seen.duration_ns)
        forecast = told.forecast or records.Forecast()
        bound_ns, level = forecast.bound_ns if seen.forecast_ns else 0, forecast.level
        ran = Ran(told.device_id, told.batch_id, told.started_ns, seen, message, bound_ns, level)
        self._told.append((self._known_ns, told.device_id, ran))

    # ---- all together

    def recording(self, name: str) -> Recording:
        """What was taken."""
        found = Recording(name, self._devices())
        found.batches = [told for _, _, told in self._told if isinstance(told, Ran)]
        found.batches.sort(key=lambda ran: (ran.started_ns, ran.batch_id))
        find_neighbours(found.batches)
        ran_on = ((ran.device_id, ran.seen) for ran in found.batches)
        solo = SoloTimes(self._percentile, ran_on, self._measured)
        for at_ns, device_id, told in self._told:
            match told:
                case Ran():
                    found.steps.append(Ended(at_ns, told))
                case Stated():
                    found.steps.append(told)
                case records.Profile():
                    message = _profiled(told, evaluate_solo.work_ns(told, self._percentile))
                    if message and (profile := self._intake.profile(message, len(found.devices[device_id].resources))):
                        found.steps.append(Told(device_id, at_ns, profile, message))
        found.steps += [Launched(ran.started_ns, ran) for ran in found.batches]
        found.steps.sort(key=order)
        find_running(found.batches)
        for step in found.steps:
            if isinstance(step, Told):
                solo.measured(step.device_id, step.profile.batch_class, step.profile.work_ns)
            elif isinstance(step, Launched):
                step.batch.work_ns = solo.of(step.batch.device_id, step.batch.batch_class)
        found.rejected = self._intake.rejected
        return found

    def _devices(self) -> dict[str, types_pb2.Device]:
        """Devices as they introduced themselves; else as many resources as their profiles tell of."""
        told: dict[str, int] = defaultdict(int)
        for _, device_id, profile in self._told:
            demand = profile.demand if isinstance(profile, records.Profile) else ()
            told[device_id] = max(told[device_id], len(demand))
        found: dict[str, types_pb2.Device] = {}
        for device_id in dict.fromkeys([*self._specs, *told]):
            spec = self._specs.get(device_id) or records.Device(device_id)
            resources = spec.resources or tuple(f"resource-{k}" for k in range(told[device_id]))
            found[device_id] = types_pb2.Device(
                device_id=device_id, kind=spec.kind, name=spec.name, resources=resources
            )
        return found


def _finished(told: records.Finished) -> executor_pb2.BatchFinished | None:
    message = executor_pb2.BatchFinished(failed=told.failed)
    try:
        message.batch_id, message.started_ns, message.duration_ns = told.batch_id, told.started_ns, told.duration_ns
        put_class(message.batch_class, told.batch_class)
        for part in told.slices:
            added = message.slices.add(duration_ns=part.duration_ns, co_runner_elapsed_ns=part.co_runner_elapsed_ns)
            for other in part.co_runners:
                put_class(added.co_runners.add(), other)
        if told.forecast:
            message.forecast.work_ns, message.forecast.duration_ns = told.forecast.work_ns, told.forecast.duration_ns
            message.forecast.co_runner_count = told.forecast.co_runner_count
    except ValueError:  # negative, or beyond 64 bits
        return None
    return message


def _device_state(told: records.State) -> executor_pb2.DeviceState | None:
    """The contract's message; readings and reasons that only a later version knows are left out."""
    names = executor_pb2.DeviceState.DESCRIPTOR.fields_by_name
    fields: dict[str, Any] = {key: value for key, value in told.readings.items() if key in names and value is not None}
    reasons = fields.pop("throttle_reasons", None)
    try:
        message = executor_pb2.DeviceState(throttle_reasons_known=reasons is not None, **fields)
        message.throttle_reasons.extend(
            _REASONS.get(reason, executor_pb2.THROTTLE_REASON_UNSPECIFIED) for reason in reasons or ()
        )
    except (TypeError, ValueError):  # of another type, negative, or beyond the field's bits
        return None
    return message


def _profiled(told: records.Profile, work_ns: int) -> executor_pb2.ClassProfiled | None:
    message = executor_pb2.ClassProfiled(demand=told.demand, kernel_ns=told.kernel_ns)
    message.phases.extend(types_pb2.Phase(end=p.end, demand=p.demand, kernel_ns=p.kernel_ns) for p in told.phases)
    try:
        message.work_ns, message.samples = work_ns, told.samples
        put_class(message.batch_class, told.batch_class)
    except ValueError:
        return None
    return message
