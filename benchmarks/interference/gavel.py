"""Measured pairs of training jobs on K80, P100 and V100: pairs never seen, jobs hardly seen, and one GPU from another.

    python benchmarks/interference/gavel.py DATA/gavel

The data set (Gavel, OSDI 2020) tells steps per second of each job alone and of both beside each other: steady state,
no timeline, no resource profile. A pair is one measurement that tells both directions, and none is repeated, so there
is no repeat noise to compare with. What is unseen here is always the pair, in both directions.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import low_rank
import numpy as np
from gavel_pairs import GPUS, Jobs, mean_of, only, shuffled
from low_rank import Factors, Matrix

from cotenant.predictor import learners
from cotenant.predictor.learner import Learner
from cotenant.predictor.observations import Observation, Profile, Slice

HERE = Path(__file__).resolve().parent
COMMAND = "python benchmarks/interference/gavel.py DATA/gavel"  # without where the data lies here
SEEDS = (1, 2, 3)
TEST_SHARE = 0.2
PASSES = 5  # batches of each direction of a pair that a learner sees
FEW = (0, 1, 3, 5)  # pairs seen of a job left out
NEW_PAIRS = (0, 5, 20, 100)  # seen of a GPU that is new
RANK, NEAR, SETTLED = 3, 0.3, 0.03  # of a factorisation; how much it is drawn to a sibling, and to the mean job
RESOURCES = 3
Fit = Callable[[Matrix], Matrix]


# ---- learners, taught batch by batch


class Taught:
    """A learner that is told of pairs as batches in steady state: one slice, beside one other, all their lives."""

    def __init__(self, name: str, jobs: Jobs) -> None:
        self._jobs = jobs
        self.learner: Learner = learners.make(name, RESOURCES)

    def measure(self, gpu: str) -> None:
        """Tells solo times on a GPU; no resource profile is known."""
        for i, work_ns in self._jobs.work_ns[gpu].items():
            self.learner.learn_profile(Profile(self._jobs.classes[i], work_ns, ()))

    def learn(self, gpu: str, seen: Matrix, seed: int = 0) -> None:
        """Takes all pairs seen, in random order, several times."""
        known = np.argwhere(~np.isnan(seen))
        for _ in range(PASSES):
            np.random.default_rng(seed).shuffle(known)
            for a, b in known.tolist():
                duration_ns = round(self._jobs.work_ns[gpu][a] * seen[a, b])
                slices = (Slice(duration_ns, (self._jobs.classes[b],)),)
                self.learner.learn_batch(Observation(self._jobs.classes[a], duration_ns, slices))

    def slowdowns(self) -> Matrix:
        """[victim, aggressor]"""
        classes = self._jobs.classes
        return np.array([[self.learner.slowdown(a, [b]) for b in classes] for a in classes])


def by_learner(name: str, jobs: Jobs, gpu: str) -> Fit:
    """A learner that begins with nothing."""

    def fit(seen: Matrix) -> Matrix:
        taught = Taught(name, jobs)
        taught.measure(gpu)
        taught.learn(gpu, seen)
        return taught.slowdowns()

    return fit


def by_river(name: str) -> Fit:
    """A river regressor that is told who the two are; it learns log slowdown."""

    def row(a: int, b: int) -> dict[str, float]:
        return {f"victim {a}": 1.0, f"aggressor {b}": 1.0}

    def fit(seen: Matrix) -> Matrix:
        from cotenant.predictor.baselines.two_verbs import regressor

        model = regressor(name)
        known = np.argwhere(~np.isnan(seen))
        for _ in range(PASSES):
            np.random.default_rng(0).shuffle(known)
            for a, b in known.tolist():
                model.learn_one(row(a, b), float(np.log(seen[a, b])))
        every = range(len(seen))
        logs = np.array([[max(0.0, model.predict_one(row(a, b))) for b in every] for a in every])
        slowdowns: Matrix = np.exp(logs)
        return slowdowns

    return fit


def fits(jobs: Jobs, gpu: str) -> dict[str, Fit]:
    """All ways to fill in a matrix, by name."""
    return {
        "ignore": low_rank.ignore,
        "mean of all": low_rank.mean,
        "mean of the victim": low_rank.of_victim,
        "mean of the aggressor": low_rank.of_aggressor,
        "two-way effects, log": low_rank.two_way,
        **{f"rank {k}, log": low_rank.log_rank(k) for k in (1, 2, 3)},
        **{f"rank {k}, delay": low_rank.delay_rank(k) for k in (1, 2, 3)},
        "river.linear_model.LinearRegression": by_river("river.linear_model.LinearRegression"),
        "river.facto.FMRegressor": by_river("river.facto.FMRegressor"),
        "fluid": by_learner("fluid", jobs, gpu),
    }


# ---- protocols


def error(predicted: Matrix, unseen: Matrix) -> Matrix:
    """Relative errors of what was not seen."""
    known = ~np.isnan(unseen)
    found: Matrix = np.abs(predicted[known] / unseen[known] - 1.0)
    return found


def unseen_pairs(jobs: Jobs, gpu: str) -> dict[str, Matrix]:
    """Errors on a fifth of the pairs, by way."""
    found: dict[str, list[Matrix]] = defaultdict(list)
    slowdowns = jobs.slowdowns[gpu]
    for seed in SEEDS:
        order = shuffled(slowdowns, seed)
        count = round(TEST_SHARE * len(order))
        seen, unseen = only(slowdowns, order[count:]), only(slowdowns, order[:count])
        for name, fit in fits(jobs, gpu).items():
            found[name].append(error(fit(seen), unseen))
    return {name: np.concatenate(errors) for name, errors in found.items()}


def unseen_jobs(jobs: Jobs, gpu: str) -> dict[tuple[str, int], Matrix]:
    """Errors on the pairs of each job, when a few of its pairs were seen and all of the others', by way and number."""
    found: dict[tuple[str, int], list[Matrix]] = defaultdict(list)
    slowdowns = jobs.slowdowns[gpu]
    ways = {n: f for n, f in fits(jobs, gpu).items() if n != "fluid"}
    for job in sorted(jobs.work_ns[gpu]):
        order = shuffled(slowdowns, job)
        own = [pair for pair in order if job in pair]
        others = only(slowdowns, [pair for pair in order if job not in pair])
        unseen = only(slowdowns, own[max(FEW) :])
        before = Taught("fluid", jobs)
        before.measure(gpu)
        before.learn(gpu, others)
        for count in FEW:
            few = only(slowdowns, own[:count])
            seen = np.where(np.isnan(few), others, few)
            for name, fit in ways.items():
                found[name, count].append(error(fit(seen), unseen))
            taught = deepcopy(before)
            taught.learn(gpu, few)
            found["fluid", count].append(error(taught.slowdowns(), unseen))
    return {key: np.concatenate(errors) for key, errors in found.items()}


