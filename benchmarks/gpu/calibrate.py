"""Fits the emulated GPU to what solo.py, pairs.py and counters.py measured, and tells how far it is off.

    python benchmarks/gpu/calibrate.py [--out FOLDER] [--episodes N] [--seed N]

Works from the files in FOLDER alone, on any machine, in some minutes. Episodes of two batches or more, drawn by seed,
are parted into those that are fitted and those that are held out. It writes `calibration.json`: what was fitted, errors
on both parts against those of solo times alone and against repeats, and personalities in the format of the emulator's
own (executor/cotenant/executor/personalities.json).
"""

import argparse
import json
import math
import random
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from emulation import Device, Episode, Fit, KernelRow, Started, errors, fit, told
from journal import Row, rows
from script import RESULTS

from cotenant.executor import nsight
from cotenant.executor.emulated_gpu import BATCH_NOISE, LAWS

SOLO, PAIRS, COUNTERS, FILE = "solo.jsonl", "pairs.jsonl.gz", "ncu", "calibration.json"
KERNELS = 48  # of a personality at most; neighbours are merged


def read(folder: Path) -> tuple[Device, dict[str, list[list[Episode]]], dict[str, Any], float]:
    """What was measured: the device, episodes with their repeats by kind, facts of the run, and repeat noise alone.

    Raises ValueError that names a file which is missing.
    """
    for name in (SOLO, PAIRS):
        if not (folder / name).exists():
            raise ValueError(f"{folder / name} is not there: measure with {name.partition('.')[0]}.py first")
    found = list(rows(folder / PAIRS))
    run = next(row for row in found if row["type"] == "run")
    durations: dict[tuple[str, int], list[int]] = defaultdict(list)
    for row in rows(folder / SOLO):
        if row["type"] == "solo" and row["class"] in run["solo_ns"]:
            durations[_class(row["class"])] += row["durations_ns"]
    for row in found:
        if row["type"] == "batch" and "/solo/" in row["point"]:
            durations[_class(row["class"])].append(row["duration_ns"])
    solo: dict[str, dict[int, float]] = defaultdict(dict)
    for label, ns in run["solo_ns"].items():
        model, size = _class(label)
        solo[model][size] = statistics.median(durations.get((model, size), [ns]))
    sm_count = run.get("torch", {}).get("multiprocessors", 80)
    noise = statistics.median(_deviation(ns) for ns in durations.values())
    counted = {model: kernels for model in solo if (kernels := counted_of(folder / COUNTERS / model, sm_count))}
    return Device(sm_count, dict(solo), counted), _episodes(found), run, noise


def _class(label: str) -> tuple[str, int]:
    model, size, *_ = label.split(":")
    return model, int(size)


def _deviation(durations_ns: Sequence[int]) -> float:
    """Relative standard deviation, robustly: of logarithms, by the median of distances from the median."""
    logs = [math.log(ns) for ns in durations_ns]
    middle = statistics.median(logs)
    return 1.4826 * statistics.median(abs(value - middle) for value in logs)


def _episodes(found: Iterable[Row]) -> dict[str, list[list[Episode]]]:
    """Episodes of several batches on the whole device, each as its repeats, by kind."""
    batches: dict[tuple[str, int], dict[int, list[Started]]] = defaultdict(lambda: defaultdict(list))
    for row in found:
        kind = row["point"].split("/")[1] if row["type"] == "batch" else ""
        if kind in ("pair", "triple", "quadruple"):
            started = Started(*_class(row["class"]), row["start_ns"], row["duration_ns"])
            batches[row["point"], row["episode"]][row["repeat"]].append(started)
    grouped: dict[str, list[list[Episode]]] = defaultdict(list)
    for (point, _), repeats in batches.items():
        told = [tuple(sorted(one, key=lambda batch: batch.start_ns)) for one in repeats.values()]
        grouped[point.split("/")[1]].append(told)
    return dict(grouped)


