"""`cotenant set`: changes settings of a running scheduler, without a restart and without losing a request."""

import argparse
import asyncio
import sys
from collections.abc import Sequence

import grpc

from cotenant.cli import settings_words
from cotenant.cli.settings import ANSWER_S, failed, show, stub
from cotenant.runtime.server import open_channel
from cotenant.v1 import scheduler_pb2

_EPILOG = """\
All of it holds, or nothing. KEY is one of
  policy level observe_only max_pending answer_overhead_us max_tenants fair_turn_ms
  model.NAME.KEY    slo_ms priority_levels default_priority max_queue_size max_queue_delay_us
  tenant.NAME.KEY   weight requests_per_s burst_requests device_share burst_work_ms max_pending
where tenant.default is those who name none, and tenant.* those without settings of their own. model.NAME= and
tenant.NAME= take back all that was set of them.

examples:
  cotenant set policy=edf level=0.99
  cotenant set model.resnet50.slo_ms=40
  cotenant set tenant.acme.weight=3 tenant.acme.requests_per_s=200 'tenant.*.device_share=0.25'
"""


async def update(address: str, asked: scheduler_pb2.UpdateSettingsRequest) -> scheduler_pb2.Settings:
    """Has a scheduler change settings; returns what holds. Raises AioRpcError."""
    async with open_channel(address) as channel:
        return (await stub(channel).UpdateSettings(asked, timeout=ANSWER_S, wait_for_ready=True)).settings


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, 1 if the scheduler refused or does not answer, 2 for what cannot be asked for."""
    parser = argparse.ArgumentParser(
        prog="cotenant set", description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("assignments", nargs="+", metavar="KEY=VALUE", help="see below")
    parser.add_argument("--scheduler", default="localhost:8003", help="its address (default: localhost:8003)")
    parser.add_argument(
        "--revision", type=int, default=0, metavar="N", help="refuse if the settings are of another revision by now"
    )
    parser.add_argument("--json", action="store_true", help="print the settings that hold then as JSON")
    a = parser.parse_args(argv)
    try:
        asked = settings_words.request(a.assignments)
        asked.expected_revision = a.revision
    except ValueError as error:
        print(f"cotenant set: {error}", file=sys.stderr)
        return 2
    try:
        settings = asyncio.run(update(a.scheduler, asked))
    except grpc.aio.AioRpcError as error:
        return failed("set", a.scheduler, error)
    show(settings, as_json=a.json)
    return 0
