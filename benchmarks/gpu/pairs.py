"""Batches beside each other: all pairs of models, a sample of triples and quadruples, and pairs on shares of the SMs.

    python benchmarks/gpu/pairs.py [--device cuda:0|cpu|emulated] [--seconds N] [--out FOLDER] [--resume]

Rounds over all pairs of models (itself included), each with some combinations of batch sizes, so that whatever time
there is is spread evenly; four rounds have had every combination. README.md describes the rows: one for each batch,
with its slices. Classes that run alone come in every round too. Shares need green contexts of the driver; where there
are none, the run's line says why, and all else is measured.
"""

import asyncio
import contextlib
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

from episodes import Lane, Runnable, draw, play, rows
from hardware import State
from lanes import Shares
from script import Budget, Options, parsed, parser
from workload import SIZES, TOKENS, Loaded, events_only, label, load, open_, prepare, run_alone

from cotenant.runtime.estimates import BatchClass

FILE = "pairs.jsonl.gz"
LANES = 4
SOLO_RUNS = 10
FAILURES = 3  # in a row after which the device is taken to be unusable
TRIPLES, QUADRUPLES, SHARED = 21, 14, 12  # sets of each kind in a round
PARTS = ((0.25, 0.75), (0.5, 0.5), (0.75, 0.25))  # of the SMs, for pairs on shares
_SEED = "cotenant pairs"


@dataclass(frozen=True)
class Point:
    """A set of classes; `parts` are shares of the SMs, none for the whole device to everyone."""

    name: str
    kind: str  # "solo", "pair", "triple", "quadruple" or "share"
    classes: tuple[BatchClass, ...]
    parts: tuple[float, ...] = ()


def plan(by_model: Mapping[str, Mapping[int, BatchClass]], *, shares: bool) -> Iterator[Point]:
    """Every set to measure, round after round without end; `by_model` has a class for each batch size."""
    names = list(by_model)
    sizes = sorted({size for classes in by_model.values() for size in classes})
    for number in range(10**6):
        drawn = random.Random(f"{_SEED} {number}")
        sets: list[tuple[str, tuple[BatchClass, ...], tuple[float, ...]]] = []
        sets += [("solo", (known,), ()) for classes in by_model.values() for known in classes.values()]
        for pair in combinations_with_replacement(names, 2):
            for i, size in enumerate(sizes):
                other = sizes[(i + number) % len(sizes)]
                sets.append(("pair", (by_model[pair[0]][size], by_model[pair[1]][other]), ()))
        for kind, members, count in (("triple", 3, TRIPLES), ("quadruple", 4, QUADRUPLES)):
            for _ in range(count):
                chosen = tuple(by_model[name][drawn.choice(sizes)] for name in drawn.choices(names, k=members))
                sets.append((kind, chosen, ()))
        for _ in range(SHARED if shares and number else 0):  # the first round is safe from what shares may break
            chosen = tuple(by_model[name][drawn.choice(sizes)] for name in drawn.choices(names, k=2))
            sets.append(("share", chosen, drawn.choice(PARTS)))
        drawn.shuffle(sets)
        for kind, classes, parts in sets:
            told = "+".join(map(label, classes)) + (f"@{parts[0]:g}" if parts else "")
            yield Point(f"round{number}/{kind}/{told}", kind, classes, parts)


