"""Traces of arrivals as they are found in the world: ours, the Azure LLM inference traces, and DISB's workloads.

docs/simulate.md tells the formats.
"""

import csv
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from cotenant.scheduler.simulation.arrivals import Periodic, Poisson, Process, Recorded

SECONDS, AZURE_LLM, DISB, LOAD = FORMATS = ("seconds", "azure-llm", "disb", "load")


def seconds(path: Path, model: str, speed: float = 0.0) -> Recorded:
    """A trace whose lines are `seconds`, `seconds,model`, or JSON `{"seconds": ..., "model": ...}`.

    Where lines name models, those of `model` are taken. Instants count from the first line of any model.
    Raises ValueError that names file and line.
    """
    found: list[float] = []
    first_s: float | None = None
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            text = line.strip()
            if not text or text.startswith("#") or (number == 1 and text.split(",")[0].lower() in _HEADERS):
                continue
            try:
                at_s, name = _of_line(text)
            except (ValueError, KeyError, TypeError) as error:
                expected = 'seconds, or seconds,model, or {"seconds": ..., "model": ...}'
                raise ValueError(f"{path}, line {number}: {text[:60]!r} is no arrival, expected {expected}") from error
            first_s = at_s if first_s is None else min(first_s, at_s)
            if name in ("", model):
                found.append(at_s)
    return Recorded(tuple(sorted(at_s - (first_s or 0.0) for at_s in found)), speed)


class _Requests(msgspec.Struct):
    """Columns of a load's document: of each request its model's number, and when it was meant to be sent."""

    model: list[int]
    at_us: list[int]


class _Model(msgspec.Struct):
    name: str


class _Configuration(msgspec.Struct):
    models: list[_Model]


class _Load(msgspec.Struct):
    """What is read of a load's document (docs/load.md)."""

    configuration: _Configuration
    requests: _Requests


def load(path: Path, model: str, speed: float = 0.0) -> Recorded:
    """The requests of `model` that `cotenant load --json` wrote of; instants count from the first of any model.

    Raises ValueError that names the file where it is no such document.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Load)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path}: not a result of `cotenant load --json`: {error}") from error
    names = [one.name for one in found.configuration.models]
    first_us = min(found.requests.at_us, default=0)
    sent = zip(found.requests.at_us, found.requests.model, strict=True)
    return Recorded(tuple([(at_us - first_us) / 1e6 for at_us, number in sent if names[number] == model]), speed)


_HEADERS = ("seconds", "time", "timestamp")


def _of_line(text: str) -> tuple[float, str]:
    if text.startswith("{"):
        row = json.loads(text)
        return float(row["seconds"]), str(row.get("model", ""))
    at_s, *rest = text.split(",")
    return float(at_s), rest[0].strip() if rest else ""


def azure_llm(path: Path, speed: float = 0.0) -> Recorded:
    """An Azure LLM inference trace: CSV with TIMESTAMP (date and time to 100 ns); token counts are not used.

    Raises ValueError that names file and line.
    """
    found = sorted(_stamps_s(path))
    return Recorded(tuple([at_s - found[0] for at_s in found]), speed)


def _stamps_s(path: Path) -> Iterator[float]:
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            try:
                day, _, fraction = row["TIMESTAMP"].partition(".")
                yield datetime.fromisoformat(day + "+00:00").timestamp() + float(f"0.{fraction or 0}")
            except (KeyError, ValueError, AttributeError) as error:
                raise ValueError(f"{path}, line {number}: expected TIMESTAMP as 2023-11-16 18:17:03.9799600") from error


def disb(path: Path, task: str, speed: float = 0.0) -> tuple[Process, float, int]:
    """One task of a DISB workload: its process, its rate per s (0: as the trace says), and clients of a closed loop.

    Its load is `periodic` or `poisson` (`frequency` per s), `trace` (ms), or `continuous`: one client, who sends the
    next request when the last is answered. Raises ValueError that names file and task.
    """
    document: Any = json.loads(path.read_text(encoding="utf-8"))
    tasks = {entry["id"]: entry["load"] for entry in document.get("tasks", [])}
    if task not in tasks:
        raise ValueError(f"{path}: there is no task '{task}'; there are {', '.join(tasks)}")
    load = tasks[task]
    match load.get("type"):
        case "periodic":
            return Periodic(), float(load["frequency"]), 0
        case "poisson":
            return Poisson(), float(load["frequency"]), 0
        case "trace":
            at_s = sorted(ms / 1e3 for ms in load["trace"])
            return Recorded(tuple(one - at_s[0] for one in at_s), speed), 0.0, 0
        case "continuous":
            return Poisson(), 0.0, 1
        case other:
            raise ValueError(f"{path}: task '{task}' has a load of type '{other}', expected periodic, poisson, trace")
