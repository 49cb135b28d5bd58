"""Each model alone: latency, throughput, repeat noise, load time and memory, over batch sizes 1 to 8.

    python benchmarks/gpu/solo.py [--device cuda:0|cpu|emulated] [--seconds N] [--out FOLDER] [--resume]

Passes over all classes, so that what drifts in minutes shows between passes and what varies from run to run within
one. In each pass a class runs once to warm up and then as often as fits into its part of a second. Models are exported
programs of torch; where onnxruntime has its CUDA provider (or with --backends), the same networks as ONNX as well.
"""

import asyncio
import statistics
from collections.abc import Sequence
from itertools import product
from typing import Any

from hardware import State
from script import Budget, Options, parsed, parser, percentile
from workload import Loaded, events_ns, events_only, label, load, open_, prepare, run_alone, takes_events

from cotenant.executor.device import Device
from cotenant.runtime.estimates import BatchClass

FILE = "solo.jsonl"
RUNS = (5, 200)  # of a class in a pass, at least and at most
FORMS = {"pytorch": "torch", "onnxruntime": "onnx"}


def backends_here(kind: str) -> tuple[str, ...]:
    """Those that are worth measuring: ONNX on a GPU only with its CUDA provider."""
    if kind != "cuda":
        return ("pytorch",)
    try:
        import onnxruntime
    except ImportError:
        return ("pytorch",)
    return tuple(FORMS) if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else ("pytorch",)


async def measure(options: Options, backends: Sequence[str], passes: int) -> None:
    """All passes, or as many as the time allows."""
    device, state = open_(options, concurrency=1), State(options.kind, options.index)
    events_only(device)
    told = device.describe()
    facts = {"passes": passes, "backends": list(backends), "device_name": told.name}
    journal = options.journal(FILE, benchmark="solo", **facts)
    there = [(form, *prepare(options, form=form)) for form in (FORMS[backend] for backend in backends)]
    chosen = [(root, form, name) for form, root, names in there for name in names]
    budget = Budget(options.seconds)  # of measuring; making models is not
    for number, (root, form, name) in product(range(passes), chosen):
        point = f"pass{number}/{form}/{name}"
        if point in journal.done:
            continue
        if budget.left_s <= 0:
            print(f"time is over; --resume goes on with {point}")
            return
        before = state.now()
        loaded = load(device, root, name)
        # A fifth of the time is left for loading.
        span_s = 0.8 * options.seconds / (passes * len(chosen) * max(1, len(loaded.chosen())))
        rows = [_load_row(loaded)]
        rows += [await _class_row(device, loaded, known, span_s) for known in loaded.chosen()]
        journal.add(point, rows, before=before, **state.now())
        loaded.model.close()
        print(f"{point}: {'; '.join(map(_told, rows[1:]))}", flush=True)


def _load_row(loaded: Loaded) -> dict[str, Any]:
    row = {"type": "load", "model": loaded.name, "backend": loaded.config.backend, "load_ns": loaded.load_ns}
    return row | {"memory_bytes": loaded.model.memory_bytes}


async def _class_row(device: Device, loaded: Loaded, known: BatchClass, span_s: float) -> dict[str, Any]:
    timed = takes_events(device, loaded.model)
    first = await run_alone(device, loaded, known, 1)
    warm = await run_alone(device, loaded, known, 2, timed=timed)
    least, most = RUNS
    count = min(most, max(least, span_s * 1e9 / max(1, warm[-1].duration_ns)))
    ran = await run_alone(device, loaded, known, int(count), timed=timed)
    durations_ns = [one.duration_ns for one in ran]
    row = {"type": "solo", "model": loaded.name, "backend": loaded.config.backend, "class": label(known)}
    row |= {"batch_size": known.batch_size, "shape_bucket": known.shape_bucket, "first_ns": first[0].duration_ns}
    row |= {"median_ns": int(statistics.median(durations_ns)), "durations_ns": durations_ns}
    if told := [events_ns(one.kernels) for one in ran if one.kernels]:
        row["events_ns"] = told
    return row


def _told(row: dict[str, Any]) -> str:
    median, spread = row["median_ns"], percentile(row["durations_ns"], 0.95) / row["median_ns"] - 1
    rate = row["batch_size"] / median * 1e9
    return f"{row['class'].partition(':')[2]} {median / 1e6:.2f} ms (p95 +{spread:.1%}, {rate:.0f} items/s)"


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    p = parser(__doc__, seconds=150.0)
    p.add_argument("--backends", default="", help=f"of {', '.join(FORMS)} (default: those that are here)")
    p.add_argument("--passes", type=int, default=3, help="over all classes (default: 3)")
    options, arguments = parsed(p, argv)
    backends = tuple(name for name in arguments.backends.split(",") if name) or backends_here(options.kind)
    if unknown := [name for name in backends if name not in FORMS]:
        p.error(f"--backends: there is no {unknown[0]}, expected {', '.join(FORMS)}")
    try:
        asyncio.run(measure(options, backends, arguments.passes))
    except ValueError as error:
        raise SystemExit(f"solo: {error}") from error


if __name__ == "__main__":
    main()
