"""The baselines that decide by pairs: `gpulets` and `seed-paper`."""

import pytest

from cotenant.runtime.estimates import BatchClass, SetEstimate
from cotenant.scheduler import events as ev
from cotenant.scheduler.policies.gpulets import CONSTANT, OTHER, OWN
from worlds import MS, World, estimate, launches, profiles, refusals

LIGHT, HEAVY = (0.2, 0.2, 0.1), (0.5, 0.8, 0.1)  # shares of sm, l2 and dram
MODELS = ("a", "b", "c")


def load(world: World, name: str, demand: tuple[float, ...], work_ms: float = 10.0) -> None:
    """A model without estimates, with a profile of these shares."""
    world.load(name, work_ms=work_ms)
    told = [ev.Profile(p.batch_class, p.work_ns, 5, demand) for p in profiles(name, work_ms)]
    world.step(*(ev.ClassProfiled("gpu-0", p) for p in told))


def gpulets(*demands: tuple[float, ...]) -> World:
    world = World("gpulets")
    world.join(concurrency=4)
    for name, demand in zip(MODELS, demands, strict=False):
        load(world, name, demand)
    return world


def linear(own: tuple[float, ...], other: tuple[float, ...]) -> float:
    return CONSTANT + OWN[0] * own[1] + OWN[1] * own[2] + OTHER[0] * other[1] + OTHER[1] * other[2]


def seed_paper(*pairs: tuple[str, str, float]) -> World:
    """Three models of 10 ms; slowdowns of (victim, other), all others 1."""
    world = World("seed-paper")
    world.join(*MODELS, concurrency=4)
    classes = {name: BatchClass(name, "1", 1) for name in MODELS}
    told = {(a, b): 1.0 for a in MODELS for b in MODELS} | {(a, b): slowdown for a, b, slowdown in pairs}
    sets = tuple(SetEstimate(classes[a], (classes[b],), slowdown) for (a, b), slowdown in told.items())
    known = tuple(ev.Profile(c, 10 * MS) for c in classes.values())
    world.step(*(ev.ClassProfiled("gpu-0", p) for p in known), ev.EstimatesPushed("gpu-0", 1, True, (), sets))
    return world


@pytest.mark.parametrize("world", [gpulets(LIGHT, LIGHT, LIGHT), seed_paper()], ids=["gpulets", "seed-paper"])
def test_never_three_at_once_and_two_where_nothing_is_slowed(world: World) -> None:
    assert launches(world.arrive("a", slo_ms=1000)) == [("a", 1)]
    assert launches(world.arrive("b", slo_ms=1000)) == [("b", 1)]
    assert launches(world.arrive("c", slo_ms=1000)) == []
    assert launches(world.finish(1, after_ms=10)) == [("c", 1)]


@pytest.mark.parametrize("world", [gpulets(LIGHT, LIGHT), seed_paper()], ids=["gpulets", "seed-paper"])
def test_what_would_be_late_even_alone_is_refused_and_no_more_than_that(world: World) -> None:
    assert refusals(world.arrive("a", slo_ms=10.9)) == [(1, ev.PREDICTED_MISS)]  # 10 ms of work and 1 to answer
    assert launches(world.arrive("a", slo_ms=11)) == [("a", 1)]


@pytest.mark.parametrize("policy", ["gpulets", "seed-paper"])
def test_the_most_urgent_goes_first_in_the_largest_batch_that_is_in_time(policy: str) -> None:
    world = World(policy)
    world.join("a", "b", concurrency=1)  # one takes 10 ms, two 15, three 20, four 25
    world.arrive("a")
    world.arrive("a", slo_ms=900)
    for _ in range(4):
        world.arrive("b", slo_ms=32)
    assert launches(world.finish(1, after_ms=10)) == [("b", 3)]


@pytest.mark.parametrize(("own_ms", "running_ms", "together"), [(400, 400, True), (400, 30, False), (30, 400, False)])
def test_gpulets_launches_beside_another_only_if_both_keep_their_deadlines(
    own_ms: float, running_ms: float, together: bool
) -> None:
    assert 2.9 < linear(HEAVY, HEAVY) < 3.4  # so that 30 ms are too short for 10 ms of work, and 400 are not
    world = gpulets(HEAVY, HEAVY)
    world.arrive("a", slo_ms=running_ms)
    actions = world.arrive("b", slo_ms=own_ms)
    assert (launches(actions) == [("b", 1)]) is together
    assert refusals(actions) == []
    if together:
        (launch,) = [a for a in actions if isinstance(a, ev.Launch)]
        assert launch.batch.forecast.duration_ns == int(10 * MS * linear(HEAVY, HEAVY))
    else:
        assert launches(world.finish(1, after_ms=10)) == [("b", 1)]


def test_gpulets_takes_the_other_to_stay_for_ever() -> None:
    world = gpulets(HEAVY, HEAVY)
    world.arrive("a", slo_ms=400)
    # `a` is about to end, so that `b` would take some 11 ms. Statically it takes 30.
    assert launches(world.step(world.request("b", slo_ms=25), after_ms=9.5)) == []


