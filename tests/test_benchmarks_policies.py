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
