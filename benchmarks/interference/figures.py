"""The seed paper's Figures 3 and 5 on the emulated GPU.

    python benchmarks/interference/figures.py [--figures 3,5,sets] [--laws fair,leftover] [--concurrency 2,3,4]
                                              [--folder FOLDER] [--jobs 1]

*3*: tail latency of tasks that share a device, one batch at a time and several at once (figure3.py, simulated here).
*5*: error by method, 75 % of all serving data to train on and 25 % to test on (figure5.py, from table1.py's logs, made
where they are not there). *sets*: the same on each set of Table 1, of all batches, from the rows that table1.py wrote.
Virtual time; logs stay in FOLDER.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from itertools import chain, product
from pathlib import Path
from typing import Any

import figure3
import figure5
from frozen import make
from named_axis import named
from recordings import SETS, settings
from table1 import WORKLOADS

from cotenant.cli.evaluate_plots import Axis, Line, draw

BY_SET = ("static-offline", "static-rls", "ewma12-offline", "ewma12-rls", "gpulets", "ignore", "fluid")
TABLE1 = "interference-table1-emulated.json"


def each(pool: Executor, work: Callable[..., Any], cases: Iterable[tuple[Any, ...]]) -> list[Any]:
    """What `work` returns for each case, in order."""
    return [done.result() for done in [pool.submit(work, *case) for case in cases]]


def plot_sets(rows: Sequence[dict[str, Any]], law: str, concurrency: int) -> str:
    """95th percentile of the relative error on each set, mean over seeds; "" if table1.py had no such case."""
    own = [row for row in rows if (row["law"], row["concurrency"]) == (law, concurrency)]
    if not own:
        return ""
    lines = [
        Line(
            name, [(i, figure3.mean(own, "explained_p95", predictor=name, set=chosen)) for i, chosen in enumerate(SETS)]
        )
        for name in BY_SET
    ]
    values = [y for line in lines for _, y in line.points]
    up = Axis("95th percentile of the relative error", min(values) * 0.8, max(values) * 1.2, log=True, percent=True)
    along = named("", ("Training Set", "Test Set 1", "Test Set 2", "Test Set 3"))
    return draw(f"{law}, at most {concurrency} at once: error explained, by set of Table 1", along, up, lines)


def main() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from common import RESULTS, save

    fixed = settings(WORKLOADS, "emulated")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", default="3,5,sets")
    parser.add_argument("--folder", type=Path, default=Path("build/interference"))
    parser.add_argument("--laws", default=",".join(fixed["laws"]))
    parser.add_argument("--concurrency", default=",".join(map(str, fixed["concurrency"])))
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time")
    arguments = parser.parse_args()
    wanted, laws = arguments.figures.split(","), arguments.laws.split(",")
    counts = [int(n) for n in re.findall(r"\d+", arguments.concurrency)]

    def keep(name: str, drawn: str) -> None:
        if drawn:
            (RESULTS / f"interference-{name}.svg").write_text(drawn, encoding="utf-8")

    with ProcessPoolExecutor(arguments.jobs) as pool:
        if "3" in wanted:
            rows = latencies(pool, laws)
            for law, load in product(laws, figure3.fixed()["loads"]):
                keep(f"figure3-{law}-{load}", figure3.plot(rows, law, load))
            print(f"{figure3.table(rows)}\n\nraw results in {save('interference-figure3', rows)}\n")
        if "5" in wanted:
            rows = errors(pool, arguments.folder, laws, counts, fixed["seeds"])
            for law, count in product(laws, counts):
                keep(f"figure5-{law}-{count}", figure5.plot(rows, law, count))
            print(f"{figure5.table(rows)}\n\nraw results in {save('interference-figure5', rows)}\n")
    if "sets" in wanted:
        rows = json.loads((RESULTS / TABLE1).read_text(encoding="utf-8"))["rows"]
        for law, count in product(laws, counts):
            keep(f"figure5-sets-{law}-{count}", plot_sets(rows, law, count))


def latencies(pool: Executor, laws: Sequence[str]) -> list[dict[str, Any]]:
    """All runs of Figure 3."""
    own = figure3.fixed()
    return each(pool, figure3.tail, product(laws, own["loads"], own["tasks"], own["concurrency"], own["seeds"]))


def errors(
    pool: Executor, folder: Path, laws: Sequence[str], counts: Sequence[int], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """A row of Figure 5 per law, concurrency and method, over all seeds."""
    cases = list(product(laws, counts, seeds))
    each(pool, make, ((folder, *case, name) for case in cases for name in SETS))
    found = dict(zip(cases, each(pool, figure5.deviations, ((folder, *case) for case in cases)), strict=True))
    return [
        figure5.row(law, count, name, list(chain.from_iterable(found[law, count, seed][name] for seed in seeds)))
        for law, count, name in product(laws, counts, figure5.METHODS)
    ]


if __name__ == "__main__":
    main()
