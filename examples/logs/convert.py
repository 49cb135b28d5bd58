#!/usr/bin/env python3
"""Turns a table of batches that ran together into a log that `cotenant evaluate` reads. Needs nothing but Python.

    python convert.py batches.csv log [--solo solo.csv]

batches.csv has one line per batch, in any order; `device` may be left out where there is one only:

    batch,class,start_s,end_s,device
    1,resnet50 x4,0.000,0.0075,gpu-0

solo.csv tells what is known of classes by themselves: the solo time, and what share of each resource of the device the
class keeps busy, one column for each, named as you like. Both are optional, and better known than not:

    class,work_ms,sm,l2,dram
    resnet50 x4,6.7,0.40,0.37,0.26

A class is a model and, after " x", how many items a batch has (1 if nothing is said).
"""

import argparse
import csv
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

Record = dict[str, Any]


class Batch(NamedTuple):
    """A batch that ran, in ns."""

    number: int
    batch_class: Record
    start_ns: int
    end_ns: int


def class_of(text: str) -> Record:
    """A class by its name."""
    model, _, size = text.strip().rpartition(" x")
    if not model:
        model, size = text.strip(), "1"
    return {"model": model, "version": "1", "batch_size": int(size)}


def read_batches(path: Path) -> dict[str, list[Batch]]:
    """Batches by device, in order of their starts. Raises ValueError that names the line."""
    found: dict[str, list[Batch]] = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as file:
        for line, row in enumerate(csv.DictReader(file), 2):
            try:
                start_ns, end_ns = (round(float(row[name]) * 1e9) for name in ("start_s", "end_s"))
                batch = Batch(int(row["batch"]), class_of(row["class"]), start_ns, end_ns)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {line}: batch, class, start_s and end_s are needed: {error}") from error
            if end_ns <= start_ns:
                raise ValueError(f"{path}, line {line}: the batch ends before it starts")
            found[row.get("device") or "gpu-0"].append(batch)
    if not found:
        raise ValueError(f"{path}: no batches in it")
    return {device: sorted(batches, key=lambda b: (b.start_ns, b.number)) for device, batches in found.items()}


def read_solo(path: Path) -> tuple[list[str], list[Record]]:
    """Names of the resources, and profiles."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        resources = [name for name in reader.fieldnames or [] if name not in ("class", "work_ms")]
        profiles = [
            {
                "batch_class": class_of(row["class"]),
                "work_ns": round(float(row["work_ms"]) * 1e6),
                "samples": 1,
                "demand": [float(row[name]) for name in resources],
            }
            for row in reader
        ]
    return resources, profiles


def slices_of(batch: Batch, others: list[Batch]) -> list[Record]:
    """Stretches in which a batch's neighbours did not change; they sum to its duration."""
    beside = [o for o in others if o is not batch and o.start_ns < batch.end_ns and o.end_ns > batch.start_ns]
    cuts = {batch.start_ns, batch.end_ns, *(o.start_ns for o in beside), *(o.end_ns for o in beside)}
    edges = sorted(cut for cut in cuts if batch.start_ns <= cut <= batch.end_ns)
    found: list[Record] = []
    for start_ns, end_ns in zip(edges, edges[1:]):  # noqa: B905, RUF007 (runs with any Python 3)
        present = [o.batch_class for o in beside if o.start_ns <= start_ns and o.end_ns >= end_ns]
        found.append({"duration_ns": end_ns - start_ns, "co_runners": present})
    return found


def neighbours(batches: list[Batch]) -> list[list[Batch]]:
    """For each batch, in order of start, those it may have met."""
    found: list[list[Batch]] = [[] for _ in batches]
    running: list[int] = []
    for i, batch in enumerate(batches):
        running = [j for j in running if batches[j].end_ns > batch.start_ns]
        for j in running:
            found[i].append(batches[j])
            found[j].append(batch)
        running.append(i)
    return found


def finished(device: str, batch: Batch, others: list[Batch]) -> Record:
    """What the log tells of a batch once it has ended."""
    return {
        "type": "BatchFinished",
        "device_id": device,
        "batch_id": batch.number,
        "at_ns": batch.end_ns,
        "started_ns": batch.start_ns,
        "duration_ns": batch.end_ns - batch.start_ns,
        "batch_class": batch.batch_class,
        "slices": slices_of(batch, others),
    }


def convert(batches: Path, solo: Path | None, log: Path) -> int:
    """Writes the log; returns how many batches it tells of. Raises ValueError that names file and line."""
    resources, profiles = read_solo(solo) if solo else ([], [])
    devices = read_batches(batches)
    first_ns = min(own[0].start_ns for own in devices.values())
    told: list[tuple[int, Record]] = []
    for device, own in devices.items():
        spec = {"device_id": device, "kind": "cuda", "name": device, "memory_bytes": 0, "max_concurrency": 1}
        spec["resources"] = resources
        told.append((first_ns, {"type": "DeviceJoined", "device": spec, "incarnation": 1}))
        told += [(first_ns, {"type": "ClassProfiled", "device_id": device, "profile": profile}) for profile in profiles]
        told += [(b.end_ns, finished(device, b, met)) for b, met in zip(own, neighbours(own))]  # noqa: B905
    told.sort(key=lambda one: one[0])
    header = {"type": "Header", "format": "cotenant-log", "version": 1, "software": "convert.py", "epoch": 1, "part": 0}
    header.update(unix_ns=0, monotonic_ns=0, clock_id="")
    with log.open("w", encoding="utf-8") as file:
        for record in (header, *({"type": "Group", "now_ns": at, "events": [e], "actions": []} for at, e in told)):
            file.write(json.dumps(record, separators=(",", ":")) + "\n")
    return sum(map(len, devices.values()))


def main() -> int:
    """Exit status 0, or 1 where a file is not what it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("batches", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("--solo", type=Path)
    a = parser.parse_args()
    try:
        count = convert(a.batches, a.solo, a.log)
    except (OSError, KeyError, ValueError) as error:
        print(f"convert.py: {error}", file=sys.stderr)
        return 1
    print(f"{a.log}: {count} batches")
    return 0


if __name__ == "__main__":
    sys.exit(main())
