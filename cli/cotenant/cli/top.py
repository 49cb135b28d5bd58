"""`cotenant top`: live, per device, who runs beside whom, and per model how promises are kept."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from typing import cast

import grpc
import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from cotenant.cli import top_table
from cotenant.cli.top_view import TopView, view
from cotenant.runtime.server import open_channel
from cotenant.v1 import scheduler_pb2, scheduler_pb2_grpc

_ANSWER_S = 2.0  # a scheduler that takes longer is taken to be away


async def _ask(channel: grpc.aio.Channel) -> scheduler_pb2.GetStatusResponse:
    stub = cast("scheduler_pb2_grpc.SchedulerServiceAsyncStub", scheduler_pb2_grpc.SchedulerServiceStub(channel))
    return await stub.GetStatus(scheduler_pb2.GetStatusRequest(), timeout=_ANSWER_S)


async def sample(address: str, interval_s: float) -> TopView:
    """One view of two samples. Raises AioRpcError if the scheduler does not answer."""
    async with open_channel(address) as channel:
        before = await _ask(channel)
        await asyncio.sleep(interval_s)
        return view(address, await _ask(channel), before)


async def watch(address: str, interval_s: float, console: Console) -> None:
    """Shows views until a signal. While the scheduler is away it says so, and goes on when it is back."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    before: scheduler_pb2.GetStatusResponse | None = None
    async with open_channel(address) as channel:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while not stopped.is_set():
                try:
                    now = await _ask(channel)
                except grpc.aio.AioRpcError as error:
                    text = f"the scheduler at {address} does not answer ({error.code().name}), asking again"
                    live.update(Text(text, "yellow"), refresh=True)
                else:
                    live.update(top_table.screen(view(address, now, before), console.width), refresh=True)
                    before = now
                try:
                    await asyncio.wait_for(stopped.wait(), interval_s)
                except TimeoutError:
                    continue


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 if the scheduler does not answer and only one view was asked for."""
    parser = argparse.ArgumentParser(prog="cotenant top", description=__doc__)
    parser.add_argument("--scheduler", default="localhost:8003", help="its address (default: localhost:8003)")
    parser.add_argument("--interval-s", type=float, default=1.0, metavar="S", help="between samples (default: 1)")
    parser.add_argument("--once", action="store_true", help="print one view of two samples, and end")
    parser.add_argument("--json", action="store_true", help="with --once, print it as JSON")
    a = parser.parse_args(argv)
    if a.json and not a.once:
        parser.error("--json is for --once")
    if not 0 < a.interval_s < 86400:
        parser.error("--interval-s must be above 0")
    if not a.once:
        asyncio.run(watch(a.scheduler, a.interval_s, Console()))
        return 0
    try:
        found = asyncio.run(sample(a.scheduler, a.interval_s))
    except grpc.aio.AioRpcError as error:
        print(f"cotenant top: {a.scheduler} answered {error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    if a.json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        console = Console()
        console = console if console.is_terminal else Console(width=140)
        console.print(top_table.screen(found, console.width))
    return 0
