"""Memory and speed of the predictor under a long, hostile stream of events.

    python benchmarks/predictor_memory.py [--events 10000000] [--max-classes 20000] [--state FILE] [--seconds S]

Of a hundred events about 70 are of 200 classes that run beside each other, 20 of classes that are seen once, 10 are
broken. Each of the 200 goes after half a million events, and a new one comes in its place, in turn, so 10
million events bring some two million classes, 1.6 million pairs of the 200, and, with a new incarnation for every
thousand events, ten thousand incarnations. Every measured class has eight phases, and every slice tells for how long
its co-runner had run, so what is believed of running batches is kept and forgotten too. What is learned is written to
SQLite and told to a subscriber as often as in the service at 10,000 events a second. Memory is read after every million
events; --seconds ends it after the first reading later than that, with what was reached.
"""

import argparse
import itertools
import math
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from cotenant.cli.evaluate_plots import Axis, Line, draw
from cotenant.predictor.contract.peer import RESOURCES, finished, profiled
from cotenant.predictor.kept import changes
from cotenant.predictor.knowledge import Knowledge
from cotenant.predictor.known_device import DeviceSpec, KnownDevice
from cotenant.predictor.publishing import Watcher
from cotenant.predictor.store import Store
from cotenant.v1 import executor_pb2

