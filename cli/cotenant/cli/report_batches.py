"""What ran beside what, for the report: the timeline, how well forecasts held, and how pairs slow each other."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cotenant.cli.report_log import Log
from cotenant.cli.report_records import Finished
from cotenant.cli.report_requests import sampled
from cotenant.runtime.estimates import BatchClass, EstimateTable

TIMELINE_BATCHES = 20000  # embedded in a page: about 2 MB
_ROLLING = 101  # batches over which a rolling median is taken
_LEAST_BESIDE = 0.2  # share of its time a batch must have run beside others to tell how they slow it
_LEAST_BATCHES = 5  # behind an observed slowdown that is shown
MATRIX_MODELS = 14  # rows of a matrix that is still readable


class Classes:
    """Numbers for batch classes, so that a page names each once."""

    def __init__(self, models: Sequence[str]) -> None:
        self._models = {name: i for i, name in enumerate(models)}
        self._numbers: dict[BatchClass, int] = {}

    def number(self, known: BatchClass) -> int:
        """A class's number, new if need be."""
        return self._numbers.setdefault(known, len(self._numbers))

    def model(self, name: str) -> int:
        """A model's number, new if need be."""
        return self._models.setdefault(name, len(self._models))

    @property
    def models(self) -> list[str]:
        """Models by number."""
        return list(self._models)

    def rows(self) -> list[list[Any]]:
        """For each class: its name, and the number of its model."""
        return [[str(known), self.model(known.model)] for known in self._numbers]


# ---- the timeline --------------------------------------------------------------------------------------------------


def timeline(log: Log, batches: Sequence[Finished], start_ns: int, classes: Classes) -> dict[str, Any]:
    """Columns of batches by device, with times in us from `start_ns`; the middle of the run where it has too many."""
    kept = sorted(batches, key=lambda b: (b.started_ns, b.batch_id))
    total = len(kept)
    if total > TIMELINE_BATCHES:
        first = (total - TIMELINE_BATCHES) // 2
        kept = kept[first : first + TIMELINE_BATCHES]
    devices: list[dict[str, Any]] = []
    for device_id, device in sorted(log.devices.items()):
        own = [batch for batch in kept if batch.device_id == device_id]
        rows = [_row(batch, start_ns, classes) for batch in own]
        columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in _COLUMNS]
        lanes = _lanes(own)
        devices.append(
            {
                "name": f"{device_id} · {device.name}",
                "lanes": max(lanes, default=0) + 1,
                "lane": lanes,
                **dict(zip(_COLUMNS, columns, strict=True)),
            }
        )
    return {"shown": len(kept), "of": total, "devices": devices}


_COLUMNS = ("start", "duration", "class", "predicted", "bound", "work", "beside")


def _row(batch: Finished, start_ns: int, classes: Classes) -> tuple[Any, ...]:
    forecast = batch.forecast
    beside: Counter[int] = Counter()
    for part in batch.slices:
        for other in part.co_runners:
            beside[classes.number(other)] += part.duration_ns // 1000
    return (
        (batch.started_ns - start_ns) // 1000,
        batch.duration_ns // 1000,
        classes.number(batch.batch_class),
        forecast.duration_ns // 1000 if forecast else 0,
        forecast.bound_ns // 1000 if forecast else 0,
        forecast.work_ns // 1000 if forecast else 0,
        [number for pair in beside.most_common(8) for number in pair],
    )


def _lanes(batches: Sequence[Finished]) -> list[int]:
    """The lowest lane that is free, for each batch in order of its start."""
    free: list[int] = []
    busy: list[tuple[int, int]] = []  # (end, lane)
    lanes: list[int] = []
    for batch in batches:
        while busy and busy[0][0] <= batch.started_ns:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (batch.started_ns + max(1, batch.duration_ns), lane))
        lanes.append(lane)
    return lanes


# ---- forecasts -----------------------------------------------------------------------------------------------------


def forecasts(batches: Sequence[Finished], start_ns: int, classes: Classes) -> dict[str, Any]:
    """Points (sampled), rolling quantiles of measured over predicted, and rolling coverage of the bound."""
    told = sorted((b for b in batches if b.forecast and b.forecast.duration_ns and b.duration_ns), key=_end_ns)
    at_s = np.array([(_end_ns(b) - start_ns) / 1e9 for b in told])
    ratio = np.array([b.duration_ns / b.forecast.duration_ns for b in told if b.forecast])
    within = np.array([b.duration_ns <= b.forecast.bound_ns for b in told if b.forecast], dtype=float)
    kept = sampled(len(told))
    error = np.abs(1.0 / ratio - 1.0) if told else ratio
    return {
        "of": len(told),
        "at": [round(float(at_s[i]), 3) for i in kept],
        "ratio": [round(float(ratio[i]), 4) for i in kept],
        "model": [classes.model(told[i].batch_class.model) for i in kept],
        "rolling": _rolling(at_s, ratio, within),
        "covered": float(within.mean()) if told else None,
        "level": max((b.forecast.level for b in told if b.forecast), default=0.0),
        "error_median": float(np.median(error)) if told else None,
        "error_p95": float(np.percentile(error, 95)) if told else None,
    }


