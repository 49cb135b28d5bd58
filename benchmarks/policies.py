"""Our policy and the baselines on the same emulated GPU, in virtual time.

    python benchmarks/policies.py [--policies edf,triton] [--seconds 20] [--seeds 3] [--scales 1,2,3,4]
                                  [--kind kernels] [--output FILE]

Four models with measured kernel sequences (docs/emulated-gpu.md) get Poisson requests at a multiple of a base rate; a
request that is refused or late is a miss. The predictor starts from solo times and learns during the run. Virtual time
depends on nothing of the machine it runs on.

A policy enters as often as it has settings that its users would sweep, or predictors that it is meant for (`ENTRANTS`):
Triton with one, two and four instances of each model, on a device that may run all of them at once; `seed-paper` with
the learner of its paper. Every policy of the table takes part, also one that was added since.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from common import median, percentile, save
from msgspec.structs import replace

from cotenant.scheduler import events as ev
from cotenant.scheduler.policies import POLICIES
from cotenant.scheduler.simulate import SimulatedModel, Simulation

MS = 1_000_000
BASE = (  # model, requests per s, SLO in ms
    ("resnet50", 40, 40),
    ("mobilenet_v2", 80, 20),
    ("bert", 4, 300),
    ("transformer_xl", 10, 90),
)
SCALES = (1.0, 2.0, 3.0, 4.0)
LANES = 4  # batches that a device runs at once


class Entrant(NamedTuple):
    """A policy as it takes part."""

    name: str
    policy: str
    predictor: str = "fluid"
    instances: int = 0  # of each model; 0: not limited, or the policy's default
    lanes: int = LANES


ENTRANTS = (
    Entrant("triton, 1 instance", "triton", instances=1),
    Entrant("triton, 2 instances", "triton", instances=2, lanes=2 * len(BASE)),
    Entrant("triton, 4 instances", "triton", instances=4, lanes=4 * len(BASE)),
    Entrant("edf-fixed, 2 at once", "edf-fixed", lanes=2),
    Entrant("edf-fixed, 4 at once", "edf-fixed"),
    Entrant("seed-paper", "seed-paper", predictor="ewma12-rls"),
)


@dataclass(frozen=True)
class Model(SimulatedModel):
    """A model with a number of instances."""

    instances: int = 0

    def spec(self) -> ev.ModelSpec:
        """As a scheduler is told of it."""
        return replace(super().spec(), max_instances=self.instances)


def entrants(policies: list[str]) -> list[Entrant]:
    """Those of these policies; one for each that has none of its own in the table."""
    return [
        entrant
        for policy in policies
        for entrant in [e for e in ENTRANTS if e.policy == policy] or [Entrant(policy, policy)]
    ]


def measure(entrant: Entrant, scale: float, seed: int, seconds: float, kind: str) -> dict[str, Any]:
    models = [Model(name, name, rate * scale, slo_ms * MS, instances=entrant.instances) for name, rate, slo_ms in BASE]
    simulation = Simulation(
        models, policy=entrant.policy, predictor=entrant.predictor, concurrency=entrant.lanes, seed=seed, kind=kind
    )
    outcome = simulation.run(int(seconds * 1e9))
    return {
        "entrant": entrant.name,
        "policy": entrant.policy,
        "predictor": entrant.predictor,
        "instances": entrant.instances,
        "lanes": entrant.lanes,
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
    parser.add_argument("--policies", default=",".join(POLICIES), help="of docs/policies.md, separated by commas")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scales", default=",".join(map(str, SCALES)), help="multiples of the base rate")
    parser.add_argument("--kind", choices=("kernels", "phases"), default="kernels", help="how a batch is followed")
    parser.add_argument("--output", type=Path, help="file for the results instead of the one in benchmarks/results")
    arguments = parser.parse_args()
    if unknown := [policy for policy in arguments.policies.split(",") if policy not in POLICIES]:
        parser.error(f"--policies: there is no {', '.join(unknown)}; there are {', '.join(POLICIES)}")
    taking_part = entrants(arguments.policies.split(","))
    scales = [float(scale) for scale in arguments.scales.split(",")]
    rows = [
        measure(entrant, scale, seed, arguments.seconds, arguments.kind)
        for scale in scales
        for seed in range(arguments.seeds)
        for entrant in taking_part
    ]
    path = save("policies", rows, path=arguments.output, models=BASE, kind=arguments.kind)
    keys = ("slo_attainment", "goodput_per_s", "late", "mean_co_runners", "forecast_error_median", "within_bound")
    print("| load | policy | SLO attainment | goodput/s | late | co-runners | forecast error, median | within bound |")
    print("|---|---|---|---|---|---|---|---|")
    for scale in scales:
        for entrant in taking_part:
            cell = [row for row in rows if (row["scale"], row["entrant"]) == (scale, entrant.name)]
            attainment, goodput, late, beside, error, within = (median([row[key] for row in cell]) for key in keys)
            offered = median([row["offered"] for row in cell]) / arguments.seconds
            print(
                f"| {offered:.0f}/s | {entrant.name} | {attainment:.1%} | {goodput:.0f} | {late:.0f} "
                f"| {beside:.2f} | {error:.1%} | {within:.1%} |"
            )
    print(f"\nraw results in {path}")


if __name__ == "__main__":
    main()
