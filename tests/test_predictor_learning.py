"""What the predictor learns, and what it must not learn."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotenant.predictor.bounds import MAX_LEVELS, Bounds, Ratios
from cotenant.predictor.device_model import DeviceModel
from cotenant.predictor.fluid import Fluid
from cotenant.predictor.gaussian import Belief
from cotenant.predictor.intake import Intake
from cotenant.predictor.observations import Observation, Profile, Slice
from cotenant.runtime.estimates import BatchClass, EstimateTable
from cotenant.v1 import executor_pb2, types_pb2

MS = 1_000_000
NAMES = ("light", "compute", "memory", "both")
DEMANDS = {"light": (0.2, 0.1), "compute": (0.9, 0.2), "memory": (0.3, 0.9), "both": (0.7, 0.7)}
WORK = {"light": 5 * MS, "compute": 20 * MS, "memory": 12 * MS, "both": 30 * MS}


def klass(name: str) -> BatchClass:
    return BatchClass(name, "1", 1)


def true_rate(victim: str, others: tuple[str, ...]) -> float:
    """A law that is not the model's formula: the scarcest resource is shared in proportion, caches cost a little."""
    if not others:
        return 1.0
    totals = [DEMANDS[victim][k] + sum(DEMANDS[o][k] for o in others) for k in range(2)]
    return min(1 / max(1.0, t) if DEMANDS[victim][k] > 0.25 else 1.0 for k, t in enumerate(totals)) * 0.97 ** len(
        others
    )


def observe(noise: random.Random, victim: str, spread: float = 0.02) -> Observation:
    """A batch that meets changing neighbours until its work is done."""
    left = WORK[victim] * noise.lognormvariate(0.0, spread)
    slices: list[Slice] = []
    while left > 0:
        others = tuple(noise.choice(NAMES) for _ in range(noise.choice((0, 1, 1, 2, 3))))
        rate = true_rate(victim, others)
        duration = min(noise.uniform(0.2, 1.0) * WORK[victim], left / rate)
        left -= duration * rate
        slices.append(Slice(max(1, round(duration)), tuple(sorted(map(klass, others)))))
    return Observation(klass(victim), sum(part.duration_ns for part in slices), tuple(slices))


def profiled() -> DeviceModel:
    model = DeviceModel("gpu-0", 2)
    for name in NAMES:
        model.learn_profile(Profile(klass(name), WORK[name], DEMANDS[name]))
    return model


def table(model: DeviceModel) -> EstimateTable:
    made = EstimateTable()
    made.update([model.estimate(c, (0.95,)) for c in model.classes], [], complete=True)
    return made


def fluid(model: DeviceModel) -> Fluid:
    assert isinstance(model.learner, Fluid)
    return model.learner


def error(model: DeviceModel) -> float:
    """Mean relative error of the slowdown over all pairs and some triples."""
    known = table(model)
    sets = [(a, (b,)) for a in NAMES for b in NAMES] + [(a, (b, c)) for a in NAMES for b in NAMES for c in NAMES]
    errors = [abs(known.progress_rate(klass(v), list(map(klass, o))) / true_rate(v, o) - 1) for v, o in sets]
    return sum(errors) / len(errors)


def test_slowdowns_are_learned_from_batches_that_met_many_neighbours() -> None:
    model, noise = profiled(), random.Random(1)
    before = error(model)
    for _ in range(800):
        model.learn_batch(observe(noise, noise.choice(NAMES)))
    assert error(model) < 0.5 * before
    assert error(model) < 0.12


def test_noise_in_durations_does_not_bias_what_is_learned() -> None:
    """Elapsed time stands on both sides of the equation; a naive fit would see slowdowns where there is only noise."""
    shifts: list[float] = []
    for seed in range(6):
        quiet, noisy = profiled(), profiled()
        for model, spread in ((quiet, 0.0), (noisy, 0.10)):
            noise = random.Random(seed)
            for _ in range(1000):
                model.learn_batch(observe(noise, noise.choice(NAMES), spread))
        pairs = [(klass(a), [klass(b)]) for a in NAMES for b in NAMES]
        shifts += [table(noisy).progress_rate(*pair) - table(quiet).progress_rate(*pair) for pair in pairs]
    assert abs(sum(shifts) / len(shifts)) < 0.035


def test_a_batch_that_ran_alone_teaches_its_work_and_nothing_about_neighbours() -> None:
    model = profiled()
    weights = fluid(model).shared.mean.copy()
    for _ in range(200):
        model.learn_batch(Observation(klass("light"), 8 * MS, (Slice(8 * MS, ()),)))
    assert model.learner.work_ns(klass("light")) == pytest.approx(8 * MS, rel=0.02)
    np.testing.assert_array_equal(fluid(model).shared.mean, weights)


def test_one_outlier_moves_the_work_little() -> None:
    model = profiled()
    model.learn_batch(Observation(klass("light"), 1000 * MS, (Slice(1000 * MS, ()),)))
    assert model.learner.work_ns(klass("light")) < 1.05 * WORK["light"]


def test_a_change_is_followed() -> None:
    model, noise = profiled(), random.Random(3)
    for _ in range(300):
        model.learn_batch(observe(noise, "light"))
    slow = Observation(klass("light"), 20 * MS, (Slice(20 * MS, (klass("light"),)),))
    for _ in range(60):
        model.learn_batch(slow)
    expected = model.learner.work_ns(klass("light")) * model.learner.explain(klass("light"), slow.slices)
    assert expected == pytest.approx(20 * MS, rel=0.05)


def believe(count: int, spread: float, memory: float) -> Belief:
    return Belief(np.zeros(count), np.full(count, spread), memory)


