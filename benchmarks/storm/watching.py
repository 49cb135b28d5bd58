"""What is looked at while a storm rages: memory and descriptors of every process, and what the predictor has kept."""

import asyncio
import contextlib
import sqlite3
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from stage import Stage

EVERY_S = 0.5
SETTLING_S = 20.0  # of a process: imports, models and caches come in meanwhile


class Sample(NamedTuple):
    """One look at a process."""

    at_s: float
    resident_bytes: int
    descriptors: int
    threads: int


class Growth(NamedTuple):
    """Of one process, from the first quarter of what was seen after it had settled to the last."""

    name: str
    lived_s: float
    mib_at_first: float
    mib_at_last: float
    descriptors_at_first: float
    descriptors_at_last: float


def look(pid: int) -> Sample:
    """Raises OSError for a process that is gone."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    resident = int(fields.get("VmRSS", "0 kB").split()[0]) * 1024
    return Sample(time.monotonic(), resident, len(list(Path(f"/proc/{pid}/fd").iterdir())), int(fields["Threads"]))


class Learned(NamedTuple):
    """What the predictor's file holds."""

    batches: dict[str, int]  # by device: batches learned from
    samples: dict[str, int]  # by device and class
    sequences: dict[str, int]  # by device and incarnation of its executor: events followed


def learned(path: Path) -> Learned:
    """Reads the predictor's state beside it. Raises sqlite3.Error where that cannot be done just now."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=1.0)) as db:
        db.execute("PRAGMA query_only=1")
        db.execute("BEGIN")  # all of one instant
        batches = dict(db.execute("SELECT device_id, sum(batches) FROM devices GROUP BY device_id"))
        key = "device_id || ' ' || model || ' x' || batch_size"
        samples = dict(db.execute(f"SELECT {key}, sum(samples) FROM classes GROUP BY {key}"))
        sequences = dict(db.execute("SELECT device_id || ' ' || incarnation, sequence FROM sources"))
    return Learned(batches, samples, sequences)


@dataclass
class Watch:
    """See the module's text."""

    stage: Stage
    samples: dict[tuple[str, int], list[Sample]] = field(default_factory=dict)  # by service and process id
    backwards: list[str] = field(default_factory=list)
    looks_at_state: int = 0
    last: Learned | None = None

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            self.processes()
            await asyncio.to_thread(self.state)
            await asyncio.sleep(EVERY_S)

    def processes(self) -> None:
        """One look at each process."""
        for name, process in self.stage.processes.items():
            with contextlib.suppress(OSError, KeyError):
                self.samples.setdefault((name, process.pid), []).append(look(process.pid))

    def state(self) -> None:
        """One look at what was learned; what is kept on disk must never be less than it was."""
        try:
            now = learned(self.stage.state)
        except sqlite3.Error:
            return  # it is being made, or the disk is full: the next look will tell
        self.looks_at_state += 1
        before, self.last = self.last, now
        if before is None:
            return
        for kind in ("batches", "samples", "sequences"):
            old, new = getattr(before, kind), getattr(now, kind)
            less = [f"{kind} of {key}: {old[key]}, then {new[key]}" for key in new if new[key] < old.get(key, 0)]
            gone = (
                [] if kind == "sequences" else [f"{kind} of {key}: {old[key]}, then gone" for key in old.keys() - new]
            )
            self.backwards += less + gone

    def growth(self, name: str, least_s: float) -> list[Growth]:
        """Of each process of a service that was watched for so long after it had settled."""
        found = []
        for (service, _), samples in self.samples.items():
            settled = [s for s in samples if s.at_s - samples[0].at_s >= SETTLING_S]
            if service != name or not settled or settled[-1].at_s - settled[0].at_s < least_s:
                continue
            quarter = max(1, len(settled) // 4)
            first, last = settled[:quarter], settled[-quarter:]
            found.append(
                Growth(
                    name,
                    samples[-1].at_s - samples[0].at_s,
                    *(statistics.median(s.resident_bytes for s in part) / 2**20 for part in (first, last)),
                    *(statistics.median(s.descriptors for s in part) for part in (first, last)),
                )
            )
        return found

    def most(self, name: str) -> tuple[float, int]:
        """Most memory (MiB) and most descriptors any process of a service had."""
        mine = [sample for (service, _), samples in self.samples.items() if service == name for sample in samples]
        return max(s.resident_bytes for s in mine) / 2**20, max(s.descriptors for s in mine)
