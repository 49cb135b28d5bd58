"""The report: figures made of a log, by hand and of a real run, and the page they stand on."""

import asyncio
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cotenant.cli import (
    load,
    load_options,
    report,
    report_batches,
    report_log,
    report_misses,
    report_page,
    report_requests,
)
from cotenant.cli.load_result import LoadResult
from cotenant.cli.report_batches import Classes
from cotenant.cli.report_log import Log
from stacks import StackThread, delayed, write_model

MS = 1_000_000
HEADER = {
    "type": "Header",
    "format": "cotenant-log",
    "version": 1,
    "software": "1",
    "epoch": 1,
    "part": 0,
    "unix_ns": 1_800_000_000 * 10**9,
    "monotonic_ns": 0,
    "clock_id": "b",
}
DEVICE = {"device_id": "gpu-0", "kind": "cuda", "name": "GPU", "memory_bytes": 2**30, "max_concurrency": 2}


def known(model: str) -> dict[str, Any]:
    return {"model": model, "version": "1", "batch_size": 1, "shape_bucket": ""}


def finished(batch_id: int, model: str, start_ms: float, duration_ms: float, *slices: Any, work_ms: float = 10) -> Any:
    """A batch; each slice is (ms, co-runner...)."""
    told = [{"duration_ns": round(ms * MS), "co_runners": [known(m) for m in others]} for ms, *others in slices]
    forecast = {"work_ns": work_ms * MS, "duration_ns": 12 * MS, "bound_ns": 15 * MS, "level": 0.95}
    return {
        "type": "BatchFinished",
        "device_id": "gpu-0",
        "batch_id": batch_id,
        "at_ns": round((start_ms + duration_ms + 1) * MS),
        "started_ns": round(start_ms * MS),
        "duration_ns": round(duration_ms * MS),
        "batch_class": known(model),
        "slices": told or [{"duration_ns": round(duration_ms * MS), "co_runners": []}],
        "forecast": forecast,
        "failed": False,
    }


def arrived(request_id: int, model: str, at_ms: float, deadline_ms: float = 0) -> Any:
    request = {"request_id": request_id, "attempt": 1, "model": model, "version": "1", "batch_size": 1}
    times = {"arrival_ns": round(at_ms * MS), "deadline_ns": round(deadline_ms * MS)}
    return {"type": "RequestArrived", "request": request | times}


def launched(batch_id: int, model: str, *request_ids: int) -> Any:
    requests = [arrived(i, model, 0)["request"] for i in request_ids]
    batch = {"batch_id": batch_id, "batch_class": known(model), "requests": requests}
    return {"type": "Launch", "device_id": "gpu-0", "batch": batch}


def group(now_ms: float, events: list[Any], actions: list[Any] | None = None) -> Any:
    return {"type": "Group", "now_ns": round(now_ms * MS), "events": events, "actions": actions or []}


