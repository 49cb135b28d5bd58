"""The seed paper's Figure 5: relative error of what is predicted, by method.

As in the paper, all serving data (table1.py's logs of all sets) are parted into 75 % to train on and 25 % to test on,
and nothing is learned in the test. Batches that met nobody have no interference and are left out.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from frozen import batches_of, durations, emulated, explained, taught
from named_axis import named
from recordings import SETS

from cotenant.cli.evaluate_log import Recording
from cotenant.cli.evaluate_plots import Axis, Line, Points, draw
from cotenant.cli.evaluate_protocol import TRAINING_SHARE

METHODS = {  # the paper's four, and what stands beside them
    "static-offline": "Static",
    "ewma13-offline": "EWMA 1/3",
    "ewma12-offline": "EWMA 1/2",
    "ewma23-offline": "EWMA 2/3",
    "gpulets": "gpulets",
    "ignore": "none",
    "fluid": "ours",
}
BOX = (5, 25, 50, 75, 95)  # percentiles of signed errors
HALF_WIDTH = 0.3  # of a box


def deviations(folder: Path, law: str, concurrency: int, seed: int) -> dict[str, list[float]]:
    """Signed relative errors of the test part's batches that met others, by method, on the emulated GPU."""
    return deviations_of([one for name in SETS for one in emulated(folder, law, concurrency, seed, name)])


def deviations_of(recordings: Sequence[Recording]) -> dict[str, list[float]]:
    """The same of any logs."""
    parts = [recording.cut(TRAINING_SHARE) for recording in recordings]
    train, test = [early for early, _ in parts], [late for _, late in parts]
    batches = batches_of(test)
    met = np.array([any(part.co_runners for part in ran.seen.slices) for ran in batches])
    actual, _ = durations(batches)
    found = {name: explained(taught(name, train), test).explained_ns / actual - 1.0 for name in METHODS}
    return {name: errors[met].tolist() for name, errors in found.items()}


def row(law: str, concurrency: int, method: str, errors: Sequence[float]) -> dict[str, Any]:
    """What the figure shows of the errors of all seeds, and what the paper's text says of it."""
    size = np.abs(errors)
    found: dict[str, Any] = {"law": law, "concurrency": concurrency, "predictor": method}
    found |= {"batches": len(size), "mape": float(size.mean()), "median": float(np.median(size))}
    found |= {f"p{q}": float(value) for q, value in zip(BOX, np.percentile(errors, BOX), strict=True)}
    return found | {"within_20": float((size < 0.2).mean()), "beyond_60": float((size > 0.6).mean())}


def box(at: float, low: float, quarter: float, middle: float, three_quarters: float, high: float) -> Points:
    """The outline of a box with whiskers, drawn in one stroke."""
    left, right = at - HALF_WIDTH, at + HALF_WIDTH
    end = HALF_WIDTH / 2
    return [
        *((at - end, low), (at + end, low), (at, low), (at, quarter)),
        *((left, quarter), (left, middle), (right, middle), (left, middle), (left, three_quarters)),
        *((at, three_quarters), (at, high), (at - end, high), (at + end, high), (at, high), (at, three_quarters)),
        *((right, three_quarters), (right, quarter), (at, quarter)),
    ]


def plot(rows: Sequence[dict[str, Any]], law: str, concurrency: int) -> str:
    """A box per method: quartiles, and whiskers to the 5th and 95th percentile."""
    own = [row for row in rows if (row["law"], row["concurrency"]) == (law, concurrency)]
    lines = [Line(METHODS[row["predictor"]], box(i, *(row[f"p{q}"] for q in BOX))) for i, row in enumerate(own)]
    heights = [y for line in lines for _, y in line.points]
    room = 0.05 * (max(heights) - min(heights))
    up = Axis("predicted / measured - 1", min(heights) - room, max(heights) + room, percent=True)
    title = f"Figure 5, {law}, at most {concurrency} at once: error by method (5, 25, 50, 75, 95 %)"
    return draw(title, named("", [METHODS[row["predictor"]] for row in own]), up, lines)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Errors by method, one line per law, concurrency and method."""
    heads = ("median", "mean", "quartiles", "5 to 95 %", "off by less than 20 %", "by more than 60 %")
    lines = [f"| law | at once | method | {' | '.join(heads)} |", "|---" * (3 + len(heads)) + "|"]
    lines += [
        f"| {row['law']} | {row['concurrency']} | {METHODS[row['predictor']]} | {row['median']:.2%} "
        f"| {row['mape']:.2%} | {row['p25']:+.1%} to {row['p75']:+.1%} | {row['p5']:+.1%} to {row['p95']:+.1%} "
        f"| {row['within_20']:.1%} | {row['beyond_60']:.2%} |"
        for row in rows
    ]
    return "\n".join(lines)
