"""The core by example: events in, actions out."""

from typing import Any

import msgspec
import pytest

from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler import events as ev
from worlds import MS, World, device_spec, estimate, launches, model_spec, refusals


def test_a_request_on_an_idle_device_is_launched_at_once() -> None:
    world = World()
    world.join("a")
    arrived = world.request("a")
    actions = world.step(arrived)
    assert launches(actions) == [("a", 1)]
    assert ev.Assign(1, 1, "gpu-0") in actions
    launch = next(a for a in actions if isinstance(a, ev.Launch))
    assert launch.batch.forecast.work_ns == 10 * MS
    # It may start until its mean would miss: 100 ms budget, 10 ms of work, 1 ms to answer.
    assert launch.batch.latest_start_ns == world.now_ns + 89 * MS


def test_what_arrives_together_is_decided_together() -> None:
    world = World()
    world.join("a")
    actions = world.step(*(world.request("a") for _ in range(4)))
    assert launches(actions) == [("a", 4)]


def test_a_request_waits_while_the_device_is_full_and_batches_meanwhile() -> None:
    world = World()
    world.join("a", concurrency=1)
    assert launches(world.arrive("a")) == [("a", 1)]
    assert launches(world.arrive("a")) == launches(world.arrive("a")) == []
    assert launches(world.finish(1, after_ms=10)) == [("a", 2)]


def test_a_model_without_batching_runs_each_request_alone() -> None:
    world = World()
    world.join("a", concurrency=1, batching=False)
    world.arrive("a")
    world.arrive("a")
    world.arrive("a")
    assert launches(world.finish(1, after_ms=10)) == [("a", 1)]


def test_what_cannot_make_it_even_alone_is_refused_at_once_with_when_it_would_have_been() -> None:
    world = World()
    world.join("a")
    actions = world.arrive("a", slo_ms=5)
    (refusal,) = [a for a in actions if isinstance(a, ev.Refuse)]
    assert refusal.reason == ev.PREDICTED_MISS
    assert refusal.predicted_finish_ns == refusal.earliest_possible_ns == world.now_ns + 11 * MS
    assert "6.0 ms late" in refusal.message
    assert launches(actions) == []


def test_what_cannot_make_it_behind_the_others_is_refused_at_once() -> None:
    world = World()
    world.join("a", concurrency=1, batching=False)
    outcomes = [refusals(world.arrive("a", slo_ms=35)) for _ in range(5)]
    admitted = [not outcome for outcome in outcomes]
    assert admitted[0]
    assert not admitted[-1]
    assert admitted == sorted(admitted, reverse=True)
    # Those that were admitted all make it, one after another.
    for batch_id in range(1, sum(admitted) + 1):
        assert refusals(world.finish(batch_id, after_ms=10)) == []
    assert not world.core.waiting


def test_a_late_deadline_does_not_push_out_one_that_was_promised() -> None:
    world = World()
    world.join("a", concurrency=1, batching=False)
    world.arrive("a", slo_ms=100)  # runs
    world.arrive("a", slo_ms=24)  # can just make it as the next
    (refusal,) = [a for a in world.arrive("a", slo_ms=23.5) if isinstance(a, ev.Refuse)]
    assert "would make 1 admitted" in refusal.message


def test_what_became_late_in_the_queue_is_refused_when_it_is_certain_and_never_runs() -> None:
    world = World()
    world.join("a", concurrency=1)
    world.arrive("a", slo_ms=100)
    actions = world.arrive("a", slo_ms=40)
    wake = [a.at_ns for a in actions if isinstance(a, ev.WakeAt)][-1]
    assert wake == world.now_ns + 29 * MS + 1  # the last instant at which 10 ms of work and 1 ms to answer fit
    assert refusals(world.step(after_ms=29)) == []
    assert refusals(world.step(after_ms=0.000001)) == [(2, ev.EXPIRED_IN_QUEUE)]
    assert launches(world.finish(1)) == []


