"""Feeds bad inputs to everything that reads what others wrote, and tells what broke.

    python benchmarks/fuzz                                every target, a million inputs in all; goes on where it was
    python benchmarks/fuzz wire configs --inputs 20000    these two, until each had 20,000
    python benchmarks/fuzz --seconds 2 --state /tmp/x     every target for two seconds
    python benchmarks/fuzz events --only 1234             one input again, with what it holds

Inputs follow from the seed, so a finding is fed again by its number. docs/experiments/fuzzing.md tells what was found.
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != HERE]  # `logs` and the like are ours alone

from common import RESULTS, save  # noqa: E402
from fuzz import campaign  # noqa: E402
from fuzz.services import LAST  # noqa: E402
from fuzz.targets import SHARES, TARGETS  # noqa: E402

MILLION = 1_000_000
KEEP_S = 5.0


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("targets", nargs="*", help=f"default: {', '.join(TARGETS)}")
    p.add_argument("--inputs", type=int, help="for each target; default: its share of a million")
    p.add_argument("--seconds", type=float, help="for each target at most")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--only", type=int, metavar="N", help="feed input N alone")
    p.add_argument("--state", type=Path, default=HERE / "state", help="folder of what was done (default: %(default)s)")
    p.add_argument("--json", type=Path, default=RESULTS / "fuzzing.json", help="results (default: %(default)s)")
    return p


async def one(name: str, a: argparse.Namespace, progress: campaign.Progress) -> None:
    """Feeds a target, and keeps what was done from time to time."""
    path = a.state / f"{name}.json"
    run = campaign.Campaign(TARGETS[name](), progress)
    until = a.inputs or int(SHARES[name] * MILLION)
    stop_s = time.monotonic() + a.seconds if a.seconds else None
    running = asyncio.create_task(run.run(until, stop_s))
    while not running.done():
        await asyncio.wait({running}, timeout=KEEP_S)
        campaign.write(path, progress)
    await running


def feed(name: str, a: argparse.Namespace) -> campaign.Progress:
    """Feeds a target its inputs, through deaths of the process's loop, which are findings."""
    progress = campaign.read(a.state / f"{name}.json", name, a.seed)
    while True:
        try:
            asyncio.run(one(name, a, progress))
        except SystemExit as error:  # a service ended the process
            text = f"a service died with {error.code}: {list(LAST)}"
            progress.findings.append({"input": progress.inputs - 1, "text": text})
        else:
            break
    campaign.write(a.state / f"{name}.json", progress)
    return progress


async def again(name: str, number: int, seed: int) -> campaign.Progress:
    """Feeds one input alone."""
    progress = campaign.Progress(name, seed)
    run = campaign.Campaign(TARGETS[name](), progress)
    await run.target.open()
    try:
        print(run.target.make(campaign.Random(f"{seed} {name} {number}")))
        await run.feed(number)
        await run.target.settled()
    finally:
        await run.target.close()
    return progress


def row(progress: campaign.Progress) -> dict[str, Any]:
    return {
        "target": progress.target,
        "inputs": progress.inputs,
        "canaries": progress.canaries,
        "findings": progress.findings,
        "verdicts": dict(sorted(progress.verdicts.items())),
        "seconds": round(progress.seconds, 1),
        "cpu_s": round(progress.cpu_s, 1),
        **campaign.flat(progress.looks),
    }


def main() -> int:
    a = parser().parse_args()
    names = a.targets or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        raise SystemExit(f"no target is called {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    rows = []
    for name in names:
        progress = feed(name, a) if a.only is None else asyncio.run(again(name, a.only, a.seed))
        rows.append(row(progress))
        rate = progress.inputs / max(progress.seconds, 1e-9)
        print(f"{name:12} {progress.inputs:8,} inputs {rate:7,.0f}/s {len(progress.findings):3} findings", flush=True)
        for found in progress.findings:
            print(f"  {found['input']}: {found['text']}", flush=True)
    if a.only is None:
        save("fuzzing", rows, path=a.json, seed=a.seed, total=sum(r["inputs"] for r in rows))
    return 1 if any(r["findings"] for r in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
