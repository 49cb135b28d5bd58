"""Learners by name: what all of them must withstand, and the published ones against hand and closed form."""

import pickle
import random
from collections.abc import Sequence

import numpy as np
import pytest
from river import linear_model, optim

from cotenant.predictor import learners
from cotenant.predictor.baselines.colocation import Colocation
from cotenant.predictor.baselines.regression import FORGETTING, LEARNING_RATE, START_COVARIANCE, Offline, Rls, Sgd
from cotenant.predictor.baselines.simple import Clockwork
from cotenant.predictor.baselines.two_verbs import TwoVerbs
from cotenant.predictor.learner import Learner
from cotenant.predictor.observations import Observation, Profile, Running, Slice
from cotenant.runtime.estimates import BatchClass

MS = 1_000_000
RIVER = ("river.linear_model.BayesianLinearRegression", "river.linear_model.LinearRegression")
NAMES = (*learners.LEARNERS, *RIVER, "river.tree.HoeffdingTreeRegressor")
EVERY = pytest.mark.parametrize("name", NAMES)
A, B, C = (BatchClass(model, "1", 1) for model in "abc")
DEMANDS = {A: (0.8, 0.4, 0.2), B: (0.3, 0.5, 0.9), C: (0.5, 0.1, 0.1)}


def ran(known: BatchClass, *slices: tuple[float, Sequence[BatchClass]]) -> Observation:
    """A batch by its slices in ms."""
    parts = tuple(Slice(round(ms * MS), tuple(others)) for ms, others in slices)
    return Observation(known, sum(part.duration_ns for part in parts), parts)


def profiled(name: str) -> Learner:
    learner = learners.make(name, 3)
    for known, demand in DEMANDS.items():
        learner.learn_profile(Profile(known, 10 * MS, demand, 5))
    return learner


def taught(name: str, batches: int = 200, seed: int = 0) -> Learner:
    learner, noise = profiled(name), random.Random(seed)
    for _ in range(batches):
        own = noise.choice((A, B, C))
        others = tuple(noise.choice((A, B, C)) for _ in range(noise.choice((0, 1, 1, 2))))
        beside = (8 * (1 + 0.4 * len(others)) * noise.uniform(0.95, 1.05), others)
        learner.learn_batch(ran(own, *noise.sample([(2.0, ()), beside], 2)))
    if isinstance(learner, learners.Trained):
        learner.fit()
    return learner


def answers(learner: Learner) -> list[float]:
    """Everything that is asked of a learner."""
    found: list[float] = []
    for own in (A, B, C, BatchClass("never heard of", "1", 3)):
        found.append(learner.work_ns(own))
        for others in ((), (A,), (B, C), (BatchClass("unknown", "1", 1), A)):
            running = [Running(other, (Slice(3 * MS, (own,)),)) for other in others]
            found += [learner.slowdown(own, others), learner.forecast(own, running)]
            found.append(learner.explain(own, (Slice(2 * MS, ()), Slice(7 * MS, others), Slice(MS, (own,)))))
    return found


def slowdowns(learner: Learner) -> list[float]:
    found = answers(learner)
    per_class = 13  # the first of each is a solo time
    return [value for i, value in enumerate(found) if i % per_class]


# ---- what all must withstand


@EVERY
def test_slowdowns_are_finite_and_at_least_one_whatever_was_learned(name: str) -> None:
    learner = taught(name)
    longest, unknown = 3_600_000 * MS, BatchClass("unknown", "9", 1_000_000, "bucket")
    extremes = [
        ran(unknown, (1, (BatchClass("x", "", 1),))),
        Observation(A, longest, (Slice(longest, (B,) * 256),)),
        Observation(B, 1, (Slice(1, (A, A, C)),)),
        Observation(C, 10, tuple(Slice(1, (unknown,) * i) for i in range(10))),
    ]
    for _ in range(30):
        for seen in extremes:
            learner.learn_batch(seen)
    learner.learn_profile(Profile(A, 1, (1.0, 1.0, 1.0)))
    learner.learn_profile(Profile(B, longest, (0.0, 0.0, 0.0)))
    learner.learn_profile(Profile(C, 5 * MS, ()))  # a demand is not always known
    for _ in range(30):
        for seen in extremes:
            learner.learn_batch(seen)
    assert all(1.0 <= value < 1e12 for value in slowdowns(learner))
    assert all(0.0 <= value < 1e15 for value in answers(learner))
    assert all(learner.estimate(known).work_ns >= 0 for known in learner.classes)


