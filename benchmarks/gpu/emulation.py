"""Finds the emulated GPU that would have given the batches that were measured.

A model is a sequence of kernels (a personality). Where Nsight Compute counted its kernels, they are those; else they
are alike but for their size. Two numbers of each model are fitted: how many multiprocessors its kernels fill, and which
part of their time belongs to memory; durations follow from its solo time at the largest batch size. So the growth of
solo times over batch sizes and the slowdowns beside others both tell of them. The law is the one that errs least.

The search is by coordinates: each number in turn is moved both ways as long as that helps, in ever smaller steps.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from cotenant.executor.emulated_gpu import LAUNCH_GAP_NS, LAWS, EmulatedGpu, Kernel, Personality

ROWS = 24  # kernels of a personality that nothing was counted of
SPREAD = 1.5  # of their sizes: factors of two up and down
STEPS = (2.0, 1.4, 1.15, 1.05)  # factors on multiprocessors; on memory's part, a quarter of what is over one
OUTLIER = 0.05  # logarithmic error from which on a batch counts less
SOLO_WEIGHT = 2.0  # of a solo time, in batches beside others of the same class

KernelRow = tuple[float, float, float, float]  # as in personalities.json: ns, SMs, compute and memory parts


class Started(NamedTuple):
    """A batch of an episode; instants from the episode's beginning, in ns."""

    model: str
    batch_size: int
    start_ns: int
    duration_ns: int


Episode = tuple[Started, ...]  # in order of starts


@dataclass(frozen=True)
class Shape:
    """What is fitted of a model."""

    sms: float  # multiprocessors that its kernels fill at the reference batch size, over those they were counted with
    memory: float  # part of their time that belongs to memory, 0 to 1; 0.5 leaves counted kernels as they are


class Quiet(EmulatedGpu):
    """The emulated GPU without noise."""

    def _noisy(self, kernels: list[Kernel]) -> list[Kernel]:
        return kernels


@dataclass(frozen=True)
class Device:
    """What is known before fitting: solo times by model and batch size, and kernels where they were counted."""

    sm_count: int
    solo_ns: Mapping[str, Mapping[int, float]]
    counted: Mapping[str, Sequence[KernelRow]]  # at each model's largest batch size

    def personality(self, model: str, shape: Shape) -> Personality:
        """A model of that shape, whose largest batch takes as long as measured."""
        reference = max(self.solo_ns[model])
        if model in self.counted:
            rows = [(ns, sms * shape.sms, *_tilted(c, m, shape.memory)) for ns, sms, c, m in self.counted[model]]
        else:
            places = [2.0 * ((7 * i) % ROWS) / (ROWS - 1) - 1.0 for i in range(ROWS)]
            filled = [self.sm_count * shape.sms * 2.0 ** (SPREAD * place) for place in places]
            rows = [(1.0, sms, 1.0 - shape.memory, shape.memory) for sms in filled]
        own_ns = max(1.0, self.solo_ns[model][reference] - LAUNCH_GAP_NS * len(rows))
        scale = own_ns / sum(row[0] for row in rows)
        return Personality(model, reference, self.sm_count, tuple((ns * scale, *rest) for ns, *rest in rows))  # type: ignore[misc]


def _tilted(compute: float, memory: float, part: float) -> tuple[float, float]:
    """Parts of a counted kernel, moved towards memory or away from it."""
    moved = min(1.0, max(0.0, memory + part - 0.5))
    return min(compute, 1.0 - moved) if moved >= memory else compute + memory - moved, moved


def solo_ns(personality: Personality, batch_size: int) -> float:
    """Duration of a batch alone."""
    kernels = personality.kernels(batch_size)
    return sum(kernel.duration_ns for kernel in kernels) + LAUNCH_GAP_NS * len(kernels)


def play(episode: Episode, personalities: Mapping[str, Personality], law: str) -> list[float]:
    """Durations in ns of an episode's batches, started when they were, under a law."""
    gpu = Quiet(law=law)
    ended: dict[int, float] = {}
    for key, batch in enumerate(episode):
        ended |= {s.key: s.finished_ns - s.started_ns for s in gpu.finished(batch.start_ns)}
        gpu.start(batch.start_ns, key, personalities[batch.model].kernels(batch.batch_size))
    ended |= {s.key: s.finished_ns - s.started_ns for s in gpu.finished(2**52)}
    return [ended[key] for key in range(len(episode))]


def cost(ratio: float) -> float:
    """Of a foretold duration over the measured one: half the squared logarithm, and linear beyond OUTLIER.

    Huber's loss: a batch that something else held up must not bend the rest.
    """
    error = abs(math.log(ratio))
    return error * error / 2.0 if error < OUTLIER else OUTLIER * (error - OUTLIER / 2.0)