def test_the_most_urgent_goes_first_and_priority_goes_before_deadline() -> None:
    def first(*requests: tuple[str, float, int], **spec: Any) -> str:
        world = World()
        world.join("a", "b", concurrency=1, **spec)
        world.arrive("a")
        world.step(*(world.request(model, slo_ms, priority=priority) for model, slo_ms, priority in requests))
        return launches(world.finish(1, after_ms=5))[0][0]

    assert first(("a", 90, 0), ("b", 80, 0)) == "b"
    assert first(("a", 90, 1), ("b", 80, 0)) == "a"  # 1 is the most urgent, 0 the default
    assert first(("a", 90, 0), ("b", 80, 3)) == "a"
    assert first(("a", 90, 1), ("b", 80, 2), priority_levels=4, default_priority=3) == "a"
    assert first(("a", 90, 0), ("b", 80, 9), priority_levels=4) == "b"  # beyond the levels: the default


def test_a_batch_is_not_launched_where_it_would_make_a_running_one_late() -> None:
    world = World()
    world.join("a", "b")
    slow = [estimate("a", 1, 10, delay=1.0), estimate("b", 1, 10, delay=1.0)]
    world.step(ev.EstimatesPushed("gpu-0", 1, True, tuple(slow)))
    world.arrive("a", slo_ms=14)  # alone it ends at 10 ms; beside b it would end at 20
    assert launches(world.arrive("b", slo_ms=100)) == []
    assert launches(world.finish(1, after_ms=10)) == [("b", 1)]


def test_batches_that_do_not_harm_each_other_run_together() -> None:
    world = World()
    world.join("a", "b")
    light = [estimate("a", 1, 10, delay=0.1), estimate("b", 1, 10, delay=0.1)]
    world.step(ev.EstimatesPushed("gpu-0", 1, True, tuple(light)))
    world.arrive("a", slo_ms=14)
    actions = world.arrive("b", slo_ms=100)
    assert launches(actions) == [("b", 1)]
    forecast = next(a for a in actions if isinstance(a, ev.Launch)).batch.forecast
    assert forecast.co_runner_count == 1
    assert forecast.estimates_version == 1
    # Beside a, slowed 1.1 times, until both end.
    assert forecast.duration_ns == pytest.approx(11 * MS, rel=1e-6)


def test_a_smaller_batch_is_taken_where_the_largest_would_be_late() -> None:
    world = World()
    world.join("a", concurrency=1)
    world.arrive("a", slo_ms=200)
    for _ in range(4):
        world.arrive("a", slo_ms=30)
    # At 10 ms: four take 25 ms (31 by the cold bound), two take 15; 20 ms are left less 1 to answer.
    assert launches(world.finish(1, after_ms=10)) == [("a", 2)]


def test_a_queue_delay_waits_for_a_fuller_batch_but_never_past_the_last_safe_start() -> None:
    world = World()
    world.join("a", max_queue_delay_ns=20 * MS)
    assert launches(world.arrive("a", slo_ms=200)) == []
    assert launches(world.arrive("a", slo_ms=200)) == []
    assert launches(world.step(after_ms=19.9)) == []
    assert launches(world.step(after_ms=0.2)) == [("a", 2)]
    assert launches(world.step(*(world.request("a") for _ in range(4)))) == [("a", 4)]  # full: no reason to wait
    world = World()
    world.join("a", max_queue_delay_ns=20 * MS)
    assert launches(world.arrive("a", slo_ms=20)) == []
    # 10 ms of work with the cold factor 1.25, 1 ms to answer: 6.5 ms is the last safe start.
    assert launches(world.step(after_ms=6.6)) == [("a", 1)]


def test_instance_counts_limit_a_model_but_not_the_device() -> None:
    world = World()
    world.join("a", "b", concurrency=3, max_instances=1, batching=False)
    world.arrive("a", slo_ms=500)
    assert launches(world.arrive("a", slo_ms=500)) == []
    assert launches(world.arrive("b", slo_ms=500)) == [("b", 1)]


def test_a_class_of_unknown_work_runs_alone_once() -> None:
    world = World()
    world.join("a")
    world.step(ev.ModelLoaded("gpu-0", model_spec("new"), 1))
    world.arrive("a", slo_ms=500)
    assert launches(world.arrive("new", slo_ms=500)) == []
    assert launches(world.arrive("a", slo_ms=500)) == []  # the device empties for it
    assert launches(world.finish(1, after_ms=10)) == [("new", 1)]


