"""What became of requests, for the report: as clients saw it where a load's result is given, else as the log tells.

Both come in the form of a load's result, so that table and figures need not know which it is.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cotenant.cli import load_result
from cotenant.cli.load_client import Outcome
from cotenant.cli.load_result import Explanations, LoadResult, ModelResult, Requests
from cotenant.cli.report_log import Log, RequestLife
from cotenant.cli.report_records import Finished

POINTS = 5000  # in a figure; more are sampled
_STAGES = ("to the scheduler", "in the queue", "to the start", "run alone", "slowed by others", "outputs")


@dataclass(slots=True)
class Seen:
    """Requests within the time that counts."""

    names: list[str]
    slo_ms: list[float]  # by model, 0 for none
    requests: Requests
    models: list[ModelResult]
    total: ModelResult
    by_clients: bool  # else by the scheduler, as the log tells
    start_ns: int  # the first instant that counts, on the log's clock
    elapsed_s: float


def seen(log: Log, result: LoadResult | None) -> Seen:
    """The requests to report on. Raises ValueError where the log holds none, or is of another run than the result."""
    if result is None:
        return _of_log(log)
    end_ns = result.started_monotonic_ns + round(result.elapsed_s * 1e9)
    if log.clock_id != result.clock_id or result.started_monotonic_ns > log.last_ns or end_ns < log.first_ns:
        raise ValueError("the load's result is not of the time that the log covers, or of another host")
    return Seen(
        [m.model for m in result.models],
        [m.slo_ms for m in result.models],
        result.requests,
        result.models,
        result.total,
        True,
        result.started_monotonic_ns,
        result.elapsed_s,
    )


def _of_log(log: Log) -> Seen:
    lives = sorted(log.requests.values(), key=lambda life: life.request.arrival_ns)
    if not lives:
        raise ValueError("the log holds no requests")
    names = sorted({life.request.model for life in lives})
    start_ns = lives[0].request.arrival_ns
    elapsed_s = (lives[-1].request.arrival_ns - start_ns + 1000) / 1e9  # so that the last one is within
    requests = _columns(lives, names, start_ns, {batch.batch_id: batch for batch in log.batches})
    slo_ms = [log.slo_ns.get(name, 0) / 1e6 for name in names]
    models = [
        load_result.summarise(requests, name, i, slo_ms[i], elapsed_s) for i, name in enumerate(names)
    ]  # fmt: skip
    total = load_result.summarise(requests, "all", None, 0.0, elapsed_s)
    return Seen(names, slo_ms, requests, models, total, False, start_ns, elapsed_s)


def _columns(
    lives: Sequence[RequestLife], names: Sequence[str], start_ns: int, batches: Mapping[int, Finished]
) -> Requests:
    numbers = {name: i for i, name in enumerate(names)}
    found = Requests([], [], [0] * len(lives), [], [], [], [], [o.name.lower() for o in Outcome][:-1], _none())
    details: dict[str, int] = {}
    for i, life in enumerate(lives):
        batch = batches.get(life.batch_id) if life.batch_id else None
        outcome, detail = _outcome(life, batch)
        answered = batch and outcome in (Outcome.IN_TIME, Outcome.LATE)
        found.model.append(numbers[life.request.model])
        found.at_us.append((life.request.arrival_ns - start_ns) // 1000)
        found.latency_us.append((batch.answered_ns - life.request.arrival_ns) // 1000 if batch and answered else -1)
        found.outcome.append(int(outcome))
        found.detail.append(details.setdefault(detail, len(details)))
        if batch and answered:
            _explain(found.explained, i, life, batch)
    found.details = list(details)
    return found


def _outcome(life: RequestLife, batch: Finished | None) -> tuple[Outcome, str]:
    if life.refused:
        return Outcome.REFUSED, life.refused
    if batch is None or life.cancelled:
        return Outcome.CANCELLED, "cancelled" if life.cancelled else "no answer in the log"
    if batch.failed:
        return Outcome.FAILED, "EXECUTION_FAILED"
    late = 0 < life.request.deadline_ns < batch.answered_ns
    return (Outcome.LATE if late else Outcome.IN_TIME), ""


def _none() -> Explanations:
    return Explanations([], [], [], [], [], [], [], [], [])


def _explain(told: Explanations, index: int, life: RequestLife, batch: Finished) -> None:
    if (forecast := batch.forecast) is None:
        return
    told.index.append(index)
    told.queue_us.append(max(0, batch.started_ns - life.request.arrival_ns) // 1000)
    told.execution_us.append(batch.duration_ns // 1000)
    told.predicted_us.append(forecast.duration_ns // 1000)
    told.bound_us.append(forecast.bound_ns // 1000)
    told.work_us.append(forecast.work_ns // 1000)
    told.batch_size.append(batch.batch_class.batch_size)
    told.co_runners.append(round(mean_co_runners(batch), 3))
    told.request_id.append(life.request.request_id)


def mean_co_runners(batch: Finished) -> float:
    """Other batches on the device, averaged over the time a batch ran."""
    beside_ns = sum(part.duration_ns * len(part.co_runners) for part in batch.slices)
    return beside_ns / batch.duration_ns if batch.duration_ns else 0.0


# ---- figures -------------------------------------------------------------------------------------------------------


def latencies(requests: Requests) -> list[list[float]]:
    """By model: latencies of what was answered, ascending, in ms, at most 400 evenly spaced ranks of them."""
    columns: list[list[float]] = []
    model, latency_us = np.array(requests.model), np.array(requests.latency_us)
    for m in range(max(requests.model, default=-1) + 1):
        answered = np.sort(latency_us[(model == m) & (latency_us >= 0)]) / 1e3
        if len(answered) > 400:
            answered = answered[np.linspace(0, len(answered) - 1, 400).round().astype(int)]
        columns.append([float(f"{ms:.4g}") for ms in answered])
    return columns


def over_time(requests: Requests, slo_ms: Sequence[float]) -> dict[str, Any]:
    """Columns: instant in s, model, latency over SLO (over 1 s where there is none; null if not answered), outcome."""
    kept = sampled(len(requests.model))
    scale = [1e3 * (slo or 1000.0) for slo in slo_ms]
    return {
        "of": len(requests.model),
        "at": [round(requests.at_us[i] / 1e6, 3) for i in kept],
        "model": [requests.model[i] for i in kept],
        "ratio": [
            round(requests.latency_us[i] / scale[requests.model[i]], 4) if requests.latency_us[i] >= 0 else None
            for i in kept
        ],
        "outcome": [requests.outcome[i] for i in kept],
    }


def sampled(count: int) -> list[int]:
    """Indices of at most POINTS of `count`, drawn without bias, in order."""
    if count <= POINTS:
        return list(range(count))
    drawn: list[int] = np.sort(np.random.default_rng(0).choice(count, POINTS, replace=False)).tolist()
    return drawn


def stages(log: Log, found: Seen) -> dict[str, Any]:
    """By model, mean ms that answered requests spent in each stage of their life, and between the ends of it."""
    batches = {batch.batch_id: batch for batch in log.batches}
    end_ns = found.start_ns + round(found.elapsed_s * 1e9)
    rows: list[list[list[float]]] = [[] for _ in found.names]
    numbers = {name: i for i, name in enumerate(found.names)}
    for life in log.requests.values():
        batch = batches.get(life.batch_id) if life.batch_id else None
        arrival_ns = life.request.arrival_ns
        if batch is None or batch.failed or not found.start_ns <= arrival_ns < end_ns or life.refused:
            continue
        work_ns = min(batch.forecast.work_ns if batch.forecast else batch.duration_ns, batch.duration_ns)
        instants = (arrival_ns, life.decided_ns, life.launched_ns, batch.started_ns)
        spans = [max(0, b - a) for a, b in itertools.pairwise(instants)]
        spans += [
            work_ns,
            batch.duration_ns - work_ns,
            max(0, batch.answered_ns - batch.started_ns - batch.duration_ns),
        ]
        if life.request.model in numbers:
            rows[numbers[life.request.model]].append([span / 1e6 for span in spans])
    means = [np.mean(r, axis=0).round(4).tolist() if r else None for r in rows]
    if found.by_clients:
        for model, mean in zip(found.models, means, strict=True):
            if mean and model.latency:
                mean.append(round(max(0.0, model.latency.mean_ms - sum(mean)), 4))
    return {"names": [*_STAGES, *(["to and from the client"] if found.by_clients else [])], "means": means}


def refusals(found: Seen, log: Log) -> dict[str, Any]:
    """Counts by reason and model; in observe-only mode, of what would have been refused."""
    counts: dict[str, list[int]] = {}

    def add(reason: str, model: int) -> None:
        counts.setdefault(reason, [0] * len(found.names))[model] += 1

    requests = found.requests
    for i, outcome in enumerate(requests.outcome):
        if outcome == Outcome.REFUSED:
            add(requests.details[requests.detail[i]], requests.model[i])
    for _, model, reason in log.would_refuse:
        if model in found.names:
            add(f"would be {reason}", found.names.index(model))
    return dict(sorted(counts.items(), key=lambda row: -sum(row[1])))
