"""Experiments of benchmarks/interference: what is counted, what is held out, and what figures are made of."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from cotenant.cli import evaluate_reader
from cotenant.cli.evaluate_log import Recording
from evaluation_logs import finished, group, profile, spy, told, written

__all__ = ["spy"]  # a fixture
BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def importable() -> Iterator[None]:
    """Scripts import what lies beside them."""
    paths = [str(BENCHMARKS / "interference"), str(BENCHMARKS)]
    sys.path[:0] = paths
    yield
    for path in paths:
        sys.path.remove(path)


def script(name: str) -> ModuleType:
    return import_module(name)


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    """Solo time 10 ms each; seven batches alone, one beside one for half its life, one beside up to two, one alone."""
    batches = [finished(i, "a", 100 * i, (10,)) for i in range(1, 8)]
    batches.append(finished(8, "a", 800, (8,), (8, "b")))
    batches.append(finished(9, "a", 900, (4,), (8, "b"), (28, "b", "b")))
    batches.append(finished(10, "a", 1000, (10,)))
    log = written(tmp_path / "log", group(1, profile("a", 10), profile("b", 10)), *told(*batches))
    return evaluate_reader.read(log)


# ---- larger sets


def test_co_runners_are_counted_over_a_batchs_life_and_at_most(recording: Recording) -> None:
    larger_sets = script("larger_sets")
    assert [larger_sets.mean_co_runners(ran) for ran in recording.batches] == [0] * 8 + [2, 0]  # 0.5 and 1.6
    assert [larger_sets.most_co_runners(ran) for ran in recording.batches] == [0] * 7 + [1, 2, 0]


def test_errors_are_told_by_number_of_co_runners_without_those_that_met_nobody(recording: Recording) -> None:
    predicted = np.array([99e6] * 7 + [20e6, 30e6, 99e6])
    rows = list(script("larger_sets").told(predicted, recording.batches))
    assert [(row["counted"], row["co_runners"], row["batches"]) for row in rows] == [
        ("mean", 2, 1),
        ("most", 1, 1),
        ("most", 2, 1),
    ]
    assert [row["median"] for row in rows] == pytest.approx([0.25, 0.25, 0.25])
    assert [row["mse_slowdown"] for row in rows] == pytest.approx([1.0, 0.4**2, 1.0])


def test_what_is_explained_was_not_learned() -> None:
    larger_sets = script("larger_sets")
    for training in larger_sets.TRAININGS:
        for seed in (1, 2, 3):
            judged = (larger_sets.judged_seed(training, seed), training.judged)
            assert judged not in {(seed, name) for name in training.learned}
            assert {(n, *judged) for n in (2, 3, 4)} <= set(larger_sets.sets_needed(seed))


@pytest.mark.parametrize("largest", [0.0149, 0.0151])
def test_the_bar_is_one_and_a_half_pair_errors_at_the_worst_larger_set(largest: float) -> None:
    larger_sets = script("larger_sets")
    errors = {(2, 1): 0.01, (3, 1): 0.09, (3, 2): 0.012, (4, 1): 0.01, (4, 2): 0.011, (4, 3): largest}
    rows: list[dict[str, Any]] = [
        {
            "law": "fair",
            "training": "t",
            "predictor": name,
            "counted": "mean",
            "concurrency": n,
            "co_runners": k,
            "batches": 5,
            **dict.fromkeys(larger_sets.METRICS, error),
        }
        for name in larger_sets.PREDICTORS
        for (n, k), error in errors.items()
    ]
    verdict = "met" if largest < 0.015 else "missed"
    assert f"median relative error: {verdict}, at worst {largest / 0.01:.2f}x (3 beside, at most 4)" in (
        larger_sets.verdicts(rows, "mean")
    )
    largest_told = f"{largest:.1%}, {largest:.1%} (1.5x, 1.5x)"
    assert f"| fluid | 1.0%, 1.0% | 1.2%, 1.2% (1.2x, 1.2x) | 1.1%, 1.1% (1.1x, 1.1x) | {largest_told} |" in (
        larger_sets.summary(rows, "mean")
    )
    assert larger_sets.verdicts(rows, "most") == ""
    assert ">3</text>" in larger_sets.plot(rows, "fair", "t")


def test_a_learner_that_was_taught_learns_nothing_when_it_is_asked(
    recording: Recording, spy: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = script("frozen")
    local = frozen.taught("spy", [recording])
    assert [note[0] for note in spy].count("learn") == 10
    spy.clear()
    monkeypatch.setattr(frozen, "deepcopy", lambda one: one)  # a copy would note elsewhere
    judged = frozen.explained(local, [recording, recording])
    assert judged.explained_ns == pytest.approx([20e6] * 20)  # the spy explains a slowdown of 2
    assert len(frozen.batches_of([recording, recording])) == 20
    assert {note[0] for note in spy} == {"profile", "forecast", "explain"}


def test_a_frozen_learner_says_the_same_again_whatever_it_was_asked_before(simulated: Path) -> None:
    frozen = script("frozen")
    early, late = evaluate_reader.read(simulated).cut(0.75)
    local = frozen.taught("fluid", [early])
    first = frozen.explained(local, [late]).explained_ns
    frozen.explained(local, [early])
    assert frozen.explained(local, [late]).explained_ns.tolist() == first.tolist()


def test_logs_of_a_run_that_was_interrupted_are_made_anew_and_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table1 = script("table1")
    chosen = script("recordings").ModelSet(("a",), (1.0,), (0.5,))
    made: list[Path] = []

    def simulate(_: Any, folder: Path) -> list[Path]:
        assert not list(folder.glob("load*"))
        made.append(folder / "load0")
        made[-1].touch()
        return made

    monkeypatch.setattr(table1, "simulate", simulate)
    for left in ("load0", "load0.1"):
        (tmp_path / left).touch()
    for _ in range(2):
        assert table1.logs_of("emulated", chosen, tmp_path) == [tmp_path / "load0"]
    assert len(made) == 1


# ---- figures


def test_figure_5_is_of_the_last_quarter_and_of_batches_that_met_others(
    recording: Recording, monkeypatch: pytest.MonkeyPatch, spy: list[tuple[Any, ...]]
) -> None:
    figure5 = script("figure5")
    monkeypatch.setattr(figure5, "METHODS", {"ignore": "none", "spy": "it"})
    monkeypatch.setattr(figure5, "SETS", ("train",))
    monkeypatch.setattr(figure5, "emulated", lambda *_: [recording])
    found = figure5.deviations(Path(), "fair", 2, 1)
    assert found["ignore"] == pytest.approx([10 / 40 - 1])  # the one before it was learned, the one after it met nobody
    assert found["spy"] == pytest.approx([20 / 40 - 1])
    assert [note[0] for note in spy].count("learn") == 8


def test_a_row_of_figure_5() -> None:
    figure5 = script("figure5")
    row = figure5.row("fair", 2, "fluid", [-0.7, -0.1, 0.0, 0.1, 0.3])
    assert (row["p25"], row["p50"], row["p75"]) == pytest.approx((-0.1, 0.0, 0.1))
    assert (row["median"], row["mape"]) == pytest.approx((0.1, 0.24))
    assert (row["within_20"], row["beyond_60"]) == pytest.approx((0.6, 0.2))
    outline = figure5.box(3.0, *(row[f"p{q}"] for q in figure5.BOX))
    assert {y for _, y in outline} == {row[f"p{q}"] for q in figure5.BOX}
    assert sorted({x for x, y in outline if y in (row["p25"], row["p75"])}) == pytest.approx([2.7, 3.0, 3.3])
    assert ">ours</text>" in figure5.plot([row], "fair", 2)
    assert "| fair | 2 | ours | 10.00% | 24.00% | -10.0% to +10.0% |" in figure5.table([row])


def test_tasks_of_figure_3_share_one_load_and_concurrency_lets_them_run_beside_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figure3 = script("figure3")
    monkeypatch.setattr(figure3, "fixed", lambda: {**FIXED, "seconds": 0.25})
    rows = [figure3.tail("fair", "stress", tasks, concurrency, 1) for tasks, concurrency in ((1, 1), (3, 1), (3, 3))]
    alone, turns, beside = rows
    assert alone["requests"] == pytest.approx(turns["requests"], rel=0.25)  # 0.25 s of 3 / 5.7 ms
    assert alone["requests"] == pytest.approx(131, rel=0.25)
    assert turns["requests"] == beside["requests"]
    assert alone["co_runners"] == turns["co_runners"] == 0.0
    assert beside["co_runners"] > 0.5
    assert beside["p99_ms"] < turns["p99_ms"]
    drawn = figure3.plot(rows[1:], "fair", "stress")
    assert "sequential" in drawn
    assert "at most 3 at once" in drawn
    assert f"| fair | stress | 3 | {beside['p99_ms']:.1f} (" in figure3.table(rows[1:])


FIXED = {"model": "resnet50", "max_batch_size": 8, "loads": {"stress": 3.0}}


def test_errors_by_set_are_means_over_seeds() -> None:
    figures = script("figures")
    rows = [
        {"law": "fair", "concurrency": 2, "predictor": name, "set": chosen, "explained_p95": error}
        for name in figures.BY_SET
        for chosen in figures.SETS
        for error in (0.1, 0.3)
    ]
    drawn = figures.plot_sets(rows, "fair", 2)
    assert drawn.count("<polyline") == len(figures.BY_SET)
    heights = {point.split(",")[1] for line in drawn.split('points="')[1:] for point in line.split('"')[0].split()}
    assert len(heights) == 1  # 0.2 everywhere
    assert figures.plot_sets(rows, "fair", 4) == ""


# ---- memory


def test_steady_classes_change_hands_in_turn() -> None:
    memory = script("predictor_memory")
    places = range(memory.STEADY)
    step = memory.LIFE // memory.STEADY
    for number in (0, 5_000_000):
        now, soon, later = (
            [memory.steady(place, number + after) for place in places] for after in (0, step, memory.LIFE)
        )
        assert len(set(now)) == memory.STEADY
        assert sum(a != b for a, b in zip(now, soon, strict=True)) == 1
        assert not set(now) & set(later)