def test_requests_without_a_deadline_are_served_and_age() -> None:
    world = World()
    world.join("a", "b", concurrency=1)
    world.arrive("a", slo_ms=0)
    world.arrive("b", slo_ms=0)
    world.step(after_ms=9_950)
    world.arrive("a", slo_ms=100)  # b has waited almost its ten seconds of patience
    assert launches(world.finish(1)) == [("b", 1)]


def test_queue_limits_of_model_and_service() -> None:
    world = World(max_pending=3)
    world.join("a", concurrency=1, max_queue_size=2)
    world.arrive("a", slo_ms=500)
    world.arrive("a", slo_ms=500)
    world.arrive("a", slo_ms=500)
    assert refusals(world.arrive("a", slo_ms=500)) == [(4, ev.QUEUE_FULL)]
    world.load("b")
    world.arrive("b", slo_ms=500)
    assert refusals(world.arrive("b", slo_ms=500)) == [(6, ev.QUEUE_FULL)]


def test_a_cancelled_request_frees_its_place_and_a_running_one_runs_out() -> None:
    world = World()
    world.join("a", concurrency=1)
    world.arrive("a")
    world.arrive("a")
    assert refusals(world.step(ev.RequestCancelled(2))) == [(2, ev.CANCELLED)]
    assert refusals(world.step(ev.RequestCancelled(1), ev.RequestCancelled(77))) == []
    assert launches(world.finish(1)) == []


def test_a_device_with_nothing_to_do_takes_over_what_waits_for_a_busy_one() -> None:
    world = World()
    world.join("a", concurrency=1, batching=False)
    world.arrive("a", slo_ms=500)
    world.arrive("a", slo_ms=500)
    world.arrive("a", slo_ms=500)
    world.step(ev.DeviceJoined(device_spec("gpu-1", 1), 1))
    world.load("a", device="gpu-1", batching=False)
    assert [(type(a).__name__, a.device_id) for a in world.actions if isinstance(a, (ev.Assign, ev.Launch))] == [
        ("Assign", "gpu-1"),
        ("Launch", "gpu-1"),
    ]
    assert launches(world.finish(2, after_ms=1)) == [("a", 1)]  # and the last one too


def test_a_request_submitted_again_is_not_run_twice() -> None:
    world = World()
    world.join("a", concurrency=1)
    first, second = world.request("a"), world.request("a")
    world.step(first, second)
    again = [ev.RequestArrived(msgspec.structs.replace(r.request, attempt=2)) for r in (first, second)]
    assert launches(world.step(*again)) == []
    assert len(world.core.places) == 2


def test_unknown_models_are_refused_once_executors_had_time_to_come() -> None:
    world = World()
    assert world.arrive("a", slo_ms=0) == [ev.WakeAt(world.now_ns + 2000 * MS)]
    assert refusals(world.step(after_ms=2000)) == [(1, ev.MODEL_UNAVAILABLE)]
    assert refusals(world.arrive("a")) == [(2, ev.MODEL_UNAVAILABLE)]


def test_after_a_start_requests_wait_for_their_executor() -> None:
    world = World()
    world.arrive("a", slo_ms=0)
    world.arrive("a", slo_ms=0)
    assert refusals(world.step(ev.RequestCancelled(2))) == [(2, ev.CANCELLED)]
    world.join("a")
    assert list(world.ran) == [1]


def test_a_lost_device_hands_its_requests_to_another_or_refuses_them() -> None:
    world = World()
    world.join("a", concurrency=1)
    world.arrive("a")
    world.join("a", device="gpu-1", concurrency=1)
    world.arrive("a")
    world.arrive("a")
    world.ran.clear()
    world.step(ev.DeviceLost("gpu-0", 1))
    assert {r.request_id for q in world.core.devices["gpu-1"].queues.values() for r in q} == {1, 3}
    assert {r.attempt for q in world.core.devices["gpu-1"].queues.values() for r in q} == {1, 2}
    world.ran.clear()
    lost = refusals(world.step(ev.DeviceLost("gpu-1", 1)))
    assert sorted(lost) == [(request_id, ev.EXECUTOR_LOST) for request_id in (1, 2, 3)]


