"""An evaluation for people: what was forecast at launch, what is explained afterwards, and what is to be said of it."""

import math
from collections.abc import Collection, Sequence

from rich.console import Console
from rich.table import Table

from cotenant.cli.evaluate_changes import RECOVERY_BATCHES, Recovery
from cotenant.cli.evaluate_metrics import Errors
from cotenant.cli.evaluate_result import EvaluationResult, PredictorResult

_PIPE = 240  # columns where nobody looks at a screen
_ENDLESS = 10_000
_ERRORS = ("MSE of\nslowdown", "\nMAPE", "error\nmedian", "\np95", "\np99", "\nmax", "\nbias")
_SPARED = {"\nMAPE", "\np99", "\nmax", "\nwidth"}  # on a narrow screen


def show(console: Console, result: EvaluationResult) -> None:
    """Prints both tables and the remarks; on a narrow terminal they leave out what matters less."""
    console = console if console.is_terminal else Console(width=_PIPE)
    for heads, rows, title in (_launch(result), _explained(result)):
        table = _table(title, heads, rows, spared=set())
        if Console(width=_ENDLESS).measure(table).maximum > console.width:
            table = _table(title, heads, rows, spared=_SPARED)
        console.print(table)
        console.print()
    for remark in remarks(result):
        console.print(remark, highlight=False, soft_wrap=True)


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, spared: Collection[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    kept = [i for i, head in enumerate(heads) if head not in spared]
    for i in kept:
        table.add_column(heads[i], justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(row[i] for i in kept))
    return table


Contents = tuple[list[str], list[list[str]], str]


def _launch(result: EvaluationResult) -> Contents:
    """Forecasts at launch, with their bounds."""
    heads = ["\npredictor", *_ERRORS]
    for level in result.levels:
        heads += [f"within\n{level:.4g}", "\nwidth"]
    rows: list[list[str]] = []
    for row in result.predictors:
        bounds = {bound.level: bound for bound in row.all.bounds}
        cells: list[str] = []
        for level in result.levels:
            bound = bounds.get(level)
            cells += [f"{bound.coverage:.2%}", f"{bound.width:.2f}"] if bound else ["-", "-"]
        rows.append([row.name, *_errors(row.all.launch), *cells, _back(row.launch_recovery)])
    return [*heads, "\nback after"], rows, "Forecast at launch (who comes later is unknown)"


def _explained(result: EvaluationResult) -> Contents:
    """What is explained with neighbours known, its floor, and what it costs."""
    heads = ["\npredictor", *_ERRORS, "\nback after", "update\nratio", "predict\nratio"]
    rows = [
        ["repeat noise", *_errors(result.repeat_noise["all"]), "", "", ""],
        ["  beside others", *_errors(result.repeat_noise["beside"]), "", "", ""],
    ]
    for row in result.predictors:
        costs = [f"{row.cost.update_ratio:.1f}", f"{row.cost.predict_ratio:.1f}"] if row.cost else ["-", "-"]
        rows.append([row.name, *_errors(row.all.explained), _back(row.explained_recovery), *costs])
    return heads, rows, "Explained afterwards (neighbours known)"


def _errors(errors: Errors | None) -> list[str]:
    if errors is None:
        return ["-"] * len(_ERRORS)
    relative = [f"{value:.2%}" for value in (errors.mape, errors.median, errors.p95, errors.p99, errors.max)]
    mse = "-" if math.isnan(errors.mse_slowdown) else f"{errors.mse_slowdown:.4f}"
    return [mse, *relative, f"{errors.bias:+.2%}"]


def _back(recoveries: Sequence[Recovery]) -> str:
    """Samples until near the floor: of the median class and of the worst, and how many classes never were."""
    if not recoveries:
        return "-"
    samples = sorted(math.inf if r.samples is None else r.samples for r in recoveries)
    never = sum(math.isinf(s) for s in samples)
    middle, worst = samples[len(samples) // 2], max((s for s in samples if not math.isinf(s)), default=math.inf)
    if math.isinf(middle):
        return f"{never} of {len(samples)} never"
    return f"{middle:.0f}, {worst:.0f}" + (f"; {never} of {len(samples)} never" if never else "")


def remarks(result: EvaluationResult) -> list[str]:
    """What the tables do not show."""
    told = [
        f"{result.batches:,} batches, {result.protocol}{', frozen' if result.frozen else ''}; slowdown is over the "
        f"{'median' if result.solo_percentile <= 50 else '95th percentile of the'} solo time. Width: mean bound in "
        "solo times. Ratios: CPU time over that of a bare numpy RLS update of 16 features "
        f"({result.reference_update_ns / 1e3:.1f} us here).",
        "Back after: batches of a class after a change until the median error of the next "
        f"{RECOVERY_BATCHES} is within 1.25x of its floor (the median class, the worst); the floor at launch is the "
        "least settled error of all predictors here, the floor of what is explained is repeat noise.",
    ]
    of_whom: dict[str, list[str]] = {}
    for row in result.predictors:
        for remark in _of(row):
            of_whom.setdefault(remark, []).append(row.name)
    told += [f"{', '.join(names)}: {remark}" for remark, names in of_whom.items()]
    if result.not_used:
        told.append("not used: " + ", ".join(f"{count:,} {reason}" for reason, count in result.not_used.items()))
    return told


def _of(row: PredictorResult) -> list[str]:
    missing = row.all.launch.not_predicted if row.all.launch else 0
    return [*row.remarks, *([f"said nothing of {missing:,} batches"] if missing else [])]
