"""`goodput` by example: who runs beside whom, who waits, and who is refused."""

import msgspec
import pytest

from cotenant.cli.explain_why import why
from cotenant.runtime.estimates import BatchClass, ClassEstimate, PairCorrection, QuantileFactor
from cotenant.scheduler import backlog
from cotenant.scheduler import events as ev
from cotenant.scheduler.policies.goodput import EXPLORE, LOOK
from worlds import MS, World, launches, refusals

FACTOR_5 = QuantileFactor(0.95, 5.0)


def learned(name: str, work_ms: float, *, delay: float = 0.0, beside: dict[str, float] | None = None) -> ClassEstimate:
    """A class that is slowed by 1 + `delay` beside anyone, and by what is told more beside some."""
    pairs = tuple(PairCorrection(BatchClass(other, "1", 1), more) for other, more in (beside or {}).items())
    demand, weights = (0.1,) * 3, (delay,) + (0.0,) * 6
    return ClassEstimate(
        BatchClass(name, "1", 1), int(work_ms * MS), demand, weights, pairs, (QuantileFactor(0.95, 1.0),)
    )


def world(*known: ClassEstimate, concurrency: int = 2) -> World:
    made = World("goodput")
    made.join(*(one.batch_class.model for one in known), concurrency=concurrency, max_batch_size=1, batching=False)
    made.step(ev.EstimatesPushed("gpu-0", 1, classes=known))
    return made


def test_what_adds_to_the_devices_progress_runs_beside_others_and_what_adds_nothing_waits() -> None:
    sharing = world(learned("a", 10, delay=0.3), learned("b", 10, delay=0.3))
    assert launches(sharing.arrive("a", slo_ms=500)) == [("a", 1)]
    assert launches(sharing.arrive("b", slo_ms=500)) == [("b", 1)]  # 2 / 1.3 of the progress of one
    taking_turns = world(learned("a", 10, delay=1.2), learned("b", 10, delay=1.2))
    taking_turns.arrive("a", slo_ms=500)
    assert launches(taking_turns.arrive("b", slo_ms=500)) == []  # 2 / 2.2
    assert launches(taking_turns.finish(1, after_ms=10)) == [("b", 1)]


def test_what_adds_nothing_runs_all_the_same_when_it_is_pressing() -> None:
    taking_turns = world(learned("a", 10, delay=1.2), learned("b", 10, delay=1.2))
    taking_turns.arrive("a", slo_ms=500)
    assert launches(taking_turns.arrive("b", slo_ms=30)) == [("b", 1)]


def test_it_is_asked_again_when_what_adds_nothing_becomes_pressing() -> None:
    taking_turns = world(learned("long", 300, delay=1.2), learned("b", 10, delay=1.2))
    taking_turns.arrive("long", slo_ms=5000)
    waits = taking_turns.arrive("b", slo_ms=100)
    assert launches(waits) == []
    wake_ns = [a.at_ns for a in waits if isinstance(a, ev.WakeAt)][-1]
    # Beside the other it takes 22 ms and 1 to answer: half as much again before its deadline.
    assert wake_ns == taking_turns.now_ns + 100 * MS - int(1.5 * 23 * MS)
    assert launches(taking_turns.step(after_ms=(wake_ns - taking_turns.now_ns) / MS)) == [("b", 1)]


def test_of_those_that_wait_the_one_that_fits_best_runs_beside_what_runs() -> None:
    known = (
        learned("long", 40, delay=0.05, beside={"clashing": 0.8}),
        learned("clashing", 10, delay=0.05, beside={"long": 0.8}),
        learned("fitting", 10, delay=0.05),
    )
    made = world(*known)
    made.arrive("long", slo_ms=1000)
    made.step(made.request("clashing", slo_ms=400), made.request("fitting", slo_ms=500))
    assert [name for name, _ in launches(made.actions)] == ["fitting"]


def test_nothing_is_launched_past_a_more_urgent_one_that_could_then_be_late() -> None:
    known = (
        learned("long", 40, delay=0.05, beside={"urgent": 0.8}),
        learned("urgent", 10, delay=0.05, beside={"long": 0.8}),
        learned("fitting", 30, delay=0.05),
    )
    made = world(*known)
    made.arrive("long", slo_ms=1000)
    made.step(made.request("urgent", slo_ms=35), made.request("fitting", slo_ms=500))
    assert [name for name, _ in launches(made.actions)] == ["urgent"]


def test_so_many_queues_are_looked_at_and_no_more() -> None:
    clashing = {f"m{i}": learned(f"m{i}", 10, delay=1.5) for i in range(LOOK)}
    fitting = learned("fitting", 10, delay=0.05)
    made = world(learned("long", 40, delay=0.8), *clashing.values(), fitting)
    made.arrive("long", slo_ms=1000)
    made.step(*(made.request(name, slo_ms=400) for name in clashing), made.request("fitting", slo_ms=500))
    assert launches(made.actions) == []
    made.step(ev.RequestCancelled(2))
    assert launches(made.actions) == [("fitting", 1)]


