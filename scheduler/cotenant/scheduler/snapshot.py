"""The whole state of a core as plain data, and back: the start of every log segment, so that any can be replayed."""

import msgspec

from cotenant.runtime.estimates import BatchClass, ClassEstimate, EstimateTable, SetEstimate
from cotenant.scheduler import events as ev
from cotenant.scheduler.books import Device, Running, Window
from cotenant.scheduler.core import Core, CoreConfig
from cotenant.scheduler.lifecycle import LoadOperation, VersionState
from cotenant.scheduler.policy import Policy


class SoloRuns(msgspec.Struct, frozen=True):
    """How long the last batches of a class took that ran alone, oldest first."""

    batch_class: BatchClass
    durations_ns: tuple[int, ...]


class DeviceSnapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    """One device's books."""

    device: ev.DeviceSpec
    incarnation: int
    online: bool
    updated_ns: int
    busy_ns: int
    batch_ns: int
    wake_ns: int
    models: tuple[ev.ModelSpec, ...] = ()
    memory_bytes: tuple[int, ...] = ()
    profiles: tuple[ev.Profile, ...] = ()
    queued: tuple[ev.Request, ...] = ()  # queue by queue, each in order
    running: tuple[Running, ...] = ()
    window: Window | None = None
    solo_runs: tuple[SoloRuns, ...] = ()


class TableSnapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is believed of one device, here or away."""

    device_id: str
    estimates_version: int
    classes: tuple[ClassEstimate, ...] = ()
    sets: tuple[SetEstimate, ...] = ()


class Snapshot(msgspec.Struct, frozen=True, omit_defaults=True, tag=True, tag_field="type"):
    """A core between two calls of `handle`."""

    now_ns: int
    config: CoreConfig
    next_batch_id: int
    answer_overhead_ns: int
    draining: bool
    wake_ns: int
    settled_ns: int
    overhead_told_ns: int = 0
    unplaced: tuple[ev.Request, ...] = ()
    devices: tuple[DeviceSnapshot, ...] = ()
    tables: tuple[TableSnapshot, ...] = ()
    versions: dict[str, dict[str, VersionState]] = {}
    wanted: dict[str, bool] = {}
    loads: dict[str, LoadOperation] = {}
    unload_tickets: dict[str, list[int]] = {}


def take(core: Core) -> Snapshot:
    """The state of a core. It shares mutable parts with it: encode it before the core goes on."""
    life = core.lifecycle
    return Snapshot(
        now_ns=core.now_ns,
        config=core.config,
        next_batch_id=core.next_batch_id,
        answer_overhead_ns=core.answer_overhead_ns,
        overhead_told_ns=core.overhead_told_ns,
        draining=core.draining,
        wake_ns=core.timer_ns,
        settled_ns=core.settled_ns,
        unplaced=tuple(core.unplaced.values()),
        devices=tuple(map(_of_device, core.devices.values())),
        tables=tuple(
            TableSnapshot(d, core.estimates_versions.get(d, 0), tuple(t.classes.values()), tuple(t.sets.values()))
            for d, t in core.tables.items()
        ),
        versions=life.versions,
        wanted=life.wanted,
        loads=life.loads,
        unload_tickets=life.unload_tickets,
    )


def _of_device(device: Device) -> DeviceSnapshot:
    return DeviceSnapshot(
        device=device.spec,
        incarnation=device.incarnation,
        online=device.online,
        updated_ns=device.updated_ns,
        busy_ns=device.busy_ns,
        batch_ns=device.batch_ns,
        wake_ns=device.wake_ns,
        models=tuple(device.models.values()),
        memory_bytes=tuple(device.memory_bytes.values()),
        profiles=tuple(p for sizes in device.profiles.values() for p in sizes.values()),
        queued=tuple(request for queue in device.queues.values() for request in queue),
        running=tuple(device.running.values()),
        window=device.window,
        solo_runs=tuple(SoloRuns(known, durations) for known, durations in device.solo_runs.items()),
    )


def restore(snapshot: Snapshot, policy: Policy) -> Core:
    """A core that goes on as the one the snapshot was taken of would have."""
    core = Core(snapshot.config, policy)
    core.now_ns = snapshot.now_ns
    core.next_batch_id = snapshot.next_batch_id
    core.answer_overhead_ns = snapshot.answer_overhead_ns
    core.overhead_told_ns = snapshot.overhead_told_ns
    core.draining = snapshot.draining
    core.timer_ns = snapshot.wake_ns
    core.settled_ns = snapshot.settled_ns
    core.unplaced = {request.request_id: request for request in snapshot.unplaced}
    for table in snapshot.tables:
        core.tables[table.device_id] = EstimateTable()
        core.tables[table.device_id].update(table.classes, table.sets, complete=True)
        core.estimates_versions[table.device_id] = table.estimates_version
    for kept in snapshot.devices:
        _restore_device(core, kept)
    life = core.lifecycle
    life.restore_versions(snapshot.versions)
    life.wanted = snapshot.wanted
    life.loads, life.unload_tickets = snapshot.loads, snapshot.unload_tickets
    return core


def _restore_device(core: Core, kept: DeviceSnapshot) -> None:
    device_id = kept.device.device_id
    device = Device(kept.device, kept.incarnation, core.tables.setdefault(device_id, EstimateTable()), kept.updated_ns)
    device.estimates_version = core.estimates_versions.get(device_id, 0)
    device.answer_overhead_ns = core.answer_overhead_ns
    device.online, device.window, device.wake_ns = kept.online, kept.window, kept.wake_ns
    device.busy_ns, device.batch_ns = kept.busy_ns, kept.batch_ns
    for spec, memory_bytes in zip(kept.models, kept.memory_bytes, strict=True):
        device.models[spec.model, spec.version] = spec
        device.memory_bytes[spec.model, spec.version] = memory_bytes
    for profile in kept.profiles:
        device.add_profile(profile)
    device.solo_runs = {runs.batch_class: runs.durations_ns for runs in kept.solo_runs}
    for request in kept.queued:
        device.enqueue(request)
        core.waiting[request.request_id] = request
        core.places[request.request_id] = (device_id, 0)
    for body in kept.running:
        device.running[body.batch.batch_id] = body
        for request in body.batch.requests:
            core.places[request.request_id] = (device_id, body.batch.batch_id)
    core.add(device)