def written(folder: Path, *records: Any, header: dict[str, Any] | None = None) -> Path:
    snapshot = {"type": "Snapshot", "now_ns": 0, "config": {"policy": "edf", "level": 0.95}}
    joined = group(0, [{"type": "DeviceJoined", "device": DEVICE, "incarnation": 1, "loaded": [], "memory_bytes": []}])
    path = folder / "log"
    lines = [json.dumps(record) for record in (header or HEADER, snapshot, joined, *records)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# ---- reading -------------------------------------------------------------------------------------------------------


def test_a_request_is_followed_from_arrival_to_answer(tmp_path: Path) -> None:
    refusal = {"type": "Refuse", "request_id": 3, "attempt": 1, "reason": "PREDICTED_MISS", "message": "no"}
    path = written(
        tmp_path,
        group(11, [arrived(1, "a", 10, 30), arrived(2, "a", 10.5, 16)], [launched(7, "a", 1, 2)]),
        group(12, [arrived(3, "b", 11.5, 20)], [refusal]),
        group(21, [finished(7, "a", 11, 8)]),
    )
    log = report_log.read(path)
    assert log.requests[1].decided_ns == log.requests[1].launched_ns == 11 * MS
    seen = report_requests.seen(log, None)
    assert seen.names == ["a", "b"]
    outcomes = [seen.requests.outcomes[o] for o in seen.requests.outcome]
    assert outcomes == ["in_time", "late", "refused"]
    assert seen.requests.latency_us == [10_000, 9_500, -1]
    assert report_requests.refusals(seen, log) == {"PREDICTED_MISS": [0, 1]}
    assert report_misses.rows(log) == [
        ("2, a", "late by 4.0 of 5.5 ms: launched at +0.5 ms, ran 8.0 ms, 33% less than expected, within its bound"),
        ("3, b", "refused, PREDICTED_MISS: no"),
    ]
    page = report.document(log, None, None)
    assert 'id="section-misses"' in page
    assert "<dt>3, b</dt>" in page
    stages = report_requests.stages(log, seen)
    found = dict(zip(stages["names"], stages["means"][0], strict=True))
    assert found["to the scheduler"] == pytest.approx(0.75)  # 1 ms and 0.5 ms
    assert found["run alone"] == pytest.approx(8.0)
    assert stages["means"][1] is None


def test_an_answer_is_there_when_its_outputs_have_been_handed_out(tmp_path: Path) -> None:
    """Executors tell in `at_ns` when the batch ended on the device."""
    batch = finished(7, "a", 11, 8) | {"at_ns": 19 * MS, "output_ns": 3 * MS}
    path = written(tmp_path, group(11, [arrived(1, "a", 10, 21)], [launched(7, "a", 1)]), group(23, [batch]))
    log = report_log.read(path)
    seen = report_requests.seen(log, None)
    assert seen.requests.latency_us == [12_000]
    assert [seen.requests.outcomes[o] for o in seen.requests.outcome] == ["late"]
    stages = report_requests.stages(log, seen)
    assert dict(zip(stages["names"], stages["means"][0], strict=True))["outputs"] == pytest.approx(3.0)


def test_what_later_versions_add_is_passed_over(tmp_path: Path) -> None:
    odd = {"type": "MoonRose", "request": 3, "batch": "no batch", "slices": 7}
    batch = finished(1, "a", 1, 10) | {"phase_of_the_moon": {"full": True}}
    changed = finished(2, "a", 1, 10) | {"duration_ns": {"mean": 10}}
    path = written(tmp_path, {"type": "Chapter"}, group(2, [arrived(1, "a", 1), odd, batch, changed], [odd]))
    log = report_log.read(path)
    assert [b.batch_id for b in log.batches] == [1]
    assert log.not_understood == 1
    assert log.unknown == {"MoonRose": 2, "Chapter": 1}
    page = report.document(log, None, None)
    assert "3, passed over: 2 MoonRose, 1 Chapter" in page


def test_a_log_in_parts_is_read_in_order_and_a_torn_end_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, group(1, [finished(1, "a", 0, 1)]))
    (tmp_path / "x").mkdir()
    written(tmp_path / "x", group(9, [finished(2, "a", 8, 1)])).rename(tmp_path / "log.10")
    second = tmp_path / "log.2"
    shutil.copy(path, second)
    with second.open("a", encoding="utf-8") as file:
        file.write('{"type": "Group", "now_ns": 3, "ev')
    assert [b.batch_id for b in report_log.read(path).batches] == [1, 1, 2]


@pytest.mark.parametrize(
    ("version", "text"), [(1_800_000_003_500_000, "2027-01-15 08:00:03 UTC"), (7, "version 7"), (None, "none")]
)
def test_the_last_estimates_are_told_by_their_date(tmp_path: Path, version: int | None, text: str) -> None:
    pushed: dict[str, Any] = {
        "type": "EstimatesPushed",
        "device_id": "gpu-0",
        "version": version,
        "classes": [],
        "sets": [],
    }
    path = written(tmp_path, group(2, [arrived(1, "a", 1), *([pushed] if version else [])]))
    page = report.document(report_log.read(path), None, None)
    assert re.search(rf"last estimates</\w+>\s*<\w+[^>]*>{text}<", page)


