"""Our learner in small worlds whose law is known: what it must find out, and what it must not mix up."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotenant.predictor.drift import Drift
from cotenant.predictor.fluid import MAX_PAIRS, Fluid
from cotenant.predictor.observations import Observation, Profile, Running, Slice
from cotenant.predictor.pace import Pace
from cotenant.predictor.siblings import between
from cotenant.runtime.estimates import BatchClass, EstimateTable
from test_predictor_learning import DEMANDS, MS, NAMES, WORK, klass, observe


def taught(seed: int = 1, count: int = 800, spread: float = 0.02) -> Fluid:
    learner, noise = Fluid(2), random.Random(seed)
    for name in NAMES:
        learner.learn_profile(Profile(klass(name), WORK[name], DEMANDS[name]))
    for _ in range(count):
        learner.learn_batch(observe(noise, noise.choice(NAMES), spread))
    return learner


def scaled(seen: Observation, factor: float) -> Observation:
    """The same batch, slower: whatever it met lasted longer too."""
    slices = tuple(Slice(round(part.duration_ns * factor), part.co_runners) for part in seen.slices)
    return replace(seen, duration_ns=sum(part.duration_ns for part in slices), slices=slices)


def expected_ns(learner: Fluid, seen: Observation) -> float:
    return learner.work_ns(seen.batch_class) * learner.explain(seen.batch_class, seen.slices)


def typical_error(learner: Fluid, batches: list[Observation]) -> float:
    """Median of log(actual / expected), signed."""
    errors = sorted(math.log(seen.duration_ns / expected_ns(learner, seen)) for seen in batches)
    return errors[len(errors) // 2]


def test_what_is_short_of_everything_is_not_delayed_once_for_each() -> None:
    """Two that need all of three resources take twice as long, not four times, before anything is learned."""
    slowdowns = []
    for resources in (1, 3):
        learner = Fluid(resources)
        for name in ("one", "other"):
            learner.learn_profile(Profile(klass(name), 10 * MS, (1.0,) * resources))
        slowdowns.append(learner.slowdown(klass("one"), (klass("other"),)))
    assert slowdowns[0] == pytest.approx(2.1, abs=0.1)
    assert slowdowns[1] == pytest.approx(slowdowns[0], abs=0.2)


def test_noise_does_not_bend_what_is_learned() -> None:
    shifts = []
    for seed in range(5):
        learner, noise = taught(seed, 1500, spread=0.15), random.Random(100 + seed)
        shifts.append(typical_error(learner, [observe(noise, noise.choice(NAMES), 0.0) for _ in range(200)]))
    assert abs(sum(shifts) / len(shifts)) < 0.015


def test_what_is_told_evaluates_to_what_is_believed() -> None:
    learner = taught()
    table = EstimateTable()
    table.update([learner.estimate(c) for c in learner.classes], [], complete=True)
    for victim in NAMES:
        for beside in ([], ["light"], ["compute", "memory"], ["both", "both", "light"]):
            others = [klass(name) for name in beside]
            believed = 1.0 / learner.slowdown(klass(victim), others)
            assert table.progress_rate(klass(victim), others) == pytest.approx(believed, abs=1e-3)


def test_a_batch_size_never_measured_starts_between_its_siblings() -> None:
    learner = taught()
    for size, work_ms in ((2, 8), (4, 14), (8, 26)):
        learner.learn_profile(Profile(BatchClass("light", "1", size), work_ms * MS, (0.2 * size / 2, 0.1)))
    three = BatchClass("light", "1", 3)
    assert learner.work_ns(three) == pytest.approx(11 * MS)
    assert three not in learner.classes  # asking is not hearing of it
    pair = learner.slowdown(three, [klass("compute")])
    neighbours = [learner.slowdown(BatchClass("light", "1", n), [klass("compute")]) for n in (2, 4)]
    assert min(neighbours) - 0.02 <= pair <= max(neighbours) + 0.02
    assert learner.work_ns(BatchClass("nobody", "1", 3)) == 0.0


def test_the_cost_of_one_neighbour_stays_with_that_pair() -> None:
    learner, noise = taught(), random.Random(7)
    quiet = learner.slowdown(klass("light"), [klass("both")])
    enemy = BatchClass("enemy", "1", 1)
    learner.learn_profile(Profile(enemy, 10 * MS, DEMANDS["both"]))  # looks like `both`, and is much worse for `light`
    for _ in range(150):
        duration = round(WORK["light"] * 1.8 * noise.lognormvariate(0.0, 0.02))
        learner.learn_batch(Observation(klass("light"), duration, (Slice(duration, (enemy,)),)))
        for _ in range(3):
            learner.learn_batch(observe(noise, "light"))
    assert learner.slowdown(klass("light"), [enemy]) == pytest.approx(1.8, rel=0.05)
    assert learner.slowdown(klass("light"), [klass("both")]) == pytest.approx(quiet, rel=0.12)
    corrections = {c.co_runner: c.delay for c in learner.estimate(klass("light")).corrections}
    assert corrections[enemy] > 0.1
    assert max(corrections, key=corrections.__getitem__) == enemy


def test_what_a_model_without_a_profile_asks_for_is_learned_from_its_neighbours() -> None:
    learner, noise = Fluid(2), random.Random(13)
    for name in NAMES:
        demand = DEMANDS[name] if name != "memory" else ()  # measured alone, and nobody counted what it needs
        learner.learn_profile(Profile(klass(name), WORK[name], demand))
    guess = learner.estimate(klass("memory")).demand
    assert all(0.3 < share < 0.7 for share in guess)
    for _ in range(600):
        learner.learn_batch(observe(noise, noise.choice(("light", "compute", "both"))))
    compute, memory = learner.estimate(klass("memory")).demand
    assert memory > compute + 0.2  # what it is really like
    newcomer = BatchClass("newcomer", "1", 1)  # never met `memory`, and looks like `both`
    learner.learn_profile(Profile(newcomer, WORK["both"], DEMANDS["both"]))
    met = learner.slowdown(klass("both"), [klass("memory")])
    assert learner.slowdown(newcomer, [klass("memory")]) == pytest.approx(met, rel=0.2)


def test_batches_that_ran_alone_let_nothing_be_forgotten_of_what_is_shared() -> None:
    learner = taught()
    weights = learner.shared.mean.tolist()
    assert weights != learner.shared.prior.tolist()
    for _ in range(300):
        learner.learn_batch(Observation(klass("light"), 5 * MS, (Slice(5 * MS, ()),)))
    assert learner.shared.mean.tolist() == weights


def test_a_measured_demand_is_not_moved() -> None:
    learner = taught()
    assert learner.estimate(klass("memory")).demand == DEMANDS["memory"]


def test_pairs_are_bounded() -> None:
    learner = taught(count=10)
    for i in range(5 * MAX_PAIRS):
        other = BatchClass(f"m{i}", "1", 1)
        learner.learn_batch(Observation(klass("light"), 6 * MS, (Slice(6 * MS, (other,)),)))
    assert len(learner.estimate(klass("light")).corrections) == MAX_PAIRS


@pytest.mark.parametrize(("slower", "error"), [(1.25, 0.07), (2.0, 0.1)])
def test_a_slower_clock_is_followed_by_all_classes_at_once(slower: float, error: float) -> None:
    learner, noise = taught(), random.Random(8)
    for i in range(24):
        learner.learn_batch(scaled(observe(noise, NAMES[i % 3]), slower))
    unheard = [scaled(observe(noise, "both"), slower) for _ in range(50)]  # has not run since the clock fell
    assert abs(typical_error(learner, unheard)) < error
    for i in range(120):
        learner.learn_batch(observe(noise, NAMES[i % 4]))
    assert abs(typical_error(learner, [observe(noise, "both") for _ in range(50)])) < 0.03


def test_one_models_change_is_its_own_affair() -> None:
    learner, noise = taught(), random.Random(9)
    for i in range(400):
        seen = observe(noise, NAMES[i % 4])
        learner.learn_batch(scaled(seen, 1.4) if seen.batch_class == klass("light") else seen)
    assert abs(typical_error(learner, [scaled(observe(noise, "light"), 1.4) for _ in range(50)])) < 0.05
    for other in NAMES[1:]:
        assert abs(typical_error(learner, [observe(noise, other) for _ in range(50)])) < 0.04


def test_a_forecast_rolls_ahead_what_runs() -> None:
    learner = taught()
    alone = learner.forecast(klass("light"), [])
    assert alone == 1.0
    fresh = Running(klass("compute"), [])
    late = Running(klass("compute"), [Slice(round(0.9 * WORK["compute"]), ())])
    beside, briefly = (learner.forecast(klass("compute"), [other]) for other in (fresh, late))
    assert 1.0 < briefly < beside <= learner.slowdown(klass("compute"), [klass("compute")]) + 1e-9
    overdue = Running(klass("compute"), [Slice(5 * WORK["compute"], ())])
    assert 1.0 <= learner.forecast(klass("compute"), [overdue]) < briefly


def test_what_was_kept_answers_as_before() -> None:
    learner, again = taught(), Fluid(2)
    again.restore(learner.dump(), {c: learner.dump_class(c) for c in learner.classes})
    noise = random.Random(10)
    for name in NAMES:
        seen = observe(noise, name)
        assert expected_ns(again, seen) == expected_ns(learner, seen)
        assert again.estimate(klass(name)) == learner.estimate(klass(name))
    with pytest.raises(ValueError, match="are expected"):
        Fluid(3).restore(learner.dump(), {})


def test_what_is_forgotten_is_as_if_never_heard_of() -> None:
    learner = taught()
    learner.forget(klass("light"))
    assert klass("light") not in learner.classes
    assert learner.work_ns(klass("light")) == 0.0
    learner.forget(klass("light"))  # twice does no harm
    assert learner.slowdown(klass("both"), [klass("light")]) >= 1.0


durations = st.integers(1, 3_600_000_000_000)


@given(st.lists(st.tuples(durations, st.lists(st.sampled_from([*NAMES, "new"]), max_size=4)), min_size=1, max_size=30))
def test_absurd_batches_leave_finite_beliefs(rows: list[tuple[int, list[str]]]) -> None:
    learner = taught(count=20)
    for duration, beside in rows:
        others = tuple(sorted(map(klass, beside)))
        learner.learn_batch(Observation(klass("light"), duration, (Slice(duration, others),)))
    for name in NAMES:
        estimate = learner.estimate(klass(name))
        assert all(math.isfinite(x) for x in (*estimate.sensitivity, *(c.delay for c in estimate.corrections)))
        assert 0 < estimate.work_ns < 1e15


# ---- parts


def test_pace_needs_what_models_have_in_common() -> None:
    alone, together = Pace(), Pace()
    for i in range(60):
        alone.learn("a", 0.2 - alone.log, 0.0004)  # only ever one model: its own affair
        together.learn("ab"[i % 2], 0.2 - together.log, 0.0004)
    assert alone.log == 0.0
    assert together.log == pytest.approx(0.2, abs=0.01)


def test_pace_stands_still_where_errors_have_nothing_in_common() -> None:
    pace, noise = Pace(), random.Random(11)
    moved = []
    for i in range(4000):
        pace.learn("abc"[i % 3], noise.gauss(0.0, 0.05) - pace.log, 0.0025)
        moved.append(pace.log)
    assert math.sqrt(sum(m * m for m in moved) / len(moved)) < 0.1 * 0.05  # hardly anything beside the noise


def test_drift_is_told_soon_after_a_jump_and_seldom_without_one() -> None:
    noise = random.Random(12)
    detectors = [Drift() for _ in range(20)]
    assert sum(d.learn(noise.gauss(0.0, 1.0)) for d in detectors for _ in range(500)) <= 1
    for detector in detectors:
        assert any(detector.learn(noise.gauss(3.5, 1.0)) for _ in range(20))
    slow = Drift()
    assert not any(slow.learn(noise.gauss(0.0, 1.0)) for _ in range(300))
    assert any(slow.learn(noise.gauss(1.0, 1.0)) for _ in range(200))  # little, and for long


@pytest.mark.parametrize(
    ("size", "known", "value"),
    [
        (3, {2: 10.0, 4: 14.0}, 12.0),
        (16, {4: 14.0, 8: 20.0}, 32.0),
        (1, {2: 10.0, 4: 14.0}, 8.0),
        (1, {8: 10.0, 16: 40.0}, 5.0),  # the line would go below nothing
        (4, {1: 10.0}, 20.0),
        (4, {4: 7.0}, 7.0),
    ],
)
def test_between_the_lines(size: int, known: dict[int, float], value: float) -> None:
    assert between(size, known) == pytest.approx(value)


def errors_after(
    seed: int, slower: float, announced: float | None = None, *, count: int = 20, spread: float = 0.02
) -> list[float]:
    """|log(actual / expected)| of each of the first batches after a change, each expected before it was learned."""
    learner, noise = taught(seed, spread=spread), random.Random(1000 + seed)
    if announced:
        learner.expect_pace(announced)
    errors = []
    for _ in range(count):
        seen = scaled(observe(noise, noise.choice(NAMES), spread), slower)
        errors.append(abs(math.log(seen.duration_ns / expected_ns(learner, seen))))
        learner.learn_batch(seen)
    return errors


def means(runs: list[list[float]]) -> list[float]:
    return [sum(at) / len(at) for at in zip(*runs, strict=True)]


@pytest.mark.parametrize("slower", [1.25, 1 / 1.25])
def test_an_announced_change_of_pace_is_learned_in_fewer_batches(slower: float) -> None:
    unannounced = means([errors_after(seed, slower) for seed in range(6)])
    announced = means([errors_after(seed, slower, slower) for seed in range(6)])
    assert announced[0] == pytest.approx(unannounced[0])  # what was announced may have been seen before
    assert max(announced[1:]) < 0.06
    assert next(i for i, error in enumerate(unannounced) if error < 0.06) >= 4
    assert sum(announced) < 0.6 * sum(unannounced)


def test_noisy_batches_together_tell_an_announced_change() -> None:
    unannounced = sum(sum(errors_after(seed, 1.25, count=8, spread=0.08)[1:]) for seed in range(6))
    announced = sum(sum(errors_after(seed, 1.25, 1.25, count=8, spread=0.08)[1:]) for seed in range(6))
    assert announced < 0.65 * unannounced


@pytest.mark.parametrize("announced", [1.0, 1.25, 100.0])
def test_an_announcement_that_turns_out_to_be_nothing_costs_little(announced: float) -> None:
    without = [sum(errors_after(seed, 1.0, count=60)) for seed in range(6)]
    with_it = [sum(errors_after(seed, 1.0, announced, count=60)) for seed in range(6)]
    assert sum(with_it) < 1.05 * sum(without)


def test_an_announced_pace_of_the_only_model_stays() -> None:
    learner, noise = taught(), random.Random(10)
    learner.expect_pace(1.25)
    for _ in range(12):
        learner.learn_batch(scaled(observe(noise, "both"), 1.25))
    assert learner.pace.log == pytest.approx(math.log(1.25), abs=0.04)
    unheard = [scaled(observe(noise, "light"), 1.25) for _ in range(50)]
    assert abs(typical_error(learner, unheard)) < 0.05


def test_one_absurd_batch_after_an_announcement_is_no_change_of_pace() -> None:
    learner, noise = taught(), random.Random(11)
    learner.expect_pace(None)
    learner.learn_batch(scaled(observe(noise, "both"), 100.0))
    for i in range(20):
        learner.learn_batch(observe(noise, NAMES[i % 4]))
    assert abs(typical_error(learner, [observe(noise, "both") for _ in range(50)])) < 0.05


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.nan, math.inf])
def test_a_pace_that_is_none_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="finite factor above 0"):
        Pace().expect(ratio)
