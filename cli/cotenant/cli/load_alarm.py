"""Waits for an instant more exactly than an event loop's timers, which round to milliseconds.

On Linux a timerfd wakes the loop within some tens of microseconds, and costs nothing while it waits; elsewhere the
loop's own timer has to do.
"""

import asyncio
import ctypes
import os
import sys
from time import monotonic_ns

_CLOCK_MONOTONIC, _NONBLOCK, _CLOSE_ON_EXEC, _ABSOLUTE = 1, 0o4000, 0o2000000, 1


class _Timer(ctypes.Structure):
    """`struct itimerspec`: interval and first expiration, each in s and ns."""

    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "at_s", "at_ns")]


class Alarm:
    """For one task of a running event loop. Close it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rings: asyncio.Future[None] | None = None
        self._fd = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK | _CLOSE_ON_EXEC)
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._ring)

    async def until(self, at_ns: int) -> None:
        """Returns at `at_ns` of the monotonic clock, or at once if that has passed."""
        wait_ns = at_ns - monotonic_ns()
        if wait_ns <= 0 or self._fd < 0:
            await asyncio.sleep(max(0, wait_ns) / 1e9)
            return
        self._rings = self._loop.create_future()
        timer = _Timer(0, 0, *divmod(at_ns, 1_000_000_000))
        self._libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(timer), None)
        await self._rings

    def _ring(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        if self._rings and not self._rings.done():
            self._rings.set_result(None)

    def close(self) -> None:
        """Gives the timer back."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
