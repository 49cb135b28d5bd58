"""The rate limiter: batches wait for the resources that their models name."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from cotenant.inference import inference_pb2
from cotenant.scheduler import events as ev
from cotenant.scheduler import rate_limits
from cotenant.scheduler.codec import model_spec
from cotenant.scheduler.policies import POLICIES
from cotenant.scheduler.rate_limits import Resource
from frontend_stack import eventually, infer_request, raw_client, running, vector
from stacks import StackThread, delayed, write_model
from worlds import World

CONFIG = """
name: "m" instance_group [
  { count: 2 rate_limiter { resources [{ name: "R" count: 2 }, { name: "S" global: true count: 3 }] priority: 2 } },
  { count: 1 rate_limiter { resources [{ name: "R" count: 5 }] } }
]
"""


def need(count: int, name: str = "R", *, shared: bool = False) -> dict[str, Any]:
    return {"resources": [{"name": name, "count": count, "shared": shared}]}


def used(world: World, name: str = "R", device: str = "") -> int:
    """What running batches need of a resource, on one device or on all."""
    total = 0
    for one in world.core.devices.values():
        if device in ("", one.spec.device_id):
            for body in one.running.values():
                spec = one.models[body.batch_class.model, body.batch_class.version]
                total += sum(n.count for n in spec.resources if n.name == name)
    return total


def limited(policy: str, *resources: Resource) -> World:
    return World(policy, rate_limit=True, rate_limit_resources=resources)


def all_answered(world: World, most: int, name: str = "R", device: str = "") -> None:
    """Ends one batch after the other; the resource is never overdrawn, and nothing is forgotten."""
    for _ in range(200):
        assert used(world, name, device) <= most
        if not world.ran:
            break
        world.finish(min(world.ran), after_ms=10)
    assert not world.core.waiting
    assert sum(world.outcomes.values()) == len(world.submitted)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_no_policy_overdraws_a_resource(policy: str) -> None:
    world = limited(policy, Resource("R", 3))
    world.join(concurrency=8)
    for name, count in (("a", 1), ("b", 2), ("c", 3), ("free", 0)):
        world.load(name, **need(count) if count else {})
    for n in range(24):
        world.arrive("abc"[n % 3] if n % 4 else "free", slo_ms=0)
        assert used(world) <= 3
        if n == 12:
            world.restart_twin()
    all_answered(world, 3)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_shared_resource_counts_on_all_devices(policy: str) -> None:
    """What ends on one device lets another go on at once."""
    world = limited(policy, Resource("S", 1))
    for device in ("gpu-0", "gpu-1"):
        world.join("a", device=device, concurrency=4, batching=False, **need(1, "S", shared=True))
    for _ in range(6):
        world.arrive("a", slo_ms=0)
    assert len(world.ran) == 1
    for left in range(5, 0, -1):
        world.finish(min(world.ran), after_ms=10)
        assert len(world.ran) == 1, f"{left} wait, and nothing runs"
    all_answered(world, 1, "S")


def test_devices_have_resources_of_their_own() -> None:
    world = limited("edf", Resource("R", 1), Resource("R", 2, "gpu-1"))
    for device in ("gpu-0", "gpu-1"):
        world.join("a", device=device, concurrency=8, batching=False, **need(1))
    for _ in range(10):
        world.arrive("a", slo_ms=10_000)
    assert [used(world, device=device) for device in ("gpu-0", "gpu-1")] == [1, 2]


def test_a_device_may_be_told_by_its_number() -> None:
    world = limited("edf", Resource("R", 3, "1"))
    world.join("a", device="gpu-1", concurrency=8, batching=False, **need(1))
    for _ in range(10):
        world.arrive("a", slo_ms=0)
    assert used(world) == 3


def test_what_was_not_told_is_what_the_neediest_model_needs() -> None:
    world = limited("edf")
    world.join(concurrency=8)
    world.load("a", batching=False, **need(1))
    world.load("b", batching=False, **need(4))
    for _ in range(10):
        world.arrive("a", slo_ms=0)
    assert used(world) == 4


def test_who_needs_more_than_there_is_runs_alone() -> None:
    world = limited("edf", Resource("R", 2))
    world.join(concurrency=8)
    world.load("a", batching=False, **need(1))
    world.load("b", batching=False, **need(5))
    world.arrive("b", slo_ms=0)
    assert used(world) == 5
    world.arrive("a", slo_ms=0)
    assert used(world) == 5
    world.finish(min(world.ran), after_ms=10)
    assert used(world) == 1


def test_without_the_flag_nothing_is_counted() -> None:
    world = World("edf")
    world.join("a", concurrency=8, batching=False, **need(1))
    for _ in range(4):
        world.arrive("a", slo_ms=0)
    assert used(world) == 4


def test_a_configuration_tells_what_its_neediest_instance_needs() -> None:
    config = text_format.Parse(CONFIG, inference_pb2.ModelConfig())
    found = model_spec(config.SerializeToString(), "1")
    assert found.resources == (ev.Need("R", 5), ev.Need("S", 3, shared=True))


def test_flags_are_read() -> None:
    assert rate_limits.read(["R:4", "S:2:gpu-1"]) == (Resource("R", 4), Resource("S", 2, "gpu-1"))
    for wrong in ("R", "R:", ":4", "R:x", "R:-1"):
        with pytest.raises(ValueError, match="expected NAME:COUNT"):
            rate_limits.read([wrong])


def test_models_take_turns_in_a_running_stack(tmp_path: Path) -> None:
    """Two models that each need all there is never run beside each other; one that needs nothing runs beside both."""
    limiter = 'instance_group [{ count: 4 kind: KIND_CPU rate_limiter { resources [{ name: "R" count: 1 }] } }]'
    for name, more in (("a", limiter), ("b", limiter), ("free", "")):
        write_model(tmp_path / "models", name, delayed(30, max_batch_size=1, more=more))
    extra = {"scheduler": ("--rate-limit=execution_count", "--rate-limit-resource=R:1")}
    stack = StackThread(tmp_path, tmp_path / "models", extra=extra)
    try:
        with raw_client(stack) as raw:
            calls = []
            for n in range(18):
                request = infer_request("abf"[n % 3].replace("f", "free"), INPUT0=vector())
                request.parameters["cotenant_explain"].bool_param = True
                calls.append(raw.ModelInfer.future(request, timeout=30))
            answers = [call.result() for call in calls]
        beside = [(a.model_name, a.parameters["cotenant_co_runners"].string_param) for a in answers]
        for model, others in beside:
            if model in ("a", "b"):
                assert "a:1" not in others
                assert "b:1" not in others
        assert any("free" in others for model, others in beside if model == "a")
        eventually(lambda: running(stack) == 0, "an empty device")
    finally:
        stack.close()
