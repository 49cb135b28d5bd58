"""`cotenant explain`: why a request of a recorded run ran when it did or was refused, beside whom, and how it ended."""

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from cotenant.cli import explain_log, explain_replay, explain_text, report_log, report_requests
from cotenant.cli import report_records as records
from cotenant.cli.explain_log import Found
from cotenant.cli.explain_replay import Beside, Replayed, Turned
from cotenant.cli.explain_story import Outlook, RunningBatch, Story, Wait
from cotenant.cli.report_log import Log

_NAMED = 4  # ids of each outcome that an error names


def explain(log: Path, request: str, *, replay: bool = True) -> Story:
    """The story of a request, by its id or its trace's. Raises ValueError that says what the log lacks."""
    found = explain_log.find(log, _wanted(request))
    if found is None:
        raise ValueError(f"{log} holds no request '{request}'; {_held(report_log.read(log))}")
    story = found.story
    if not replay:
        story.remarks.append("Decisions were not replayed: what was running and why it waited is not told.")
        return story
    again = explain_replay.replayed(found.parts, story.request_id, found.last_ns)
    _add(found, again)
    return story


def _wanted(request: str) -> Callable[[records.Request], bool]:
    if request.isdecimal() and len(request) <= 20:
        return explain_log.by_id(int(request))
    if len(request) == 32 and set(request) <= set("0123456789abcdef"):
        return explain_log.by_trace(request)
    raise ValueError(f"'{request}' is neither a request id (a number) nor a trace id (32 hexadecimal digits)")


def _held(log: Log) -> str:
    """Which ids a log holds: a range for each frontend, and some whose outcome is worth a question."""
    if not log.requests:
        return "it holds no requests at all"
    count, of_whom = len(log.requests), itertools.groupby(sorted(log.requests), key=lambda number: number >> 33)
    ranges = [(ids[0], ids[-1]) for ids in (list(group) for _, group in of_whom)]
    shown = ", ".join(f"{first} to {last}" if first != last else str(first) for first, last in ranges[:_NAMED])
    told = [f"it holds {count:,} requests: {shown}{', ...' if len(ranges) > _NAMED else ''}"]
    outcomes = _outcomes(log)
    for outcome in ("late", "refused", "failed"):
        if ids := outcomes.get(outcome):
            names = ", ".join(map(str, ids[:_NAMED])) + (", ..." if len(ids) > _NAMED else "")
            told.append(f"{outcome} ({len(ids):,}): {names}")
    return "; ".join(told)


def _outcomes(log: Log) -> dict[str, list[int]]:
    seen = report_requests.seen(log, None).requests
    lives = sorted(log.requests.values(), key=lambda life: life.request.arrival_ns)
    found: dict[str, list[int]] = {}
    for life, outcome in zip(lives, seen.outcome, strict=True):
        found.setdefault(seen.outcomes[outcome], []).append(life.request.request_id)
    return found


# ---- what a replay adds


def _add(found: Found, again: Replayed) -> None:
    story = found.story
    story.remarks.extend(again.remarks)
    if again.answer_overhead_ns is not None:
        story.answer_overhead_ms = again.answer_overhead_ns / 1e6
    story.outlooks = [
        Outlook(
            found.ms(sought.now_ns),
            sought.device_id,
            _running(found, sought.running),
            sought.waiting,
            found.ms(sought.finish_ns) if sought.finish_ns else None,
            sought.refused,
        )
        for sought in again.sought
    ]
    launches = iter(story.launches)
    waiting: list[Turned] = []
    for turned in again.turned:
        if turned.passed is None:
            if launch := next((one for one in launches if one.at_ms >= found.ms(turned.now_ns) - 1e-6), None):
                launch.beside = _running(found, turned.running)
        else:
            waiting.append(turned)
    for (_, device_id), group in itertools.groupby(waiting, key=lambda t: (t.passed and t.passed.why, t.device_id)):
        story.waits.append(_wait(found, device_id, list(group)))


def _wait(found: Found, device_id: str, turns: Sequence[Turned]) -> Wait:
    first, last = turns[0], turns[-1]
    assert first.passed
    launched = Counter(turned.passed.launched for turned in turns if turned.passed and turned.passed.launched)
    return Wait(
        found.ms(first.now_ns),
        found.ms(last.now_ns),
        len(turns),
        device_id,
        first.passed.why,
        dict(launched),
        _running(found, last.running),
    )


def _running(found: Found, running: Sequence[Beside]) -> list[RunningBatch]:
    return [
        RunningBatch(name, found.ms(launched_ns), found.ms(expected_end_ns))
        for name, launched_ns, expected_end_ns in running
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 where the log is none or does not hold the request."""
    parser = argparse.ArgumentParser(prog="cotenant explain", description=__doc__)
    parser.add_argument("request", metavar="REQUEST-ID", help="its id in the log, or the id of its trace")
    parser.add_argument(
        "log",
        type=Path,
        metavar="LOG",
        help="log written by `cotenant serve --record`, also while it is written; all parts are read",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead of sentences")
    parser.add_argument(
        "--no-replay", action="store_true", help="tell only what the log says by itself: quicker on large logs"
    )
    a = parser.parse_args(argv)
    try:
        story = explain(a.log, a.request, replay=not a.no_replay)
    except (OSError, ValueError) as error:
        print(f"cotenant explain: {error}", file=sys.stderr)
        return 1
    if a.json:
        print(msgspec.json.format(msgspec.json.encode(story)).decode())
    else:
        print(explain_text.text(story))
    return 0
