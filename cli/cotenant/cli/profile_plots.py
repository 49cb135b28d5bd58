"""Plots of solo measurements as SVG files: throughput and latency over the batch size, one line per model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cotenant.cli.evaluate_plots import Axis, Line, draw
from cotenant.runtime.solo import SoloClass, SoloProfile

_APART = 0.04  # of the axis


@dataclass(frozen=True, slots=True)
class BatchSizes(Axis):
    """An axis that marks the sizes that were measured."""

    sizes: tuple[int, ...] = ()

    def ticks(self) -> list[float]:
        """See `Axis.ticks`; leaves out those whose labels would overlap."""
        kept: list[float] = []
        for size in self.sizes:
            if not kept or self.at(size) - self.at(kept[-1]) > _APART:
                kept.append(size)
        return kept


def write(profiles: Sequence[SoloProfile], folder: Path) -> list[Path]:
    """Writes throughput.svg and latency.svg, or nothing if nothing was measured; returns their files."""
    plots = {
        "throughput": ("Throughput alone, without gaps between batches", "items per second", _throughput),
        "latency": ("Latency alone: median of the runs", "ms", _latency),
    }
    written: list[Path] = []
    for name, (title, unit, value) in plots.items():
        if text := plot(title, unit, profiles, value):
            path = folder / f"{name}.svg"
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written


def plot(title: str, unit: str, profiles: Sequence[SoloProfile], value: Callable[[SoloClass], float]) -> str:
    """A figure of each batch class over its size, logarithmic; "" if there is none."""
    lines = [line for profile in profiles for line in _lines(profile, value, several=_several(profiles, profile))]
    values = [y for line in lines for _, y in line.points]
    if not values:
        return ""
    sizes = tuple(sorted({int(x) for line in lines for x, _ in line.points}))
    across = BatchSizes("batch size", min(sizes), max(2 * min(sizes), *sizes), log=True, sizes=sizes)
    return draw(title, across, Axis(unit, *_bounds(values), log=True), lines, dots=True)


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """The marks of a logarithmic axis (1 and 3 times powers of ten) round all values."""
    marks = [m * 10.0**d for d in range(-6, 10) for m in (1, 3)]
    low = max((mark for mark in marks if mark <= min(values)), default=marks[0])
    return low, min((mark for mark in marks if mark > max(values)), default=marks[-1])


def _lines(profile: SoloProfile, value: Callable[[SoloClass], float], *, several: bool) -> list[Line]:
    """One per shape bucket."""
    name = f"{profile.model}/{profile.version}" if several else profile.model
    buckets = dict.fromkeys(entry.shape_bucket for entry in profile.classes)
    return [
        Line(
            f"{name}:{bucket}" if bucket else name,
            [(entry.batch_size, value(entry)) for entry in profile.classes if entry.shape_bucket == bucket],
        )
        for bucket in buckets
    ]


def _several(profiles: Sequence[SoloProfile], one: SoloProfile) -> bool:
    return sum(profile.model == one.model for profile in profiles) > 1


def _throughput(entry: SoloClass) -> float:
    return entry.items_per_s


def _latency(entry: SoloClass) -> float:
    return entry.work_ns / 1e6
