"""The baseline `triton`: instances and batches as Triton forms them, and no eye for deadlines or neighbours."""

from typing import Any

import pytest

from cotenant.scheduler import events as ev
from worlds import MS, World, estimate, launches, refusals


def world(*models: str, concurrency: int = 4, **spec: Any) -> World:
    made = World("triton")
    made.join(*models, concurrency=concurrency, **spec)
    return made


def ids(actions: list[ev.Action]) -> list[list[int]]:
    """Requests of each launch, in order."""
    return [[r.request_id for r in a.batch.requests] for a in actions if isinstance(a, ev.Launch)]


def test_another_model_runs_beside_whatever_that_does_to_deadlines() -> None:
    triton = world("a", "b")
    slow = [estimate(name, 1, 10, delay=4.0) for name in ("a", "b")]
    triton.step(ev.EstimatesPushed("gpu-0", 1, True, tuple(slow)))
    assert launches(triton.arrive("a", slo_ms=12)) == [("a", 1)]
    assert launches(triton.arrive("b", slo_ms=12)) == [("b", 1)]


def test_a_model_has_one_instance_unless_its_configuration_says_more() -> None:
    triton = world("a")
    assert launches(triton.arrive("a")) == [("a", 1)]
    assert launches(triton.arrive("a")) == []
    assert launches(triton.finish(1, after_ms=10)) == [("a", 1)]
    triton = world("a", max_instances=2)
    assert [launches(triton.arrive("a")) for _ in range(3)] == [[("a", 1)], [("a", 1)], []]


def test_nothing_is_refused_for_a_predicted_miss_but_what_timed_out_in_the_queue_is() -> None:
    triton = world("a")
    actions = triton.arrive("a", slo_ms=5)  # 10 ms of work
    assert launches(actions) == [("a", 1)]
    assert refusals(actions) == []
    assert refusals(triton.arrive("a", slo_ms=5)) == []
    assert refusals(triton.step(after_ms=5)) == []
    assert refusals(triton.step(after_ms=0.000001)) == [(2, ev.EXPIRED_IN_QUEUE)]


def test_requests_go_in_order_of_arrival_within_a_priority_level() -> None:
    triton = world("a", batching=False, priority_levels=3, default_priority=2)
    triton.arrive("a")
    triton.arrive("a", slo_ms=900)
    triton.arrive("a", slo_ms=100)  # more urgent, but later
    triton.arrive("a", slo_ms=900, priority=1)
    assert [ids(triton.finish(batch, after_ms=1)) for batch in (1, 2, 3)] == [[[4]], [[2]], [[3]]]


@pytest.mark.parametrize(
    ("preferred", "waiting", "taken"),
    [
        ((), 6, [4, 2]),  # the maximum is preferred if nothing is
        ((2,), 3, [2, 1]),  # the largest preferred size that can be formed
        ((2, 3), 4, [3, 1]),
        ((3,), 2, [2]),  # none can be formed: what is there
    ],
)
def test_without_a_delay_the_largest_preferred_size_goes(
    preferred: tuple[int, ...], waiting: int, taken: list[int]
) -> None:
    triton = world("a", preferred_batch_sizes=preferred)
    triton.arrive("a")
    for _ in range(waiting):
        triton.arrive("a")
    batch, sizes = 1, []
    while launched := launches(triton.finish(batch, after_ms=1)):
        sizes += [size for _, size in launched]
        batch += 1
    assert sizes == taken


def test_with_a_delay_a_batch_waits_for_a_preferred_size_and_no_longer_than_the_delay() -> None:
    triton = world("a", max_queue_delay_ns=20 * MS, preferred_batch_sizes=(2,))
    actions = triton.arrive("a", slo_ms=15)
    assert launches(actions) == []  # though its deadline needs it to start by now
    assert [a.at_ns for a in actions if isinstance(a, ev.WakeAt)] == [triton.now_ns + 15 * MS + 1]
    assert refusals(triton.step(after_ms=15.000001)) == [(1, ev.EXPIRED_IN_QUEUE)]
    assert launches(triton.arrive("a", slo_ms=100)) == []
    assert launches(triton.arrive("a", slo_ms=100)) == [("a", 2)]
    triton.finish(1, after_ms=10)
    actions = triton.arrive("a", slo_ms=500)
    assert [a.at_ns for a in actions if isinstance(a, ev.WakeAt)] == [triton.now_ns + 20 * MS]
    assert launches(triton.step(after_ms=19.999999)) == []
    assert launches(triton.step(after_ms=0.000001)) == [("a", 1)]


def test_after_the_delay_everything_that_fits_goes() -> None:
    triton = world("a", max_queue_delay_ns=20 * MS, preferred_batch_sizes=(2,))
    triton.arrive("a")
    triton.arrive("a")  # runs as a pair
    for _ in range(3):
        triton.arrive("a", slo_ms=500)
    assert launches(triton.finish(1, after_ms=25)) == [("a", 3)]  # not 2: the delay has passed


def test_a_batch_passes_over_no_request() -> None:
    triton = world("a")
    triton.arrive("a")
    for size in (3, 3, 1):
        triton.arrive("a", batch_size=size)
    assert ids(triton.finish(1, after_ms=1)) == [[2]]  # 2 and 4 would fill a batch; 3 stands between them
    assert ids(triton.finish(2, after_ms=1)) == [[3, 4]]


def test_the_model_that_has_waited_longest_gets_the_free_lane() -> None:
    triton = world("a", "b", "c", concurrency=1)
    triton.arrive("a")
    triton.arrive("c", slo_ms=900)
    triton.arrive("b", slo_ms=50)
    assert launches(triton.finish(1, after_ms=1)) == [("c", 1)]