def test_queues_that_may_not_launch_do_not_keep_others_from_being_looked_at() -> None:
    limited = [f"m{i}" for i in range(LOOK)]
    made = World("goodput")
    made.join(*limited, concurrency=2 * LOOK, max_instances=1, batching=False)
    made.load("free", batching=False)
    known = tuple(learned(name, 10, delay=0.05) for name in (*limited, "free"))
    made.step(ev.EstimatesPushed("gpu-0", 1, classes=known))
    made.step(*(made.request(name, slo_ms=400) for name in limited))
    made.step(*(made.request(name, slo_ms=400) for name in limited))  # each waits for its own to end
    assert len(made.core.waiting) == LOOK
    assert launches(made.arrive("free", slo_ms=1000)) == [("free", 1)]


def test_nobody_is_refused_who_may_still_make_it_and_everybody_as_soon_as_that_is_over() -> None:
    made = world(learned("a", 10), concurrency=1)
    assert refusals(made.arrive("a", slo_ms=10.5)) == [(1, ev.PREDICTED_MISS)]  # 10 ms of work and 1 ms to answer
    made.arrive("a", slo_ms=100)
    for _ in range(3):  # behind each other they need 40 ms: `edf` would refuse the last
        assert refusals(made.arrive("a", slo_ms=35)) == []
    assert refusals(made.step(after_ms=24)) == []
    assert refusals(made.step(after_ms=1)) == [
        (3, ev.EXPIRED_IN_QUEUE),
        (4, ev.EXPIRED_IN_QUEUE),
        (5, ev.EXPIRED_IN_QUEUE),
    ]


def slow_orders(made: World, ms: float) -> None:
    """Orders take this long from now on; the first batches of "a" were such."""
    for _ in range(9):
        batch_id = made.core.batches.next_id
        made.arrive("a", slo_ms=500)
        made.step(ev.BatchStarted("gpu-0", batch_id, made.now_ns + int(ms * MS)), after_ms=ms)
        made.finish(batch_id, after_ms=10)


def test_the_next_batch_is_ordered_so_early_that_it_begins_when_the_last_has_ended() -> None:
    made = world(learned("a", 10, delay=1.2), learned("b", 10, delay=1.2))  # nothing is gained by running both
    slow_orders(made, 3)
    made.arrive("a", slo_ms=500)
    waits = made.arrive("b", slo_ms=500)
    assert launches(waits) == []
    wake_ns = [a.at_ns for a in waits if isinstance(a, ev.WakeAt)][-1]
    assert wake_ns == made.now_ns + (10 - 3) * MS
    assert launches(made.step(after_ms=7)) == [("b", 1)]


def unsure(name: str, work_ms: float, factor: float) -> ClassEstimate:
    """A class that nobody slows, as is believed, but that may take `factor` times as long."""
    return msgspec.structs.replace(learned(name, work_ms), quantiles=(QuantileFactor(0.95, factor),))


def test_what_no_bound_would_let_go_goes_at_its_last_chance() -> None:
    made = world(unsure("long", 100, 1.0), unsure("a", 10, 5.0))
    made.arrive("long", slo_ms=1000)
    assert launches(made.arrive("a", slo_ms=20)) == [("a", 1)]  # behind the other it would be late; not so in the mean


def test_a_last_chance_is_not_taken_at_the_cost_of_others_or_before_it_is_the_last() -> None:
    made = world(unsure("other", 10, 1.0), unsure("a", 10, 5.0))
    made.arrive("other", slo_ms=1000)
    assert launches(made.arrive("a", slo_ms=25)) == []  # when the other has ended there is still time
    assert launches(made.finish(1, after_ms=10)) == [("a", 1)]
    harmful = learned("a", 10, delay=0.5, beside={"long": 1.0})
    made = world(learned("long", 100, beside={"a": 1.0}), msgspec.structs.replace(harmful, quantiles=(FACTOR_5,)))
    made.arrive("long", slo_ms=102)
    assert launches(made.arrive("a", slo_ms=40)) == []


def test_who_wants_to_be_sure_gets_a_refusal_in_the_place_of_a_chance() -> None:
    made = World("goodput", level=0.99)
    made.join("long", "a", max_batch_size=1, batching=False)
    known = [msgspec.structs.replace(one, quantiles=(QuantileFactor(0.99, 5.0),)) for one in (unsure("a", 10, 5.0),)]
    made.step(ev.EstimatesPushed("gpu-0", 1, classes=(unsure("long", 100, 1.0), *known)))
    made.arrive("long", slo_ms=1000)
    assert launches(made.arrive("a", slo_ms=40)) == []
    assert refusals(made.step(after_ms=31)) == [(2, ev.EXPIRED_IN_QUEUE)]


