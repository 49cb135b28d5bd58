"""`cotenant replay LOG`: feeds a recorded log to a fresh core and compares what it decides."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cotenant.scheduler import record
from cotenant.scheduler.replay import replay


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 if every part gives the same actions, 1 if one does not, 2 if there is no log."""
    parser = argparse.ArgumentParser(prog="cotenant replay", description=__doc__)
    parser.add_argument("log", type=Path, help="log written by `cotenant serve --record`; all its parts are replayed")
    arguments = parser.parse_args(argv)
    files = [path for _, path in record.parts(arguments.log)]
    if not files:
        print(f"cotenant replay: no log at {arguments.log}", file=sys.stderr)
        return 2
    for path in files:
        try:
            outcome = replay(path)
        except ValueError as error:
            print(f"cotenant replay: {error}", file=sys.stderr)
            return 2
        if outcome.difference:
            d = outcome.difference
            print(f"{path}: group {d.group} at {d.now_ns} ns differs\n recorded {d.recorded}\n replayed {d.replayed}")
            return 1
        counts = f"{outcome.groups} groups, {outcome.events} events, {outcome.actions} actions"
        skipped = f"; {outcome.skipped} records of unknown types passed over" if outcome.skipped else ""
        print(f"{path}: {counts}, all the same{skipped}")
    return 0
