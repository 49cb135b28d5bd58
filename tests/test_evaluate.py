"""`cotenant evaluate`: figures against hand, what a predictor knows when, and the protocols."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cotenant.cli import evaluate, evaluate_changes, evaluate_cost, evaluate_log, evaluate_metrics, evaluate_reader
from cotenant.cli.evaluate_changes import Stretch
from cotenant.cli.evaluate_protocol import TRAIN_TEST
from cotenant.cli.evaluate_run import Local, run
from cotenant.predictor.observations import Running, Slice
from cotenant.runtime.estimates import BatchClass
from evaluation_logs import MS, finished, five, group, judged, klass, only, profile, told, written

# ---- figures against hand


def test_errors_of_five_batches(tmp_path: Path) -> None:
    result = judged(five(tmp_path))
    assert result.batches == 5
    for errors in (only(result).all.launch, only(result).all.explained):
        assert errors is not None
        # Slowdowns 1, 1.25, 2, 1, 2 are all said to be 1; durations are off by 0, 0.2, 0.5, 0, 0.5 of themselves.
        assert errors.mse_slowdown == pytest.approx((0.25**2 + 1 + 1) / 5)
        assert errors.mape == pytest.approx(1.2 / 5)
        assert errors.median == pytest.approx(0.2)
        assert errors.p95 == errors.p99 == errors.max == pytest.approx(0.5)
        assert errors.bias == pytest.approx(-1.2 / 5)
        assert (errors.batches, errors.not_predicted) == (5, 0)
    assert only(result).series.launch_signed_percentiles[::25] == pytest.approx([-0.5, -0.5, -0.2, 0.0, 0.0])
    alone, beside = only(result).alone.launch, only(result).beside.launch
    assert alone is not None
    assert beside is not None
    assert (alone.batches, alone.max) == (2, 0.0)
    assert beside.batches == 3
    assert beside.mape == pytest.approx(0.4)
    of_a = only(result).classes["a:1 x1"].launch
    assert of_a is not None
    assert of_a.mse_slowdown == pytest.approx((0.25**2 + 1) / 3)


def test_bounds_of_five_batches(tmp_path: Path) -> None:
    row = only(judged(five(tmp_path), predictors=["recorded"], levels=(0.9, 0.95)))
    assert row.all.explained is None
    (bound,) = row.all.bounds  # the log tells one level only
    assert bound.level == 0.95
    # Bounds 11, 12, 30, 21, 39 over solo times; 12.5 and 40 ms were beyond theirs.
    assert bound.coverage == pytest.approx(3 / 5)
    assert bound.width == pytest.approx((1.1 + 1.2 + 3.0 + 1.05 + 1.95) / 5)
    misses, within = 0.05 + 0.05, 0.1 + 1.0 + 0.05
    assert bound.pinball == pytest.approx((0.95 * misses + 0.05 * within) / 5)
    assert row.all.launch is not None
    assert row.all.launch.mape == pytest.approx((0 + 0.2 + 0.25 + 0 + 0.2) / 5)


def test_slowdowns_over_the_95th_percentile_as_the_paper_has_them(tmp_path: Path) -> None:
    log = written(tmp_path / "log", group(1, profile("a", 10, spread=0.25)), *told(finished(1, "a", 100, (25, "a"))))
    errors = only(judged(log, solo_percentile=95.0)).all.launch
    assert errors is not None
    assert errors.mse_slowdown == pytest.approx((25 / 12.5 - 1) ** 2)


def test_solo_time_of_a_class_that_was_not_measured(tmp_path: Path) -> None:
    alone = [finished(i, "a", 100 * i, (ms,)) for i, ms in enumerate((10, 11, 30), 1)]
    between = finished(7, "b x3", 700, (33, "a"))
    log = written(tmp_path / "log", group(1, profile("b x2", 20), profile("b x4", 40)), *told(*alone, between))
    recording = evaluate_reader.read(log)
    assert [ran.work_ns for ran in recording.batches] == [11 * MS] * 3 + [30 * MS]


def test_repeat_noise_is_the_spread_round_the_median_of_the_same_co_location() -> None:
    actual = np.array([10.0, 11.0, 12.0, 10.0, 12.0, 99.0, 5.0])
    groups = ["one"] * 5 + ["too few", None]
    predicted = evaluate_metrics.repeats(groups, actual)
    assert predicted.tolist() == [11.0] * 5 + [0.0, 0.0]


def test_repeat_noise_of_a_log_counts_only_batches_with_the_same_neighbours_all_their_life(tmp_path: Path) -> None:
    same = [finished(i, "a", 100 * i, (ms, "b")) for i, ms in enumerate((18, 19, 20, 21, 22), 1)]
    changing = [finished(10 + i, "a", 2000 + 100 * i, (5,), (ms, "b")) for i, ms in enumerate((1, 50, 70, 90, 99))]
    log = written(tmp_path / "log", group(1, profile("a", 10)), *told(*same, *changing))
    noise = judged(log).repeat_noise
    assert noise["alone"] is None
    assert noise["beside"] == noise["all"]
    assert noise["all"] is not None
    assert noise["all"].batches == 5
    assert noise["all"].mape == pytest.approx((2 / 18 + 1 / 19 + 1 / 21 + 2 / 22) / 5)


def test_samples_until_the_floor() -> None:
    errors = np.full(60, 0.02)
    errors[:25] = 0.5
    stretch = Stretch("a", "gpu-0", 0, list(range(60)))
    found = evaluate_changes.recovery(stretch, errors, 0.02)
    assert found is not None
    # The median of twenty is near the floor once eleven of them are (half and half lies between).
    assert found.samples == 25 - 9
    assert (never := evaluate_changes.recovery(stretch, errors, 0.01)) is not None
    assert never.samples is None
    assert evaluate_changes.recovery(Stretch("a", "gpu-0", 0, list(range(5))), errors, 0.02) is None
    unknown = np.full(60, np.nan)
    unknown[40:] = 0.02
    late = evaluate_changes.recovery(stretch, unknown, 0.02)
    assert late is not None
    assert late.samples == 31


def test_changes_are_models_first_seen_and_instants_given(tmp_path: Path) -> None:
    batches = [finished(i, "a" if i < 6 else "b x2", 100 * i, (10,)) for i in range(1, 11)]
    log = written(tmp_path / "log", group(1, profile("a", 10)), *told(*batches))
    # The log begins at 1 ms: 800 ms later seven batches have started.
    assert judged(log, change_at_s=(0.8,)).changes == {0: "a", 5: "b", 8: ""}
    trained = written(tmp_path / "trained", *told(finished(1, "a", 100, (10,))))
    assert judged(log, train=(trained,), protocol=TRAIN_TEST).changes == {5: "b"}
    recording = evaluate_reader.read(log)
    stretches = evaluate_changes.stretches(recording.batches, {0: "a", 5: "b", 8: ""})
    assert [(s.batch_class, s.change, s.batches) for s in stretches] == [
        ("a:1 x1", 0, [0, 1, 2, 3, 4]),
        ("b:1 x2", 5, [5, 6, 7]),
        ("b:1 x2", 8, [8, 9]),
    ]


def test_coverage_in_windows_after_each_change() -> None:
    actual = np.ones(2000)
    bounds = np.full(2000, 2.0)
    bounds[100:200] = 0.5  # a hundred misses at the start of the first window
    bounds[1000:1100] = 0.5  # misses that follow a change at once count in no window
    found = evaluate_changes.windows(0.95, bounds, actual, {1000: ""})
    assert found.coverage == pytest.approx([0.8, 1.0])
    assert (found.low, found.high) == evaluate_changes.binomial_interval(500, 0.95, 0.99)
    assert found.inside == 0  # neither 0.8 nor 1 is what 0.95 gives


def test_the_binomial_interval_is_the_exact_one() -> None:
    low, high = evaluate_changes.binomial_interval(20, 0.5, 0.9)
    # P(X <= 5) = 0.0207, P(X <= 6) = 0.0577; symmetric.
    assert (low, high) == (6 / 20, 14 / 20)
    low, high = evaluate_changes.binomial_interval(500, 0.99, 0.99)
    assert 0.97 < low < 0.99 < high <= 1.0


def test_costs_are_ratios_to_an_update_of_16_features() -> None:
    local = Local("ignore", {}, (0.9,))
    assert evaluate_cost.cost(local, 1000.0) is None
    local.update_ns, local.predict_ns = [999_999] * 50 + [3000] * 100, [999_999] * 50 + [500] * 100
    cost = evaluate_cost.cost(local, 1000.0)
    assert cost is not None
    assert (cost.update_ratio, cost.predict_ratio) == (3.0, 0.5)  # without the first few
    assert evaluate_cost.reference_update_ns() > 500


# ---- who knows what when


def test_prequential_never_peeks(tmp_path: Path, spy: list[tuple[Any, ...]]) -> None:
    log = written(
        tmp_path / "log",
        group(1, profile("a", 8), profile("b", 8), profile("c", 8), profile("d", 8)),
        group(22, finished(1, "a", 10, (2,), (8, "b"))),  # ends at 20, known at 22
        group(40, profile("e", 8), finished(2, "b", 12, (8, "a"), (3, "c"), (7,)), finished(3, "c", 20, (3, "b"))),
        group(60, finished(4, "d", 25, (5, "b"), (4,))),
    )
    row = only(judged(log, predictors=["spy"]))
    a, b = klass("a"), klass("b")
    c = klass("c")
    met_by_a = Running(a, (Slice(2 * MS, (), 10 * MS),))
    with_a, with_c = Slice(8 * MS, (a,), 12 * MS, (10 * MS,)), Slice(3 * MS, (c,), 20 * MS, (20 * MS,))
    met_by_b = Running(b, (with_a,))
    b_then = Running(b, (with_a, with_c, Slice(2 * MS, (), 23 * MS)))
    assert [note for note in spy if note[0] != "explain"] == [
        *(("profile", model) for model in "abcd"),
        ("forecast", "a", ()),
        ("forecast", "b", (met_by_a,)),  # a has run for 2 ms, alone; that b is beside it, it learns later
        ("forecast", "c", (met_by_b,)),  # a has ended at that very instant, but nobody knows how it went
        ("learn", "a", 8 * MS, 0),
        ("forecast", "d", (b_then,)),  # of b's last stretch, what has passed
        ("profile", "e"),
        ("learn", "b", 8 * MS, 1),
        ("learn", "c", 8 * MS, 1),
        ("learn", "d", 8 * MS, 1),
    ]
    explained = [note for note in spy if note[0] == "explain"]
    assert explained[0] == ("explain", "a", (Slice(2 * MS, (), 10 * MS), Slice(8 * MS, (b,), 12 * MS, (12 * MS,))))
    first = spy.index(explained[0])
    assert spy[first + 1][:2] == ("learn", "a")  # explained before it was learned
    assert row.all.explained is not None
    assert row.all.explained.batches == 4


def test_a_forecast_is_the_learners_slowdown_times_its_solo_time(tmp_path: Path, spy: list[tuple[Any, ...]]) -> None:
    log = written(tmp_path / "log", group(1, profile("a", 10)), *told(finished(1, "a", 10, (16, "a"))))
    row = only(judged(log, predictors=["spy"]))
    assert row.all.launch is not None
    assert row.all.launch.mape == pytest.approx(6 / 16)
    assert row.all.explained is not None
    assert row.all.explained.mape == pytest.approx(4 / 16)  # it explained 20 ms
    assert spy


def test_logs_follow_each_other_and_learners_go_on(tmp_path: Path, spy: list[tuple[Any, ...]]) -> None:
    one = written(tmp_path / "one", group(1, profile("a", 8)), *told(finished(1, "a", 500, (8,))))
    two = written(tmp_path / "two", *told(finished(1, "a", 10, (8,))))  # an earlier clock is no matter
    assert judged(one, two, predictors=["spy"]).batches == 2
    assert [note[0] for note in spy] == ["profile", *["forecast", "explain", "learn"] * 2]


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_learners_learn_nothing_from_the_test(tmp_path: Path, spy: list[tuple[Any, ...]], frozen: bool) -> None:
    train = written(tmp_path / "train", group(1, profile("a", 8)), *told(finished(1, "a", 10, (8,))))
    test = written(
        tmp_path / "test", group(1, profile("b", 8)), *told(finished(1, "b", 10, (9,)), finished(2, "b", 50, (9,)))
    )
    result = judged(test, predictors=["spy"], protocol=TRAIN_TEST, train=(train,), frozen=frozen)
    assert result.batches == 2
    assert [note[1] for note in spy if note[0] == "learn"] == (["a"] if frozen else ["a", "b", "b"])
    assert [note[1] for note in spy if note[0] == "profile"] == ["a", "b"]  # what was measured is told even then


def test_without_training_logs_the_first_three_quarters_are_them(tmp_path: Path, spy: list[tuple[Any, ...]]) -> None:
    batches = [finished(i, "abcdefgh"[i], 100 * (i + 1), (8,)) for i in range(8)]
    log = written(tmp_path / "log", group(1, *(profile(model, 8) for model in "abcdefgh")), *told(*batches))
    result = judged(log, predictors=["spy"], protocol=TRAIN_TEST, frozen=True)
    assert result.batches == 2
    assert [note[1] for note in spy if note[0] == "learn"] == list("abcdef")
    assert set(only(result).classes) == {"g:1 x1", "h:1 x1"}


# ---- learners on a simulated log


def test_all_methods_of_the_paper_start_from_the_same_weights(simulated: Path) -> None:
    names = [f"static-{optimiser}" for optimiser in ("offline", "sgd", "rls")]
    frozen = judged(simulated, predictors=names, protocol=TRAIN_TEST, frozen=True)
    found = [row.all.launch.mse_slowdown for row in frozen.predictors if row.all.launch]
    assert found == pytest.approx([found[0]] * 3)
    learning = judged(simulated, predictors=names, protocol=TRAIN_TEST)
    found_then = [row.all.launch.mse_slowdown for row in learning.predictors if row.all.launch]
    assert found_then[0] == pytest.approx(found[0])
    assert len(set(found_then)) == 3


def test_the_offline_fit_is_least_squares_over_the_training_part(simulated: Path) -> None:
    train, test = evaluate_reader.read(simulated).cut(0.75)
    rows = [
        (1.0, *_demand(train, ran.batch_class), *_sum(train, ran.seen.slices[0].co_runners)) for ran in train.batches
    ]
    slowdown = [ran.seen.duration_ns / ran.work_ns for ran in train.batches]
    weights = np.linalg.lstsq(np.array(rows), np.array(slowdown), rcond=None)[0]
    local = Local("static-offline", train.devices, (0.95,))
    run(local, train, (0.95,))
    local.fit([train])
    learner = local.models["emulated-0"].learner
    for ran in test.batches[:50]:
        row = (1.0, *_demand(train, ran.batch_class), *_sum(train, [r.batch_class for r in ran.running]))
        expected = max(1.0, float(np.dot(weights, row)))
        assert learner.forecast(ran.batch_class, ran.running) == pytest.approx(expected, rel=1e-6)


def _demand(recording: evaluate_log.Recording, wanted: BatchClass) -> Any:
    sizes = {
        step.profile.batch_class.batch_size: np.array(step.profile.demand)
        for step in recording.steps
        if isinstance(step, evaluate_log.Told) and step.profile.batch_class.model == wanted.model
    }
    by_size = [[sizes[size][k] for size in sorted(sizes)] for k in range(3)]
    return [np.interp(wanted.batch_size, sorted(sizes), column) for column in by_size]


def _sum(recording: evaluate_log.Recording, others: Sequence[BatchClass]) -> Any:
    return sum((np.array(_demand(recording, other)) for other in others), np.zeros(3)).tolist()


def test_bounds_of_offline_learners_stand_round_what_was_fitted(simulated: Path) -> None:
    frozen = judged(simulated, predictors=["static-offline"], protocol=TRAIN_TEST, frozen=True, levels=(0.9,))
    (bound,) = only(frozen).all.bounds
    assert 0.75 < bound.coverage < 1.0


def test_offline_learners_say_that_they_were_not_trained(simulated: Path) -> None:
    result = judged(simulated, predictors=["static-offline", "ignore", "static-rls"])
    offline, ignore, rls = result.predictors
    assert offline.all.launch == ignore.all.launch
    assert ["for want of training" in " ".join(row.remarks) for row in result.predictors] == [True, False, False]
    assert rls.all.launch is not None
    assert ignore.all.launch is not None
    assert rls.all.launch.mse_slowdown < ignore.all.launch.mse_slowdown


def test_clockworks_bound_is_its_estimate_at_every_level(simulated: Path) -> None:
    low, high = only(judged(simulated, predictors=["clockwork"], levels=(0.5, 0.99))).all.bounds
    assert low.coverage == high.coverage
    assert low.width == high.width
    assert 0.6 < low.coverage < 0.99


def test_ours_explains_better_than_the_published(simulated: Path) -> None:
    result = judged(simulated, predictors=["fluid", "static-rls", "ewma12-rls", "ignore"])
    explained = {row.name: row.all.explained.mse_slowdown for row in result.predictors if row.all.explained}
    assert min(explained, key=lambda name: explained[name]) == "fluid"


def test_all_learners_in_one_table_with_a_document_and_plots(
    simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["fluid", "river.linear_model.BayesianLinearRegression", "clockwork", "recorded"]
    arguments = [str(simulated), "--predictor", *names, "--levels", "0.9,0.95", "--change-at", "1.5"]
    assert evaluate.main([*arguments, "--json", str(tmp_path / "out.json"), "--plots", str(tmp_path / "plots")]) == 0
    shown = capsys.readouterr().out
    assert [name for name in names if f"\n{name}" in shown] == names
    assert "repeat noise" in shown
    document = json.loads((tmp_path / "out.json").read_text())
    assert [row["name"] for row in document["predictors"]] == names
    row = document["predictors"][0]
    assert row["all"]["launch"]["batches"] == document["batches"]
    assert {bound["level"] for bound in row["all"]["bounds"]} == {0.9, 0.95}
    assert row["cost"]["update_ratio"] > 0
    assert len(row["series"]["launch_percentiles"]) == 101
    plots = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert plots == [
        "coverage-over-time-0.9.svg",
        "coverage-over-time-0.95.svg",
        "error-cdf-explained.svg",
        "error-cdf-launch.svg",
        "error-over-time-explained.svg",
        "error-over-time-launch.svg",
    ]
    for path in (tmp_path / "plots").iterdir():
        text = path.read_text()
        assert text.startswith("<svg")
        assert "nan" not in text
        assert ">fluid<" in text
