"""`cotenant report`: a page that tells of a recorded run who ran beside whom, and what became of the requests."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from cotenant.cli import load_result, report_batches, report_log, report_page, report_requests, report_sections
from cotenant.cli.load_result import LoadResult
from cotenant.cli.load_table import attainment_text
from cotenant.cli.report_batches import Classes
from cotenant.cli.report_log import Log
from cotenant.cli.report_requests import Seen
from cotenant.cli.report_sections import Status


def document(log: Log, result: LoadResult | None, status: Status | None) -> str:
    """The page. Raises ValueError where log and result do not belong together."""
    seen = report_requests.seen(log, result)
    end_ns = seen.start_ns + round(seen.elapsed_s * 1e9)
    batches = [b for b in log.batches if seen.start_ns - 1_000_000_000 <= b.started_ns <= end_ns + 1_000_000_000]
    classes = Classes(seen.names)
    timeline = report_batches.timeline(log, batches, seen.start_ns, classes)
    counted = [b for b in batches if seen.start_ns <= b.started_ns < end_ns and not b.failed]
    forecasts = report_batches.forecasts(counted, seen.start_ns, classes)
    slowdowns = report_batches.slowdowns(log, classes)
    refusals = report_requests.refusals(seen, log)
    starts = [int(s) for d in timeline["devices"] for s in d["start"]]
    ends = [int(s) + int(n) for d in timeline["devices"] for s, n in zip(d["start"], d["duration"], strict=True)]
    numbers: dict[str, Any] = {
        "models": classes.models,
        "classes": classes.rows(),
        "span": [min(starts, default=0), max(ends, default=1)],
        "elapsed_s": seen.elapsed_s,
        "timeline": timeline,
        "forecasts": forecasts,
        "slowdowns": slowdowns,
        "latency": report_requests.latencies(seen.requests),
        "over_time": report_requests.over_time(seen.requests, seen.slo_ms),
        "stages": report_requests.stages(log, seen),
        "refusals": refusals,
        "outcomes": seen.requests.outcomes,
        "counts": [
            {
                "offered": m.offered,
                "answered": m.in_time + m.late,
                "in_time": m.in_time,
                "refused": m.refused,
                "failed": m.failed + m.cancelled,
                "slo_ms": m.slo_ms,
            }
            for m in seen.models
        ],
    }
    tiles = report_sections.tiles(log, seen, counted, forecasts, status)
    sections = [
        *report_sections.of_requests(seen, numbers),
        *report_sections.of_forecasts(numbers),
        *report_sections.of_time(log, numbers),
        *report_sections.closing(log, seen, result, status),
    ]
    date = datetime.fromtimestamp((seen.start_ns + log.unix_offset_ns) / 1e9, UTC)
    return report_page.page(_title(seen), _subtitle(log, seen), date, tiles, sections, numbers)


def _title(seen: Seen) -> str:
    total = seen.total
    if total.offered and total.in_time == total.offered:
        return f"All {total.offered:,} requests were answered in time"
    return f"{attainment_text(total.attainment or 0.0)} of {total.offered:,} requests were answered in time"


def _subtitle(log: Log, seen: Seen) -> str:
    names = [device.name for device in log.devices.values()]
    devices = ", ".join(f"{names.count(n)} x {n}" if names.count(n) > 1 else n for n in dict.fromkeys(names))
    models = f"{len(seen.names)} models" if len(seen.names) > 1 else "one model"
    observed = " (observing only, nothing was refused)" if log.observe_only else ""
    return f"{models} on {devices} for {seen.elapsed_s:.0f} s, policy {log.policy}{observed}."


def write(log_path: Path, load_path: Path | None, status: Status | None, output: Path) -> None:
    """Makes the page of files. Raises ValueError or OSError that name the file."""
    result = load_result.read(load_path) if load_path else None
    text = document(report_log.read(log_path), result, status)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 where a file is not what it should be."""
    parser = argparse.ArgumentParser(prog="cotenant report", description=__doc__)
    parser.add_argument("log", type=Path, help="log written by `cotenant serve --record`; all its parts are read")
    parser.add_argument("--load", type=Path, metavar="FILE", help="result of `cotenant load --json` for the same time")
    parser.add_argument("--status", type=Path, metavar="FILE", help="result of `cotenant top --once --json` at its end")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("report/index.html"), help="page (default: report/index.html)"
    )
    a = parser.parse_args(argv)
    try:
        status = msgspec.json.decode(a.status.read_bytes(), type=Status) if a.status else None
        write(a.log, a.load, status, a.output)
    except (OSError, ValueError) as error:
        print(f"cotenant report: {error}", file=sys.stderr)
        return 1
    print(a.output)
    return 0
