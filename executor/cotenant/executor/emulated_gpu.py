"""A GPU that exists only as a law: kernels, resources, and how they share.

Each batch is a sequence of kernels on a stream of its own. A kernel has a solo duration and, while it runs alone,
keeps a share of each resource busy: SMs, DRAM bandwidth, and a part of the L2 cache. At any instant the kernels that
run (one per stream) share each resource max-min fairly (water-filling: who needs less than an equal share gets all it
needs, the rest is divided among the others), and each progresses at the rate its scarcest resource allows. Caches
interfere: what the others keep in L2 is not there for you, so your DRAM traffic rises. Between two kernels a stream
is idle for the launch gap. Durations carry seeded noise, per batch and per kernel.

This is deliberately not the predictor's formula, which knows batches and averages: here contention comes and goes
with every kernel. The class is pure: it is told the time, by the executor in real time and by the simulator in its
own. `docs/emulated-gpu.md` lists where each constant comes from.
"""

import json
import math
import random
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import NamedTuple

LAUNCH_GAP_NS = 2_000  # between kernels of one stream: a few us on current GPUs
# How much another's full cache raises one's own DRAM traffic, per unit of both footprints.
CACHE_INTERFERENCE = 0.6
BATCH_NOISE = 0.012  # relative standard deviation of a whole batch: clocks, alignment
KERNEL_NOISE = 0.03


class Kernel(NamedTuple):
    """Solo duration in ns, and shares in [0, 1] of SMs, DRAM bandwidth and L2 it keeps busy meanwhile."""

    duration_ns: float
    sm: float
    dram: float
    l2: float


@dataclass(frozen=True)
class Personality:
    """The kernels of a model at the batch size it was measured with: (duration, SMs needed, compute, memory)."""

    name: str
    batch_size: int
    sm_count: int
    rows: tuple[tuple[float, float, float, float], ...]

    def kernels(self, batch_size: int) -> list[Kernel]:
        """The kernels at another batch size.

        Thread blocks grow with the batch: below a full GPU a kernel takes as long as before and fills more of it,
        beyond it takes longer in proportion (the wave model of the CUDA programming guide, without its steps).
        """
        scale = batch_size / self.batch_size
        kernels = []
        for duration_ns, sms, compute, memory in self.rows:
            waves, scaled = sms / self.sm_count, sms * scale / self.sm_count
            busy = min(1.0, scaled)
            unknown = max(0.0, 1.0 - compute - memory)
            kernels.append(
                Kernel(
                    duration_ns * max(1.0, scaled) / max(1.0, waves),
                    busy * (0.95 * compute + 0.40 * memory + 0.60 * unknown),
                    busy * (0.25 * compute + 0.90 * memory + 0.50 * unknown),
                    min(1.0, 0.15 + busy * (0.30 * compute + 0.65 * memory + 0.40 * unknown)),
                )
            )
        return kernels

    def demand(self, batch_size: int) -> tuple[float, float, float]:
        """Time-weighted mean shares of (sm, l2, dram): what a profiler would report of a solo run."""
        kernels = self.kernels(batch_size)
        total = sum(k.duration_ns for k in kernels) + LAUNCH_GAP_NS * len(kernels)
        sm, l2, dram = (sum(k.duration_ns * k[i] for k in kernels) / total for i in (1, 3, 2))
        return sm, l2, dram


@cache
def personalities() -> dict[str, Personality]:
    """The personalities that ship with Cotenant, by name."""
    document = json.loads(files(__package__).joinpath("personalities.json").read_text(encoding="utf-8"))
    return {
        name: Personality(name, model["batch_size"], document["sm_count"], tuple(map(tuple, model["kernels"])))
        for name, model in document["models"].items()
    }


@dataclass
class Stream:
    """A batch that runs: where it is in its kernels, and when each began and ended."""

    key: int
    kernels: list[Kernel]
    started_ns: float
    index: int = 0
    gap_left_ns: float = LAUNCH_GAP_NS
    left_ns: float = math.inf  # solo time left of the current kernel
    trace: list[tuple[float, float]] = field(default_factory=list)  # (start, end) of kernels, relative to the start
    finished_ns: float = 0.0

    def __post_init__(self) -> None:
        self.left_ns = min(self.left_ns, self.kernels[self.index].duration_ns)

    @property
    def computing(self) -> bool:
        """Whether a kernel runs, rather than the gap before it."""
        return self.gap_left_ns <= 0.0

    def copy(self) -> "Stream":
        """An independent copy, for looking ahead."""
        return replace(self, trace=list(self.trace))