def _end_ns(batch: Finished) -> int:
    return batch.started_ns + batch.duration_ns


def _rolling(
    at_s: npt.NDArray[np.float64], ratio: npt.NDArray[np.float64], within: npt.NDArray[np.float64]
) -> dict[str, list[float]]:
    """Quantiles of the ratio and share within the bound, over neighbours in time, at up to 240 places."""
    found: dict[str, list[float]] = {"at": [], "p10": [], "p50": [], "p90": [], "covered": []}
    if len(at_s) < 10:
        return found
    half = min(_ROLLING, len(at_s)) // 2
    for centre in np.unique(np.linspace(half, len(at_s) - 1 - half, 240).round().astype(int)):
        near = slice(max(0, centre - half), centre + half + 1)
        p10, p50, p90 = np.percentile(ratio[near], [10, 50, 90])
        row = (float(at_s[centre]), float(p10), float(p50), float(p90), float(within[near].mean()))
        for column, value in zip(found.values(), row, strict=True):
            column.append(round(value, 4))
    return found


# ---- slowdowns of pairs --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Pair:
    """Sums over batches of one model that met only one other model: ns beside it, and work done in that time."""

    batches: int = 0
    beside_ns: float = 0.0
    done_ns: float = 0.0
    believed_ns: float = 0.0  # work that the estimates say is done in that time


@dataclass(slots=True)
class _Met:
    """What one group of equal devices has seen."""

    pairs: dict[tuple[str, str], _Pair] = field(default_factory=lambda: defaultdict(_Pair))
    classes: Counter[BatchClass] = field(default_factory=Counter)
    device_ids: list[str] = field(default_factory=list)


def slowdowns(log: Log, classes: Classes) -> list[dict[str, Any]]:
    """For each kind of device: slowdown of each model beside each other, observed and believed.

    Observed: in batches whose co-runners were all of one model, the time spent beside them over the work done in that
    time (what remains of the batch's solo work after what it ran alone), sums over batches. Believed: the same sums
    with the progress rates of the last estimates; where a pair never met, the rate of their most frequent classes.
    """
    met: dict[str, _Met] = defaultdict(_Met)
    for device_id, device in sorted(log.devices.items()):
        met[device.name].device_ids.append(device_id)
    for batch in log.batches:
        if batch.failed or not batch.duration_ns or batch.device_id not in log.devices:
            continue
        group = met[log.devices[batch.device_id].name]
        group.classes[batch.batch_class] += 1
        _meet(group, batch, log)
    return [_matrix(name, group, log, classes) for name, group in met.items() if group.classes]


def _meet(group: _Met, batch: Finished, log: Log) -> None:
    others = {other.model for part in batch.slices for other in part.co_runners}
    if len(others) != 1 or any(len(part.co_runners) > 1 for part in batch.slices):
        return
    beside_ns = sum(part.duration_ns for part in batch.slices if part.co_runners)
    table = log.tables.get(batch.device_id)
    work_ns = _work_ns(table, batch)
    if beside_ns < _LEAST_BESIDE * batch.duration_ns or not work_ns:
        return
    pair = group.pairs[batch.batch_class.model, others.pop()]
    pair.batches += 1
    pair.beside_ns += beside_ns
    pair.done_ns += work_ns - (batch.duration_ns - beside_ns)
    if table:
        pair.believed_ns += sum(
            part.duration_ns * table.progress_rate(batch.batch_class, part.co_runners)
            for part in batch.slices
            if part.co_runners
        )


def _work_ns(table: EstimateTable | None, batch: Finished) -> int:
    known = table.classes.get(batch.batch_class) if table else None
    return known.work_ns if known else batch.forecast.work_ns if batch.forecast else 0


def _matrix(name: str, group: _Met, log: Log, classes: Classes) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    for known, count in group.classes.items():
        counts[known.model] += count
    order = {model: i for i, model in enumerate(classes.models)}
    chosen = sorted((model for model, _ in counts.most_common(MATRIX_MODELS)), key=lambda m: order.get(m, len(order)))
    usual = {m: max((c for c in group.classes if c.model == m), key=lambda c: group.classes[c]) for m in chosen}
    table = next((log.tables[d] for d in group.device_ids if d in log.tables), None)
    cells = []
    for victim in chosen:
        for other in chosen:
            pair = group.pairs.get((victim, other), _Pair())
            observed = pair.beside_ns / pair.done_ns if pair.batches >= _LEAST_BATCHES and pair.done_ns > 0 else None
            if pair.believed_ns > 0:
                believed: float | None = pair.beside_ns / pair.believed_ns
            elif table and usual[victim] in table.classes:
                believed = 1.0 / table.progress_rate(usual[victim], (usual[other],))
            else:
                believed = None
            cells.append([_rounded(observed), _rounded(believed), pair.batches])
    count = len(group.device_ids)
    return {
        "device": f"{count} x {name}" if count > 1 else name,
        "models": [classes.model(model) for model in chosen],
        "of": len(counts),
        "cells": cells,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
