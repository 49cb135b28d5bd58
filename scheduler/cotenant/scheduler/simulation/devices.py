"""Devices in virtual time: what a batch that starts now becomes.

There are three kinds behind one protocol. *Kernel by kernel* is the emulated GPU itself. *Phase by phase* lets every
batch pass through the phases of its class at the rates that a law gives to the set of phases that are under way: a
thousand times cheaper, and as good as the law (`laws.py`). *Replayed slowdowns* is phase by phase with the rates of a
table of measured slowdowns for a law.

A device has no clock: it is told the time, which never goes back.
"""

import math
import random
from collections.abc import Callable
from typing import NamedTuple, Protocol

from cotenant.executor.emulated_gpu import EmulatedGpu, Kernel
from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler.simulation.laws import Law, Part


class Ended(NamedTuple):
    """A batch that has run."""

    key: int
    at_ns: int


class SimulatedDevice(Protocol):
    """See the module's text."""

    def start(self, now_ns: int, key: int, batch_class: BatchClass) -> None:
        """A batch begins."""
        ...

    def next_ns(self) -> int:
        """When it wants to be looked at again; nothing ends before. 0 if nothing runs."""
        ...

    def ended(self, now_ns: int) -> list[Ended]:
        """Batches that have ended by now and were not told yet, in order of their ends."""
        ...


class KernelDevice:
    """The emulated GPU, kernel by kernel."""

    def __init__(self, gpu: EmulatedGpu, kernels: Callable[[BatchClass], list[Kernel]]) -> None:
        self.gpu = gpu
        self._kernels = kernels

    def start(self, now_ns: int, key: int, batch_class: BatchClass) -> None:
        """See `SimulatedDevice.start`."""
        self.gpu.start(now_ns, key, self._kernels(batch_class))

    def next_ns(self) -> int:
        """See `SimulatedDevice.next_ns`."""
        return self.gpu.next_finish_ns() or 0

    def ended(self, now_ns: int) -> list[Ended]:
        """See `SimulatedDevice.ended`."""
        return [Ended(stream.key, round(stream.finished_ns)) for stream in self.gpu.finished(now_ns)]


_ROUNDING_NS = 1e-3  # less work than this is none


class _Body:
    """A batch that runs: the part it is in, how much work is left of that, and of all parts after it."""

    __slots__ = ("_at", "_parts", "_scale", "after_ns", "key", "left_ns", "number")

    def __init__(self, key: int, parts: tuple[Part, ...], scale: float) -> None:
        self.key, self._parts, self._scale = key, parts, scale
        self._at, self.number, self.left_ns = 0, parts[0].number, parts[0].work_ns * scale
        self.after_ns = sum([part.work_ns for part in parts]) * scale - self.left_ns

    def enters(self) -> bool:
        """Goes on to the part of which something is left; False if all is done."""
        while self.left_ns <= _ROUNDING_NS:
            self._at += 1
            if self._at == len(self._parts):
                return False
            self.number, work_ns = self._parts[self._at]
            work_ns *= self._scale
            self.left_ns += work_ns
            self.after_ns -= work_ns
        return True


def _number(body: _Body) -> int:
    return body.number


class PhasedDevice:
    """Batches that pass through the parts of their classes at a law's rates.

    A batch that runs alone passes through all its parts in one step.
    """

    def __init__(self, law: Law, seed: int = 0, noise: float | None = None) -> None:
        """`noise` is the relative standard deviation of a batch's work; without it, the law's own."""
        self._law = law
        self._rates = law.rates
        self._noise = noise
        self._random = random.Random(seed)  # noqa: S311
        self._bodies: list[_Body] = []  # by the number of their part, so that a set has one order
        self._speeds: tuple[float, ...] = ()
        self._now_ns = 0.0
        self._change_ns = math.inf  # when the next batch enters another part, or ends
        self._ended: list[Ended] = []

    def start(self, now_ns: int, key: int, batch_class: BatchClass) -> None:
        """See `SimulatedDevice.start`."""
        self._run_to(float(now_ns))
        if len(self._bodies) == 1:
            self._bodies[0].enters()
        if self._noise is None:
            scale = self._law.scale(batch_class, now_ns, self._random)
        else:
            scale = self._random.lognormvariate(0.0, self._noise) if self._noise else 1.0
        self._bodies.append(_Body(key, self._law.parts(batch_class), scale))
        self._settle()

    def next_ns(self) -> int:
        """See `SimulatedDevice.next_ns`.

        Nothing ends before a part does, and nothing faster than it would alone; the later of the two is told.
        """
        if self._ended:
            return self._ended[0].at_ns
        if not self._bodies:
            return 0
        alone_ns = self._now_ns + min([body.left_ns + body.after_ns for body in self._bodies])
        return math.ceil(max(self._change_ns, alone_ns))

    def ended(self, now_ns: int) -> list[Ended]:
        """See `SimulatedDevice.ended`."""
        self._run_to(float(now_ns))
        ended, self._ended = self._ended, []
        return ended

    def _run_to(self, now_ns: float) -> None:
        while self._change_ns <= now_ns:
            self._pass(self._change_ns)
        if now_ns > self._now_ns:
            step, self._now_ns = now_ns - self._now_ns, now_ns
            for body, speed in zip(self._bodies, self._speeds, strict=True):
                body.left_ns -= step * speed

    def _pass(self, at_ns: float) -> None:
        """Runs to a change, and through it."""
        step, self._now_ns = at_ns - self._now_ns, at_ns
        gone: list[_Body] = []
        for body, speed in zip(self._bodies, self._speeds, strict=True):
            body.left_ns -= step * speed
            if body.left_ns <= _ROUNDING_NS and not body.enters():
                gone.append(body)
        for body in gone:
            self._bodies.remove(body)
            self._ended.append(Ended(body.key, math.ceil(at_ns)))
        self._settle()

    def _settle(self) -> None:
        """Finds the rates of the parts that are under way, and when the next change will be."""
        bodies = self._bodies
        if len(bodies) > 1:
            bodies.sort(key=_number)
            self._speeds = speeds = self._rates(tuple([body.number for body in bodies]))
            self._change_ns = self._now_ns + min([b.left_ns / speed for b, speed in zip(bodies, speeds, strict=True)])
        elif bodies:
            self._speeds = (1.0,)
            self._change_ns = self._now_ns + bodies[0].left_ns + bodies[0].after_ns
        else:
            self._speeds, self._change_ns = (), math.inf