class EmulatedGpu:
    """See the module's text. Instants are ns of any clock that never goes back."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)  # noqa: S311
        self._streams: dict[int, Stream] = {}
        self._now_ns = 0.0
        self._next: tuple[int, float] | None = None

    def start(self, now_ns: int, key: int, kernels: list[Kernel]) -> None:
        """A batch begins. Raises ValueError if one of that key runs already, or it has no kernels."""
        if key in self._streams or not kernels:
            raise ValueError(f"batch {key} runs already, or has no kernels")
        self._run_to(float(now_ns))
        self._streams[key] = Stream(key, self._noisy(kernels), max(self._now_ns, float(now_ns)))
        self._next = None

    def finished(self, now_ns: int) -> list[Stream]:
        """Batches that have ended by now, in order of their ends."""
        self._run_to(float(now_ns))
        done = sorted((s for s in self._streams.values() if s.finished_ns), key=lambda s: s.finished_ns)
        for stream in done:
            del self._streams[stream.key]
        return done

    def next_finish_ns(self) -> int | None:
        """When the next batch will end if none is started before; None if none runs."""
        if self._next is None and self._streams:
            running = [s for s in self._streams.values() if not s.finished_ns]
            if not running:
                return math.ceil(min(s.finished_ns for s in self._streams.values()))
            ahead = [stream.copy() for stream in running]
            clock = self._now_ns
            while not any(stream.finished_ns for stream in ahead):
                clock = _step(ahead, clock, math.inf)
            first = min((s for s in ahead if s.finished_ns), key=lambda s: (s.finished_ns, s.key))
            self._next = (first.key, first.finished_ns)
        return math.ceil(self._next[1]) if self._next else None

    def _run_to(self, now_ns: float) -> None:
        if not any(not s.finished_ns for s in self._streams.values()):
            self._now_ns = max(self._now_ns, now_ns)
            return
        while self._now_ns < now_ns:
            running = [s for s in self._streams.values() if not s.finished_ns]
            if not running:
                self._now_ns = now_ns
                break
            self._now_ns = _step(running, self._now_ns, now_ns)
            if any(stream.finished_ns for stream in running):
                self._next = None

    def _noisy(self, kernels: list[Kernel]) -> list[Kernel]:
        batch = self._random.lognormvariate(0.0, BATCH_NOISE)
        return [
            k._replace(duration_ns=k.duration_ns * batch * self._random.lognormvariate(0.0, KERNEL_NOISE))
            for k in kernels
        ]


def _step(streams: list[Stream], now_ns: float, limit_ns: float) -> float:
    """Runs to the next change of what runs, or to the limit; returns the instant reached."""
    computing = [s for s in streams if s.computing]
    rates = progress_rates([s.kernels[s.index] for s in computing])
    step = limit_ns - now_ns
    for stream, rate in zip(computing, rates, strict=True):
        step = min(step, stream.left_ns / rate)
    for stream in streams:
        if not stream.computing:
            step = min(step, stream.gap_left_ns)
    now_ns += step
    for stream, rate in zip(computing, rates, strict=True):
        stream.left_ns -= step * rate
        if stream.left_ns <= 1e-3:
            _end_kernel(stream, now_ns)
    for stream in streams:
        if not stream.computing and stream not in computing:
            stream.gap_left_ns -= step
            if stream.gap_left_ns <= 1e-3:
                stream.gap_left_ns = 0.0
                stream.trace.append((now_ns - stream.started_ns, 0.0))
    return now_ns


def _end_kernel(stream: Stream, now_ns: float) -> None:
    stream.trace[-1] = (stream.trace[-1][0], now_ns - stream.started_ns)
    stream.index += 1
    if stream.index == len(stream.kernels):
        stream.finished_ns = now_ns
    else:
        stream.left_ns = stream.kernels[stream.index].duration_ns
        stream.gap_left_ns = LAUNCH_GAP_NS


def progress_rates(kernels: list[Kernel]) -> list[float]:
    """Rate in (0, 1] of each of the kernels that run together."""
    count = len(kernels)
    if count < 2:
        return [1.0] * count
    footprint = sum(k.l2 for k in kernels)
    needs = [
        [k.sm for k in kernels],
        [k.dram * (1.0 + CACHE_INTERFERENCE * k.l2 * (footprint - k.l2)) for k in kernels],
    ]
    # A kernel held back by one resource leaves some of the other to the rest; three rounds settle it to a percent.
    caps = [[1.0] * count for _ in needs]
    for _ in range(3):
        for resource, need in enumerate(needs):
            limited = [min(caps[other][i] for other in range(len(needs)) if other != resource) for i in range(count)]
            granted = max_min_fair([n * limit for n, limit in zip(need, limited, strict=True)])
            caps[resource] = [
                min(1.0, share / n) if n > 0 and share < n * limit - 1e-12 else 1.0
                for n, share, limit in zip(need, granted, limited, strict=True)
            ]
    return [max(1e-3, min(cap[i] for cap in caps)) for i in range(count)]


def max_min_fair(needs: list[float]) -> list[float]:
    """Shares of one unit of a resource: whoever needs less than an equal share gets it, the rest is divided."""
    granted = [0.0] * len(needs)
    left, waiting = 1.0, sorted(range(len(needs)), key=lambda i: needs[i])
    while waiting:
        equal = left / len(waiting)
        i = waiting.pop(0)
        granted[i] = min(needs[i], equal)
        left -= granted[i]
    return granted