def transfer(jobs: Jobs, gpu: str, siblings: Sequence[str]) -> dict[tuple[str, int], Matrix]:
    """Errors on a GPU of which a few pairs were seen, when others were seen whole, by way and number of pairs."""
    found: dict[tuple[str, int], list[Matrix]] = defaultdict(list)
    slowdowns = jobs.slowdowns[gpu]
    elsewhere = mean_of([jobs.slowdowns[s] for s in siblings])
    told = low_rank.factorise(elsewhere, RANK)
    before = Taught("fluid", jobs)
    for sibling in siblings:
        before.measure(sibling)
        before.learn(sibling, jobs.slowdowns[sibling])
    before.measure(gpu)
    for seed in SEEDS:
        order = shuffled(slowdowns, seed)
        unseen = only(slowdowns, order[max(NEW_PAIRS) :])
        for count in NEW_PAIRS:
            seen = only(slowdowns, order[:count])
            ways = _transferred(seen, elsewhere, told)
            taught, fresh = deepcopy(before), Taught("fluid", jobs)
            fresh.measure(gpu)
            for name, learner in (("fluid", taught), ("fluid, alone", fresh)):
                learner.learn(gpu, seen)
                ways[name] = learner.slowdowns()
            for name, predicted in ways.items():
                found[name, count].append(error(predicted, unseen))
    return {key: np.concatenate(errors) for key, errors in found.items()}


