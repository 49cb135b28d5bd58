"""Weathers a storm: a whole stack under load, while a seeded script of faults strikes.

    python benchmarks/storm [--requests 100000] [--rate 150] [--seed 1] [--links auto|namespaces|proxies] [--output F]

Prints a table of how long it took until requests were served again, and every promise that was broken (none, or the
exit status is 1); writes all that was seen to benchmarks/results/storm.json.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import save
from faults import script
from raging import rage
from stage import INSIDE, Stage, isolate, may_isolate
from verdict import broken, state_after, summary, table


async def weather(folder: Path, a: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Runs a storm; returns what was seen and what was broken."""
    stage = Stage(folder / "stage", namespaces=INSIDE in os.environ)
    try:
        async with stage:
            await stage.models_settled(timeout_s=120)
            storm = await rage(
                stage,
                script(stage, a.seed, longest_s=a.longest_fault_s),
                requests=a.requests,
                rate_per_s=a.rate,
                seed=a.seed,
                tell=lambda line: print(line, flush=True),
            )
            seen, wrong = summary(stage, storm), broken(storm)
        return seen, wrong + state_after(stage)
    finally:
        if a.keep_logs:
            for name in stage.services:
                (a.keep_logs / f"{name}.log").write_bytes(stage.log(name).read_bytes())
        stage.remove()


def main() -> None:
    """See the module's text."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--requests", type=int, default=100_000)
    p.add_argument("--rate", type=float, default=150.0, help="requests per second")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--longest-fault-s", type=float, default=5.0)
    p.add_argument("--links", choices=["auto", "namespaces", "proxies"], default="auto")
    p.add_argument("--output", type=Path)
    p.add_argument("--keep-logs", type=Path, help="folder for the services' logs")
    a = p.parse_args()
    if a.links != "proxies" and INSIDE not in os.environ:
        if may_isolate():
            isolate()
        if a.links == "namespaces":
            raise SystemExit("network namespaces are not permitted here; --links proxies needs none")
    with tempfile.TemporaryDirectory(prefix="cotenant-storm-", dir="/dev/shm") as folder:
        seen, wrong = asyncio.run(weather(Path(folder), a))
    print(table(seen["recovery"]))
    print(f"{seen['requests']} requests in {seen['seconds']} s over {seen['links']}, disk: {seen['disk']}")
    print(f"answers: {seen['answers']}, longest {seen['longest_answer_s']} s; {seen['blows']} blows")
    for line in wrong:
        print(f"BROKEN: {line}")
    save("storm", [], path=a.output, seed=a.seed, rate_per_s=a.rate, broken=wrong, seen=seen)
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
