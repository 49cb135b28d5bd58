"""`cotenant top`: what it computes of two samples, and what it shows of a real stack."""

import asyncio
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cotenant.cli import load, load_options, top, top_table
from cotenant.cli.top_view import RunningBatch, TopView, view
from cotenant.v1 import executor_pb2, types_pb2
from cotenant.v1 import scheduler_pb2 as pb
from stacks import StackThread

S = 1_000_000_000


def status(**fields: Any) -> pb.GetStatusResponse:
    """Ten seconds after the start."""
    return pb.GetStatusResponse(**({"now_ns": 100 * S, "uptime_ns": 10 * S} | fields))


def device(**fields: Any) -> pb.DeviceStatus:
    found = pb.DeviceStatus(online=True, **fields)
    found.device.device_id, found.device.max_concurrency = "gpu-0", 4
    return found


# ---- two samples ---------------------------------------------------------------------------------------------------


def test_shares_and_rates_are_those_since_the_sample_before() -> None:
    before = status(
        decision_count=100,
        decision_ns=100_000,
        devices=[device(busy_ns=4 * S, batch_ns=6 * S)],
        models=[pb.ModelStatus(model="m", version="1", in_time=50, late=30, refused=20)],
    )
    now = status(
        now_ns=102 * S,
        uptime_ns=12 * S,
        decision_count=300,
        decision_ns=500_000,
        devices=[device(busy_ns=5 * S, batch_ns=9 * S)],
        models=[pb.ModelStatus(model="m", version="1", in_time=68, late=31, refused=21, slo_ns=20_000_000)],
    )
    found = view("x", now, before)
    assert found.devices[0].busy == 0.5
    assert found.devices[0].batches_at_once == 1.5
    assert found.models[0].recent_per_s == 10.0
    assert found.models[0].recent_attainment == 0.9
    assert found.models[0].attainment == pytest.approx(68 / 120)
    assert found.models[0].slo_ms == 20.0
    assert found.recent_decisions_per_s == 100.0
    assert found.recent_decision_us == 2.0
    assert found.decision_mean_us == pytest.approx(500 / 300)


def test_the_first_sample_counts_from_the_start() -> None:
    found = view("x", status(devices=[device(busy_ns=5 * S)], models=[pb.ModelStatus(model="m", in_time=40)]), None)
    assert found.interval_s == 10.0
    assert found.devices[0].busy == 0.5
    assert found.models[0].recent_per_s == 4.0


def test_a_scheduler_that_started_anew_gives_nothing_negative() -> None:
    before = status(uptime_ns=90 * S, devices=[device(busy_ns=80 * S)], models=[pb.ModelStatus(model="m", in_time=900)])
    now = status(now_ns=101 * S, uptime_ns=1 * S, models=[pb.ModelStatus(model="m", in_time=3)], devices=[device()])
    found = view("x", now, before)
    assert found.interval_s == 1.0
    assert found.models[0].recent_per_s == 3.0
    assert found.devices[0].busy == 0.0


def test_nothing_asked_is_no_attainment() -> None:
    found = view("x", status(models=[pb.ModelStatus(model="m", version="1")]), None)
    assert found.models[0].attainment is None
    assert found.models[0].recent_attainment is None


# ---- the screen ----------------------------------------------------------------------------------------------------


