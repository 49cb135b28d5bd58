"""The seed paper's Table 1 and Figure 5, with more tenants: learners on loads and models that they were not fitted on.

    python benchmarks/interference/table1.py emulated [--folder FOLDER]
    python benchmarks/interference/table1.py cpu|cuda --repository models [--folder FOLDER]

Every learner is fitted on (or learns) the Training Set's logs; then each Test Set's logs are played to it as it was
then: it predicts every batch at its launch, explains it when it has ended, and learns it if it learns at all. What is
left open by the paper is fixed in workloads.toml. Logs stay in FOLDER and are not made again where they are.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
from recordings import SETS, ModelSet, serve, sets, settings, simulate

from cotenant.cli.evaluate_protocol import TRAIN_TEST, Plan, evaluate
from cotenant.cli.evaluate_result import EvaluationResult

HERE = Path(__file__).resolve().parent
WORKLOADS = HERE / "workloads.toml"
PAPER = [f"{kind}-{how}" for kind in ("static", "ewma13", "ewma12", "ewma23") for how in ("offline", "sgd", "rls")]
PREDICTORS = ["ignore", *PAPER, "gpulets", "clockwork", "fluid"]
LEVELS = (0.95, 0.99)


def logs_of(kind: str, chosen: ModelSet, folder: Path, **how: Any) -> list[Path]:
    """The set's logs, made if they are not there."""
    wanted = [folder / f"load{i}" for i in range(len(chosen.loads))]
    if all(any(path.parent.glob(path.name + "*")) for path in wanted) and (folder / "complete").exists():
        return wanted
    folder.mkdir(parents=True, exist_ok=True)
    for part in folder.glob("load*"):  # of a run that was interrupted, which would be continued
        if part.is_dir():
            rmtree(part)
        else:
            part.unlink()
    made = simulate(chosen, folder, **how) if kind == "emulated" else serve(chosen, folder, **how)
    (folder / "complete").touch()
    return made


def measure(kind: str, folder: Path, percentile: float, **how: Any) -> list[dict[str, Any]]:
    """One case (a law, a concurrency, a seed): all learners on all sets; `percentile` is that of solo times."""
    case = {key: value for key, value in how.items() if key in ("law", "concurrency", "seed")}
    chosen = sets(WORKLOADS, kind)
    named = folder / "-".join(str(value) for value in case.values())
    logs = {name: logs_of(kind, chosen[name], named / name, **how) for name in SETS}
    rows = judged(logs, percentile)
    return [{"device": kind, **case, **row, "foretold_median": foretold(named / row["set"])} for row in rows]


def judged(logs: Mapping[str, Sequence[Path]], percentile: float) -> list[dict[str, Any]]:
    """All learners on the logs of all sets: a row for each."""
    rows = []
    for name in SETS:
        train = tuple(logs["train"])
        plan = Plan(tuple(logs[name]), tuple(PREDICTORS), TRAIN_TEST, train, levels=LEVELS, solo_percentile=percentile)
        rows += [{"set": name, **row} for row in told(evaluate(plan))]
    return rows


def foretold(folder: Path) -> float | None:
    """Median relative error at launch of a forecaster that knows the emulated device's law; None for a real device."""
    pairs = [pair for path in sorted(folder.glob("foretold*.json")) for pair in json.loads(path.read_text())]
    return float(np.median([abs(said / actual - 1.0) for said, actual in pairs])) if pairs else None


def told(result: EvaluationResult) -> list[dict[str, Any]]:
    """What is kept of an evaluation: one row per predictor."""
    rows = []
    noise = result.repeat_noise["beside"]
    for one in result.predictors:
        row: dict[str, Any] = {"predictor": one.name, "batches": result.batches}
        for kind, errors in (("explained", one.all.explained), ("launch", one.all.launch)):
            if errors is not None:
                row |= {
                    f"{kind}_{key}": getattr(errors, key) for key in ("mse_slowdown", "median", "p95", "p99", "bias")
                }
        row["bounds"] = [
            {"level": b.level, "coverage": b.coverage, "width": b.width, "pinball": b.pinball} for b in one.all.bounds
        ]
        row["repeat_noise_median"] = noise.median if noise else None
        row["update_ratio"] = one.cost.update_ratio if one.cost else None
        row["predict_ratio"] = one.cost.predict_ratio if one.cost else None
        rows.append(row)
    return rows


