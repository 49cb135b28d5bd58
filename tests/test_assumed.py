"""Where nobody has told of a class, its resource profile is believed; where there is none, it runs by itself."""

import pytest

from cotenant.runtime.estimates import BatchClass, ClassEstimate, EstimateTable, Phase
from cotenant.scheduler import events as ev
from worlds import MS, World, estimate

A, B, C = (BatchClass(name, "1", 1) for name in "abc")


def table(**demand: float) -> EstimateTable:
    """Of classes that demand so much of two resources."""
    made = EstimateTable()
    for name, share in demand.items():
        made.assume(BatchClass(name, "1", 1), (share, share), 0.0, ())
    return made


def test_batches_that_fit_beside_each_other_hardly_slow_each_other_and_others_share_fairly() -> None:
    assert table(a=0.3, b=0.3).progress_rate(A, (B,)) > 0.9
    crowded = table(a=0.9, b=0.9, c=0.9)
    assert 0.45 < crowded.progress_rate(A, (B,)) < 0.6
    assert 0.25 < crowded.progress_rate(A, (B, C)) < 0.4  # and not a quarter, as pairs that are not known would say
    assert EstimateTable().progress_rate(A, (B,)) == 0.5


def test_phases_of_a_profile_count() -> None:
    made = table(b=0.9)
    made.assume(A, (0.5, 0.5), 0.0, (Phase(0.5, (0.1, 0.1)), Phase(1.0, (0.9, 0.9))))
    (beside,) = made.stages(B)
    light, heavy = (made.rates((stage, beside))[0] for stage in made.stages(A))
    assert light > 0.85
    assert heavy < 0.6


def test_what_is_told_wins_and_what_is_assumed_stays_where_nothing_is_told() -> None:
    made = table(a=0.9, b=0.9)
    before = made.progress_rate(B, (A,))
    made.assume(BatchClass("a", "1", 4), (0.9, 0.9), 0.0, ())
    made.update([ClassEstimate(A, 10 * MS, (0.1, 0.1), (3.0,) + (0.0,) * 8)], (), complete=True)
    assert made.progress_rate(A, (B,)) == 0.25
    assert made.progress_rate(BatchClass("a", "1", 4), (B,)) == 0.25  # of a size of its model that was told
    assert made.progress_rate(B, (A,)) > before  # beside the little that A is now said to demand
    made.update((), (), complete=True)
    assert made.progress_rate(B, (A,)) == before
    made.assume_nothing("a", "1")
    assert made.progress_rate(A, (B,)) == 0.5


def load(world: World, name: str, share: float) -> None:
    demand = (share, share, share) if share else ()
    spec = ev.ModelSpec(name, "1")
    world.step(
        ev.ClassProfiled("gpu-0", ev.Profile(BatchClass(name, "1", 1), 10 * MS, 5, demand)),
        ev.ModelLoaded("gpu-0", spec, 1000),
    )


@pytest.mark.parametrize(("share", "running"), [(0.2, 3), (0.9, 1), (0.0, 1)])
def test_without_any_estimates_only_what_is_light_by_its_profile_runs_beside_others(share: float, running: int) -> None:
    world = World("goodput")
    world.join(concurrency=4)
    for name in "abc":
        load(world, name, share)
    for name in "abc":
        world.arrive(name, 500)
    assert len(world.core.devices["gpu-0"].running) == running
    while world.ran:
        world.finish(min(world.ran), after_ms=12, took_ms=10)
    assert sum(world.outcomes.values()) == 3  # whatever is believed, everybody is served


def test_a_device_that_comes_back_with_other_profiles_is_believed_anew() -> None:
    world = World("goodput")
    world.join(concurrency=4)
    load(world, "a", 0.2)
    load(world, "b", 0.2)
    world.step(ev.EstimatesPushed("gpu-0", 1, False, (estimate("c", 1, 10),)))  # so that its table is kept
    world.step(ev.DeviceLost("gpu-0", 1), after_ms=1)
    world.restart_twin()
    world.join(concurrency=4)
    load(world, "a", 0.0)
    load(world, "b", 0.0)
    world.arrive("a", 500)
    world.arrive("b", 500)  # the twin, restored from a snapshot, must do the same
    assert len(world.core.devices["gpu-0"].running) == 1
