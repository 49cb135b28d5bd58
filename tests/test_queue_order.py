"""In which order a device's queues are served: priorities hold, and nothing waits for ever for them."""

from typing import Any

from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from cotenant.inference import inference_pb2
from cotenant.scheduler import codec
from cotenant.scheduler import events as ev
from cotenant.scheduler.queues import PATIENCE_NS, Queue
from worlds import MS, World, launches, model_spec, refusals

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


def test_each_level_of_priority_has_a_queue_of_its_own_size() -> None:
    """Levels with a policy of their own have its size, the others the default's; 0 is as many as come."""
    world = World("edf")
    levels: dict[str, Any] = {"priority_levels": 3, "default_priority": 2, "max_queue_size": 2}
    levels["queue_sizes"] = {1: 1, 3: 0}
    world.join("a", concurrency=1, batching=False, work_ms=1.0, **levels)
    world.arrive("a", slo_ms=0)  # runs
    refused = {
        priority: [bool(refusals(world.arrive("a", slo_ms=0, priority=priority))) for _ in range(4)]
        for priority in (1, 2, 3, 9)
    }
    assert refused[1] == [False, True, True, True]
    assert refused[2] == [False, False, True, True]
    assert refused[3] == [False] * 4
    assert refused[9] == [True] * 4  # there is no such level: it counts as the default's


def test_queue_sizes_follow_from_the_configuration() -> None:
    text = """
      name: "m" max_batch_size: 4 dynamic_batching { priority_levels: 2 default_priority_level: 2
        default_queue_policy { max_queue_size: 5 }
        priority_queue_policy [{ key: 1 value { max_queue_size: 9 } }, { key: 2 value { } }] }
    """
    spec = codec.model_spec(text_format.Parse(text, inference_pb2.ModelConfig()).SerializeToString(), "1")
    assert (spec.max_queue_size, spec.queue_sizes) == (5, {1: 9, 2: 0})
