"""The predictor as a process: contract, state that survives kill -9, and a stack that takes another predictor."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

import grpc
import pytest

from cotenant.predictor.store import Store
from cotenant.runtime.server import open_channel
from cotenant.v1 import predictor_pb2, predictor_pb2_grpc
from predictor_contract import Source, check_all, finished, first_push, knows, profiled


@contextlib.contextmanager
def predictor(folder: Path, *flags: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A predictor process; yields its address."""
    address = f"unix:{folder}/predictor.sock"
    process = subprocess.Popen(
        [sys.executable, "-m", "cotenant.predictor", f"--listen={address}", "--metrics=", *flags],
        stderr=subprocess.DEVNULL,
    )
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=20)
        yield address, process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(timeout=10)


def stub_of(channel: grpc.aio.Channel) -> "predictor_pb2_grpc.PredictorServiceAsyncStub":
    return cast("predictor_pb2_grpc.PredictorServiceAsyncStub", predictor_pb2_grpc.PredictorServiceStub(channel))


def test_ours_keeps_the_contract(tmp_path: Path) -> None:
    with predictor(tmp_path) as (address, process):
        asyncio.run(check_all(address))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0


def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    state = f"--state={tmp_path / 'state' / 'predictor.sqlite'}"

    async def teach(address: str) -> None:
        async with open_channel(address) as channel:
            source = Source(stub_of(channel), "gpu-0", 7)
            source.send(profiled(1), profiled(2, "b"), *(finished(i, "a", 18.0, beside="b") for i in range(3, 60)))
            await source.acknowledged(59)

    async def learned(address: str) -> predictor_pb2.WatchEstimatesResponse:
        async with open_channel(address) as channel:
            return await first_push(stub_of(channel))

    with predictor(tmp_path, state) as (address, process):
        asyncio.run(teach(address))
        before = asyncio.run(learned(address))
        process.kill()
        process.wait()
    (tmp_path / "predictor.sock").unlink(missing_ok=True)
    with predictor(tmp_path, state) as (address, _):
        after = asyncio.run(learned(address))
        # It goes on where it was: what is sent again is not learned twice.
        asyncio.run(teach(address))
        again = asyncio.run(learned(address))
    assert knows(after, "a")
    by_name = {c.batch_class.model: c for c in before.classes}
    for c in after.classes:
        assert c.work_ns == by_name[c.batch_class.model].work_ns
        assert list(c.sensitivity) == list(by_name[c.batch_class.model].sensitivity)
        assert c.sample_count == by_name[c.batch_class.model].sample_count
    assert {c.batch_class.model: c.sample_count for c in again.classes} == {
        c.batch_class.model: c.sample_count for c in after.classes
    }
    assert [(x.incarnation, x.sequence) for x in after.learned_through] == [(7, 59)]


def test_kills_at_any_instant_never_corrupt_the_state(tmp_path: Path) -> None:
    state = tmp_path / "predictor.sqlite"

    async def flood(address: str, process: subprocess.Popen[bytes], incarnation: int) -> None:
        async with open_channel(address) as channel:
            source = Source(stub_of(channel), "gpu-0", incarnation)
            for start in range(1, 3000, 100):
                source.send(*(finished(i, f"m{i % 50}", 18.0, beside="b") for i in range(start, start + 100)))
            await asyncio.sleep(0.35 + 0.13 * incarnation)
            process.kill()

    for incarnation in range(1, 5):
        with predictor(tmp_path, f"--state={state}") as (address, process):
            with contextlib.suppress(grpc.aio.AioRpcError):
                asyncio.run(flood(address, process, incarnation))
            process.wait()
        (tmp_path / "predictor.sock").unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(state)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        store = Store(state)
        devices, seen = store.read()
        store.close()
        known = devices["gpu-0"] if devices else None
        stored = sum(known.learner.estimate(c).sample_count for c in known.classes) if known else 0
        # What is marked as seen was learned, and the other way round: both come from one transaction.
        assert stored <= sum(seen.values())
        assert bool(stored) == bool(seen)


def test_state_of_a_newer_version_is_refused_and_garbage_is_told(tmp_path: Path) -> None:
    state = tmp_path / "predictor.sqlite"
    Store(state).close()
    with contextlib.closing(sqlite3.connect(state)) as database:
        database.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
        database.commit()
    command = [sys.executable, "-m", "cotenant.predictor", f"--state={state}", f"--listen=unix:{tmp_path}/p.sock"]
    told = subprocess.run([*command, "--metrics="], capture_output=True, text=True, check=False, timeout=30)
    assert told.returncode != 0
    assert "newer" in told.stderr
    state.write_bytes(os.urandom(4096))
    told = subprocess.run([*command, "--metrics="], capture_output=True, text=True, check=False, timeout=30)
    assert told.returncode != 0
    assert "not a database" in told.stderr


def test_bad_questions_get_an_answer_that_names_them(tmp_path: Path) -> None:
    async def ask(address: str) -> None:
        async with open_channel(address) as channel:
            stub = stub_of(channel)
            with pytest.raises(grpc.aio.AioRpcError, match="levels must be in"):
                async for _ in stub.WatchEstimates(predictor_pb2.WatchEstimatesRequest(levels=[1.5])):
                    pass
            question = predictor_pb2.EstimateColocationRequest(level=-1)
            with pytest.raises(grpc.aio.AioRpcError, match="level must be in"):
                await stub.EstimateColocation(question)

            async def no_hello() -> AsyncIterator[predictor_pb2.ObserveRequest]:
                yield predictor_pb2.ObserveRequest(events=[profiled(1)])

            with pytest.raises(grpc.aio.AioRpcError, match="hello"):
                async for _ in stub.Observe(no_hello()):
                    pass

    with predictor(tmp_path) as (address, _):
        asyncio.run(ask(address))