def learn(belief: Belief, x: list[float], y: float, noise: float = 0.05) -> None:
    slope = np.array(x)
    belief.pass_time()
    gain = belief.covariance @ slope
    belief.take(gain, noise**2 + float(slope @ gain), y - float(belief.mean @ slope))


def test_forgetting_does_not_wind_up() -> None:
    belief = believe(3, 0.5, 0.99)
    for _ in range(5000):
        learn(belief, [1.0, 0.0, 0.0], 0.3)
    assert np.isfinite(belief.covariance).all()
    assert belief.covariance.diagonal().max() <= 0.25 + 1e-9
    assert belief.mean[0] == pytest.approx(0.3, abs=0.02)
    assert belief.mean[1:] == pytest.approx([0.0, 0.0])


numbers = st.floats(-1e3, 1e3)


@given(st.lists(st.tuples(st.lists(numbers, min_size=3, max_size=3), numbers), max_size=50))
def test_beliefs_stay_finite_and_uncertainty_below_the_priors(rows: list[tuple[list[float], float]]) -> None:
    belief = believe(3, 0.25, 0.998)
    for x, y in rows:
        learn(belief, x, y)
    assert np.isfinite(belief.mean).all()
    assert belief.covariance.diagonal().max() <= 0.25**2 + 1e-9


def test_an_unseen_class_gets_what_all_have_in_common() -> None:
    model, noise = profiled(), random.Random(4)
    for _ in range(800):
        model.learn_batch(observe(noise, noise.choice(("light", "compute", "memory"))))
    guess = table(model).progress_rate(klass("both"), [klass("compute")])
    assert guess == pytest.approx(true_rate("both", ("compute",)), rel=0.25)


# ---- bounds


def test_bounds_are_wide_before_anything_is_known_and_borrow_before_they_know_enough() -> None:
    pooled, own = Bounds(), Bounds()
    wide = {q.co_runner_count: q.factor for q in own.factors((0.95,), pooled)}
    assert wide[0] > 1.2
    assert wide[1] > 1.5
    for i in range(100):
        pooled.learn(1.0 + i / 1000, 1)
    own.learn(1.4, 1)
    borrowed = {q.co_runner_count: q.factor for q in own.factors((0.95,), pooled)}
    assert borrowed[1] == pytest.approx(1.4)  # the worst of its own, as long as it has few
    assert borrowed[0] == wide[0]


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_bounds_cover_what_they_promise_and_recover_after_a_change(level: float) -> None:
    noise, ratios = random.Random(5), Ratios()
    for _ in range(200):
        ratios.learn(noise.lognormvariate(0.0, 0.1))
    for scale in (1.0, 1.5, 0.8):
        for _ in range(150):  # after a change, time to notice
            ratios.learn(scale * noise.lognormvariate(0.0, 0.1))
        hits = 0
        for _ in range(1500):
            ratio = scale * noise.lognormvariate(0.0, 0.1)
            hits += ratio <= ratios.quantile(level)
            ratios.learn(ratio)
        assert abs(hits / 1500 - level) < 0.02


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=60))
def test_factors_are_at_least_one_and_ordered_by_level(ratios: list[float]) -> None:
    bounds = Bounds()
    for ratio in ratios:
        bounds.learn(ratio, 1)
    factors = [q.factor for q in bounds.factors((0.5, 0.9, 0.99), bounds) if q.co_runner_count == 1]
    assert all(f >= 1.0 for f in factors)
    assert factors == sorted(factors)


# ---- what is not learned


def finished(**more: object) -> executor_pb2.BatchFinished:
    message = executor_pb2.BatchFinished(
        batch_class=types_pb2.BatchClass(model="m", version="1", batch_size=1), duration_ns=10 * MS
    )
    message.slices.add(duration_ns=10 * MS)
    for key, value in more.items():
        setattr(message, key, value)
    return message


def test_what_makes_no_sense_is_counted_and_dropped() -> None:
    intake = Intake()
    assert intake.finished(finished()) is not None
    assert intake.finished(finished(duration_ns=0)) is None
    assert intake.finished(finished(duration_ns=2**63)) is None
    assert intake.finished(finished(duration_ns=99 * MS)) is None  # the slices do not add up to it
    assert intake.finished(finished(failed=True)) is None
    nameless = finished()
    nameless.batch_class.model = ""
    assert intake.finished(nameless) is None
    long = finished()
    long.batch_class.model = "m" * 4096
    assert intake.finished(long) is None
    for demand in (math.nan, math.inf, -0.1):
        bad = executor_pb2.ClassProfiled(batch_class=finished().batch_class, work_ns=1, demand=[demand])
        assert intake.profile(bad) is None
    assert intake.profile(executor_pb2.ClassProfiled(batch_class=finished().batch_class, work_ns=0)) is None
    assert intake.rejected == {"duration": 2, "slices": 1, "class": 2, "demand": 3, "work": 1}


@given(st.binary(max_size=200))
def test_random_bytes_that_parse_leave_learned_state_sound(garbage: bytes) -> None:
    model, intake = profiled(), Intake()
    try:
        message = executor_pb2.BatchFinished.FromString(garbage)
    except Exception:
        return
    if seen := intake.finished(message):
        model.learn_batch(seen)
    known = table(model)
    for victim in NAMES:
        assert 0 < known.progress_rate(klass(victim), [klass("light")]) <= 1


def test_levels_that_are_followed_are_bounded() -> None:
    ratios = Ratios()
    for i in range(300):
        ratios.learn(1.0 + i / 1000)
        assert ratios.quantile(0.5 + i / 1000) >= 1.0
    assert len(ratios._adapted) == MAX_LEVELS
