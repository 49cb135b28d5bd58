"""Ten times the capacity for a minute: does goodput stay, does memory stay, and what does a refusal cost?

    python benchmarks/storm/overload.py [--seconds 60] [--factors 0.5,1,2,10] [--policies goodput,edf] [--output FILE]

One model of 100 ms a batch of two with an SLO of 500 ms; its capacity is measured first, in a closed loop. Then Poisson
arrivals at a factor of that, in an open loop. CPU per refusal: what all services spent, less what they spend idle and
on answers (both measured before, the latter at the first factor), over the refusals.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from common import cpu_s, difference, percentile, save
from watching import look

from cotenant.cli.load_client import Answer, GrpcClient, Outcome
from cotenant.cli.load_options import ModelLoad
from cotenant.cli.stack import Stack, StackOptions

SLO_S, ITEMS = 0.5, 16
CONFIG = """
backend: "identity" max_batch_size: 2 dynamic_batching {}
input [{ name: "INPUT0" data_type: TYPE_FP32 dims: [ 16 ] }]
output [{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 16 ] }]
parameters { key: "execute_delay_ms" value { string_value: "100" } }
parameters { key: "slo_ms" value { string_value: "500" } }
"""
LANES = 16
MODEL = "busy"


class Load:
    """Requests to one model over a few connections."""

    def __init__(self, url: str) -> None:
        self._clients = [GrpcClient(url) for _ in range(4)]
        self._prepared: Any = None

    async def prepare(self) -> None:
        """Asks what the model is."""
        load = ModelLoad(MODEL)
        model = await self._clients[0].describe(load)
        tensors = {"INPUT0": np.ones((1, ITEMS), np.float32)}
        self._prepared = self._clients[0].prepare(load, model, tensors, explain=False)

    async def one(self, number: int) -> tuple[Answer, float]:
        """One request: what became of it, and after how long."""
        sent_s = time.perf_counter()
        answer = await self._clients[number % len(self._clients)].infer(self._prepared, None)
        return answer, time.perf_counter() - sent_s

    async def capacity(self, seconds: float) -> float:
        """Answers per second in a closed loop."""
        until_s, done = time.perf_counter() + seconds, 0

        async def lane() -> None:
            nonlocal done
            while time.perf_counter() < until_s:
                answer, _ = await self.one(done)
                done += answer.failure is None

        await asyncio.gather(*(lane() for _ in range(LANES)))
        return done / seconds

    async def offer(self, rate_per_s: float, seconds: float, seed: int) -> list[tuple[Answer, float]]:
        """Poisson arrivals; requests leave when they are due."""
        chance, tasks = random.Random(seed), []
        began_s = due_s = time.perf_counter()
        while (due_s := due_s + chance.expovariate(rate_per_s)) < began_s + seconds:
            if (early_s := due_s - time.perf_counter()) > 0.001:
                await asyncio.sleep(early_s)
            tasks.append(asyncio.create_task(self.one(len(tasks))))
        return list(await asyncio.gather(*tasks))

    async def close(self) -> None:
        """Ends the connections."""
        for client in self._clients:
            await client.close()


async def point(stack: Stack, load: Load, factor: float, capacity: float, seconds: float) -> dict[str, Any]:
    """One factor of the capacity, measured."""
    before, began_s = cpu_s(stack), time.perf_counter()
    memory = _memory_mib(stack)
    seen = await load.offer(factor * capacity, seconds, seed=int(factor * 10))
    lasted_s = time.perf_counter() - began_s
    spent = difference(cpu_s(stack), before)
    good = sum(answer.failure is None and took <= SLO_S for answer, took in seen)
    refused = [took for answer, took in seen if answer.failure is Outcome.REFUSED]
    return {
        "factor": factor,
        "offered_per_s": round(len(seen) / seconds, 1),
        "goodput_per_s": round(good / seconds, 1),
        "answered_late": sum(answer.failure is None and took > SLO_S for answer, took in seen),
        "refused_per_s": round(len(refused) / seconds, 1),
        "failed": sum(answer.failure not in (None, Outcome.REFUSED) for answer, _ in seen),
        "reasons": dict(Counter(answer.detail for answer, _ in seen if answer.failure is not None)),
        "refusal_p50_ms": round(percentile(refused, 0.5) * 1e3, 2) if refused else None,
        "refusal_p99_ms": round(percentile(refused, 0.99) * 1e3, 2) if refused else None,
        "seconds": round(lasted_s, 1),
        "cpu_s": {name: round(value, 2) for name, value in spent.items()},
        "cpu_us_per_request": round(sum(spent.values()) / len(seen) * 1e6),
        "memory_mib_before_after": {n: [memory[n], after] for n, after in _memory_mib(stack).items()},
    }


def _memory_mib(stack: Stack) -> dict[str, float]:
    return {name: round(look(process.pid).resident_bytes / 2**20, 1) for name, process in stack.processes.items()}


async def idle(stack: Stack, seconds: float) -> float:
    """CPU seconds that all services spend in a second without any request."""
    before = cpu_s(stack)
    await asyncio.sleep(seconds)
    return sum(difference(cpu_s(stack), before).values()) / seconds


def refusal_cost(rows: list[dict[str, Any]], idle_cpu: float) -> None:
    """Adds the CPU time of a refusal to rows that have any; that of an answer is what the first row tells."""

    def spent_s(row: dict[str, Any]) -> float:
        total: float = sum(row["cpu_s"].values())
        return total - idle_cpu * row["seconds"]

    per_answer_s = spent_s(rows[0]) / (rows[0]["goodput_per_s"] * rows[0]["seconds"])
    for row in rows:
        refused = sum(row["reasons"].values())
        answered = row["offered_per_s"] * row["seconds"] - refused
        row["idle_cpu_s_per_s"], row["cpu_us_per_answer"] = round(idle_cpu, 4), round(per_answer_s * 1e6)
        if refused > 1000:
            row["cpu_us_per_refusal"] = round((spent_s(row) - per_answer_s * answered) / refused * 1e6)


async def measure(folder: Path, policy: str, factors: list[float], seconds: float) -> list[dict[str, Any]]:
    """All factors on one stack, which is not started again between them."""
    repository = folder / "models"
    (repository / MODEL / "1").mkdir(parents=True)
    (repository / MODEL / "config.pbtxt").write_text(CONFIG)
    extra = {"executor": (f"--profile-cache={folder / 'profiles'}", "--concurrency=2")}
    where = {"port": _free_port(), "metrics": False, "sockets": True}
    options = StackOptions(repository, folder / "run", policy=policy, extra=extra, **where)
    async with Stack(options) as stack:
        await stack.models_settled(timeout_s=60)
        load = Load(stack.url)
        await load.prepare()
        await load.capacity(3.0)  # learned meanwhile: how long a batch takes
        capacity = await load.capacity(5.0)
        idle_cpu = await idle(stack, 5.0)
        rows = []
        for factor in factors:
            row = await point(stack, load, factor, capacity, seconds)
            rows.append({"policy": policy, "capacity_per_s": round(capacity, 1), **row})
            print(rows[-1], flush=True)
        await load.close()
    refusal_cost(rows, idle_cpu)
    return rows


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def table(rows: list[dict[str, Any]]) -> str:
    """The points in Markdown."""
    lines = ["| policy | offered | goodput | late | refused | refusal p50, p99 | CPU per refusal | CPU per request |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    lines += [
        f"| {r['policy']} | {r['factor']:g}x, {r['offered_per_s']:.0f}/s "
        f"| {r['goodput_per_s']:.1f}/s | {r['answered_late']} "
        f"| {r['refused_per_s']:.1f}/s | {r['refusal_p50_ms']}, {r['refusal_p99_ms']} ms "
        f"| {r.get('cpu_us_per_refusal', '-')} us | {r['cpu_us_per_request']} us |"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """See the module's text."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seconds", type=float, default=60.0)
    p.add_argument("--factors", default="0.5,1,2,10")
    p.add_argument("--policies", default="goodput,edf")
    p.add_argument("--output", type=Path)
    a = p.parse_args()
    rows: list[dict[str, Any]] = []
    for policy in a.policies.split(","):
        with tempfile.TemporaryDirectory(prefix="cotenant-overload-") as folder:
            rows += asyncio.run(measure(Path(folder), policy, [float(f) for f in a.factors.split(",")], a.seconds))
    print(table(rows))
    save("overload", rows, path=a.output, slo_ms=SLO_S * 1e3)


if __name__ == "__main__":
    main()
