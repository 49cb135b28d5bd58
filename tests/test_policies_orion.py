"""The baseline `orion`: beside the most urgent batch only what is not too long and wants something else."""

import pytest

from cotenant.scheduler import events as ev
from cotenant.scheduler.policies.orion import MOST_WORK
from worlds import World, launches, profiles, refusals

COMPUTE, MEMORY, ALL = (0.6, 0.3, 0.2), (0.2, 0.3, 0.6), (0.99, 0.3, 0.2)  # shares of sm, l2 and dram


def orion(work_ms: float = 10.0, **demands: tuple[float, ...]) -> World:
    """Models with these demands; each takes `work_ms`."""
    world = World("orion")
    world.join(concurrency=4)
    for name, demand in demands.items():
        load(world, name, demand, work_ms)
    return world


def load(world: World, name: str, demand: tuple[float, ...], work_ms: float) -> None:
    world.load(name, work_ms=work_ms)
    told = [ev.Profile(p.batch_class, p.work_ns, 5, demand) for p in profiles(name, work_ms)]
    world.step(*(ev.ClassProfiled("gpu-0", p) for p in told))


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (COMPUTE, COMPUTE, False),
        (MEMORY, MEMORY, False),
        (COMPUTE, MEMORY, True),
        (MEMORY, COMPUTE, True),
        (COMPUTE, (), True),  # not measured: goes with either
        ((), MEMORY, True),
    ],
)
def test_best_effort_joins_what_wants_something_else(
    first: tuple[float, ...], second: tuple[float, ...], together: bool
) -> None:
    world = orion(a=first)
    load(world, "b", second, 4.0)
    world.arrive("a", slo_ms=100)
    assert (launches(world.arrive("b", slo_ms=200)) == [("b", 1)]) is together
    if not together:
        assert launches(world.finish(1, after_ms=10)) == [("b", 1)]


def test_what_is_more_urgent_than_all_that_runs_is_never_held_back() -> None:
    world = orion(a=COMPUTE, b=COMPUTE)
    world.arrive("a", slo_ms=100)
    assert launches(world.arrive("b", slo_ms=50)) == [("b", 1)]
    assert launches(world.arrive("b", slo_ms=60)) == []  # best effort beside that one, and like it
    assert launches(world.arrive("b", slo_ms=90, priority=1)) == [("b", 2)]  # priority goes before deadline


def test_best_effort_has_a_longest_duration_in_terms_of_the_high_priority_batch() -> None:
    world = orion(work_ms=1.0, a=COMPUTE)
    load(world, "short", MEMORY, MOST_WORK)
    load(world, "long", MEMORY, MOST_WORK + 0.1)
    world.arrive("a", slo_ms=100)
    assert launches(world.arrive("long", slo_ms=200)) == []
    assert launches(world.arrive("short", slo_ms=300)) == [("short", 1)]


def test_what_takes_nobody_knows_how_long_is_no_best_effort() -> None:
    world = orion(a=COMPUTE)
    world.step(ev.ModelLoaded("gpu-0", ev.ModelSpec("z", "1")))
    world.arrive("a", slo_ms=100)
    assert launches(world.arrive("z", slo_ms=200)) == []
    assert launches(world.finish(1, after_ms=10)) == [("z", 1)]


def test_the_limit_is_on_all_best_effort_work_together() -> None:
    world = orion(work_ms=1.0, a=COMPUTE)
    for name in ("b", "c"):
        load(world, name, MEMORY, 0.6 * MOST_WORK)
    world.arrive("a", slo_ms=100)
    assert launches(world.arrive("b", slo_ms=200)) == [("b", 1)]
    assert launches(world.arrive("c", slo_ms=200)) == []  # each alone would do


def test_best_effort_batches_together_need_no_more_than_the_processors() -> None:
    world = orion(work_ms=1.0, b=ALL, c=(0.02, 0.0, 0.0), d=(0.005, 0.0, 0.0))
    load(world, "a", MEMORY, 10.0)
    world.arrive("a", slo_ms=100)
    assert launches(world.arrive("b", slo_ms=200)) == [("b", 1)]
    assert launches(world.arrive("c", slo_ms=200)) == []
    assert launches(world.arrive("d", slo_ms=200)) == [("d", 1)]


def test_a_deadline_counts_only_once_it_has_passed() -> None:
    world = orion(a=COMPUTE)
    assert launches(world.arrive("a", slo_ms=5)) == [("a", 1)]  # 10 ms of work
    assert refusals(world.arrive("a", slo_ms=15)) == []
    assert refusals(world.step(after_ms=15)) == []
    assert refusals(world.step(after_ms=0.000001)) == [(2, ev.EXPIRED_IN_QUEUE)]