def test_what_must_not_run_twice_is_refused_when_its_device_is_lost() -> None:
    world = World()
    world.join("a", idempotent=False)
    world.join("a", device="gpu-1", idempotent=False)
    world.arrive("a")
    running_on = next(a.device_id for a in world.actions if isinstance(a, ev.Launch))
    assert refusals(world.step(ev.DeviceLost(running_on, 1))) == [(1, ev.EXECUTOR_LOST)]


def test_a_blip_resumes_and_a_new_incarnation_fences_the_old() -> None:
    world = World()
    world.join("a", concurrency=1)
    world.arrive("a")
    world.step(ev.DeviceSuspended("gpu-0", 1))
    assert launches(world.arrive("a")) == []
    held = world.ran[1].batch
    assert (
        launches(world.step(ev.DeviceJoined(device_spec(concurrency=1), 1, held=(held,), held_started_ns=(0,)))) == []
    )
    assert launches(world.finish(1, after_ms=5)) == [("a", 1)]
    world.ran.clear()
    # It died and is back without models: nothing serves what ran.
    assert refusals(world.step(ev.DeviceJoined(device_spec(), 2))) == [(2, ev.EXECUTOR_LOST)]
    world.load("a")
    world.arrive("a")
    before = dict(world.core.devices["gpu-0"].running)
    world.step(ev.BatchFinished("gpu-0", 2, world.now_ns, 0, 1, BatchClass("a", "1", 1)), ev.DeviceLost("gpu-0", 1))
    assert world.core.devices["gpu-0"].running == before


def test_a_launch_lost_in_a_blip_is_ordered_again() -> None:
    world = World()
    world.join("a")
    world.arrive("a", slo_ms=500)
    world.step(ev.DeviceSuspended("gpu-0", 1))
    world.ran.clear()
    actions = world.step(ev.DeviceJoined(device_spec(), 1))
    assert launches(actions) == [("a", 1)]
    assert next(a for a in actions if isinstance(a, ev.Launch)).batch.requests[0].attempt == 2


def test_a_new_scheduler_rebuilds_from_what_executors_hold_in_any_order() -> None:
    old = World()
    old.join("a")
    old.arrive("a")
    held = old.ran[1].batch
    joined = ev.DeviceJoined(device_spec(), 1, (model_spec("a"),), (0,), held=(held,), held_started_ns=(old.now_ns,))
    for order in ("executor first", "frontend first"):
        world = World()
        world.now_ns = old.now_ns + 4 * MS
        again = ev.RequestArrived(msgspec.structs.replace(held.requests[0], attempt=2))
        for event in (joined, again) if order == "executor first" else (again, joined):
            assert launches(world.step(event)) == []
            assert refusals(world.actions) == []
        assert world.core.devices["gpu-0"].running[1].remaining_ns == pytest.approx(6 * MS)
        assert world.core.batches.next_id == 2


def test_a_dropped_launch_is_placed_again_and_missing_inputs_are_told() -> None:
    world = World()
    world.join("a")
    world.step(world.request("a", 500), world.request("a", 500))
    world.ran.clear()
    actions = world.step(ev.BatchDropped("gpu-0", 1, world.now_ns, "INPUTS_MISSING", (2,)))
    assert refusals(actions) == [(2, ev.INPUTS_MISSING)]
    assert launches(actions) == [("a", 1)]


def test_a_batch_that_failed_as_a_whole_is_tried_request_by_request() -> None:
    world = World()
    world.join("a", concurrency=4)
    world.step(*(world.request("a", 500) for _ in range(3)))
    world.ran.clear()
    actions = world.step(ev.BatchDropped("gpu-0", 1, world.now_ns, ev.EXECUTION_FAILED))
    assert launches(actions) == [("a", 1), ("a", 1), ("a", 1)]


def test_observe_only_lets_through_what_it_would_refuse_and_says_so_once() -> None:
    world = World(observe_only=True)
    world.join("a", concurrency=1)
    world.arrive("a", slo_ms=100)
    actions = world.arrive("a", slo_ms=5)
    assert [a.reason for a in actions if isinstance(a, ev.WouldRefuse)] == [ev.PREDICTED_MISS]
    assert refusals(actions) == []
    assert not [a for a in world.step(after_ms=50) if isinstance(a, ev.WouldRefuse)]
    assert launches(world.finish(1)) == [("a", 1)]


