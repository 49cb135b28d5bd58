"""What the checks talk with: executors that tell made-up events, subscribers that keep what they are told."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import cast

import grpc

from cotenant.predictor.contract import DEVICE_PREFIX
from cotenant.runtime.estimates import (
    BatchClass,
    ClassEstimate,
    EstimateTable,
    PairCorrection,
    Phase,
    QuantileFactor,
    SetEstimate,
)
from cotenant.v1 import executor_pb2, predictor_pb2, predictor_pb2_grpc, types_pb2

MS = 1_000_000
RESOURCES = ("sm", "l2", "dram")
LEVELS = (0.9, 0.99)


class ContractError(AssertionError):
    """A predictor does not keep the contract; the text is a sentence for whoever wrote it."""


def require(holds: object, sentence: str) -> None:
    """Raises ContractError with the sentence unless it holds."""
    if not holds:
        raise ContractError(sentence)


# ---- events


def batch_class(model: str = "a", size: int = 1) -> types_pb2.BatchClass:
    """A class of version 1."""
    return types_pb2.BatchClass(model=model, version="1", batch_size=size)


def profiled(sequence: int, model: str = "a", work_ms: float = 10.0) -> executor_pb2.ExecutorEvent:
    """A solo measurement: `work_ms` at 80 % of the SMs, 40 % of the cache, 60 % of the memory's bandwidth."""
    event = executor_pb2.ExecutorEvent(sequence=sequence, at_ns=sequence * MS)
    event.class_profiled.batch_class.CopyFrom(batch_class(model))
    event.class_profiled.work_ns, event.class_profiled.samples = int(work_ms * MS), 20
    event.class_profiled.demand.extend([0.8, 0.4, 0.6])
    return event


def finished(
    sequence: int, model: str, duration_ms: float, beside: str | Sequence[str] = (), *, forecast_ms: float = 10.0
) -> executor_pb2.ExecutorEvent:
    """A batch that ran so long beside the same others from start to end."""
    others = [beside] if isinstance(beside, str) and beside else list(beside)
    event = executor_pb2.ExecutorEvent(sequence=sequence, at_ns=sequence % 2**40 * MS)
    batch = event.batch_finished
    batch.batch_id, batch.duration_ns = sequence, int(duration_ms * MS)
    batch.batch_class.CopyFrom(batch_class(model))
    part = batch.slices.add(duration_ns=batch.duration_ns)
    part.co_runners.extend(map(batch_class, others))
    batch.forecast.work_ns, batch.forecast.duration_ns = 10 * MS, int(forecast_ms * MS)
    batch.forecast.co_runner_count = len(others)
    return event


class Source:
    """An executor's stream of events. Remembers all acknowledgements."""

    def __init__(
        self, stub: "predictor_pb2_grpc.PredictorServiceAsyncStub", device: types_pb2.Device, incarnation: int
    ) -> None:
        self.acknowledgements: list[int] = []
        self.sent = 0
        self._frames: asyncio.Queue[predictor_pb2.ObserveRequest | None] = asyncio.Queue()
        hello = predictor_pb2.ObserveRequest()
        hello.hello.device.CopyFrom(device)
        hello.hello.incarnation = incarnation
        self._frames.put_nowait(hello)
        self._call = stub.Observe(self._iterate())

    async def _iterate(self) -> AsyncIterator[predictor_pb2.ObserveRequest]:
        while (frame := await self._frames.get()) is not None:
            yield frame

    def send(self, *events: executor_pb2.ExecutorEvent) -> None:
        """Sends events in one frame."""
        self.sent = max(self.sent, *(event.sequence for event in events))
        self._frames.put_nowait(predictor_pb2.ObserveRequest(events=events))

    async def acknowledged(self, sequence: int, patience_s: float = 10.0) -> None:
        """Waits until this sequence is acknowledged. Raises ContractError if it is not, or if more is than was sent."""
        if max(self.acknowledgements, default=0) >= sequence:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                async for response in self._call:
                    told = response.acknowledged_sequence
                    self.acknowledgements.append(told)
                    require(told <= self.sent, f"{told} was acknowledged, but only {self.sent} events were sent")
                    if response.acknowledged_sequence >= sequence:
                        return
        last = self.acknowledgements[-1] if self.acknowledgements else "nothing"
        raise ContractError(
            f"event {sequence} was not acknowledged within {patience_s:.0f} s; the last acknowledged is {last}"
        )

    async def close(self) -> None:
        """Ends the stream at once, as a lost connection does."""
        self._frames.put_nowait(None)
        self._call.cancel()


# ---- estimates


