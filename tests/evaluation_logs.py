"""Logs for the tests of `cotenant evaluate`: written by hand, and simulated."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cotenant.cli.evaluate_protocol import Plan
from cotenant.cli.evaluate_protocol import evaluate as judge
from cotenant.cli.evaluate_result import EvaluationResult, PredictorResult
from cotenant.predictor import learners
from cotenant.predictor.baselines.simple import Ignore
from cotenant.predictor.observations import Observation, Profile, Running, Slice
from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler.simulate import SimulatedModel, Simulation

MS = 1_000_000
HEADER = {"type": "Header", "format": "cotenant-log", "version": 1, "software": "test", "epoch": 1, "part": 0}


def known(name: str) -> dict[str, Any]:
    """A class by model, and size after an x: "a", "a x4"."""
    model, _, size = name.partition(" x")
    return {"model": model, "version": "1", "batch_size": int(size or 1)}


def klass(name: str) -> BatchClass:
    return BatchClass(shape_bucket="", **known(name))


def profile(name: str, work_ms: float, *, spread: float = 0.0, demand: Sequence[float] = (0.5, 0.5, 0.5)) -> Any:
    told = {"batch_class": known(name), "work_ns": round(work_ms * MS), "demand": list(demand), "spread": spread}
    return {"type": "ClassProfiled", "device_id": "gpu-0", "profile": told}


def finished(number: int, name: str, start_ms: float, *slices: Any, forecast_ms: Any = None, **more: Any) -> Any:
    """A batch; each slice is (ms, co-runner...); the forecast is (duration, bound at 0.95)."""
    parts = [{"duration_ns": round(ms * MS), "co_runners": [known(o) for o in others]} for ms, *others in slices]
    duration_ns = sum(part["duration_ns"] for part in parts)
    told = {
        "type": "BatchFinished",
        "device_id": "gpu-0",
        "batch_id": number,
        "at_ns": round(start_ms * MS) + duration_ns,
        "started_ns": round(start_ms * MS),
        "duration_ns": duration_ns,
        "batch_class": known(name),
        "slices": parts,
    }
    if forecast_ms:
        duration_ms, bound_ms = forecast_ms
        told["forecast"] = {"work_ns": MS, "duration_ns": duration_ms * MS, "bound_ns": bound_ms * MS, "level": 0.95}
    return told | more


def group(now_ms: float, *events: Any) -> Any:
    return {"type": "Group", "now_ns": round(now_ms * MS), "events": list(events), "actions": []}


def written(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in (HEADER, *records)), encoding="utf-8")
    return path


def told(*batches: Any, after_ms: float = 0.5) -> list[Any]:
    """Each batch in a group of its own, told that long after its end."""
    records = [group(b["at_ns"] / MS + after_ms, b) for b in batches]
    return sorted(records, key=lambda record: int(record["now_ns"]))


def five(folder: Path) -> Path:
    """Solo times 10 (a) and 20 ms (b); a: 10, 12.5, 20, b: 20, 40."""
    return written(
        folder / "five",
        group(1, profile("a", 10), profile("b", 20)),
        *told(
            finished(1, "a", 100, (10,), forecast_ms=(10, 11)),
            finished(2, "a", 200, (2.5,), (10, "b"), forecast_ms=(10, 12)),
            finished(3, "a", 300, (20, "b"), forecast_ms=(25, 30)),
            finished(4, "b", 400, (20,), forecast_ms=(20, 21)),
            finished(5, "b", 500, (40, "a", "a"), forecast_ms=(32, 39)),
        ),
    )


def judged(*logs: Path, predictors: Sequence[str] = ("ignore",), **options: Any) -> EvaluationResult:
    return judge(Plan(logs, tuple(predictors), **options))


def only(result: EvaluationResult, name: str = "") -> PredictorResult:
    (found,) = [row for row in result.predictors if not name or row.name == name]
    return found


class Spy(Ignore):
    """Notes what it is told and asked."""

    notes: list[tuple[Any, ...]]

    def __init__(self, resources: int) -> None:
        super().__init__("spy", resources)
        self.notes = NOTES

    def learn_profile(self, profile: Profile) -> None:
        self.notes.append(("profile", profile.batch_class.model))
        super().learn_profile(profile)

    def learn_batch(self, seen: Observation) -> None:
        self.notes.append(("learn", seen.batch_class.model, seen.forecast_ns, seen.co_runner_count))
        super().learn_batch(seen)

    def forecast(self, batch_class: BatchClass, running: Sequence[Running]) -> float:
        self.notes.append(("forecast", batch_class.model, tuple(running)))
        return super().forecast(batch_class, running)

    def explain(self, batch_class: BatchClass, slices: Sequence[Slice]) -> float:
        self.notes.append(("explain", batch_class.model, tuple(slices)))
        return 2.0


NOTES: list[tuple[Any, ...]] = []


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    monkeypatch.setitem(learners.LEARNERS, "spy", Spy)
    NOTES.clear()
    return NOTES


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 600 batches of three models on an emulated GPU."""
    path = tmp_path_factory.mktemp("logs") / "simulated"
    models = [
        SimulatedModel("vision", "resnet50", 120.0, 50 * MS),
        SimulatedModel("text", "bert", 25.0, 100 * MS),
        SimulatedModel("small", "mobilenet_v2", 120.0, 30 * MS),
    ]
    Simulation(models, seed=3, record=path).run(3 * 10**9)
    return path