@pytest.mark.parametrize(
    ("header", "line", "complaint"),
    [
        (HEADER | {"version": 2}, "", "version 2 of the format is newer than ours"),
        (HEADER | {"format": "other"}, "", "not a Cotenant log"),
        (HEADER, "{broken\n", "line 4: not a record of a Cotenant log"),
    ],
)
def test_what_is_no_log_is_told(tmp_path: Path, header: dict[str, Any], line: str, complaint: str) -> None:
    path = written(tmp_path, header=header)
    with path.open("a", encoding="utf-8") as file:
        file.write(line)
    with pytest.raises(ValueError, match=complaint):
        report_log.read(path)


def test_there_must_be_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(tmp_path / "nothing")]) == 1
    assert "there is no log at" in capsys.readouterr().err


# ---- figures -------------------------------------------------------------------------------------------------------


def cells(log: Log, *models: str) -> dict[tuple[str, str], Any]:
    (matrix,) = report_batches.slowdowns(log, Classes(models))
    pairs = [(victim, other) for victim in models for other in models]
    return dict(zip(pairs, matrix["cells"], strict=True))


def test_slowdowns_are_those_of_batches_that_met_one_model_only(tmp_path: Path) -> None:
    """10 ms of work, of which 4 ms ran alone and 6 ms took 12 beside b: b slows a twofold."""
    batches = [finished(i, "a", 100 * i, 16, (4,), (12, "b")) for i in range(6)]
    batches += [finished(10 + i, "b", 100 * i, 15, (15, "a")) for i in range(5)]
    batches += [finished(20 + i, "a", 100 * i, 90, (80, "b", "c"), (10, "b")) for i in range(5)]  # met two
    batches += [finished(30 + i, "c", 100 * i, 11, (1, "a"), (10,)) for i in range(5)]  # hardly met a
    batches += [finished(40 + i, "a", 100 * i, 30, (30, "a")) for i in range(2)]  # too few
    found = cells(report_log.read(written(tmp_path, group(1, batches))), "a", "b", "c")
    assert found["a", "b"][0] == pytest.approx(2.0)
    assert found["a", "b"][2] == 6
    assert found["b", "a"][0] == pytest.approx(1.5)
    assert found["c", "a"][0] is None
    assert found["a", "c"] == [None, None, 0]
    assert found["a", "a"] == [None, None, 2]


def test_learned_slowdowns_follow_the_contracts_formula(tmp_path: Path) -> None:
    """Slowdown = 1 + s . phi + corrections; predictor.proto says what phi is."""
    estimate = {"batch_class": known("a"), "work_ns": 10 * MS, "demand": [0.6], "sensitivity": [0.1, 0.2, 0.5]}
    other = {"batch_class": known("b"), "work_ns": 10 * MS, "demand": [0.65], "sensitivity": [0.0, 0.0, 0.0]}
    pair = [{"co_runner": known("b"), "delay": 0.03}]
    pushes = [
        {"type": "EstimatesPushed", "device_id": "gpu-0", "version": 1, "complete": True, "classes": [other]},
        {"type": "EstimatesPushed", "device_id": "gpu-0", "version": 2, "classes": [estimate | {"corrections": pair}]},
    ]
    batches = [finished(i, m, 20 * i, 10) for m in ("a", "b") for i in range(3)]
    found = cells(report_log.read(written(tmp_path, group(1, [*pushes, *batches]))), "a", "b")
    delay = 0.1 + 0.2 * 0.65 + 0.5 * (0.6 / 0.5 - 1) + 0.03
    assert found["a", "b"] == [None, pytest.approx(1 + delay, abs=1e-3), 0]
    assert found["b", "a"] == [None, 1.0, 0]


