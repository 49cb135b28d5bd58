"""The predictor as a process: contract, state that survives kill -9, broken peers, what moves from file to file."""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cotenant.predictor import transfer
from cotenant.predictor.contract.__main__ import main as check
from cotenant.predictor.contract.peer import RESOURCES, Peer, Source, Subscriber, batch_class, finished, profiled
from cotenant.predictor.keeping import load
from cotenant.predictor.knowledge import Knowledge
from cotenant.predictor.store import Store
from cotenant.runtime.server import open_channel
from cotenant.v1 import predictor_pb2, types_pb2

GPU = types_pb2.Device(device_id="gpu-0", kind="emulated", name="made-up GPU", resources=RESOURCES)


@contextlib.contextmanager
def predictor(folder: Path, *flags: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A predictor process; yields its address."""
    address = f"unix:{folder}/predictor.sock"
    (folder / "predictor.sock").unlink(missing_ok=True)
    with (folder / "predictor.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cotenant.predictor", f"--listen={address}", "--metrics=", *flags], stderr=log
        )
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=20)
        yield address, process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(timeout=10)


@contextlib.asynccontextmanager
async def peer_at(address: str) -> AsyncIterator[Peer]:
    async with open_channel(address) as channel:
        yield Peer(channel)


def lesson(slowdown: float = 1.8, start: int = 3) -> list[Any]:
    pairs = (finished(i, "ab"[i % 2], 10 * slowdown, "ba"[i % 2]) for i in range(start, start + 57))
    return [profiled(1), profiled(2, "b"), *pairs]


async def taught(address: str, device: types_pb2.Device = GPU, *, incarnation: int = 7) -> None:
    async with peer_at(address) as peer:
        await peer.teach(device, *lesson(), incarnation=incarnation)


async def believed(address: str) -> Subscriber:
    """What a new subscriber is told."""
    async with peer_at(address) as peer:
        subscriber = peer.watch()
        await subscriber.next()
        subscriber.close()
        return subscriber


def loaded(state: Path, learner: str = "fluid") -> Knowledge:
    store, found = Store(state), Knowledge(learner)
    load(store, found)
    store.close()
    return found


# ---- the contract


def test_ours_keeps_the_contract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with predictor(tmp_path) as (address, process):
        assert check([address, "--patience=30"]) == 0, capsys.readouterr().out
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    assert "18 of 18 checks passed" in capsys.readouterr().out


@pytest.mark.long
def test_one_that_can_only_tell_sets_keeps_it_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with predictor(tmp_path, "--learner=static-rls", f"--state={tmp_path / 'state'}") as (address, _):
        assert check([address, "--patience=30"]) == 0, capsys.readouterr().out


def test_nobody_at_the_address_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(["unix:/nowhere.sock", "--patience=0.5"]) == 2
    assert "nobody answers at unix:/nowhere.sock" in capsys.readouterr().err


# ---- state


def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    state = f"--state={tmp_path / 'state' / 'predictor.sqlite'}"
    with predictor(tmp_path, state) as (address, process):
        asyncio.run(taught(address))
        before = asyncio.run(believed(address))
        process.kill()
        process.wait()
    with predictor(tmp_path, state) as (address, _):
        after = asyncio.run(believed(address))
        asyncio.run(taught(address))  # it goes on where it was: what is sent again is not learned twice
        again = asyncio.run(believed(address))
    assert {c.model for c in before.table("gpu-0").classes} == {"a", "b"}
    assert after.table("gpu-0").classes == before.table("gpu-0").classes
    assert again.table("gpu-0").classes == before.table("gpu-0").classes
    assert after.learned == {("gpu-0", 7): 59}


def test_what_was_sent_is_safe_within_a_second(tmp_path: Path) -> None:
    """A kill loses at most what came in the last second (three here: a test machine may be busy)."""
    state = tmp_path / "predictor.sqlite"

    async def send(address: str, process: subprocess.Popen[bytes]) -> int:
        async with peer_at(address) as peer:
            source = peer.source(GPU)
            sent: list[tuple[float, int]] = []
            until = time.monotonic() + 4.0
            while time.monotonic() < until:
                sequence = len(sent) + 1
                source.send(finished(sequence, "a", 18.0, beside="b"))
                sent.append((time.monotonic(), sequence))
                await asyncio.sleep(0.01)
            killed = time.monotonic()
            process.kill()
            return max(sequence for at, sequence in sent if at < killed - 3.0)

    with predictor(tmp_path, f"--state={state}") as (address, process):
        old_enough = asyncio.run(send(address, process))
        process.wait()
    assert loaded(state).devices["gpu-0"].sources[1] >= old_enough > 50


def test_kills_at_any_instant_never_corrupt_the_state(tmp_path: Path) -> None:
    state = tmp_path / "predictor.sqlite"

    async def flood(address: str, process: subprocess.Popen[bytes], incarnation: int) -> None:
        async with peer_at(address) as peer:
            source = peer.source(GPU, incarnation)
            for start in range(1, 3000, 100):
                source.send(*(finished(i, f"m{i % 50}", 18.0, beside="b") for i in range(start, start + 100)))
            await asyncio.sleep(0.35 + 0.13 * incarnation)
            process.kill()

    for incarnation in range(1, 5):
        with predictor(tmp_path, f"--state={state}") as (address, process):
            with contextlib.suppress(grpc.aio.AioRpcError):
                asyncio.run(flood(address, process, incarnation))
            process.wait()
        with contextlib.closing(sqlite3.connect(state)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        # What is marked as seen was learned, and the other way round: both come from one transaction.
        known = loaded(state).devices.get("gpu-0")
        assert (known.batches if known else 0) == sum(known.sources.values() if known else ())


def test_state_of_another_version_and_garbage_are_told(tmp_path: Path) -> None:
    state = tmp_path / "predictor.sqlite"
    command = [sys.executable, "-m", "cotenant.predictor", f"--state={state}", f"--listen=unix:{tmp_path}/p.sock"]

    def complaint() -> str:
        told = subprocess.run([*command, "--metrics="], capture_output=True, text=True, check=False, timeout=30)
        assert told.returncode != 0
        return told.stderr

    for version, age in (("99", "newer"), ("1", "older")):
        state.unlink(missing_ok=True)
        Store(state).close()
        with contextlib.closing(sqlite3.connect(state)) as database:
            database.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (version,))
            database.commit()
        assert f"state of version {version} is {age}" in complaint()
    state.write_bytes(os.urandom(4096))
    assert "not a database" in complaint()


def test_two_predictors_cannot_share_a_state(tmp_path: Path) -> None:
    state = tmp_path / "predictor.sqlite"
    with predictor(tmp_path, f"--state={state}"):
        command = [sys.executable, "-m", "cotenant.predictor", f"--state={state}", f"--listen=unix:{tmp_path}/q.sock"]
        told = subprocess.run([*command, "--metrics="], capture_output=True, text=True, check=False, timeout=30)
    assert told.returncode != 0
    assert "another process uses this state" in told.stderr


def test_a_disk_that_is_full_stops_acknowledgements_and_nothing_else(tmp_path: Path) -> None:
    from cotenant.predictor.service import PredictorService

    class Full(Store):
        full = True

        def write(self, changes: Any) -> None:
            if self.full:
                raise sqlite3.OperationalError("database or disk is full")
            super().write(changes)

    async def scenario() -> None:
        store = Full(tmp_path / "state")
        service = PredictorService(store)
        device = service.knowledge.device(knowledge_spec())
        service.knowledge.learn(device, 1, lesson(), opening=True)
        await service.keeper.save()
        assert service.keeper.failures == 1
        assert service.keeper.stored == {}
        store.full = False
        await service.keeper.save()
        assert service.keeper.stored == {("gpu-0", 1): 59}
        store.close()

    asyncio.run(scenario())
    assert loaded(tmp_path / "state").devices["gpu-0"].batches == 57


def knowledge_spec() -> Any:
    from cotenant.predictor.known_device import read_spec

    return read_spec(GPU)


def test_what_ran_least_recently_is_forgotten_first_after_a_restart_too(tmp_path: Path) -> None:
    from cotenant.predictor.kept import changes

    state, before = tmp_path / "state", Knowledge()
    store = Store(state)
    for i, models in enumerate((("a", "b"), ("c",), ("a",)), start=1):
        device = before.device(knowledge_spec())
        before.learn(device, i, [profiled(n, model) for n, model in enumerate(models, start=1)], opening=True)
        store.write(changes(before, before.unsaved_since()))
    store.close()
    after = loaded(state)
    assert [c.model for _, c in after.used] == [c.model for _, c in before.used] == ["b", "c", "a"]
    assert after.devices["gpu-0"].sources == {1: 2, 2: 1, 3: 1}


def test_a_new_device_of_the_same_make_starts_from_its_sibling(tmp_path: Path) -> None:
    twin = types_pb2.Device(device_id="gpu-1", kind=GPU.kind, name=GPU.name, resources=RESOURCES)

    async def play(address: str) -> Subscriber:
        await taught(address)
        async with peer_at(address) as peer:
            sources = [peer.source(twin, incarnation) for incarnation in (1, 2)]  # at once: it is made only once
            for source in sources:
                source.send(profiled(1, "c"))
                await source.acknowledged(1)
                await source.close()
        return await believed(address)

    state = f"--state={tmp_path / 'state'}"
    with predictor(tmp_path, state) as (address, _):
        told = asyncio.run(play(address))
    with predictor(tmp_path, state) as (address, _):
        again = asyncio.run(believed(address))
    for subscriber in (told, again):
        basis = {c.model: e.basis for c, e in subscriber.table("gpu-1").classes.items()}
        assert basis["a"] == basis["b"] == predictor_pb2.BASIS_SIBLING
        assert basis["c"] == predictor_pb2.BASIS_PROFILE
        elder, younger = subscriber.slowdown("gpu-0", "a", "b"), subscriber.slowdown("gpu-1", "a", "b")
        assert younger == pytest.approx(elder, rel=0.01)


def test_a_sibling_that_cannot_be_copied_leaves_its_solo_times(monkeypatch: pytest.MonkeyPatch) -> None:
    from cotenant.predictor.device_model import DeviceModel
    from cotenant.predictor.service import PredictorService

    def fail(*_: object) -> None:
        raise RuntimeError("cannot be pickled")

    async def scenario() -> None:
        service = PredictorService(Store(None))
        device = service.knowledge.device(knowledge_spec())
        service.knowledge.learn(device, 1, lesson(), opening=True)
        monkeypatch.setattr(DeviceModel, "dump_class", fail)
        twin = dataclasses.replace(device.spec, device_id="gpu-1")
        made = service.knowledge.device(twin, await service._copy_of_elder(twin))
        assert {c.model: made.estimate(c, ()).work_ns for c in made.model.classes} == pytest.approx(
            {"a": 10_000_000, "b": 10_000_000}, rel=0.05
        )

    asyncio.run(scenario())


# ---- learners


def test_another_learner_starts_from_solo_times_and_destroys_nothing(tmp_path: Path) -> None:
    state = f"--state={tmp_path / 'predictor.sqlite'}"
    with predictor(tmp_path, state) as (address, _):
        asyncio.run(taught(address))
        ours = asyncio.run(believed(address)).table("gpu-0").classes
    with predictor(tmp_path, state, "--learner=static-rls") as (address, _):
        theirs = asyncio.run(believed(address)).table("gpu-0").classes
        asyncio.run(taught(address, incarnation=8))
    assert {c: e.work_ns for c, e in theirs.items()} == {c: e.work_ns for c, e in ours.items()}
    assert all(not e.sensitivity for e in theirs.values())
    with predictor(tmp_path, state) as (address, _):
        assert asyncio.run(believed(address)).table("gpu-0").classes == ours


def test_bytes_that_a_learner_cannot_read_any_more_leave_the_solo_times(tmp_path: Path) -> None:
    state = tmp_path / "predictor.sqlite"
    with predictor(tmp_path, f"--state={state}") as (address, _):
        asyncio.run(taught(address))
    with contextlib.closing(sqlite3.connect(state)) as database:
        database.execute("UPDATE classes SET state = x'00' WHERE model = 'a'")
        database.commit()
    device = loaded(state).devices["gpu-0"]
    works = {c.model: device.estimate(c, (0.9,)).work_ns for c in device.model.classes}
    assert works == pytest.approx({"a": 10_000_000, "b": 10_000_000}, rel=0.05)


def test_a_learner_that_does_not_exist_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cotenant.predictor", "--metrics=", f"--listen=unix:{tmp_path}/p.sock"]
    told = subprocess.run([*command, "--learner=nope"], capture_output=True, text=True, check=False, timeout=30)
    assert told.returncode != 0
    assert "there is no learner 'nope'" in told.stderr
    environment = {**os.environ, "COTENANT_PREDICTOR_LEARNER": "no.such.Thing"}
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, env=environment)
    assert "no.such.Thing" in told.stderr


# ---- from file to file


def test_a_new_device_starts_from_an_exported_sibling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, other, file = tmp_path / "one.sqlite", tmp_path / "two.sqlite", tmp_path / "siblings.json"
    with predictor(tmp_path, f"--state={state}") as (address, _):
        asyncio.run(taught(address))
        before = asyncio.run(believed(address)).table("gpu-0").classes
        transfer.main(["export", "--state", str(state), str(file)])  # while it runs
    transfer.main(["import", "--state", str(other), str(file), "--as", "gpu-9"])
    assert capsys.readouterr().out == "exported 1 device\nimported 1 device\n"
    with predictor(tmp_path, f"--state={other}") as (address, _):
        after = asyncio.run(believed(address)).table("gpu-9").classes
    assert {c: (e.work_ns, e.demand, e.sensitivity) for c, e in after.items()} == {
        c: (e.work_ns, e.demand, e.sensitivity) for c, e in before.items()
    }
    assert {e.basis for e in after.values()} == {predictor_pb2.BASIS_SIBLING}
    document = json.loads(file.read_text())
    assert (document["format"], document["version"]) == ("cotenant-predictor-state", 1)
    (device,) = document["devices"]
    assert (device["learner"], device["device"]["name"]) == ("fluid", "made-up GPU")
    assert {c["batch_class"]["model"]: c["demand"] for c in device["classes"]} == {"a": [0.8, 0.4, 0.6]} | {
        "b": [0.8, 0.4, 0.6]
    }


def test_import_refuses_what_would_be_lost_or_is_none(tmp_path: Path) -> None:
    state, file = tmp_path / "one.sqlite", tmp_path / "state.json"
    with pytest.raises(ValueError, match="there is no state"):
        transfer.export_state(state, file)
    with predictor(tmp_path, f"--state={state}") as (address, _):
        asyncio.run(taught(address))
        asyncio.run(taught(address, types_pb2.Device(device_id="gpu-1", resources=RESOURCES)))
    assert transfer.export_state(state, file) == 2
    with pytest.raises(ValueError, match="'gpu-0' is known already"):
        transfer.import_state(state, file)
    with pytest.raises(ValueError, match=r"holds gpu-0, gpu-1; say with --device"):
        transfer.import_state(state, file, as_device="gpu-2")
    with pytest.raises(ValueError, match="no device 'nope'"):
        transfer.import_state(state, file, device_id="nope")
    assert transfer.import_state(state, file, device_id="gpu-0", replace=True) == 1
    store = Store(state)
    with pytest.raises(ValueError, match="another process"):
        transfer.import_state(state, file, device_id="gpu-0", as_device="gpu-5")
    store.close()
    for text, message in (
        ("[]", "no exported state"),
        ("{}", "no exported state: format is None"),
        ('{"format": "cotenant-predictor-state", "version": 9}', "version 9"),
        ('{"format": "cotenant-predictor-state", "version": 1, "devices": 3}', "damaged"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            transfer.import_state(state, file)


# ---- peers


def test_bad_questions_get_an_answer_that_names_them(tmp_path: Path) -> None:
    crowd = [types_pb2.BatchClass(model="a", version="1", batch_size=1)] * 100

    async def ask(address: str) -> None:
        async with peer_at(address) as peer:
            for request, message in (
                (predictor_pb2.WatchEstimatesRequest(levels=[0.5] * 33), "at most 32 levels"),
                (
                    predictor_pb2.WatchEstimatesRequest(interests=[predictor_pb2.Colocation(batches=crowd)]),
                    "at most 64 batches",
                ),
            ):
                with pytest.raises(grpc.aio.AioRpcError, match=message):
                    await peer.stub.WatchEstimates(request).read()
            for batches, level, message in (
                ([], 0.9, "1 to 64"),
                (crowd, 0.9, "1 to 64"),
                (crowd[:1], -1, "level must"),
            ):
                question = predictor_pb2.EstimateColocationRequest(level=level)
                question.colocation.batches.extend(batches)
                with pytest.raises(grpc.aio.AioRpcError, match=message):
                    await peer.stub.EstimateColocation(question)

    with predictor(tmp_path) as (address, _):
        asyncio.run(ask(address))


def test_the_answer_about_a_set_names_the_resource_and_what_it_rests_on(tmp_path: Path) -> None:
    async def ask(address: str) -> predictor_pb2.EstimateColocationResponse:
        async with peer_at(address) as peer:
            await peer.teach(GPU, *lesson(), profiled(60, "c"))
            question = predictor_pb2.EstimateColocationRequest(level=0.9)
            question.colocation.device_id = "gpu-0"
            question.colocation.batches.extend(map(batch_class, "abc"))
            return await peer.stub.EstimateColocation(question)

    with predictor(tmp_path) as (address, _):
        answer = asyncio.run(ask(address))
    assert "sm is oversubscribed: 240% of it is asked for, 80% by a:1 x1" in answer.explanation
    assert "not measured yet: c:1 x1" in answer.explanation
    assert [m.work_ns for m in answer.members] == pytest.approx([10_000_000] * 3, rel=0.05)
    assert [m.sample_count > 0 for m in answer.members] == [True, True, False]
    # Three equal batches, each slowed s times, end after s times 10 ms: 3 / s as fast as one after another.
    slowest = max(m.slowdown for m in answer.members)
    assert 3 / slowest - 0.05 <= answer.throughput_gain <= 3.0


def test_frames_that_are_none_end_their_stream_and_no_other(tmp_path: Path) -> None:
    async def send(address: str) -> None:
        async with peer_at(address) as peer, open_channel(address) as raw:
            other = peer.source(GPU)
            other.send(profiled(1))
            await other.acknowledged(1)
            call: Any = raw.stream_stream("/cotenant.v1.PredictorService/Observe")
            hello = predictor_pb2.ObserveRequest()
            hello.hello.device.CopyFrom(types_pb2.Device(device_id="gpu-1", resources=RESOURCES))
            name = b"\xff\xfe no text"
            event = b"\x52" + bytes([len(name) + 4]) + b"\x0a" + bytes([len(name) + 2]) + b"\x0a" + bytes([len(name)])
            poison = b"\x12" + bytes([len(event + name)]) + event + name

            async def frames(*broken: bytes) -> AsyncIterator[bytes]:
                yield hello.SerializeToString()
                for frame in broken:
                    yield frame

            for broken in (poison, b"\x12\xff\xff\xff\xff", b"garbage"):
                with pytest.raises(grpc.aio.AioRpcError):
                    async for _ in call(frames(broken)):
                        pass
            with pytest.raises(grpc.aio.AioRpcError):
                async for _ in call(_one(b"\xff\xff")):
                    pass
            other.send(finished(2, "a", 12.0))
            await other.acknowledged(2)
            # An executor that ends its stream properly is told of everything before it ends.
            told = [response async for response in call(frames(_frame(*lesson())))]
            last = predictor_pb2.ObserveResponse.FromString(told[-1])
            assert last.acknowledged_sequence == 59

    with predictor(tmp_path) as (address, process):
        asyncio.run(send(address))
        assert process.poll() is None


async def _one(frame: bytes) -> AsyncIterator[bytes]:
    yield frame


def _frame(*events: Any) -> bytes:
    return predictor_pb2.ObserveRequest(events=events).SerializeToString()


def test_an_executor_that_vanishes_again_and_again_loses_nothing(tmp_path: Path) -> None:
    async def play(address: str) -> Subscriber:
        async with peer_at(address) as peer:
            for start in range(1, 20):
                source: Source = peer.source(GPU)
                source.send(*lesson()[: start * 3])
                await asyncio.sleep(0.01)
                await source.close()
            await peer.teach(GPU, *lesson())
        return await believed(address)

    with predictor(tmp_path) as (address, _):
        told = asyncio.run(play(address))
    assert sum(e.sample_count for e in told.table("gpu-0").classes.values()) == 57


def test_the_log_tells_a_flood_of_garbage_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cotenant.predictor import keeping
    from cotenant.predictor.service import PredictorService

    lines: list[tuple[str, dict[str, Any]]] = []

    class Log:
        def warning(self, event: str, **more: Any) -> None:
            lines.append((event, more))

    async def scenario() -> None:
        service = PredictorService(Store(None))
        device = service.knowledge.device(knowledge_spec())
        service.knowledge.learn(device, 1, [finished(i, "", 1.0) for i in range(1, 5000)], opening=True)
        service.keeper._tell_rejected()
        service.keeper._tell_rejected()

    monkeypatch.setattr(keeping, "_log", Log())
    asyncio.run(scenario())
    assert lines == [("events not learned", {"counts": {"class": 4999}, "last": {"class": "'' x1"}})]


def test_metrics_tell_what_was_not_learned() -> None:
    from prometheus_client import generate_latest

    from cotenant.predictor.metrics import PredictorMetrics
    from cotenant.predictor.service import PredictorService

    async def scenario() -> str:
        service = PredictorService(Store(None))
        device = service.knowledge.device(knowledge_spec())
        service.knowledge.learn(device, 1, [*lesson(), finished(60, "", 1.0), finished(70, "a", 18.0)], opening=True)
        return generate_latest(PredictorMetrics(service).registry).decode()

    text = asyncio.run(scenario())
    assert 'cotenant_predictor_events_rejected_total{reason="class"} 1.0' in text
    assert "cotenant_predictor_events_missed_total 9.0" in text
    assert 'cotenant_predictor_classes{device="gpu-0"} 2.0' in text
    assert 'cotenant_predictor_batches{device="gpu-0"} 58.0' in text
