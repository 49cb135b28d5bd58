"""The coefficients of the policy `gpulets`: its linear model fitted once, offline, to pairs of batches on one device.

    python benchmarks/gpulets_coefficients.py [--law fair] [--output FILE]
    python benchmarks/gpulets_coefficients.py --logs LOG [LOG ...] [--output FILE]

As its authors did (USENIX ATC 2022, section 4.4): a batch runs while another of one class runs over and over beside it,
for every ordered pair of classes; its slowdown is regressed on a constant and on the solo throughputs of both. A
quarter of the pairs is kept aside to tell how well that predicts. Without logs the pairs are those of the emulated GPU
(seven models, batches of 1, 2, 4 and 8); with logs, the batches in them that had the same co-runner all along, which
is how the coefficients of another device are found. Two sets of features are compared: L2 and DRAM, as published, and
those of the seed paper, which adds the SMs where no partition keeps them apart.
"""

import argparse
import random
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import median, percentile, save

from cotenant.executor.emulated_gpu import LAWS, EmulatedGpu, Kernel, personalities
from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler import events as ev
from cotenant.scheduler import record
from cotenant.scheduler.snapshot import Snapshot

SIZES = (1, 2, 4, 8)
RUNS = 3  # of each pair; the median counts
FEATURES = {"l2, dram": (1, 2), "sm, l2, dram": (0, 1, 2)}


class Pair(NamedTuple):
    """A batch beside another for all its life: solo demands of both, and by how much it was slowed."""

    own: tuple[float, ...]
    other: tuple[float, ...]
    slowdown: float


def emulated(law: str) -> Iterator[Pair]:
    """All ordered pairs of classes of the emulated GPU."""
    classes = [(name, size) for name in personalities() for size in SIZES]
    kernels = {c: personalities()[c[0]].kernels(c[1]) for c in classes}
    for number, victim in enumerate(classes):
        solo_ns = statistics.median(_duration(law, seed, kernels[victim], []) for seed in range(RUNS))
        for other in classes:
            seeds = range(1000 * number, 1000 * number + RUNS)
            beside_ns = statistics.median(_duration(law, seed, kernels[victim], kernels[other]) for seed in seeds)
            demands = (personalities()[name].demand(size) for name, size in (victim, other))
            yield Pair(*demands, beside_ns / solo_ns)


def _duration(law: str, seed: int, own: Sequence[Kernel], other: Sequence[Kernel]) -> float:
    """How long a batch takes beside another that begins anew whenever it ends, and is somewhere in its first run."""
    gpu, now_ns = EmulatedGpu(seed, law=law), 10**9
    if other:
        gpu.start(now_ns, 1, list(other))
        part = 0.9 * random.Random(seed).random()
        now_ns += int(part * sum(kernel.duration_ns for kernel in other))
    gpu.start(now_ns, 0, list(own))
    while True:
        now_ns = gpu.next_finish_ns() or now_ns
        for stream in gpu.finished(now_ns):
            if stream.key == 0:
                return stream.finished_ns - stream.started_ns
            gpu.start(now_ns, stream.key + 1, list(other))


def recorded(paths: Sequence[Path]) -> Iterator[Pair]:
    """The batches of logs that had one co-runner, of one class, from beginning to end."""
    for path in paths:
        profiles: dict[BatchClass, ev.Profile] = {}
        for entry in record.read(path):
            if isinstance(entry, Snapshot):
                profiles |= {p.batch_class: p for device in entry.devices for p in device.profiles}
            for event in entry.events if isinstance(entry, record.Group) else ():
                if isinstance(event, ev.ClassProfiled):
                    profiles[event.profile.batch_class] = event.profile
                elif isinstance(event, ev.BatchFinished) and not event.failed:
                    yield from _pair(event, profiles)


def _pair(event: ev.BatchFinished, profiles: dict[BatchClass, ev.Profile]) -> Iterator[Pair]:
    beside = {part.co_runners for part in event.slices}
    if len(beside) == 1 and len(others := beside.pop()) == 1:
        own, other = profiles.get(event.batch_class), profiles.get(others[0])
        if own and other and own.work_ns and own.demand and other.demand:
            yield Pair(own.demand, other.demand, event.duration_ns / own.work_ns)


def fit(pairs: Sequence[Pair], used: tuple[int, ...]) -> dict[str, object]:
    """Least squares over three quarters of the pairs, and how well that predicts the rest."""
    x = np.array([(1.0, *(p.own[k] for k in used), *(p.other[k] for k in used)) for p in pairs])
    y = np.array([p.slowdown for p in pairs])
    aside = np.array([random.Random(i).random() < 0.25 for i in range(len(pairs))])
    weights = np.linalg.lstsq(x[~aside], y[~aside], rcond=None)[0]
    errors = [float(e) for e in np.abs(np.maximum(1.0, x[aside] @ weights) - y[aside]) / y[aside]]
    return {
        "coefficients": [round(float(w), 3) for w in weights],
        "pairs": len(pairs),
        "aside": int(aside.sum()),
        "error_median": median(errors),
        "error_p90": percentile(errors, 0.9),
        "error_p95": percentile(errors, 0.95),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--law", choices=LAWS, default=LAWS[0])
    parser.add_argument("--logs", type=Path, nargs="*", default=[])
    parser.add_argument("--output", type=Path, help="file for the results instead of the one in benchmarks/results")
    arguments = parser.parse_args()
    pairs = list(recorded(arguments.logs) if arguments.logs else emulated(arguments.law))
    rows = [{"features": name, **fit(pairs, used)} for name, used in FEATURES.items()]
    device = [str(log) for log in arguments.logs] or f"emulated GPU, law {arguments.law}"
    path = save("gpulets-coefficients", rows, path=arguments.output, device=device)
    for row in rows:
        print(f"{row['features']}: {row['coefficients']}  (constant, own, other)")
        errors = ", ".join(f"{what} {row[f'error_{what}']:.1%}" for what in ("median", "p90", "p95"))
        print(f"  {row['pairs']} pairs; relative error over the {row['aside']} kept aside: {errors}")
    print(f"\nraw results in {path}")


if __name__ == "__main__":
    main()
