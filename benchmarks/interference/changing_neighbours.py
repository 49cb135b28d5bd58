"""Two jobs on one GV100 whose neighbour comes and goes: is it how long each stretch lasts that counts?

    python benchmarks/interference/changing_neighbours.py DATA/xsched

The data set (XSched, OSDI 2025) tells when each iteration of a job ended and how long it took, alone and natively
shared: `cotrain`, two trainings without pause; `scifin`, a computation without pause beside one that runs every 200 ms.
Each iteration is a batch; the iterations of the other job, cut at its beginning and end, are its slices. Between two of
its iterations a job is taken to be off the GPU. Solo times are the medians of the runs alone. Nothing tells resources.
The first iteration of each run sets up: it stands in the slices of the other job, and is not judged. Learners go
through the shared run prequentially.
"""

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from cotenant.cli import evaluate_log, evaluate_metrics
from cotenant.cli.evaluate_log import Ended, Launched, Ran, Recording, Told
from cotenant.cli.evaluate_metrics import Floats
from cotenant.cli.evaluate_plots import Axis, Line, draw
from cotenant.cli.evaluate_run import Judged, Local, run
from cotenant.predictor.observations import Observation, Profile, Slice
from cotenant.runtime.estimates import BatchClass
from cotenant.v1 import executor_pb2, types_pb2

HERE = Path(__file__).resolve().parent
COMMAND = "python benchmarks/interference/changing_neighbours.py DATA/xsched"  # without where the data lies here
DEVICE = types_pb2.Device(device_id="gv100", kind="cuda", name="GV100", resources=("sm", "l2", "dram"))
PREDICTORS = ("fluid", "static-rls", "ewma13-rls", "ewma12-rls", "ewma23-rls", "static-sgd", "ignore", "clockwork")
DRAWN = ("fluid", "static-rls", "ewma12-rls", "ignore")
LEVELS = (0.95, 0.99)
# Jobs of each pair: files of the shared run and of the run alone. Both trainings are of one kind, measured alone once.
PAIRS = {
    "cotrain": {"o": ("cotrain_base_ojob", "cotrain_sa"), "p": ("cotrain_base_pjob", "cotrain_sa")},
    "scifin": {"o": ("scifin_base_ojob", "scifin_sa_ojob"), "p": ("scifin_base_pjob", "scifin_sa_pjob")},
}
BATCH, LAST_BATCH = 512, 336  # items of a training's iteration, and of the last of an epoch of 50,000
MIXED = (0.05, 0.95)  # shares of its life beside the other between which an iteration met a change


@dataclass(frozen=True)
class Iteration:
    """An instant of the day and a duration, in ns."""

    ended_ns: int
    duration_ns: int
    items: int  # batch size of a training; 1 of a computation

    @property
    def started_ns(self) -> int:
        """When it began."""
        return self.ended_ns - self.duration_ns


def read(path: Path) -> list[Iteration]:
    """Iterations of a file in order; sums of epochs are left out. Raises ValueError if there are none."""
    found: list[Iteration] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("{"):
            continue
        row = json.loads(line.rstrip(","))
        if "time (s)" in row:  # of an epoch
            continue
        told = re.fullmatch(r"(\d+):(\d+):(\d+)\.(\d+)", row["time"])
        if told is None:
            raise ValueError(f"{path}: '{row['time']}' is no time of day")
        hours, minutes, seconds, micros = map(int, told.groups())  # microseconds are not padded
        ended_ns = ((hours * 60 + minutes) * 60 + seconds) * 10**9 + micros * 1000
        took_ns = round(float(row.get("time (ms)", row.get("latency (ms)"))) * 1e6)
        if found:
            if ended_ns < found[-1].ended_ns:  # the second was read before it changed, its fraction after
                ended_ns += 10**9
            took_ns = min(took_ns, ended_ns - found[-1].ended_ns)  # told a little after it ended
        found.append(Iteration(ended_ns, took_ns, _items(row)))
    if len(found) < 2:
        raise ValueError(f"{path}: no iterations in it")
    return found


