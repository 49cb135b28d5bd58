"""What must hold for the core whatever happens: random worlds with devices that fail, vanish and come back."""

import msgspec
import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from cotenant.scheduler import events as ev
from cotenant.scheduler.policies import POLICIES
from cotenant.scheduler.settings import ModelSettings, Settings, TenantSettings
from worlds import MS, World, device_spec, estimate, model_spec, profiles

DEVICES = ("gpu-0", "gpu-1")
MODELS = ("a", "b", "c")
SPECS = {
    "a": {"max_queue_delay_ns": 5 * MS},
    "b": {"batching": False, "max_instances": 1},
    "c": {"priority_levels": 3, "default_priority": 2, "idempotent": False, "max_queue_size": 6},
}

steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["arrive"] * 8
            + ["finish"] * 6
            + ["started", "drop", "fail", "cancel", "time", "estimates", "release", "again"]
            + ["window", "snapshot", "settings"] * 3
            + ["join", "suspend", "lose", "load", "unload", "frontend"]
        ),
        st.integers(0, 2**16),
        st.floats(0, 40),
    ),
    max_size=80,
)


class Chaos:
    """Turns random numbers into events that may happen in the state the world is in."""

    def __init__(self, world: World, present: int, tenants: tuple[str, ...] = ("",)) -> None:
        self.world, self.tenants = world, tenants
        self.incarnations = dict.fromkeys(DEVICES, 1)
        for device in DEVICES[:present]:
            self.join(device)

    def join(self, device: str) -> None:
        known = self.world.core.devices.get(device)
        if known is not None and not known.online:
            held = tuple(a.batch for a in self.world.ran.values() if a.device_id == device)
            self.world.step(
                ev.DeviceJoined(device_spec(device), known.incarnation, held=held, held_started_ns=(0,) * len(held))
            )
            return
        if known is not None:
            self.incarnations[device] += 1
        for batch_id in [b for b, a in self.world.ran.items() if a.device_id == device]:
            del self.world.ran[batch_id]
        self.world.step(ev.DeviceJoined(device_spec(device), self.incarnations[device]))
        for model in MODELS:
            self.world.load(model, device=device, work_ms=5.0 + 3 * MODELS.index(model), **SPECS[model])

    def do(self, what: str, number: int, ms: float) -> None:  # noqa: C901
        world = self.world
        device = DEVICES[number % 2]
        model = MODELS[number % 3]
        running = sorted(world.ran)
        batch = running[number % len(running)] if running else 0
        match what:
            case "arrive":
                slo = (0.0, 8.0, 20.0, 60.0, 200.0)[number % 5]
                frontend = (number % 2) << 33
                count = 1 + number % 3
                tenant = self.tenants[number // 5 % len(self.tenants)]
                made = [world.request(model, slo, priority=number % 4, tenant=tenant) for _ in range(count)]
                world.step(*(self._of_frontend(m, frontend) for m in made), after_ms=ms / 8)
            case "finish" if batch:
                world.finish(batch, after_ms=ms)
            case "started" if batch:
                world.step(ev.BatchStarted(world.ran[batch].device_id, batch, world.now_ns))
            case "drop" | "fail" if batch:
                launch = world.ran.pop(batch)
                reason = "WINDOW_PASSED" if what == "drop" else ev.EXECUTION_FAILED
                world.step(ev.BatchDropped(launch.device_id, batch, world.now_ns, reason))
            case "cancel" if world.submitted:
                world.step(ev.RequestCancelled(sorted(world.submitted)[number % len(world.submitted)]))
            case "time":
                world.step(after_ms=ms * 5)
            case "estimates":
                learned = [estimate(m, size, 3.0 + ms / 4, delay=(number % 10) / 11) for m in MODELS for size in (1, 2)]
                world.step(ev.EstimatesPushed(device, number, number % 2 == 0, tuple(learned)))
            case "settings":
                world.step(ev.SettingsChanged(self._settings(number, ms), ticket=number % 3))
            case "window":
                world.step(ev.WindowRequested(device, number, int(ms * MS) + 1))
            case "release":
                if (known := world.core.devices.get(device)) and known.window:
                    world.step(ev.WindowReleased(device, known.window.window_id))
            case "snapshot":
                world.restart_twin()
            case "again" if world.submitted:
                request = world.submitted[sorted(world.submitted)[number % len(world.submitted)]]
                if not world.outcomes[request.request_id]:
                    world.step(ev.RequestArrived(msgspec.structs.replace(request, attempt=2)))
            case "join":
                self.join(device)
            case "suspend":
                world.step(ev.DeviceSuspended(device, self.incarnations[device]))
            case "lose":
                for gone in [b for b, a in world.ran.items() if a.device_id == device]:
                    del world.ran[gone]
                world.step(ev.DeviceLost(device, self.incarnations[device]))
            case "load":
                world.step(ev.ModelLoaded(device, model_spec(model, **SPECS[model])), ev.LoadRequested(model, number))
                world.step(ev.ModelLoadEnded(device, model, ("1",)))
            case "unload":
                actions = world.step(ev.UnloadRequested(model, number))
                self._obey_unloads(actions)
            case "frontend":
                # What it had queued is gone; what it still wants, it will submit again.
                world.step(ev.FrontendLost(number % 2))
        self._obey_unloads(world.actions)

    def _settings(self, number: int, ms: float) -> Settings:
        """Some settings; now and then none of tenants and models."""
        own = tuple(
            TenantSettings(t, weight=1.0 + i * number % 7) for i, t in enumerate(self.tenants) if number >> i & 1
        )
        limited = TenantSettings("*", requests_per_s=20.0 + ms, device_share=0.1 + ms / 40, max_pending=3 + number % 9)
        models = (
            ModelSettings("a", slo_ns=int(ms * MS)),
            ModelSettings("c", priority_levels=number % 5, max_queue_size=4),
        )
        return Settings(
            sorted(POLICIES)[number % len(POLICIES)] if number % 4 == 0 else self.world.core.config.policy,
            (0.5, 0.9, 0.95)[number % 3],
            revision=self.world.core.config.revision + 1,
            answer_overhead_ns=(number % 4) * MS,
            max_pending=5 + number % 60,
            max_tenants=number % 3,
            fair_turn_ns=MS * (1 + number % 20),
            models=models if number % 2 else (),
            tenants=(*own, limited) if number % 5 else (),
        )

    def _of_frontend(self, arrived: ev.RequestArrived, prefix: int) -> ev.RequestArrived:
        request = msgspec.structs.replace(arrived.request, request_id=arrived.request.request_id | prefix)
        del self.world.submitted[arrived.request.request_id]
        self.world.submitted[request.request_id] = request
        return ev.RequestArrived(request)

    def _obey_unloads(self, actions: list[ev.Action]) -> None:
        while orders := [a for a in actions if isinstance(a, ev.UnloadModel)]:
            actions = self.world.step(*(ev.ModelUnloaded(o.device_id, o.model, o.version) for o in orders))

    def settle(self) -> None:
        """Everything runs out: devices are back, batches end, time passes."""
        for device in DEVICES:
            if device not in self.world.core.devices or not self.world.core.devices[device].online:
                self.join(device)
        for _ in range(400):
            if self.world.ran:
                self.world.finish(min(self.world.ran), after_ms=1)
            elif self.world.core.places or self.world.core.unplaced:
                self.world.step(after_ms=2500)
            else:
                return
            self._obey_unloads(self.world.actions)


@pytest.mark.parametrize("policy", sorted(POLICIES))
@given(st.integers(0, 2), st.sampled_from([("",), ("", "one"), ("one", "two", "three", "four")]), steps)
def test_whatever_happens_every_request_has_exactly_one_outcome(
    policy: str, present: int, tenants: tuple[str, ...], plan: list[tuple[str, int, float]]
) -> None:
    # `World.step` checks after every step: same events give the same actions (also from a snapshot), concurrency and
    # instance limits, no launch past its latest start or on a device that is away, the books add up.
    world = World(policy)
    chaos = Chaos(world, present, tenants)
    for what, number, ms in plan:
        note(f"{what} {number} {ms}")
        chaos.do(what, number, ms)
    chaos.settle()
    assert not world.core.places
    assert not world.core.unplaced
    lost_frontends = {n % 2 for what, n, _ in plan if what == "frontend"}
    for request_id in world.submitted:
        if request_id >> 33 not in lost_frontends:
            assert world.outcomes[request_id] == 1, f"request {request_id}"


@pytest.mark.parametrize("policy", sorted(POLICIES))
@given(st.lists(st.tuples(st.sampled_from(MODELS), st.floats(0, 30), st.floats(20, 400)), min_size=1, max_size=40))
def test_no_device_idles_while_something_safe_waits(policy: str, arrivals: list[tuple[str, float, float]]) -> None:
    world = World(policy)
    world.join(*MODELS)
    for model, gap_ms, slo_ms in arrivals:
        world.step(world.request(model, slo_ms), after_ms=gap_ms)
        device = world.core.devices["gpu-0"]
        assert device.running or not device.queued
        while device.running and min(body.launched_ns for body in device.running.values()) < world.now_ns - 25 * MS:
            world.finish(min(device.running))
            assert device.running or not device.queued


@given(st.integers(1, 30), st.floats(0.3, 4))
def test_admitting_more_load_never_makes_admitted_requests_late(count: int, gap_ms: float) -> None:
    """On a device that does exactly what was measured, nothing that was admitted is late, however high the load."""
    world = World()
    world.join("a", concurrency=1)
    work = {p.batch_class.batch_size: p.work_ns for p in profiles("a", 10.0)}
    free_ns = 0
    for _ in range(count):
        world.step(world.request("a", 60.0), after_ms=gap_ms)
        while world.ran:
            (batch_id, launch) = next(iter(world.ran.items()))
            size = launch.batch.batch_class.batch_size
            duration = work.get(size, (work[2] + work[4]) // 2)
            end_ns = max(free_ns, world.core.devices["gpu-0"].running[batch_id].launched_ns) + duration
            if end_ns > world.now_ns + int(gap_ms * MS):
                break
            free_ns = end_ns
            world.finish(batch_id, after_ms=max(0.0, (end_ns - world.now_ns) / MS))
            for request in launch.batch.requests:
                assert world.now_ns <= request.deadline_ns