class Measuring:
    """One run."""

    def __init__(self, options: Options, episodes: int, repeats: int, *, shares: bool = True) -> None:
        self._options, self._episodes, self._repeats, self._wanted = options, episodes, repeats, shares
        self._device = open_(options, concurrency=LANES)
        events_only(self._device)
        self._state = State(options.kind, options.index)
        self._models: dict[str, Loaded] = {}
        self._work_ns: dict[BatchClass, int] = {}
        self._shares: Shares | None = None

    async def measure(self, sizes: Sequence[int]) -> None:
        """Points of the plan until the time is over. Raises ValueError if there is no such device or model."""
        root, names = prepare(self._options)
        by_model: dict[str, dict[int, BatchClass]] = {}
        for name in names:
            self._models[name] = load(self._device, root, name)
            by_model[name] = {one.batch_size: one for one in self._models[name].chosen(sizes, tokens=TOKENS)}
        for known in [one for classes in by_model.values() for one in classes.values()]:
            ran = await run_alone(self._device, self._models[known.model], known, 2 + SOLO_RUNS)
            self._work_ns[known] = int(statistics.median(one.duration_ns for one in ran[2:]))
        why_not = self._open_shares(root)
        facts = {
            "solo_ns": {label(known): ns for known, ns in self._work_ns.items()},
            "shares": why_not or "green contexts",
        }
        how = {"episodes": self._episodes, "repeats": self._repeats, "device_name": self._device.describe().name}
        journal = self._options.journal(FILE, benchmark="pairs", **how, **facts)
        budget, measured = Budget(self._options.seconds), 0
        failed: list[str] = []  # in a row
        for point in plan(by_model, shares=self._shares is not None):
            if point.name in journal.done:
                continue
            if budget.left_s <= 0:
                break
            try:
                found = await self._rows(point)
            except RuntimeError as error:  # what CUDA raises: a share that cannot be had, memory that is out
                failed.append(point.name)
                journal.add(point.name, [{"type": "failed", "error": str(error)[:500]}], **self._state.now())
                if len(failed) >= FAILURES:
                    raise ValueError(f"{FAILURES} points in a row failed, the last one with: {error}") from error
                continue
            failed.clear()
            journal.add(point.name, found, **self._state.now())
            measured += len(found)
        print(f"{measured} batches in {len(journal.done)} points; results in {journal.path}")

    def _open_shares(self, root: Path) -> str:
        """Opens shares where there are some; else says why not."""
        if not self._wanted:
            return "none: --no-shares"
        if self._options.kind != "cuda":
            return f"none: '{self._options.kind}' has no green contexts"
        try:
            self._shares = Shares(root, self._options.index)
        except ValueError as error:
            return f"none: {error}"
        return ""

    async def _rows(self, point: Point) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        with self._runnables(point) as models:
            for episode, lanes, chosen, repeats in self._episodes_of(point, models):
                for repeat in range(repeats):
                    ran = await play(self._device, lanes, chosen)
                    found += [{"episode": episode, "repeat": repeat, **row} for row in rows(lanes, chosen, ran)]
        return found

    @contextlib.contextmanager
    def _runnables(self, point: Point) -> Iterator[list[Runnable]]:
        """What each lane runs; lanes on shares are closed at the end."""
        loaded = [self._models[known.model] for known in point.classes]
        if self._shares is None or not point.parts:
            yield [Runnable(one.model, one) for one in loaded]
            return
        contexts = self._shares.partition(point.parts)
        lanes = []
        try:
            for one, known, context in zip(loaded, point.classes, contexts, strict=True):
                lanes.append(Runnable(self._shares.lane(one, known, context), one, context.sm_count))
            yield lanes
        finally:
            for lane in lanes:
                lane.model.close()
            for context in contexts:
                context.close()

    def _episodes_of(
        self, point: Point, models: list[Runnable]
    ) -> Iterator[tuple[int, list[Lane], list[Runnable], int]]:
        """Episodes with their numbers and repeats; number -1 is one class alone, on its share if it has one."""
        if point.kind == "solo" or point.parts:
            for known, model in zip(point.classes, models, strict=True):
                yield -1, [Lane(known)], [model], SOLO_RUNS
        if point.kind != "solo":
            for number, lanes in enumerate(draw(point.classes, self._work_ns, point.name, self._episodes)):
                yield number, lanes, models, self._repeats


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    p = parser(__doc__, seconds=420.0)
    p.add_argument("--episodes", type=int, default=6, help="different offsets of a set in a round (default: 6)")
    p.add_argument("--repeats", type=int, default=3, help="of each episode (default: 3)")
    p.add_argument("--sizes", default=",".join(map(str, SIZES)), help="batch sizes (default: 1,2,4,8)")
    p.add_argument("--no-shares", action="store_true", help="on the whole device only")
    options, arguments = parsed(p, argv)
    sizes = [int(size) for size in arguments.sizes.split(",")]
    try:
        measuring = Measuring(options, arguments.episodes, arguments.repeats, shares=not arguments.no_shares)
        asyncio.run(measuring.measure(sizes))
    except ValueError as error:
        raise SystemExit(f"pairs: {error}") from error


if __name__ == "__main__":
    main()
