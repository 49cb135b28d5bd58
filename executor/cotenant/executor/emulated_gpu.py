"""A GPU that exists only as a law: kernels, resources, and how they share.

Each batch is a sequence of kernels on a stream of its own. A kernel has a solo duration and, while it runs alone,
keeps a share of each resource busy: SMs, DRAM bandwidth, and a part of the L2 cache. At any instant the kernels that
run (one per stream) share each resource max-min fairly (water-filling: who needs less than an equal share gets all it
needs, the rest is divided among the others), and each progresses at the rate its scarcest resource allows. Caches
interfere: what the others keep in L2 is not there for you, so your DRAM traffic rises. Between two kernels a stream
is idle for the launch gap. Durations carry seeded noise, per batch and per kernel.

Under a second law, `leftover`, SMs are not shared but kept: a kernel gets what those that began before it have left,
and waits where they have left nothing. Under a third, `draining`, it gets what they have left until the blocks that
ran when it began have drained, and a fair share from then on. Current GPUs do something between the first two.

This is deliberately not the predictor's formula, which knows batches and averages: here contention comes and goes
with every kernel. The class is pure: it is told the time, by the executor in real time and by the simulator in its
own. `docs/emulated-gpu.md` lists where each constant comes from.
"""

import json
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from importlib.resources import files
from typing import NamedTuple

from cotenant.executor.phases import Cut, Piece, cut
from cotenant.runtime.estimates import Phase
from cotenant.runtime.sharing import fair_level

LAUNCH_GAP_NS = 2_000  # between kernels of one stream: a few us on current GPUs
# How much another's full cache raises one's own DRAM traffic, per unit of both footprints.
CACHE_INTERFERENCE = 0.6
BATCH_NOISE = 0.012  # relative standard deviation of a whole batch: clocks, alignment
KERNEL_NOISE = 0.03
DRAIN_NS = 100_000  # in which the thread blocks that run have ended, under the third law
FAIR, LEFTOVER, DRAINING = LAWS = ("fair", "leftover", "draining")


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
        sm, l2, dram = profiled(self.kernels(batch_size)).demand
        return sm, l2, dram


def profiled(kernels: Sequence[Kernel], error: Callable[[], float] = lambda: 1.0) -> Cut:
    """What a profiler would tell of a solo run of these kernels, phase by phase.

    Shares are multiplied by one draw of `error` for each resource and by one more for each phase, durations by one.
    """
    pieces = []
    for kernel in kernels:
        lasts_ns = kernel.duration_ns + LAUNCH_GAP_NS
        busy = kernel.duration_ns / lasts_ns
        pieces.append(Piece(lasts_ns, kernel.duration_ns, (busy * kernel.sm, busy * kernel.l2, busy * kernel.dram)))
    return told(cut(pieces), error)


def told(true: Cut, error: Callable[[], float]) -> Cut:
    """A profile as a profiler tells it that errs: see `profiled`."""
    scales = [error() for _ in true.demand]
    grain = error()

    def wrong(shares: Iterable[float], *, further: bool) -> tuple[float, ...]:
        errors = [scale * (error() if further else 1.0) for scale in scales]
        return tuple(min(1.0, share * e) for share, e in zip(shares, errors, strict=True))

    phases = tuple(Phase(p.end, wrong(p.demand, further=True), p.kernel_ns * grain) for p in true.phases)
    return Cut(wrong(true.demand, further=False), true.kernel_ns * grain, phases)


@cache
def personalities() -> dict[str, Personality]:
    """The personalities that ship with Cotenant, by name."""
    document = json.loads(files(__package__).joinpath("personalities.json").read_text(encoding="utf-8"))
    return {
        name: Personality(name, model["batch_size"], document["sm_count"], tuple(map(tuple, model["kernels"])))
        for name, model in document["models"].items()
    }


@dataclass(slots=True)
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

    def copy(self) -> "Stream":
        """An independent copy, for looking ahead."""
        return replace(self, trace=list(self.trace))


