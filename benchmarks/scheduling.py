"""The highest rate at which each policy keeps 99 % of the SLOs, over 24 workloads, in virtual time.

    python benchmarks/scheduling.py [--devices 1,8] [--mixes vision,text,mixed] [--cv 1,4] [--slo tight,loose]
                                    [--policies goodput,gpulets] [--seconds 3] [--seeds 2] [--jobs 2] [--journal FILE]

A workload is a mix of models, arrivals (Poisson, or bursty with a coefficient of variation of 4), an SLO (`tight`: 3
times what a single item takes alone, `loose`: 10 times) and a number of devices, on each of which all its models are
loaded. Devices are emulated, phase by phase (docs/emulated-gpu.md); the predictor starts from solo times and learns
during the run. All policies see the same requests. A refused or late request is a miss; the rate is found by bisection
to 3 %. Policies that have settings (`ENTRANTS`) take part once for each, and their best setting counts.

Then, at 1.5 times the highest rate of `goodput`, goodput is set against its peak. With `--journal` what was found is
kept line by line, and a second call goes on where the first was stopped.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from common import save

from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler.simulation import search
from cotenant.scheduler.simulation.building import Setting
from cotenant.scheduler.simulation.emulated_law import EmulatedLaw, Recipe
from cotenant.scheduler.simulation.laws import work_ns
from cotenant.scheduler.simulation.study import Study
from cotenant.scheduler.simulation.world import ArrivalsTable, DevicesTable, ModelTable, World

TARGET = 0.99
# Name of the model, its personality, how much slower it is than that, and its share of the load (solo work).
MIXES: dict[str, tuple[tuple[str, str, float, float], ...]] = {
    "vision": (
        ("resnet50", "resnet50", 1.0, 0.3),
        ("resnet101", "resnet101", 1.0, 0.3),
        ("mobilenet_v2", "mobilenet_v2", 1.0, 0.2),
        ("efficientnet", "efficientnet", 1.0, 0.2),
    ),
    "text": (
        ("bert", "bert", 1.0, 0.3),
        ("small-bert", "bert", 0.3, 0.3),
        ("transformer_xl", "transformer_xl", 1.0, 0.2),
        ("small-xl", "transformer_xl", 0.4, 0.2),
    ),
    "mixed": (
        ("resnet50", "resnet50", 1.0, 0.2),
        ("resnet101", "resnet101", 1.0, 0.1),
        ("mobilenet_v2", "mobilenet_v2", 1.0, 0.3),
        ("efficientnet", "efficientnet", 1.0, 0.1),
        ("bert", "bert", 1.0, 0.1),
        ("retinanet", "retinanet", 1.0, 0.05),
        ("transformer_xl", "transformer_xl", 1.0, 0.15),
    ),
}
PATIENCE = {"tight": 3.0, "loose": 10.0}
OURS, TRUE, BOUND = "goodput", "goodput:true", "clairvoyant"
LANES = 4
WARMUP_S = 0.5


class Entrant(NamedTuple):
    """A policy with a setting, as the simulator is told; `lanes` are for each device."""

    policy: str
    setting: str = ""
    lanes: int = LANES
    instances: int = 0


ENTRANTS = (
    Entrant(OURS, lanes=8),
    Entrant(TRUE, lanes=8),
    Entrant(BOUND),
    Entrant("exclusive-fifo"),
    Entrant("clockwork"),
    Entrant("gpulets"),
    Entrant("orion"),
    Entrant("edf"),
    Entrant("edf-fixed", "2 at once", lanes=2),
    Entrant("edf-fixed", "4 at once"),
    Entrant("triton", "1 instance", lanes=16, instances=1),
    Entrant("triton", "2 instances", lanes=16, instances=2),
    Entrant("triton", "4 instances", lanes=16, instances=4),
    Entrant("seed-paper"),
)


class Workload(NamedTuple):
    """See the module's text."""

    mix: str
    cv: float
    slo: str
    devices: int

    def world(self, entrant: Entrant, seconds: float) -> World:
        """At a rate of 1, single items would keep half of each device busy."""
        law = EmulatedLaw({name: Recipe(like, scale) for name, like, scale, _ in MIXES[self.mix]}, LANES)
        models = []
        for name, like, scale, share in MIXES[self.mix]:
            alone_s = work_ns(law, BatchClass(name, "1", 1)) / 1e9
            models.append(
                ModelTable(
                    name,
                    like,
                    rate=0.5 * self.devices * share / alone_s,
                    slo_ms=PATIENCE[self.slo] * alone_s * 1e3,
                    time_scale=scale,
                    instances=entrant.instances,
                )
            )
        arrivals = ArrivalsTable() if self.cv == 1.0 else ArrivalsTable(kind="bursty", cv=self.cv)
        devices = DevicesTable(count=self.devices, concurrency=entrant.lanes)
        return World(
            tuple(models),
            seconds=seconds,
            warmup_seconds=WARMUP_S,
            policy=entrant.policy,
            devices=devices,
            arrivals=arrivals,
        )