@dataclass
class Fit:
    """Shapes under one law, and the sum of the costs of what they foretell."""

    device: Device
    law: str
    shapes: dict[str, Shape]
    loss: float = math.inf

    def personalities(self) -> dict[str, Personality]:
        """Of all models."""
        return {model: self.device.personality(model, shape) for model, shape in self.shapes.items()}


def fit(device: Device, episodes: Sequence[Episode], *, laws: Iterable[str] = LAWS, rounds: int = 2) -> list[Fit]:
    """One fit for each law, the best first. Raises ValueError for an episode of a model without solo times."""
    unknown = sorted({batch.model for episode in episodes for batch in episode} - set(device.solo_ns))
    if unknown:
        raise ValueError(f"there are no solo times of {', '.join(unknown)}")
    found = [_fit_one(device, episodes, law, rounds) for law in laws]
    return sorted(found, key=lambda one: one.loss)


def _fit_one(device: Device, episodes: Sequence[Episode], law: str, rounds: int) -> Fit:
    start = {model: Shape(1.0 if model in device.counted else 0.5, 0.5) for model in device.solo_ns}
    search = _Search(Fit(device, law, start), episodes)
    for step in STEPS:
        for _ in range(rounds):
            moved = [search.improve(model, step) for model in device.solo_ns]
            if not any(moved):
                break
    search.fit.loss = search.total
    return search.fit


class _Search:
    """Losses by episode, so that moving one model plays only the episodes it is in."""

    def __init__(self, fit: Fit, episodes: Sequence[Episode]) -> None:
        self.fit, self._episodes = fit, episodes
        self._of: dict[str, list[int]] = {model: [] for model in fit.shapes}
        for i, episode in enumerate(episodes):
            for model in {batch.model for batch in episode}:
                self._of[model].append(i)
        self._made = fit.personalities()
        self._losses = [self._loss(episode, self._made) for episode in episodes]
        self._solo = {model: self._solo_loss(model, self._made[model]) for model in fit.shapes}

    @property
    def total(self) -> float:
        """The loss of everything."""
        return sum(self._losses) + sum(self._solo.values())

    def improve(self, model: str, step: float) -> bool:
        """Moves a model's numbers by one step, if that helps."""
        shape = self.fit.shapes[model]
        part = (step - 1.0) / 4.0
        tried = [replace(shape, sms=max(1e-3, shape.sms * factor)) for factor in (step, 1.0 / step)]
        tried += [replace(shape, memory=min(1.0, max(0.0, shape.memory + move))) for move in (part, -part)]
        taken = [self._take(model, one) for one in tried if one != shape]
        return any(taken)

    def _take(self, model: str, shape: Shape) -> bool:
        """Takes a shape if it is better than the present one."""
        made = {**self._made, model: self.fit.device.personality(model, shape)}
        losses = {i: self._loss(self._episodes[i], made) for i in self._of[model]}
        solo = self._solo_loss(model, made[model])
        change = sum(losses.values()) - sum(self._losses[i] for i in losses) + solo - self._solo[model]
        if change >= -1e-9:
            return False
        self.fit.shapes[model], self._made, self._solo[model] = shape, made, solo
        for i, loss in losses.items():
            self._losses[i] = loss
        return True

    def _loss(self, episode: Episode, made: Mapping[str, Personality]) -> float:
        durations = play(episode, made, self.fit.law)
        return sum(cost(ns / one.duration_ns) for ns, one in zip(durations, episode, strict=True))

    def _solo_loss(self, model: str, personality: Personality) -> float:
        known = self.fit.device.solo_ns[model]
        weight = SOLO_WEIGHT * max(1, len(self._of[model])) / len(known)
        return weight * sum(cost(solo_ns(personality, size) / ns) for size, ns in known.items())


def errors(fit: Fit, episodes: Sequence[Episode]) -> list[float]:
    """Relative errors of the durations that a fit foretells, of all batches."""
    made = fit.personalities()
    return [
        ns / one.duration_ns - 1.0
        for episode in episodes
        for ns, one in zip(play(episode, made, fit.law), episode, strict=True)
    ]


def told(found: Sequence[float]) -> dict[str, float]:
    """What is said of a set of relative errors."""
    sizes = sorted(map(abs, found))
    return {
        "batches": len(sizes),
        "median": statistics.median(sizes),
        "p95": sizes[min(len(sizes) - 1, math.ceil(0.95 * len(sizes)) - 1)],
        "bias": statistics.fmean(found),
    }
