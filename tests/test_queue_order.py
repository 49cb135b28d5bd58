"""In which order a device's queues are served: priorities hold, and nothing waits for ever for them."""

from hypothesis import given
from hypothesis import strategies as st

from cotenant.scheduler import events as ev
from cotenant.scheduler.queues import PATIENCE_NS, Queue
from worlds import MS, World, launches, model_spec

KEY = ("a", "1", "")


def request(number: int, priority: int, deadline_ns: int, arrival_ns: int = 1) -> ev.Request:
    return ev.Request(number, 1, "a", "1", 1, arrival_ns, deadline_ns, priority)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 10**15), st.integers(0, 12 * PATIENCE_NS))
def test_priority_goes_before_what_is_due_not_much_earlier_and_age_before_priority(
    low: int, high: int, due_ns: int, later_ns: int
) -> None:
    """`due_ns` is when the less urgent of two is due, and the other so much later."""
    low, high = max(low, high), min(low, high)
    queue = Queue(KEY, model_spec("a"))
    old, new = request(1, low, due_ns), request(2, high, due_ns + later_ns)
    new_first = queue.urgency_of(new) < queue.urgency_of(old)
    if low == high:
        assert not new_first
    elif later_ns <= PATIENCE_NS * (2 * (low - high) - 1):
        assert new_first
    elif later_ns > PATIENCE_NS * (2 * (low - high) + 1):
        assert not new_first


def test_a_request_without_a_deadline_and_of_low_priority_runs_at_last_under_a_load_that_never_ends() -> None:
    world = World("goodput")
    world.join("a", concurrency=1, batching=False, max_batch_size=1)
    world.load("b")
    for _ in range(3):
        world.arrive("a", 300.0, priority=1)
    world.arrive("b", 0.0, priority=3)
    waited_ms = 0.0
    while not any(launch == ("b", 1) for launch in launches(world.actions)):
        assert waited_ms < 60_000
        world.arrive("a", 300.0, priority=1)  # there is always one more of them
        world.finish(min(world.ran), after_ms=40.0)
        waited_ms += 40.0
    assert waited_ms > 10_000


def test_one_that_fills_a_gap_gives_way() -> None:
    """Best effort runs where nothing else waits, and goes last where something does."""
    world = World("goodput")
    world.join("a", concurrency=1, batching=False, max_batch_size=1)
    world.load("b", batching=False, max_batch_size=1)
    assert launches(world.arrive("b", 0.0)) == [("b", 1)]
    world.arrive("b", 0.0)
    world.arrive("a", 500.0)
    assert launches(world.finish(1, after_ms=10)) == [("a", 1)]
    assert launches(world.finish(2, after_ms=10)) == [("b", 1)]
    assert world.now_ns > MS