STEADY = 200
LIFE = 500_000  # events, from the coming of one of them to its going
FRAME = 100  # events
PHASES = 8
MS = 1_000_000
PART = 1_000_000  # events between two rows
LEVEL = 0.99
PUSH_EVERY, SAVE_EVERY = 10, 50  # frames


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """The most that was ever in RAM of this process."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def steady(place: int, number: int) -> str:
    """Who has one of the steady places at an event; places change hands in turn."""
    return f"steady-{place}-{(number + place * (LIFE // STEADY)) // LIFE}"


def measured(noise: random.Random, sequence: int, model: str) -> executor_pb2.ExecutorEvent:
    """A solo measurement of a class with phases of their own demands and durations of kernels."""
    told = profiled(sequence, model)
    for i in range(PHASES):
        phase = told.class_profiled.phases.add(end=(i + 1) / PHASES, kernel_ns=noise.uniform(2e4, 2e6))
        phase.demand.extend([noise.random() for _ in RESOURCES])
    told.class_profiled.kernel_ns = 1e6
    return told


def met(noise: random.Random, sequence: int, number: int, victim: str) -> executor_pb2.ExecutorEvent:
    """A batch that ran beside one of the steady classes, which had begun a little earlier."""
    other, duration_ms = steady(noise.randrange(STEADY), number), noise.uniform(10, 25)
    told = finished(sequence, victim, duration_ms, beside=other, forecast_ms=15)
    told.batch_finished.started_ns = number * MS
    told.at_ns = told.batch_finished.started_ns + told.batch_finished.duration_ns
    told.batch_finished.slices[0].co_runner_elapsed_ns.append(noise.randrange(10 * MS))
    return told


def event(noise: random.Random, sequence: int, number: int) -> executor_pb2.ExecutorEvent:
    if number < STEADY:
        return measured(noise, sequence, steady(number, number))
    if number % (LIFE // STEADY) == 0:  # somebody new has come to the place that changes hands now
        place = -number // (LIFE // STEADY) % STEADY
        return measured(noise, sequence, steady(place, number))
    kind = noise.random()
    if kind < 0.7:
        return met(noise, sequence, number, steady(noise.randrange(STEADY), number))
    if kind < 0.8:
        return measured(noise, sequence, f"new-{number}")
    if kind < 0.9:
        return met(noise, sequence, number, f"new-{number}")
    broken = finished(sequence, "steady-1", 10.0, beside="steady-2")
    broken.batch_finished.slices[0].duration_ns = noise.choice((0, 2**63, 5))
    return broken


def pairs(device: KnownDevice) -> int:
    """Corrections for pairs of classes that estimates tell."""
    return sum(len(device.model.estimate(known, (LEVEL,)).corrections) for known in device.model.classes)


def file_bytes(state: Path | None) -> int:
    """Of the database, with what is not yet merged into it."""
    return sum(part.stat().st_size for part in state.parent.glob(state.name + "*")) if state else 0


def flood(
    events: int, *, max_classes: int, state: Path | None, parts: int, seconds: float = math.inf
) -> list[dict[str, Any]]:
    """Plays the stream; returns a row for each part of it, until `seconds` are over."""
    noise = random.Random(0)
    knowledge, store = Knowledge(max_classes=max_classes), Store(state)
    device = knowledge.device(DeviceSpec("gpu-0", "emulated", "made-up GPU", RESOURCES))
    watcher, versions = Watcher(knowledge, (LEVEL,), {}), itertools.count(1)
    rows, started, number = [], time.perf_counter(), 0
    learning_s = 0.0
    for _ in range(parts):
        for frame in range(events // parts // FRAME):
            incarnation, sequence = divmod(number, 1000)
            batch = [event(noise, sequence + i + 1, number + i) for i in range(FRAME)]
            number += FRAME
            begun = time.perf_counter()
            knowledge.learn(device, incarnation, batch, opening=sequence == 0)
            learning_s += time.perf_counter() - begun
            if frame % PUSH_EVERY == 0:
                watcher.news(device, *device.news())
                for _ in watcher.frames(versions):
                    pass
            if frame % SAVE_EVERY == 0:
                store.write(changes(knowledge, knowledge.unsaved_since()))
        rows.append(
            {
                "events": number,
                "resident_mb": resident_bytes() / 1e6,
                "peak_mb": peak_bytes() / 1e6,
                "state_mb": file_bytes(state) / 1e6,
                "classes": len(knowledge.used),
                "classes_forgotten": knowledge.forgotten,
                "pairs": pairs(device),
                "incarnations": len(device.sources),
                "rejected": sum(knowledge.intake.rejected.values()),
                "learn_us_per_event": learning_s / number * 1e6,
                "seconds": time.perf_counter() - started,
            }
        )
        print({k: round(v, 1) for k, v in rows[-1].items()}, flush=True)
        if rows[-1]["seconds"] > seconds:
            break
    store.close()
    return rows


def plot(rows: list[dict[str, Any]]) -> str:
    """Memory and file over events."""
    lines = [
        Line(name, [(row["events"] / 1e6, row[key]) for row in rows])
        for name, key in (
            ("resident memory", "resident_mb"),
            ("its peak so far", "peak_mb"),
            ("SQLite file", "state_mb"),
        )
    ]
    highest = max(y for line in lines for _, y in line.points)
    along = Axis("million events", 0.0, rows[-1]["events"] / 1e6)
    return draw("Memory of the predictor", along, Axis("MB", 0.0, highest * 1.1), lines)


def main() -> None:
    from common import RESULTS, save

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--max-classes", type=int, default=20_000)
    parser.add_argument("--state", type=Path, default=None)
    parser.add_argument("--seconds", type=float, default=math.inf)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        state = chosen.state or Path(folder) / "predictor.sqlite"
        parts = max(2, chosen.events // PART)
        limits = {"max_classes": chosen.max_classes, "parts": parts, "seconds": chosen.seconds}
        rows = flood(chosen.events, state=state, **limits)
    (RESULTS / "predictor_memory.svg").write_text(plot(rows), encoding="utf-8")
    settled = rows[max(0, min(1, len(rows) - 2))]
    grown = rows[-1]["resident_mb"] - settled["resident_mb"]
    print(f"from {settled['events']:,} events to {rows[-1]['events']:,}: {grown:+.1f} MB")
    print(save("predictor_memory", rows, max_classes=chosen.max_classes))


if __name__ == "__main__":
    main()
