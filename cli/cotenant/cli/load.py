"""`cotenant load`: an open-loop load on any KServe v2 server, and who was answered in time."""

import asyncio
import dataclasses
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import grpc
import msgspec
import uvloop
from rich.console import Console

from cotenant.cli import load_arrivals, load_inputs, load_options, load_result, machine
from cotenant.cli.load_arrivals import Arrivals, generator
from cotenant.cli.load_client import Client, open_client
from cotenant.cli.load_inputs import Model
from cotenant.cli.load_options import LoadOptions, ModelLoad
from cotenant.cli.load_result import Configuration, LoadedModel, LoadResult
from cotenant.cli.load_run import Plan, Run
from cotenant.cli.load_table import Display, show
from cotenant.runtime.clock import clock_id

DEFAULT_DURATION_S = 10.0


@dataclasses.dataclass(frozen=True, slots=True)
class _Target:
    """A model, how it is loaded, and with which requests."""

    load: ModelLoad
    model: Model
    requests: list[load_inputs.Tensors]
    rate: float

    @property
    def slo_ms(self) -> float:
        return self.model.slo_ms if self.load.slo_ms is None else self.load.slo_ms


async def carry_out(options: LoadOptions) -> LoadResult:
    """Sends the load. Raises ValueError where what was asked cannot be, AioRpcError where nobody answers."""
    client = open_client(options.client, options.url)
    try:
        await _until_ready(client, options)
        targets = [await _target(client, options, load) for load in options.models]
        arrivals = _arrivals(options, targets)
        if not len(arrivals):
            raise ValueError("no request falls into this time: raise --rate or --duration-s")
        run = Run(_plan(client, options, targets, arrivals), client)
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, run.stop)
        total_s = float(arrivals.at_ns[-1]) / 1e9
        display = Display(run, [load.name for load in options.models], total_s, Console(stderr=True))
        showing = asyncio.create_task(display.show())
        try:
            await run.carry_out(options.drain_s)
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
        return _result(options, targets, arrivals, run)
    finally:
        await client.close()


async def _until_ready(client: Client, options: LoadOptions) -> None:
    deadline = time.monotonic() + options.wait_s
    waiting = list(options.models)
    while waiting := [load for load in waiting if not await client.ready(load)]:
        if time.monotonic() > deadline:
            names = ", ".join(f"'{load.name}'" for load in waiting)
            raise ValueError(f"after {options.wait_s:g} s the server at {options.url} does not serve {names}")
        await asyncio.sleep(0.1)


async def _target(client: Client, options: LoadOptions, load: ModelLoad) -> _Target:
    model = await client.describe(load)
    requests = load_inputs.requests(model, load.batch, options.samples, options.seed)
    rate = (options.rate if load.rate is None else load.rate) * options.rate_scale
    return _Target(load, model, requests, rate)


def _arrivals(options: LoadOptions, targets: Sequence[_Target]) -> Arrivals:
    names = [target.load.label for target in targets]
    if options.trace is None:
        span_s = options.warmup_s + (options.duration_s or DEFAULT_DURATION_S)
        return load_arrivals.drawn(names, [t.rate for t in targets], options.cv, span_s, options.seed)
    found = load_arrivals.traced(options.trace, names, options.rate_scale)
    if options.duration_s is None:
        return found
    kept = found.at_ns < (options.warmup_s + options.duration_s) * 1e9
    return Arrivals(found.at_ns[kept], found.model[kept])


def _plan(client: Client, options: LoadOptions, targets: Sequence[_Target], arrivals: Arrivals) -> Plan:
    rng = generator(options.seed, "choice of inputs")
    explain = generator(options.seed, "explanations").random(len(arrivals)) < options.explain
    kinds = sorted({bool(asked) for asked in explain})
    pools = [
        {asked: [client.prepare(t.load, t.model, tensors, explain=asked) for tensors in t.requests] for asked in kinds}
        for t in targets
    ]
    sizes = [len(t.requests) for t in targets]
    chosen = rng.integers(2**62, size=len(arrivals))
    model = arrivals.model.tolist()
    return Plan(
        at_ns=arrivals.at_ns.tolist(),
        model=model,
        prepared=[pools[m][bool(e)][int(c) % sizes[m]] for m, e, c in zip(model, explain, chosen, strict=True)],
        slo_ns=[round(t.slo_ms * 1e6) for t in targets],
        deadline_ns=[round((t.load.deadline_ms or 0) * 1e6) for t in targets],
        warmup_ns=round(options.warmup_s * 1e9),
    )


def _result(options: LoadOptions, targets: Sequence[_Target], arrivals: Arrivals, run: Run) -> LoadResult:
    requests = load_result.requests_of(run)
    sent_s = run.plan.at_ns[run.sent - 1] / 1e9 - options.warmup_s if run.sent else 0.0
    whole = run.sent == len(arrivals) and options.trace is None
    elapsed_s = (options.duration_s or DEFAULT_DURATION_S) if whole else max(0.0, sent_s)
    started_ns = run.started_ns + run.plan.warmup_ns
    models = [
        load_result.summarise(requests, t.load.name, i, t.slo_ms, elapsed_s) for i, t in enumerate(targets)
    ]  # fmt: skip
    return LoadResult(
        format=load_result.FORMAT,
        version=load_result.VERSION,
        started_unix_ns=time.time_ns() - time.monotonic_ns() + started_ns,
        started_monotonic_ns=started_ns,
        clock_id=clock_id(),
        elapsed_s=elapsed_s,
        configuration=_configuration(options, targets, elapsed_s),
        environment=machine.describe(),
        lag=load_result.lag_of(requests),
        total=load_result.summarise(requests, "all", None, 0.0, elapsed_s),
        models=models,
        requests=requests,
    )


def _configuration(options: LoadOptions, targets: Sequence[_Target], elapsed_s: float) -> Configuration:
    def inputs(target: _Target) -> str:
        real = options.samples and (options.samples / target.load.name / "samples.npz").exists()
        return f"{len(target.requests)} different requests {'of samples' if real else 'made up'}"

    kinds = {0.0: "evenly spaced", 1.0: "Poisson"}
    drawn = kinds.get(options.cv, f"Gamma-distributed gaps, CV {options.cv:g}")
    return Configuration(
        url=options.url,
        client=options.client,
        arrivals=f"trace {options.trace.name}, {options.rate_scale:g} times as fast" if options.trace else drawn,
        seed=options.seed,
        duration_s=elapsed_s,
        warmup_s=options.warmup_s,
        explain=options.explain,
        models=[
            LoadedModel(
                name=t.load.name,
                version=t.load.version,
                rate=0.0 if options.trace else t.rate,
                slo_ms=t.slo_ms,
                timeout_ms=t.load.told_timeout_ms,
                deadline_ms=t.load.deadline_ms or 0.0,
                batch=t.load.batch,
                priority=t.load.priority,
                tenant=t.load.tenant,
                inputs=inputs(t),
            )
            for t in targets
        ],
    )


def write(result: LoadResult, path: Path) -> None:
    """Writes the document. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(result) + b"\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 if the load was sent, whatever became of it; 1 if it could not be; 2 if the flags are wrong."""
    options = load_options.options(argv)
    sys.setswitchinterval(0.001)
    try:
        result = uvloop.run(carry_out(options))
        if options.json:
            write(result, options.json)
    except (OSError, ValueError) as error:
        print(f"cotenant load: {error}", file=sys.stderr)
        return 1
    except grpc.aio.AioRpcError as error:
        print(f"cotenant load: {options.url} answered {error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    if options.table:
        show(Console(), result)
    return 0
