"""What the books keep of what waits and what runs is what would be worked out anew."""

import random

import pytest

from cotenant.runtime.estimates import BatchClass, EstimateTable
from cotenant.scheduler import backlog
from cotenant.scheduler import events as ev
from cotenant.scheduler.books import Device, Running
from worlds import MS, device_spec, estimate, model_spec, profiles

NOW = 1000 * MS
MODELS = ("a", "b", "c", "d")


def device() -> Device:
    made = Device(device_spec(concurrency=4), 1, EstimateTable(), NOW)
    for number, name in enumerate(MODELS):
        made.respecify(model_spec(name, batching=name != "d"))
        for profile in profiles(name, 5.0 + number):
            made.add_profile(profile)
    return made


def request(number: int, chance: random.Random) -> ev.Request:
    slo_ms = chance.choice((0, 20, 50, 50, 400))
    return ev.Request(number, 1, chance.choice(MODELS), "1", 1, NOW, NOW + slo_ms * MS if slo_ms else 0)


def running(batch_id: int, known: BatchClass, made: Device) -> Running:
    work_ns = made.work_ns(known)
    forecast = ev.Forecast(work_ns, work_ns, work_ns, 0.95)
    return Running(ev.Batch(batch_id, known, (), forecast), NOW, float(work_ns))


def latest_start_ns(made: Device) -> int:
    """Request by request."""
    waiting = [entry[4] for entry in made.line if entry[4].deadline_ns]
    return min((r.deadline_ns - made.solo_ns(BatchClass(r.model, "1", 1)) for r in waiting), default=0)


def behind_ns(made: Device, last: ev.Request) -> float:
    """Solo work ahead of a request and its own batch, with nothing running and all lanes wanted; request by request."""
    ahead = 0.0
    for _, _, number, queue, _ in made.line:
        items = min(queue.spec.max_batch_size, len(queue)) if queue.spec.batching else 1
        work = made.work_ns(queue.class_of(items))
        if number == last.request_id:
            return ahead + work * (made.bound_factor(queue.class_of(items), 0.95, 3) * 4 - 1.5)
        ahead += work / items
    raise AssertionError


def waits(made: Device, waiting: list[ev.Request]) -> None:
    """Checks all that is kept."""
    line = [entry[:3] for entry in made.line]
    assert line == sorted([made.queue_of(one).urgency_of(one) for one in waiting])
    heads = sorted([queue.urgency_at(0) for queue in made.queues.values()])
    assert [queue.urgency_at(0) for queue in made.heads()] == heads
    assert made.latest_start_ns() == latest_start_ns(made)
    if waiting and backlog.waiting_batches(made, 4) >= 4:
        asked = waiting[len(waiting) // 2]
        expected_ns = NOW + behind_ns(made, asked)
        assert backlog.finish_ns(made, asked, NOW, 0.95) == pytest.approx(expected_ns, abs=2.0)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_comes_and_goes_the_line_and_what_follows_from_it_are_right(seed: int) -> None:
    chance, made = random.Random(seed), device()
    waiting: list[ev.Request] = []
    for number in range(1, 300):
        step = chance.random()
        if step < 0.55 or not waiting:
            waiting.append(request(number, chance))
            made.enqueue(waiting[-1])
        elif step < 0.75:
            made.dequeue(waiting.pop(chance.randrange(len(waiting))))
        elif step < 0.95:
            queue = chance.choice(list(made.queues.values()))
            gone, _ = queue.batch_at(0)
            made.dequeue_first(queue, len(gone))
            waiting = [one for one in waiting if one not in gone]
        else:  # another solo time is believed
            known = BatchClass(chance.choice(MODELS), "1", chance.choice((1, 2, 4)))
            made.table.update([estimate(known.model, known.batch_size, chance.uniform(2, 30))], (), complete=False)
        waits(made, waiting)


def test_the_ends_that_were_forecast_of_a_launch_hold_until_something_changes() -> None:
    made = device()
    first, second = BatchClass("a", "1", 1), BatchClass("b", "1", 2)
    made.begin(running(1, first, made))
    forecast = made.finish_offsets(second, made.work_ns(second))
    made.begin(running(2, second, made))
    assert made.finish_offsets() == forecast
    afresh = device()
    afresh.begin(running(1, first, afresh))
    afresh.begin(running(2, second, afresh))
    assert afresh.finish_offsets() == forecast
    made.table.update([estimate("b", 2, 7.5, delay=4.0)], (), complete=False)
    assert made.finish_offsets() != forecast
    slowed = made.finish_offsets()
    made.advance(NOW + MS)
    assert made.finish_offsets() != slowed
    made.end(1)
    assert len(made.finish_offsets()) == 1


def test_what_is_forecast_in_an_instant_does_not_outlast_it_when_beliefs_change_before_anyone_asks() -> None:
    made = device()
    made.begin(running(1, BatchClass("a", "1", 1), made))
    second = BatchClass("b", "1", 2)
    forecast = made.finish_offsets(second, made.work_ns(second))
    made.begin(running(2, second, made))
    made.table.update([estimate("b", 2, 7.5, delay=4.0)], (), complete=False)
    assert made.finish_offsets() != forecast
