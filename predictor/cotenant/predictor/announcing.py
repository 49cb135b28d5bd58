"""When what a driver tells of its clocks announces that batches will run at another pace.

A clock that moved by more than `CHANGED`, or a reason for low clocks that came or went, is an announcement. An idle
device lowers its clocks for nobody's harm and raises them with the first batch, so what it tells then is not used.
"""

from typing import NamedTuple

from cotenant.predictor.observations import Clocks
from cotenant.v1 import executor_pb2

CHANGED = 0.05  # share of a clock below which it wavers, as clocks do


class Announcement(NamedTuple):
    """Times will change by this factor if they follow the clock; None if its size is not known."""

    ratio: float | None


class Announcing:
    """The clocks of one device as they were told last while it worked."""

    def __init__(self) -> None:
        self._sm_mhz = 0  # at the last announcement, so that small steps add up; 0 if unknown
        self._reasons: frozenset[int] | None = None

    def learn(self, now: Clocks) -> Announcement | None:
        """What the clocks of now announce; None if nothing."""
        if now.reasons and executor_pb2.THROTTLE_REASON_GPU_IDLE in now.reasons:
            return None
        ratio = self._sm_mhz / now.sm_mhz if self._sm_mhz and now.sm_mhz else None
        moved = ratio is not None and abs(ratio - 1.0) > CHANGED
        other = None not in (now.reasons, self._reasons) and now.reasons != self._reasons
        if now.reasons is not None:
            self._reasons = now.reasons
        if moved or other or not self._sm_mhz:
            self._sm_mhz = now.sm_mhz or self._sm_mhz
        return Announcement(ratio) if moved or other else None
