"""The whole stack on the device, and loads on it: what the scripts that serve have in common.

Stack and load are those of `cotenant serve` and `cotenant load` with its own client, as processes of this machine.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import grpc
from script import BUILD, ROOT, Options

from cotenant.cli import load_result
from cotenant.cli.load_result import LoadResult
from cotenant.cli.stack import Stack, StackOptions
from cotenant.v1 import scheduler_pb2

sys.path[:0] = [str(ROOT / "benchmarks" / "interference"), str(ROOT / "benchmarks")]

from recordings import link, offer  # noqa: E402

SETTLED_S = 300.0  # to load and measure every model, at most
REJOINED_S = 60.0  # for an executor to join another scheduler


def free_port() -> int:
    """A TCP port that nobody listens at just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def serving(
    options: Options,
    repository: Path,
    models: Sequence[str],
    *,
    concurrency: int,
    policy: str = "edf",
    record: Path | None = None,
    observe_only: bool = False,
    executor: Sequence[str] = (),
) -> AsyncIterator[tuple[Stack, Path]]:
    """A stack that serves some models of a repository, all loaded, and the folder they are linked in.

    Raises RuntimeError that tells why a service ended, or a model cannot be served.
    """
    folder = Path(tempfile.mkdtemp(prefix="cotenant-gpu-"))  # short: there are sockets in it
    own = link(folder / "models", models, repository)
    flags = (f"--concurrency={concurrency}", "--threads-per-batch=1", f"--profile-cache={BUILD / 'cache'}", *executor)
    stack = Stack(
        StackOptions(
            own,
            folder / "run",
            devices=(options.device,),
            port=free_port(),
            metrics=False,
            sockets=True,
            record=str(record or ""),
            policy=policy,
            observe_only=observe_only,
            extra={"executor": flags},
        ),
        on_event=print,
    )
    try:
        async with stack:
            for model in await stack.models_settled(SETTLED_S):
                if model.availability != scheduler_pb2.MODEL_AVAILABILITY_READY:
                    raise RuntimeError(f"model '{model.model}' cannot be served: {model.reason}")
            yield stack, own
    except BaseException:
        for log in sorted((folder / "run").glob("*.log")):
            print(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}", file=sys.stderr)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def change_policy(stack: Stack, policy: str) -> None:
    """Starts all but the executor anew, the scheduler with another policy, the predictor knowing nothing.

    The executor stays and joins again, so no model is loaded twice. Raises TimeoutError if it does not.
    """
    service = stack.services["scheduler"]
    flags = tuple(f"--policy={policy}" if flag.startswith("--policy=") else flag for flag in service.flags)
    stack.services["scheduler"] = replace(service, flags=flags)
    before = {name: stack.processes[name] for name in ("frontend", "predictor", "scheduler")}
    for name in before:
        stack.kill(name, signal.SIGTERM)
    async with asyncio.timeout(REJOINED_S):
        while any(stack.processes[name] is process for name, process in before.items()):
            await asyncio.sleep(0.05)
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):  # it is not there yet
                await stack.models_settled(REJOINED_S)
                return
            await asyncio.sleep(0.1)


async def loaded(
    stack: Stack,
    rates_per_s: Mapping[str, float],
    repository: Path,
    *,
    seed: int,
    seconds: float,
    slo_ms: Mapping[str, float] | None = None,
    flags: Sequence[str] = (),
) -> LoadResult:
    """What became of a Poisson load; requests of models in `slo_ms` carry that budget."""
    handle, name = tempfile.mkstemp(suffix=".json")
    os.close(handle)
    try:
        models = [
            f"--model={model}:rate={rate:.4f}" + (f",slo_ms={slo_ms[model]:.3f}" if slo_ms else "")
            for model, rate in rates_per_s.items()
        ]
        more = [*models, "--drain-s=10", f"--json={name}", *flags]
        await offer(stack.url, {}, repository, seed=seed, seconds=seconds, flags=more)
        return load_result.read(Path(name))
    finally:
        Path(name).unlink()
