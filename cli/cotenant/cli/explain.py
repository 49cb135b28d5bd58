"""`cotenant explain`: why a request ran when it did or was refused, beside whom, and how it ended.

Of a recorded run, or of a scheduler that runs and remembers the last requests.
"""

import argparse
import asyncio
import itertools
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import grpc
import msgspec

from cotenant.cli import explain_live, explain_log, explain_replay, explain_text, report_log, report_requests
from cotenant.cli.explain_log import Found
from cotenant.cli.explain_names import by_client, by_id, by_trace, is_id, is_trace
from cotenant.cli.explain_replay import Beside, Replayed, Turned
from cotenant.cli.explain_story import Outlook, RunningBatch, Story, Wait
from cotenant.cli.report_log import Log

_NAMED = 4  # ids of each outcome that an error names


def explain(log: Path, request: str, *, model: str = "", replay: bool = True) -> Story:
    """The story of a request, by its id, its trace's, or its client's (of `model`, if that is given).

    Raises ValueError that says what the log lacks.
    """
    found = _find(log, request, model)
    if found is None:
        raise ValueError(f"{log} holds no request '{request}'; {_held(report_log.read(log))}")
    story = found.story
    if not replay:
        story.remarks.append("Decisions were not replayed: what was running and why it waited is not told.")
        return story
    again = explain_replay.replayed(found.parts, story.request_id, found.last_ns)
    _add(found, again)
    return story


def explain_running(address: str, request: str, *, model: str = "", replay: bool = True) -> Story:
    """The same, from what the scheduler at an address remembers. Raises ValueError, and AioRpcError if it is away."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        request_id, others = asyncio.run(explain_live.fetch(address, request, model, log))
        story = explain(log, str(request_id), replay=replay)
    story.live = True
    story.remarks.extend(_namesakes(request, others))
    return story


def _find(log: Path, request: str, model: str) -> Found | None:
    if is_id(request) and (found := explain_log.find(log, by_id(int(request)))):
        return found
    if is_trace(request) and (found := explain_log.find(log, by_trace(request))):
        return found
    ids = explain_log.ids(log, by_client(request, model)) if request else []
    found = explain_log.find(log, by_id(ids[-1])) if ids else None
    if found:
        found.story.remarks.extend(_namesakes(request, ids[-2::-1]))
    return found


def _namesakes(request: str, others: Sequence[int]) -> list[str]:
    """Says which other requests bear the same name, newest first."""
    if not others:
        return []
    shown = ", ".join(map(str, others[:_NAMED])) + (", ..." if len(others) > _NAMED else "")
    return [f"Others that were called '{request}' before it: {shown}."]


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
    """Exit status 0, or 1 where there is no log, no scheduler, or no such request in it."""
    parser = argparse.ArgumentParser(prog="cotenant explain", description=__doc__)
    parser.add_argument(
        "request", metavar="REQUEST-ID", help="its id, the id of its trace, or what its client calls it"
    )
    parser.add_argument(
        "log",
        type=Path,
        nargs="?",
        metavar="LOG",
        help="log written by `cotenant serve --record`, also while it is written; all parts are read. "
        "Without one, the scheduler is asked what it remembers",
    )
    parser.add_argument(
        "--scheduler",
        "--address",
        default="localhost:8003",
        metavar="HOST:PORT",
        help="which scheduler is asked (default: localhost:8003)",
    )
    parser.add_argument("--model", default="", help="the request's model, where clients use an id for several models")
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead of sentences")
    parser.add_argument(
        "--no-replay",
        action="store_true",
        help="tell only what is recorded, not what is found by deciding again: quicker on large logs",
    )
    a = parser.parse_args(argv)
    try:
        if a.log:
            story = explain(a.log, a.request, model=a.model, replay=not a.no_replay)
        else:
            story = explain_running(a.scheduler, a.request, model=a.model, replay=not a.no_replay)
    except (OSError, ValueError) as error:
        print(f"cotenant explain: {error}", file=sys.stderr)
        return 1
    except grpc.aio.AioRpcError as error:
        print(f"cotenant explain: {a.scheduler} answered {error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    if a.json:
        print(msgspec.json.format(msgspec.json.encode(story)).decode())
    else:
        print(explain_text.text(story))
    return 0
