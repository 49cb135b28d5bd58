"""The benchmarks of policies: everybody takes part, and what `gpulets` decides by is what was fitted."""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from cotenant.scheduler.policies import POLICIES
from cotenant.scheduler.policies.gpulets import CONSTANT, OTHER, OWN
from cotenant.scheduler.simulate import SimulatedModel, Simulation

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    benchmark = import_module(name)
    monkeypatch.delitem(sys.modules, name)
    return benchmark


def test_every_policy_takes_part_and_writes_where_it_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = load("policies", monkeypatch)
    assert {entrant.policy for entrant in benchmark.entrants(list(POLICIES))} == set(POLICIES)
    output = tmp_path / "mine.json"
    options = ["--policies", "triton,edf", "--seconds", "0.2", "--seeds", "1", "--scales", "1"]
    monkeypatch.setattr(sys, "argv", ["policies.py", *options, "--output", str(output)])
    benchmark.main()
    rows = json.loads(output.read_text(encoding="utf-8"))["rows"]
    assert {row["policy"] for row in rows} == {"triton", "edf"}
    assert all(row["offered"] > 0 for row in rows)
    monkeypatch.setattr(sys, "argv", ["policies.py", "--policies", "edf,nobody"])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert "there is no nobody" in capsys.readouterr().err


def test_the_coefficients_of_gpulets_are_those_that_were_fitted() -> None:
    kept = json.loads((BENCHMARKS / "results/gpulets-coefficients.json").read_text(encoding="utf-8"))
    published = next(row for row in kept["rows"] if row["features"] == "l2, dram")
    assert published["coefficients"] == [CONSTANT, *OWN, *OTHER]


def test_coefficients_are_fitted_to_the_pairs_in_a_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    models = [SimulatedModel(name, name, 60, 100_000_000) for name in ("resnet50", "mobilenet_v2", "transformer_xl")]
    Simulation(models, policy="edf-fixed", concurrency=2, seed=1, record=tmp_path / "log").run(4 * 10**9)
    benchmark = load("gpulets_coefficients", monkeypatch)
    pairs = list(benchmark.recorded([tmp_path / "log"]))
    assert len(pairs) > 30
    assert all(0.9 < pair.slowdown < 3.0 and len(pair.own) == len(pair.other) == 3 for pair in pairs)
    assert benchmark.fit(pairs, (1, 2))["error_median"] < 0.1


def test_the_highest_rate_is_one_that_is_reached_and_little_more_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = load("scheduling", monkeypatch)
    workload = benchmark.Workload("text", 1.0, "loose", 1)
    found = benchmark.highest(workload, benchmark.Entrant("exclusive-fifo"), 3.0, 1)
    kept = dict(found["tried"])
    assert kept[found["rate"]] >= benchmark.TARGET
    assert min(rate for rate, attained in kept.items() if attained < benchmark.TARGET) < 1.05 * found["rate"]
    better = {**found, "policy": "triton", "setting": "2 instances", "rate": 3 * found["rate"]}
    cells = f"| {found['rate']:.2f} | {better['rate']:.2f} |"
    assert cells in benchmark.table([found, {**better, "rate": 0.01, "setting": "1 instance"}, better])


def test_scheduling_goes_on_where_it_was_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    benchmark = load("scheduling", monkeypatch)
    journal, output = tmp_path / "journal", tmp_path / "found.json"
    options = ["--devices", "1", "--mixes", "text", "--cv", "1", "--slo", "loose", "--seconds", "0.2", "--seeds", "1"]
    options += ["--policies", "exclusive-fifo", "--journal", str(journal), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["scheduling.py", *options])
    benchmark.main()
    kept = journal.read_text(encoding="utf-8")
    benchmark.main()
    assert journal.read_text(encoding="utf-8") == kept
    assert json.loads(output.read_text(encoding="utf-8"))["rows"] == [json.loads(line) for line in kept.splitlines()]
