"""`python -m cotenant.predictor.contract ADDRESS`: says of each check whether a predictor passes it, and why not."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import NamedTuple

import grpc

from cotenant.predictor.contract.checks import CHECKS, Check
from cotenant.predictor.contract.peer import Peer
from cotenant.runtime.server import open_channel


class Result(NamedTuple):
    """How one check went; `complaint` is empty where it passed."""

    name: str
    meaning: str
    complaint: str


async def run_checks(address: str, *, checks: Sequence[Check] = CHECKS, patience_s: float = 10.0) -> list[Result]:
    """Runs checks against the predictor at an address, one after another. Raises ConnectionError if nobody answers."""
    async with open_channel(address) as channel:
        try:
            await asyncio.wait_for(channel.channel_ready(), patience_s)
        except TimeoutError:
            raise ConnectionError(f"nobody answers at {address}") from None
        peer = Peer(channel, patience_s)
        return [await _run(check, peer) for check in checks]


async def _run(check: Check, peer: Peer) -> Result:
    complaint = ""
    try:
        async with asyncio.timeout(6 * peer.patience_s):
            await check(peer)
    except AssertionError as error:
        complaint = str(error)
    except TimeoutError:
        complaint = f"it did not end within {6 * peer.patience_s:.0f} s"
    except grpc.aio.AioRpcError as error:
        complaint = f"a call failed with {error.code().name}: {error.details()}"
    return Result(check.__name__.replace("_", " "), (check.__doc__ or "").strip(), complaint)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. The exit status is 0 if every check passes, 1 if one does not, 2 if nobody answers."""
    parser = argparse.ArgumentParser(prog="python -m cotenant.predictor.contract", description=__doc__)
    parser.add_argument("address", help="host:port or unix:path of a predictor")
    parser.add_argument("--patience", type=float, default=10.0, metavar="S", help="longest wait for an answer, in s")
    chosen = parser.parse_args(argv)
    try:
        results = asyncio.run(run_checks(chosen.address, patience_s=chosen.patience))
    except ConnectionError as error:
        print(f"cotenant.predictor.contract: {error}", file=sys.stderr)  # noqa: T201
        return 2
    for result in results:
        print(f"{'FAIL' if result.complaint else 'ok  '}  {result.name}")  # noqa: T201
        if result.complaint:
            print(f"      {result.meaning}\n      {result.complaint}")  # noqa: T201
    failed = sum(bool(result.complaint) for result in results)
    print(f"{len(results) - failed} of {len(results)} checks passed")  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
