"""What serving costs beside computing: launches, concurrency, copies, timing of kernels, shares, and the data path.

    python benchmarks/gpu/overheads.py [--device cuda:0|cpu|emulated] [--seconds N] [--out FOLDER] [--resume]
                                       [--parts launch,scaling,copies,timing,shares,datapath]

*launch*: an operator and a graph of a hundred, and what the interpreter does meanwhile. *scaling*: 1 to 8 lanes of one
class. *copies*: to and from the device, pinned and pageable, alone and beside a product. *timing*: a class with timings
of what runs inside taken never, sampled and always. *shares*: green contexts made, and launched to in turns.
*datapath*: from a client through frontend, scheduler and executor and back, against a call of the model in here.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from microbenchmarks import copies, launches, shares
from script import Budget, Options, parsed, parser, percentile
from workload import SIZES, TOKENS, load, open_, prepare, run, run_alone

from cotenant.cli import load_inputs
from cotenant.cli.load_client import GrpcClient
from cotenant.cli.load_options import ModelLoad
from cotenant.executor.backend import Model
from cotenant.runtime.estimates import BatchClass

FILE = "overheads.jsonl"
PARTS = ("launch", "scaling", "copies", "timing", "shares", "datapath")
SAMPLED_EVERY = 500  # as the executor does by default
Rows = list[dict[str, Any]]


def summary(durations_ns: Sequence[int]) -> dict[str, Any]:
    """Figures of a set of durations."""
    found = {f"p{round(100 * share)}_ns": percentile(durations_ns, share) for share in (0.5, 0.95, 0.99)}
    return {"runs": len(durations_ns), **found}


class Measuring:
    """The parts; `seconds` is what each measured stretch takes."""

    def __init__(self, options: Options, seconds: float) -> None:
        self._options, self._seconds = options, seconds
        self._repository, self.names = prepare(options)

    async def launch(self) -> Rows:
        """Launches, eager and as a graph."""
        return launches(self._options.kind, self._options.index, self._seconds)

    async def copies(self) -> Rows:
        """Copies alone and beside computing."""
        return copies(self._options.kind, self._options.index, self._seconds)

    async def shares(self) -> Rows:
        """Green contexts."""
        return shares(self._options.kind, self._options.index)

    async def scaling(self, name: str) -> Rows:
        """One class of a model at a time, on 1 to 8 lanes that never pause."""
        device = open_(self._options, concurrency=8)
        model = load(device, self._repository, name)
        found: Rows = []
        for known in model.chosen((1, 4), tokens=TOKENS):
            for lanes in range(1, 9):
                until = time.monotonic() + self._seconds
                started = time.perf_counter()

                async def lane(known: BatchClass = known, until: float = until) -> list[int]:
                    durations = []
                    while time.monotonic() < until or not durations:
                        durations.append((await run(device, model, known)).duration_ns)
                    return durations

                ran = [ns for one in await asyncio.gather(*(lane() for _ in range(lanes))) for ns in one]
                span_s = time.perf_counter() - started
                row = {"type": "scaling", "model": name, "batch_size": known.batch_size, "lanes": lanes}
                found.append(row | summary(ran) | {"batches_per_s": len(ran) / span_s})
        model.model.close()
        return found

    async def timing(self, name: str) -> Rows:
        """The same class with timings inside a batch taken never, every so often and always, in turns."""
        device = open_(self._options, concurrency=1)
        model = load(device, self._repository, name)
        known = model.chosen(SIZES[:1], tokens=TOKENS)[0]
        model.model.prepare_timed(model.inputs[known])
        ways = {"never": 0, "sampled": SAMPLED_EVERY, "always": 1}
        if not model.model.timed_anytime:
            del ways["sampled"], ways["always"]
        await run_alone(device, model, known, 3)
        ran: dict[str, list[int]] = {way: [] for way in ways}
        spent_s, inside = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0)
        count = 0
        for _ in range(3):
            for way, every in ways.items():
                until = time.monotonic() + self._seconds
                while time.monotonic() < until:
                    count += 1
                    begin = time.perf_counter()
                    one = await run(device, model, known, timed=bool(every) and count % every == 0)
                    spent_s[way] += time.perf_counter() - begin
                    ran[way].append(one.duration_ns)
                    inside[way] = len(one.kernels) or inside[way]
        model.model.close()
        base = statistics.median(ran["never"])
        return [
            {"type": "timing", "model": name, "way": way, "kernels": inside[way], **summary(ns)}
            | {"over_never": statistics.median(ns) / base - 1, "wall_ns": spent_s[way] / len(ns) * 1e9}
            for way, ns in ran.items()
        ]

    async def datapath(self, name: str) -> Rows:
        """Requests of one item, one at a time and eight at once, against the model called in this process."""
        from live import serving

        device = open_(self._options, concurrency=1)
        model = load(device, self._repository, name)
        known = model.chosen((1,), tokens=TOKENS)[0]
        await run_alone(device, model, known, 3)
        begin = time.monotonic()
        bare = _bare(model.model, model.inputs[known], self._seconds)
        own = [one.duration_ns for one in await run_alone(device, model, known, max(5, len(bare) // 4))]
        model.model.close()
        found: Rows = [
            {"type": "datapath", "model": name, "way": "call", **summary(bare), "bytes": _bytes(model.inputs[known])},
            {"type": "datapath", "model": name, "way": "device", **summary(own)},
        ]
        serve = serving(self._options, self._repository, [name], concurrency=4, observe_only=True)
        async with serve as (stack, _):
            for lanes in (1, 8):
                found += await _requests(stack.url, name, lanes, self._seconds)
        print(f"datapath of {name}: {time.monotonic() - begin:.1f} s")
        return found


def _bare(model: Model, inputs: Any, seconds: float) -> list[int]:
    found = []
    until = time.monotonic() + seconds
    while time.monotonic() < until or len(found) < 5:
        begin = time.perf_counter_ns()
        model.run(inputs)
        found.append(time.perf_counter_ns() - begin)
    return found


def _bytes(inputs: Any) -> int:
    return sum(array.nbytes for array in inputs.values())


async def _requests(url: str, name: str, lanes: int, seconds: float) -> Rows:
    client = GrpcClient(url)
    try:
        asked = ModelLoad(name)
        model = await client.describe(asked)
        tensors = load_inputs.requests(model, 1, None, 0)[-1]
        prepared = client.prepare(asked, model, tensors, explain=True)
        for _ in range(5):
            await client.infer(prepared, None)
        latencies: list[int] = []
        told: list[tuple[int, int]] = []  # queue and execution, in ns
        until = time.monotonic() + seconds

        async def lane() -> None:
            while time.monotonic() < until or not latencies:
                begin = time.perf_counter_ns()
                answer = await client.infer(prepared, None)
                if answer.failure is not None:
                    raise RuntimeError(f"a request failed: {answer.detail}")
                latencies.append(time.perf_counter_ns() - begin)
                if answer.explained:
                    told.append((answer.explained.queue_ns, answer.explained.execution_ns))

        begin = time.perf_counter()
        await asyncio.gather(*(lane() for _ in range(lanes)))
        span_s = time.perf_counter() - begin
    finally:
        await client.close()
    row = {"type": "datapath", "model": name, "way": "requests", "lanes": lanes, **summary(latencies)}
    row |= {"requests_per_s": len(latencies) / span_s, "bytes": _bytes(tensors)}
    for i, part in enumerate(("queue", "execution")):
        row[f"{part}_p50_ns"] = percentile([one[i] for one in told], 0.5) if told else None
    return [row]


async def measure(options: Options, parts: Sequence[str], seconds: float) -> None:
    """All parts, or as many as the time allows."""
    journal, budget = options.journal(FILE, benchmark="overheads", stretch_s=seconds), Budget(options.seconds)
    measuring = Measuring(options, seconds)
    points: list[tuple[str, Callable[[], Awaitable[Rows]]]] = []
    for part in parts:
        work = getattr(measuring, part)
        if part in ("scaling", "timing", "datapath"):
            points += [
                (f"{part}/{name}", partial(work, name)) for name in measuring.names[: 2 if part == "scaling" else 3]
            ]
        else:
            points.append((part, work))
    for point, work in points:
        if point in journal.done:
            continue
        if budget.left_s <= 0:
            print(f"time is over; --resume goes on with {point}")
            return
        try:
            found = await work()
        except (RuntimeError, ValueError, ImportError) as error:  # a part that cannot be had here: the others can
            found = [{"type": "failed", "error": f"{type(error).__name__}: {error}"[:500]}]
        journal.add(point, found)
        print(f"{point}: {len(found)} rows{' FAILED' if found and found[0]['type'] == 'failed' else ''}", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    p = parser(__doc__, seconds=240.0)
    p.add_argument("--parts", default=",".join(PARTS), help="in this order (default: all)")
    p.add_argument("--stretch", type=float, help="seconds of each stretch (default: 1, in a rehearsal 0.05)")
    options, arguments = parsed(p, argv)
    parts = arguments.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        p.error(f"--parts: there is no {unknown[0]}, expected {', '.join(PARTS)}")
    try:
        asyncio.run(measure(options, parts, arguments.stretch or (0.05 if options.rehearsal else 1.0)))
    except ValueError as error:
        raise SystemExit(f"overheads: {error}") from error


if __name__ == "__main__":
    main()
