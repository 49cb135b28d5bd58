"""Devices that come, fall silent, come back and go; what they held goes on elsewhere, or is refused."""

import msgspec

from cotenant.runtime.estimates import EstimateTable
from cotenant.scheduler import events as ev
from cotenant.scheduler.agenda import Agenda
from cotenant.scheduler.batches import Batches
from cotenant.scheduler.books import Device, Running
from cotenant.scheduler.margin import Margin
from cotenant.scheduler.requests import Requests
from cotenant.scheduler.state import State
from cotenant.scheduler.tables import Tables


class Roster:
    """See the module's text."""

    def __init__(
        self, state: State, requests: Requests, batches: Batches, tables: Tables, margin: Margin, agenda: Agenda
    ) -> None:
        self.backlogged: dict[str, None] = {}  # devices for which something waits
        self._state, self._requests, self._batches = state, requests, batches
        self._tables, self._margin, self._agenda = tables, margin, agenda
        self._joined = 0

    # ---- what happens

    def joined(self, event: ev.DeviceJoined) -> None:
        """An executor is here, new or back."""
        state, device_id = self._state, event.device.device_id
        device = state.devices.get(device_id)
        if device is not None and device.incarnation != event.incarnation:
            self._lose(device)
            device = None
        if device is None:
            device = self._introduce(event)
        device.online = True
        self._reconcile(device, event)
        state.lifecycle.joined(device, event.repository)
        state.touched.add(device_id)

    def suspended(self, event: ev.DeviceSuspended) -> None:
        """Its lease still runs: it may be back."""
        if device := self._known(event):
            device.online = False
            self._state.touched.update(self._state.devices)  # those that are idle take what waits for it

    def lost(self, event: ev.DeviceLost) -> None:
        """It is gone."""
        if device := self._known(event):
            self._lose(device)

    def _known(self, event: ev.DeviceSuspended | ev.DeviceLost) -> Device | None:
        device = self._state.devices.get(event.device_id)
        return device if device is not None and device.incarnation == event.incarnation else None

    # ---- coming

    def _introduce(self, event: ev.DeviceJoined) -> Device:
        device_id = event.device.device_id
        table = self._tables.of.setdefault(device_id, EstimateTable())
        device = Device(event.device, event.incarnation, table, self._state.now_ns)
        self.add(device)
        device.estimates_version = self._tables.versions.get(device_id, 0)
        device.believe_overhead(self._margin.overhead_ns, self._margin.least_ns)
        for profile in event.profiles:
            device.add_profile(profile)
        for spec, memory_bytes in zip(event.loaded, event.memory_bytes, strict=True):
            self._state.lifecycle.loaded(device, spec, memory_bytes)
        return device

    def add(self, device: Device) -> None:
        """One more device, the last in the order of decisions."""
        self._joined += 1
        device.number = self._joined
        device.model_settings = self._state.model_settings
        device.limits = self._state.limits
        self._state.tenancy.welcome(device)
        self._state.devices[device.spec.device_id] = device
        if device.line:
            self.backlogged[device.spec.device_id] = None
        self._agenda.wake_at(device, device.wake_ns)

    def _reconcile(self, device: Device, event: ev.DeviceJoined) -> None:
        """Makes the books agree with the launches an executor says it holds."""
        state = self._state
        device.advance(state.now_ns)
        held = {batch.batch_id for batch in event.held}
        for body in [body for batch_id, body in device.running.items() if batch_id not in held]:
            device.end(body.batch.batch_id)
            self._relaunch(device, body)
        for batch, started_ns in zip(event.held, event.held_started_ns, strict=True):
            if batch.batch_id in device.running:
                continue
            for request in batch.requests:
                if request.request_id in state.waiting:
                    self._requests.unqueue(request.request_id)
            self._batches.adopt(device, batch, started_ns)

    # ---- going

    def _lose(self, device: Device) -> None:
        """Forgets a device: what it ran or had waiting goes elsewhere, or is refused."""
        state, device_id = self._state, device.spec.device_id
        queued = [request for queue in device.queues.values() for request in queue]
        del state.devices[device_id]
        self.backlogged.pop(device_id, None)
        self._tables.forget(device_id)
        state.lifecycle.lost(device)
        for body in device.running.values():
            self._relaunch(device, body)
        for request in queued:
            del state.waiting[request.request_id], state.places[request.request_id]
            if state.tenancy.active:
                state.tenancy.left(None, request)
            self._replace(request, device_id)

    def _relaunch(self, device: Device, body: Running) -> None:
        """Finds another place for requests whose batch is gone; a repeated run must be harmless for that."""
        spec = device.models.get((body.batch_class.model, body.batch_class.version))
        for request in self._state.released(device.spec.device_id, body.batch):
            if spec is None or spec.idempotent:
                self._replace(msgspec.structs.replace(request, attempt=request.attempt + 1), device.spec.device_id)
            else:
                message = f"the executor of '{device.spec.device_id}' was lost"
                self._requests.refuse(request, ev.EXECUTOR_LOST, message)

    def _replace(self, request: ev.Request, lost: str) -> None:
        if any((request.model, request.version) in d.models for d in self._state.devices.values()):
            self._requests.place(request)
        else:
            message = f"the executor of '{lost}' was lost, and no other serves the model"
            self._requests.refuse(request, ev.EXECUTOR_LOST, message)
