"""Sets of three and four batches, explained by learners that only ever saw two at once.

    python benchmarks/interference/larger_sets.py [--folder FOLDER] [--laws fair,leftover] [--seeds 1,2,3] [--jobs 1]

A learner learns logs with at most two batches at once and is then frozen. It explains batches of other logs, with at
most two, three and four at once, told apart by how many co-runners they had: the mean over their life, rounded, and
the largest number. The pair error is that of the logs with at most two. What is left of it where sets are larger is
both the way from two to more and that more is harder; so ours stands there a second time, taught by logs of the same
sizes. Logs are table1.py's (workloads.toml), stay in FOLDER and are not made again where they are.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from frozen import batches_of, durations, emulated, explained, make, taught
from named_axis import named
from recordings import settings
from table1 import WORKLOADS

from cotenant.cli import evaluate_metrics
from cotenant.cli.evaluate_log import Ran, Recording
from cotenant.cli.evaluate_plots import Axis, Line, draw

OURS, SAME_SIZES = "fluid", "fluid, of the same sizes"  # what it was taught by
PREDICTORS = (OURS, "ewma12-rls", "static-rls", "gpulets", "ignore")
PAIRS = 2
LARGER = (3, 4)
BAR = 1.5  # times the pair error
METRICS = {"median": "median relative error", "mape": "mean relative error", "mse_slowdown": "MSE of the slowdown"}
Key = tuple[int, int]  # most batches at once in the log, co-runners of the batch
COLUMNS: tuple[Key, ...] = ((2, 1), (3, 2), (4, 2), (4, 3))  # pairs first
BY_SIZE: tuple[Key, ...] = ((2, 1), (3, 2), (4, 3))  # where each number of co-runners is the most there can be


@dataclass(frozen=True)
class Training:
    """What is learned and what is explained: sets in workloads.toml."""

    name: str
    learned: tuple[str, ...]
    judged: str
    next_seed: bool  # whether what is explained is of another seed


TRAININGS = (
    Training("three models", ("train",), "test1", next_seed=False),  # the same models under other loads
    Training("seven models", ("train", "test2", "test3"), "test3", next_seed=True),
)


def mean_co_runners(ran: Ran) -> int:
    """Over the batch's life, rounded."""
    return round(sum(part.duration_ns * len(part.co_runners) for part in ran.seen.slices) / ran.seen.duration_ns)


def most_co_runners(ran: Ran) -> int:
    """At any instant of the batch's life."""
    return max(len(part.co_runners) for part in ran.seen.slices)


COUNTED: dict[str, Callable[[Ran], int]] = {"mean": mean_co_runners, "most": most_co_runners}


def told(predicted: evaluate_metrics.Floats, batches: Sequence[Ran]) -> Iterator[dict[str, Any]]:
    """One row of errors for each number of co-runners, counted in both ways; batches that met nobody are left out."""
    actual, work = durations(batches)
    for counted, count in COUNTED.items():
        numbers = np.array([count(ran) for ran in batches])
        for co_runners in sorted(set(numbers.tolist()) - {0}):
            kept = numbers == co_runners
            errors = evaluate_metrics.errors(predicted[kept], actual[kept], work[kept])
            if errors:
                yield {"counted": counted, "co_runners": co_runners, **msgspec.structs.asdict(errors)}


def judged_seed(training: Training, seed: int) -> int:
    """The seed of what is explained; after the last comes the first."""
    seeds: list[int] = settings(WORKLOADS, "emulated")["seeds"]
    return seeds[(seeds.index(seed) + training.next_seed) % len(seeds)]


def sets_needed(seed: int) -> Iterator[tuple[int, int, str]]:
    """Concurrency, seed and name of all that a case reads."""
    for training, concurrency in product(TRAININGS, (PAIRS, *LARGER)):
        yield from ((concurrency, seed, name) for name in training.learned)
        yield concurrency, judged_seed(training, seed), training.judged


def measure(folder: Path, law: str, seed: int) -> list[dict[str, Any]]:
    """One case: all trainings and learners."""

    def logs(concurrency: int, own: int, *names: str) -> list[Recording]:
        return [recording for name in names for recording in emulated(folder, law, concurrency, own, name)]

    rows: list[dict[str, Any]] = []
    for training in TRAININGS:
        learned = logs(PAIRS, seed, *training.learned)
        judged = {n: logs(n, judged_seed(training, seed), training.judged) for n in (PAIRS, *LARGER)}
        cases = [(name, learned, judged) for name in PREDICTORS]
        cases += [(SAME_SIZES, logs(n, seed, *training.learned), {n: judged[n]}) for n in LARGER]
        for name, teaching, asked in cases:
            local = taught(OURS if name == SAME_SIZES else name, teaching)
            case: dict[str, Any] = {"law": law, "seed": seed, "training": training.name, "predictor": name}
            for concurrency, recordings in asked.items():
                batches = batches_of(recordings)
                found = told(explained(local, recordings).explained_ns, batches)
                rows += [{**case, "concurrency": concurrency, **row} for row in found]
    return rows


# ---- telling


