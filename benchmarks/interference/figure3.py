"""The seed paper's Figure 3: tail latency over the number of tasks of one model that share a device and a load.

What the paper leaves open is fixed in workloads.toml, [figure3]. `concurrency` 1 is one batch at a time.
"""

import tomllib
from collections.abc import Sequence
from typing import Any

import numpy as np
from named_axis import named
from recordings import PATIENCE, solo_ns
from table1 import WORKLOADS

from cotenant.cli.evaluate_plots import Axis, Line, draw
from cotenant.scheduler.simulate import SimulatedModel, Simulation


def fixed() -> dict[str, Any]:
    """What workloads.toml fixes for this figure."""
    document = tomllib.loads(WORKLOADS.read_text(encoding="utf-8"))
    return {"max_batch_size": document["max_batch_size"], "seeds": document["seeds"], **document["figure3"]}


def tail(law: str, load_name: str, tasks: int, concurrency: int, seed: int) -> dict[str, Any]:
    """One run: latencies of all tasks' requests together."""
    own = fixed()
    solo = solo_ns(own["model"])
    rate_per_s = own["loads"][load_name] * 1e9 / solo / tasks
    models = [
        SimulatedModel(f"task{i}", own["model"], rate_per_s, round(PATIENCE * solo), own["max_batch_size"])
        for i in range(tasks)
    ]
    outcome = Simulation(models, concurrency=concurrency, seed=seed, law=law).run(round(own["seconds"] * 1e9))
    latencies = [latency for model in outcome.models.values() for latency in model.latencies_ns]
    p50, p99 = np.percentile(latencies, [50, 99]) / 1e6
    return {
        "law": law,
        "load": load_name,
        "tasks": tasks,
        "concurrency": concurrency,
        "seed": seed,
        "requests": len(latencies),
        "batches": outcome.batches,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "co_runners": outcome.co_runner_ns / outcome.busy_ns,
    }


def plot(rows: Sequence[dict[str, Any]], law: str, load: str) -> str:
    """Mean over seeds of the 99th percentile over tasks."""
    own = [row for row in rows if (row["law"], row["load"]) == (law, load)]
    tasks = sorted({row["tasks"] for row in own})
    lines = []
    for concurrency in sorted({row["concurrency"] for row in own}):
        points = [(i, mean(own, "p99_ms", tasks=count, concurrency=concurrency)) for i, count in enumerate(tasks)]
        lines.append(Line("sequential" if concurrency == 1 else f"at most {concurrency} at once", points))
    highest = max(y for line in lines for _, y in line.points)
    along = named("tasks on one device", [str(count) for count in tasks])
    up = Axis("99th percentile of latency, ms", 0.0, highest * 1.1)
    return draw(f"Figure 3, {law}, {load} load: latency of tasks that share it", along, up, lines)


def mean(rows: Sequence[dict[str, Any]], column: str, **where: Any) -> float:
    """Of a column over the rows where others have these values."""
    return float(np.mean([row[column] for row in rows if all(row[key] == value for key, value in where.items())]))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean 99th percentile over seeds in ms, and the mean number of requests in a batch."""
    tasks = sorted({row["tasks"] for row in rows})
    lines = [f"| law | load | at once | {' | '.join(f'{n} tasks' for n in tasks)} |", "|---" * (3 + len(tasks)) + "|"]
    cases = dict.fromkeys((row["law"], row["load"], row["concurrency"]) for row in rows)
    for law, load, concurrency in cases:
        where = {"law": law, "load": load, "concurrency": concurrency}
        cells = []
        for n in tasks:
            size = mean(rows, "requests", tasks=n, **where) / mean(rows, "batches", tasks=n, **where)
            cells.append(f"{mean(rows, 'p99_ms', tasks=n, **where):.1f} ({size:.1f})")
        lines.append(f"| {law} | {load} | {concurrency} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
