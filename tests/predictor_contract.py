"""What any predictor must do, run against an address. Ours and every foreign one pass the same checks.

`check_all(address)` raises AssertionError with what is wrong.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import cast

import grpc

from cotenant.runtime.server import open_channel
from cotenant.v1 import executor_pb2, predictor_pb2, predictor_pb2_grpc, types_pb2

MS = 1_000_000
RESOURCES = ("sm", "l2", "dram")
PATIENCE_S = 10.0

Stub = "predictor_pb2_grpc.PredictorServiceAsyncStub"


def batch_class(model: str = "a", size: int = 1) -> types_pb2.BatchClass:
    return types_pb2.BatchClass(model=model, version="1", batch_size=size)


def profiled(sequence: int, model: str = "a", work_ms: float = 10.0) -> executor_pb2.ExecutorEvent:
    event = executor_pb2.ExecutorEvent(sequence=sequence, at_ns=sequence)
    event.class_profiled.batch_class.CopyFrom(batch_class(model))
    event.class_profiled.work_ns = int(work_ms * MS)
    event.class_profiled.demand.extend([0.8, 0.4, 0.6])
    return event


def finished(sequence: int, model: str, duration_ms: float, beside: str = "") -> executor_pb2.ExecutorEvent:
    event = executor_pb2.ExecutorEvent(sequence=sequence, at_ns=sequence)
    batch = event.batch_finished
    batch.batch_id, batch.duration_ns = sequence, int(duration_ms * MS)
    batch.batch_class.CopyFrom(batch_class(model))
    part = batch.slices.add(duration_ns=batch.duration_ns)
    if beside:
        part.co_runners.append(batch_class(beside))
    batch.forecast.work_ns = batch.forecast.duration_ns = 10 * MS
    batch.forecast.co_runner_count = int(bool(beside))
    return event


class Source:
    """An executor's stream of events."""

    def __init__(self, stub: "predictor_pb2_grpc.PredictorServiceAsyncStub", device: str, incarnation: int) -> None:
        self._frames: asyncio.Queue[predictor_pb2.ObserveRequest | None] = asyncio.Queue()
        hello = predictor_pb2.ObserveRequest()
        hello.hello.device.CopyFrom(types_pb2.Device(device_id=device, kind="emulated", resources=RESOURCES))
        hello.hello.incarnation = incarnation
        self._frames.put_nowait(hello)
        self._call = stub.Observe(self._iterate())

    async def _iterate(self) -> AsyncIterator[predictor_pb2.ObserveRequest]:
        while (frame := await self._frames.get()) is not None:
            yield frame

    def send(self, *events: executor_pb2.ExecutorEvent) -> None:
        self._frames.put_nowait(predictor_pb2.ObserveRequest(events=events))

    async def acknowledged(self, sequence: int) -> None:
        """Waits for an acknowledgement of at least this sequence."""
        async with asyncio.timeout(PATIENCE_S):
            async for response in self._call:
                if response.acknowledged_sequence >= sequence:
                    return
        raise AssertionError(f"sequence {sequence} was never acknowledged")

    async def close(self) -> None:
        self._frames.put_nowait(None)
        self._call.cancel()


async def first_push(stub: "predictor_pb2_grpc.PredictorServiceAsyncStub") -> predictor_pb2.WatchEstimatesResponse:
    call = stub.WatchEstimates(predictor_pb2.WatchEstimatesRequest(levels=[0.9, 0.99]))
    async with asyncio.timeout(PATIENCE_S):
        async for push in call:
            call.cancel()
            return push
    raise AssertionError("no estimates were pushed")


def knows(push: predictor_pb2.WatchEstimatesResponse, model: str) -> bool:
    return any(c.batch_class.model == model for c in push.classes) or any(
        s.batch_class.model == model for s in push.sets
    )


async def acknowledges_what_it_was_sent(stub: "predictor_pb2_grpc.PredictorServiceAsyncStub") -> None:
    source = Source(stub, "contract-0", 1)
    source.send(profiled(1), profiled(2, "b"), finished(3, "a", 15.0, beside="b"))
    await source.acknowledged(3)
    await source.close()


