"""The whole stack under each policy, and a real Triton Inference Server: same models, same arrivals, same cores.

    python benchmarks/live/head_to_head.py               as much as fits into 15 minutes, the most important first
    python benchmarks/live/head_to_head.py --minutes 60  all of it, or what is left of it: a run goes on where one ended
    python benchmarks/live/head_to_head.py --fresh       forgets what was measured before
    python benchmarks/live/head_to_head.py --report      writes table and plots of what there is

Run it on a machine that does nothing else. Triton is installed by `scripts/oracle` where it is not there yet.
docs/experiments/head-to-head.md tells what is compared, and how fair that is.
"""

import argparse
import asyncio
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import pages  # noqa: E402
import plan  # noqa: E402
import tables  # noqa: E402
from common import RESULTS, save  # noqa: E402
from kept import Kept  # noqa: E402
from mixes import MIXES, forget_measurements, promise, write_models  # noqa: E402
from plan import SWEEP, SWEEP_S, Visit  # noqa: E402
from points import Point, measure  # noqa: E402
from sides import ROOT, TRITON, OurStack, Side, Triton  # noqa: E402
from triton_repository import Tuning  # noqa: E402

from cotenant.scheduler.policies import POLICIES  # noqa: E402

FOLDER = ROOT / "build" / "live"
OUTPUT = RESULTS / "head-to-head.json"


class HeadToHead:
    """One run; see the module's text."""

    def __init__(self, folder: Path, kept: Kept, seconds: float) -> None:
        self._folder, self._kept, self._seconds = folder, kept, seconds
        self._models = folder / "models"
        self._began_s = time.monotonic()

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began_s:6.0f} s  {text}", flush=True)

    async def run(self, visits: list[Visit], budget_s: float) -> None:
        """Makes these visits in order, as long as the next one may be expected to end within the budget."""
        write_models(self._models, (loaded.model for visit in visits for loaded in visit.mix.models))
        promise(self._models, (loaded for visit in visits for loaded in visit.mix.models))
        for number, visit in enumerate(visits):
            spent_s, left_s = time.monotonic() - self._began_s, plan.estimate(visits[number:], self._seconds)
            if number and spent_s + visit.seconds(self._seconds) > budget_s:
                self._say(
                    f"{len(visits) - number} visits are left for the next run: this machine is slower than expected"
                )
                return
            doing = f"{len(visit.points)} loads" if visit.points else "is tuned" if visit.side == TRITON else "learns"
            self._say(f"{visit.mix.name}, {visit.side}: {doing}; about {left_s / 60:.0f} min left")
            await self._visit(visit)

    async def _visit(self, visit: Visit) -> None:
        if visit.points:
            await self._loads(self._side(visit), visit, visit.points, self._seconds, keep=True)
        elif visit.side == TRITON:
            self._kept.prepare(visit.key, await self._tune(visit))
        else:
            self._kept.prepare(visit.key, await self._learn(visit))

    def _side(self, visit: Visit) -> Side:
        folder = self._work(visit)
        if visit.side != TRITON:
            return OurStack(visit.side, visit.mix, self._models, folder)
        found = self._kept.prepared[visit.key]["best"]
        return Triton(Tuning(found["instances"]), visit.mix, self._models, folder)

    def _work(self, visit: Visit) -> Path:
        folder = self._folder / "work" / visit.mix.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    async def _loads(
        self, side: Side, visit: Visit, points: tuple[Point, ...], seconds: float, *, keep: bool = False
    ) -> list[dict[str, Any]]:
        """Starts a server, sends it loads, and stops it; returns a row for each, kept at once if they are results."""
        rows: list[dict[str, Any]] = []
        try:
            await side.start()
            for point in points:
                output = self._work(visit) / "load.json"
                rows.append(row := await measure(point, visit.mix, side, self._models, seconds, output))
                self._say(tables.line(row))
                if keep:
                    self._kept.keep(point.key, row)
        finally:
            await side.stop()
        return rows

    async def _tune(self, visit: Visit) -> dict[str, Any]:
        """Tries instance counts at the middle load."""
        found: list[dict[str, Any]] = []
        for tuning in SWEEP:
            side = Triton(tuning, visit.mix, self._models, self._work(visit))
            point = Point(visit.mix.name, f"{TRITON}, {tuning}", visit.mix.middle, 0)
            (row,) = await self._loads(side, visit, (point,), SWEEP_S)
            found.append({**row, "instances": tuning.instances})
        return {"best": tables.best(found), "tried": found}

    async def _learn(self, visit: Visit) -> dict[str, Any]:
        """Has models measured alone, then loads the stack as often as the sweep loaded Triton; keeps what it learns."""
        shutil.rmtree(self._work(visit), ignore_errors=True)
        forget_measurements(self._models, [loaded.model for loaded in visit.mix.models])
        points = (Point(visit.mix.name, "goodput, learning", visit.mix.middle, 0),) * len(SWEEP)
        return {"loads": await self._loads(self._side(visit), visit, points, SWEEP_S)}


def report(kept: Kept, output: Path) -> None:
    """Writes raw results and plots, and prints the table; as the results to be shown, it goes into the page too."""
    rows = list(kept.rows.values())
    if not rows:
        raise SystemExit("head_to_head: nothing has been measured yet")
    mixes = [asdict(mix) for mix in MIXES.values() if any(row["mix"] == mix.name for row in rows)]
    path = save("head-to-head", rows, path=output, prepared=kept.prepared, mixes=mixes)
    text = f"{tables.about(rows, kept.prepared)}\n\n{tables.table(rows)}"
    drawn = tables.plots(rows, output.parent)
    print(text)
    print(f"raw results in {path}, plots: {', '.join(plot.name for plot in drawn)}")
    if output == OUTPUT:
        pictures = [f"![{plot.stem}](../../benchmarks/results/{plot.name})" for plot in drawn]
        pages.put(pages.DOCS / "head-to-head.md", "\n\n".join([pages.context(), text, *pictures]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixes", default=",".join(MIXES), help="separated by commas")
    parser.add_argument("--policies", default=",".join(POLICIES), help="of docs/policies.md, separated by commas")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load that count")
    parser.add_argument("--seeds", default="1,2", help="passes over the contenders, each with arrivals of its own")
    parser.add_argument("--minutes", type=float, default=15.0, help="do no more than fits")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for models and what is kept between runs")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    for given, known in ((arguments.mixes, MIXES), (arguments.policies, POLICIES)):
        if unknown := [name for name in given.split(",") if name not in known]:
            parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(known)}")
    kept_in = arguments.folder / "head-to-head.json"
    if arguments.fresh:
        kept_in.unlink(missing_ok=True)
    kept = Kept.open(kept_in)
    if not arguments.report:
        subprocess.run([ROOT / "scripts" / "oracle"], check=True)
        mixes = [MIXES[name] for name in arguments.mixes.split(",")]
        seeds = [int(seed) for seed in arguments.seeds.split(",")]
        planned = list(plan.visits(mixes, arguments.policies.split(","), seeds))
        left = plan.remaining(planned, kept.has)
        taken = plan.within(left, arguments.seconds, arguments.minutes * 60)
        minutes, all_minutes = (plan.estimate(some, arguments.seconds) / 60 for some in (taken, left))
        print(f"about {minutes:.0f} min for {len(taken)} of {len(left)} visits that are left ({all_minutes:.0f} min)")
        asyncio.run(HeadToHead(arguments.folder, kept, arguments.seconds).run(taken, arguments.minutes * 60))
    report(kept, arguments.output)


if __name__ == "__main__":
    main()
