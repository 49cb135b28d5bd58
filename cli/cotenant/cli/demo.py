"""`cotenant demo`: models, services, a load and a report, in one command."""

import argparse
import asyncio
import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import grpc
import msgspec
from rich.console import Console

from cotenant.cli import demo_check, demo_mix, load_result, report, report_log, top
from cotenant.cli.load_client import GrpcClient
from cotenant.cli.load_inputs import Model
from cotenant.cli.load_options import ModelLoad
from cotenant.cli.load_table import show
from cotenant.cli.report_sections import Status
from cotenant.cli.serve import device_names
from cotenant.cli.stack import Stack, StackOptions
from cotenant.runtime.server import open_channel
from cotenant.v1 import scheduler_pb2, scheduler_pb2_grpc

_EPILOG = """\
It writes models to serve (once), starts all services as processes of their own, waits until every model has been
measured alone, asks the sentence encoder real sentences, sends an open loop of requests to all models with rates that
follow from those measurements, and ends with a table and a page that shows who ran beside whom.
"""


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


class Demo:
    """One run; each step may raise DemoError."""

    def __init__(self, arguments: argparse.Namespace, run_dir: Path) -> None:
        self._a = arguments
        self._run_dir = run_dir
        self._console = Console()
        self._started = time.monotonic()
        self._log = run_dir / "record" / "log"
        self._load = run_dir / "load.json"

    def say(self, text: str) -> None:
        """A line, with the time since the start."""
        self._console.print(
            f"[dim]{time.monotonic() - self._started:5.1f} s[/]  {text}", highlight=False, soft_wrap=True
        )

    async def run(self) -> None:
        """All of it."""
        await self._write_models()
        stack = await self._start()
        try:
            names = await self._models_ready(stack)
            if demo_check.MODEL in names:
                await self._check_sentences(stack)
            rates = await self._rates(stack, names)
            self.say("load: " + ", ".join(f"{name} {rate:.3g}/s" for name, rate in rates.items()))
            await self._send_load(stack, rates)
            status = await top.sample(stack.scheduler, 0.2)
        finally:
            await stack.stop()
        result = load_result.read(self._load)
        self._console.print()
        show(self._console, result)
        decided = Status(status.decision_count, status.decision_mean_us)
        report.write(self._log, self._load, decided, self._a.output)
        self._console.print()
        self.say(f"services drained; report: [bold]{self._a.output}[/]")

    async def _write_models(self) -> None:
        self.say(f"models in {self._a.model_repository}")
        flags = [
            f"--repository={self._a.model_repository}",
            f"--size={self._a.size}",
            f"--slo-scale={self._a.slo_scale}",
        ]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cotenant.executor.zoo", *flags, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert process.stdout is not None
        last = ""
        async for line in process.stdout:
            last = line.decode(errors="replace").rstrip()
            self._console.print(f"         {last}", style="dim", highlight=False, markup=False)
        if await process.wait():
            raise DemoError(f"the models could not be written: {last}")

    async def _start(self) -> Stack:
        options = StackOptions(
            self._a.model_repository,
            self._run_dir,
            devices=device_names(self._a.devices),
            port=self._port(),
            sockets=True,
            metrics=False,
            record=str(self._log),
        )
        stack = Stack(options, on_event=self.say)
        try:
            await stack.start()
        except RuntimeError as error:
            raise DemoError(str(error)) from error
        self.say(f"predictor, scheduler, {len(options.devices)} executor(s) and frontend run; clients at {stack.url}")
        return stack

    def _port(self) -> int:
        """The port asked for, or a free one where it is taken."""
        for port in (self._a.port, 0):
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
        raise DemoError("no port is free")

    async def _models_ready(self, stack: Stack) -> list[str]:
        """Names of the models once all of them serve."""
        waiting = asyncio.create_task(stack.models_settled(timeout_s=self._a.load_timeout_s))
        try:
            with self._console.status("models load and are measured alone") as status:
                while not waiting.done():
                    status.update(await _progress(stack))
                    await asyncio.wait({waiting}, timeout=0.3)
            models = await waiting
        except TimeoutError as error:
            raise DemoError(f"not all models were ready after {self._a.load_timeout_s:g} s") from error
        for model in models:
            if model.availability != scheduler_pb2.MODEL_AVAILABILITY_READY:
                raise DemoError(f"model {model.model} does not serve: {model.reason}")
        self.say(f"{len(models)} models are loaded and measured")
        return sorted({model.model for model in models})

    async def _check_sentences(self, stack: Stack) -> None:
        found = await demo_check.check(stack.url, self._a.model_repository)
        self.say(
            f"sentence encoder: {found.closest_alike} of {found.sentences} sentences are closest to one that says the "
            f"same (similarity {found.alike:.2f} among those, {found.unlike:.2f} else)"
        )
        for similarity, one, other in found.examples:
            self._console.print(f'         {similarity:5.2f}  "{one}"  "{other}"', style="dim", highlight=False)
        if not found.sensible:
            raise DemoError("the sentence encoder does not tell meanings apart")

    async def _rates(self, stack: Stack, names: Sequence[str]) -> dict[str, float]:
        client = GrpcClient(stack.url)
        try:
            models: list[Model] = [await client.describe(ModelLoad(name)) for name in names]
        finally:
            await client.close()
        free = await demo_mix.free_cores(over_s=1.0)
        for attempt in range(20):  # the log is written to disk every half second while something happens
            try:
                log = report_log.read(self._log)
                return demo_mix.rates(log, models, self._a.model_repository, self._a.utilisation, free)
            except ValueError as error:
                if attempt == 19:
                    raise DemoError(str(error)) from error
                await asyncio.sleep(0.25)
        raise AssertionError

    async def _send_load(self, stack: Stack, rates: dict[str, float]) -> None:
        flags = [f"--url={stack.url}", f"--samples={self._a.model_repository}", f"--json={self._load}", "--no-table"]
        flags += [f"--duration-s={self._a.duration_s}", f"--seed={self._a.seed}", "--explain=1", "--drain-s=10"]
        flags += [f"--model={name}:rate={rate}" for name, rate in rates.items()]
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "cotenant.cli", "load", *flags)
        if await process.wait():
            raise DemoError("the load could not be sent")