@EVERY
def test_classes_never_heard_of_are_not_slowed(name: str) -> None:
    learner, stranger = taught(name), BatchClass("stranger", "1", 1)
    assert learner.work_ns(stranger) == 0.0
    assert learner.forecast(stranger, [Running(A, ())]) == 1.0
    if name != "fluid":  # which has a prior for them
        assert learner.slowdown(stranger, (A, B)) == 1.0
    assert stranger not in learner.classes
    with pytest.raises(KeyError):
        learner.estimate(stranger)


@EVERY
def test_alone_nothing_is_slowed(name: str) -> None:
    assert taught(name).slowdown(A, ()) == 1.0


@EVERY
def test_a_class_seen_before_it_was_measured_is_known(name: str) -> None:
    learner = learners.make(name, 3)
    learner.learn_batch(ran(A, (20, (B,))))
    learner.learn_batch(ran(A, (10, ())))
    assert A in learner.classes
    assert 0 < learner.work_ns(A) <= 20 * MS


@EVERY
def test_a_measurement_is_the_solo_time(name: str) -> None:
    learner = profiled(name)
    assert learner.work_ns(A) == 10 * MS
    learner.learn_profile(Profile(A, 4 * MS, DEMANDS[A], 5))
    assert learner.work_ns(A) == 4 * MS
    assert learner.estimate(A).work_ns == 4 * MS


@EVERY
def test_what_is_forgotten_is_gone(name: str) -> None:
    learner = taught(name)
    learner.changed()
    learner.forget(B)
    assert B not in learner.classes
    assert learner.work_ns(B) == 0.0
    assert B not in learner.changed()
    with pytest.raises(KeyError):
        learner.dump_class(B)
    learner.forget(B)  # once more is no harm
    learner.learn_batch(ran(B, (12, (A,))))
    assert B in learner.classes


@EVERY
def test_changes_are_told_once(name: str) -> None:
    learner = profiled(name)
    assert set(learner.changed()) == {A, B, C}
    assert learner.changed() == []
    learner.learn_batch(ran(A, (10, ())))
    assert A in learner.changed()


@EVERY
def test_what_was_dumped_gives_the_same_answers(name: str) -> None:
    learner = taught(name)
    again = learners.make(name, 3)
    again.restore(learner.dump(), {known: learner.dump_class(known) for known in learner.classes})
    assert answers(again) == pytest.approx(answers(learner), rel=1e-12)
    for each in (learner, again):  # and it goes on in the same way
        for _ in range(5):
            each.learn_batch(ran(A, (14, (B,))))
    assert answers(again) == pytest.approx(answers(learner), rel=2e-3 if name == "fluid" else 1e-12)


@EVERY
def test_the_state_of_others_is_refused(name: str) -> None:
    learner = taught(name)
    classes = {known: learner.dump_class(known) for known in learner.classes}
    with pytest.raises(ValueError):  # noqa: PT011 (every learner tells it in its own words)
        learners.make(name, 2).restore(learner.dump(), classes)
    if name != "fluid":
        other = "static-rls" if name != "static-rls" else "static-sgd"
        with pytest.raises(ValueError, match="is expected"):
            learners.make(other, 3).restore(learner.dump(), classes)


@EVERY
def test_memory_does_not_grow_with_batches_or_strangers(name: str) -> None:
    if "Tree" in name:
        pytest.skip("a tree grows with what it learns, by its own rule")
    learner = taught(name)

    def size() -> int:
        return len(learner.dump()) + sum(len(learner.dump_class(known)) for known in learner.classes)

    for i in range(100):
        learner.learn_batch(ran(A, (12, (BatchClass(f"stranger {i}", "1", 1),))))
    before = size()
    for i in range(100, 600):
        learner.learn_batch(ran(A, (12, (BatchClass(f"stranger {i}", "1", 1),))))
        learner.forecast(A, [Running(BatchClass(f"other {i}", "1", 1), ())])
    assert size() < before + 200
    assert set(learner.classes) == {A, B, C}


@pytest.mark.parametrize("resources", [0, 1, 5])
@EVERY
def test_any_number_of_resources_does(name: str, resources: int) -> None:
    learner = learners.make(name, resources)
    learner.learn_profile(Profile(A, 10 * MS, (0.5,) * resources))
    for _ in range(20):
        learner.learn_batch(ran(A, (15, (A,)), (2, (B, A))))
    assert 1.0 <= learner.slowdown(A, (A, B)) < 50.1


