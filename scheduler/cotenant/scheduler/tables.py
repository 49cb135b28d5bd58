"""The tables of estimates, by device. A table outlives its executor: what was learned of a device stays true."""

from cotenant.runtime.estimates import EstimateTable
from cotenant.scheduler import events as ev
from cotenant.scheduler.state import State

# Devices that are not here of which what is believed is kept: as many as a predictor of ours knows.
MAX_AWAY = 1024


class Tables:
    """See the module's text."""

    def __init__(self, state: State) -> None:
        self.of: dict[str, EstimateTable] = {}  # by device id, told or lost last at the end
        self.versions: dict[str, int] = {}  # of what was pushed last
        self._state = state

    def pushed(self, event: ev.EstimatesPushed) -> None:
        """A predictor told something of a device, here or not."""
        table = self.of.setdefault(event.device_id, EstimateTable())
        if device := self._state.devices.get(event.device_id):
            device.advance(self._state.now_ns)  # what has passed, passed at the old rates
            device.estimates_version = event.version
            device.widening.learned()
            device.widen()
            self._state.touched.add(event.device_id)
        table.update(event.classes, event.sets, complete=event.complete)
        self.versions[event.device_id] = event.version
        self.forget(event.device_id)

    def forget(self, device_id: str) -> None:
        """Of devices that are not here, drops tables that tell nothing, and the oldest beyond MAX_AWAY.

        The table of `device_id` has just been told, or its device lost, so it is the youngest.
        """
        devices, table = self._state.devices, self.of.pop(device_id)
        if device_id in devices or table.classes or table.sets:
            self.of[device_id] = table
        else:
            self.versions.pop(device_id, None)
        while len(self.of) > len(devices) + MAX_AWAY:  # every device that is here has one
            oldest = next(other for other in self.of if other not in devices)
            del self.of[oldest]
            self.versions.pop(oldest, None)
