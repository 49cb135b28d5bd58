"""The whole state of a core as plain data, and back: the start of every log segment, so that any can be replayed."""

import msgspec

from cotenant.runtime.estimates import BatchClass, ClassEstimate, EstimateTable, SetEstimate
from cotenant.scheduler import events as ev
from cotenant.scheduler.books import Device, Running, Window
from cotenant.scheduler.core import Core, CoreConfig
from cotenant.scheduler.fairness import FairnessState
from cotenant.scheduler.lifecycle import LoadOperation, VersionState
from cotenant.scheduler.policy import Policy
from cotenant.scheduler.tenants import Account
from cotenant.scheduler.widening import Widening


class SoloRuns(msgspec.Struct, frozen=True):
    """How long the last batches of a class took that ran alone, oldest first."""

    batch_class: BatchClass
    durations_ns: tuple[int, ...]


class Crowd(msgspec.Struct, frozen=True):
    """Until when a queue counts as one that holds more than fits."""

    model: str
    version: str
    shape_bucket: str
    until_ns: int


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
    orders_ns: tuple[int, ...] = ()
    fairness: FairnessState | None = None
    widening: Widening | None = None  # none where there is nothing to say
    crowds: tuple[Crowd, ...] = ()


class TenantsSnapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    """What tenants have asked for; `reserved` is solo work counted for a request that waits, by its id."""

    accounts: tuple[Account, ...] = ()
    reserved: dict[int, int] = {}
    swept_ns: int = 0


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
    draining: bool
    wake_ns: int
    settled_ns: int
    overhead_told_ns: int = 0
    overheads_ns: tuple[int, ...] = ()  # as they were reported, the last ones
    unplaced: tuple[ev.Request, ...] = ()
    devices: tuple[DeviceSnapshot, ...] = ()
    tables: tuple[TableSnapshot, ...] = ()
    versions: dict[str, dict[str, VersionState]] = {}
    wanted: dict[str, bool] = {}
    loads: dict[str, LoadOperation] = {}
    unload_tickets: dict[str, list[int]] = {}
    tenants: TenantsSnapshot | None = None  # none while tenants are not told apart


def take(core: Core) -> Snapshot:
    """The state of a core. It shares mutable parts with it: encode it before the core goes on."""
    life, tenancy = core.lifecycle, core.state.tenancy
    known = tenancy.tenants
    return Snapshot(
        now_ns=core.state.now_ns,
        config=core.config,
        next_batch_id=core.batches.next_id,
        overhead_told_ns=core.margin.told_ns,
        overheads_ns=core.margin.reports,
        draining=core.requests.draining,
        wake_ns=core.agenda.timer_ns,
        settled_ns=core.requests.settled_ns,
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
        tenants=TenantsSnapshot(tuple(known.accounts.values()), known.reserved, known.swept_ns)
        if tenancy.active
        else None,
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
        models=tuple(device.declared.values()),
        memory_bytes=tuple(device.memory_bytes.values()),
        profiles=tuple(p for sizes in device.profiles.values() for p in sizes.values()),
        queued=tuple(request for queue in device.queues.values() for request in queue),
        running=tuple(device.running.values()),
        window=device.window,
        solo_runs=tuple(SoloRuns(known, durations) for known, durations in device.solo_runs.items()),
        orders_ns=device.orders_ns,
        fairness=device.fair.state() if device.fair else None,
        widening=device.widening if device.widening.since_ns else None,
        crowds=tuple(Crowd(*key, until_ns) for key, until_ns in device.crowded.items()),
    )


def restore(snapshot: Snapshot, policy: Policy) -> Core:
    """A core that goes on as the one the snapshot was taken of would have."""
    core = Core(snapshot.config, policy)
    core.state.now_ns = snapshot.now_ns
    core.batches.next_id = snapshot.next_batch_id
    core.margin.reports = snapshot.overheads_ns
    core.margin.told_ns = snapshot.overhead_told_ns
    core.requests.draining = snapshot.draining
    core.agenda.timer_ns = snapshot.wake_ns
    core.requests.settled_ns = snapshot.settled_ns
    core.unplaced.update((request.request_id, request) for request in snapshot.unplaced)
    for table in snapshot.tables:
        core.tables[table.device_id] = EstimateTable()
        core.tables[table.device_id].update(table.classes, table.sets, complete=True)
        core.estimates_versions[table.device_id] = table.estimates_version
    if kept_tenants := snapshot.tenants:
        core.state.tenancy.activate()
        core.state.tenancy.tenants.restore(kept_tenants.accounts, kept_tenants.reserved, kept_tenants.swept_ns)
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
    device.believe_overhead(core.margin.overhead_ns, core.margin.least_ns)
    device.believe_orders(kept.orders_ns)
    device.model_settings = core.state.model_settings
    device.online, device.window, device.wake_ns = kept.online, kept.window, kept.wake_ns
    device.busy_ns, device.batch_ns = kept.busy_ns, kept.batch_ns
    for spec, memory_bytes in zip(kept.models, kept.memory_bytes, strict=True):
        device.respecify(spec)
        device.memory_bytes[spec.model, spec.version] = memory_bytes
    for profile in kept.profiles:
        device.add_profile(profile)
    device.widening = kept.widening or device.widening
    device.widen()
    device.solo_runs = {runs.batch_class: runs.durations_ns for runs in kept.solo_runs}
    device.crowded = {(one.model, one.version, one.shape_bucket): one.until_ns for one in kept.crowds}
    device.ranks.update(kept.fairness.ranks if kept.fairness else {})
    for request in kept.queued:
        device.enqueue(request)
        if core.state.tenancy.active:  # else it counts what waits when it becomes so
            core.state.tenancy.tenants.entered(request)
        core.waiting[request.request_id] = request
        core.places[request.request_id] = (device_id, 0)
    for body in kept.running:
        device.begin(body)
        for request in body.batch.requests:
            core.places[request.request_id] = (device_id, body.batch.batch_id)
    core.roster.add(device)
    if device.fair is not None and kept.fairness is not None:
        device.fair.restore(kept.fairness)