def test_names_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no learner 'statik'"):
        learners.make("statik", 3)
    with pytest.raises(ValueError, match=r"no regressor 'river\.linear_model\.Nothing'"):
        learners.make("river.linear_model.Nothing", 3)
    with pytest.raises(ValueError, match=r"no regressor 'no_such_package\.Model'"):
        learners.make("no_such_package.Model", 3)
    with pytest.raises(ValueError, match="must have learn_one and predict_one"):
        learners.make("json.JSONDecoder", 3)


# ---- features, by hand


def totals(name: str, *slices: tuple[float, Sequence[BatchClass]]) -> tuple[float, ...]:
    learner = profiled(name)
    assert isinstance(learner, Colocation)
    return learner.co_located(ran(A, *slices).slices)


def test_static_is_what_ran_at_launch_and_nothing_later() -> None:
    assert totals("static-rls", (1, (B,)), (50, (B, C)), (3, ())) == pytest.approx(DEMANDS[B])
    assert totals("static-rls", (1, ()), (50, (B,))) == (0.0, 0.0, 0.0)
    assert totals("static-rls", (1, (B, C))) == pytest.approx((0.8, 0.6, 1.0))


@pytest.mark.parametrize(("name", "alpha"), [("ewma13-sgd", 1 / 3), ("ewma12-sgd", 1 / 2), ("ewma23-sgd", 2 / 3)])
def test_ewma_moves_at_each_arrival_and_departure_however_long_they_stay(name: str, alpha: float) -> None:
    # Compute: nobody 0, then b 0.3, then b and c 0.8, then c 0.5.
    by_hand = alpha * 0.3
    by_hand = alpha * 0.8 + (1 - alpha) * by_hand
    by_hand = alpha * 0.5 + (1 - alpha) * by_hand
    assert totals(name, (1, ()), (9, (B,)), (2, (B, C)), (5, (C,)))[0] == pytest.approx(by_hand)
    assert totals(name, (7, ()), (1, (B,)), (1, (B, C)), (1, (C,)))[0] == pytest.approx(by_hand)


def test_at_launch_ewma_knows_only_who_runs() -> None:
    learner = taught("ewma12-rls")
    running = [Running(B, (Slice(4 * MS, (C,)),)), Running(C, ())]
    assert learner.forecast(A, running) == learner.explain(A, (Slice(MS, (B, C)),))
    assert learner.forecast(A, running) == learner.slowdown(A, (B, C))


def test_static_forecasts_of_a_batch_that_starts_alone_know_that_others_may_come() -> None:
    learner = profiled("static-offline")
    for _ in range(20):
        learner.learn_batch(ran(A, (5, ()), (15, (B,))))
    assert isinstance(learner, learners.Trained)
    learner.fit()
    assert learner.forecast(A, []) == pytest.approx(2.0)
    assert learner.slowdown(A, ()) == 1.0


def test_gpulets_does_not_look_at_compute() -> None:
    assert Colocation("gpulets", 3, Offline, compute=False).regression.weights.size == 5
    assert Colocation("static", 3, Offline).regression.weights.size == 7
    learner = taught("gpulets")
    before = learner.slowdown(A, (B,))
    learner.learn_profile(Profile(B, 10 * MS, (0.99, *DEMANDS[B][1:])))
    assert learner.slowdown(A, (B,)) == before
    learner.learn_profile(Profile(B, 10 * MS, (0.99, 0.1, 0.1)))
    assert learner.slowdown(A, (B,)) != before


@pytest.mark.parametrize("name", ["gpulets", "static-rls", "ignore", "clockwork"])
def test_a_size_without_a_measurement_is_drawn_between_its_neighbours(name: str) -> None:
    learner = learners.make(name, 2)
    learner.learn_profile(Profile(BatchClass("m", "1", 2), 10 * MS, (0.2, 0.4)))
    learner.learn_profile(Profile(BatchClass("m", "1", 4), 20 * MS, (0.6, 0.5)))
    three = BatchClass("m", "1", 3)
    assert learner.work_ns(three) == 15 * MS
    learner.learn_batch(ran(three, (15, ())))
    assert learner.estimate(three).demand == pytest.approx((0.4, 0.45))
    eight = BatchClass("m", "1", 8)
    assert learner.work_ns(eight) == 40 * MS
    assert learner.work_ns(BatchClass("m", "2", 3)) == 0.0