async def _progress(stack: Stack) -> str:
    async with open_channel(stack.scheduler) as channel:
        stub = cast("scheduler_pb2_grpc.SchedulerServiceAsyncStub", scheduler_pb2_grpc.SchedulerServiceStub(channel))
        listed = await stub.ListModels(scheduler_pb2.ListModelsRequest())
    ready = [m.model for m in listed.models if m.availability == scheduler_pb2.MODEL_AVAILABILITY_READY]
    loading = [m.model for m in listed.models if m.availability == scheduler_pb2.MODEL_AVAILABILITY_LOADING]
    busy = f", {loading[0]} is being loaded and measured" if loading else ""
    return f"{len(ready)} of {len(listed.models)} models ready{busy}"


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    p = argparse.ArgumentParser(prog="cotenant demo", description=__doc__, epilog=_EPILOG)
    p.add_argument("--model-repository", type=Path, default=Path("models"), metavar="DIR", help="default: models")
    p.add_argument("--size", choices=("small", "full"), default="small", help="of the models (default: small)")
    p.add_argument(
        "--slo-scale",
        type=float,
        default=2.0,
        metavar="X",
        help="SLOs are X times those of the zoo, which are for a load that comes from elsewhere (default: 2)",
    )
    p.add_argument("--devices", default="auto", help="as in `cotenant serve` (default: auto)")
    p.add_argument("--port", type=int, default=8001, help="for clients; a free one if it is taken (default: 8001)")
    p.add_argument("--duration-s", type=float, default=20.0, metavar="S", help="of the load (default: 20)")
    p.add_argument("--utilisation", type=float, default=0.6, metavar="SHARE", help="of the devices (default: 0.6)")
    p.add_argument("--seed", type=int, default=0, help="of arrivals and inputs (default: 0)")
    p.add_argument("--load-timeout-s", type=float, default=300.0, metavar="S", help="for models to be ready")
    p.add_argument("--run-dir", type=Path, metavar="DIR", help="keep logs, record and load.json there")
    p.add_argument("-o", "--output", type=Path, default=Path("report/index.html"), help="default: report/index.html")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 if all went well, 1 if not."""
    arguments = parser().parse_args(argv)
    with contextlib.ExitStack() as scratch:
        run_dir = arguments.run_dir or Path(scratch.enter_context(tempfile.TemporaryDirectory(prefix="cotenant-")))
        try:
            asyncio.run(Demo(arguments, run_dir).run())
        except (DemoError, OSError, ValueError, msgspec.MsgspecError) as error:
            print(f"cotenant demo: {error}", file=sys.stderr)
            return 1
        except grpc.aio.AioRpcError as error:
            print(f"cotenant demo: a service answered {error.code().name}: {error.details()}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    return 0
