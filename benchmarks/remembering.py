"""What it costs the scheduler to remember the lives of recent requests: its CPU per request with and without.

    python benchmarks/remembering.py [--seconds 3] [--repeat 5]

Two stacks that differ in nothing else stand side by side; the identity model is asked in a closed loop on 8 and on 64
lanes, of one and of the other in turn. Told are medians, and the ratio of each pair of neighbours in time.
"""

import argparse
import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from common import Client, cpu_s, difference, identity_request, median, save
from datapath_peers import OURS

from cotenant.cli.stack import Stack, StackOptions

SETTINGS = {"nothing": ("--explain-requests=0",), "the default": ()}
LANES = (8, 64)


async def measure(stack: Stack, lanes: int, seconds: float) -> dict[str, float]:
    client, request = Client(stack.url), identity_request("identity", 16)
    await client.closed_loop(request, lanes, 0.3)
    before = cpu_s(stack)
    latencies = await client.closed_loop(request, lanes, seconds)
    spent = difference(cpu_s(stack), before)
    await client.channel.close()
    return {"scheduler_us_per_request": spent["scheduler"] / len(latencies) * 1e6, "requests": len(latencies)}


async def run(seconds: float, repeat: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    async with AsyncExitStack() as stacks:
        folder = Path(stacks.enter_context(tempfile.TemporaryDirectory()))
        (folder / "models" / "identity" / "1").mkdir(parents=True)
        (folder / "models" / "identity" / "config.pbtxt").write_text(OURS, encoding="utf-8")
        running: dict[str, Stack] = {}
        for i, (name, flags) in enumerate(SETTINGS.items()):
            options = StackOptions(
                folder / "models",
                folder / f"run{i}",
                port=18731 + i,
                metrics=False,
                sockets=True,
                extra={"scheduler": flags},
            )
            running[name] = await stacks.enter_async_context(Stack(options))
            await running[name].models_settled(120)
        for turn in range(repeat):
            for lanes in LANES:
                for name in list(running)[:: 1 if turn % 2 else -1]:
                    row = await measure(running[name], lanes, seconds)
                    rows.append({"turn": turn, "lanes": lanes, "remembers": name, **row})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    rows = asyncio.run(run(arguments.seconds, arguments.repeat))
    path = save("remembering", rows)
    print("| lanes | it remembers | scheduler's CPU us/request | ratio to nothing, pair by pair |\n|---|---|---|---|")
    for lanes in LANES:
        cells = {
            name: [r["scheduler_us_per_request"] for r in rows if (r["lanes"], r["remembers"]) == (lanes, name)]
            for name in SETTINGS
        }
        for name, cell in cells.items():
            ratio = median([a / b for a, b in zip(cell, cells["nothing"], strict=True)])
            print(f"| {lanes} | {name} | {median(cell):.0f} | {ratio:.3f} |")
    print(f"\nraw results in {path}")


if __name__ == "__main__":
    main()
