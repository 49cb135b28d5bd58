"""`cotenant settings`: what can be changed of a running scheduler, as it is; `cotenant set` changes it."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from typing import cast

import grpc
from rich.console import Console
from rich.table import Table

from cotenant.cli import settings_words
from cotenant.runtime.server import open_channel
from cotenant.v1 import scheduler_pb2, scheduler_pb2_grpc

ANSWER_S = 5.0  # a scheduler that takes longer is taken to be away


def stub(channel: grpc.aio.Channel) -> "scheduler_pb2_grpc.SchedulerServiceAsyncStub":
    """The scheduler's methods."""
    return cast("scheduler_pb2_grpc.SchedulerServiceAsyncStub", scheduler_pb2_grpc.SchedulerServiceStub(channel))


async def get(address: str) -> scheduler_pb2.Settings:
    """The settings that hold. Raises AioRpcError if the scheduler does not answer."""
    async with open_channel(address) as channel:
        asked = scheduler_pb2.GetSettingsRequest()
        return (await stub(channel).GetSettings(asked, timeout=ANSWER_S, wait_for_ready=True)).settings


def show(settings: scheduler_pb2.Settings, *, as_json: bool) -> None:
    """Prints settings, in the words that `cotenant set` takes."""
    rows = dict(settings_words.assignments(settings))
    if as_json:
        print(json.dumps({"revision": settings.revision, "settings": rows}, indent=2))
        return
    found = Table(box=None, pad_edge=False, show_header=False)
    for key, value in rows.items():
        found.add_row(key, value)
    Console(width=None if sys.stdout.isatty() else 200).print(found)


def failed(command: str, address: str, error: grpc.aio.AioRpcError) -> int:
    """Tells why a scheduler did not do it; returns the exit status."""
    print(f"cotenant {command}: {address} answered {error.code().name}: {error.details()}", file=sys.stderr)
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 if the scheduler does not answer."""
    parser = argparse.ArgumentParser(prog="cotenant settings", description=__doc__)
    parser.add_argument("--scheduler", default="localhost:8003", help="its address (default: localhost:8003)")
    parser.add_argument("--json", action="store_true", help="print them as JSON, with their revision")
    a = parser.parse_args(argv)
    try:
        settings = asyncio.run(get(a.scheduler))
    except grpc.aio.AioRpcError as error:
        return failed("settings", a.scheduler, error)
    show(settings, as_json=a.json)
    return 0