# ---- regression against closed forms


def rows(count: int, seed: int = 0) -> list[tuple[np.ndarray, float]]:
    noise = np.random.default_rng(seed)
    x = np.column_stack([np.ones(count), noise.random((count, 3))])
    y = x @ np.array([1.0, 0.5, -0.2, 2.0]) + noise.normal(0, 0.1, count)
    return list(zip(x, y.tolist(), strict=True))


@pytest.mark.parametrize("kind", [Offline, Sgd, Rls])
def test_all_start_from_least_squares_after_training(kind: type[Offline | Sgd | Rls]) -> None:
    regression = kind(4)
    given = rows(300)
    for x, y in given:
        regression.learn(x, y)
    regression.fit()
    closed = np.linalg.lstsq(np.array([x for x, _ in given]), np.array([y for _, y in given]), rcond=None)[0]
    np.testing.assert_allclose(regression.weights, closed, rtol=1e-8)
    before = regression.weights.copy()
    regression.learn(np.array([1.0, 1.0, 1.0, 1.0]), 9.0)
    assert (regression.weights == before).all() == (kind is Offline)


def test_offline_says_one_before_it_was_trained() -> None:
    regression = Offline(4)
    for x, y in rows(50):
        regression.learn(x, y)
    assert regression.predict(np.array([1.0, 0.3, 0.4, 0.5])) == 1.0


def test_least_squares_with_less_to_go_by_than_weights_stays_near_its_start() -> None:
    regression = Offline(4)
    regression.learn(np.array([1.0, 1.0, 0.0, 0.0]), 3.0)
    regression.fit()
    np.testing.assert_allclose(regression.weights, [2.0, 1.0, 0.0, 0.0], atol=1e-9)


def test_rls_is_least_squares_with_exponential_weights() -> None:
    regression = Rls(4)
    given = rows(400, seed=2)
    for x, y in given:
        regression.learn(x, y)
    start = np.array([1.0, 0.0, 0.0, 0.0])
    weight = FORGETTING ** np.arange(len(given) - 1, -1, -1.0)
    xs, ys = np.array([x for x, _ in given]), np.array([y for _, y in given])
    # The start counts as equations of its own, which are forgotten like all others.
    gram = (xs * weight[:, None]).T @ xs + np.eye(4) / START_COVARIANCE * FORGETTING ** len(given)
    closed = start + np.linalg.solve(gram, (xs * weight[:, None]).T @ (ys - xs @ start))
    np.testing.assert_allclose(regression.weights, closed, rtol=1e-6)


def test_rls_goes_on_from_a_training_as_if_it_had_forgotten_on_the_way() -> None:
    regression = Rls(4)
    given = rows(5000, seed=3)
    for x, y in given:
        regression.learn(x, y)
    regression.fit()
    for x, y in rows(3000, seed=4):
        regression.learn(x, y + 1.0)
    assert regression.weights[0] == pytest.approx(2.0, abs=0.15)


def test_sgd_is_rivers_at_the_same_rate() -> None:
    ours, start = Sgd(4), iter((1.0, 0.0, 0.0, 0.0))
    theirs = linear_model.LinearRegression(
        optim.SGD(LEARNING_RATE / 2),  # the gradient of river's squared loss is twice the error
        loss=optim.losses.Squared(),
        intercept_lr=0.0,
        initializer=lambda *_: next(start),
    )
    for x, y in rows(200, seed=5):
        ours.learn(x, y)
        theirs.learn_one({str(i): float(v) for i, v in enumerate(x)}, y)
    np.testing.assert_allclose(ours.weights, [theirs.weights[str(i)] for i in range(4)], rtol=1e-9)


def test_rls_is_not_thrown_about_by_a_direction_that_little_excites() -> None:
    regression, noise = Rls(3), random.Random(1)
    for _ in range(40_000):
        regression.learn(np.array([1.0, 0.5, 0.0]), noise.gauss(1.5, 0.1))
    regression.learn(np.array([1.0, 0.5, 0.03]), 2.5)  # far off, and nearly where all others were
    assert regression.predict(np.array([1.0, 0.5, 0.0])) == pytest.approx(1.5, abs=0.1)
    assert regression.predict(np.array([1.0, 0.5, 0.5])) == pytest.approx(1.5, abs=1.0)


