"""The seed paper's Figure 3 and Table 1 (with Figure 5) on this device: Poisson loads through the whole stack.

    python benchmarks/gpu/paper.py [--device cuda:0|cpu|emulated] [--seconds N] [--out FOLDER] [--resume]
                                   [--parts table1,figure3]
    python benchmarks/gpu/paper.py --evaluate [--out FOLDER]             needs no device

Models, loads and durations are those of benchmarks/interference/workloads.toml. One stack serves all six models per
concurrency, and the loads of all sets are played to it one after another; of each, a log in our format is kept with
what `cotenant evaluate` needs, its first batches up to a number. `--evaluate` unpacks the logs and makes of them what
benchmarks/interference/table1.py and figure5.py make of theirs; it takes minutes of CPU, later and elsewhere.
"""

import asyncio
import tempfile
import time
import tomllib
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import live
import numpy as np
from live import loaded, serving
from paper_logs import FILE, LOGS, distil, evaluate
from recordings import SETS, measured_ns, rates, sets, settings
from script import Budget, Options, parsed, parser
from table1 import WORKLOADS
from workload import prepare

PARTS = ("table1", "figure3")
FLUSHED_S = 1.5  # after which a record is on disk


class Recording:
    """One run: what is to be played, in an order that needs few stacks, and what has been."""

    def __init__(self, options: Options, arguments: Any) -> None:
        self._options = options
        self._fixed = settings(WORKLOADS, options.kind)
        document = tomllib.loads(WORKLOADS.read_text(encoding="utf-8"))
        self._figure3 = {**document["figure3"], **self._fixed.get("figure3", {})}
        self._sets = {name: one for name, one in sets(WORKLOADS, options.kind).items() if name in arguments.sets}
        self._counts = arguments.concurrency or self._fixed["concurrency"]
        self._limit = arguments.loads or 99
        self._span_s = arguments.load_seconds
        self._names = sorted({model for one in self._sets.values() for model in one.models})
        self._repository, _ = prepare(replace(options, models=options.models or tuple(self._names)))
        self.journal = options.journal(FILE, benchmark="paper", workloads=document)
        self._budget = Budget(options.seconds)

    def _time_is_over(self, point: str) -> bool:
        if over := self._budget.left_s <= 0:
            print(f"time is over; --resume goes on with {point}")
        return over

    # ---- Table 1 and Figure 5

    async def table1(self) -> None:
        """Plays the loads of all sets at each concurrency."""
        for concurrency in self._counts:
            loads = [
                (f"table1/{concurrency}/{name}/{i}", name, i)
                for name, one in self._sets.items()
                for i in range(min(self._limit, len(one.loads)))
            ]
            if missing := [load for load in loads if load[0] not in self.journal.done]:
                if self._time_is_over(missing[0][0]):
                    return
                await self._play(concurrency, missing)

    async def _play(self, concurrency: int, loads: Sequence[tuple[str, str, int]]) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            record = Path(scratch) / "log"
            async with self._serving(self._names, self._repository, concurrency, record) as (stack, own):
                for point, name, i in loads:
                    if self._time_is_over(point):
                        return
                    chosen = self._sets[name]
                    begin_ns = time.monotonic_ns()
                    sent = rates(chosen, chosen.loads[i], own)
                    seconds = self._span_s or self._fixed["seconds"]
                    result = await loaded(stack, sent, self._repository, seed=100 + i, seconds=seconds)
                    end_ns = time.monotonic_ns()
                    await asyncio.sleep(FLUSHED_S)
                    kept = f"{LOGS}/{concurrency}-1/{name}/load{i}.gz"
                    batches = distil(record, self._options.out / kept, begin_ns, end_ns)
                    row = {"type": "load", "set": name, "load": chosen.loads[i], "rates_per_s": sent, "log": kept}
                    row |= {"batches": batches, "lag_p99_ms": result.lag.p99_ms, "requests": result.total.offered}
                    self.journal.add(point, [row])
                    print(f"{point}: {result.total.offered} requests, {batches} batches kept", flush=True)

    def _serving(
        self, names: Sequence[str], repository: Path, concurrency: int, record: Path | None = None
    ) -> AbstractAsyncContextManager[tuple[live.Stack, Path]]:
        return serving(
            self._options, repository, names, concurrency=concurrency, record=record, observe_only=record is not None
        )

    # ---- Figure 3

    async def figure3(self) -> None:
        """Tail latency over the number of tasks of one model, at each concurrency and load."""
        own = self._figure3
        model = own["model"] if (self._repository / own["model"]).exists() else self._names[0]
        for concurrency in own["concurrency"]:
            cases = list(product(own["loads"], own["tasks"]))
            points = [(f"figure3/{concurrency}/{load}/{tasks}", load, tasks) for load, tasks in cases]
            if missing := [one for one in points[: self._limit] if one[0] not in self.journal.done]:
                if self._time_is_over(missing[0][0]):
                    return
                await self._tails(model, concurrency, missing)

    async def _tails(self, model: str, concurrency: int, points: Sequence[tuple[str, str, int]]) -> None:
        tasks = max(count for _, _, count in points)
        with tempfile.TemporaryDirectory() as scratch:
            copies = _copies(self._repository / model, Path(scratch), tasks)
            async with self._serving(copies, Path(scratch), concurrency) as (stack, own):
                for point, load, count in points:
                    if self._time_is_over(point):
                        return
                    rate = self._figure3["loads"][load] * 1e9 / measured_ns(own / copies[0]) / count
                    sent = dict.fromkeys(copies[:count], rate)
                    seconds = self._span_s or self._figure3["seconds"]
                    # A budget so long that nothing is refused: the figure shows what waiting costs.
                    result = await loaded(
                        stack, sent, Path(scratch), seed=1, seconds=seconds, slo_ms=dict.fromkeys(sent, 60e3)
                    )
                    latencies = [us / 1e3 for us in result.requests.latency_us if us >= 0]
                    p50, p99 = np.percentile(latencies, [50, 99]) if latencies else (0.0, 0.0)
                    row = {"type": "figure3", "law": self._options.kind, "load": load, "tasks": count, "seed": 1}
                    row |= {"concurrency": concurrency, "requests": len(latencies), "rate_per_s": rate * count}
                    row |= {"p50_ms": float(p50), "p99_ms": float(p99), "lag_p99_ms": result.lag.p99_ms}
                    self.journal.add(point, [row | {"latency_us": result.requests.latency_us}])
                    print(f"{point}: p50 {p50:.2f} ms, p99 {p99:.2f} ms", flush=True)


