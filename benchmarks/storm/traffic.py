"""Clients under a storm: every request has a number, and each answer is entered in a ledger under it.

Requests leave when they are due, whatever became of earlier ones, over single calls and over streams. No call has a
deadline of gRPC's, which would answer in the server's place: what is not answered is seen not to be.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc
import numpy as np
from stage import LARGE_ELEMENTS

from cotenant.cli.load_client import error_info
from cotenant.inference import inference_pb2 as pb

OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),  # what a client waits is not what the service takes to be back
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
]
METHOD = "/inference.GRPCInferenceService/"
OK, UNAVAILABLE, LATE = "OK", "UNAVAILABLE", "DEADLINE_EXCEEDED"
CALLS, STREAMS = 4, 2
SHARE_OF_STREAMS, SHARE_CANCELLED = 0.4, 0.01
SHARES = {"quick": 0.67, "slow": 0.15, "tight": 0.15, "large": 0.03}
CANCELLED_BY_US = "cancelled by the client"


class Answer(NamedTuple):
    """What became of a request."""

    model: str
    sent_s: float
    answered_s: float
    status: str
    reason: str
    text: str


@dataclass
class Ledger:
    """Requests that are open, what became of the others, and what must not be."""

    open: dict[int, tuple[str, float]] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # answers that nobody asked for, twice, or somebody else's
    cancelled: int = 0
    _next: int = 0

    def sent(self, model: str) -> int:
        """Opens a request; returns its number."""
        self._next += 1
        self.open[self._next] = (model, time.monotonic())
        return self._next

    def answered(self, number: int, status: str, reason: str = "", text: str = "") -> None:
        """Closes a request. A second answer is wrong."""
        if number not in self.open:
            self.wrong.append(f"request {number}: {status} {text}, but it was answered before, or never sent")
            return
        model, sent_s = self.open.pop(number)
        self.answers.append(Answer(model, sent_s, time.monotonic(), status, reason, text))

    def gave_up(self, number: int) -> None:
        """The client cancelled a request: it is owed nothing."""
        if self.open.pop(number, None):
            self.cancelled += 1

    def took(self, number: int, response: pb.ModelInferResponse) -> None:
        """Closes a request with outputs, if they are its own."""
        if response.id != str(number) or not _is_its_own(number, response):
            self.wrong.append(f"request {number}: outputs that are not its own, under the id '{response.id}'")
        self.answered(number, OK)

    @property
    def offered(self) -> int:
        """Requests sent so far."""
        return self._next

    def statuses(self) -> Counter[str]:
        """How many answers of each status."""
        return Counter(answer.status for answer in self.answers)

    def reasons(self) -> Counter[str]:
        """How many answers without outputs for each reason."""
        return Counter(answer.reason or answer.text[:60] for answer in self.answers if answer.status != OK)


def request(number: int, model: str) -> pb.ModelInferRequest:
    """Every element of the input is the request's number."""
    elements = LARGE_ELEMENTS if model == "large" else 16
    made = pb.ModelInferRequest(model_name=model, id=str(number))
    made.inputs.add(name="INPUT0", datatype="FP32", shape=[1, elements])
    made.raw_input_contents.append(np.full(elements, number, np.float32).tobytes())
    return made


def _is_its_own(number: int, response: pb.ModelInferResponse) -> bool:
    """The input as it was (the CPU's identity), or the sum of its bytes modulo 251 (the emulated device)."""
    output = np.frombuffer(response.raw_output_contents[0], np.float32)
    checksum = len(output) * sum(np.float32(number).tobytes()) % 251
    return bool((output == number).all() or (output == checksum).all())


