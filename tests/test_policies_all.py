"""What every policy of the table owes, besides the properties in test_core_properties.py."""

import re
from pathlib import Path
from typing import Any, cast

import pytest

from cotenant.scheduler import events as ev
from cotenant.scheduler.policies import POLICIES
from worlds import World, launches, refusals

LATE = {ev.PREDICTED_MISS, ev.EXPIRED_IN_QUEUE}


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_observe_only_refuses_nothing_for_being_late_and_answers_everything(policy: str) -> None:
    world = World(policy, observe_only=True)
    world.join("a", "b")
    for n in range(20):
        assert not refusals(world.step(world.request("ab"[n % 2], slo_ms=5 + 3 * n), after_ms=1))
    for _ in range(100):
        if not world.ran:
            break
        world.finish(min(world.ran), after_ms=30)
        assert not refusals(world.actions)
    assert not world.core.waiting
    assert sum(world.outcomes.values()) == 20


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_requests_are_spread_over_the_devices_there_are(policy: str) -> None:
    world = World(policy)
    world.join("a", device="gpu-0", batching=False)
    world.join("a", device="gpu-1", batching=False)
    for _ in range(12):
        world.arrive("a", slo_ms=1000)
    held = {d.spec.device_id: d.queued + len(d.running) for d in world.core.devices.values()}
    assert sorted(held) == ["gpu-0", "gpu-1"]
    assert min(held.values()) >= 4


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_request_goes_where_less_is_left_to_do(policy: str) -> None:
    world = World(policy)
    for device, model in (("gpu-0", "a"), ("gpu-1", "a"), ("gpu-0", "long"), ("gpu-1", "long")):
        if device not in world.core.devices:
            world.join(device=device, concurrency=1)
        world.load(model, device=device, work_ms=50.0 if model == "long" else 10.0)
    world.arrive("long", slo_ms=1000)
    world.arrive("a", slo_ms=1000)
    world.arrive("a", slo_ms=1000)  # 50 ms run on one device, 10 on the other
    assigned = {a.request_id: a.device_id for a in world.actions if isinstance(a, ev.Assign)}
    assert assigned == {3: world.ran[2].device_id}


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_class_nothing_is_known_of_runs(policy: str) -> None:
    world = World(policy)
    world.step(ev.DeviceJoined(ev.DeviceSpec("gpu-0", "emulated", "test", 2**30, 2, ()), 1))
    world.step(ev.ModelLoaded("gpu-0", ev.ModelSpec("a", "1", 4, batching=True), 1000))
    assert launches(world.arrive("a", slo_ms=100)) == [("a", 1)]
    assert launches(world.arrive("a", slo_ms=0)) + launches(world.finish(1, after_ms=5)) == [("a", 1)]


def test_the_example_of_the_how_to_is_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parent.parent / "docs/policies.md").read_text(encoding="utf-8")
    module, example = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(module, names)
    monkeypatch.setitem(cast("dict[str, Any]", POLICIES), "shortest-first", names["ShortestFirst"])
    exec(example, {"World": World, "launches": launches})
