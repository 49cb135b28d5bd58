"""Logs of loads that were played to a stack: what is kept of a record, and what the paper's figures become of it."""

import gzip
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import live  # noqa: F401 (makes the scripts of benchmarks/interference importable)
from journal import rows
from recordings import SETS

from cotenant.cli import evaluate_reader, report_log

FILE, LOGS = "paper.jsonl", "paper-logs"
BATCHES = 1500  # of a load that are kept
_KEPT = ("DeviceJoined", "ClassProfiled", "BatchFinished")


def distil(record: Path, target: Path, begin_ns: int, end_ns: int) -> int:
    """Keeps of a record, compressed, devices, profiles and the first batches that started within a span; how many.

    It begins with the record's header, so it is a log of its own.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    batches = 0
    with gzip.open(target, "wt", encoding="utf-8", compresslevel=9) as out:
        for line in _lines(record):
            if line["type"] == "Header" and out.tell() == 0:
                out.write(json.dumps(line) + "\n")
            if line["type"] != "Group":
                continue
            events = []
            for event in line["events"]:
                finished = event["type"] == "BatchFinished"
                if finished and (batches >= BATCHES or not begin_ns <= event["started_ns"] < end_ns):
                    continue
                if event["type"] in _KEPT:
                    events.append(event)
                    batches += finished
            if events:
                group = {"type": "Group", "now_ns": line["now_ns"], "events": events, "actions": []}
                out.write(json.dumps(group, separators=(",", ":")) + "\n")
    return batches


def _lines(record: Path) -> Iterator[dict[str, Any]]:
    for part in report_log.parts(record):
        for line in part.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                yield json.loads(line)


def unpack(packed: Path, folder: Path) -> dict[str, list[Path]]:
    """The logs of one concurrency, by set, as `cotenant evaluate` reads them."""
    found: dict[str, list[Path]] = {}
    for path in sorted(packed.rglob("load*.gz")):
        target = folder / packed.name / path.relative_to(packed).with_suffix("")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(gzip.decompress(path.read_bytes()))
        found.setdefault(target.parent.name, []).append(target)
    return found


def evaluate(out: Path) -> None:
    """Table 1, Figure 5 and Figure 3 of what was recorded, into the folder of results."""
    import figure3
    import figure5
    import table1
    from common import save

    found = list(rows(out / FILE))
    run = next(row for row in found if row["type"] == "run")
    kind = run["device"]["kind"]
    facts = {"device": run["device"], "measured": run["date"]}
    table, errors = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for packed in sorted((out / LOGS).glob("*-*")):
            logs = unpack(packed, Path(scratch))
            if set(logs) < set(SETS):
                print(f"{packed.name}: only {', '.join(logs)} were recorded")
                continue
            concurrency, seed = map(int, packed.name.split("-"))
            case = {"device": kind, "law": kind, "concurrency": concurrency, "seed": seed}
            table += [case | row for row in table1.judged(logs, 50.0)]
            deviations = figure5.deviations_of([evaluate_reader.read(log) for name in SETS for log in logs[name]])
            errors += [figure5.row(kind, concurrency, name, deviations[name]) for name in figure5.METHODS]
    if table:
        save("paper-table1", table, path=out / "paper-table1.json", **facts)
        save("paper-figure5", errors, path=out / "paper-figure5.json", **facts)
        print(table1.summary([{"foretold_median": None, **row} for row in table]), figure5.table(errors), sep="\n\n")
    for concurrency in dict.fromkeys(row["concurrency"] for row in errors):
        drawn = figure5.plot(errors, kind, concurrency)
        (out / f"paper-figure5-{concurrency}.svg").write_text(drawn, encoding="utf-8")
    tails = [{**row, "batches": row["requests"]} for row in found if row["type"] == "figure3"]
    for load in dict.fromkeys(row["load"] for row in tails):
        drawn = figure3.plot(tails, kind, load)
        (out / f"paper-figure3-{load}.svg").write_text(drawn, encoding="utf-8")