def summary(rows: list[dict[str, Any]]) -> str:
    """Mean over seeds with the half width of its 95 % confidence interval, one table per law and concurrency."""
    cases = dict.fromkeys((row.get("law", ""), row["concurrency"]) for row in rows)
    lines: list[str] = []
    for law, concurrency in cases:
        of_case = [r for r in rows if (r.get("law", ""), r["concurrency"]) == (law, concurrency)]
        lines += [
            f"\n{law + ', ' if law else ''}at most {concurrency} batches at once: MSE of the slowdown, explained\n"
        ]
        lines += ["| predictor | " + " | ".join(SETS) + " | median error, launch (test3) |", "|---" * 6 + "|"]
        for name in PREDICTORS:
            own = [r for r in of_case if r["predictor"] == name]
            cells = [interval([r["explained_mse_slowdown"] for r in own if r["set"] == chosen]) for chosen in SETS]
            launch = np.mean([r["launch_median"] for r in own if r["set"] == "test3"])
            lines.append(f"| {name} | " + " | ".join(cells) + f" | {launch:.1%} |")
        lines.append("| **fluid / best of the paper's** | " + " | ".join(ratios(of_case)) + " | |")
        if known := [r["foretold_median"] for r in of_case if r["set"] == "test3" and r["foretold_median"] is not None]:
            lines.append(f"| knows the law, not the future | | | | | {np.mean(known):.1%} |")
    return "\n".join(lines)


def interval(values: list[float]) -> str:
    """Mean and half width by Student's t."""
    t = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}.get(len(values), 0.0)
    half = t * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{np.mean(values):.4f} ± {half:.4f}"


def ratios(rows: list[dict[str, Any]]) -> list[str]:
    """By set: our mean MSE over that of the best of the paper's methods."""
    found = []
    for chosen in SETS:
        mean = {
            name: float(
                np.mean([r["explained_mse_slowdown"] for r in rows if (r["set"], r["predictor"]) == (chosen, name)])
            )
            for name in PREDICTORS
        }
        found.append(f"**{mean['fluid'] / min(mean[name] for name in PAPER):.2f}**")
    return found


def main() -> None:
    sys.path.insert(0, str(HERE.parent))
    from common import save

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("device", choices=["emulated", "cpu", "cuda"])
    parser.add_argument("--folder", type=Path, default=Path("build/interference"))
    parser.add_argument("--repository", type=Path, default=Path("models"))
    parser.add_argument("--concurrency", help="only these, comma-separated")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time")
    parser.add_argument("--seeds", help="only these, comma-separated")
    parser.add_argument("--laws", help="only these, comma-separated")
    parser.add_argument(
        "--percentile", type=float, default=50.0, help="of solo times, that slowdowns are over: 50 or 95"
    )
    arguments = parser.parse_args()
    fixed = settings(WORKLOADS, arguments.device)
    counts = [int(n) for n in re.findall(r"\d+", arguments.concurrency or "")] or fixed["concurrency"]
    seeds = [int(n) for n in re.findall(r"\d+", arguments.seeds or "")] or fixed["seeds"]
    cases: list[dict[str, Any]] = []
    laws = arguments.laws.split(",") if arguments.laws else fixed.get("laws", [""])
    for law, concurrency, seed in product(laws, counts, seeds):
        how: dict[str, Any] = {"concurrency": concurrency, "seed": seed, "seconds": fixed["seconds"]}
        if arguments.device == "emulated":
            how |= {"law": law, "max_batch_size": fixed["max_batch_size"]}
        else:
            how |= {"repository": arguments.repository, "port": 18751}
            how |= {"device": "cuda:0"} if arguments.device == "cuda" else {}
        cases.append(how)
    rows: list[dict[str, Any]] = []
    jobs = arguments.jobs if arguments.device == "emulated" else 1  # real batches must have the machine to themselves
    with ProcessPoolExecutor(jobs) as pool:
        folder = arguments.folder / arguments.device
        for done in as_completed(
            [pool.submit(measure, arguments.device, folder, arguments.percentile, **how) for how in cases]
        ):
            rows += done.result()
            print(f"{len(rows) // len(PREDICTORS) // len(SETS)} of {len(cases)} done", file=sys.stderr)
    rows.sort(key=lambda row: (row.get("law", ""), row["concurrency"], row["seed"], SETS.index(row["set"])))
    over = "" if arguments.percentile == 50.0 else f"-over-p{arguments.percentile:.0f}"
    path = save(f"interference-table1-{arguments.device}{over}", rows)
    print(summary(rows))
    print(f"\nraw results in {path}")


if __name__ == "__main__":
    main()
