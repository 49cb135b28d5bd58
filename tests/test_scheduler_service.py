"""The scheduler as a process, seen by executors and frontends that misbehave."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from cotenant.runtime.server import open_channel
from cotenant.v1 import executor_pb2, scheduler_pb2, scheduler_pb2_grpc, types_pb2


@contextlib.contextmanager
def scheduler(folder: Path) -> Iterator[str]:
    address = f"unix:{folder}/scheduler.sock"
    flags = [f"--listen={address}", "--predictor=", "--metrics="]
    process = subprocess.Popen([sys.executable, "-m", "cotenant.scheduler", *flags], stderr=subprocess.DEVNULL)
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=20)
        yield address
    finally:
        process.terminate()
        assert process.wait(timeout=10) == 0


def executor_hello(incarnation: int, device_id: str = "gpu-0") -> scheduler_pb2.ConnectExecutorRequest:
    frame = scheduler_pb2.ConnectExecutorRequest()
    frame.hello.device.CopyFrom(types_pb2.Device(device_id=device_id, kind="emulated", max_concurrency=2))
    frame.hello.incarnation = incarnation
    frame.hello.address = "unix:/nowhere"
    return frame


Frame = scheduler_pb2.ConnectExecutorRequest


async def welcomed(call: Any) -> bool:
    """Whether the scheduler answers a hello with its own."""
    return bool((await call.read()).HasField("hello"))


async def until_it_ends(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def held_open(*frames: Frame) -> AsyncIterator[Frame]:
    for frame in frames:
        yield frame
    while True:
        await asyncio.sleep(0.1)
        ping = scheduler_pb2.ConnectExecutorRequest()
        ping.ping.sent_ns = 1
        yield ping


def play(folder: Path, scenario: Callable[["scheduler_pb2_grpc.SchedulerServiceAsyncStub"], Awaitable[None]]) -> None:
    async def run(address: str) -> None:
        async with open_channel(address) as channel:
            stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
            await scenario(cast("scheduler_pb2_grpc.SchedulerServiceAsyncStub", stub))

    with scheduler(folder) as address:
        asyncio.run(run(address))


def test_two_executors_under_one_device_id_do_not_push_each_other_out(tmp_path: Path) -> None:
    async def scenario(stub: "scheduler_pb2_grpc.SchedulerServiceAsyncStub") -> None:
        first = stub.ConnectExecutor(held_open(executor_hello(1)))
        assert await welcomed(first)
        with pytest.raises(grpc.aio.AioRpcError, match="'gpu-0' is in use") as refused:
            await stub.ConnectExecutor(held_open(executor_hello(2))).read()
        assert refused.value.code() == grpc.StatusCode.ALREADY_EXISTS
        first.cancel()
        await asyncio.sleep(0.2)
        again = stub.ConnectExecutor(held_open(executor_hello(2)))  # the first has gone: its place is free
        assert await welcomed(again)
        again.cancel()

    play(tmp_path, scenario)


def test_garbage_gets_its_error_and_the_scheduler_goes_on(tmp_path: Path) -> None:
    async def scenario(stub: "scheduler_pb2_grpc.SchedulerServiceAsyncStub") -> None:
        with pytest.raises(grpc.aio.AioRpcError, match="hello with a device_id"):
            await stub.ConnectExecutor(held_open(scheduler_pb2.ConnectExecutorRequest())).read()
        broken = executor_hello(1)
        broken.hello.loaded.add(model="m", version="1", model_config=b"\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError, match="not a serialised ModelConfig"):
            await stub.ConnectExecutor(held_open(broken)).read()
        spoiled = scheduler_pb2.ConnectExecutorRequest()
        loaded = executor_pb2.ExecutorEvent(sequence=1)
        loaded.model_loaded.model_config = b"\xff\xff"
        spoiled.events.append(loaded)
        stream = stub.ConnectExecutor(held_open(executor_hello(1, "gpu-1"), spoiled))
        with pytest.raises(grpc.aio.AioRpcError, match="not a serialised ModelConfig"):
            await until_it_ends(stream)
        status = await stub.GetStatus(scheduler_pb2.GetStatusRequest())
        assert status.policy == "goodput"

    play(tmp_path, scenario)


def test_a_load_that_nobody_can_do_is_told(tmp_path: Path) -> None:
    async def scenario(stub: "scheduler_pb2_grpc.SchedulerServiceAsyncStub") -> None:
        with pytest.raises(grpc.aio.AioRpcError, match="no executor is connected"):
            await stub.LoadModel(scheduler_pb2.LoadModelRequest(model="m"))
        await stub.UnloadModel(scheduler_pb2.UnloadModelRequest(model="m"))
        assert list((await stub.ListModels(scheduler_pb2.ListModelsRequest())).models) == []

    play(tmp_path, scenario)


def test_what_an_executor_tells_of_its_gpu_is_shown_and_what_only_later_versions_know_is_counted(
    tmp_path: Path,
) -> None:
    throttled = executor_pb2.DeviceState(
        sm_clock_mhz=1200,
        throttle_reasons_known=True,
        throttle_reasons=[executor_pb2.THROTTLE_REASON_POWER_CAP],
    )
    later = executor_pb2.ExecutorEvent.FromString(
        executor_pb2.ExecutorEvent(sequence=2, at_ns=2).SerializeToString() + b"\xea\x01\x02\x08\x01"  # number 29
    )
    told = Frame(events=[executor_pb2.ExecutorEvent(sequence=1, at_ns=1, device_state=throttled), later])

    async def scenario(stub: "scheduler_pb2_grpc.SchedulerServiceAsyncStub") -> None:
        stream = stub.ConnectExecutor(held_open(executor_hello(1), told))
        acknowledged = 0
        while acknowledged < 2:
            frame = cast("scheduler_pb2.ConnectExecutorResponse", await stream.read())
            acknowledged = max(acknowledged, frame.acknowledged_sequence)
        status = await stub.GetStatus(scheduler_pb2.GetStatusRequest())
        assert [device.state for device in status.devices] == [throttled]
        stream.cancel()

    play(tmp_path, scenario)