class Streaming:
    """One `ModelStreamInfer` call after another, each with many requests in flight."""

    def __init__(self, channel: grpc.aio.Channel, ledger: Ledger) -> None:
        self._channel, self._ledger = channel, ledger
        self._call: Any = None
        self._mine: set[int] = set()
        self._reading: asyncio.Task[None] | None = None
        self._queue: asyncio.Queue[pb.ModelInferRequest | None] = asyncio.Queue()

    def send(self, number: int, message: pb.ModelInferRequest) -> None:
        """Puts a request on the stream, and opens one if there is none."""
        if self._reading is None or self._reading.done():
            self._queue, self._mine = asyncio.Queue(), set()
            self._reading = asyncio.create_task(self._run(self._queue, self._mine))
        self._mine.add(number)
        self._queue.put_nowait(message)

    async def _requests(self, queue: "asyncio.Queue[pb.ModelInferRequest | None]") -> AsyncIterator[Any]:
        while (message := await queue.get()) is not None:
            yield message

    async def _run(self, queue: "asyncio.Queue[pb.ModelInferRequest | None]", mine: set[int]) -> None:
        """Takes answers until the stream ends; what is open then was answered by its end."""
        status, text = UNAVAILABLE, "the stream ended"
        try:
            call = streaming(self._channel)(self._requests(queue))
            async for answer in call:
                self._answered(answer, mine)
        except grpc.aio.AioRpcError as error:
            status, text = end_of(error.code(), error.details())
        for number in mine:
            self._ledger.answered(number, status, "STREAM_ENDED", text)
        mine.clear()
        queue.put_nowait(None)

    def _answered(self, answer: pb.ModelStreamInferResponse, mine: set[int]) -> None:
        number = int(answer.infer_response.id or 0)
        mine.discard(number)
        enter(self._ledger, number, answer)

    async def end(self) -> None:
        """Sends no more, and takes what is still to come."""
        self._queue.put_nowait(None)
        if self._reading:
            await self._reading


def end_of(code: grpc.StatusCode, text: str | None) -> tuple[str, str]:
    """What a stream's end says. A write into a connection that has just died is INTERNAL in the client's own words."""
    if code is grpc.StatusCode.INTERNAL and text == "Internal error from Core":
        return UNAVAILABLE, "the connection died"
    return code.name, text or ""


def streaming(channel: grpc.aio.Channel) -> Any:
    """The method `ModelStreamInfer`."""
    return channel.stream_stream(
        METHOD + "ModelStreamInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )


def enter(ledger: Ledger, number: int, answer: pb.ModelStreamInferResponse) -> None:
    """Closes a request with what a stream said."""
    if not answer.error_message:
        ledger.took(number, answer.infer_response)
        return
    told = answer.infer_response.parameters
    status, reason = (told[f"cotenant_{key}"].string_param for key in ("status", "reason"))
    ledger.answered(number, status, reason, answer.error_message)


class Traffic:
    """A Poisson stream of requests of all models, until told to stop."""

    def __init__(self, url: str, *, rate_per_s: float, seed: int) -> None:
        self.ledger = Ledger()
        self.rate_per_s = rate_per_s
        self._random = random.Random(seed)
        self._channels = [grpc.aio.insecure_channel(url, options=OPTIONS) for _ in range(CALLS)]
        self._calls = [
            channel.unary_unary(
                METHOD + "ModelInfer",
                request_serializer=pb.ModelInferRequest.SerializeToString,
                response_deserializer=pb.ModelInferResponse.FromString,
            )
            for channel in self._channels
        ]
        self._streams = [Streaming(channel, self.ledger) for channel in self._channels[:STREAMS]]
        self._stopped = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Sends until `stop`."""
        due = time.monotonic()
        while True:
            due += self._random.expovariate(self.rate_per_s)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if self._stopped.is_set():
                return
            due = max(due, time.monotonic() - 0.5)  # after half a second that this process slept, do not make up for it
            self._send_one()

    def _send_one(self) -> None:
        (model,) = self._random.choices(list(SHARES), list(SHARES.values()))
        self.send(model)

    def send(self, model: str) -> None:
        """Sends one request now."""
        chance = self._random.random
        number = self.ledger.sent(model)
        if chance() < SHARE_OF_STREAMS:
            self._random.choice(self._streams).send(number, request(number, model))
            return
        after_s = self._random.uniform(0.0, 0.05) if chance() < SHARE_CANCELLED else 0.0
        task = asyncio.create_task(self._call(number, model, after_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(self, number: int, model: str, cancelled_after_s: float) -> None:
        call = self._random.choice(self._calls)(request(number, model))
        if cancelled_after_s:
            await asyncio.sleep(cancelled_after_s)
            if not call.done():
                call.cancel()
                self.ledger.gave_up(number)
                return
        try:
            self.ledger.took(number, await call)
        except grpc.aio.AioRpcError as error:
            info = error_info(error.trailing_metadata() or ())
            self.ledger.answered(number, error.code().name, info.reason if info else "", error.details() or "")

    def stop(self) -> None:
        """Sends no more."""
        self._stopped.set()

    async def settle(self, timeout_s: float) -> None:
        """Waits until every request is answered, or for so long."""
        until = time.monotonic() + timeout_s
        while self.ledger.open and time.monotonic() < until:
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        """Ends streams and connections."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*(channel.close() for channel in self._channels), return_exceptions=True)