def crowd(level: float) -> list[tuple[str, int]]:
    """What four requests that came together are launched as, beside another that nobody slows."""
    made = World("goodput", level=level)
    made.join("long", "a", max_batch_size=4)
    sizes = {1: 10, 2: 14, 4: 20}
    known = [
        msgspec.structs.replace(
            learned("a", ms), batch_class=BatchClass("a", "1", size), quantiles=(QuantileFactor(level, 2.0),)
        )
        for size, ms in sizes.items()
    ]
    made.step(ev.EstimatesPushed("gpu-0", 1, classes=(unsure("long", 100, 1.0), *known)))
    made.arrive("long", slo_ms=1000)
    return launches(made.step(*(made.request("a", slo_ms=30) for _ in range(4))))


def test_a_batch_is_as_large_as_is_likely_to_be_in_time() -> None:
    assert crowd(0.95) == [("a", 4)]  # 20 ms, and 28 two times in three: its bound of 40 does not count
    assert crowd(0.99) == [("a", 2)]  # 28 at most


def crowded_world() -> World:
    """Batches of one that take 10 ms, one at a time; the second of two requests was just given up."""
    made = world(learned("a", 10), concurrency=1)
    made.arrive("a", slo_ms=100)
    made.arrive("a", slo_ms=20)
    assert [why for _, why in refusals(made.step(after_ms=9.1))] == [ev.EXPIRED_IN_QUEUE]
    return made


def crowd_of(made: World, count: int, slo_ms: float = 20, **more: object) -> list[list[tuple[int, str]]]:
    """Who is refused as requests arrive, each a moment after the one before."""
    return [refusals(made.step(made.request("a", slo_ms, **more), after_ms=0.01)) for _ in range(count)]


def test_in_a_crowd_who_joins_pushes_out_who_is_due_first() -> None:
    made = crowded_world()
    # Two of 10 ms and what runs for another 0.9 ms are more than the 20 that each has.
    assert crowd_of(made, 4) == [[], [(3, ev.PREDICTED_MISS)], [(4, ev.PREDICTED_MISS)], [(5, ev.PREDICTED_MISS)]]
    (message,) = [action.message for action in made.actions if isinstance(action, ev.Refuse)]
    assert "gave way to one that has more time left" in message
    made.restart_twin()  # what is crowded is part of the state
    assert crowd_of(made, 1) == [[(6, ev.PREDICTED_MISS)]]
    (launched,) = [a for a in made.finish(1, after_ms=0.9) if isinstance(a, ev.Launch)]
    assert [request.request_id for request in launched.batch.requests] == [7]


def test_before_one_was_given_up_and_a_while_after_nobody_is_pushed_out() -> None:
    made = world(learned("a", 10), concurrency=1)
    made.arrive("a", slo_ms=100)
    assert crowd_of(made, 5) == [[]] * 5
    made = crowded_world()
    made.finish(1, after_ms=0.9)
    made.step(after_ms=20)
    made.arrive("a", slo_ms=100)
    assert crowd_of(made, 5) == [[]] * 5


def test_nobody_pushes_out_another_priority_or_tenant_or_who_is_due_later() -> None:
    made = crowded_world()
    assert crowd_of(made, 2, priority=1) == [[], [(3, ev.PREDICTED_MISS)]]
    assert crowd_of(made, 1, priority=3) == [[]]
    assert crowd_of(made, 1, priority=3) == [[(5, ev.PREDICTED_MISS)]]
    assert crowd_of(made, 1, priority=1, tenant="other") == [[]]
    made = crowded_world()
    assert crowd_of(made, 2, slo_ms=100) == [[], []]
    assert crowd_of(crowded_world(), 2, slo_ms=25) == [[], []]  # the second will be answered after 22
    assert crowd_of(made, 1, slo_ms=11.5) == [[]]
    made = world(learned("long", 100), learned("a", 10), concurrency=1)  # late for what runs, not for who waits
    made.arrive("long", slo_ms=1000)
    made.arrive("a", slo_ms=20)
    assert [why for _, why in refusals(made.step(after_ms=10))] == [ev.EXPIRED_IN_QUEUE]
    assert crowd_of(made, 1) == [[]]
    assert crowd_of(made, 1, slo_ms=30) == [[]]
    made = World("goodput", observe_only=True)
    made.join("a", concurrency=1, max_batch_size=1, batching=False)
    made.step(ev.EstimatesPushed("gpu-0", 1, classes=(learned("a", 10),)))
    actions = made.step(*(made.request("a", 20) for _ in range(9))) + made.step(after_ms=30)
    for _ in range(9):
        actions += made.arrive("a", 20)
    assert refusals(actions) == []
    spared = [action.request_id for action in actions if isinstance(action, ev.WouldRefuse)]
    assert len(spared) == len(set(spared)) > 9


