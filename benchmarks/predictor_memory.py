"""Memory and speed of the predictor under a long, hostile stream of events.

    python benchmarks/predictor_memory.py [--events 10000000] [--max-classes 20000] [--state FILE]

Of a hundred events about 70 are of 200 classes that run all the time beside each other, 20 of classes that were never
seen before, 10 are broken; every thousand events come from a new incarnation, so 10 million events bring some two
million classes and ten thousand incarnations. What is learned is written to SQLite and told to a subscriber as often as
in the service at 10,000 events a second. Resident memory is read after every twentieth part.
"""

import argparse
import itertools
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from cotenant.predictor.contract.peer import RESOURCES, finished, profiled
from cotenant.predictor.kept import changes
from cotenant.predictor.knowledge import Knowledge
from cotenant.predictor.known_device import DeviceSpec
from cotenant.predictor.publishing import Watcher
from cotenant.predictor.store import Store
from cotenant.v1 import executor_pb2

STEADY = 200
FRAME = 100  # events
PUSH_EVERY, SAVE_EVERY = 10, 50  # frames


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def event(noise: random.Random, sequence: int, number: int) -> executor_pb2.ExecutorEvent:
    kind = noise.random()
    if kind < 0.7:
        victim, other = (f"steady-{noise.randrange(STEADY)}" for _ in range(2))
        return finished(sequence, victim, noise.uniform(10, 25), beside=other, forecast_ms=15)
    if kind < 0.8:
        return profiled(sequence, f"new-{number}")
    if kind < 0.9:
        return finished(sequence, f"new-{number}", noise.uniform(10, 25), beside=f"steady-{noise.randrange(STEADY)}")
    broken = finished(sequence, "steady-1", 10.0, beside="steady-2")
    broken.batch_finished.slices[0].duration_ns = noise.choice((0, 2**63, 5))
    return broken


def flood(events: int, *, max_classes: int, state: Path | None, parts: int = 20) -> list[dict[str, Any]]:
    """Plays the stream; returns a row for each part of it."""
    noise = random.Random(0)
    knowledge, store = Knowledge(max_classes=max_classes), Store(state)
    device = knowledge.device(DeviceSpec("gpu-0", "emulated", "made-up GPU", RESOURCES))
    watcher, versions = Watcher(knowledge, (0.99,), {}), itertools.count(1)
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
                "state_mb": (state.stat().st_size if state else 0) / 1e6,
                "classes": len(knowledge.used),
                "classes_forgotten": knowledge.forgotten,
                "rejected": sum(knowledge.intake.rejected.values()),
                "learn_us_per_event": learning_s / number * 1e6,
                "seconds": time.perf_counter() - started,
            }
        )
        print({k: round(v, 1) for k, v in rows[-1].items()}, flush=True)
    store.close()
    return rows


def main() -> None:
    from common import save

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--max-classes", type=int, default=20_000)
    parser.add_argument("--state", type=Path, default=None)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        state = chosen.state or Path(folder) / "predictor.sqlite"
        rows = flood(chosen.events, max_classes=chosen.max_classes, state=state)
    print(save("predictor_memory", rows, max_classes=chosen.max_classes))


if __name__ == "__main__":
    main()
