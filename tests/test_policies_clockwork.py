"""The baseline `clockwork`: exclusive, by the longest of the last ten, and nothing late is run."""

import msgspec

from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler import events as ev
from cotenant.scheduler import snapshot
from cotenant.scheduler.books import Device
from cotenant.scheduler.policies import POLICIES
from worlds import MS, World, estimate, launches, profiles, refusals

A1 = BatchClass("a", "1", 1)


def world(*models: str, work_ms: float = 10.0) -> World:
    made = World("clockwork")
    made.join(*models, concurrency=4, work_ms=work_ms)
    return made


def books(made: World) -> Device:
    return made.core.devices["gpu-0"]


def launched(actions: list[ev.Action]) -> ev.Batch:
    (launch,) = [a for a in actions if isinstance(a, ev.Launch)]
    return launch.batch


def run(made: World, took_ms: float, beside: tuple[BatchClass, ...] = ()) -> float:
    """One request of `a` that takes so long; what was predicted for it, in ms."""
    batch = launched(made.arrive("a", slo_ms=1000))
    made.finish(batch.batch_id, after_ms=took_ms, took_ms=took_ms, beside=beside)
    return batch.forecast.duration_ns / MS


def test_batches_never_overlap() -> None:
    clockwork = world("a", "b")
    free = [estimate(name, 1, 10) for name in ("a", "b")]  # nothing would slow anything
    clockwork.step(ev.EstimatesPushed("gpu-0", 1, True, tuple(free)))
    assert launches(clockwork.arrive("a", slo_ms=1000)) == [("a", 1)]
    assert launches(clockwork.arrive("b", slo_ms=1000)) == []
    assert launches(clockwork.finish(1, after_ms=10)) == [("b", 1)]


def test_a_duration_is_the_longest_of_the_last_ten_and_the_profile_before() -> None:
    clockwork = world("a")
    assert [run(clockwork, took) for took in (12, 8, 8)] == [10, 12, 12]
    assert [run(clockwork, 8) for _ in range(7)] == [12] * 7  # nine of 8 ms since
    assert run(clockwork, 8) == 12
    assert run(clockwork, 8) == 8  # the eleventh


def test_estimates_of_a_predictor_are_not_asked() -> None:
    clockwork = world("a")
    clockwork.step(ev.EstimatesPushed("gpu-0", 1, True, (estimate("a", 1, 50),)))
    assert run(clockwork, 10) == 10


def test_only_batches_that_ran_alone_and_well_are_measurements() -> None:
    clockwork = world("a")
    run(clockwork, 30, beside=(A1,))
    assert books(clockwork).solo_runs == {}
    batch = launched(clockwork.arrive("a", slo_ms=1000))
    del clockwork.ran[batch.batch_id]
    failed = ev.BatchFinished("gpu-0", batch.batch_id, clockwork.now_ns, 1, 9, A1, failed=True)
    clockwork.step(failed)
    assert books(clockwork).solo_runs == {}


def test_what_would_be_late_is_refused_on_arrival_even_behind_what_runs() -> None:
    clockwork = world("a")
    assert refusals(clockwork.arrive("a", slo_ms=10)) == [(1, ev.PREDICTED_MISS)]  # 10 ms of work and 1 to answer
    assert launches(clockwork.arrive("a", slo_ms=11)) == [("a", 1)]
    assert refusals(clockwork.arrive("a", slo_ms=20)) == [(3, ev.PREDICTED_MISS)]  # it would begin in 10 ms
    assert refusals(clockwork.arrive("a", slo_ms=21)) == []
    assert launches(clockwork.finish(1, after_ms=10, took_ms=10)) == [("a", 1)]


def test_what_became_late_in_the_queue_is_refused_and_never_runs() -> None:
    clockwork = world("a")
    clockwork.arrive("a", slo_ms=100)
    clockwork.arrive("a", slo_ms=40)
    assert refusals(clockwork.step(after_ms=29)) == []
    assert refusals(clockwork.step(after_ms=0.000001)) == [(2, ev.EXPIRED_IN_QUEUE)]
    assert launches(clockwork.finish(1)) == []


def test_the_largest_batch_that_meets_the_deadline_goes() -> None:
    clockwork = world("a")  # one takes 10 ms, two 15, three 20, four 25
    clockwork.arrive("a", slo_ms=100)
    for _ in range(4):
        clockwork.arrive("a", slo_ms=32)
    assert launches(clockwork.finish(1, after_ms=10, took_ms=10)) == [("a", 3)]


def test_what_must_begin_first_goes_first() -> None:
    clockwork = world("a")
    clockwork.load("b", work_ms=60)
    clockwork.arrive("a")
    clockwork.arrive("a", slo_ms=100)
    clockwork.arrive("b", slo_ms=110)  # later deadline, but it must begin in 49 ms
    batch = launched(clockwork.finish(1, after_ms=10, took_ms=10))
    assert batch.batch_class.model == "b"
    assert batch.latest_start_ns == clockwork.now_ns - 10 * MS + 49 * MS


def test_what_cannot_wait_for_the_batch_that_goes_first_is_refused_at_once() -> None:
    clockwork = world("a")
    clockwork.load("b", work_ms=60)
    clockwork.arrive("a")
    clockwork.arrive("b", slo_ms=81)  # must begin in 20 ms
    clockwork.arrive("a", slo_ms=35)  # in 24, and would alone be in time for another 14
    actions = clockwork.finish(1, after_ms=10, took_ms=10)
    assert launches(actions) == [("b", 1)]
    assert refusals(actions) == [(3, ev.EXPIRED_IN_QUEUE)]


def test_measurements_survive_a_snapshot_and_end_with_the_model() -> None:
    clockwork = world("a", "b")
    run(clockwork, 12)
    kept = msgspec.json.decode(msgspec.json.encode(snapshot.take(clockwork.core)), type=snapshot.Snapshot)
    restored = snapshot.restore(kept, POLICIES["clockwork"](0.95))
    assert restored.devices["gpu-0"].solo_runs == {A1: (12 * MS,)}
    clockwork.step(ev.ModelUnloaded("gpu-0", "b", "1"))
    assert books(clockwork).solo_runs == {A1: (12 * MS,)}
    clockwork.step(ev.ModelUnloaded("gpu-0", "a", "1"))
    assert books(clockwork).solo_runs == {}


def test_a_new_profile_replaces_what_was_measured_before() -> None:
    clockwork = world("a")
    run(clockwork, 12)
    clockwork.step(*(ev.ClassProfiled("gpu-0", p) for p in profiles("a", 5.0)))
    assert run(clockwork, 5) == 5
