"""Is the simulator right? Live runs of the whole stack, and simulations by what was recorded of them.

    python benchmarks/live/fidelity.py                     all configurations; how long that takes is printed first
    python benchmarks/live/fidelity.py --only emulated     those whose name has this in it
    python benchmarks/live/fidelity.py --fresh             forgets what was measured before
    python benchmarks/live/fidelity.py --simulate          simulates again from the records that are kept

Each configuration starts all services as processes, sends an open loop of real requests from a cold start, and records
them. Its simulation gets the same arrivals and SLOs, the policy, the learned law and the delays of that record, and a
predictor that starts as cold. docs/experiments/fidelity.md tells what came of it.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import pages  # noqa: E402
from common import RESULTS, save  # noqa: E402
from configurations import CONFIGURATIONS, CPU, Configuration, repository  # noqa: E402
from kept import Kept  # noqa: E402
from mixes import forget_measurements  # noqa: E402
from points import DRAIN_S, busy_s, send, summary  # noqa: E402
from sides import free_ports, serving, spent_s  # noqa: E402
from simulated import simulate  # noqa: E402

from cotenant.cli import load_result  # noqa: E402
from cotenant.cli.stack import Stack, StackOptions  # noqa: E402

FOLDER = HERE.parents[1] / "build" / "live"
OUTPUT = RESULTS / "fidelity.json"
SEEDS = 5  # of each simulation: other noise and delays, the same arrivals
START_S, SIMULATE_S = 8.0, 6.0  # about what starting, stopping and simulating take


async def live(configuration: Configuration, models: Path, folder: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Runs a configuration; leaves `log` and `load.json` in `folder`, and returns what became of the requests."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stack = Stack(
        StackOptions(
            models,
            folder / "run",
            devices=("cpu" if configuration.device == CPU else "emulated:0",),
            port=free_ports(1)[0],
            metrics=False,
            sockets=True,
            policy=configuration.policy,
            record=str(folder / "log"),
            extra={
                "scheduler": (f"--load-models={','.join(configuration.rates)}",),
                "executor": (f"--profile-cache={folder / 'profiles'}",),
            },
        )
    )
    async with stack:
        await serving(stack.url, configuration.rates)
        began_s, busy, own = time.monotonic(), busy_s(), spent_s(stack)
        await send(
            [
                *(f"--url={stack.url}", f"--samples={models}", f"--json={folder / 'load.json'}", "--no-table"),
                *(f"--seed={seed}", f"--duration-s={seconds:g}", "--warmup-s=0", f"--drain-s={DRAIN_S:g}"),
                *(f"--cv={configuration.cv:g}", "--explain=1"),
                *(
                    f"--model={loaded.model}:rate={configuration.rates[loaded.model]:.6g},slo_ms={loaded.slo_ms:g}"
                    for loaded in configuration.models
                ),
            ]
        )
        wall_s = time.monotonic() - began_s
        own = spent_s(stack) - own
        other = busy_s() - busy - own
    found = summary(load_result.read(folder / "load.json"))
    return {**found, "stack_cores": own / wall_s, "client_and_other_cores": other / wall_s}


def row(configuration: Configuration, seen: dict[str, Any], folder: Path, seconds: float, seed: int) -> dict[str, Any]:
    """A live run beside its simulations."""
    found = simulate(configuration, folder, seconds, range(1, SEEDS + 1))
    attainments = [one["attainment"] for one in found["runs"]]
    simulated = statistics.fmean(attainments)
    return {
        "configuration": configuration.name,
        "device": configuration.device,
        "policy": configuration.policy,
        "cv": configuration.cv,
        "rates": configuration.rates,
        "seconds": seconds,
        "seed": seed,
        "live": seen["attainment"],
        "simulated": simulated,
        "difference": simulated - seen["attainment"],
        "spread": statistics.stdev(attainments),
        "live_run": seen,
        **found,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown, with the mean absolute difference below."""
    text = [
        "| configuration | offered/s | in time, live | simulated | difference | late, refused: live | simulated |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        seen, runs = one["live_run"], one["runs"]
        late, refused = (statistics.fmean(run[key] for run in runs) for key in ("late", "refused"))
        text.append(
            f"| {one['configuration']} | {seen['offered'] / one['seconds']:.0f} | {one['live']:.1%} "
            f"| {one['simulated']:.1%} ± {one['spread']:.1%} | {one['difference']:+.3f} "
            f"| {seen['late']}, {seen['refused'] + seen['failed'] + seen['cancelled']} | {late:.0f}, {refused:.0f} |"
        )
    differences = [abs(one["difference"]) for one in rows]
    text.append(f"\nmean absolute difference {statistics.fmean(differences):.4f}, largest {max(differences):.4f}")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of a configuration's name")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load")
    parser.add_argument("--seed", type=int, default=1, help="of arrivals")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for models and records")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--simulate", action="store_true", help="only simulate again")
    arguments = parser.parse_args()
    kept_in = arguments.folder / "fidelity.json"
    if arguments.fresh:
        kept_in.unlink(missing_ok=True)
        forget_measurements(arguments.folder / "models", {name for one in CONFIGURATIONS for name in one.rates})
    kept = Kept.open(kept_in)
    chosen = [one for one in CONFIGURATIONS if arguments.only in one.name]
    if not chosen:
        parser.error(f"--only: no configuration has '{arguments.only}' in its name")
    new = [one for one in chosen if not kept.has(one.name)]
    live_s = 0 if arguments.simulate else len(new) * (arguments.seconds + START_S)
    print(f"about {(live_s + len(chosen) * SIMULATE_S) / 60:.0f} min for {len(chosen)} configurations", flush=True)
    for one in chosen:
        folder = arguments.folder / "records" / "".join(c if c.isalnum() else "-" for c in one.name)
        if one in new and not arguments.simulate:
            models = repository(one, arguments.folder)
            seen = asyncio.run(live(one, models, folder, arguments.seconds, arguments.seed))
            kept.prepare(one.name, {**seen, "seconds": arguments.seconds, "seed": arguments.seed})
        if seen := kept.prepared.get(one.name):
            kept.rows[one.name] = row(one, seen, folder, seen["seconds"], seen["seed"])
            print(json.dumps({k: kept.rows[one.name][k] for k in ("configuration", "live", "simulated")}), flush=True)
    rows = [kept.rows[one.name] for one in CONFIGURATIONS if one.name in kept.rows]
    if rows:
        print(table(rows))
        print(f"raw results in {save('fidelity', rows, path=arguments.output)}")
        if arguments.output == OUTPUT:
            pages.put(pages.DOCS / "fidelity.md", f"{pages.context()}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
