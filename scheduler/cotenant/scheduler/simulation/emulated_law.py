"""The emulated GPU's law, phase by phase.

A class is cut into phases of alike kernels (`cotenant.executor.phases`). The rates of a set of phases come from the
device's own law in two steps. The first shares SMs and DRAM among their mean demands. That is too kind: two phases
that need half of the SMs on average may consist of kernels that need all of them half of the time. The second step
therefore adds, for each pair, what the kernels of the two phases lose beyond it. It is found by letting both repeat
their kernels beside each other on the device itself, once per pair of phases that meets. Losses of several pairs add
up. What leaves the law with more than one unit of SMs or DRAM in use is scaled down to one.

docs/simulate.md tells how far this is from the device kernel by kernel.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

from cotenant.executor.emulated_gpu import (
    BATCH_NOISE,
    FAIR,
    KERNEL_NOISE,
    LAUNCH_GAP_NS,
    LAWS,
    Kernel,
    Stream,
    advance,
    personalities,
    profiled,
    progress_rates,
)
from cotenant.executor.phases import Cut
from cotenant.runtime.estimates import BatchClass, Phase
from cotenant.scheduler.simulation.laws import Memo, Part, Unrecorded

LEAST_KERNELS = 24  # of each of two phases that are run beside each other, and at least thrice all it has
_LEAST_RATE = 1e-3


class Recipe(NamedTuple):
    """What a model is made of on an emulated device."""

    personality: str
    time_scale: float = 1.0

    def kernels(self, batch_size: int) -> list[Kernel]:
        """Its kernels at a batch size."""
        kernels = personalities()[self.personality].kernels(batch_size)
        return [k._replace(duration_ns=k.duration_ns * self.time_scale) for k in kernels]


class _Course(NamedTuple):
    """A class on the device: its parts, its noise, and what it spends."""

    parts: tuple[Part, ...]
    noise: float
    profile: Cut
    spent: tuple[float, float, float]  # progress, SMs, DRAM


class _Stages:
    """All phases that were met under one law, numbered, with the kernels they consist of.

    A number follows from what the phase is of and not from what was met before, so that neither the order of a set
    nor who of two begins in the middle (`loop_rates`) depends on what else was simulated.
    """

    def __init__(self, law: str) -> None:
        self._law = law
        self._means: dict[int, Kernel] = {}
        self._kernels: dict[int, Sequence[Kernel]] = {}
        self._courses: dict[tuple[Recipe, int], _Course] = {}
        self._extra: dict[tuple[int, int], tuple[float, float]] = {}
        self._memo = Memo()

    def course(self, recipe: Recipe, batch_size: int) -> _Course:
        found = self._courses.get((recipe, batch_size))
        if found is None:
            found = self._courses[recipe, batch_size] = self._cut(recipe, batch_size)
        return found

    def _cut(self, recipe: Recipe, batch_size: int) -> _Course:
        kernels = recipe.kernels(batch_size)
        whole = profiled(kernels)
        total_ns = sum(k.duration_ns + LAUNCH_GAP_NS for k in kernels)
        parts: list[Part] = []
        for phase, own in _grouped(kernels, whole.phases or (Phase(1.0, whole.demand, whole.kernel_ns),), total_ns):
            sm, l2, dram = phase.demand
            number = _number(f"{recipe.personality} {recipe.time_scale} {batch_size} {len(parts)}")
            parts.append(Part(number, sum(k.duration_ns + LAUNCH_GAP_NS for k in own)))
            self._means[number] = Kernel(phase.kernel_ns, sm, dram, l2)
            self._kernels[number] = own
        squares = sum(k.duration_ns**2 for k in kernels) / sum(k.duration_ns for k in kernels) ** 2
        sm_ns = sum(k.duration_ns * k.sm for k in kernels)
        dram_ns = sum(k.duration_ns * k.dram for k in kernels)
        noise = math.hypot(BATCH_NOISE, KERNEL_NOISE * math.sqrt(squares))
        return _Course(tuple(parts), noise, whole, (total_ns, sm_ns, dram_ns))

    def rates(self, numbers: tuple[int, ...]) -> tuple[float, ...]:
        if len(numbers) < 2:
            return (1.0,) * len(numbers)
        return self._memo.get(numbers) or self._memo.keep(numbers, self._found(numbers))

    def _found(self, numbers: tuple[int, ...]) -> tuple[float, ...]:
        means = [self._means[number] for number in numbers]
        slowdowns = [1.0 / rate for rate in progress_rates(means)]
        for i, one in enumerate(numbers):
            for j in range(i + 1, len(numbers)):
                mine, theirs = self._beyond(one, numbers[j])
                slowdowns[i] += mine
                slowdowns[j] += theirs
        rates = [min(1.0, max(_LEAST_RATE, 1.0 / max(1.0, slowdown))) for slowdown in slowdowns]
        used = max(
            sum(rate * mean.sm for rate, mean in zip(rates, means, strict=True)),
            sum(rate * mean.dram for rate, mean in zip(rates, means, strict=True)),
        )
        return tuple([rate / used for rate in rates] if used > 1.0 else rates)

    def _beyond(self, one: int, other: int) -> tuple[float, float]:
        """By how much each is slowed by the other beyond what their means tell; `one` <= `other`."""
        found = self._extra.get((one, other))
        if found is None:
            by_means = progress_rates([self._means[one], self._means[other]])
            truly = loop_rates(self._kernels[one], self._kernels[other], self._law)
            mine, theirs = (1.0 / true - 1.0 / mean for true, mean in zip(truly, by_means, strict=True))
            found = self._extra[one, other] = (mine, theirs)
        return found


def _number(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest())


def _grouped(
    kernels: Sequence[Kernel], phases: Sequence[Phase], total_ns: float
) -> list[tuple[Phase, Sequence[Kernel]]]:
    """The kernels of each phase; a phase has those that begin in it."""
    groups: list[list[Kernel]] = [[] for _ in phases]
    at, passed_ns = 0, 0.0
    for kernel in kernels:
        while at < len(phases) - 1 and passed_ns >= phases[at].end * total_ns - 1.0:
            at += 1
        groups[at].append(kernel)
        passed_ns += kernel.duration_ns + LAUNCH_GAP_NS
    return [(phase, group) for phase, group in zip(phases, groups, strict=True) if group]


def loop_rates(first: Sequence[Kernel], second: Sequence[Kernel], law: str) -> tuple[float, float]:
    """Mean progress rates of two streams that repeat these kernels beside each other, without noise.

    The second begins in the middle, so that equal streams do not march in step.
    """
    least = [max(LEAST_KERNELS, 3 * len(kernels)) for kernels in (first, second)]
    most = 6 * sum(least)
    middle = len(second) // 2
    streams = [
        Stream(0, list(first) * (most // len(first) + 1), 0.0),
        Stream(1, [*second[middle:], *second[:middle]] * (most // len(second) + 1), 0.0),
    ]
    now_ns = 0.0
    while any(s.index < own for s, own in zip(streams, least, strict=True)) and sum(s.index for s in streams) < most:
        now_ns = advance(streams, now_ns, math.inf, law)
    done = [_done_ns(stream) / now_ns for stream in streams]
    return max(_LEAST_RATE, done[0]), max(_LEAST_RATE, done[1])


def _done_ns(stream: Stream) -> float:
    """Solo time of what a stream has done."""
    done = sum(kernel.duration_ns + LAUNCH_GAP_NS for kernel in stream.kernels[: stream.index])
    if stream.gap_left_ns > 0.0:
        return done + LAUNCH_GAP_NS - stream.gap_left_ns
    return done + LAUNCH_GAP_NS + stream.kernels[stream.index].duration_ns - stream.left_ns


@cache
def _stages(law: str) -> _Stages:
    """Phases and sets are the same in every simulation of a process, and dear to find."""
    return _Stages(law)


class EmulatedLaw(Unrecorded):
    """See the module's text."""

    def __init__(self, models: Mapping[str, Recipe], concurrency: int, law: str = FAIR) -> None:
        """Raises ValueError for a law that is none of LAWS."""
        if law not in LAWS:
            raise ValueError(f"there is no law '{law}'; there are {', '.join(LAWS)}")
        self._models, self._concurrency = models, concurrency
        self._stages = _stages(law)
        self._known: dict[BatchClass, _Course] = {}
        self.rates = self._stages.rates

    def parts(self, batch_class: BatchClass) -> tuple[Part, ...]:
        """See `Law.parts`."""
        return self._course(batch_class).parts

    def noise(self, batch_class: BatchClass) -> float:
        """See `Law.noise`."""
        return self._course(batch_class).noise

    def profile(self, batch_class: BatchClass) -> Cut:
        """See `Law.profile`."""
        return self._course(batch_class).profile

    def spent(self, batch_class: BatchClass) -> tuple[float, ...]:
        """See `Law.spent`."""
        progress, *resources = self._course(batch_class).spent
        return (progress / self._concurrency, *resources)

    def _course(self, batch_class: BatchClass) -> _Course:
        found = self._known.get(batch_class)
        if found is None:
            recipe = self._models[batch_class.model]
            found = self._known[batch_class] = self._stages.course(recipe, batch_class.batch_size)
        return found