def highest(workload: Workload, entrant: Entrant, seconds: float, seeds: int) -> dict[str, Any]:
    """The highest rate of one entrant, with everything that was tried on the way."""
    began_s = time.process_time()
    tried: list[tuple[float, float]] = []
    study = Study(workload.world(entrant, seconds))
    found = search.highest_rate(
        study, entrant.policy, TARGET, seeds, Setting(), lambda rate, attained: tried.append((rate, attained))
    )
    return {
        **workload._asdict(),
        "policy": entrant.policy,
        "setting": entrant.setting,
        "rate": found.value,
        "requests_per_s": found.requests_per_s,
        "tried": tried,
        "cpu_s": time.process_time() - began_s,
    }


def overload(workload: Workload, rate: float, seconds: float, seeds: int) -> dict[str, Any]:
    """Goodput of ours at multiples of its highest rate."""
    study = Study(workload.world(Entrant(OURS), seconds))
    goodput = {}
    for times in (0.8, 1.0, 1.1, 1.25, 1.5, 2.0):
        rows = [study.run(OURS, Setting(rate=rate * times), seed) for seed in range(seeds)]
        goodput[times] = sum(row.goodput_per_s for row in rows) / seeds
    return {**workload._asdict(), "rate": rate, "goodput_per_s": goodput}


# ---- all of it


def workloads(arguments: argparse.Namespace) -> Iterator[Workload]:
    """Those that were asked for."""
    for devices, mix, cv, slo in itertools.product(arguments.devices, arguments.mixes, arguments.cv, arguments.slo):
        yield Workload(mix, cv, slo, devices)


def seconds_for(workload: Workload, seconds: float) -> float:
    """Longer where requests are few or come in bursts, shorter where many devices share them."""
    times = (8.0 if workload.mix == "text" else 1.0) * (3.0 if workload.cv > 1.0 else 1.0)
    return WARMUP_S + seconds * times / workload.devices**0.5


def kept(journal: Path | None) -> list[dict[str, Any]]:
    """What an earlier call found."""
    if journal is None or not journal.exists():
        return []
    return [json.loads(line) for line in journal.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=lambda text: [int(part) for part in text.split(",")], default=[1, 8])
    parser.add_argument("--mixes", type=lambda text: text.split(","), default=list(MIXES))
    parser.add_argument("--cv", type=lambda text: [float(part) for part in text.split(",")], default=[1.0, 4.0])
    parser.add_argument("--slo", type=lambda text: text.split(","), default=list(PATIENCE))
    parser.add_argument("--policies", type=lambda text: text.split(","), default=[e.policy for e in ENTRANTS])
    parser.add_argument("--seconds", type=float, default=3.0, help="simulated of Poisson arrivals on one device")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--journal", type=Path)
    parser.add_argument("--output", type=Path, help="file for the results instead of the one in benchmarks/results")
    arguments = parser.parse_args()
    taking_part = [entrant for entrant in ENTRANTS if entrant.policy in arguments.policies]
    rows = run(arguments, taking_part)
    path = save("scheduling", rows, path=arguments.output, target=TARGET)
    print(table(rows))
    print(f"\nraw results in {path}")


def run(arguments: argparse.Namespace, taking_part: Sequence[Entrant]) -> list[dict[str, Any]]:
    """Everything that is asked for and not in the journal."""
    rows = kept(arguments.journal)
    done = {(r["mix"], r["cv"], r["slo"], r["devices"], r["policy"], r["setting"]) for r in rows}
    tasks = [
        (workload, entrant, seconds_for(workload, arguments.seconds), arguments.seeds)
        for workload in workloads(arguments)
        for entrant in taking_part
        if (*workload, entrant.policy, entrant.setting) not in done
    ]
    for row in _found(tasks, arguments.jobs):
        rows.append(row)
        if arguments.journal:
            with arguments.journal.open("a") as file:
                file.write(json.dumps(row) + "\n")
    return [json.loads(json.dumps(row)) for row in rows]


def _found(tasks: Sequence[tuple[Workload, Entrant, float, int]], jobs: int) -> Iterator[dict[str, Any]]:
    if jobs == 1:
        yield from (highest(*task) for task in tasks)
        return
    with ProcessPoolExecutor(jobs) as pool:
        waiting = [pool.submit(highest, *task) for task in tasks]
        yield from (future.result() for future in as_completed(waiting))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each workload: the highest rates as multiples of the best baseline's."""
    lines = ["| workload | " + " | ".join(columns := _columns(rows)) + " |", "|---" * (len(columns) + 1) + "|"]
    keys = sorted({(r["devices"], r["mix"], r["cv"], r["slo"]) for r in rows})
    for key in keys:
        cells = []
        for policy in columns:
            found = [r for r in rows if (r["devices"], r["mix"], r["cv"], r["slo"], r["policy"]) == (*key, policy)]
            cells.append(f"{max(r['rate'] for r in found):.2f}" if found else "")
        devices, mix, cv, slo = key
        lines.append(f"| {devices} x {mix}, CV {cv:g}, {slo} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(e.policy for e in ENTRANTS if any(r["policy"] == e.policy for r in rows)))


if __name__ == "__main__":
    main()