def means(rows: Sequence[dict[str, Any]], metric: str, counted: str) -> dict[tuple[str, str, str], dict[Key, float]]:
    """Mean over seeds, by law, training and predictor; then by column."""
    found: dict[tuple[str, str, str], dict[Key, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["counted"] == counted:
            key = row["concurrency"], row["co_runners"]
            found[row["law"], row["training"], row["predictor"]][key].append(row[metric])
    return {case: {key: float(np.mean(v)) for key, v in columns.items()} for case, columns in found.items()}


def summary(rows: Sequence[dict[str, Any]], counted: str) -> str:
    """Tables, one per law and training: median and mean error, in brackets over the same predictor's pair error."""
    medians, averages, counts = (means(rows, metric, counted) for metric in ("median", "mape", "batches"))
    lines: list[str] = []
    for law, training in dict.fromkeys(case[:2] for case in medians):
        batches = counts[law, training, OURS]
        heads = [f"{k} beside, at most {n} ({batches.get((n, k), 0):.0f})" for n, k in COLUMNS]
        lines += [f"\n### {law}, {training}\n", f"| predictor | {' | '.join(heads)} |"]
        lines += ["|---" * (1 + len(COLUMNS)) + "|"]
        for name in (*PREDICTORS, SAME_SIZES):
            told, pairs = (law, training, name), (law, training, OURS if name == SAME_SIZES else name)
            cells = [
                cell(
                    [found.get(told, {}).get(key) for found in (medians, averages)],
                    [found[pairs][COLUMNS[0]] for found in (medians, averages)],
                )
                for key in COLUMNS
            ]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(errors: Sequence[float | None], pairs: Sequence[float]) -> str:
    """Errors, and how many times the pair errors they are."""
    found = [error for error in errors if error is not None]
    shown = ", ".join(f"{error:.1%}" for error in found)
    if not found or found == list(pairs):
        return shown or "-"
    return f"{shown} ({', '.join(f'{error / pair:.1f}x' for error, pair in zip(found, pairs, strict=True))})"


def verdicts(rows: Sequence[dict[str, Any]], counted: str) -> str:
    """Whether ours meets the bar, for the sets that pairs do not show."""
    lines = []
    for metric, title in METRICS.items():
        for (law, training, name), own in means(rows, metric, counted).items():
            if name == OURS:
                ratios = {key: own[key] / own[COLUMNS[0]] for key in COLUMNS if key[1] > 1 and key in own}
                worst = max(ratios, key=ratios.__getitem__)
                lines.append(
                    f"- {law}, {training}, {title}: {'met' if ratios[worst] <= BAR else 'missed'}, "
                    f"at worst {ratios[worst]:.2f}x ({worst[1]} beside, at most {worst[0]})"
                )
    return "\n".join(lines)


def plot(rows: Sequence[dict[str, Any]], law: str, training: str) -> str:
    """Median error over the number of co-runners."""
    found = means(rows, "median", "mean")
    lines = []
    for name in (*PREDICTORS, SAME_SIZES):
        own = found.get((law, training, name), {})
        lines.append(Line(name, [(i, own[key]) for i, key in enumerate(BY_SIZE) if key in own]))
    values = [y for line in lines for _, y in line.points]
    across = Axis("median relative error", min(values) * 0.8, max(values) * 1.2, log=True, percent=True)
    title = f"{law}, {training}: explained after learning pairs alone"
    along = named("co-runners, mean over a batch's life", [str(key[1]) for key in BY_SIZE])
    return draw(title, along, across, lines)


def main() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from common import RESULTS, save

    fixed = settings(WORKLOADS, "emulated")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/interference"))
    parser.add_argument("--laws", default=",".join(fixed["laws"]))
    parser.add_argument("--seeds", default=",".join(map(str, fixed["seeds"])))
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time")
    arguments = parser.parse_args()
    laws, seeds = arguments.laws.split(","), [int(seed) for seed in arguments.seeds.split(",")]
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(arguments.jobs) as pool:
        wanted = dict.fromkeys((law, *one) for law, seed in product(laws, seeds) for one in sets_needed(seed))
        for made in [pool.submit(make, arguments.folder, *one) for one in wanted]:
            made.result()
        print("all logs are there", file=sys.stderr)
        cases = [pool.submit(measure, arguments.folder, law, seed) for law, seed in product(laws, seeds)]
        for number, done in enumerate(as_completed(cases), 1):
            rows += done.result()
            print(f"{number} of {len(cases)} done", file=sys.stderr)
    rows.sort(key=lambda row: (row["law"], row["training"], row["seed"]))
    for law, training in product(laws, TRAININGS):
        path = RESULTS / f"interference-larger-sets-{law}-{training.name.replace(' ', '-')}.svg"
        path.write_text(plot(rows, law, training.name), encoding="utf-8")
    path = save("interference-larger-sets", rows)
    for counted in COUNTED:
        print(f"\nco-runners counted as the {counted} of a batch's life\n{summary(rows, counted)}")
        print(f"\nbar: at most {BAR}x the pair error\n\n{verdicts(rows, counted)}")
    print(f"\nraw results in {path}")


if __name__ == "__main__":
    main()