def test_draining_refuses_what_is_new_and_finishes_what_was_admitted() -> None:
    world = World()
    world.join("a", concurrency=1)
    world.arrive("a")
    world.arrive("a")
    world.step(ev.DrainRequested())
    assert refusals(world.arrive("a")) == [(3, ev.SHUTTING_DOWN)]
    assert launches(world.finish(1, after_ms=10)) == [("a", 1)]


def test_the_margin_for_answers_follows_what_is_usual() -> None:
    world = World()
    world.join("a")
    world.step(ev.AnswerOverheadMeasured(8 * MS))
    assert refusals(world.arrive("a", slo_ms=17)) == [(1, ev.PREDICTED_MISS)]
    for _ in range(3):
        world.step(ev.AnswerOverheadMeasured(2 * MS))
    assert world.core.margin.overhead_ns == 2 * MS
    assert refusals(world.arrive("a", slo_ms=17)) == []


def test_a_hiccup_of_a_host_refuses_nobody() -> None:
    world = World("goodput")
    world.join("a")
    for _ in range(3):
        world.step(ev.AnswerOverheadMeasured(2 * MS))
    world.step(ev.AnswerOverheadMeasured(90 * MS))
    assert launches(world.arrive("a", slo_ms=50)) == [("a", 1)]


def test_only_what_is_sure_to_be_late_is_refused_where_answers_take_now_this_now_that() -> None:
    world = World("goodput")
    world.join("a", concurrency=1)
    for measured in (3, 30, 30, 30):
        world.step(ev.AnswerOverheadMeasured(measured * MS))
    assert (world.core.margin.overhead_ns, world.core.margin.least_ns) == (30 * MS, 3 * MS)
    assert refusals(world.arrive("a", slo_ms=25)) == []  # 10 ms of work and 3 to answer
    assert refusals(world.arrive("a", slo_ms=12)) == [(2, ev.PREDICTED_MISS)]


def test_an_order_takes_what_the_last_ones_took() -> None:
    world = World("goodput")
    world.join("a", concurrency=1)
    for batch_id in (1, 2, 3):
        world.arrive("a", slo_ms=500)
        world.step(ev.BatchStarted("gpu-0", batch_id, world.now_ns + 4 * MS), after_ms=5)
        world.restart_twin()
        world.finish(batch_id, after_ms=10)
    assert world.core.devices["gpu-0"].order_ns == 4 * MS
    [launched] = [action for action in world.arrive("a", slo_ms=500) if isinstance(action, ev.Launch)]
    # It is dropped by its executor only where it could not be in time however fast everything is.
    assert launched.batch.latest_start_ns == world.now_ns + (500 - 10 - 1) * MS


def test_a_margin_measured_under_overload_does_not_refuse_for_ever() -> None:
    world = World()
    world.join("a")
    world.step(ev.AnswerOverheadMeasured(200 * MS))
    assert refusals(world.arrive("a", slo_ms=50)) == [(1, ev.PREDICTED_MISS)]
    refused = 1
    while refusals(world.arrive("a", slo_ms=50)):
        refused += 1
        assert refused < 20
        world.step(after_ms=500)
    assert refused > 5  # it is believed for a while


def test_an_illegal_event_changes_nothing() -> None:
    world = World()
    world.join("a")
    with pytest.raises(KeyError):
        world.core.handle(world.now_ns, [object()])  # type: ignore[list-item]


def test_a_model_that_is_loaded_again_with_other_priorities_keeps_what_waits() -> None:
    world = World()
    world.join("a", concurrency=1, priority_levels=2, default_priority=2)
    world.arrive("a", slo_ms=500)  # runs
    ordinary, urgent = world.request("a", slo_ms=300), world.request("a", slo_ms=400, priority=1)
    world.step(ordinary, urgent)
    device = world.core.devices["gpu-0"]
    assert next(iter(device.queues.values())).head.request_id == 3
    world.load("a", priority_levels=1, default_priority=1)  # one level: deadlines alone count
    assert [request.request_id for request in next(iter(device.queues.values()))] == [2, 3]
    assert launches(world.finish(1, after_ms=10)) == [("a", 2)]
    assert not device.line
