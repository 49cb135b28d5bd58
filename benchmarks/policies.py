"""Sharing the GPU against taking turns: both policies on the same emulated GPU, in virtual time.

    python benchmarks/policies.py [--seconds 20] [--seeds 3]

Four models with measured kernel sequences (docs/emulated-gpu.md) get Poisson requests at a multiple of a base rate; a
request that is refused or late is a miss. The predictor starts from solo times and learns during the run. Virtual time
depends on nothing of the machine it runs on.
"""

import argparse
from typing import Any

from common import median, percentile, save

from cotenant.scheduler.simulate import SimulatedModel, Simulation

MS = 1_000_000
BASE = (  # model, requests per s, SLO in ms
    ("resnet50", 40, 40),
    ("mobilenet_v2", 80, 20),
    ("bert", 4, 300),
    ("transformer_xl", 10, 90),
)
SCALES = (1.0, 2.0, 3.0, 4.0)
POLICIES = ("edf", "exclusive-fifo")


def measure(policy: str, scale: float, seed: int, seconds: float) -> dict[str, Any]:
    models = [SimulatedModel(name, name, rate * scale, slo_ms * MS) for name, rate, slo_ms in BASE]
    outcome = Simulation(models, policy=policy, seed=seed).run(int(seconds * 1e9))
    return {
        "policy": policy,
        "scale": scale,
        "seed": seed,
        "offered": sum(m.offered for m in outcome.models.values()),
        "late": sum(m.late for m in outcome.models.values()),
        "refused": sum(m.refused for m in outcome.models.values()),
        "slo_attainment": outcome.slo_attainment,
        "goodput_per_s": outcome.goodput_per_s,
        "mean_co_runners": outcome.co_runner_ns / outcome.busy_ns,
        "forecast_error_median": median(outcome.errors),
        "forecast_error_p95": percentile(outcome.errors, 0.95),
        "within_bound": outcome.covered / outcome.batches,
        "attainment_by_model": {name: m.slo_attainment for name, m in outcome.models.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    rows = [
        measure(policy, scale, seed, arguments.seconds)
        for scale in SCALES
        for seed in range(arguments.seeds)
        for policy in POLICIES
    ]
    path = save("policies", rows, models=BASE)
    keys = ("slo_attainment", "goodput_per_s", "late", "mean_co_runners", "forecast_error_median", "within_bound")
    print("| load | policy | SLO attainment | goodput/s | late | co-runners | forecast error, median | within bound |")
    print("|---|---|---|---|---|---|---|---|")
    for scale in SCALES:
        for policy in POLICIES:
            cell = [row for row in rows if (row["scale"], row["policy"]) == (scale, policy)]
            attainment, goodput, late, beside, error, within = (median([row[key] for row in cell]) for key in keys)
            offered = median([row["offered"] for row in cell]) / arguments.seconds
            print(
                f"| {offered:.0f}/s | {policy} | {attainment:.1%} | {goodput:.0f} | {late:.0f} "
                f"| {beside:.2f} | {error:.1%} | {within:.1%} |"
            )
    print(f"\nraw results in {path}")


if __name__ == "__main__":
    main()