def _items(row: dict[str, Any]) -> int:
    if "batch" not in row:
        return 1
    number, last = row["batch"].split("/")
    return LAST_BATCH if number == last else BATCH


def slices(own: Iteration, others: Sequence[Iteration], job: str) -> tuple[Slice, ...]:
    """When the other job ran beside it; `others` are its iterations that overlap this one, in order."""
    parts: list[Slice] = []
    at_ns = own.started_ns
    for one in others:
        begin_ns, end_ns = max(at_ns, one.started_ns), min(own.ended_ns, one.ended_ns)
        parts += [Slice(begin_ns - at_ns, ()), Slice(end_ns - begin_ns, (BatchClass(job, "1", one.items),))]
        at_ns = end_ns
    parts.append(Slice(own.ended_ns - at_ns, ()))
    return tuple(part for part in parts if part.duration_ns > 0)


def solo_ns(folder: Path, pair: str) -> dict[BatchClass, list[int]]:
    """Durations of iterations alone, by class."""
    found: dict[BatchClass, list[int]] = defaultdict(list)
    for job, (_, solo) in PAIRS[pair].items():
        for one in read(folder / f"{solo}_gv100.json")[1:]:
            found[BatchClass(f"{pair}-{job}", "1", one.items)].append(one.duration_ns)
    return found


def recording(folder: Path, pair: str) -> Recording:
    """The shared run of a pair, as if it were a log."""
    shared = {f"{pair}-{job}": read(folder / f"{run}_gv100.json") for job, (run, _) in PAIRS[pair].items()}
    work_ns = {known: round(median(took)) for known, took in solo_ns(folder, pair).items()}
    found = Recording(pair, {DEVICE.device_id: DEVICE})
    first_ns = min(each[0].started_ns for each in shared.values())
    for known, ns in work_ns.items():
        found.steps.append(Told(DEVICE.device_id, first_ns - 1, Profile(known, ns, ()), executor_pb2.ClassProfiled()))
    for job, own in shared.items():
        (other,) = (name for name in shared if name != job)
        for one, overlapping in islice(zip(own, overlaps(own, shared[other]), strict=True), 1, None):
            known = BatchClass(job, "1", one.items)
            seen = Observation(known, one.duration_ns, slices(one, overlapping, other))
            finished = executor_pb2.BatchFinished()
            found.batches.append(Ran(DEVICE.device_id, 0, one.started_ns, seen, finished, 0, 0.0, work_ns[known]))
    found.batches.sort(key=lambda ran: ran.started_ns)
    evaluate_log.find_running(found.batches)
    for ran in found.batches:
        found.steps += [Launched(ran.started_ns, ran), Ended(ran.ended_ns, ran)]
    found.steps.sort(key=evaluate_log.order)
    return found


def overlaps(own: Sequence[Iteration], others: Sequence[Iteration]) -> Iterator[Sequence[Iteration]]:
    """Of each of a job's iterations, those of the other job that overlap it."""
    first = 0
    for one in own:
        while first < len(others) and others[first].ended_ns <= one.started_ns:
            first += 1
        last = first
        while last < len(others) and others[last].started_ns < one.ended_ns:
            last += 1
        yield others[first:last]


def beside(ran: Ran) -> float:
    """Share of its life that it was not alone."""
    return sum(part.duration_ns for part in ran.seen.slices if part.co_runners) / ran.seen.duration_ns


