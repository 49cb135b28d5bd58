"""Judges a storm: what was promised, what was seen, and which promises were broken."""

import sqlite3
import statistics
from collections import defaultdict
from contextlib import closing
from typing import Any

from raging import WEDGED_S, Storm
from stage import Stage
from traffic import LATE, OK, UNAVAILABLE

# What a request may become. RESOURCE_EXHAUSTED: no room for the tensors, which says so.
ALLOWED = {OK, UNAVAILABLE, LATE, "RESOURCE_EXHAUSTED"}
GROWTH_LEAST_S = 60.0  # of a process's life that says something of its growth
# Memory that was once needed stays with the allocator (docs/data-path.md): some 100 MiB in a frontend whose clients did
# not read. Descriptors have no such excuse.
FLAT_MIB, FLAT_SHARE, FLAT_DESCRIPTORS = 112.0, 0.25, 24
# A budget (3 s at most here) bounds the answer; a service that stands still (5 s at most) may hold it up.
ANSWERED_S = 12.0


def broken(storm: Storm) -> list[str]:
    """Every promise that was not kept, in words; empty for a storm that was weathered."""
    ledger = storm.ledger
    found = list(ledger.wrong)
    found += [f"request {n} of {model} was never answered" for n, (model, _) in ledger.open.items()]
    found += [
        f"request of {a.model} answered {a.status} {a.reason} after {a.answered_s - a.sent_s:.1f} s"
        for a in ledger.answers
        if a.answered_s - a.sent_s > ANSWERED_S
    ]
    strange = {a.status: a.text for a in ledger.answers if a.status not in ALLOWED}
    found += [f"answered {status}: {text}" for status, text in strange.items()]
    found += [
        f"not served again within {WEDGED_S:.0f} s of {' and '.join(map(str, blow.faults))}"
        for blow in storm.blows
        if blow.recovery_s >= WEDGED_S
    ]
    found += [f"learned state went backwards: {what}" for what in storm.watch.backwards]
    found += [f"not given back: {what}" for what in storm.leftovers]
    found += _not_flat(storm)
    return found


def _not_flat(storm: Storm) -> list[str]:
    found = []
    for name, (before, *_, after) in storm.memory_at_rest.items():
        if after - before > FLAT_MIB + FLAT_SHARE * before:
            found.append(f"{name} has {after:.0f} MiB at the end, {before:.0f} MiB at the beginning")
    for name, (first, *_, last) in storm.descriptors_at_rest.items():
        if last - first > FLAT_DESCRIPTORS:
            found.append(f"{name} has {last} descriptors at the end, {first} at the beginning")
    return found


def state_after(stage: Stage) -> list[str]:
    """What is wrong with the predictor's file once everything has stopped, and with what services said of it."""
    with closing(sqlite3.connect(stage.state)) as db:
        (whole,) = db.execute("PRAGMA integrity_check").fetchone()
        (classes,) = db.execute("SELECT count(*) FROM classes").fetchone()
    found = [] if whole == "ok" else [f"the predictor's state is damaged: {whole}"]
    if not classes:
        found.append("the predictor's state holds nothing")
    return found + complaints(stage)


def complaints(stage: Stage) -> list[str]:
    """Lines of the services' logs that tell of an error of ours."""
    signs = ("Traceback", "was destroyed but it is pending", "never retrieved", "the core failed", "state unreadable")
    found = []
    for name in stage.services:
        path = stage.log(name)
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        found += [f"{name} logged: {line[:200]}" for line in lines if any(sign in line for sign in signs)]
    return found


def summary(stage: Stage, storm: Storm) -> dict[str, Any]:
    """What was seen, for a file of results."""
    ledger, watch = storm.ledger, storm.watch
    latencies = sorted(a.answered_s - a.sent_s for a in ledger.answers)
    return {
        "seconds": round(storm.seconds, 1),
        "requests": len(ledger.answers) + len(ledger.open) + ledger.cancelled,
        "answers": dict(ledger.statuses()),
        "cancelled_by_client": ledger.cancelled,
        "never_answered": len(ledger.open),
        "answered_twice_or_wrongly": len(ledger.wrong),
        "reasons": dict(ledger.reasons().most_common()),
        "answer_p99_s": round(latencies[int(0.99 * len(latencies))], 3) if latencies else None,
        "longest_answer_s": round(latencies[-1], 2) if latencies else None,
        "blows": len(storm.blows),
        "recovery": recovery(storm),
        "processes_started": dict(_counted(name for name, _ in stage.starts)),
        "memory_at_rest_mib": {k: [round(v[0], 1), round(v[-1], 1)] for k, v in storm.memory_at_rest.items()},
        "descriptors_at_rest": {k: [v[0], v[-1]] for k, v in storm.descriptors_at_rest.items()},
        "most_memory_mib_and_descriptors": {n: [round(watch.most(n)[0], 1), watch.most(n)[1]] for n in stage.services},
        "growth": [g._asdict() for name in stage.services for g in watch.growth(name, GROWTH_LEAST_S)],
        "looks_at_learned_state": watch.looks_at_state,
        "batches_learned": watch.last.batches if watch.last else {},
        "disk": "tmpfs" if stage.disk.mounted else "limits on the size of files",
        "links": type(stage.links).__name__,
    }


def recovery(storm: Storm) -> list[dict[str, Any]]:
    """By kind and target of fault, from blows of one fault alone: seconds until served again, and of silence."""
    seen: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for blow in storm.blows:
        if len(blow.faults) == 1:
            seen[blow.faults[0].kind, blow.faults[0].target].append((blow.recovery_s, blow.silence_s))
    return [
        {
            "fault": kind,
            "target": target,
            "blows": len(times),
            "recovery_median_s": round(statistics.median(r for r, _ in times), 3),
            "recovery_most_s": round(max(r for r, _ in times), 3),
            "silence_most_s": round(max(s for _, s in times), 3),
        }
        for (kind, target), times in sorted(seen.items())
    ]


def _counted(names: Any) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for name in names:
        counts[name] += 1
    return counts


def table(rows: list[dict[str, Any]]) -> str:
    """Recovery as a table in Markdown."""
    lines = [
        "| fault | struck | blows | served again after, median | at most | longest silence |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['fault']} | {r['target']} | {r['blows']} | {r['recovery_median_s']:.2f} s "
        f"| {r['recovery_most_s']:.2f} s | {r['silence_most_s']:.2f} s |"
        for r in rows
    ]
    return "\n".join(lines)
