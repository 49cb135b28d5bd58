"""When the core is to be called again: each device says when it wants to be asked, and the earliest is told.

The heap keeps what was once wanted; what is no longer so is passed over. A core restored from a snapshot knows only
what is wanted now, so nothing may depend on the rest.
"""

from collections.abc import Iterator, Mapping
from heapq import heappop, heappush

from cotenant.scheduler.books import Device

FOREVER_NS = 2**62
_Wake = tuple[int, int, str]  # instant, number of the device, its id


class Agenda:
    """See the module's text."""

    def __init__(self, devices: Mapping[str, Device]) -> None:
        self.timer_ns = 0  # told last; 0: none
        self._devices = devices
        self._wakes: list[_Wake] = []

    def wake_at(self, device: Device, wake_ns: int) -> None:
        """Has a device asked again then; 0: not."""
        device.wake_ns = wake_ns
        if wake_ns:
            heappush(self._wakes, (wake_ns, device.number, device.spec.device_id))

    @property
    def earliest_ns(self) -> int:
        """Nobody wants to be asked before."""
        return self._wakes[0][0] if self._wakes else FOREVER_NS

    def due(self, now_ns: int) -> Iterator[str]:
        """Takes out the devices that want to be asked by now."""
        while self._wakes and self._wakes[0][0] <= now_ns:
            wake = heappop(self._wakes)
            if self._is_wanted(wake):
                yield wake[2]

    def next_ns(self) -> int:
        """When the first device wants to be asked; 0: none does."""
        while self._wakes and not self._is_wanted(self._wakes[0]):
            heappop(self._wakes)
        return self._wakes[0][0] if self._wakes else 0

    def set_timer(self, wake_ns: int, now_ns: int) -> bool:
        """Keeps when the core is to be called again; whether that must be told."""
        told, self.timer_ns = self.timer_ns, wake_ns
        return bool(wake_ns) and (wake_ns != told or told <= now_ns)

    def _is_wanted(self, wake: _Wake) -> bool:
        """Whether a device still wants to be asked then."""
        device = self._devices.get(wake[2])
        return device is not None and device.wake_ns == wake[0] and device.number == wake[1]
