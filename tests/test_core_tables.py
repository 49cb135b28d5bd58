"""What the scheduler keeps of devices that are not here: enough for those that return, bounded for all that is told."""

from typing import Any

import pytest

from cotenant.scheduler import events as ev
from cotenant.scheduler import tables
from worlds import World, estimate


def push(device_id: str, *names: str, version: int = 1, complete: bool = False) -> ev.EstimatesPushed:
    return ev.EstimatesPushed(device_id, version, complete, tuple(estimate(name, 1, 10) for name in names))


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_AWAY", 3)


def kept(world: World) -> list[str]:
    assert set(world.core.estimates_versions) <= set(world.core.tables)
    world.restart_twin()  # a replay from a snapshot here forgets the same from now on
    assert list(world.twin.tables) == list(world.core.tables)
    return list(world.core.tables)


def test_of_devices_never_seen_those_told_last_are_kept() -> None:
    world = World()
    world.join("m")
    world.step(push("gpu-0", "m"))
    for i in range(10):
        world.step(push(f"made-up-{i}", "m", version=i))
    assert kept(world) == ["gpu-0", "made-up-7", "made-up-8", "made-up-9"]
    world.step(push("made-up-7", "n"))
    world.step(push("made-up-10", "m"))
    assert kept(world) == ["gpu-0", "made-up-9", "made-up-7", "made-up-10"]


def test_a_device_that_is_here_keeps_what_is_believed_whatever_is_told() -> None:
    world = World()
    world.join("m")
    world.step(push("gpu-0", "m", version=5))
    world.step(*(push(f"made-up-{i}", "m") for i in range(50)))
    (launch,) = [a for a in world.arrive("m") if isinstance(a, ev.Launch)]
    assert launch.batch.forecast.estimates_version == 5
    assert len(kept(world)) == 4


def test_a_device_that_was_here_is_younger_than_those_told_of_before() -> None:
    world = World()
    world.join("m")
    world.step(push("gpu-0", "m", version=5))
    world.step(*(push(f"made-up-{i}", "m") for i in range(3)))
    world.step(ev.DeviceLost("gpu-0", 1))
    assert kept(world) == ["made-up-1", "made-up-2", "gpu-0"]
    world.step(push("made-up-3", "m"))
    world.join(device="gpu-0")
    assert world.core.devices["gpu-0"].table.classes  # back, and known
    assert world.core.devices["gpu-0"].estimates_version == 5


@pytest.mark.parametrize("told", [push("gone", complete=True, version=2), push("nobody")])
def test_a_table_that_tells_nothing_of_a_device_that_is_away_is_dropped(told: Any) -> None:
    world = World()
    world.join("m")
    world.step(push("gone", "m"), push("gpu-0", "m"))
    world.step(told, push("gpu-0", complete=True, version=2))
    assert "nobody" not in kept(world)
    assert ("gone" in kept(world)) == (told.device_id != "gone")
    assert "gpu-0" in kept(world)  # empty, and here
    world.step(ev.DeviceLost("gpu-0", 1))
    assert "gpu-0" not in kept(world)