def test_gpulets_learns_nothing_from_what_runs() -> None:
    world = gpulets(LIGHT, LIGHT)
    slow = [estimate(name, 1, 90, delay=9.0) for name in ("a", "b")]
    world.step(ev.EstimatesPushed("gpu-0", 1, True, tuple(slow)))
    world.arrive("a", slo_ms=14)
    (launch,) = [a for a in world.arrive("b", slo_ms=14) if isinstance(a, ev.Launch)]
    assert linear(LIGHT, LIGHT) < 1.0  # and nothing is faster beside another
    assert launch.batch.forecast.duration_ns == 10 * MS


def test_gpulets_draws_demands_between_the_batch_sizes_that_were_measured() -> None:
    world = gpulets(LIGHT)
    told = {1: (0.2, 0.2, 0.1), 4: (0.5, 0.8, 0.4)}
    world.step(*(ev.ClassProfiled("gpu-0", ev.Profile(BatchClass("a", "1", n), MS, 5, d)) for n, d in told.items()))
    device = world.core.devices["gpu-0"]
    device.profiles["a", "1", ""].pop(2)
    assert device.profiled_demand(BatchClass("a", "1", 3)) == pytest.approx((0.4, 0.6, 0.3))
    assert device.profiled_demand(BatchClass("a", "1", 8)) == told[4]
    assert device.profiled_demand(BatchClass("z", "1", 8)) == ()


def test_gpulets_runs_alone_what_was_not_profiled() -> None:
    for demands in (((), LIGHT), (LIGHT, ())):
        world = gpulets(*demands)
        world.arrive("a", slo_ms=400)
        assert launches(world.arrive("b", slo_ms=400)) == []
        assert launches(world.finish(1, after_ms=10)) == [("b", 1)]


@pytest.mark.parametrize(("first", "second"), [("z", "a"), ("a", "z")])
def test_what_takes_nobody_knows_how_long_runs_alone(first: str, second: str) -> None:
    world = seed_paper()
    world.step(ev.ModelLoaded("gpu-0", ev.ModelSpec("z", "1")))
    assert launches(world.arrive(first, slo_ms=400)) == [(first, 1)]
    assert launches(world.arrive(second, slo_ms=400)) == []
    assert launches(world.finish(1, after_ms=10)) == [(second, 1)]


def test_what_is_late_anyway_or_has_no_deadline_holds_nobody_back() -> None:
    world = gpulets(HEAVY, HEAVY)
    world.arrive("a", slo_ms=12)
    assert launches(world.step(world.request("b", slo_ms=400), after_ms=2)) == []
    late = ev.BatchStarted("gpu-0", 1, world.now_ns)
    assert launches(world.step(late)) == [("b", 1)]
    world = gpulets(HEAVY, HEAVY)
    world.arrive("a", slo_ms=0)
    assert launches(world.arrive("b", slo_ms=400)) == [("b", 1)]


def test_the_seed_papers_loop_decides_by_the_pairs_the_predictor_tells() -> None:
    world = seed_paper(("b", "a", 3.0))
    world.arrive("a", slo_ms=400)
    assert launches(world.arrive("b", slo_ms=30)) == []
    (launch,) = [a for a in world.arrive("c", slo_ms=30) if isinstance(a, ev.Launch)]
    assert launch.batch.forecast.duration_ns == 10 * MS
    assert launch.batch.forecast.bound_ns == launch.batch.forecast.duration_ns  # it knows no uncertainty


@pytest.mark.parametrize(("slo_ms", "together"), [(20.9, False), (21, True)])
def test_in_the_seed_papers_loop_a_running_batch_is_slowed_by_the_smoothed_pressure(
    slo_ms: float, together: bool
) -> None:
    world = seed_paper(("a", "b", 3.0))
    world.arrive("a", slo_ms=slo_ms)
    # From alone to beside b, with alpha 1/2: slowed twice over its life, not three times, whatever it has done by now.
    assert (launches(world.step(world.request("b", slo_ms=400), after_ms=9)) == [("b", 1)]) is together


def test_in_the_seed_papers_loop_whoever_was_there_at_launch_still_counts() -> None:
    world = seed_paper(("b", "a", 2.0), ("b", "c", 3.0))
    world.arrive("a", slo_ms=400)
    world.arrive("b", slo_ms=24)
    world.finish(1, after_ms=1)
    # 2 -> 1.5 when a leaves, -> 2.25 when c comes: 23.5 ms with the answer.
    assert launches(world.arrive("c", slo_ms=400)) == [("c", 1)]
    world = seed_paper(("b", "a", 2.0), ("b", "c", 4.0))
    world.arrive("a", slo_ms=400)
    world.arrive("b", slo_ms=27)
    world.finish(1, after_ms=1)
    # 2 -> 1.5 -> 2.75: 28.5 ms.
    assert launches(world.arrive("c", slo_ms=400)) == []
