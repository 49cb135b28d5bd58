"""Hardware counters of the models' kernels by Nsight Compute, and how far the counted resource profile is from them.

    python benchmarks/gpu/counters.py [--device cuda:0|cpu] [--seconds N] [--out FOLDER] [--resume] [--sizes 8,1,4]
                                      [--ncu PROGRAM]

For each model and batch size ncu runs this script again with --one, which loads the model through its backend, runs it
to warm up, and runs one batch inside cudaProfilerStart and Stop. What ncu prints is kept as `ncu/MODEL/ncu-bSIZE.csv`,
as executors read it from a version's folder (docs/backends.md), and beside it goes the profile that the executor counts
by itself of the same class. Clocks are left as they are (--clock-control none), so durations are those of this device.
"""

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from hardware import State
from script import HERE, Budget, Options, parsed, parser
from workload import TOKENS, Loaded, load, open_, prepare, run

from cotenant.executor import nsight
from cotenant.executor.demand import RESOURCES, Solo
from cotenant.executor.device import Device
from cotenant.runtime.estimates import BatchClass

FILE, FOLDER = "counters.jsonl", "ncu"
METRICS = (
    "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "lts__throughput.avg.pct_of_peak_sustained_elapsed",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "gpu__time_duration.sum",
)
LIMIT_S = 120  # of one batch under the profiler, which replays its kernels


def command(ncu: str, options: Options, root: Path, model: str, size: int) -> list[str]:
    """What profiles one batch; a CPU as the device is for a program that stands in for ncu."""
    profiler = [ncu, "--csv", "--page", "raw", "--metrics", ",".join(METRICS), "--clock-control", "none"]
    profiler += ["--profile-from-start", "off", "--target-processes", "all"]
    device = f"--device={options.device}"
    return [*profiler, sys.executable, str(HERE / "counters.py"), device, f"--one={root}:{model}:{size}"]


async def one_batch(options: Options, named: str) -> None:
    """What the profiler runs: a batch of a model, warm, between the profiler's start and stop."""
    root, model, size = named.rsplit(":", 2)
    device = open_(options, concurrency=1)
    loaded = load(device, Path(root), model)
    known = _class(loaded, int(size))
    for _ in range(3):
        await run(device, loaded, known)
    if options.kind != "cuda":
        await run(device, loaded, known)
        return
    import torch

    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStart()
    await run(device, loaded, known)
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStop()


def _class(loaded: Loaded, size: int) -> BatchClass:
    return next(one for one in loaded.chosen((size,), tokens=TOKENS))


async def counted(device: Device, root: Path, model: str, sizes: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The resource profile of each class as the executor makes it without Nsight, and its solo time."""
    loaded = load(device, root, model)
    operators = {}
    counting = loaded.model.counted()
    chosen = [_class(loaded, size) for size in sizes]
    if counting is not None:
        shadow = Loaded(loaded.config, counting, 0, loaded.inputs)
        for known in chosen:  # the second run counts: the first one may choose algorithms
            for _ in range(2):
                await run(device, shadow, known)
        runs = counting.operators()
        operators = {known: runs[2 * i + 1] for i, known in enumerate(chosen)}
    found = {}
    for known in chosen:
        ran = sorted([await run(device, loaded, known) for _ in range(10)], key=lambda one: one.duration_ns)[5]
        io_bytes = sum(array.nbytes for array in loaded.inputs[known].values())
        read = getattr(loaded.model, "weight_bytes", loaded.model.memory_bytes)
        solo = Solo(known, ran.duration_ns, ran.cpu_ns, read, io_bytes, operators.get(known, ()))
        told = device.demand(loaded.model, solo)
        found[known.batch_size] = {
            "work_ns": ran.duration_ns,
            "basis": told.basis,
            "shares": dict(zip(RESOURCES, told.shares, strict=True)),
            "operators": len(operators.get(known, ())),
            "flops": sum(operator.flops for operator in operators.get(known, ())),
        }
    if counting is not None:
        counting.close()
    loaded.model.close()
    return found


def measured(csv: Path, work_ns: int) -> dict[str, Any]:
    """What Nsight Compute says of the same class. Raises ValueError that names the line."""
    with csv.open(encoding="utf-8", newline="") as lines:
        means = nsight.kernel_means(lines)
    busy = min(1.0, means.total_ns / max(1, work_ns))
    return {
        "kernels": len(means.kernels),
        "kernels_ns": means.total_ns,
        "busy": busy,  # share of the batch's time in which a kernel runs; copies and launches are the rest
        "shares": dict(zip(RESOURCES, (busy * share for share in means.throughputs), strict=True)),
    }


async def measure(options: Options, ncu: str, sizes: Sequence[int]) -> None:
    """All models and sizes, or as many as the time allows."""
    root, names = prepare(options)
    journal, budget = options.journal(FILE, benchmark="counters", metrics=METRICS), Budget(options.seconds)
    state = State(options.kind, options.index)
    profiles: dict[str, dict[int, dict[str, Any]]] = {}
    for size, name in product(sizes, names):
        if f"{name}/{size}" in journal.done:
            continue
        if budget.left_s <= 0:
            print(f"time is over; --resume goes on with {name}/{size}")
            return
        if name not in profiles:
            profiles[name] = await counted(open_(options, concurrency=1), root, name, sizes)
        own = profiles[name][size]
        row = {"type": "counters", "model": name, "batch_size": size, "counted": own}
        target = options.out / FOLDER / name / f"ncu-b{size}.csv"
        row |= _profile(command(ncu, options, root, name, size), target, own["work_ns"])
        journal.add(f"{name}/{size}", [row], **state.now())
        print(f"{name}/{size}: {_told(row)}", flush=True)


def _profile(program: Sequence[str], target: Path, work_ns: int) -> dict[str, Any]:
    """Runs the profiler and keeps what it printed; what went wrong where it could not."""
    begin = time.monotonic()
    try:
        ran = subprocess.run(program, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": f"{type(error).__name__}: {error}"[:500]}
    if ran.returncode:
        return {"error": f"status {ran.returncode}: {(ran.stderr or ran.stdout)[-500:]}"}
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(ran.stdout, encoding="utf-8")
    try:
        return {"measured": measured(target, work_ns), "profiler_s": time.monotonic() - begin}
    except ValueError as error:
        target.rename(target.with_suffix(".txt"))
        return {"error": f"{target.name}: {error}"}


def _told(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"FAILED: {row['error']}"
    pairs = [(name, row["measured"]["shares"][name], row["counted"]["shares"][name]) for name in RESOURCES]
    return ", ".join(f"{name} {real:.2f} (counted {own:.2f})" for name, real, own in pairs)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    p = parser(__doc__, seconds=400.0)
    p.add_argument("--sizes", default="8,1,4", help="batch sizes in this order (default: 8,1,4)")
    p.add_argument("--ncu", default="ncu", help="the profiler (default: ncu)")
    p.add_argument("--one", default="", help=argparse.SUPPRESS)
    options, arguments = parsed(p, argv)
    if options.kind == "emulated":
        p.error("--device: the emulated device has no counters")
    try:
        if arguments.one:
            asyncio.run(one_batch(options, arguments.one))
        else:
            asyncio.run(measure(options, arguments.ncu, [int(size) for size in arguments.sizes.split(",")]))
    except ValueError as error:
        raise SystemExit(f"counters: {error}") from error


if __name__ == "__main__":
    main()
