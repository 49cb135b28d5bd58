"""Tenants in the core: who goes first when not all can, what it costs where all can, and settings that change."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from cotenant.scheduler import events as ev
from cotenant.scheduler.policies import POLICIES
from cotenant.scheduler.settings import ModelSettings, TenantSettings
from worlds import MS, World, launches, refusals

arrivals = st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 12), st.floats(15, 200)), min_size=1, max_size=40)


def settings(world: World, **change: Any) -> ev.SettingsChanged:
    """The settings that hold, with some changed."""
    return ev.SettingsChanged(msgspec.structs.replace(world.core.config.settings, **change))


def anonymous(action: ev.Action) -> ev.Action:
    """An action without the names of tenants in it."""
    if not isinstance(action, ev.Launch):
        return action
    requests = tuple(msgspec.structs.replace(request, tenant="") for request in action.batch.requests)
    return msgspec.structs.replace(action, batch=msgspec.structs.replace(action.batch, requests=requests))


class Runner:
    """A world whose batches take what was measured, one after another on each lane."""

    def __init__(self, policy: str, lanes: int = 1, **config: Any) -> None:
        self.world = World(policy, **config)
        self.world.join("a", concurrency=lanes, work_ms=8.0)
        self.world.load("b", work_ms=12.0)
        self.actions: list[ev.Action] = []
        self.launched_ns: dict[int, int] = {}  # by batch

    def _ends_ns(self) -> list[tuple[int, int]]:
        running = self.world.core.devices["gpu-0"].running
        return sorted((body.launched_ns + body.batch.forecast.work_ns, batch_id) for batch_id, body in running.items())

    def _keep(self, actions: Sequence[ev.Action]) -> None:
        self.actions += actions
        for action in actions:
            if isinstance(action, ev.Launch):
                self.launched_ns[action.batch.batch_id] = self.world.now_ns

    def let(self, until_ns: int) -> None:
        """Time passes; batches end."""
        while (ends := self._ends_ns()) and ends[0][0] <= until_ns:
            after_ms = max(0, ends[0][0] - self.world.now_ns) / MS
            work_ms = self.world.ran[ends[0][1]].batch.forecast.work_ns / MS
            self._keep(self.world.finish(ends[0][1], after_ms=after_ms, took_ms=work_ms))
        self._keep(self.world.step(after_ms=max(0, until_ns - self.world.now_ns) / MS))

    def arrive(self, model: str, gap_ms: float, slo_ms: float, tenant: str) -> None:
        """A request comes after a gap."""
        self.let(self.world.now_ns + int(gap_ms * MS))
        self._keep(self.world.arrive(model, slo_ms, tenant=tenant))

    def drain(self) -> None:
        """Everything ends."""
        for _ in range(1000):
            if not self.world.core.places:
                return
            self.let(self.world.now_ns + 20 * MS)

    def ran(self) -> Counter[str]:
        """Requests that were launched, by tenant."""
        batches = [action.batch for action in self.actions if isinstance(action, ev.Launch)]
        return Counter(request.tenant for batch in batches for request in batch.requests)


@pytest.mark.parametrize("policy", sorted(POLICIES))
@examples(max_examples=examples().max_examples // 4)
@given(arrivals, st.integers(1, 3))
def test_one_tenant_is_served_exactly_as_if_there_were_none(
    policy: str, plan: list[tuple[str, float, float]], lanes: int
) -> None:
    runs = []
    for name in ("", "only"):
        run = Runner(policy, lanes)
        for model, gap_ms, slo_ms in plan:
            run.arrive(model, gap_ms, slo_ms, name)
        run.drain()
        runs.append([anonymous(action) for action in run.actions])
    assert runs[0] == runs[1]


@pytest.mark.parametrize("policy", sorted(POLICIES))
@examples(max_examples=examples().max_examples // 4)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 30), st.floats(3000, 9000), st.integers(0, 2)), max_size=40)
)
def test_where_all_can_be_in_time_tenants_change_nothing(
    policy: str, plan: list[tuple[str, float, float, int]]
) -> None:
    runs = []
    for several in (False, True):
        run = Runner(policy, tenants=(TenantSettings("t0", weight=9.0),) if several else ())
        for model, gap_ms, slo_ms, tenant in plan:
            run.arrive(model, gap_ms, slo_ms, f"t{tenant}" if several else "")
        run.drain()
        runs.append([anonymous(action) for action in run.actions])
    assert runs[0] == runs[1]


def flooded(policy: str, names: tuple[str, str]) -> tuple[float, float]:
    """Shares in time of one who asks for a fifth of a device, and of one who asks for several, for 3 s."""
    run = Runner(policy)
    world, offered = run.world, Counter[int]()
    who: dict[int, int] = {}
    chance = random.Random(0)
    for _ in range(500):
        quiet = chance.random() < 1 / 15
        run.arrive(chance.choice("ab"), 2.5, 100.0, names[quiet])
        request_id = max(world.submitted)
        who[request_id] = quiet
        offered[quiet] += 1
    run.drain()
    launched = {r.request_id: a for a in run.actions if isinstance(a, ev.Launch) for r in a.batch.requests}
    in_time = Counter[int]()
    for request_id, launch in launched.items():
        forecast, request = launch.batch.forecast, world.submitted[request_id]
        began_ns = run.launched_ns[launch.batch.batch_id]
        in_time[who[request_id]] += began_ns + forecast.work_ns <= request.deadline_ns
    return in_time[1] / offered[1], in_time[0] / offered[0]


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_who_floods_a_device_is_late_alone(policy: str) -> None:
    quiet, flood = flooded(policy, ("flood", "quiet"))
    as_one, flood_as_one = flooded(policy, ("same", "same"))
    assert as_one < 0.75  # else there is nothing to protect from
    assert quiet > 0.9
    assert flood > 0.8 * flood_as_one  # what it could have had beside the other, it has


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize(("slo_ms", "weights"), [(0.0, (1.0, 3.0)), (60.0, (1.0, 1.0)), (60.0, (4.0, 1.0))])
def test_who_always_waits_is_served_by_weight(policy: str, slo_ms: float, weights: tuple[float, float]) -> None:
    """Each floods a model of its own, and both wait all the time."""
    run = Runner(
        policy,
        answer_overhead_ns=0,
        fair_turn_ns=10 * MS,
        tenants=tuple(TenantSettings(f"t{i}", weight=weight) for i, weight in enumerate(weights)),
    )
    work: Counter[str] = Counter()
    filled = 100 if slo_ms else 800  # without deadlines it takes a second of waiting to tell that there is too much
    for i in range(filled + 300):
        run.arrive("ab"[i % 2], 2.0, slo_ms, f"t{i % 2}")
        if i == filled:
            run.actions.clear()
    for action in run.actions:
        if isinstance(action, ev.Launch):
            work[action.batch.requests[0].tenant] += action.batch.forecast.work_ns
    expected = weights[0] / sum(weights)
    assert work["t0"] / work.total() == pytest.approx(expected, abs=0.08)  # a turn and a batch are a fifteenth


def test_within_a_turn_the_most_urgent_goes_first_whoever_s_it_is() -> None:
    run = Runner("edf-fixed")
    run.world.arrive("a", 500.0, tenant="one")
    for slo_ms, tenant in ((400.0, "one"), (300.0, "two"), (350.0, "one"), (320.0, "two")):
        run.world.arrive("b", slo_ms, tenant=tenant)
    queue = run.world.core.devices["gpu-0"].queues["b", "1", ""]
    assert [request.tenant for request in queue] == ["two", "two", "one", "one"]


def full(world: World, names: Sequence[str], slo_ms: float = 5000.0) -> None:
    for name in names:
        world.arrive("a", slo_ms, tenant=name)


def test_a_full_service_refuses_the_youngest_of_who_holds_most() -> None:
    world = World(max_pending=4)
    world.join("a", concurrency=1)
    full(world, ["hoard"] * 5 + ["other"])  # the first runs
    assert refusals(world.actions) == [(5, ev.QUEUE_FULL)]
    assert {request.tenant for request in world.core.waiting.values()} == {"hoard", "other"}
    full(world, ["hoard"])
    assert refusals(world.actions) == [(7, ev.QUEUE_FULL)]


def test_a_full_queue_of_a_model_refuses_who_had_most_of_the_device() -> None:
    world = World("edf-fixed", fair_turn_ns=5 * MS)
    world.join("a", concurrency=1, max_queue_size=3, work_ms=20.0, batching=False)
    full(world, ["hoard"] * 4)
    for batch_id in range(1, 4):
        world.finish(batch_id, after_ms=20.0)
        full(world, ["hoard"])
    full(world, ["hoard", "other", "other"])
    assert {request.tenant for request in world.core.waiting.values()} == {"hoard", "other"}
    assert [reason for _, reason in refusals(world.actions)] == [ev.QUEUE_FULL]
    assert not [
        request_id for request_id, _ in refusals(world.actions) if world.submitted[request_id].tenant == "other"
    ]


def test_a_quota_refuses_at_once_and_names_itself() -> None:
    world = World(tenants=(TenantSettings("acme", requests_per_s=10.0, burst_requests=1),))
    world.join("a")
    assert launches(world.arrive("a", tenant="acme"))
    (refusal,) = [action for action in world.arrive("a", tenant="acme") if isinstance(action, ev.Refuse)]
    assert refusal.reason == ev.QUOTA_EXCEEDED
    assert refusal.excess == ev.QuotaExcess("acme", "requests_per_s", 100 * MS)
    assert "acme" in refusal.message
    assert launches(world.arrive("a", tenant="other"))
    world.step(after_ms=100)
    assert not refusals(world.arrive("a", tenant="acme"))


def test_quotas_hold_for_who_only_observes() -> None:
    world = World(observe_only=True, tenants=(TenantSettings("", requests_per_s=1.0, burst_requests=1),))
    world.join("a")
    world.arrive("a")
    assert refusals(world.arrive("a")) == [(2, ev.QUOTA_EXCEEDED)]


def test_work_counts_as_it_ran_and_comes_back_where_it_did_not() -> None:
    world = World(tenants=(TenantSettings("acme", device_share=1.0, burst_work_ns=30 * MS),))
    world.join("a", concurrency=1)
    account = world.core.state.tenancy.tenants.accounts["acme"]

    def owed_ms() -> float:
        return (account.work_ns - world.now_ns) / MS

    world.arrive("a", tenant="acme")
    assert owed_ms() == 10.0
    world.arrive("a", tenant="acme")
    world.arrive("a", tenant="acme")
    assert owed_ms() == 30.0
    assert refusals(world.arrive("a", tenant="acme")) == [(4, ev.QUOTA_EXCEEDED)]
    assert launches(world.finish(1)) == [("a", 2)]  # two in a batch of 15 ms
    assert owed_ms() == 25.0
    launch = world.ran.pop(2)
    world.step(ev.BatchDropped(launch.device_id, 2, world.now_ns, "WINDOW_PASSED"))
    assert owed_ms() == 25.0  # placed and launched again
    world.step(ev.RequestCancelled(2))  # which runs
    assert owed_ms() == 25.0


def test_names_beyond_the_limit_share_a_quota() -> None:
    world = World(
        max_tenants=1, tenants=(TenantSettings("*", requests_per_s=0.1, burst_requests=1), TenantSettings("own"))
    )
    world.join("a", concurrency=8)
    for name in ("first", "second", "own", ""):
        assert not refusals(world.arrive("a", 1000.0, tenant=name)), name
    (refusal,) = [action for action in world.arrive("a", tenant="third") if isinstance(action, ev.Refuse)]
    assert refusal.excess is not None
    assert refusal.excess.tenant == "(other)"


# ---- settings that change


def test_another_policy_decides_from_then_on_and_what_waits_is_kept() -> None:
    world = World("exclusive-fifo")
    world.join("a", "b", concurrency=2)
    world.arrive("a", 5000.0)
    assert not launches(world.arrive("b", 5000.0))
    assert launches(world.step(settings(world, policy="edf"))) == [("b", 1)]
    assert world.core.policy.name == "edf"
    world.restart_twin()
    world.finish(1)
    world.finish(2)
    assert world.outcomes == {1: 1, 2: 1}


def test_an_slo_is_told_to_frontends_and_taken_back() -> None:
    world = World()
    world.join("a", "b", slo_ns=100 * MS)
    told = world.step(settings(world, models=(ModelSettings("a", slo_ns=40 * MS),)))
    assert [(a.model, a.availability) for a in told if isinstance(a, ev.ModelChanged)] == [("a", "READY")]
    device = world.core.devices["gpu-0"]
    assert (device.models["a", "1"].slo_ns, device.models["b", "1"].slo_ns) == (40 * MS, 100 * MS)
    world.load("a", slo_ns=100 * MS)  # again: what was set still holds
    assert device.models["a", "1"].slo_ns == 40 * MS
    world.restart_twin()
    world.step(settings(world, models=()))
    assert device.models["a", "1"].slo_ns == 100 * MS


def test_priority_levels_reorder_what_waits() -> None:
    world = World()
    world.join("a", concurrency=1)
    world.arrive("a", 900.0)
    world.arrive("a", 900.0, priority=3)
    world.arrive("a", 950.0, priority=1)
    queue = world.core.devices["gpu-0"].queues["a", "1", ""]
    assert [request.request_id for request in queue] == [3, 2]
    world.step(settings(world, models=(ModelSettings("a", priority_levels=1),)))  # of which all are the default
    assert [request.request_id for request in queue] == [2, 3]


def test_another_margin_holds_until_answers_are_measured_again() -> None:
    world = World()
    world.join("a")
    world.step(settings(world, answer_overhead_ns=7 * MS))
    assert world.core.devices["gpu-0"].answer_overhead_ns == 7 * MS
    world.step(ev.AnswerOverheadMeasured(3 * MS))
    assert world.core.devices["gpu-0"].answer_overhead_ns == 3 * MS
    world.step(settings(world, answer_overhead_ns=MS))
    assert world.core.devices["gpu-0"].answer_overhead_ns == MS


def test_weights_count_at_once_for_what_waits() -> None:
    run = Runner("edf-fixed", fair_turn_ns=10 * MS)
    for i in range(800):
        run.arrive("ab"[i % 2], 2.0, 0.0, f"t{i % 2}")
    run.actions.clear()
    run.world.step(settings(run.world, tenants=(TenantSettings("t1", weight=4.0),)))
    for i in range(400):
        run.arrive("ab"[i % 2], 2.0, 0.0, f"t{i % 2}")
    work: Counter[str] = Counter()
    for action in run.actions:
        if isinstance(action, ev.Launch):
            work[action.batch.requests[0].tenant] += action.batch.forecast.work_ns
    assert work["t1"] / work.total() == pytest.approx(0.8, abs=0.08)


def test_who_waits_for_a_change_is_told() -> None:
    world = World()
    changed = ev.SettingsChanged(world.core.config.settings, ticket=7)
    assert [a for a in world.step(changed) if isinstance(a, ev.TicketDone)] == [ev.TicketDone(7)]
