"""What a load came to: the JSON document of `cotenant load --json` (docs/load.md), and the numbers in it."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from cotenant.cli.load_arrivals import Floats
from cotenant.cli.load_client import Outcome
from cotenant.cli.load_run import Run

FORMAT, VERSION = "cotenant-load", 1
# A sender this late, at the 99th percentile, is worth a warning: it shifts latencies of tens of ms visibly.
LAG_LIMIT_MS = 5.0


class LoadedModel(msgspec.Struct):
    """What was sent to one model. `slo_ms` is 0 if it has none."""

    name: str
    version: str
    rate: float
    slo_ms: float
    timeout_ms: float
    deadline_ms: float
    batch: int
    priority: int
    inputs: str
    tenant: str = ""


class Configuration(msgspec.Struct):
    """How the load was made."""

    url: str
    client: str
    arrivals: str
    seed: int
    duration_s: float
    warmup_s: float
    explain: float
    models: list[LoadedModel]


class Lag(msgspec.Struct):
    """How late requests were sent, in ms."""

    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0

    @property
    def small(self) -> bool:
        """Whether it may be ignored."""
        return self.p99_ms <= LAG_LIMIT_MS


class Latency(msgspec.Struct):
    """Of requests that were answered with outputs, from their intended send times, in ms."""

    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


class Forecasts(msgspec.Struct):
    """Predicted against measured execution of requests that were explained; times are medians, in ms."""

    requests: int
    predicted_ms: float
    measured_ms: float
    error_median: float  # |predicted - measured| / measured
    error_p95: float
    covered: float  # share within the bound
    co_runners: float  # mean over requests of the mean number of other batches while it ran
    batch_size: float
    queue_p50_ms: float
    slowdown: float  # mean of measured over solo


class ModelResult(msgspec.Struct):
    """What became of the requests of one model, or of all of them."""

    model: str
    slo_ms: float
    offered: int
    in_time: int
    late: int
    refused: int
    failed: int
    cancelled: int
    attainment: float | None  # in time / offered
    goodput: float  # in time per second
    reasons: dict[str, int]  # of refusals
    statuses: dict[str, int]  # of failures
    latency: Latency | None
    forecasts: Forecasts | None


class Explanations(msgspec.Struct):
    """Columns about requests that were explained; `index` points into the columns of `Requests`. Times in us."""

    index: list[int]
    queue_us: list[int]
    execution_us: list[int]
    predicted_us: list[int]
    bound_us: list[int]
    work_us: list[int]
    batch_size: list[int]
    co_runners: list[float]
    request_id: list[int] = []  # inside the stack, as `cotenant explain` takes it; 0 if not told


class Requests(msgspec.Struct):
    """Columns with one entry per request that counts, in order of intended time. Times in us.

    `at_us` counts from the first instant that counts. `latency_us` is -1 where there was no answer with outputs.
    `detail` points into `details`.
    """

    model: list[int]
    at_us: list[int]
    lag_us: list[int]
    latency_us: list[int]
    outcome: list[int]
    detail: list[int]
    details: list[str]
    outcomes: list[str]
    explained: Explanations


class LoadResult(msgspec.Struct):
    """The document."""

    format: str
    version: int
    started_unix_ns: int  # first instant that counts
    started_monotonic_ns: int  # the same on this host's monotonic clock
    clock_id: str
    elapsed_s: float  # that counts, until sending ended
    configuration: Configuration
    environment: dict[str, str]
    lag: Lag
    total: ModelResult
    models: list[ModelResult]
    requests: Requests


def read(path: Path) -> LoadResult:
    """Reads a document. Raises ValueError that names the file where it is none, or a newer one."""
    try:
        result = msgspec.json.decode(path.read_bytes(), type=LoadResult)
    except (OSError, msgspec.MsgspecError) as error:
        raise ValueError(f"{path}: not a result of `cotenant load --json`: {error}") from error
    if result.format != FORMAT or result.version > VERSION:
        raise ValueError(f"{path}: {result.format} version {result.version}, expected {FORMAT} up to {VERSION}")
    return result


# ---- from a run ----------------------------------------------------------------------------------------------------


def requests_of(run: Run) -> Requests:
    """The columns of a run."""
    counted = range(run.plan.first_counted, run.sent)
    details = sorted({run.detail[i] for i in counted})
    numbers = {text: number for number, text in enumerate(details)}
    answered = {Outcome.IN_TIME, Outcome.LATE}
    told = sorted(i for i in run.explained if i in counted)
    explained = [run.explained[i] for i in told]
    return Requests(
        model=[run.plan.model[i] for i in counted],
        at_us=[(run.plan.at_ns[i] - run.plan.warmup_ns) // 1000 for i in counted],
        lag_us=[run.lag_ns[i] // 1000 for i in counted],
        latency_us=[run.latency_ns[i] // 1000 if run.outcome[i] in answered else -1 for i in counted],
        outcome=[int(Outcome.CANCELLED if run.outcome[i] == Outcome.PENDING else run.outcome[i]) for i in counted],
        detail=[numbers[run.detail[i]] for i in counted],
        details=details,
        outcomes=[outcome.name.lower() for outcome in Outcome if outcome != Outcome.PENDING],
        explained=Explanations(
            index=[i - counted.start for i in told],
            queue_us=[e.queue_ns // 1000 for e in explained],
            execution_us=[e.execution_ns // 1000 for e in explained],
            predicted_us=[e.predicted_ns // 1000 for e in explained],
            bound_us=[e.bound_ns // 1000 for e in explained],
            work_us=[e.work_ns // 1000 for e in explained],
            batch_size=[e.batch_size for e in explained],
            co_runners=[round(e.co_runners, 3) for e in explained],
            request_id=[e.request_id for e in explained],
        ),
    )


def lag_of(requests: Requests) -> Lag:
    """How late requests were sent."""
    if not requests.lag_us:
        return Lag()
    p50, p99 = np.percentile(requests.lag_us, [50, 99])
    return Lag(_ms(p50), _ms(p99), _ms(max(requests.lag_us)))


def summarise(requests: Requests, name: str, model: int | None, slo_ms: float, elapsed_s: float) -> ModelResult:
    """The numbers of one model, or of all if `model` is None."""
    rows = [i for i, m in enumerate(requests.model) if model is None or m == model]
    counts = Counter(requests.outcome[i] for i in rows)
    latency_us = np.array([requests.latency_us[i] for i in rows if requests.latency_us[i] >= 0], dtype=float)
    in_time = counts[Outcome.IN_TIME]

    def told(outcome: Outcome) -> dict[str, int]:
        found = Counter(requests.details[requests.detail[i]] for i in rows if requests.outcome[i] == outcome)
        return dict(found.most_common())

    return ModelResult(
        model=name,
        slo_ms=slo_ms,
        offered=len(rows),
        in_time=in_time,
        late=counts[Outcome.LATE],
        refused=counts[Outcome.REFUSED],
        failed=counts[Outcome.FAILED],
        cancelled=counts[Outcome.CANCELLED],
        attainment=in_time / len(rows) if rows else None,
        goodput=in_time / elapsed_s if elapsed_s > 0 else 0.0,
        reasons=told(Outcome.REFUSED),
        statuses=told(Outcome.FAILED),
        latency=_latency(latency_us) if len(latency_us) else None,
        forecasts=_forecasts(requests, set(rows)),
    )


def _latency(latency_us: Floats) -> Latency:
    p50, p90, p95, p99 = np.percentile(latency_us, [50, 90, 95, 99])
    return Latency(_ms(latency_us.mean()), _ms(p50), _ms(p90), _ms(p95), _ms(p99), _ms(latency_us.max()))


def _forecasts(requests: Requests, rows: set[int]) -> Forecasts | None:
    told = requests.explained
    chosen = [k for k, i in enumerate(told.index) if i in rows and told.execution_us[k] > 0 and told.work_us[k] > 0]
    if not chosen:
        return None

    def column(values: Sequence[float]) -> Floats:
        return np.array([values[k] for k in chosen], dtype=float)

    measured, predicted = column(told.execution_us), column(told.predicted_us)
    errors = np.abs(predicted - measured) / measured
    return Forecasts(
        requests=len(chosen),
        predicted_ms=_ms(np.median(predicted)),
        measured_ms=_ms(np.median(measured)),
        error_median=_rounded(np.median(errors)),
        error_p95=_rounded(np.percentile(errors, 95)),
        covered=_rounded((measured <= column(told.bound_us)).mean()),
        co_runners=_rounded(column(told.co_runners).mean()),
        batch_size=_rounded(column(told.batch_size).mean()),
        queue_p50_ms=_ms(np.median(column(told.queue_us))),
        slowdown=_rounded((measured / column(told.work_us)).mean()),
    )


def _ms(us: float) -> float:
    return _rounded(float(us) / 1e3)


def _rounded(value: float) -> float:
    """Six significant digits."""
    return float(f"{float(value):.6g}") if math.isfinite(value) else 0.0