def _transferred(seen: Matrix, elsewhere: Matrix, told: Factors) -> dict[str, Matrix]:
    copied = np.where(np.isnan(elsewhere), told.slowdowns, elsewhere)
    known = ~np.isnan(seen)
    here, there = (seen - 1.0)[known], (copied - 1.0)[known]
    weights = 1.0 / seen[known] ** 2
    scale = ((weights * here * there).sum() + 0.1) / ((weights * there * there).sum() + 0.1)
    return {
        "two-way effects, alone": low_rank.two_way(seen),
        f"rank {RANK}, alone": low_rank.factorise(seen, RANK, ridge=SETTLED).slowdowns,
        "the sibling's slowdown": copied,
        "the sibling's delay, scaled": 1.0 + scale * (copied - 1.0),
        f"rank {RANK}, from the sibling": low_rank.factorise(seen, RANK, told, NEAR).slowdowns,
    }


# ---- telling


def figures(errors: Matrix) -> dict[str, float]:
    """What is told of errors."""
    median, p95 = np.percentile(errors, [50, 95])
    return {"mape": float(errors.mean()), "median": float(median), "p95": float(p95), "count": float(len(errors))}


def table(title: str, rows: Sequence[Mapping[str, Any]], column: str, figure: str = "mape") -> str:
    """One line per way, one column per value of `column`."""
    values = list(dict.fromkeys(row[column] for row in rows))
    lines = [f"\n{title}\n", f"| | {' | '.join(map(str, values))} |", "|---" * (1 + len(values)) + "|"]
    for way in dict.fromkeys(row["way"] for row in rows):
        own = {row[column]: row for row in rows if row["way"] == way}
        lines.append(f"| {way} | " + " | ".join(_cell(own.get(value), figure) for value in values) + " |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any] | None, figure: str) -> str:
    if row is None:
        return "-"
    if figure == "all":
        return f"{row['mape']:.1%}, {row['median']:.1%}, {row['p95']:.1%}"
    return f"{row[figure]:.1%}"


def main() -> None:
    import sys

    sys.path.insert(0, str(HERE.parent))
    from common import save

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder with pairs_flat.csv")
    jobs = Jobs(parser.parse_args().data / "pairs_flat.csv")
    rows: list[dict[str, Any]] = []
    for gpu in GPUS:
        for way, errors in unseen_pairs(jobs, gpu).items():
            rows.append({"protocol": "pairs", "gpu": gpu, "way": way, **figures(errors)})
        for (way, count), errors in unseen_jobs(jobs, gpu).items():
            rows.append({"protocol": "jobs", "gpu": gpu, "way": way, "seen": count, **figures(errors)})
        others = [other for other in GPUS if other != gpu]
        for siblings in (others, *([other] for other in others)):
            for (way, count), errors in transfer(jobs, gpu, siblings).items():
                told = {"protocol": "transfer", "gpu": gpu, "siblings": siblings, "way": way, "seen": count}
                rows.append({**told, **figures(errors)})
        print(f"{gpu}: done", file=sys.stderr)
    path = save("interference-gavel", rows, command=COMMAND, data_rows=jobs.rows, measured_rows=jobs.measured)
    print(f"{jobs.measured} of {jobs.rows} rows have a co-located throughput")
    print(table("a fifth of the pairs unseen: MAPE, median, p95", _of(rows, protocol="pairs"), "gpu", "all"))
    for gpu in GPUS:
        print(table(f"{gpu}, a job by pairs seen of it: MAPE", _of(rows, protocol="jobs", gpu=gpu), "seen"))
    for gpu in GPUS:
        for chosen in dict.fromkeys(tuple(r["siblings"]) for r in _of(rows, protocol="transfer", gpu=gpu)):
            own = _of(rows, protocol="transfer", gpu=gpu, siblings=list(chosen))
            print(table(f"{gpu} from {' and '.join(chosen)}, by pairs seen of it: MAPE", own, "seen"))
    print(f"\nraw results in {path}")


def _of(rows: Sequence[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


if __name__ == "__main__":
    main()