def _copies(model: Path, folder: Path, count: int) -> list[str]:
    """A repository in which one model stands under several names."""
    names = [f"task{i}" for i in range(count)]
    lines = (model / "config.pbtxt").read_text(encoding="utf-8").splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("name:"))
    for name in names:
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(text, encoding="utf-8")
        for path in (model / "1").glob("[!.]*"):
            (folder / name / "1" / path.name).symlink_to(path.resolve())
        if (samples := model / "samples.npz").exists():
            (folder / name / "samples.npz").symlink_to(samples.resolve())
    return names


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    p = parser(__doc__, seconds=420.0)
    p.add_argument("--parts", default=",".join(PARTS), help="in this order (default: table1,figure3)")
    p.add_argument("--sets", default=",".join(SETS), help="of Table 1 (default: all)")
    p.add_argument("--concurrency", default="", metavar="N,M", help="of Table 1 (default: as workloads.toml)")
    p.add_argument("--loads", type=int, default=0, help="only so many of each (default: all)")
    p.add_argument("--load-seconds", type=float, default=0.0, help="of each load (default: as workloads.toml)")
    p.add_argument("--evaluate", action="store_true", help="make tables and figures of what was recorded")
    options, arguments = parsed(p, argv)
    arguments.sets = arguments.sets.split(",")
    arguments.concurrency = [int(n) for n in arguments.concurrency.split(",") if n]
    if arguments.evaluate:
        evaluate(options.out)
        return
    try:
        recording = Recording(options, arguments)
        for part in arguments.parts.split(","):
            if part not in PARTS:
                p.error(f"--parts: there is no {part}, expected {', '.join(PARTS)}")
            asyncio.run(recording.table1() if part == "table1" else recording.figure3())
    except (RuntimeError, ValueError) as error:
        raise SystemExit(f"paper: {error}") from error


if __name__ == "__main__":
    main()
