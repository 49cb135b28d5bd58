"""Bounds while nobody learns: they widen until as many batches end within as were promised, and recover."""

import random

import msgspec
import pytest

from cotenant.scheduler import events as ev
from cotenant.scheduler import snapshot
from cotenant.scheduler.policies import POLICIES
from cotenant.scheduler.widening import MOST, STALE_NS, Widening
from worlds import MS, World, estimate

S = 1_000_000_000


def coverage(widening: Widening, median: float, *, batches: int = 20_000) -> float:
    """The share of the last batches that ended within; their durations spread round `median` times the forecast."""
    drawn, within, now_ns = random.Random(1), 0, S
    for i in range(batches):
        now_ns += 10 * MS
        held = drawn.lognormvariate(0.0, 0.1) * median <= 1.18 * widening.applied  # 1.18: 95 % at a median of 1
        widening.ended(now_ns, 0.95, within=held)
        within += held and i >= batches // 2
    return within / (batches // 2)


@pytest.mark.parametrize("median", [0.8, 1.0, 1.3, 2.0])
def test_bounds_keep_their_promise_whatever_has_become_of_the_device(median: float) -> None:
    widening = Widening()
    assert coverage(widening, median) >= 0.94
    assert widening.applied < 1.3 * max(1.0, median)  # and are no wider than that takes


def test_while_somebody_learns_nothing_is_widened_and_estimates_end_it() -> None:
    widening, now_ns = Widening(), S
    for _ in range(100):
        now_ns += STALE_NS // 2
        widening.ended(now_ns, 0.95, within=False)
        widening.learned()
    assert widening.applied == 1.0
    for _ in range(100):
        now_ns += STALE_NS
        widening.ended(now_ns, 0.95, within=False)
    assert widening.factor == MOST
    widening.learned()
    assert (widening.applied, widening.since_ns) == (1.0, 0)


def slower(world: World, batches: int) -> list[ev.Forecast]:
    """Batches that run one after the other, each half as long again as is believed; what each was launched on."""
    told: list[ev.Forecast] = []
    for _ in range(batches):
        actions = world.arrive("a", 0)
        (launch,) = [action for action in actions if isinstance(action, ev.Launch)]
        told.append(launch.batch.forecast)
        world.finish(launch.batch.batch_id, after_ms=50, took_ms=15)
    return told


@pytest.mark.parametrize("policy", ["goodput", "edf"])
def test_estimates_that_grow_old_on_a_device_that_slowed_down_widen_and_recover(policy: str) -> None:
    world = World(policy)
    world.join("a")
    push = ev.EstimatesPushed("gpu-0", 7, False, (estimate("a", 1, 10, 0.5, 1.2),))
    world.step(push)
    told = slower(world, 300)
    assert {one.bound_ns for one in told[:40]} == {12 * MS}  # two seconds of silence are nothing
    late = sum(one.bound_ns < 15 * MS for one in told[-100:])
    assert late <= 10
    assert {one.duration_ns for one in told} == {10 * MS}  # nobody has learned: the mean stays

    # What was decided since then can be replayed from here.
    kept = msgspec.json.decode(msgspec.json.encode(snapshot.take(world.core)), type=snapshot.Snapshot)
    again = snapshot.restore(kept, POLICIES[policy](0.95))
    arrival = world.request("a", 0)
    assert again.handle(world.now_ns, [arrival]) == world.core.handle(world.now_ns, [arrival])

    world.step(msgspec.structs.replace(push, version=8), after_ms=50)
    assert world.core.devices["gpu-0"].widening.applied == 1.0


def test_where_nobody_ever_told_of_a_device_nothing_is_waited_for() -> None:
    world = World("goodput")
    world.join("a")
    told = slower(world, 30)  # a second and a half; the first bounds are 25 % above what was measured
    assert told[0].bound_ns == int(12.5 * MS)
    assert sum(one.bound_ns < 15 * MS for one in told[10:]) <= 2


@pytest.mark.parametrize(("stale", "beside"), [(False, ["a", "b"]), (True, ["a"])])
def test_nothing_is_launched_beside_what_would_only_be_safe_by_the_old_bounds(stale: bool, beside: list[str]) -> None:
    world = World("edf")
    world.join("a", "b", work_ms=10)
    world.step(ev.EstimatesPushed("gpu-0", 7, False, tuple(estimate(name, 1, 10, 0.5, 1.1) for name in "ab")))
    slower(world, 300 if stale else 1)
    world.arrive("a", 20)
    world.arrive("b", 100)
    assert [running.batch_class.model for running in world.core.devices["gpu-0"].running.values()] == beside
