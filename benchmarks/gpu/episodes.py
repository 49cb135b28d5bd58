"""Batches that start at drawn instants beside each other: what is planned, how it is played, and the rows it gives.

An *episode* is a few lanes, each with one class that starts after an offset and runs once or several times in a row.
Offsets are drawn over the lives of the batches, so that they overlap in part, in any order; in the first episode of a
set all start at once. Each episode is repeated with the same offsets, which tells how much is noise.
"""

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workload import Batch, Loaded, events_ns, label, takes_events

from cotenant.cli.load_alarm import Alarm
from cotenant.executor.backend import Model
from cotenant.executor.device import Device, Ran
from cotenant.runtime.clock import now_ns
from cotenant.runtime.estimates import BatchClass

HEAD_START_NS = 300_000  # from planning an episode to its first start


@dataclass(frozen=True)
class Lane:
    """One class that runs `count` times in a row, from `offset_ns` after the episode's beginning."""

    known: BatchClass
    offset_ns: int = 0
    count: int = 1


@dataclass(frozen=True)
class Runnable:
    """What runs when a lane's turn comes: a model with inputs for a class."""

    model: Model
    loaded: Loaded
    sm_count: int = 0  # of the share it runs on; 0 for the whole device


def draw(
    known: Sequence[BatchClass], work_ns: Mapping[BatchClass, int], seed: str, episodes: int
) -> Iterator[list[Lane]]:
    """Episodes of a set of classes.

    In turns, every lane runs once, or those of shorter classes as often as fits into the longest. Offsets put the
    beginning of each lane anywhere from its own length before the first lane's beginning to the first lane's end.
    """
    drawn = random.Random(seed)
    for number in range(episodes):
        longest = max(work_ns[one] for one in known)
        counts = [min(8, round(longest / work_ns[one])) if number % 2 else 1 for one in known]
        counts = [max(1, count) for count in counts]
        spans = [work_ns[one] * count for one, count in zip(known, counts, strict=True)]
        offsets = [0] + [drawn.uniform(-span, spans[0]) if number else 0 for span in spans[1:]]
        first = min(offsets)
        yield [Lane(one, round(at - first), count) for one, at, count in zip(known, offsets, counts, strict=True)]


async def play(device: Device, lanes: Sequence[Lane], models: Sequence[Runnable]) -> list[tuple[int, Ran]]:
    """One episode, from start to end: its batches in order of their starts, each with the number of its lane."""
    begin_ns = now_ns() + HEAD_START_NS
    timed = [takes_events(device, one.model) for one in models]
    ran: list[tuple[int, Ran]] = []

    async def one(number: int) -> None:
        lane, runnable = lanes[number], models[number]
        for _ in range(lane.count):
            batch = Batch(lane.known, runnable.model, runnable.loaded.inputs[lane.known], timed=timed[number])
            await device.execute(batch)
            ran.append((number, batch.ran))

    alarm = Alarm()
    running = []
    try:
        for number in sorted(range(len(lanes)), key=lambda i: lanes[i].offset_ns):
            await alarm.until(begin_ns + lanes[number].offset_ns)
            running.append(asyncio.create_task(one(number)))
            await asyncio.sleep(0)  # it starts now, before the next is waited for
        await asyncio.gather(*running)
    finally:
        alarm.close()
    return sorted(ran, key=lambda found: found[1].started_ns)


def rows(lanes: Sequence[Lane], models: Sequence[Runnable], ran: Sequence[tuple[int, Ran]]) -> Iterator[dict[str, Any]]:
    """A row for each batch. Instants count from the episode's first start."""
    first_ns = ran[0][1].started_ns
    for number, one in ran:
        row: dict[str, Any] = {"type": "batch", "lane": number, "class": label(lanes[number].known)}
        if models[number].sm_count:
            row["sm_count"] = models[number].sm_count
        row |= {"start_ns": one.started_ns - first_ns, "duration_ns": one.duration_ns}
        if told := events_ns(one.kernels):
            row["events_ns"] = told
        row["slices"] = [
            [
                part.duration_ns,
                [[label(who), since] for who, since in zip(part.co_runners, part.elapsed_ns, strict=True)],
            ]
            for part in one.slices
        ]
        yield row
