"""Runs a service whose clocks somebody else steps: `python stepped.py FILE HOST MODULE FLAGS...`.

FILE holds two integers of 64 bits, nanoseconds: what is added to the wall clock, and what to the monotonic one. It is
mapped, so a step is there at the next look. Only Python's `time` module in this process lies: neither the system's
clocks nor those of the event loop are touched. With a HOST, the monotonic clock counts as that of another host, which
is where such a clock can step against ours at all (a virtual machine that was suspended); "-" for this host.
"""

import mmap
import runpy
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

STEPS = struct.Struct("<qq")


def write(path: Path, *, wall_ns: int, monotonic_ns: int) -> None:
    """Steps the clocks of the process that maps `path`, or makes the file."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(STEPS.pack(wall_ns, monotonic_ns))


def _install(path: str) -> None:
    with Path(path).open("rb") as file:
        steps = mmap.mmap(file.fileno(), STEPS.size, access=mmap.ACCESS_READ)

    def stepped(real_ns: Callable[[], int], index: int) -> Callable[[], int]:
        return lambda: real_ns() + STEPS.unpack_from(steps)[index]

    wall, monotonic = stepped(time.time_ns, 0), stepped(time.monotonic_ns, 1)
    time.time_ns, time.monotonic_ns = wall, monotonic
    time.time, time.monotonic = lambda: wall() / 1e9, lambda: monotonic() / 1e9


def main() -> None:
    """Steps in between the interpreter and the service."""
    path, host, module, *flags = sys.argv[1:]
    _install(path)
    if host != "-":
        from cotenant.runtime import clock

        clock.clock_id = lambda: host
    sys.argv = [module, *flags]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
