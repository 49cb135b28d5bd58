"""CPU per request of the whole data path: the identity model, over all our processes.

    python benchmarks/datapath.py [--seconds 5] [--repeat 5]

Closed loop over one channel; FP32[1,16] and FP32[1,3,224,224] (602 KB) at concurrency 1, 8 and 64, the cells in turn,
repeated, medians told. CPU is user plus system time of all services (client not counted) over completed requests.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import Any

from common import Client, cpu_s, difference, identity_request, median, percentile, save

from cotenant.cli.stack import Stack, StackOptions

CONFIG = """
backend: "identity"
max_batch_size: 64
input [{ name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] }]
output [{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1 ] }]
dynamic_batching {}
parameters { key: "shape_buckets" value { string_value: "16,150528" } }
parameters { key: "profile_batch_sizes" value { string_value: "1,8,64" } }
"""
CELLS = [(elements, concurrency) for elements in (16, 150_528) for concurrency in (1, 8, 64)]


async def measure(stack: Stack, elements: int, concurrency: int, seconds: float) -> dict[str, Any]:
    client, request = Client(stack.url), identity_request("identity", elements)
    await client.closed_loop(request, concurrency, 0.5)
    before = cpu_s(stack)
    latencies = await client.closed_loop(request, concurrency, seconds)
    spent = difference(cpu_s(stack), before)
    await client.channel.close()
    return {
        "bytes": elements * 4,
        "concurrency": concurrency,
        "requests_per_s": len(latencies) / seconds,
        "p50_ms": percentile(latencies, 0.5) * 1e3,
        "p99_ms": percentile(latencies, 0.99) * 1e3,
        "cpu_us_per_request": sum(spent.values()) / len(latencies) * 1e6,
        "by_service": {name: s / len(latencies) * 1e6 for name, s in spent.items()},
    }


async def run(seconds: float, repeat: int, *, sockets: bool) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        (repository / "identity" / "1").mkdir(parents=True)
        (repository / "identity" / "config.pbtxt").write_text(CONFIG, encoding="utf-8")
        options = StackOptions(repository, Path(folder) / "run", port=18701, metrics=False, sockets=sockets)
        async with Stack(options) as stack:
            await stack.models_settled(120)
            for _ in range(repeat):
                for elements, concurrency in CELLS:
                    rows.append(await measure(stack, elements, concurrency, seconds))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--tcp", action="store_true", help="TCP between services instead of Unix sockets")
    arguments = parser.parse_args()
    rows = asyncio.run(run(arguments.seconds, arguments.repeat, sockets=not arguments.tcp))
    path = save("datapath", rows)
    print("| tensor | concurrency | CPU us/request | requests/s | p50 ms | p99 ms | by service |")
    print("|---|---|---|---|---|---|---|")
    for elements, concurrency in CELLS:
        cell = [r for r in rows if r["bytes"] == elements * 4 and r["concurrency"] == concurrency]
        by = {name: median([r["by_service"][name] for r in cell]) for name in cell[0]["by_service"]}
        cpu, rate, p50, p99 = (
            median([r[key] for r in cell]) for key in ("cpu_us_per_request", "requests_per_s", "p50_ms", "p99_ms")
        )
        told = ", ".join(f"{name} {us:.0f}" for name, us in by.items())
        print(f"| {elements * 4} B | {concurrency} | {cpu:.0f} | {rate:.0f} | {p50:.2f} | {p99:.2f} | {told} |")
    print(f"\nraw results in {path}")


if __name__ == "__main__":
    main()