def counted_of(folder: Path, sm_count: int) -> list[KernelRow]:
    """A model's kernels at its largest counted batch size, as rows of a personality; none if nothing was counted."""
    files = sorted(folder.glob("ncu-b*.csv"), key=lambda path: int(path.stem.split("-")[1][1:]))
    if not files:
        return []
    with files[-1].open(encoding="utf-8", newline="") as lines:
        pieces = nsight.kernel_means(lines).kernels
    merged = max(1, math.ceil(len(pieces) / KERNELS))
    found = []
    for i in range(0, len(pieces), merged):
        part = pieces[i : i + merged]
        ns = sum(piece.duration_ns for piece in part)
        sm, _, dram = (sum(piece.shares[k] * piece.duration_ns for piece in part) / ns for k in range(3))
        # A kernel is compute-bound or memory-bound, and fills as much of the device as its scarcer resource tells.
        busy, compute = (sm / 0.95, 1.0) if sm / 0.95 >= dram / 0.90 else (dram / 0.90, 0.0)
        found.append((ns, max(1.0, min(1.0, busy) * sm_count), compute, 1.0 - compute))
    return found


def report(device: Device, grouped: dict[str, list[list[Episode]]], fitted: Fit, held: set[int]) -> dict[str, Any]:
    """Errors by kind, of episodes that were fitted and held out, against solo times and against repeats."""
    found: dict[str, Any] = {}
    number = 0
    for kind, groups in grouped.items():
        parts: dict[str, list[Episode]] = {"fitted": [], "held_out": []}
        repeated = []
        for repeats in groups:
            parts["held_out" if number in held else "fitted"].append(repeats[0])
            number += 1
            for again in repeats[1:]:
                if [b[:2] for b in again] == [b[:2] for b in repeats[0]]:
                    pairs = zip(again, repeats[0], strict=True)
                    repeated += [one.duration_ns / first.duration_ns - 1.0 for one, first in pairs]
        found[kind] = {part: told(errors(fitted, own)) for part, own in parts.items() if own}
        alone = [device.solo_ns[b.model][b.batch_size] / b.duration_ns - 1.0 for e in groups for b in e[0]]
        found[kind]["solo_times_alone"] = told(alone)
        if repeated:
            found[kind]["repeats"] = told(repeated)
    return found


def calibrate(folder: Path, *, episodes: int, seed: int, laws: Sequence[str] = LAWS) -> dict[str, Any]:
    """Reads, fits, and returns what is written. Raises ValueError that names what is missing."""
    device, grouped, run, noise = read(folder)
    drawn = random.Random(seed)
    grouped = {
        kind: drawn.sample(groups, min(len(groups), max(1, episodes * len(groups) // _count(grouped))))
        for kind, groups in grouped.items()
    }
    flat = [repeats[0] for groups in grouped.values() for repeats in groups]
    held = set(drawn.sample(range(len(flat)), len(flat) // 3))
    fits = fit(device, [episode for i, episode in enumerate(flat) if i not in held], laws=laws)
    best = fits[0]
    batches = sum(len(episode) for i, episode in enumerate(flat) if i not in held)
    models = {
        name: {"batch_size": one.batch_size, "kernels": [[round(x, 4) for x in row] for row in one.rows]}
        for name, one in best.personalities().items()
    }
    return {
        "measured": {"date": run["date"], "device": run["device"], "rehearsal": run["rehearsal"]},
        "law": best.law,
        "loss_per_batch": {one.law: one.loss / batches for one in fits},
        "noise": {"measured": noise, "emulator": BATCH_NOISE},
        "errors": report(device, grouped, best, held),
        "shapes": {name: {"sms": s.sms, "memory": s.memory} for name, s in best.shapes.items()},
        "kernels_counted": sorted(device.counted),
        "personalities": {"sm_count": device.sm_count, "models": models},
    }


def _count(grouped: dict[str, list[list[Episode]]]) -> int:
    if total := sum(map(len, grouped.values())):
        return total
    raise ValueError("there is no episode of several batches on the whole device")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=RESULTS, help="folder of results (default: results/ beside the script)")
    p.add_argument("--episodes", type=int, default=300, help="to fit and to judge by (default: 300)")
    p.add_argument("--seed", type=int, default=0, help="of the choice of episodes (default: 0)")
    arguments = p.parse_args(argv)
    try:
        found = calibrate(arguments.out, episodes=arguments.episodes, seed=arguments.seed)
    except ValueError as error:
        raise SystemExit(f"calibrate: {error}") from error
    (arguments.out / FILE).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"law: {found['law']}; noise of repeats alone {found['noise']['measured']:.2%}")
    for kind, parts in found["errors"].items():
        said = "; ".join(f"{part} {one['median']:.1%} (p95 {one['p95']:.1%})" for part, one in parts.items())
        print(f"{kind}: {said}")


if __name__ == "__main__":
    main()
