"""Loading and unloading models over all devices: which versions are where, what is under way, who waits for it.

Part of the core, under its rules: pure, ordered, told by events. A version that is to go takes no new requests and
is unloaded from a device once nothing of it waits or runs there. A load that fails leaves what serves serving.
"""

from collections.abc import Mapping

import msgspec

from cotenant.scheduler import events as ev
from cotenant.scheduler.books import Device

KNOWN, LOADING, READY, UNLOADING, UNAVAILABLE = "KNOWN", "LOADING", "READY", "UNLOADING", "UNAVAILABLE"


class VersionState(msgspec.Struct):
    """One version of a model: where it is ready, and on which devices its unloading was ordered."""

    availability: str
    reason: str = ""
    device_ids: list[str] = []
    unload_ordered: list[str] = []


class LoadOperation(msgspec.Struct):
    """A load that is under way, on which devices, and who waits for it."""

    device_ids: list[str]
    tickets: list[int] = []
    errors: list[str] = []
    cause: str = ""


class Lifecycle:
    """See the module's text. `actions` is the list of the core's current turn."""

    def __init__(self, load_all: bool, load_models: tuple[str, ...]) -> None:
        self.actions: list[ev.Action] = []
        self.load_all = load_all
        self.versions: dict[str, dict[str, VersionState]] = {}
        self.wanted: dict[str, bool] = dict.fromkeys(load_models, True)
        self.loads: dict[str, LoadOperation] = {}
        self.unload_tickets: dict[str, list[int]] = {}
        self._unloading: dict[tuple[str, str], None] = {}

    def restore_versions(self, versions: dict[str, dict[str, VersionState]]) -> None:
        """Becomes what was kept."""
        self.versions = versions
        self._unloading = {
            (model, version): None
            for model, states in versions.items()
            for version, state in states.items()
            if state.availability == UNLOADING
        }

    # ---- questions

    def homes(self, model: str, version: str) -> list[str]:
        """The devices that serve a version."""
        state = self.versions.get(model, {}).get(version)
        return state.device_ids if state else []

    def ready(self, model: str, version: str) -> bool:
        """Whether a version takes requests."""
        state = self.versions.get(model, {}).get(version)
        return state is not None and state.availability == READY

    # ---- devices come and go

    def joined(self, device: Device, repository: tuple[str, ...]) -> None:
        """Orders what a device should have and has not."""
        self.scanned(repository)
        present = {model for model, _ in device.models}
        for model in dict.fromkeys((*repository, *self.wanted)):
            if self.wanted.get(model, self.load_all and model in repository) and model not in present:
                self._order_load(model, [device.spec.device_id])

    def lost(self, device: Device) -> None:
        """Takes a device out of all that involves it."""
        device_id = device.spec.device_id
        for model, version in device.models:
            self._leave(device_id, model, version, f"device '{device_id}' was lost")
        for model in [m for m, operation in self.loads.items() if device_id in operation.device_ids]:
            self.loads[model].errors.append(f"device '{device_id}' was lost")
            self.loads[model].cause = self.loads[model].cause or ev.NO_DEVICE
            self._device_done(device_id, model)

    def scanned(self, models: tuple[str, ...]) -> None:
        """Learns what a repository holds."""
        for model in models:
            self.versions.setdefault(model, {})

    # ---- loading

    def load(self, model: str, ticket: int, devices: Mapping[str, Device]) -> None:
        """Orders a load on every device; the ticket is done when all have reported."""
        self.wanted[model] = True
        if not devices:
            message = f"failed to load '{model}', no executor is connected"
            self.actions.append(ev.TicketDone(ticket, message, ev.NO_DEVICE))
            return
        self._order_load(model, sorted(devices))
        self.loads[model].tickets.append(ticket)

    def _order_load(self, model: str, device_ids: list[str]) -> None:
        operation = self.loads.setdefault(model, LoadOperation([]))
        for version, state in self.versions.get(model, {}).items():
            if state.availability in (KNOWN, UNAVAILABLE):
                self._change(model, version, LOADING)
        for device_id in device_ids:
            if device_id not in operation.device_ids:
                operation.device_ids.append(device_id)
                self.actions.append(ev.LoadModel(device_id, model))

    def loaded(self, device: Device, spec: ev.ModelSpec, memory_bytes: int) -> None:
        """A version is ready on a device."""
        key, device_id = (spec.model, spec.version), device.spec.device_id
        device.respecify(spec)
        device.memory_bytes[key] = memory_bytes
        state = self._state(*key)
        if device_id not in state.device_ids:
            state.device_ids.append(device_id)
        state.unload_ordered = [d for d in state.unload_ordered if d != device_id]
        self.versions[spec.model].pop("", None)  # what an earlier load found wrong with the model as a whole
        self._change(*key, READY)

    def load_failed(self, device_id: str, model: str, version: str, message: str) -> None:
        """A version cannot be loaded on a device."""
        if operation := self.loads.get(model):
            where = f"version {version} is at UNAVAILABLE state: {message};" if version else message
            operation.errors.append(where)
            operation.cause = ev.NOT_LOADABLE if version else ev.NOT_IN_REPOSITORY
        if not version and model not in self.versions:
            self.wanted.pop(model, None)  # there is no such model
            return
        if not version and any(state.availability == READY for state in self.versions[model].values()):
            return  # what serves goes on, and is what there is to tell
        state = self._state(model, version)
        if device_id not in state.device_ids and state.availability != READY:
            self._change(model, version, UNAVAILABLE, message)

    def load_ended(self, device: Device, model: str, versions: tuple[str, ...]) -> None:
        """A device has done all it can; versions that are no longer wanted go, unless something failed."""
        failed = model in self.loads and self.loads[model].errors
        for version, state in self.versions.get(model, {}).items():
            if version not in versions and device.spec.device_id in state.device_ids and versions and not failed:
                self._change(model, version, UNLOADING)
        self._device_done(device.spec.device_id, model)
        if model not in self.loads:  # what nobody loaded, though it was there before
            for version, state in self.versions.get(model, {}).items():
                if state.availability == LOADING:
                    self._change(model, version, UNAVAILABLE, "it was not loaded")

    def _device_done(self, device_id: str, model: str) -> None:
        operation = self.loads.get(model)
        if operation is None or device_id not in operation.device_ids:
            return
        operation.device_ids.remove(device_id)
        if operation.device_ids:
            return
        del self.loads[model]
        error = " ".join(dict.fromkeys(operation.errors))
        if operation.cause == ev.NOT_LOADABLE:
            error = f"load failed for model '{model}': {error}"
        elif operation.cause == ev.NOT_IN_REPOSITORY and not error.startswith("failed to load"):
            error = f"failed to load '{model}', failed to poll from model repository: {error}"
        self.actions += [ev.TicketDone(ticket, error, operation.cause) for ticket in operation.tickets]

    # ---- unloading

    def unload(self, model: str, ticket: int) -> None:
        """Lets every version of a model go; done at once if none serves, as in Triton."""
        if model in self.versions or model in self.wanted:
            self.wanted[model] = False
        going = [version for version, state in self.versions.get(model, {}).items() if state.device_ids]
        for version in going:
            self._change(model, version, UNLOADING)
        if going:
            self.unload_tickets.setdefault(model, []).append(ticket)
        else:
            self.actions.append(ev.TicketDone(ticket))

    def finish_unloads(self, devices: Mapping[str, Device]) -> None:
        """Orders the unloading of what has drained. Called at the end of every turn."""
        for model, version in self._unloading:
            state = self.versions[model][version]
            for device_id in state.device_ids:
                device = devices.get(device_id)
                if device_id not in state.unload_ordered and device and _drained(device, model, version):
                    state.unload_ordered.append(device_id)
                    self.actions.append(ev.UnloadModel(device_id, model, version))

    def unloaded(self, device: Device, model: str, version: str) -> None:
        """A version is gone from a device."""
        device.models.pop((model, version), None)
        device.declared.pop((model, version), None)
        device.memory_bytes.pop((model, version), None)
        device.drop_profiles(model, version)
        self._leave(device.spec.device_id, model, version, "unloaded")

    # ---- the states

    def _state(self, model: str, version: str) -> VersionState:
        return self.versions.setdefault(model, {}).setdefault(version, VersionState(KNOWN))

    def _leave(self, device_id: str, model: str, version: str, reason: str) -> None:
        state = self._state(model, version)
        state.device_ids = [d for d in state.device_ids if d != device_id]
        state.unload_ordered = [d for d in state.unload_ordered if d != device_id]
        self._change(model, version, state.availability if state.device_ids else UNAVAILABLE, reason)
        if not any(other.device_ids for other in self.versions[model].values()):
            self.actions += [ev.TicketDone(ticket) for ticket in self.unload_tickets.pop(model, [])]

    def _change(self, model: str, version: str, availability: str, reason: str = "") -> None:
        state = self._state(model, version)
        state.availability, state.reason = availability, reason
        if availability == UNLOADING:
            self._unloading[model, version] = None
        else:
            self._unloading.pop((model, version), None)
        self.actions.append(ev.ModelChanged(model, version, availability, reason, tuple(state.device_ids)))


def _drained(device: Device, model: str, version: str) -> bool:
    if device.running_of(model, version):
        return False
    return not any(key[:2] == (model, version) for key in device.queues)
