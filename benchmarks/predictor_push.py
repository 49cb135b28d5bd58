"""What estimates cost to push: bytes and time, complete and as changes, for many models.

    python benchmarks/predictor_push.py [--models 2000] [--sizes 8] [--learner fluid]

Everything in one process, without a network: a predictor's knowledge of one device is filled with a solo measurement
of each class and batches beside others, then told to a subscriber that applies every frame as the scheduler does.
"""

import argparse
import itertools
import random
import time
from functools import cache
from typing import Any

from common import median, save

from cotenant.predictor.knowledge import Knowledge
from cotenant.predictor.known_device import DeviceSpec, KnownDevice
from cotenant.predictor.observations import Observation, Profile, Slice
from cotenant.predictor.publishing import Watcher
from cotenant.runtime.estimates import BatchClass, EstimateTable, Phase
from cotenant.scheduler import codec
from cotenant.v1 import predictor_pb2 as pb

PHASES = 8  # of each class: as many as an executor tells at most
RESOURCES = ("sm", "l2", "dram")
BATCHES = 10  # between two pushes
BAR_BYTES = 10_000_000


def fill(knowledge: Knowledge, models: int, sizes: int) -> tuple[KnownDevice, list[BatchClass]]:
    noise = random.Random(0)
    device = knowledge.device(DeviceSpec("gpu-0", "emulated", "made-up GPU", RESOURCES))
    classes = [BatchClass(f"tenant-model-{i:04}", "1", 2**size) for i in range(models) for size in range(sizes)]
    for batch_class in classes:
        work_ns = noise.randrange(1_000_000, 50_000_000)
        phases = tuple(Phase(i / PHASES, tuple(noise.random() for _ in RESOURCES), 1e5) for i in range(1, PHASES + 1))
        knowledge.learn_profile(device, Profile(batch_class, work_ns, demand_of(batch_class), 20, 1e5, phases))
    for batch_class in classes:
        learn(knowledge, device, batch_class, noise.choice(classes), noise)
    return device, classes


@cache
def demand_of(batch_class: BatchClass) -> tuple[float, ...]:
    """Made up, the same in every run."""
    noise = random.Random(str(batch_class))
    return tuple(noise.random() for _ in RESOURCES)


def learn(
    knowledge: Knowledge, device: KnownDevice, victim: BatchClass, other: BatchClass, noise: random.Random
) -> None:
    work = device.model.learner.work_ns(victim)
    wanted = [a + b for a, b in zip(demand_of(victim), demand_of(other), strict=True)]
    duration = int(work * max(1.0, *wanted) * noise.gauss(1.0, 0.03))
    seen = Observation(victim, duration, (Slice(duration, (other,)),), int(work * 1.5), int(work), 1)
    knowledge.learn_batch(device, seen)


def timed_frames(watcher: Watcher) -> tuple[list[bytes], list[float]]:
    """The frames of a push as bytes, and the seconds that each took to make."""
    frames: list[bytes] = []
    took: list[float] = []
    iterator = watcher.frames(itertools.count(1))
    while True:
        started = time.perf_counter()
        frame = next(iterator, None)
        if frame is None:
            return frames, took
        frames.append(frame.SerializeToString())
        took.append(time.perf_counter() - started)


def apply(table: EstimateTable, frames: list[bytes]) -> list[float]:
    took = []
    for data in frames:
        started = time.perf_counter()
        for event in codec.estimates(pb.WatchEstimatesResponse.FromString(data), ["gpu-0"]):
            table.update(event.classes, event.sets, complete=event.complete)
        took.append(time.perf_counter() - started)
    return took


def row(kind: str, frames: list[bytes], made: list[float], applied: list[float]) -> dict[str, Any]:
    parsed = [pb.WatchEstimatesResponse.FromString(data) for data in frames]
    return {
        "push": kind,
        "frames": len(frames),
        "classes": sum(len(frame.classes) for frame in parsed),
        "sets": sum(len(frame.sets) for frame in parsed),
        "bytes": sum(map(len, frames)),
        "largest_frame_bytes": max(map(len, frames), default=0),
        "make_ms": sum(made) * 1e3,
        "make_longest_frame_ms": max(made, default=0.0) * 1e3,
        "apply_ms": sum(applied) * 1e3,
        "apply_longest_frame_ms": max(applied, default=0.0) * 1e3,
    }


def typical(deltas: list[dict[str, Any]], learned: int) -> list[dict[str, Any]]:
    """Medians of pushes that told only what had learned, and of those that told others again: kinds that occurred."""
    few = [{**d, "push": f"change after {learned} batches"} for d in deltas if d["classes"] <= learned]
    shared = [
        {**d, "push": "the same while all classes are told again in parts"} for d in deltas if d["classes"] > learned
    ]
    return [
        {"push": rows[0]["push"], "pushes": len(rows)}
        | {key: median([row[key] for row in rows]) for key in rows[0] if key != "push"}
        for rows in (few, shared)
        if rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=2000)
    parser.add_argument("--sizes", type=int, default=8)
    parser.add_argument("--learner", default="fluid")
    chosen = parser.parse_args()

    knowledge = Knowledge(chosen.learner)
    device, classes = fill(knowledge, chosen.models, chosen.sizes)
    table, noise = EstimateTable(), random.Random(1)
    device.news()  # as the service does: what a complete push tells is no news
    watcher = Watcher(knowledge, (0.95, 0.99), {})
    frames, made = timed_frames(watcher)
    rows = [row("complete", frames, made, apply(table, frames))]
    told = set(table.classes)
    assert told == set(classes), f"{len(told)} of {len(classes)} classes were told"

    deltas = []
    for _ in range(200):  # pushes 100 ms apart on a device that runs 100 batches a second of 40 classes
        for _ in range(BATCHES):
            learn(knowledge, device, noise.choice(classes[:40]), noise.choice(classes[:40]), noise)
        watcher.news(device, *device.news())
        frames, made = timed_frames(watcher)
        deltas.append(row("", frames, made, apply(table, frames)))
    rows += typical(deltas, BATCHES)

    for one in rows:
        print(one)
    verdict = "within" if rows[0]["bytes"] <= BAR_BYTES else "ABOVE"
    print(f"complete push of {len(classes)} classes: {rows[0]['bytes'] / 1e6:.2f} MB, {verdict} 10 MB")
    print(
        save(f"predictor_push_{chosen.learner}", rows, learner=chosen.learner, models=chosen.models, sizes=chosen.sizes)
    )


if __name__ == "__main__":
    main()