async def ignores_what_it_has_seen(stub: "predictor_pb2_grpc.PredictorServiceAsyncStub") -> None:
    source = Source(stub, "contract-0", 1)
    source.send(profiled(1), finished(3, "a", 15.0, beside="b"), finished(4, "a", 15.0, beside="b"))
    await source.acknowledged(4)
    await source.close()


async def the_first_push_is_complete(stub: "predictor_pb2_grpc.PredictorServiceAsyncStub") -> None:
    push = await first_push(stub)
    assert push.complete, "the first push must be complete"
    assert push.version > 0, "versions count from 1"


async def versions_increase_and_levels_are_honoured(stub: "predictor_pb2_grpc.PredictorServiceAsyncStub") -> None:
    source = Source(stub, "contract-1", 1)
    call = stub.WatchEstimates(predictor_pb2.WatchEstimatesRequest(levels=[0.9, 0.99]))
    versions: list[int] = []
    async with asyncio.timeout(PATIENCE_S):
        async for push in call:
            versions.append(push.version)
            for c in push.classes:
                for quantile in c.quantiles:
                    assert quantile.factor >= 1.0, "a bound below the forecast is none"
                    assert 0.0 < quantile.level < 1.0
            if len(versions) == 1:
                source.send(*(profiled(i, f"m{i}") for i in range(1, 4)))
            elif len(versions) == 2:
                source.send(*(finished(i, "m1", 20.0, beside="m2") for i in range(4, 40)))
            else:
                break
    call.cancel()
    await source.close()
    assert versions == sorted(set(versions)), "versions must increase"


async def broken_events_harm_nothing(stub: "predictor_pb2_grpc.PredictorServiceAsyncStub") -> None:
    source = Source(stub, "contract-2", 1)
    absurd = finished(2, "a", 10.0)
    absurd.batch_finished.duration_ns = 2**63
    nameless = finished(3, "", 10.0)
    nan = profiled(4)
    nan.class_profiled.demand[0] = float("nan")
    unknown = executor_pb2.ExecutorEvent(sequence=5)
    source.send(profiled(1), absurd, nameless, nan, unknown, finished(9, "a", 12.0))
    await source.acknowledged(9)
    await source.close()
    push = await first_push(stub)
    for c in push.classes:
        numbers = [*c.demand, *c.sensitivity, *(q.factor for q in c.quantiles)]
        assert all(math.isfinite(n) for n in numbers), f"estimates of {c.batch_class} are not finite"


async def answers_about_a_set(stub: "predictor_pb2_grpc.PredictorServiceAsyncStub") -> None:
    question = predictor_pb2.EstimateColocationRequest(level=0.9)
    question.colocation.device_id = "contract-0"
    question.colocation.batches.extend([batch_class("a"), batch_class("b")])
    answer = await stub.EstimateColocation(question)
    assert [m.batch_class.model for m in answer.members] == ["a", "b"]
    for member in answer.members:
        assert member.slowdown >= 1.0
        assert member.slowdown_bound >= member.slowdown
    question.colocation.device_id = "no such device"
    try:
        await stub.EstimateColocation(question)
    except grpc.aio.AioRpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND  # noqa: PT017
        assert "no such device" in (error.details() or "")  # noqa: PT017
    else:
        raise AssertionError("an unknown device must be NOT_FOUND")


CHECKS = (
    acknowledges_what_it_was_sent,
    ignores_what_it_has_seen,
    the_first_push_is_complete,
    versions_increase_and_levels_are_honoured,
    broken_events_harm_nothing,
    answers_about_a_set,
)


async def check_all(address: str) -> None:
    """Runs every check against the predictor at an address, in order."""
    async with open_channel(address) as channel:
        stub = cast("predictor_pb2_grpc.PredictorServiceAsyncStub", predictor_pb2_grpc.PredictorServiceStub(channel))
        for check in CHECKS:
            await check(stub)
