"""What learners do when something changes: a new model, another load, throttled clocks, a neighbour nobody tells of.

    python benchmarks/interference/drift.py [--folder FOLDER] [--seeds 1,2,3] [--changes clocks,load]

`changing.py` makes the runs (emulated, virtual time; logs stay in FOLDER and are not made again where they are). Each
learner goes through each log prequentially: it predicts every batch at its launch, and learns it when it has ended.
`recorded` are the forecasts that the scheduler acted on: the default learner's, as they were pushed ten times a second.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from changing import CHANGES, Change, ChangingSimulation

from cotenant.cli import evaluate_changes, evaluate_metrics, evaluate_reader
from cotenant.cli.evaluate_changes import Stretch
from cotenant.cli.evaluate_log import Recording
from cotenant.cli.evaluate_metrics import Floats
from cotenant.cli.evaluate_plots import Axis, Line, draw
from cotenant.cli.evaluate_run import Judged, Local, Recorded, run
from cotenant.scheduler.simulate import START_NS

HERE = Path(__file__).resolve().parent
RECORDED, OURS = "recorded", "fluid"
PREDICTORS = (OURS, RECORDED, "ignore", "clockwork", "static-rls", "ewma12-rls", "static-sgd")
LEVELS = (0.95, 0.99)
AFTER = (10, 20, 40, 80)  # batches of a class after a change
REQUESTS = 850  # of one model, expected in a phase
ENOUGH = 100  # batches of a class after a change, to tell where its error settles
BAR_BATCHES = 30
DRAWN = ("deployed", "clocks", "neighbour")


@dataclass(frozen=True)
class Case:
    """A run, read: its batches, where it changes, and what the law forecast of some batches."""

    change: Change
    seed: int
    recording: Recording
    borders: tuple[int, ...]  # number of the batch that comes first after each change
    actual: Floats
    floor: Floats  # relative error of the law's forecast; NaN where it was not asked
    blind: Floats  # the same of whoever does not know where the unreported neighbour is

    def stretches(self) -> list[Stretch]:
        """Batches of each class after each change; before the first too, as of change 0."""
        return evaluate_changes.stretches(self.recording.batches, dict.fromkeys((0, *self.borders), ""))


def case(change: Change, seed: int, folder: Path) -> Case:
    """The run, made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    log, told = folder / "log", folder / "foretold.json"
    fresh = not told.exists()
    if fresh:
        for part in folder.glob("log*"):
            part.unlink()
    simulation = ChangingSimulation(change, seed, REQUESTS, log if fresh else None)
    if fresh:
        told.write_text(json.dumps(simulation.simulate()), encoding="utf-8")
    foretold = json.loads(told.read_text(encoding="utf-8"))
    recording = evaluate_reader.read(log)
    batches = recording.batches
    instants = [START_NS + phase * simulation.phase_ns for phase in range(1, change.phases)]
    borders = tuple(sum(ran.started_ns < at_ns for ran in batches) for at_ns in instants)
    actual = np.array([float(ran.seen.duration_ns) for ran in batches])
    floor, blind = (
        evaluate_metrics.relative(np.array([float(foretold[key].get(str(ran.batch_id), 0)) for ran in batches]), actual)
        for key in ("floor", "blind")
    )
    return Case(change, seed, recording, borders, actual, floor, blind)


def judge(case: Case, name: str) -> Judged:
    """One predictor along a run."""
    recording = case.recording
    predictor = Recorded(LEVELS) if name == RECORDED else Local(name, recording.devices, LEVELS)
    return run(predictor, recording, LEVELS)


