"""Reads a recorded log for the report: what ran, what was refused, what is believed.

It knows the format, not the scheduler, so that logs of later versions can be read as far as they are understood.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from cotenant.cli import report_records as records
from cotenant.cli.report_records import Device, Finished, Request
from cotenant.runtime.estimates import BatchClass, EstimateTable


@dataclass(slots=True)
class RequestLife:
    """What the log tells of one request; instants on the scheduler's clock, 0 where it did not come so far."""

    request: Request
    decided_ns: int  # when the core first saw it
    launched_ns: int = 0
    batch_id: int = 0
    ended_ns: int = 0  # of its batch, or when it was refused
    refused: str = ""  # the reason
    why: str = ""  # the reason in words
    cancelled: bool = False


@dataclass(slots=True)
class Log:
    """All that a report needs."""

    software: str = ""
    clock_id: str = ""
    unix_offset_ns: int = 0  # added to an instant it makes a date
    policy: str = ""
    level: float = 0.0
    observe_only: bool = False
    groups: int = 0
    events: int = 0
    not_understood: int = 0  # of known types
    unknown: Counter[str] = field(default_factory=Counter)  # by type, of what a later version wrote
    first_ns: int = 0
    last_ns: int = 0
    estimates_version: int = 0
    devices: dict[str, Device] = field(default_factory=dict)
    slo_ns: dict[str, int] = field(default_factory=dict)  # by model, 0 for none
    work_ns: dict[tuple[str, BatchClass], int] = field(default_factory=dict)  # measured alone, by device and class
    tables: dict[str, EstimateTable] = field(default_factory=dict)  # by device
    requests: dict[int, RequestLife] = field(default_factory=dict)
    batches: list[Finished] = field(default_factory=list)
    would_refuse: list[tuple[int, str, str]] = field(default_factory=list)  # instant, model, reason


def read(path: Path) -> Log:
    """Reads a log with all its parts. Raises ValueError that names file and line where it is none."""
    log = Log()
    for part in parts(path):
        for record in records_of(part):
            _apply(log, record)
    if not log.groups:
        raise ValueError(f"{path}: nothing is recorded in it")
    return log


def parts(path: Path) -> list[Path]:
    """The parts of a log in order. Raises ValueError if there is none."""
    pattern = re.compile(re.escape(path.name) + r"(?:\.(\d+))?")
    found = [(match, p) for p in path.parent.glob(path.name + "*") if (match := pattern.fullmatch(p.name))]
    if not found:
        raise ValueError(f"there is no log at {path}")
    return [p for _, p in sorted((int(match[1] or 0), p) for match, p in found)]


def records_of(path: Path) -> Iterator[records.Line]:
    """The records of one part. Raises ValueError that names file and line where it is none."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return  # cut off, or still being written
            try:
                record = records.line.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise ValueError(f"{path}, line {number}: not a record of a Cotenant log: {error}") from error
            if number == 1 and (record.type != "Header" or record.format != records.FORMAT):
                raise ValueError(f"{path}: not a Cotenant log: its first line is no header")
            if record.version > records.VERSION:
                raise ValueError(
                    f"{path}: version {record.version} of the format is newer than ours ({records.VERSION})"
                )
            yield record


def _apply(log: Log, record: records.Line) -> None:
    if record.type == "Header":
        log.software, log.clock_id = record.software, record.clock_id
        log.unix_offset_ns = record.unix_ns - record.monotonic_ns
    elif record.type == "Snapshot":
        _restore(log, record)
    elif record.type != "Group":
        log.unknown[record.type] += 1
    else:
        log.groups += 1
        log.events += len(record.events)
        log.first_ns = log.first_ns or record.now_ns
        log.last_ns = max(log.last_ns, record.now_ns)
        for raw in (*record.events, *record.actions):
            name = records.kind(raw)
            log.unknown.update(() if name in records.TYPES else (name,))
            if decoder := records.DECODERS.get(name):
                try:
                    told = decoder.decode(raw)
                except (
                    msgspec.ValidationError,
                    UnicodeDecodeError,
                ):  # a later version means something else by this name
                    log.not_understood += 1
                else:
                    _take(log, record.now_ns, told)


def _restore(log: Log, snapshot: records.Line) -> None:
    """The state at the start of a part: what was there before the log began, or what its first parts told."""
    if snapshot.config:
        log.policy, log.level = snapshot.config.policy, snapshot.config.level
        log.observe_only = snapshot.config.observe_only
    for kept in snapshot.devices:
        log.devices[kept.device.device_id] = kept.device
        _specify(log, kept.device.device_id, kept.models, kept.profiles)
        for request in kept.queued:
            log.requests.setdefault(request.request_id, RequestLife(request, snapshot.now_ns))
    for table in snapshot.tables:
        log.tables.setdefault(table.device_id, EstimateTable()).update(table.classes, table.sets, complete=True)


def _specify(log: Log, device_id: str, specs: tuple[records.Spec, ...], profiles: tuple[records.Profile, ...]) -> None:
    log.slo_ns.update((spec.model, spec.slo_ns) for spec in specs)
    log.work_ns.update(((device_id, p.batch_class), p.work_ns) for p in profiles)


def _take(log: Log, now_ns: int, told: object) -> None:
    match told:
        case records.Arrived():
            log.requests.setdefault(told.request.request_id, RequestLife(told.request, now_ns))
        case records.Launched():
            for request in told.batch.requests:
                life = log.requests.setdefault(request.request_id, RequestLife(request, now_ns))
                life.launched_ns, life.batch_id = now_ns, told.batch.batch_id
        case Finished():
            log.batches.append(told)
        case records.WouldRefuse():
            known = log.requests.get(told.request_id)
            log.would_refuse.append((now_ns, known.request.model if known else "", told.reason))
        case records.Refused():
            if refused := log.requests.get(told.request_id):
                refused.refused, refused.why, refused.ended_ns = told.reason, told.message, now_ns
        case records.Cancelled():
            if cancelled := log.requests.get(told.request_id):
                cancelled.cancelled = True
        case records.Joined():
            log.devices[told.device.device_id] = told.device
            _specify(log, told.device.device_id, told.loaded, told.profiles)
        case records.Loaded():
            _specify(log, "", (told.spec,), ())
        case records.Profiled():
            _specify(log, told.device_id, (), (told.profile,))
        case records.Pushed():
            log.estimates_version = max(log.estimates_version, told.version)
            table = log.tables.setdefault(told.device_id, EstimateTable())
            table.update(told.classes, told.sets, complete=told.complete)
        case _:
            return
