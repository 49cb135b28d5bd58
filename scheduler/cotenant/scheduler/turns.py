"""Deciding: the policy takes turns on the devices that something happened to, and idle ones take over what waits.

Windows in which an executor has its device alone are granted here, since launches must wait for them.
"""

from collections.abc import Sequence

from cotenant.scheduler import events as ev
from cotenant.scheduler.agenda import Agenda
from cotenant.scheduler.batches import Batches
from cotenant.scheduler.books import Device, Window
from cotenant.scheduler.requests import Requests
from cotenant.scheduler.roster import Roster
from cotenant.scheduler.state import State

# A window waits this long for the device to empty by itself; then launches pause until it has.
WINDOW_PATIENCE_NS = 500_000_000
# An executor that does not give a window back keeps its device for at most this long.
WINDOW_LIMIT_NS = 2_000_000_000


class Turns:
    """See the module's text."""

    def __init__(self, state: State, requests: Requests, batches: Batches, roster: Roster, agenda: Agenda) -> None:
        self._state, self._requests, self._batches = state, requests, batches
        self._roster, self._agenda = roster, agenda

    def decide(self, device: Device) -> None:
        """Lets the policy take turns on one device until it has nothing left to do."""
        now_ns, policy = self._state.now_ns, self._state.policy
        device.advance(now_ns)
        wake_ns = 0
        while True:
            if device.fair is not None:
                self._state.tenancy.rank(device, now_ns)
            if not device.line and device.window is None:
                break  # there is nothing to decide
            may_launch = device.online and not self._held_by_window(device)
            turn = (policy.turn if may_launch else policy.doomed)(device, now_ns)
            for rejection in turn.rejections:
                self._requests.give_up(device, rejection)
            if turn.launch is not None:
                self._batches.launch(device, turn.launch)
            elif not turn.rejections:
                wake_ns = turn.wake_ns
                break
        if (window := device.window) and device.online:
            window_ns = window.until_ns or window.requested_ns + WINDOW_PATIENCE_NS
            if window_ns > now_ns:
                wake_ns = min(wake_ns or window_ns, window_ns)
        self._agenda.wake_at(device, wake_ns)
        if device.line:
            self._roster.backlogged[device.spec.device_id] = None
        else:
            self._roster.backlogged.pop(device.spec.device_id, None)

    def balance(self, touched: Sequence[Device]) -> None:
        """Hands what waits for a busy device to one that has become idle.

        One that has been idle for long would have been given it when it arrived.
        """
        backlogged = self._roster.backlogged
        for idle in touched:
            while backlogged and not (idle.running or idle.queues or idle.window) and idle.online:
                busy, queue = self._busiest(), None
                for one in busy.heads():
                    if one.key[:2] in idle.models:
                        queue = one
                        break
                if queue is None or (busy.online and not busy.running):
                    break
                for request in queue.batch_at(0)[0]:
                    self._requests.unqueue(request.request_id)
                    self._requests.settle(request, idle.spec.device_id, None)
                self.decide(idle)
                if not busy.line:
                    backlogged.pop(busy.spec.device_id, None)

    def _busiest(self) -> Device:
        """The device for which most waits; of several, the one that joined first."""
        devices, found, most = self._state.devices, None, 0
        for device_id in self._roster.backlogged:
            device = devices[device_id]
            queued = len(device.line)
            if found is None or queued > most or (queued == most and device.number < found.number):
                found, most = device, queued
        assert found is not None
        return found

    # ---- windows

    def window_requested(self, event: ev.WindowRequested) -> None:
        """An executor wants its device alone."""
        if device := self._state.devices.get(event.device_id):
            duration_ns = min(event.duration_ns, WINDOW_LIMIT_NS)
            device.window = Window(event.window_id, duration_ns, self._state.now_ns)
            self._state.touched.add(event.device_id)

    def window_released(self, event: ev.WindowReleased) -> None:
        """It no longer does."""
        device = self._state.devices.get(event.device_id)
        if device and device.window and device.window.window_id == event.window_id:
            device.window = None
            self._state.touched.add(event.device_id)

    def _held_by_window(self, device: Device) -> bool:
        """Whether launches must wait for an executor that has, or is about to have, its device alone."""
        window, now_ns = device.window, self._state.now_ns
        if window is None:
            return False
        if window.until_ns:
            if now_ns < window.until_ns:
                return True
            device.window = None
            return False
        overdue = now_ns >= window.requested_ns + WINDOW_PATIENCE_NS
        if device.running or (device.queued and not overdue):
            return overdue
        window.until_ns = now_ns + window.duration_ns
        self._state.actions.append(ev.GrantWindow(device.spec.device_id, window.window_id, window.until_ns))
        return True
