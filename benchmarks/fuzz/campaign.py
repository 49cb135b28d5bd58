"""Feeds a target its inputs, one after another, and keeps count.

Input number n of a target depends on the seed, the target and n alone: a campaign that was stopped goes on where it
was, and a finding is fed again by its number. Between inputs a canary is served, and what services complained of is
collected; memory and descriptors are looked at now and then.
"""

import asyncio
import gc
import json
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from fuzz.services import FindingError, traced
from fuzz.target import Target

STUCK_S = 60.0  # an input that is not done with by then
FINDINGS_KEPT = 50


@dataclass
class Progress:
    """How far a target's inputs were fed, and what came of it."""

    target: str
    seed: int
    inputs: int = 0
    canaries: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    verdicts: dict[str, int] = field(default_factory=dict)
    findings: list[dict[str, Any]] = field(default_factory=list)
    # (inputs, resident bytes, open descriptors) of the processes that are fuzzed, in this run
    looks: list[tuple[int, int, int]] = field(default_factory=list)


class Campaign:
    """See the module's text."""

    def __init__(self, target: Target, progress: Progress) -> None:
        self.target, self.progress = target, progress
        self._verdicts = Counter(progress.verdicts)

    async def run(self, until: int, stop_s: float | None = None) -> None:
        """Feeds inputs up to a number, or until an instant of `time.monotonic`."""
        progress = self.progress
        started, cpu_s = time.monotonic(), time.process_time()
        before = progress.seconds, progress.cpu_s
        if progress.inputs < until:
            progress.looks = []
        while progress.inputs < until and (stop_s is None or time.monotonic() < stop_s):
            await self.target.open()
            try:
                last = min(until, (progress.inputs // self.target.fresh_every + 1) * self.target.fresh_every)
                while progress.inputs < last and (stop_s is None or time.monotonic() < stop_s):
                    progress.seconds = before[0] + time.monotonic() - started
                    progress.cpu_s = before[1] + time.process_time() - cpu_s
                    if not await self.feed(progress.inputs):
                        break  # what it broke is started anew
                await self._guarded(progress.inputs, self.target.settled())
            finally:
                await self.target.close()
                gc.collect()

    async def feed(self, number: int) -> bool:
        """Feeds one input; false where something was found."""
        progress = self.progress
        made = self.target.make(Random(f"{progress.seed} {progress.target} {number}"))
        progress.inputs = number + 1
        well = await self._guarded(number, self._take(made))
        if number % self.target.canary_every == 0:
            progress.canaries += 1
            well = await self._guarded(number, self.target.canary()) and well
        for complaint in self.target.complaints():
            self._found(number, complaint)
            well = False
        if number % self.target.look_every == 0:
            gc.collect()
            progress.looks.append((number, *self.target.resources()))
        progress.verdicts = dict(self._verdicts)
        return well

    async def _take(self, made: Any) -> None:
        self._verdicts[await self.target.take(made)] += 1

    async def _guarded(self, number: int, work: Any) -> bool:
        try:
            async with asyncio.timeout(STUCK_S):
                await work
        except FindingError as error:
            self._found(number, str(error))
        except TimeoutError:
            self._found(number, f"not done within {STUCK_S:g} s")
        except Exception as error:  # whatever was raised is what we look for
            self._found(number, traced(error))
        else:
            return True
        return False

    def _found(self, number: int, text: str) -> None:
        if len(self.progress.findings) < FINDINGS_KEPT:
            self.progress.findings.append({"input": number, "text": text[:1000]})
        self._verdicts["FINDING"] += 1
        self.progress.verdicts = dict(self._verdicts)


def flat(looks: list[tuple[int, int, int]]) -> dict[str, Any]:
    """Whether memory and descriptors stayed as they were: the last third beside the second."""
    if len(looks) < 6:
        return {}
    third = len(looks) // 3
    middle, last = looks[third : 2 * third], looks[2 * third :]
    mib = [sorted(look[1] for look in part)[len(part) // 2] / 2**20 for part in (middle, last)]
    files = [sorted(look[2] for look in part)[len(part) // 2] for part in (middle, last)]
    return {"resident_mib": [round(value, 1) for value in mib], "descriptors": files}


def read(path: Path, target: str, seed: int) -> Progress:
    """Progress that was kept, or none."""
    if path.exists():
        told = json.loads(path.read_text())
        if told["seed"] == seed:
            return Progress(**told)
    return Progress(target, seed)


def write(path: Path, progress: Progress) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(progress), indent=1))
    fresh.replace(path)