def test_nothing_is_risked_in_a_crowd() -> None:
    made = world(unsure("long", 100, 1.0), unsure("a", 10, 5.0))
    made.arrive("long", slo_ms=1000)
    assert launches(made.arrive("a", slo_ms=20)) == [("a", 1)]  # its last chance
    made.finish(2, after_ms=10)
    for core in (made.core, made.twin):
        core.devices["gpu-0"].crowded["a", "1", ""] = made.now_ns + 1
    assert launches(made.arrive("a", slo_ms=20)) == []
    for busy in (False, True):
        made = world(unsure("long", 100, 1.0), unsure("a", 10, 2.0))
        made.arrive("long", slo_ms=1000)
        for core in (made.core, made.twin):
            core.devices["gpu-0"].crowded["a", "1", ""] = made.now_ns + busy
        # 15 ms two times in three, 19 with more care; there is time for 17, and for a last chance when it is one
        assert launches(made.arrive("a", slo_ms=17)) == ([] if busy else [("a", 1)])


def test_who_is_not_likely_to_make_it_any_more_keeps_nobody_waiting() -> None:
    made = world(learned("a", 10), learned("b", 10), concurrency=1)
    for measured in (1, 5, 5):
        made.step(ev.AnswerOverheadMeasured(measured * MS))
    late = made.arrive("a", slo_ms=13)  # answers take 5 ms, but were seen to take 1
    assert (launches(late), refusals(late)) == ([], [])
    assert launches(made.arrive("b", slo_ms=100)) == [("b", 1)]


def test_what_is_believed_to_add_nothing_is_tried_now_and_then() -> None:
    made = world(learned("a", 10, delay=1.2), learned("b", 10, delay=1.2))
    together = 0
    for _ in range(2 * EXPLORE):
        first = made.core.batches.next_id
        made.arrive("a", slo_ms=500)
        if launches(made.arrive("b", slo_ms=500)):
            together += 1
            made.finish(first + 1)
        else:
            made.finish(first, after_ms=10)
            first += 1
        made.finish(first, after_ms=10)
    assert together >= 2
    assert together <= 4


def test_nothing_is_tried_where_there_is_no_room_for_being_wrong() -> None:
    made = world(learned("a", 10, delay=1.2), learned("b", 10, delay=1.2))
    for _ in range(2 * EXPLORE):
        first = made.core.batches.next_id
        made.arrive("a", slo_ms=30)  # 22 ms beside the other
        assert launches(made.arrive("b", slo_ms=60)) == []
        made.finish(first, after_ms=10)
        made.finish(first + 1, after_ms=10)


def test_a_request_goes_where_it_is_answered_first() -> None:
    made = World("goodput")
    for device in ("gpu-0", "gpu-1"):
        made.join("a", device=device, concurrency=1, batching=False)
    for _ in range(3):
        made.arrive("a", slo_ms=1000)
    placed = [made.core.places[request][0] for request in (1, 2, 3)]
    assert placed[:2] == ["gpu-0", "gpu-1"]
    made.finish(made.core.places[2][1], after_ms=9)
    assert made.core.places[3] == ("gpu-1", 3)  # it is idle, so it takes what waited
    made.arrive("a", slo_ms=1000)
    assert made.core.places[4][0] == "gpu-0"  # which will be free in a millisecond


def test_who_is_further_back_is_answered_later() -> None:
    made = world(learned("a", 10), learned("b", 20), concurrency=2)
    for i in range(6):
        made.arrive("ab"[i % 2], slo_ms=1000 + i)
    device = made.core.devices["gpu-0"]
    waiting = [entry[4] for entry in device.line if entry[3].key[0] == "a"]
    ends = [backlog.finish_ns(device, request, made.now_ns, 0.95) for request in waiting]
    assert ends == sorted(ends)
    assert len(set(ends)) == len(ends) == 2
    with pytest.raises(KeyError, match="elsewhere"):
        backlog.finish_ns(device, made.request("elsewhere").request, made.now_ns, 0.95)


def test_it_can_be_told_why_a_free_place_stayed_free() -> None:
    taking_turns = world(learned("a", 10, delay=1.2), learned("b", 10, delay=1.2))
    taking_turns.arrive("a", slo_ms=500)
    taking_turns.arrive("b", slo_ms=500)
    policy, device = taking_turns.core.policy, taking_turns.core.devices["gpu-0"]
    turn = policy.turn(device, taking_turns.now_ns)
    passed = why(policy, device, taking_turns.core.waiting[2], turn, taking_turns.now_ns, may_launch=True)
    assert "added nothing to what the device gets done" in passed.why
