"""Groups of two operator segments measured on an A100: how well is their makespan forecast?

    python benchmarks/interference/abacus.py DATA_FOLDER [--split row configuration pair model ablation] [--resume]

Fits a physical model of the group (abacus_pairs/law.py) and its baselines for each split and writes errors and bounds
to results/abacus-SPLIT.json beside this file. The data is not part of this repository; docs/experiments/abacus-pairs.md
says what it must look like. One core is used; a fit takes under a minute.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parent.parent))

import common
import numpy as np
import torch
from abacus_pairs import neighbours
from abacus_pairs.dataset import Floats, Groups, Ints, Split, read, splits
from abacus_pairs.fit import evaluate, fit
from abacus_pairs.law import Law, Options
from abacus_pairs.score import bounds, errors, repeat_floor
from abacus_pairs.table import markdown

# Splits and how many times their fits see the training rows: as often as still pays, less where there are many fits.
EPOCHS = {"row": 16, "configuration": 16, "pair": 8, "model": 8, "ablation": 8}
BASELINES = {
    "rank-one slowdown": Options(launch=False, phases=False, slowdown="rank-one", corrections=False),
    "slowdown per pair of classes": Options(launch=False, phases=False, slowdown="pair"),
    "ours without host time": Options(launch=False),
}
UNSEEN = {"rank-one slowdown"}  # the baseline for splits that leave a pair or a model out
ABLATIONS = {
    "ours": Options(),
    "without host time": Options(launch=False),
    "without phases of demand": Options(phases=False),
    "linear beyond capacity": Options(slowdown="linear"),
    "rank-one slowdown": Options(slowdown="rank-one", corrections=False),
    "one constant slowdown": Options(slowdown="constant", phases=False, corrections=False),
    "two resources": Options(resources=2),
    "without pair corrections": Options(corrections=False),
    "without campaign factors": Options(campaigns=False),
}
ABLATION_PAIR = "vgg16_vgg19"  # the worst pair in the first fits


class Case:
    """One split of the rows: fits, forecasts, and rows of the table."""

    def __init__(self, groups: Groups, split: Split, epochs: int, seed: int) -> None:
        self.groups, self.split, self.epochs, self.seed = groups, split, epochs, seed
        self.train, self.calibration, self.test = (
            np.flatnonzero(mask) for mask in (split.train, split.calibration, split.test)
        )
        self.measured = groups.makespan_us

    def row(self, method: str, test: Ints, forecast: Floats, **more: Any) -> dict[str, Any]:
        found = errors(self.measured[test], forecast)
        noise = self.groups.noise[test]
        print(
            f"{self.split.kind:13} {self.split.name:22} {method:30} {found['mape']:.2%} {found['median']:.2%}",
            flush=True,
        )
        return {
            "split": self.split.kind,
            "case": self.split.name,
            "method": method,
            **found,
            "noise_median": float(np.median(noise)),
            "noise_mean": float(noise.mean()),
            **more,
        }

    def learn(self, method: str, options: Options) -> tuple[Law, dict[str, Any]]:
        """Fits a law; its row with bounds."""
        law = Law(options, len(self.groups.pairs), self.seed)
        began = time.process_time()
        fit(law, self.groups, self.train, self.epochs, self.seed)
        spent = time.process_time() - began
        calibration = evaluate(law.forecast, self.groups, self.calibration)
        forecast = evaluate(law.forecast, self.groups, self.test)
        told = bounds(self.groups, self.calibration, calibration, self.test, forecast)
        return law, self.row(method, self.test, forecast, bounds=told, fit_cpu_s=round(spent, 1))

    def without_interference(self, law: Law) -> Iterator[dict[str, Any]]:
        """What each side takes alone, by the fitted law: side by side at no cost, or one after the other."""
        solo = evaluate(law.solo, self.groups, self.test)
        yield self.row("no interference", self.test, solo.max(axis=0))
        yield self.row("one after the other", self.test, solo.sum(axis=0))

    def second_stage(self, law: Law) -> dict[str, Any]:
        """Ours, corrected by how far off it was for similar groups."""
        fitted, calibration, forecast = (
            evaluate(law.forecast, self.groups, rows) for rows in (self.train, self.calibration, self.test)
        )
        residuals = np.log(self.measured[self.train] / fitted)
        calibration, forecast = (
            told * np.exp(neighbours.corrections(self.groups, self.train, residuals, rows))
            for told, rows in ((calibration, self.calibration), (forecast, self.test))
        )
        told = bounds(self.groups, self.calibration, calibration, self.test, forecast)
        return self.row("ours, then neighbours", self.test, forecast, bounds=told)

    def look_up(self) -> dict[str, Any]:
        """The median of the same configuration in the training rows, scored where there is one."""
        configuration = self.groups.configuration
        order = self.train[np.argsort(configuration[self.train], kind="stable")]
        keys, begins = np.unique(configuration[order], return_index=True)
        medians = [float(np.median(part)) for part in np.split(self.measured[order], begins[1:])]
        known = np.isin(configuration[self.test], keys)
        test = self.test[known]
        forecast = np.array(medians)[np.searchsorted(keys, configuration[test])]
        return self.row("look-up of repeated configurations", test, forecast, share=float(known.mean()))

    def run(self) -> Iterator[dict[str, Any]]:
        """All methods that make sense for this split."""
        random = self.split.kind in {"row", "configuration"}
        if self.split.kind == "row":
            yield self.look_up()
        for method, options in BASELINES.items():
            if random or method in UNSEEN:
                yield self.learn(method, options)[1]
        law, row = self.learn("ours", Options())
        yield row
        yield from self.without_interference(law)
        if random:
            yield self.second_stage(law)


def ablation(groups: Groups) -> Iterator[tuple[Split, str, Options]]:
    """One split by configuration and one pair left out, for each part left out of the law."""
    chosen = [next(splits(groups, "configuration", 1))]
    chosen += [split for split in splits(groups, "pair", 1) if split.name == ABLATION_PAIR]
    for split in chosen:
        for method, options in ABLATIONS.items():
            yield split, method, options


def work(
    groups: Groups, kind: str, seeds: int, epochs: int, done: set[tuple[str, str]]
) -> Iterator[list[dict[str, Any]]]:
    """Rows of the table, as they come; cases in `done` are skipped."""
    if kind == "ablation":
        for split, method, options in ablation(groups):
            if (split.name, method) not in done:
                yield [Case(groups, split, epochs, 0).learn(method, options)[1]]
        return
    for seed, split in enumerate(splits(groups, kind, seeds)):
        if (split.name, "ours") not in done:
            yield list(Case(groups, split, epochs, seed if kind in {"row", "configuration"} else 0).run())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the measured pairs, one CSV file each")
    parser.add_argument("--split", nargs="+", choices=EPOCHS, default=EPOCHS)
    parser.add_argument("--seeds", type=int, default=3, help="of the random splits")
    parser.add_argument("--epochs", type=int, help="of each fit, instead of each split's own number")
    parser.add_argument("--resume", action="store_true", help="keep the cases found in the results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    common.RESULTS = Path(__file__).parent / "results"
    groups = read(arguments.folder)
    floor = repeat_floor(groups, np.arange(len(groups)))
    for kind in arguments.split:
        epochs = arguments.epochs or EPOCHS[kind]
        path = common.RESULTS / f"abacus-{kind}.json"
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if arguments.resume and path.exists() else []
        done = {(row["case"], row["method"]) for row in rows}
        for more in work(groups, kind, arguments.seeds, epochs, done):
            rows += more
            common.save(f"abacus-{kind}", rows, epochs=epochs, repeat_floor=floor)
        print("", kind, *markdown(kind, rows), sep="\n")


if __name__ == "__main__":
    main()