class EmulatedGpu:
    """See the module's text. Instants are ns of any clock that never goes back."""

    def __init__(self, seed: int = 0, *, law: str = FAIR) -> None:
        """Raises ValueError for a law that is none of LAWS."""
        if law not in LAWS:
            raise ValueError(f"there is no law '{law}'; there are {', '.join(LAWS)}")
        self._random = random.Random(seed)  # noqa: S311
        self._law = law
        self._streams: list[Stream] = []  # that run
        self._done: list[Stream] = []  # that have ended, and were not fetched
        self._now_ns = 0.0
        self._ahead: _Ahead | None = None  # the state at the next end, if nothing is started before

    def start(self, now_ns: int, key: int, kernels: list[Kernel]) -> None:
        """A batch begins. Raises ValueError if one of that key runs already, or it has no kernels."""
        if not kernels or any(stream.key == key for stream in self._streams):
            raise ValueError(f"batch {key} runs already, or has no kernels")
        self._run_to(float(now_ns))
        self._streams.append(Stream(key, self._noisy(kernels), self._now_ns))
        self._ahead = None

    def foretell(self, now_ns: int, kernels: list[Kernel]) -> float:
        """How long a batch that begins now would take if nobody came later, in ns, by the law itself.

        It knows what has been drawn for those that run, and expects no noise of its own: the best that can be known at
        a launch, to measure forecasters by.
        """
        self._run_to(float(now_ns))
        own = Stream(-1, kernels, self._now_ns)
        streams, at_ns = [*(stream.copy() for stream in self._streams), own], self._now_ns
        while not own.finished_ns:
            at_ns = advance([stream for stream in streams if not stream.finished_ns], at_ns, math.inf, self._law)
        return own.finished_ns - self._now_ns

    def finished(self, now_ns: int) -> list[Stream]:
        """Batches that have ended by now, in order of their ends."""
        self._run_to(float(now_ns))
        done, self._done = self._done, []
        return done

    def next_finish_ns(self) -> int | None:
        """When the next batch will end if none is started before; None if none runs."""
        if self._done:
            return math.ceil(self._done[0].finished_ns)
        if not self._streams:
            return None
        return math.ceil(self._look_ahead().now_ns)

    def _look_ahead(self) -> "_Ahead":
        """Runs a copy of the device to the next end."""
        if self._ahead is None:
            streams, now_ns = [stream.copy() for stream in self._streams], self._now_ns
            while not any(stream.finished_ns for stream in streams):
                now_ns = advance(streams, now_ns, math.inf, self._law)
            self._ahead = _Ahead(now_ns, streams)
        return self._ahead

    def _run_to(self, now_ns: float) -> None:
        while self._streams and self._now_ns < now_ns:
            if self._ahead is not None and self._ahead.now_ns <= now_ns:
                self._now_ns, self._streams = self._ahead.now_ns, self._ahead.streams
            else:
                self._now_ns = advance(self._streams, self._now_ns, now_ns, self._law)
            if any(stream.finished_ns for stream in self._streams):
                self._ahead = None
                ended = [stream for stream in self._streams if stream.finished_ns]
                self._done += sorted(ended, key=lambda stream: stream.key)
                self._streams = [stream for stream in self._streams if not stream.finished_ns]
        self._now_ns = max(self._now_ns, now_ns)

    def _noisy(self, kernels: list[Kernel]) -> list[Kernel]:
        draw = self._random.lognormvariate
        batch = draw(0.0, BATCH_NOISE)
        return [Kernel(k[0] * batch * draw(0.0, KERNEL_NOISE), k[1], k[2], k[3]) for k in kernels]


class _Ahead(NamedTuple):
    now_ns: float
    streams: list[Stream]


