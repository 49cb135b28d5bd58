"""`cotenant evaluate`: judges predictors on recorded logs, ours, the published ones and yours in one table."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from cotenant.cli import evaluate_plots, evaluate_table
from cotenant.cli.evaluate_protocol import PREQUENTIAL, RECORDED, TRAIN_TEST, Plan, evaluate
from cotenant.predictor.learners import LEARNERS

_EPILOG = f"""\
A predictor is one of ours ({", ".join(LEARNERS)}),
a river regressor by its dotted name (river.linear_model.BayesianLinearRegression), the address of any server of
cotenant.v1.PredictorService (127.0.0.1:8004, unix:/run/predictor.sock), or '{RECORDED}': the forecasts in the log.

examples:
  cotenant evaluate log                                       every predictor of ours, from nothing
  cotenant evaluate log --predictor fluid recorded 127.0.0.1:8004
  cotenant evaluate changed unseen --train first --frozen     fit on one log, judge on two others
docs/evaluate.md tells what each figure means, and how to bring a log of your own.
"""


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    p = argparse.ArgumentParser(
        prog="cotenant evaluate",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("logs", nargs="+", type=Path, metavar="LOG", help="log of `--record`; all its parts are read")
    p.add_argument("--predictor", nargs="+", default=[], metavar="NAME|ADDRESS", help="default: every one of ours")
    p.add_argument(
        "--protocol", choices=[PREQUENTIAL, TRAIN_TEST], help=f"default: {PREQUENTIAL}, or {TRAIN_TEST} with --train"
    )
    p.add_argument(
        "--train", nargs="+", type=Path, default=[], metavar="LOG", help="default: the first 75%% of each LOG's batches"
    )
    p.add_argument("--frozen", action="store_true", help="learn nothing after training")
    p.add_argument("--levels", default="0.9,0.95,0.99", help="of the bounds (default: 0.9,0.95,0.99)")
    p.add_argument("--solo", choices=["median", "p95"], default="median", help="what slowdowns are over")
    p.add_argument(
        "--change-at",
        nargs="+",
        type=float,
        default=[],
        metavar="S",
        help="instants of changes, s after each LOG begins",
    )
    p.add_argument("--json", type=Path, metavar="FILE", help="write everything that was found")
    p.add_argument("--plots", type=Path, metavar="DIR", help="write plots (SVG)")
    return p


def plan(a: argparse.Namespace) -> Plan:
    """What the flags ask for. Raises ValueError that names the flag."""
    try:
        levels = tuple(sorted({float(text) for text in a.levels.split(",") if text.strip()}))
    except ValueError as error:
        raise ValueError(f"--levels must be numbers separated by commas, got '{a.levels}'") from error
    return Plan(
        tuple(a.logs),
        tuple(dict.fromkeys(a.predictor)) or tuple(LEARNERS),
        a.protocol or (TRAIN_TEST if a.train or a.frozen else PREQUENTIAL),
        tuple(a.train),
        a.frozen,
        levels,
        95.0 if a.solo == "p95" else 50.0,
        tuple(a.change_at),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 where a log, an option or a predictor is not what it should be."""
    a = parser().parse_args(argv)
    progress = Console(stderr=True)

    def tell(step: str) -> None:
        if progress.is_terminal:
            progress.print(f"evaluate: {step}", highlight=False)

    try:
        result = evaluate(plan(a), tell)
        if a.json:
            a.json.parent.mkdir(parents=True, exist_ok=True)
            a.json.write_bytes(msgspec.json.encode(result) + b"\n")
        if a.plots:
            evaluate_plots.write(result, a.plots)
    except (OSError, ValueError) as error:
        print(f"cotenant evaluate: {error}", file=sys.stderr)
        return 1
    evaluate_table.show(Console(), result)
    return 0
