"""`cotenant serve`: the whole stack on this host, until Ctrl-C."""

import argparse
import asyncio
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cotenant.cli import identity
from cotenant.cli.stack import Stack, StackOptions
from cotenant.runtime.transport import local
from cotenant.v1 import scheduler_pb2

_EPILOG = """\
Services inherit the environment, so every setting that is not a flag here can be given as a variable, for example
COTENANT_EXECUTOR_CONCURRENCY=4 or COTENANT_SCHEDULER_BOUND_LEVEL=0.99; `python -m cotenant.executor --help` lists them.

examples:
  cotenant serve --model-repository models
  cotenant serve --model-repository models --devices emulated,emulated     two emulated GPUs
  cotenant serve --model-repository models --observe-only --record log     decide, record, refuse nothing
  cotenant --tls certs/admin serve --model-repository models               TLS; `cotenant certificates certs` first
"""


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    p = argparse.ArgumentParser(
        prog="cotenant serve", description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--model-repository", type=Path, required=True, metavar="DIR", help="models in Triton's layout")
    p.add_argument("--host", default="0.0.0.0", help="where clients connect (default: all interfaces)")
    p.add_argument("--port", type=int, default=8001, help="where clients connect (default: 8001)")
    p.add_argument("--http-port", type=int, default=8000, help="the same over REST; 0 for nowhere (default: 8000)")
    p.add_argument(
        "--devices",
        default="auto",
        help="comma-separated: cpu, cuda:N, emulated; auto: every GPU, or the CPU where there is none (default: auto)",
    )
    p.add_argument("--policy", default="goodput", help="what decides, see docs/policies.md (default: goodput)")
    p.add_argument("--observe-only", action="store_true", help="refuse nothing for being late, only record it")
    p.add_argument("--predictor", default="", metavar="ADDRESS", help="use the predictor that runs there, start none")
    p.add_argument("--state", default="", metavar="FILE", help="keep what the predictor learns in this file")
    p.add_argument("--record", default="", metavar="FILE", help="record all events and decisions")
    p.add_argument(
        "--no-client-certificates",
        action="store_true",
        help="with --tls, let clients of the frontend connect without a certificate",
    )
    p.add_argument("--access", default="", metavar="FILE", help="who may do what, see docs/security.md")
    p.add_argument("--run-dir", type=Path, default=None, metavar="DIR", help="logs (default: a temporary folder)")
    return p


def device_names(text: str) -> tuple[str, ...]:
    """The devices to serve; `auto` asks the driver. Numbers emulated ones."""
    if text == "auto":
        code = "from cotenant.executor.device import gpu_count; print(gpu_count())"
        asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603
        count = int(asked.stdout or 0)
        return tuple(f"cuda:{i}" for i in range(count)) or ("cpu",)
    names = [name.strip() for name in text.split(",") if name.strip()]
    emulated = [i for i, name in enumerate(names) if name == "emulated"]
    return tuple(f"emulated:{emulated.index(i)}" if i in emulated else name for i, name in enumerate(names))


async def serve(arguments: argparse.Namespace) -> int:
    """Runs the stack until a signal."""
    with tempfile.TemporaryDirectory(prefix="cotenant-run-") as scratch:
        options = StackOptions(
            model_repository=arguments.model_repository,
            run_dir=arguments.run_dir or Path(scratch),
            devices=device_names(arguments.devices),
            host=arguments.host,
            port=arguments.port,
            http_port=arguments.http_port,
            predictor=arguments.predictor,
            state=arguments.state,
            record=arguments.record,
            policy=arguments.policy,
            observe_only=arguments.observe_only,
            tls=identity.folder(),
            client_certificates=not arguments.no_client_certificates,
            access=arguments.access,
        )
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        stack = Stack(options, on_event=lambda text: print(text, flush=True))
        try:
            await stack.start()
        except RuntimeError as error:
            print(f"cotenant serve: {error}", file=sys.stderr)
            return 1
        if options.tls is None and not local(f"{options.host}:{options.port}"):
            warning = f"cotenant serve: other hosts can reach {options.host}:{options.port}, and it has no TLS"
            print(f"{warning} (docs/security.md); --host 127.0.0.1 keeps them out", file=sys.stderr, flush=True)
        rest = f" and http://{stack.http_url}" if options.http_port else ""
        print(f"serving on {stack.url}{rest} with {', '.join(options.devices)}; logs in {options.run_dir}", flush=True)
        settled = asyncio.create_task(_tell_models(stack))
        await stop.wait()
        settled.cancel()
        print("draining", flush=True)
        await stack.stop()
    return 0


async def _tell_models(stack: Stack) -> None:
    for model in await stack.models_settled(timeout_s=3600):
        if model.availability == scheduler_pb2.MODEL_AVAILABILITY_READY:
            print(f"  {model.model} version {model.version} is ready", flush=True)
        else:
            print(f"  {model.model} version {model.version} is not: {model.reason}", flush=True)
    print("ready", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = parser().parse_args(argv)
    if not arguments.model_repository.is_dir():
        print(f"cotenant serve: there is no folder {arguments.model_repository}", file=sys.stderr)
        return 2
    return asyncio.run(serve(arguments))