def told(case: Case, name: str, judged: Judged, best: dict[int, float]) -> list[dict[str, Any]]:
    """One row per phase of one predictor. `best` is the settled error of the best predictor, by stretch."""
    errors = evaluate_metrics.relative(judged.launch_ns, case.actual)
    explained = evaluate_metrics.relative(judged.explained_ns, case.actual)
    stretches = case.stretches()
    rows = []
    for phase, border in enumerate((0, *case.borders)):
        own = [(i, s) for i, s in enumerate(stretches) if s.change == border]
        row: dict[str, Any] = {"change": case.change.name, "seed": case.seed, "predictor": name, "phase": phase}
        row["launch_settled"] = median(errors[later(s)] for _, s in own)
        row["explained_settled"] = median(explained[later(s)] for _, s in own)
        row["floor"] = median(case.floor[later(s)] for _, s in own)
        row["blind"] = median(case.blind[later(s)] for _, s in own)
        for first, count in zip((0, *AFTER), AFTER, strict=False):
            row[f"launch_{first}_to_{count}"] = median(errors[s.batches[first:count]] for _, s in own)
        back = [evaluate_changes.recovery(s, errors, best[i]) for i, s in own if len(s.batches) >= ENOUGH]
        row["recovered"] = [(b.batch_class, b.samples) for b in back if b]
        levels = LEVELS[:1] if name == RECORDED else LEVELS  # the scheduler asked for one
        row["windows"] = [windows(case, judged, i, level, border) for i, level in enumerate(levels)]
        rows.append(row)
    return rows


def windows(case: Case, judged: Judged, index: int, level: float, border: int) -> dict[str, Any]:
    """Coverage in the windows of a phase: of all batches, and of each class's."""
    edges = sorted({0, *case.borders, len(case.actual)})
    numbers = np.arange(len(case.actual))
    here = (numbers >= border) & (numbers < edges[edges.index(border) + 1])
    all_of_it = evaluate_changes.windows(level, judged.bounds_ns[index], case.actual, edges, here)
    names = np.array([str(ran.batch_class) for ran in case.recording.batches])
    own = [
        evaluate_changes.windows(level, judged.bounds_ns[index], case.actual, edges, here & (names == name))
        for name in sorted(set(names))
    ]
    hits = case.actual[here] <= judged.bounds_ns[index][here]
    return {
        "level": level,
        "coverage": float(hits.mean()),
        "coverage_first_100": float(hits[:100].mean()),
        "windows": all_of_it.coverage,
        "class_windows": [share for one in own for share in one.coverage],
        "low": all_of_it.low,
        "high": all_of_it.high,
    }