def test_no_two_bars_of_a_lane_overlap(tmp_path: Path) -> None:
    batches = [finished(i, "ab"[i % 2], 3 * i, 5 + 7 * (i % 3)) for i in range(60)]
    log = report_log.read(written(tmp_path, group(1, batches)))
    (device,) = report_batches.timeline(log, log.batches, 0, Classes(["a", "b"]))["devices"]
    free_at = [0] * device["lanes"]
    for start, duration, lane in zip(device["start"], device["duration"], device["lane"], strict=True):
        assert start >= free_at[lane]
        free_at[lane] = start + duration
    running = [
        sum(s <= t < s + d for s, d in zip(device["start"], device["duration"], strict=True)) for t in device["start"]
    ]
    assert device["lanes"] == max(running)


def test_forecasts_are_judged_by_the_bound_and_the_duration_acted_on(tmp_path: Path) -> None:
    batches = [finished(i, "a", 20 * i, 12) for i in range(15)] + [finished(20 + i, "a", 20 * i, 24) for i in range(5)]
    log = report_log.read(written(tmp_path, group(1, batches)))
    found = report_batches.forecasts(log.batches, 0, Classes(["a"]))
    assert found["covered"] == 0.75
    assert found["error_median"] == 0.0
    assert found["error_p95"] == pytest.approx(0.5)  # 12 ms predicted, 24 measured
    assert sorted(set(found["ratio"])) == [1.0, 2.0]


def test_more_batches_than_a_page_can_hold_are_cut_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_batches, "TIMELINE_BATCHES", 10)
    monkeypatch.setattr(report_requests, "POINTS", 20)
    events = [e for i in range(40) for e in (arrived(i, "a", 10 * i), finished(i, "a", 10 * i, 8))]
    page = report.document(report_log.read(written(tmp_path, group(1, events))), None, None)
    assert "The middle 10 of 40 batches are shown." in page
    assert "20 of 40 are drawn, chosen at random." in page


# ---- the page of a real run ----------------------------------------------------------------------------------------


@dataclass
class Recorded:
    """Files of a run, and the page made of them."""

    log: Path
    load: Path
    page: str
    result: LoadResult


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    folder = tmp_path_factory.mktemp("report")
    repository = folder / "models"
    write_model(repository, "slow", delayed(20, slo_ms=60))
    write_model(repository, "slower<i>", delayed(50, slo_ms=300))  # names must not break out of the page
    stack = StackThread(folder, repository, record=str(folder / "log"))
    flags = ["--model", "slow:rate=40", "--model", "slower<i>:rate=12", "--duration-s", "3", "--explain", "1"]
    options = load_options.options(["--url", stack.url, "--warmup-s", "0.2", *flags])
    result = asyncio.run(load.carry_out(options))
    stack.close()
    load.write(result, folder / "load.json")
    status = folder / "status.json"
    status.write_text('{"decision_count": 1234, "decision_mean_us": 56.7, "devices": []}', encoding="utf-8")
    output = folder / "page" / "index.html"
    flags = ["--load", str(folder / "load.json"), "--status", str(status), "-o", str(output)]
    assert report.main([str(folder / "log"), *flags]) == 0
    return Recorded(folder / "log", folder / "load.json", output.read_text(encoding="utf-8"), result)