def advance(streams: list[Stream], now_ns: float, limit_ns: float, law: str) -> float:
    """Runs to the next change of what runs, or to the limit; returns the instant reached."""
    computing = [s for s in streams if s.gap_left_ns <= 0.0]
    waiting = [s for s in streams if s.gap_left_ns > 0.0]
    step = limit_ns - now_ns
    settled = len(computing)  # kernels that share fairly; those after them have what these leave
    if law != FAIR:
        computing.sort(key=lambda s: (s.started_ns + s.trace[-1][0], s.key))  # whose kernel began first
        settled = 0
    if law == DRAINING:
        to_drain = [s.started_ns + s.trace[-1][0] + DRAIN_NS - now_ns for s in computing]
        settled = sum(left <= 1e-3 for left in to_drain)
        step = min([step, *to_drain[settled:]])
    rates = progress_rates([s.kernels[s.index] for s in computing], law, settled)
    for stream, rate in zip(computing, rates, strict=True):
        step = min(step, stream.left_ns / rate)
    for stream in waiting:
        step = min(step, stream.gap_left_ns)
    now_ns += step
    for stream, rate in zip(computing, rates, strict=True):
        stream.left_ns -= step * rate
        if stream.left_ns <= 1e-3:
            _end_kernel(stream, now_ns)
    for stream in waiting:
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


def progress_rates(kernels: list[Kernel], law: str = FAIR, settled: int = 0) -> tuple[float, ...]:
    """Rate in (0, 1] of each of the kernels that run together, given in the order in which they began.

    Where it is not `fair`, the first `settled` share the SMs fairly, and the others have what is left.
    """
    if len(kernels) < 2:
        return (1.0,) * len(kernels)
    shares = tuple(k[1:] for k in kernels)
    return _fair_rates(shares) if law == FAIR else _leftover_rates(shares, settled)


@lru_cache(maxsize=2**18)
def _fair_rates(shares: tuple[tuple[float, float, float], ...]) -> tuple[float, ...]:
    """Rates of kernels of these (sm, dram, l2); the same few thousand sets meet again and again."""
    sm, dram = [need for need, _, _ in shares], _traffic(shares)
    by_sm, by_dram = [1.0] * len(shares), [1.0] * len(shares)
    # A kernel held back by one resource leaves some of the other to the rest; three rounds settle it to a percent.
    for _ in range(3):
        level = fair_level([need * cap for need, cap in zip(sm, by_dram, strict=True)])
        by_sm = [1.0 if need * cap <= level else level / need for need, cap in zip(sm, by_dram, strict=True)]
        level = fair_level([need * cap for need, cap in zip(dram, by_sm, strict=True)])
        by_dram = [1.0 if need * cap <= level else level / need for need, cap in zip(dram, by_sm, strict=True)]
    return tuple(max(1e-3, min(a, b)) for a, b in zip(by_sm, by_dram, strict=True))


@lru_cache(maxsize=2**18)
def _leftover_rates(shares: tuple[tuple[float, float, float], ...], settled: int) -> tuple[float, ...]:
    """Rates where SMs belong to who came first, and the first share them fairly; DRAM is shared as before."""
    left = 1.0
    by_sm: list[float] = []
    level = fair_level([need for need, _, _ in shares[:settled]])
    for i, (need, _, _) in enumerate(shares):
        got = min(need, left, level) if i < settled else min(need, left)
        left -= got
        by_sm.append(got / need if need > 0.0 else 1.0)
    dram = [need * rate for need, rate in zip(_traffic(shares), by_sm, strict=True)]
    level = fair_level(dram)
    by_dram = [1.0 if need <= level else level / need for need in dram]
    return tuple(max(1e-3, a * b) for a, b in zip(by_sm, by_dram, strict=True))


def _traffic(shares: tuple[tuple[float, float, float], ...]) -> list[float]:
    """DRAM bandwidth asked for beside each other's caches."""
    footprint = sum(l2 for _, _, l2 in shares)
    return [need * (1.0 + CACHE_INTERFERENCE * l2 * (footprint - l2)) for _, need, l2 in shares]