class Subscriber:
    """Keeps what it is told as the scheduler would, and every message."""

    def __init__(
        self, stub: "predictor_pb2_grpc.PredictorServiceAsyncStub", request: predictor_pb2.WatchEstimatesRequest
    ):
        self.pushes: list[predictor_pb2.WatchEstimatesResponse] = []
        self.tables: dict[str, EstimateTable] = {}
        self.learned: dict[tuple[str, int], int] = {}
        self._call = stub.WatchEstimates(request)

    async def next(self, patience_s: float = 10.0) -> predictor_pb2.WatchEstimatesResponse:
        """The next message, taken in. Raises ContractError if there is none."""
        try:
            async with asyncio.timeout(patience_s):
                push = await self._call.read()
        except TimeoutError:
            raise ContractError(f"nothing was pushed within {patience_s:.0f} s") from None
        if isinstance(push, predictor_pb2.WatchEstimatesResponse):
            self._take(push)
            return push
        raise ContractError("the stream of estimates ended by itself")

    async def until(self, holds: Callable[["Subscriber"], object], sentence: str, patience_s: float = 10.0) -> None:
        """Reads on until something holds. Raises ContractError with the sentence if it does not in time."""
        end = time.monotonic() + patience_s
        while not holds(self):
            left = end - time.monotonic()
            require(left > 0, sentence)
            try:
                await self.next(left)
            except ContractError:
                raise ContractError(sentence) from None

    def _take(self, push: predictor_pb2.WatchEstimatesResponse) -> None:
        self.pushes.append(push)
        if push.complete:
            self.tables.clear()
        for c in push.classes:
            self.table(c.device_id).update([_class_estimate(c)], [], complete=False)
        for s in push.sets:
            self.table(s.device_id).update([], [_set_estimate(s)], complete=False)
        self.learned.update({(x.device_id, x.incarnation): x.sequence for x in push.learned_through})

    def table(self, device_id: str) -> EstimateTable:
        """What is believed of a device."""
        return self.tables.setdefault(device_id, EstimateTable())

    def knows(self, device_id: str, model: str) -> bool:
        """Whether anything is believed of a model."""
        table = self.table(device_id)
        return any(c.model == model for c in table.classes) or any(c.model == model for c, _ in table.sets)

    def slowdown(self, device_id: str, victim: str, *beside: str) -> float:
        """What the scheduler would believe."""
        others = [BatchClass(model, "1", 1) for model in beside]
        return 1.0 / self.table(device_id).progress_rate(BatchClass(victim, "1", 1), others)

    def close(self) -> None:
        """Unsubscribes."""
        self._call.cancel()


def _quantiles(messages: Sequence[predictor_pb2.QuantileFactor]) -> tuple[QuantileFactor, ...]:
    return tuple(QuantileFactor(q.level, q.factor, q.co_runner_count) for q in messages)


def _batch_class(message: types_pb2.BatchClass) -> BatchClass:
    return BatchClass(message.model, message.version, message.batch_size, message.shape_bucket)


def _class_estimate(message: predictor_pb2.ClassEstimate) -> ClassEstimate:
    return ClassEstimate(
        _batch_class(message.batch_class),
        message.work_ns,
        tuple(message.demand),
        tuple(message.sensitivity),
        tuple(PairCorrection(_batch_class(c.co_runner), c.delay) for c in message.corrections),
        _quantiles(message.quantiles),
        message.sample_count,
        message.basis,
        message.kernel_ns,
        tuple(Phase(phase.end, tuple(phase.demand), phase.kernel_ns) for phase in message.phases),
    )


def _set_estimate(message: predictor_pb2.SetEstimate) -> SetEstimate:
    return SetEstimate(
        _batch_class(message.batch_class),
        tuple(map(_batch_class, message.co_runners)),
        message.slowdown,
        _quantiles(message.quantiles),
        message.sample_count,
    )


class Peer:
    """The predictor under test. Device names are new with every run, so that nothing learned before matters."""

    def __init__(self, channel: grpc.aio.Channel, patience_s: float = 10.0) -> None:
        self.channel, self.patience_s = channel, patience_s
        self.stub = cast(
            "predictor_pb2_grpc.PredictorServiceAsyncStub", predictor_pb2_grpc.PredictorServiceStub(channel)
        )
        self._run = os.urandom(3).hex()

    def device(self, name: str) -> types_pb2.Device:
        """A device that is nobody's sibling."""
        return types_pb2.Device(device_id=f"{DEVICE_PREFIX}{self._run}-{name}", kind="emulated", resources=RESOURCES)

    def source(self, device: types_pb2.Device, incarnation: int = 1) -> Source:
        """Connects an executor."""
        return Source(self.stub, device, incarnation)

    def watch(self, levels: Sequence[float] = LEVELS, interests: Sequence[predictor_pb2.Colocation] = ()) -> Subscriber:
        """Subscribes."""
        return Subscriber(self.stub, predictor_pb2.WatchEstimatesRequest(levels=levels, interests=interests))

    async def teach(self, device: types_pb2.Device, *events: executor_pb2.ExecutorEvent, incarnation: int = 1) -> None:
        """Connects an executor, tells events, waits until they are safe, and goes."""
        source = self.source(device, incarnation)
        source.send(*events)
        await source.acknowledged(events[-1].sequence, self.patience_s)
        await source.close()