def numbers(page: str) -> dict[str, Any]:
    match = re.search(r'<script id="report-numbers" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert match
    found: dict[str, Any] = json.loads(match[1])
    return found


def test_every_section_and_figure_is_there(recorded: Recorded) -> None:
    names = ("table", "timeline", "latency", "over-time", "forecasts", "slowdowns", "stages", "refusals")
    for name in (*names, "decisions", "setup"):
        assert f'id="section-{name}"' in recorded.page, name
    hosts = set(re.findall(r'<div id="([a-z-]+)"', recorded.page))
    drawn = set(re.findall(r'figure\("([a-z-]+)"', recorded.page)) | {"timeline"}
    assert drawn - hosts <= {"refusals"}  # which stands there only if something was refused
    assert hosts - {"tooltip"} <= drawn


def test_the_page_needs_nothing_else(recorded: Recorded) -> None:
    assert set(re.findall(r"https?://[^\s\"'`)]*", recorded.page)) == {"http://www.w3.org/2000/svg"}  # a name
    assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest|<link|<img|\ssrc=|import\(", recorded.page)


def test_no_text_breaks_out_of_the_page() -> None:
    wicked = "</script><script>alert(1)</script>"
    page = report_page.page(wicked, wicked, datetime.now(UTC), [], [], {"models": [wicked]})
    assert "<script>alert" not in page
    assert numbers(page)["models"] == [wicked]


def test_the_table_agrees_with_the_loads_result(recorded: Recorded) -> None:
    body = recorded.page.partition("<tbody>")[2].partition("</tbody>")[0]
    rows = re.findall(r"<tr(?: class=\"total\")?>(<td.*?)</tr>", body)
    table = [[re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<td.*?</td>", row)] for row in rows]
    assert len(table) == 3
    for row, model in zip(table, (*recorded.result.models, recorded.result.total), strict=True):
        assert row[0] == model.model.replace("<", "&lt;").replace(">", "&gt;")
        assert [int(row[2]), int(row[3])] == [model.offered, model.in_time]
        assert [int(text) for text in row[5:8]] == [model.late, model.refused, model.failed]
    total = recorded.result.total
    assert f"{total.offered:,} requests were answered in time" in recorded.page


def test_the_figures_numbers_agree_with_log_and_result(recorded: Recorded) -> None:
    found, result = numbers(recorded.page), recorded.result
    assert found["models"] == [model.model for model in result.models]
    for counts, model, latencies in zip(found["counts"], result.models, found["latency"], strict=True):
        assert counts["offered"] == model.offered
        assert counts["answered"] == model.in_time + model.late == len(latencies)
        assert latencies == sorted(latencies)
        assert model.latency
        assert max(latencies) == pytest.approx(model.latency.max_ms, rel=1e-3)
    log = report_log.read(recorded.log)
    start = result.started_monotonic_ns
    in_window = [b for b in log.batches if start <= b.started_ns < start + 3 * 10**9]
    assert found["forecasts"]["of"] == len(in_window)
    assert len(in_window) <= sum(len(device["start"]) for device in found["timeline"]["devices"])
    assert sum(map(sum, found["refusals"].values())) == result.total.refused
    assert len(found["over_time"]["at"]) == result.total.offered
    totals = [sum(mean) for mean in found["stages"]["means"]]
    for total, model in zip(totals, result.models, strict=True):
        assert model.latency
        assert total == pytest.approx(model.latency.mean_ms, rel=0.05)


def test_co_runners_of_the_log_are_those_that_clients_were_told(recorded: Recorded) -> None:
    by_log = report_requests.seen(report_log.read(recorded.log), None)
    by_clients = recorded.result
    assert by_clients.total.forecasts
    assert by_log.total.forecasts
    assert by_clients.total.forecasts.co_runners > 0.05  # two models on two places at 140 % of one
    assert by_log.total.forecasts.co_runners == pytest.approx(by_clients.total.forecasts.co_runners, abs=0.15)


def test_the_page_can_be_made_of_the_log_alone(recorded: Recorded, tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    assert report.main([str(recorded.log), "-o", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "as the log tells" in text
    assert sum(counts["offered"] for counts in numbers(text)["counts"]) >= recorded.result.total.offered


def test_a_result_of_another_run_is_refused(
    recorded: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "load.json"
    text = recorded.load.read_text(encoding="utf-8").replace(recorded.result.clock_id, "elsewhere")
    other.write_text(text, encoding="utf-8")
    assert report.main([str(recorded.log), "--load", str(other), "-o", str(tmp_path / "x.html")]) == 1
    assert "not of the time that the log covers" in capsys.readouterr().err


@pytest.mark.skipif(not shutil.which("node"), reason="node checks the page's script")
def test_the_pages_script_is_well_formed(recorded: Recorded, tmp_path: Path) -> None:
    scripts = re.findall(r"<script>(.*?)</script>", recorded.page, re.DOTALL)
    assert len(scripts) == 1
    path = tmp_path / "page.js"
    path.write_text(scripts[0], encoding="utf-8")
    checked = subprocess.run(["node", "--check", str(path)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
