"""What the report says: its headline numbers, and the sections round its figures."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from cotenant.cli import (
    estimate_versions,
    load_result,
    machine,
    report_batches,
    report_misses,
    report_page,
    report_requests,
)
from cotenant.cli.load_result import LoadResult
from cotenant.cli.load_table import attainment_text
from cotenant.cli.report_log import Log
from cotenant.cli.report_page import Tile
from cotenant.cli.report_records import Finished
from cotenant.cli.report_requests import Seen


class Status(msgspec.Struct):
    """What the report takes of `cotenant top --once --json`."""

    decision_count: int = 0
    decision_mean_us: float = 0.0


def tiles(
    log: Log, seen: Seen, batches: Sequence[Finished], forecasts: dict[str, Any], status: Status | None
) -> list[Tile]:
    """The numbers that matter most."""
    total = seen.total
    lanes = sum(device.max_concurrency for device in log.devices.values()) or 1
    running = sum(b.duration_ns for b in batches) / 1e9 / max(1e-9, seen.elapsed_s)
    beside = [report_requests.mean_co_runners(b) for b in batches]
    found = [
        Tile(
            attainment_text(total.attainment), "", "Answered in time", f"{total.in_time:,} of {total.offered:,} offered"
        ),
        Tile(f"{total.goodput:.0f}", "/s", "Goodput", "requests answered in time"),
        Tile(f"{total.refused / max(1, total.offered):.1%}", "", "Refused", f"{total.refused:,}, told with the reason"),
        Tile(f"{total.late / max(1, total.offered):.1%}", "", "Late", f"{total.late:,} answered after their SLO"),
        Tile(f"{running:.2f}", "", "Running at once", f"of {lanes} batches, on average"),
        Tile(f"{np.mean(beside) if beside else 0:.2f}", "", "Co-runners", "beside a batch, on average"),
    ]
    if forecasts["covered"] is not None:
        p95 = f"median of {forecasts['of']:,} batches; p95 {forecasts['error_p95']:.0%}"
        found.append(Tile(f"{forecasts['error_median']:.1%}", "", "Prediction error", p95))
        promised = f"of batches; {forecasts['level']:.0%} promised"
        found.append(Tile(f"{forecasts['covered']:.1%}", "", "Within bound", promised))
    if status and status.decision_count:
        remark = f"mean of {status.decision_count:,} decisions"
        found.append(Tile(f"{status.decision_mean_us:.0f}", "µs", "To decide", remark))
    return found


def of_requests(seen: Seen, numbers: dict[str, Any]) -> list[str]:
    """What became of requests, and who ran beside whom."""
    timeline, over_time = numbers["timeline"], numbers["over_time"]
    who = "as clients saw them, from the instant each was meant to be sent" if seen.by_clients else "as the log tells"
    cut = timeline["shown"] < timeline["of"]
    return [
        report_page.section(
            "table",
            "What became of the requests",
            f"Per model, {who}. A refusal counts as a miss. Co-runners, predicted and measured times are those of the "
            "batches that requests ran in.",
            report_page.table(seen.models, seen.total),
        ),
        report_page.section(
            "timeline",
            "Who ran beside whom",
            "Each bar is a batch, each row of a device one batch at a time. The line in a bar is where it was "
            "predicted to end; hatching is what went beyond its bound. Point at a batch to see whom it met. Drag to "
            "move, drag in the overview to choose, hold Ctrl and scroll to zoom.",
            report_page.TIMELINE_CONTROLS,
            f"The middle {timeline['shown']:,} of {timeline['of']:,} batches are shown." if cut else "",
        ),
        report_page.figure(
            "latency",
            "Latency against the SLO",
            "Share of offered requests that were answered within a time. The curve meets the dashed line at the "
            "attainment, and ends below 100% by what was refused or failed.",
            grid=True,
        ),
        report_page.figure(
            "over-time",
            "Latency over time",
            "Each dot is a request; at 100% it used up its SLO. Requests that were refused or failed are above.",
            _sampled(over_time),
        ),
    ]


def of_forecasts(numbers: dict[str, Any]) -> list[str]:
    """How predictions held, and what was learned; nothing where no batch has a forecast."""
    if not numbers["forecasts"]["of"]:
        return []
    return [
        report_page.figure(
            "forecasts",
            "How well predictions held",
            "Above: measured over predicted duration of each batch, the forecast being the one it was launched on. "
            "The line is the rolling median, the band holds the middle 80%. Below: how many batches ended within "
            "their bound, against what the bound promises.",
            _sampled(numbers["forecasts"]),
        ),
        report_page.figure(
            "slowdowns",
            "How models slow each other",
            "The model of the row beside the model of the column: duration over what it would be alone. Observed "
            "in batches that met only that co-runner; learned is what the predictor believes at the end. In "
            "italics: pairs that never met by themselves, told from what each demands.",
            _cut_matrix(numbers["slowdowns"]),
        ),
    ]


def of_time(log: Log, numbers: dict[str, Any]) -> list[str]:
    """Where time goes, what was refused, and which requests to ask about."""
    stages = report_page.figure(
        "stages",
        "Where the time goes",
        "Mean life of an answered request, by stage; the total is at the right. What is slowed by others is the "
        "price of sharing the device.",
    )
    if not numbers["refusals"]:
        refusals = report_page.section("refusals", "Refusals", "No request was refused.", "")
    else:
        lead = "Requests that were not run, by the reason their clients were told."
        refusals = report_page.figure("refusals", "Refusals", lead)
    if not (rows := report_misses.rows(log)):
        return [stages, refusals]
    lead = "The latest, and some of each reason for refusing. `cotenant explain ID LOG` tells all of one."
    return [stages, refusals, report_page.section("misses", "Requests to ask about", lead, report_page.facts(rows))]


def _sampled(columns: dict[str, Any]) -> str:
    shown = len(columns["at"])
    return f"{shown:,} of {columns['of']:,} are drawn, chosen at random." if shown < columns["of"] else ""


def _cut_matrix(groups: Sequence[dict[str, Any]]) -> str:
    cut = any(len(group["models"]) < group["of"] for group in groups)
    return f"The {report_batches.MATRIX_MODELS} models with the most batches are shown." if cut else ""


def closing(log: Log, seen: Seen, result: LoadResult | None, status: Status | None) -> list[str]:
    """Decisions, configuration and machine."""
    lead = "All that waits when the scheduler turns to it is one group, decided at once."
    environment = result.environment if result else machine.describe()
    halves = f"<div><h3>Configuration</h3>{report_page.facts(_configuration(log, seen, result))}</div>"
    halves += f"<div><h3>Machine</h3>{report_page.facts(list(environment.items()))}</div>"
    return [
        report_page.section("decisions", "Deciding", lead, report_page.facts(_decisions(log, status))),
        report_page.section("setup", "How it was measured", "", f'<div class="halves">{halves}</div>'),
    ]


def _decisions(log: Log, status: Status | None) -> list[tuple[str, str]]:
    rows = [("groups of events decided", f"{log.groups:,}, with {log.events / max(1, log.groups):.1f} events each")]
    if status and status.decision_count:
        rows.append(("time to decide a group", f"{status.decision_mean_us:.0f} µs on average"))
    lives = [life for life in log.requests.values() if life.decided_ns and life.request.arrival_ns]
    hops = np.array([life.decided_ns - life.request.arrival_ns for life in lives], dtype=float) / 1e6
    told = np.array([r.ended_ns - r.request.arrival_ns for r in lives if r.refused], dtype=float) / 1e6
    if len(hops):
        rows.append(("from a frontend's receipt to the decision", _quantiles(hops)))
    if len(told):
        rows.append(("from a frontend's receipt to a refusal", _quantiles(told)))
    if log.not_understood:
        rows.append(("records that were not understood", f"{log.not_understood:,}, passed over"))
    if log.unknown:
        kinds = ", ".join(f"{count:,} {name}" for name, count in log.unknown.most_common(5))
        more = ", ..." if len(log.unknown) > 5 else ""
        rows.append(("records of a later version", f"{log.unknown.total():,}, passed over: {kinds}{more}"))
    return rows


def _configuration(log: Log, seen: Seen, result: LoadResult | None) -> list[tuple[str, str]]:
    rows = [("policy", log.policy), ("level of the bounds", f"{log.level:g}"), ("software", log.software)]
    told = estimate_versions.date_text(log.estimates_version) if log.estimates_version else "none"
    rows.append(("last estimates", told))
    for d in log.devices.values():
        memory = f"{d.memory_bytes / 2**30:.1f} GiB"
        rows.append((d.device_id, f"{d.name}, {d.kind}, up to {d.max_concurrency} batches at once, {memory}"))
    if result is None:
        slos = zip(seen.names, seen.slo_ms, strict=True)
        return rows + [(name, f"SLO {slo:g} ms" if slo else "no SLO") for name, slo in slos]
    loaded = result.configuration
    rows.append(("load", f"{loaded.arrivals}, {loaded.duration_s:g} s, seed {loaded.seed}, by {loaded.client}"))
    rows += [(m.name, _of_model(m)) for m in loaded.models]
    lag = f"{result.lag.p99_ms:.2f} ms at the 99th percentile, {result.lag.max_ms:.1f} ms at most"
    return [*rows, ("sent late by", lag + ("" if result.lag.small else ": the sender did not keep up"))]


def _of_model(model: load_result.LoadedModel) -> str:
    slo = f"SLO {model.slo_ms:g} ms" if model.slo_ms else "no SLO"
    return f"{model.rate:.3g} requests/s of {model.batch}, {slo}, {model.inputs}"


def _quantiles(ms: Any) -> str:
    p50, p99 = np.percentile(ms, [50, 99])
    return f"{p50:.2f} ms at the median, {p99:.2f} ms at the 99th percentile"
