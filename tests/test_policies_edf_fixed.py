"""The baselines that predict nothing: `edf-fixed`, and `exclusive-fifo`."""

from cotenant.scheduler import events as ev
from worlds import World, estimate, launches, refusals


def test_every_lane_is_used_and_no_more_whatever_that_does_to_deadlines() -> None:
    world = World("edf-fixed")
    world.join("a", "b", "c", concurrency=2)
    slow = [estimate(name, 1, 10, delay=4.0) for name in ("a", "b", "c")]
    world.step(ev.EstimatesPushed("gpu-0", 1, True, tuple(slow)))
    assert launches(world.arrive("a", slo_ms=12)) == [("a", 1)]
    assert launches(world.arrive("b", slo_ms=12)) == [("b", 1)]
    assert launches(world.arrive("c", slo_ms=12)) == []
    assert launches(world.finish(1, after_ms=10)) == [("c", 1)]


def test_the_most_urgent_goes_first() -> None:
    world = World("edf-fixed")
    world.join("a", "b", "c", concurrency=1)
    world.arrive("a")
    for model, slo_ms, priority in (("a", 80, 0), ("b", 60, 0), ("c", 90, 1)):
        world.arrive(model, slo_ms=slo_ms, priority=priority)
    assert [launches(world.finish(n, after_ms=1)) for n in (1, 2, 3)] == [[("c", 1)], [("b", 1)], [("a", 1)]]


def test_only_what_has_expired_is_dropped() -> None:
    world = World("edf-fixed")
    world.join("a", concurrency=1)
    assert launches(world.arrive("a", slo_ms=5)) == [("a", 1)]  # 10 ms of work
    assert refusals(world.arrive("a", slo_ms=5)) == []
    assert refusals(world.step(world.request("a"), after_ms=5)) == []  # at its deadline
    assert refusals(world.step(after_ms=0.000001)) == [(2, ev.EXPIRED_IN_QUEUE)]


def test_exclusive_fifo_runs_one_at_a_time_in_order_of_arrival() -> None:
    world = World("exclusive-fifo")
    world.join("a", "b", concurrency=4)
    assert launches(world.arrive("a")) == [("a", 1)]
    assert launches(world.arrive("b", slo_ms=900)) == []
    assert launches(world.arrive("a", slo_ms=50)) == []
    assert launches(world.finish(1, after_ms=10)) == [("b", 1)]