def test_rls_stays_sound_over_long_runs() -> None:
    regression, noise = Rls(7), np.random.default_rng(2)
    demands = noise.random((12, 3))
    often = noise.choice(12, 40_000, p=[0.3, 0.3, 0.3, 0.09, *([0.00125] * 8)])
    errors: list[float] = []
    for number in often:
        own, other = demands[number], demands[noise.integers(4)] * noise.integers(3)
        x, y = np.array([1.0, *own, *other]), 1.0 + 0.3 * other.sum() + noise.normal(0, 0.05)
        errors.append(abs(regression.predict(x) - y))
        regression.learn(x, y)
    assert max(errors[2000:]) < 0.5


# ---- the others, by hand


def test_clockwork_is_the_longest_of_the_last_ten() -> None:
    learner = profiled("clockwork")
    assert isinstance(learner, Clockwork)
    assert learner.bound_ns(A, []) == 10 * MS
    for ms in (30, 11, 12, 13, 14, 15, 16, 17, 18, 19):
        learner.learn_batch(ran(A, (ms, (B,))))
    assert learner.work_ns(A) == learner.bound_ns(A, [Running(B, ())]) == 30 * MS
    learner.learn_batch(ran(A, (12, ())))
    assert learner.work_ns(A) == 19 * MS
    assert learner.forecast(A, [Running(B, ())]) == learner.explain(A, (Slice(MS, (B,)),)) == 1.0
    assert isinstance(learner, learners.BoundedByItself)
    assert not isinstance(profiled("ignore"), learners.BoundedByItself)


def test_regressors_are_told_numbers_with_their_units() -> None:
    learner = profiled("river.linear_model.LinearRegression")
    assert isinstance(learner, TwoVerbs)
    assert learner.row(A, (0.3, 0.5, 0.9), 1) == pytest.approx(
        {
            "own_compute_share": 0.8,
            "own_cache_share": 0.4,
            "own_memory_bandwidth_share": 0.2,
            "others_compute_share": 0.3,
            "others_cache_share": 0.5,
            "others_memory_bandwidth_share": 0.9,
            "co_runner_count": 1,
            "batch_size_log2_items": 0.0,
            "work_log10_ms": 1.0,
        }
    )


class Remembers:
    """A regressor that keeps what it was taught."""

    taught: list[tuple[dict[str, float], float]]

    def __init__(self) -> None:
        self.taught = []

    def learn_one(self, x: dict[str, float], y: float) -> None:
        self.taught.append((x, y))

    def predict_one(self, x: dict[str, float]) -> float:
        return 2.0 if x["co_runner_count"] else 1.0


def test_a_regressor_learns_whole_batches_with_neighbours_averaged_over_time() -> None:
    learner = profiled("test_baselines.Remembers")
    assert isinstance(learner, TwoVerbs)
    learner.learn_batch(ran(A, (5, ()), (10, (B,)), (5, (B, C))))
    regressor = learner.regressor
    assert isinstance(regressor, Remembers)
    ((x, y),) = regressor.taught
    assert y == pytest.approx(2.0)
    assert x["co_runner_count"] == pytest.approx(1.0)
    assert x["others_compute_share"] == pytest.approx(0.75 * 0.3 + 0.25 * 0.5)
    # 20 ms beside others are 10 ms of work, and what has 5 ms of work left goes after 10 ms.
    assert learner.explain(A, (Slice(20 * MS, (B,)),)) == pytest.approx(2.0)
    assert learner.forecast(A, [Running(B, (Slice(10 * MS, (A,)),))]) == pytest.approx(1.5)


@pytest.mark.parametrize("bad", ["nan", "inf", "raise"])
def test_a_regressor_that_fails_slows_nothing(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = profiled("test_baselines.Remembers")

    def predict(self: Remembers, x: dict[str, float]) -> float:
        if bad == "raise":
            raise OverflowError
        return float(bad)

    monkeypatch.setattr(Remembers, "predict_one", predict)
    assert learner.slowdown(A, (B,)) == 1.0


def test_a_pickle_of_anything_else_is_refused() -> None:
    learner = taught(RIVER[0])
    assert isinstance(learner, TwoVerbs)

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return eval, ("1 + 1",)

    for state in (pickle.dumps(Evil()), b"cos\nsystem\n(S'true'\ntR.", b"crandom\n_os.system\n(S'true'\ntR.", b"junk"):
        with pytest.raises(ValueError, match="cannot be read"):
            learner.restore_state(state)