def drawn(shown: TopView, width: int) -> str:
    console = Console(width=width, force_terminal=False, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(top_table.screen(shown, console.width))
    return console.export_text()


def shown(**fields: Any) -> TopView:
    model = pb.ModelStatus(
        model="resnet", version="3", availability=pb.MODEL_AVAILABILITY_READY, in_time=90, late=10, batches=5, items=10,
        prediction_error=0.07, bound_coverage=0.96, slowdown=1.4, would_refuse=17,
    )  # fmt: skip
    loading = pb.ModelStatus(model="bert", version="1", availability=pb.MODEL_AVAILABILITY_LOADING)
    found = view("x:1", status(policy="edf", models=[model, loading], devices=[device(queued=3)], **fields), None)
    found.devices[0].running = [RunningBatch("resnet:3 x4", 6.0, 2.0), RunningBatch("bert:1@32 x1", 9.0, 0.0)]
    return found


def test_misses_are_told_in_a_line_each() -> None:
    late = pb.Miss(
        request_id=7, model="resnet", version="3", age_ns=5 * S, budget_ns=40_000_000, answered_ns=52_500_000,
        launched_ns=1_250_000, duration_ns=50_000_000,
    )  # fmt: skip
    late.forecast.duration_ns, late.forecast.bound_ns = 25_000_000, 60_000_000
    unknown = pb.Miss(request_id=8, model="bert", version="1", budget_ns=S, answered_ns=2 * S, duration_ns=S)
    refused = pb.Miss(request_id=9, client_request_id="x", model="bert", version="1", message="too late",
        reason=types_pb2.REJECT_REASON_PREDICTED_MISS)  # fmt: skip
    found = view("x", status(misses=[late, unknown, refused]), None)
    why = "late by 12.5 of 40 ms: launched at +1.2 ms, ran 50.0 ms, 100% more than expected, within its bound"
    assert [(miss.reason, miss.why) for miss in found.misses] == [
        ("LATE", why),
        ("LATE", "late by 1000.0 of 1000 ms: launched at +0.0 ms, ran 1000.0 ms, of which nothing was known before"),
        ("PREDICTED_MISS", "refused, PREDICTED_MISS: too late"),
    ]
    text = drawn(found, 160)
    assert f"5.0 s ago  7  resnet:3  {why}" in text
    assert "misses" not in drawn(view("x", status(), None), 160)


def test_the_screen_tells_what_slows_a_gpu_and_nothing_of_one_that_idles() -> None:
    throttled = executor_pb2.DeviceState(
        sm_clock_mhz=1200, sm_clock_max_mhz=1980, throttle_reasons_known=True,
        throttle_reasons=[executor_pb2.THROTTLE_REASON_POWER_CAP, executor_pb2.THROTTLE_REASON_HARDWARE_THERMAL],
    )  # fmt: skip
    found = view("x", status(devices=[device(state=throttled)]), None)
    text = drawn(found, 140)
    assert "throttled: power cap, hardware thermal, SM clock 1200 of 1980 MHz" in text
    idle = executor_pb2.DeviceState(throttle_reasons=[executor_pb2.THROTTLE_REASON_GPU_IDLE])
    assert "throttled" not in drawn(view("x", status(devices=[device(state=idle)]), None), 140)


def test_the_screen_tells_who_runs_beside_whom() -> None:
    text = drawn(shown(predictor_connected=True, estimates_version=12), 140)
    lines = text.splitlines()
    resnet = next(line for line in lines if "resnet:3 x4" in line)
    assert resnet.count("━") == 24
    assert "6.0 of 8.0 ms" in resnet
    assert "9.0 ms, over its prediction" in next(line for line in lines if "bert:1@32 x1" in line)
    assert "3 queued" in text
    assert "estimates 12," in text  # of a predictor that counts
    assert "bert:1 loading" in text
    row = next(line for line in lines if line.startswith("resnet:3 "))
    assert re.findall(r"[\d.]+%?", row)[1:] == [
        "0",
        "10",
        "90.0%",
        "90.0%",
        "10",
        "0",
        "0",
        "17",
        "2.0",
        "1.40",
        "7%",
        "96%",
    ]


@pytest.mark.parametrize(
    ("age_s", "text"), [(0.42, "0.4 s old"), (95.0, "95 s old"), (600.0, "10 min old"), (1e6, "11.6 days old")]
)
def test_the_age_of_estimates_is_told_in_words(age_s: float, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1_800_000_000.0
    monkeypatch.setattr("cotenant.cli.top_view.time.time", lambda: now_s)
    version = round((now_s - age_s) * 1e6)
    found = shown(predictor_connected=True, estimates_version=version)
    assert f"estimates {text}," in drawn(found, 140)
    assert found.estimates_version == version
    assert found.estimates_age_s == pytest.approx(age_s)


def test_estimates_of_a_clock_that_is_ahead_are_new_and_none_are_none() -> None:
    ahead = shown(predictor_connected=True, estimates_version=round((time.time() + 60) * 1e6))
    assert "estimates 0.0 s old" in drawn(ahead, 140)
    assert "estimates none yet" in drawn(shown(predictor_connected=True), 140)


def test_what_is_not_well_is_said() -> None:
    text = drawn(shown(observe_only=True), 140)
    assert "observing only" in text
    assert "no predictor" in text
    away = shown()
    away.devices[0].online = False
    assert "away" in drawn(away, 140)


def test_a_narrow_terminal_loses_columns_and_no_models() -> None:
    text = drawn(shown(), 78)
    assert "resnet:3" in text
    assert "items/" not in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 78


# ---- a real stack --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def busy(identity_stack: StackThread) -> StackThread:
    """The stack after some requests, of which a known number was refused."""
    flags = ["--url", identity_stack.url, "--cv", "0", "--duration-s", "1", "--warmup-s", "0"]
    for model in ("slow:rate=25", "slow:rate=10,slo_ms=5"):
        asyncio.run(load.carry_out(load_options.options([*flags, "--model", model])))
    time.sleep(1.2)  # frontends report once a second
    return identity_stack


def test_once_as_json_tells_what_clients_saw(busy: StackThread, capsys: pytest.CaptureFixture[str]) -> None:
    assert top.main(["--scheduler", busy.stack.scheduler, "--once", "--json", "--interval-s", "0.1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["policy"] == "goodput"
    assert found["predictor_connected"] is True
    assert found["decision_count"] > 30
    assert found["decision_mean_us"] > 0
    assert [d["device_id"] for d in found["devices"]] == ["cpu-0"]
    models = {model["model"]: model for model in found["models"]}
    assert sorted(models) == ["identity", "slow"]
    slow = models["slow"]
    assert slow["availability"] == "READY"
    assert slow["slo_ms"] == 200
    assert slow["in_time"] + slow["late"] == 25
    assert slow["refused"] == 10
    assert slow["attainment"] == slow["in_time"] / 35
    assert slow["batches"] <= 25
    assert slow["slowdown"] >= 0.9


def test_once_is_for_people_without_json(busy: StackThread, capsys: pytest.CaptureFixture[str]) -> None:
    assert top.main(["--scheduler", busy.stack.scheduler, "--once", "--interval-s", "0.1"]) == 0
    text = capsys.readouterr().out
    assert "cpu-0" in text
    assert re.search(r"slow:1 +200", text)


def test_no_scheduler_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert top.main(["--scheduler", "unix:/nonexistent", "--once"]) == 1
    assert "unix:/nonexistent answered UNAVAILABLE" in capsys.readouterr().err


def test_the_live_view_runs_until_it_is_interrupted(busy: StackThread, tmp_path: Path) -> None:
    text = live(busy.stack.scheduler, lambda seen: "slow:1" in seen)
    assert "cpu-0" in text


def test_the_live_view_waits_for_a_scheduler_that_is_away(tmp_path: Path) -> None:
    live(f"unix:{tmp_path / 'nobody'}", lambda seen: seen.count("does not answer") >= 1)


def live(scheduler: str, enough: Any) -> str:
    """Runs the live view on a terminal until its output is enough; it must end well on an interrupt."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "cotenant.cli", "top", "--scheduler", scheduler, "--interval-s", "0.2"]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "140", "LINES": "40"}
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    seen, deadline = "", time.monotonic() + 30
    try:
        while not enough(seen):
            assert time.monotonic() < deadline, seen
            if select.select([leader], [], [], 0.2)[0]:
                seen += os.read(leader, 65536).decode(errors="replace")
        process.send_signal(signal.SIGINT)
        while select.select([leader], [], [], 5)[0]:
            try:
                if not os.read(leader, 65536):
                    break
            except OSError:  # the terminal's other end is closed
                break
        assert process.wait(10) == 0
    finally:
        process.kill()
        os.close(leader)
    return seen
