"""CPU per request of the whole data path, beside tritonserver and MLServer: an identity model, over all processes.

    scripts/oracle; scripts/peers                        the peers, once
    python benchmarks/datapath.py [--seconds 3] [--repeat 5]

Closed loop over one channel of `grpc.aio`; FP32[1,16] and FP32[1,3,224,224] (602 KB) at concurrency 1, 8 and 64. The
servers are up together and measured in turn, cell by cell, all of it repeated; medians are told. CPU is user plus
system time of all of a server's processes (the client not counted) over completed requests.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from common import Client, difference, identity_request, median, percentile, save
from datapath_peers import Peer, peers

CELLS = [(elements, concurrency) for elements in (16, 150_528) for concurrency in (1, 8, 64)]
WARM_S = 0.4


async def measure(name: str, peer: Peer, elements: int, concurrency: int, seconds: float) -> dict[str, Any]:
    client, request = Client(peer.url), identity_request("identity", elements)
    await client.closed_loop(request, concurrency, WARM_S)
    before, own, machine, began = peer.cpu_s(), _own_s(), _machine_s(), time.perf_counter()
    latencies = await client.closed_loop(request, concurrency, seconds)
    spent, took = difference(peer.cpu_s(), before), time.perf_counter() - began
    others = _machine_s() - machine - (_own_s() - own) - sum(spent.values())
    await client.channel.close()
    return {
        "server": name,
        "bytes": elements * 4,
        "concurrency": concurrency,
        "requests_per_s": len(latencies) / took,
        "p50_ms": percentile(latencies, 0.5) * 1e3,
        "p99_ms": percentile(latencies, 0.99) * 1e3,
        "cpu_us_per_request": sum(spent.values()) / len(latencies) * 1e6,
        "by_process": {process: s / len(latencies) * 1e6 for process, s in spent.items()},
        "other_load_cores": max(0.0, others) / took,
    }


def _own_s() -> float:
    times = psutil.Process().cpu_times()
    return times.user + times.system


def _machine_s() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice + times.softirq + times.irq)


async def run(seconds: float, repeat: int, *, sockets: bool) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        found = peers(Path(folder), 18701, sockets=sockets)
        try:
            for peer in found.values():
                await peer.start()
            for i in range(repeat):
                for elements, concurrency in CELLS:
                    for name in list(found)[:: 1 if i % 2 == 0 else -1]:
                        row = await measure(name, found[name], elements, concurrency, seconds)
                        rows.append(row)
        finally:
            for peer in found.values():
                await peer.stop()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--tcp", action="store_true", help="TCP between our services instead of Unix sockets")
    arguments = parser.parse_args()
    rows = asyncio.run(run(arguments.seconds, arguments.repeat, sockets=not arguments.tcp))
    path = save("datapath", rows)
    print("| tensor | concurrency | server | CPU us/request | requests/s | p50 ms | p99 ms | by process |")
    print("|---|---|---|---|---|---|---|---|")
    for elements, concurrency in CELLS:
        for server in dict.fromkeys(r["server"] for r in rows):
            told = [
                r for r in rows if (r["server"], r["bytes"], r["concurrency"]) == (server, elements * 4, concurrency)
            ]
            keys = ("cpu_us_per_request", "requests_per_s", "p50_ms", "p99_ms")
            cpu, rate, p50, p99 = (median([r[key] for r in told]) for key in keys)
            by = {name: median([r["by_process"][name] for r in told]) for name in told[0]["by_process"]}
            parts = ", ".join(f"{name} {us:.0f}" for name, us in by.items()) if len(by) > 1 else ""
            cell = f"| {elements * 4} B | {concurrency} | {server} "
            print(f"{cell}| {cpu:.0f} | {rate:.0f} | {p50:.2f} | {p99:.2f} | {parts} |")
    print(f"\nother load: median {median([r['other_load_cores'] for r in rows]):.2f} cores; raw results in {path}")


if __name__ == "__main__":
    main()