def later(stretch: Stretch) -> list[int]:
    """Its later half."""
    return stretch.batches[len(stretch.batches) // 2 :]


def median(parts: Iterable[Floats]) -> float | None:
    """Of all values of all parts that are numbers; None if there are none."""
    values = np.concatenate([*parts, np.empty(0)])
    values = values[~np.isnan(values)]
    return round(float(np.median(values)), 5) if len(values) else None


def measure(case: Case) -> tuple[list[dict[str, Any]], dict[str, Floats]]:
    """All predictors along one run: rows, and their errors at launch."""
    judged = {name: judge(case, name) for name in PREDICTORS}
    errors = {name: evaluate_metrics.relative(j.launch_ns, case.actual) for name, j in judged.items()}
    settled = [[evaluate_changes.settled(s, e) for e in errors.values()] for s in case.stretches()]
    best = {i: min((v for v in values if not np.isnan(v)), default=float("nan")) for i, values in enumerate(settled)}
    return [row for name, j in judged.items() for row in told(case, name, j, best)], errors


# ---- telling


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """Tables: errors by change and phase, mean over seeds; recovery; windows."""
    lines = ["median relative error at launch, mean over seeds; batches are counted per class from the change\n"]
    titles = [f"{first} to {count}" for first, count in zip((0, *AFTER), AFTER, strict=False)]
    lines += [f"| change | phase | predictor | {' | '.join(titles)} | settled | floor | blind | explained, settled |"]
    lines += ["|---" * (8 + len(AFTER)) + "|"]
    columns = [f"launch_{title.replace(' ', '_')}" for title in titles] + ["launch_settled", "floor", "blind"]
    columns += ["explained_settled"]
    for key, own in grouped(rows, "change", "phase", "predictor").items():
        cells = [mean([row[column] for row in own]) for column in columns]
        lines.append(f"| {' | '.join(map(str, key))} | " + " | ".join(cells) + " |")
    lines += ["\nbatches per class until within 1.25x of the best predictor's settled error (classes of all seeds)\n"]
    lines += ["| change | phase | predictor | classes | median | worst | never | at most 30 |", "|---" * 8 + "|"]
    for key, own in grouped(rows, "change", "phase", "predictor").items():
        found = [samples for row in own for _, samples in row["recovered"]]
        back = [n for n in found if n is not None]
        shown = f"{np.median(back):.0f} | {max(back)}" if back else "- | -"
        soon = sum(n <= BAR_BATCHES for n in back)
        lines.append(f"| {' | '.join(map(str, key))} | {len(found)} | {shown} | {len(found) - len(back)} | {soon} |")
    return "\n".join([*lines, *told_windows(rows)])


def told_windows(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Shares of windows within the binomial interval."""
    lines = ["\nwindows of 500 batches, from 100 after each change, within the binomial 99 % interval\n"]
    lines += ["| predictor | change | level | of all batches | of each class | coverage | in the first 100 |"]
    lines += ["|---" * 7 + "|"]
    everything = [{**row, "change": "all"} for row in rows]
    for (name, change), own in grouped([*everything, *rows], "predictor", "change").items():
        for i, level in enumerate(LEVELS):
            found = [row["windows"][i] for row in own if i < len(row["windows"])]
            if not found:
                continue
            shares = [inside(found, kind) for kind in ("windows", "class_windows")]
            coverage = [mean([w[kind] for w in found]) for kind in ("coverage", "coverage_first_100")]
            lines.append(f"| {name} | {change} | {level:.0%} | " + " | ".join([*shares, *coverage]) + " |")
    return lines


def inside(found: Sequence[dict[str, Any]], kind: str) -> str:
    """How many windows are within the interval, and how many above it."""
    shares = [(share, w["low"], w["high"]) for w in found for share in w[kind]]
    held = sum(low <= share <= high for share, low, high in shares)
    return f"{held} of {len(shares)} ({sum(share > high for share, _, high in shares)} above)"


def grouped(rows: Sequence[dict[str, Any]], *keys: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Rows by the values of some columns."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[tuple(row[key] for key in keys)].append(row)
    return found


def mean(values: Sequence[float | None]) -> str:
    """In percent."""
    told = [v for v in values if v is not None]
    return f"{np.mean(told):.2%}" if told else "-"


def plot(case: Case, errors: dict[str, Floats]) -> str:
    """Rolling median error at launch of some predictors along a run."""
    lines = [
        Line(name, evaluate_metrics.rolling(errors[name], median=True, neighbours=61))
        for name in (OURS, RECORDED, "static-rls", "ignore")
    ]
    lines.append(Line("the law", evaluate_metrics.rolling(case.floor, median=True, neighbours=201)))
    highest = max(y for line in lines for _, y in line.points)
    title = f"{case.change.name}: error at launch, median of 61 batches; changes before batch "
    along = Axis("batches", 0, len(case.actual))
    across = Axis("relative error", 0.0, min(0.5, highest), percent=True)
    return draw(title + ", ".join(map(str, case.borders)), along, across, lines)


def main() -> None:
    import sys

    sys.path.insert(0, str(HERE.parent))
    from common import RESULTS, save

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/interference/drift"))
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--changes", default=",".join(change.name for change in CHANGES))
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for change in (change for change in CHANGES if change.name in arguments.changes.split(",")):
        for seed in map(int, arguments.seeds.split(",")):
            one = case(change, seed, arguments.folder / f"{change.name}-{seed}")
            more, errors = measure(one)
            rows += more
            if change.name in DRAWN and seed == 1:
                (RESULTS / f"interference-drift-{change.name}.svg").write_text(plot(one, errors), encoding="utf-8")
            print(f"{change.name} seed {seed}: done", file=sys.stderr)
    path = save("interference-drift", rows)
    print(summary(rows))
    print(f"\nraw results in {path}")


if __name__ == "__main__":
    main()
