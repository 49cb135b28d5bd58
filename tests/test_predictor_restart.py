"""Going and coming back: what is told stays the same, versions go on, and those who only tried leave nothing."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from cotenant.predictor import keeping
from cotenant.predictor.contract import DEVICE_PREFIX
from cotenant.predictor.contract.__main__ import run_checks
from cotenant.predictor.contract.peer import RESOURCES, Peer, finished, profiled
from cotenant.predictor.keeping import Keeper, load
from cotenant.predictor.kept import Changes, changes
from cotenant.predictor.knowledge import Knowledge
from cotenant.predictor.known_device import DeviceSpec, KnownDevice
from cotenant.predictor.observations import Profile
from cotenant.predictor.service import PredictorService
from cotenant.predictor.store import Store
from cotenant.runtime.estimates import BatchClass, ClassEstimate, Phase
from cotenant.runtime.server import open_channel
from cotenant.v1 import executor_pb2, types_pb2
from test_predictor_contract import served
from test_predictor_publishing import Told

GPU = DeviceSpec("gpu-0", "emulated", "made-up GPU", RESOURCES)
A, B, C = (BatchClass(name, "1", 1) for name in "abc")
LEVELS = (0.5, 0.9, 0.95)


def lesson(start: int = 3, count: int = 200, slowdown: float = 1.7) -> list[executor_pb2.ExecutorEvent]:
    """Batches of a and b beside each other, a few percent off their forecasts, either way."""
    return [
        finished(i, "ab"[i % 2], 10 * slowdown * (1.0 + (i % 13 - 6) / 100), "ba"[i % 2], forecast_ms=10 * slowdown)
        for i in range(start, start + count)
    ]


def taught(events: Iterable[executor_pb2.ExecutorEvent], **options: Any) -> tuple[Knowledge, KnownDevice]:
    knowledge = Knowledge(**options)
    device = knowledge.device(GPU)
    knowledge.learn(device, 1, [profiled(1), profiled(2, "b"), *events], opening=True)
    return knowledge, device


def written(state: Path, knowledge: Knowledge) -> None:
    store = Store(state)
    store.write(changes(knowledge, knowledge.unsaved_since()))
    store.close()


def loaded(state: Path, **options: Any) -> Knowledge:
    store, found = Store(state), Knowledge(**options)
    load(store, found)
    store.close()
    return found


def told(device: KnownDevice) -> dict[BatchClass, ClassEstimate]:
    return {known: device.estimate(known, LEVELS) for known in device.model.classes}


# ---- what is told


def test_estimates_and_bounds_are_the_same_after_a_restart(tmp_path: Path) -> None:
    knowledge, device = taught(lesson(count=100))
    told(device)  # levels are followed from the first time they are asked for
    knowledge.learn(device, 1, lesson(103), opening=False)
    written(tmp_path / "state", knowledge)
    again = loaded(tmp_path / "state").devices["gpu-0"]
    assert told(again) == told(device)
    assert all(len(estimate.quantiles) == 4 * len(LEVELS) for estimate in told(again).values())


def test_versions_go_on_increasing_with_and_without_state(tmp_path: Path) -> None:
    async def versions(state: Path | None) -> list[int]:
        store = Store(state)
        async with served(PredictorService(store), tmp_path) as address, open_channel(address) as channel:
            subscriber = Peer(channel).watch()
            await subscriber.next()
            subscriber.close()
        store.close()
        return [push.version for push in subscriber.pushes]

    for state in (None, tmp_path / "state"):
        before, after = asyncio.run(versions(state)), asyncio.run(versions(state))
        assert 0 < max(before) < min(after) < 2**53  # what every language can hold


def test_a_version_tells_when_it_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock_ns = 1_800_000_000 * 10**9
    monkeypatch.setattr("cotenant.predictor.service.time.time_ns", lambda: clock_ns)
    versions = PredictorService(Store(None))._versions
    assert next(versions) == clock_ns // 1000
    assert next(versions) == clock_ns // 1000 + 1  # within the same us
    clock_ns += 5 * 10**9
    assert next(versions) == clock_ns // 1000
    clock_ns -= 60 * 10**9  # the clock was set back
    assert next(versions) == (clock_ns + 60 * 10**9) // 1000 + 1


def test_a_learner_that_tells_sets_tells_those_of_what_ran_last(tmp_path: Path) -> None:
    knowledge, _ = taught(lesson(), learner="static-rls")
    written(tmp_path / "state", knowledge)
    after = Told("static-rls")
    after.watcher._knowledge = after.knowledge = loaded(tmp_path / "state", learner="static-rls")
    after.device = after.knowledge.devices["gpu-0"]
    after.settle()
    assert set(after.table.sets) == {(A, (B,)), (B, (A,)), (A, (A,)), (B, (B,))}


# ---- what is on disk


def damage(state: Path, model: str) -> None:
    with contextlib.closing(sqlite3.connect(state)) as database:
        database.execute("UPDATE classes SET state = x'00' WHERE model = ?", (model,))
        database.commit()


def test_what_could_not_be_read_is_replaced_and_what_is_learned_then_stays(tmp_path: Path) -> None:
    state = tmp_path / "state"
    written(state, taught([*lesson(), profiled(300, "c")])[0])
    damage(state, "c")  # and c never runs again
    again = loaded(state)
    assert not again.devices["gpu-0"].batches
    again.learn(again.devices["gpu-0"], 1, lesson(400), opening=False)
    written(state, again)
    assert told(loaded(state).devices["gpu-0"]) == told(again.devices["gpu-0"])
    assert loaded(state).devices["gpu-0"].batches == 200


def test_phases_and_kernels_are_among_what_another_learner_starts_from(tmp_path: Path) -> None:
    phases = (Phase(0.4, (0.9, 0.1, 0.2), 8000.0), Phase(1.0, (0.2, 0.5, 0.8), 3000.0))
    knowledge, device = taught([])
    knowledge.learn_profile(device, Profile(C, 7_000_000, (0.5, 0.3, 0.6), 20, 5000.0, phases))
    written(tmp_path / "state", knowledge)
    damage(tmp_path / "state", "c")
    believed = loaded(tmp_path / "state").devices["gpu-0"].estimate(C, LEVELS)
    assert (believed.work_ns, believed.demand) == (7_000_000, (0.5, 0.3, 0.6))
    assert (believed.kernel_ns, believed.phases) == (5000.0, phases)


def test_fewer_classes_than_before_are_the_last_that_ran(tmp_path: Path) -> None:
    state = tmp_path / "state"
    knowledge, device = taught([])
    written(state, knowledge)
    for i in range(10):
        knowledge.learn(device, 1, [profiled(10 + i, f"m{i}")], opening=False)
        written(state, knowledge)
    fewer = loaded(state, max_classes=3)
    assert [c.model for _, c in fewer.used] == ["m7", "m8", "m9"]
    assert {c.model for c in fewer.devices["gpu-0"].model.classes} == {"m7", "m8", "m9"}
    written(state, fewer)
    assert [c.model for _, c in loaded(state).used] == ["m7", "m8", "m9"]


def test_what_is_read_in_a_snapshot_is_of_one_instant(tmp_path: Path) -> None:
    knowledge, device = taught(lesson())
    written(tmp_path / "state", knowledge)
    reader, writer = Store(tmp_path / "state", alone=False), Store(tmp_path / "state")
    with reader.snapshot():
        (before,) = reader.devices("fluid")
        knowledge.learn(device, 1, [profiled(300, "c"), *lesson(301)], opening=False)
        writer.write(changes(knowledge, knowledge.unsaved_since()))
        assert reader.devices("fluid") == [before]
        assert {one.batch_class for _, one in reader.classes("fluid", "gpu-0")} == {A, B}
    assert {one.batch_class for _, one in reader.classes("fluid", "gpu-0")} == {A, B, C}
    writer.close()
    reader.close()


def test_a_stop_in_the_middle_of_a_write_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "STORE_S", 0.01)
    writing, go_on = threading.Event(), threading.Event()

    class Slow(Store):
        def write(self, changes: Changes) -> None:
            writing.set()
            go_on.wait(10)
            super().write(changes)

    async def scenario() -> KnownDevice:
        knowledge, device = taught(lesson())
        store = Slow(tmp_path / "state")
        keeping = asyncio.create_task(Keeper(store, knowledge).run())
        await asyncio.to_thread(writing.wait, 10)
        knowledge.learn(device, 1, [profiled(300, "c")], opening=False)  # and more comes meanwhile
        keeping.cancel()
        await asyncio.sleep(0.05)
        go_on.set()
        await asyncio.gather(keeping, return_exceptions=True)
        store.close()
        return device

    device = asyncio.run(scenario())
    again = loaded(tmp_path / "state").devices["gpu-0"]
    assert told(again) == told(device)
    assert again.sources == {1: 300}


# ---- those who only try it


def test_the_checks_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "STORE_S", 0.02)
    state = tmp_path / "state"

    async def scenario() -> None:
        store = Store(state)
        service = PredictorService(store)
        run = asyncio.create_task(service.keeper.run())
        async with served(service, tmp_path) as address:
            assert not [result for result in await run_checks(address) if result.complaint]
            passing = set(service.knowledge.devices)
            assert len(passing) > 10  # not at once: the checks come back to them
            assert all(device_id.startswith(DEVICE_PREFIX) for device_id in passing)
            monkeypatch.setattr(keeping, "PASSING_S", 0.0)
            async with asyncio.timeout(10):
                while service.knowledge.devices or service.knowledge.used or service.keeper.stored:
                    await asyncio.sleep(0.02)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        store.close()

    asyncio.run(scenario())
    with contextlib.closing(sqlite3.connect(state)) as database:
        counts = [
            database.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("devices", "classes", "sources")
        ]
    assert counts == [(0,)] * 3


def test_one_who_tries_while_connected_is_not_forgotten_and_others_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "STORE_S", 0.02)
    monkeypatch.setattr(keeping, "PASSING_S", 0.0)

    async def scenario() -> tuple[set[str], set[str]]:
        store = Store(tmp_path / "state")
        service = PredictorService(store)
        run = asyncio.create_task(service.keeper.run())
        async with served(service, tmp_path) as address, open_channel(address) as channel:
            peer = Peer(channel)
            await peer.teach(types_pb2.Device(device_id="gpu-0", resources=RESOURCES), profiled(1))
            source = peer.source(peer.device("stays"))
            source.send(profiled(1))
            await source.acknowledged(1)
            await asyncio.sleep(0.2)
            during = set(service.knowledge.devices)
            await source.close()
            async with asyncio.timeout(10):
                while len(service.knowledge.devices) > 1:
                    await asyncio.sleep(0.02)
            after = set(service.knowledge.devices)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        store.close()
        return during, after

    during, after = asyncio.run(scenario())
    assert len(during) == 2
    assert after == {"gpu-0"} == set(loaded(tmp_path / "state").devices)


def test_those_who_only_try_go_before_devices_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    from cotenant.predictor import knowledge

    monkeypatch.setattr(knowledge, "MAX_DEVICES", 3)
    known_all, _ = taught(lesson())
    for i in range(6):
        known_all.device(DeviceSpec(f"{DEVICE_PREFIX}{i}", "emulated", "", RESOURCES))
    known_all.device(DeviceSpec("gpu-1", "emulated", "another", RESOURCES))
    assert set(known_all.devices) == {"gpu-0", "gpu-1", f"{DEVICE_PREFIX}5"}
