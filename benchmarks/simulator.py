"""The simulator judged: phase by phase against kernel by kernel, and what a simulated request costs.

    python benchmarks/simulator.py [--seconds 10] [--seeds 3] [--skip-large] [--only-large]

*Durations*: the same batches start at the same instants on both kinds of device, without noise. *Attainment*: the same
arrivals, the same policies, with a learner; virtual time depends on nothing of the machine. *Cost*: CPU time per
request of examples/worlds/many-models.toml (2,000 models on 256 devices), joining included, and the share of the core
in it; at the world's rates, where nearly every request is a batch of its own, and at three times those.
"""

import argparse
import random
from pathlib import Path
from typing import Any

from common import median, percentile, save

from cotenant.executor.emulated_gpu import LAWS, EmulatedGpu, Kernel, personalities
from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler.simulate import SimulatedModel, Simulation
from cotenant.scheduler.simulation.building import Setting
from cotenant.scheduler.simulation.devices import KernelDevice, PhasedDevice
from cotenant.scheduler.simulation.emulated_law import EmulatedLaw, Recipe
from cotenant.scheduler.simulation.laws import work_ns
from cotenant.scheduler.simulation.study import Extras, Study
from cotenant.scheduler.simulation.world import read

MS = 1_000_000
BASE = (("resnet50", 40, 40), ("mobilenet_v2", 80, 20), ("bert", 4, 300), ("transformer_xl", 10, 90))
CONCURRENCY = 4
BATCHES = 400
LARGE = Path(__file__).parent.parent / "examples/worlds/many-models.toml"


class Exact(EmulatedGpu):
    """Without noise."""

    def _noisy(self, kernels: list[Kernel]) -> list[Kernel]:
        return kernels


def classes(of: str) -> list[BatchClass]:
    names = sorted(personalities()) if of == "all seven" else [name for name, _, _ in BASE]
    return [BatchClass(name, "1", size) for name in names for size in (1, 2, 4, 8)]


def kernel_device(law: str) -> KernelDevice:
    return KernelDevice(Exact(law=law), lambda known: Recipe(known.model).kernels(known.batch_size))


def starts(law: str, of: str, load: float, seed: int) -> list[tuple[int, BatchClass]]:
    """Random batches at random instants, so many as fit beside each other on the device kernel by kernel."""
    rng, own = random.Random(seed), EmulatedLaw({name: Recipe(name) for name in personalities()}, CONCURRENCY)
    mean_ns = sum(work_ns(own, known) for known in classes(of)) / len(classes(of))
    device, running, at_ns = kernel_device(law), 0, MS
    found: list[tuple[int, BatchClass]] = []
    while len(found) < BATCHES:
        at_ns += round(rng.expovariate(load / mean_ns)) + 1
        known = rng.choice(classes(of))
        while 0 < (next_ns := device.next_ns()) <= at_ns:
            running -= len(device.ended(next_ns))
        if running < CONCURRENCY:
            device.start(at_ns, len(found), known)
            found.append((at_ns, known))
            running += 1
    return found


def durations(device: KernelDevice | PhasedDevice, begun: list[tuple[int, BatchClass]]) -> list[float]:
    took = [0.0] * len(begun)
    at = 0
    while True:
        next_ns = device.next_ns()
        if at < len(begun) and (not next_ns or begun[at][0] <= next_ns):
            device.start(begun[at][0], at, begun[at][1])
            at += 1
        elif next_ns:
            for ended in device.ended(next_ns):
                took[ended.key] = float(ended.at_ns - begun[ended.key][0])
        else:
            return took


def compare_durations(law: str, of: str, load: float, seed: int) -> dict[str, Any]:
    begun = starts(law, of, load, seed)
    own = EmulatedLaw({name: Recipe(name) for name in personalities()}, CONCURRENCY, law)
    true, found = durations(kernel_device(law), begun), durations(PhasedDevice(own, noise=0.0), begun)
    errors = [abs(a / b - 1.0) for a, b in zip(found, true, strict=True)]
    alone = sum(work_ns(own, known) for _, known in begun)
    return {
        "law": law,
        "models": of,
        "load": load,
        "seed": seed,
        "slowdown": sum(true) / alone,
        "total": sum(found) / sum(true) - 1.0,
        "mean": sum(a / b - 1.0 for a, b in zip(found, true, strict=True)) / len(true),
        "median": median(errors),
        "p95": percentile(errors, 0.95),
    }


def compare_attainment(policy: str, scale: float, seed: int, seconds: float) -> dict[str, Any]:
    models = [SimulatedModel(name, name, rate * scale, slo_ms * MS) for name, rate, slo_ms in BASE]
    found = {
        kind: Simulation(models, policy=policy, seed=seed, kind=kind).run(round(seconds * 1e9))
        for kind in ("kernels", "phases")
    }
    return {
        "policy": policy,
        "scale": scale,
        "seed": seed,
        **{f"attainment_{kind}": outcome.slo_attainment for kind, outcome in found.items()},
        **{f"batches_{kind}": outcome.batches for kind, outcome in found.items()},
    }


def cost(policy: str, rate: float) -> dict[str, Any]:
    """The second run of two in one process: the first finds out what pairs of phases do to each other."""
    study = Study(read(LARGE))
    for _ in range(2):
        row = study.run(policy, Setting(rate=rate), 0, extras=Extras(timed=True))
    assert row.core_s is not None
    return {
        "policy": policy,
        "rate": rate,
        "requests": row.offered,
        "batches": row.batches,
        "attainment": row.attainment,
        "cpu_s": row.cpu_s,
        "requests_per_cpu_s": row.offered / row.cpu_s,
        "core_us_per_request": row.core_s / row.offered * 1e6,
        "rest_us_per_request": (row.cpu_s - row.core_s) / row.offered * 1e6,
    }


def show(rows: list[dict[str, Any]]) -> None:
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()) + " |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--skip-large", action="store_true")
    parser.add_argument("--only-large", action="store_true")
    a = parser.parse_args()
    by_duration = [
        compare_durations(law, of, load, seed)
        for law in (() if a.only_large else LAWS)
        for of in ("four", "all seven")
        for load in (0.5, 1.0)
        for seed in range(a.seeds)
    ]
    by_attainment = [
        compare_attainment(policy, scale, seed, a.seconds)
        for policy in (() if a.only_large else ("edf", "exclusive-fifo"))
        for scale in (1.0, 3.0, 5.0)
        for seed in range(a.seeds)
    ]
    policies = () if a.skip_large else ("goodput", "edf", "exclusive-fifo")
    costs = [cost(policy, rate) for policy in policies for rate in (1.0, 3.0)]
    for rows in (by_duration, by_attainment, costs):
        if rows:
            show(rows)
    name = "simulator-cost" if a.only_large else "simulator"
    print(save(name, by_duration, attainment=by_attainment, cost=costs))


if __name__ == "__main__":
    main()
