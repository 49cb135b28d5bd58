"""The scheduler's decisions: `handle(now_ns, events) -> actions`.

Theory of operation. The core is a state machine. Its input is time and events, its output actions; it has no clock,
does no I/O, takes no lock, logs nothing and draws no random number, so the same events in the same order give the
same actions, live, simulated or replayed from a log. Each call applies all events that were waiting, brings the
books of the devices concerned up to `now_ns`, and then lets the policy take turns on each of them until it has
nothing left to do. Containers are ordered and ties are broken by id.

A request is in exactly one place: in a queue of the device it is assigned to, or in a batch that runs. It leaves by
`Refuse`, or by the end of its batch (the executor has answered it then), and is forgotten. Events about unknown
requests, batches or devices are late news of something settled, and are ignored.

What is in which room:
- `state.py`: what all rooms share, with the call that is under way; `books.py`: what is known of each device
- `requests.py`: requests until they run: admission, the choice of a device, refusals
- `batches.py`: batches from launch to end; `roster.py`: devices that come and go
- `turns.py`: deciding, balancing, windows; `agenda.py`: when to be called again
- `tenancy.py`: tenants, their quotas (`tenants.py`) and the fairness between them (`fairness.py`)
- `adjusting.py`: settings that change while it runs
- `tables.py`: estimates by device; `margin.py`: what answers take; `lifecycle.py`: models loaded and unloaded
- `policies/`: what to decide
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cotenant.scheduler import events as ev
from cotenant.scheduler.adjusting import Adjusting
from cotenant.scheduler.agenda import Agenda
from cotenant.scheduler.batches import Batches
from cotenant.scheduler.margin import Margin
from cotenant.scheduler.policy import Policy
from cotenant.scheduler.requests import FRONTEND_SHIFT, Requests
from cotenant.scheduler.roster import Roster
from cotenant.scheduler.state import CoreConfig, State
from cotenant.scheduler.tables import Tables
from cotenant.scheduler.turns import Turns

__all__ = ["FRONTEND_SHIFT", "Core", "CoreConfig"]


class Core:
    """See the module's text. What it shows is to be read, never written."""

    def __init__(self, config: CoreConfig, policy: Policy) -> None:
        self.state = state = State(config, policy)
        self.margin = Margin(state)
        self.estimates = Tables(state)
        self.agenda = Agenda(state.devices)
        self.requests = Requests(state)
        self.batches = Batches(state, self.requests, self.margin)
        self.roster = Roster(state, self.requests, self.batches, self.estimates, self.margin, self.agenda)
        self.turns = Turns(state, self.requests, self.batches, self.roster, self.agenda)
        self.lifecycle = state.lifecycle
        self.devices, self.places, self.waiting = state.devices, state.places, state.waiting
        self.unplaced = self.requests.unplaced
        self.tables, self.estimates_versions = self.estimates.of, self.estimates.versions
        self._adjusting = Adjusting(state, self.margin)
        self._handlers = self._all_handlers()

    @property
    def config(self) -> CoreConfig:
        """How it works, by now."""
        return self.state.config

    @property
    def policy(self) -> Policy:
        """Which decides."""
        return self.state.policy

    # ---- the one entrance

    def handle(self, now_ns: int, events: Sequence[ev.Event]) -> list[ev.Action]:
        """Applies all events, decides once, and returns what is to be done, in order. Time never goes back."""
        state, requests = self.state, self.requests
        state.begin(now_ns)
        if self.agenda.earliest_ns <= state.now_ns:
            state.touched.update(self.agenda.due(state.now_ns))
        if not requests.settled_ns:
            requests.settled_ns = state.now_ns + state.config.settle_ns
        self.margin.fade()
        for event in events:
            self._handlers[type(event)](event)
        if requests.unplaced:
            requests.place_again()
        touched = state.touched_devices()
        for device in touched:
            self.turns.decide(device)
        if self.roster.backlogged and len(state.devices) > 1:
            self.turns.balance(touched)
        self.lifecycle.finish_unloads(state.devices)
        self._set_timer()
        return state.actions

    def _set_timer(self) -> None:
        wake_ns, settled_ns = self.agenda.next_ns(), self.requests.settled_ns
        if self.requests.unplaced:
            wake_ns = min(wake_ns or settled_ns, settled_ns)
        if self.agenda.set_timer(wake_ns, self.state.now_ns):
            self.state.actions.append(ev.WakeAt(wake_ns))

    # ---- who hears what

    def _all_handlers(self) -> Mapping[type[Any], Callable[[Any], None]]:
        return {
            ev.RequestArrived: self.requests.arrived,
            ev.RequestCancelled: self.requests.cancelled,
            ev.FrontendLost: self.requests.frontend_lost,
            ev.AnswerOverheadMeasured: self._on_answer_overhead_measured,
            ev.DrainRequested: self._on_drain_requested,
            ev.DeviceJoined: self.roster.joined,
            ev.DeviceSuspended: self.roster.suspended,
            ev.DeviceLost: self.roster.lost,
            ev.BatchStarted: self.batches.started,
            ev.BatchFinished: self.batches.finished,
            ev.BatchDropped: self.batches.dropped,
            ev.KernelTimings: _for_others,
            ev.DeviceState: _for_others,
            ev.ModelLoaded: self._on_model_loaded,
            ev.ModelLoadFailed: self._on_model_load_failed,
            ev.ModelLoadEnded: self._on_model_load_ended,
            ev.ModelUnloaded: self._on_model_unloaded,
            ev.RepositoryScanned: self._on_repository_scanned,
            ev.LoadRequested: self._on_load_requested,
            ev.UnloadRequested: self._on_unload_requested,
            ev.ClassProfiled: self._on_class_profiled,
            ev.WindowRequested: self.turns.window_requested,
            ev.WindowReleased: self.turns.window_released,
            ev.EstimatesPushed: self.estimates.pushed,
            ev.SettingsChanged: self._adjusting.changed,
        }

    def _on_answer_overhead_measured(self, event: ev.AnswerOverheadMeasured) -> None:
        self.margin.measured(event.overhead_ns)

    def _on_drain_requested(self, event: ev.DrainRequested) -> None:
        del event
        self.requests.draining = True

    def _on_model_loaded(self, event: ev.ModelLoaded) -> None:
        if device := self.devices.get(event.device_id):
            self.lifecycle.loaded(device, event.spec, event.memory_bytes)

    def _on_model_load_failed(self, event: ev.ModelLoadFailed) -> None:
        self.lifecycle.load_failed(event.device_id, event.model, event.version, event.message)

    def _on_model_load_ended(self, event: ev.ModelLoadEnded) -> None:
        if device := self.devices.get(event.device_id):
            self.lifecycle.load_ended(device, event.model, event.versions)
            self.state.touched.add(event.device_id)

    def _on_model_unloaded(self, event: ev.ModelUnloaded) -> None:
        if device := self.devices.get(event.device_id):
            self.lifecycle.unloaded(device, event.model, event.version)

    def _on_repository_scanned(self, event: ev.RepositoryScanned) -> None:
        self.lifecycle.scanned(event.models)

    def _on_load_requested(self, event: ev.LoadRequested) -> None:
        self.lifecycle.load(event.model, event.ticket, self.devices)

    def _on_unload_requested(self, event: ev.UnloadRequested) -> None:
        self.lifecycle.unload(event.model, event.ticket)

    def _on_class_profiled(self, event: ev.ClassProfiled) -> None:
        if device := self.devices.get(event.device_id):
            device.add_profile(event.profile)
            self.state.touched.add(event.device_id)


def _for_others(event: ev.KernelTimings | ev.DeviceState) -> None:
    """For predictors and pictures only."""