def told(pair: str, found: Recording, name: str, judged: Judged) -> list[dict[str, Any]]:
    """Errors of one predictor: by job, and by whether the neighbour changed."""
    actual = np.array([float(ran.seen.duration_ns) for ran in found.batches])
    work = np.array([ran.work_ns for ran in found.batches])
    share = np.array([beside(ran) for ran in found.batches])
    jobs = np.array([ran.batch_class.model for ran in found.batches])
    kinds = {
        "all": np.ones(len(actual), dtype=bool),
        "neighbour changed": (share > MIXED[0]) & (share < MIXED[1]),
        "beside all along": share >= MIXED[1],
        "alone": share <= MIXED[0],
    }
    rows = []
    for job in sorted(set(jobs.tolist())):
        for kind, kept in kinds.items():
            chosen = kept & (jobs == job)
            row: dict[str, Any] = {"pair": pair, "job": job, "kind": kind, "predictor": name}
            row |= {"batches": int(chosen.sum()), "share_beside": _mean(share[chosen])}
            row["slowdown"] = _mean((actual / work)[chosen])
            for what, predicted in (("explained", judged.explained_ns), ("launch", judged.launch_ns)):
                errors = evaluate_metrics.errors(predicted[chosen], actual[chosen], work[chosen])
                if errors:
                    row |= {f"{what}_{key}": getattr(errors, key) for key in ("mse_slowdown", "mape", "median", "p95")}
            for i, level in enumerate(LEVELS):
                row[f"coverage_{level:g}"] = _mean((actual <= judged.bounds_ns[i])[chosen])
            rows.append(row)
    return rows


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None


def noise(folder: Path, pair: str) -> dict[str, float]:
    """Median deviation of solo iterations from the median of their class: what nobody can foretell."""
    return {
        str(known): median(abs(ns / median(took) - 1.0) for ns in took) for known, took in solo_ns(folder, pair).items()
    }


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """One table per job."""
    lines: list[str] = []
    for job in dict.fromkeys(row["job"] for row in rows):
        own = [row for row in rows if row["job"] == job and row["batches"]]
        kinds = {row["kind"]: row for row in own}
        counted = "; ".join(f"{kind}: {row['batches']} x {row['slowdown']:.2f}" for kind, row in kinds.items())
        lines += [f"\n{job}, iterations x mean slowdown: {counted}", "median (p95) of the relative error\n"]
        heads = [f"{kind}, {what}" for kind in kinds for what in ("explained", "launch")]
        lines += [f"| | {' | '.join(heads)} | MSE of slowdown, explained |", "|---" * (2 + len(heads)) + "|"]
        for name in dict.fromkeys(row["predictor"] for row in own):
            by_kind = {row["kind"]: row for row in own if row["predictor"] == name}
            cells = [
                f"{by_kind[kind][f'{what}_median']:.1%} ({by_kind[kind][f'{what}_p95']:.0%})"
                for kind in kinds
                for what in ("explained", "launch")
            ]
            lines.append(f"| {name} | {' | '.join(cells)} | {by_kind['all']['explained_mse_slowdown']:.4f} |")
    return "\n".join(lines)


def plot(found: Recording, judged: dict[str, Judged]) -> str:
    """Error CDF of what is explained."""
    actual = np.array([float(ran.seen.duration_ns) for ran in found.batches])
    lines = []
    for name in DRAWN:
        errors = evaluate_metrics.relative(judged[name].explained_ns, actual)
        shares = np.percentile(errors[~np.isnan(errors)], range(101))
        lines.append(Line(name, [(float(error), i / 100) for i, error in enumerate(shares)]))
    across = Axis("relative error of the duration", 0.001, 2.0, log=True, percent=True)
    return draw(f"{found.name}: explained", across, Axis("share of iterations", 0.0, 1.0, percent=True), lines)


def main() -> None:
    import sys

    sys.path.insert(0, str(HERE.parent))
    from common import RESULTS, save

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder with the files *_gv100.json")
    folder = parser.parse_args().data
    rows: list[dict[str, Any]] = []
    noises: dict[str, float] = {}
    for pair in PAIRS:
        found = recording(folder, pair)
        judged = {name: run(Local(name, found.devices, LEVELS), found, LEVELS) for name in PREDICTORS}
        for name, one in judged.items():
            rows += told(pair, found, name, one)
        noises |= noise(folder, pair)
        (RESULTS / f"interference-changing-neighbours-{pair}.svg").write_text(plot(found, judged), encoding="utf-8")
    path = save("interference-changing-neighbours", rows, command=COMMAND, solo_repeat_noise=noises)
    print("repeat noise alone: " + ", ".join(f"{job} {value:.1%}" for job, value in noises.items()))
    print(summary(rows))
    print(f"\nraw results in {path}")


if __name__ == "__main__":
    main()
