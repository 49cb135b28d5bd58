"""Explicit values for sets, from the wire to a launch: a predictor may tell nothing else."""

import pytest

from cotenant.scheduler import codec
from cotenant.scheduler import events as ev
from cotenant.v1 import predictor_pb2, types_pb2
from worlds import MS, World

Push = predictor_pb2.WatchEstimatesResponse


def klass(model: str) -> types_pb2.BatchClass:
    return types_pb2.BatchClass(model=model, version="1", batch_size=1)


def push(*sets: tuple[str, tuple[str, ...], float, float], version: int = 1, complete: bool = False) -> Push:
    """Sets as (victim, co-runners, slowdown, factor of the bound; 0 for none)."""
    message = Push(version=version, complete=complete)
    for victim, others, slowdown, factor in sets:
        told = message.sets.add(device_id="gpu-0", slowdown=slowdown)
        told.batch_class.CopyFrom(klass(victim))
        told.co_runners.extend(map(klass, others))
        if factor:
            told.quantiles.add(level=0.999, factor=factor)
    return message


def world_of(*models: str) -> World:
    world = World()
    world.join(*models, concurrency=4)
    return world


def told(world: World, message: Push) -> None:
    world.step(*codec.estimates(message, list(world.core.tables)))


def forecast(world: World, model: str) -> ev.Forecast:
    """What the launch of one request of a model is expected to take, beside what runs."""
    actions = world.arrive(model, slo_ms=1000)
    (launch,) = [a for a in actions if isinstance(a, ev.Launch)]
    return launch.batch.forecast


def test_a_told_pair_decides_duration_and_bound_of_a_launch() -> None:
    world = world_of("a", "b")
    told(world, push(("a", ("b",), 1.0, 0), ("b", ("a",), 1.5, 1.2), complete=True))
    world.arrive("a", slo_ms=1000)
    expected = forecast(world, "b")
    assert expected.co_runner_count == 1
    # Beside a for a's 10 ms at 1/1.5 of its speed, then alone.
    assert expected.duration_ns == pytest.approx((10 + 10 - 10 / 1.5) * MS, rel=1e-6)
    assert expected.bound_ns == pytest.approx(1.2 * expected.duration_ns, rel=1e-6)


def test_three_of_which_only_pairs_are_told_multiply_and_take_the_widest_bound() -> None:
    world = world_of("a", "b", "c")
    pairs = [(v, (o,), 1.0, 1.1) for v in "ab" for o in "abc" if v != o]
    told(world, push(*pairs, ("c", ("a",), 1.2, 1.1), ("c", ("b",), 1.5, 1.4), complete=True))
    world.arrive("a", slo_ms=1000)
    world.arrive("b", slo_ms=1000)
    expected = forecast(world, "c")
    assert expected.duration_ns == pytest.approx((10 + 10 - 10 / 1.8) * MS, rel=1e-6)
    assert expected.bound_ns == pytest.approx(1.4 * expected.duration_ns, rel=1e-6)


def test_a_set_without_a_bound_leaves_it_to_the_class() -> None:
    world = world_of("a", "b")
    message = push(("a", ("b",), 1.0, 0), ("b", ("a",), 1.0, 0), complete=True)
    estimate = message.classes.add(device_id="gpu-0", work_ns=10 * MS)
    estimate.batch_class.CopyFrom(klass("b"))
    estimate.quantiles.add(level=0.999, factor=1.3, co_runner_count=1)
    told(world, message)
    world.arrive("a", slo_ms=1000)
    expected = forecast(world, "b")
    assert expected.bound_ns == pytest.approx(1.3 * expected.duration_ns, rel=1e-6)


def test_a_change_of_one_set_leaves_the_others_and_a_complete_push_forgets_them() -> None:
    world = world_of("a", "b")
    told(world, push(("a", ("b",), 1.0, 0), ("b", ("a",), 1.0, 1.2), complete=True))
    told(world, push(("b", ("a",), 2.0, 1.2), version=2))
    table = world.core.tables["gpu-0"]
    a, b = codec.batch_class(klass("a")), codec.batch_class(klass("b"))
    assert (table.progress_rate(a, [b]), table.progress_rate(b, [a])) == (1.0, 0.5)
    told(world, push(("a", ("b",), 1.25, 0), version=3, complete=True))
    assert table.progress_rate(a, [b]) == 0.8
    assert 0.5 < table.progress_rate(b, [a]) < 1.0  # unknown again: as their profiles say
    assert table.set_factor(b, [a], 0.9) == 0.0
