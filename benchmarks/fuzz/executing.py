"""Orders of a scheduler, frames of a frontend and blocks of shared memory, at an executor."""

import asyncio
from random import Random
from typing import ClassVar, NamedTuple

import numpy as np
from fuzz import corpus, mutators
from fuzz.services import SCHEDULER, FindingError
from fuzz.streams import Said, Speaker, Stream
from fuzz.target import StackTarget, turns, verdict

from cotenant.runtime.clock import clock_id, now_ns
from cotenant.runtime.staging import Segment, aligned
from cotenant.v1 import executor_pb2, scheduler_pb2, types_pb2

EXCHANGE = "/cotenant.v1.ExecutorService/Exchange"
CALM, FUZZED, SHIFT = 1, 2, 33  # frontends: the canary's, and ours
BLOCK = 64  # where the block lies in our segment
VECTOR = np.arange(16, dtype=np.float32).tobytes()
SEGMENT_BYTES = 2**20
RAGGED = (
    'backend: "identity" max_batch_size: 4 dynamic_batching {} parameters { key: "shape_buckets" value { string_value: '
    '"4,8,16" } } input [ { name: "IN0" data_type: TYPE_INT32 dims: [ -1 ] }, { name: "IN1" data_type: TYPE_STRING '
    "dims: [ -1 ] optional: true } ] output [ "
    '{ name: "OUT0" data_type: TYPE_INT32 dims: [ -1 ] }, { name: "OUT1" data_type: TYPE_STRING dims: [ -1 ] } ]'
)


def tensor_set() -> types_pb2.TensorSet:
    made = types_pb2.TensorSet(requested_outputs=["OUTPUT0"], explain=True)
    made.tensors.add(name="INPUT0", datatype="FP32", shape=[1, 16], offset=0, byte_size=64)
    return made


def ragged_set() -> types_pb2.TensorSet:
    made = types_pb2.TensorSet(requested_outputs=["OUT0", "OUT1"])
    made.tensors.add(name="IN0", datatype="INT32", shape=[1, 3], offset=0, byte_size=12)
    made.tensors.add(name="IN1", datatype="BYTES", shape=[1, 2], offset=64, byte_size=10)
    return made


RAGGED_DATA = np.arange(3, dtype=np.int32).tobytes().ljust(64, b"\0") + b"\x01\0\0\0a\x01\0\0\0b"


def launch(model: str, bucket: str = "") -> scheduler_pb2.Launch:
    """A good order."""
    made = scheduler_pb2.Launch(batch_id=1)
    made.batch_class.model, made.batch_class.version, made.batch_class.batch_size = model, "1", 1
    made.batch_class.shape_bucket = bucket
    made.forecast.work_ns, made.forecast.duration_ns, made.forecast.level = 1000, 1000, 0.95
    request = made.requests.add(request_id=1, attempt=1, batch_size=1)
    request.tensors.segment, request.tensors.offset, request.tensors.byte_size = "segment", BLOCK, 512
    return made


def frames() -> list[scheduler_pb2.ConnectExecutorResponse]:
    """Good frames of a scheduler."""
    frame = scheduler_pb2.ConnectExecutorResponse
    late = launch("canary")
    late.latest_start_ns = 5
    soon = launch("canary")
    soon.earliest_start_ns = 5
    load = scheduler_pb2.LoadModel(model="ragged")
    brought = scheduler_pb2.LoadModel(model="brought")
    brought.override.config_json = corpus.BROUGHT
    brought.override.files["1/model.x"] = b"x"
    return [
        *[frame(launches=[launch("canary")]), frame(launches=[launch("ragged", "4")])] * 8,
        frame(launches=[late, soon]),
        frame(loads=[load]),
        frame(loads=[brought]),
        frame(unloads=[scheduler_pb2.UnloadModel(model="brought", version="1")]),
        frame(windows=[scheduler_pb2.GrantWindow(window_id=1, until_ns=5)]),
        frame(scan_repository=True, acknowledged_sequence=5),
        frame(pong=types_pb2.Pong(ping_sent_ns=1, received_ns=2, sent_ns=3)),
        frame(hello=scheduler_pb2.SchedulerHello(epoch=7, clock_id="c", version="0.1.0")),
    ]


class ExecutorTarget(StackTarget):
    """An executor, with a scheduler and two frontends that are ours; one of these is the canary's."""

    only: ClassVar[tuple[str, ...]] = ("executor",)
    models: ClassVar[dict[str, str]] = {"ragged": RAGGED}
    fresh_every: ClassVar[int] = 10_000

    def prepare(self) -> None:
        network = self.services.network
        self.said = Speaker(network, "scheduler").stream(
            SCHEDULER + "ConnectExecutor", scheduler_pb2.ConnectExecutorRequest, self._told
        )
        self.loaded: set[str] = set()
        self.answers: dict[int, executor_pb2.Answer] = {}
        self.dropped: set[int] = set()
        self.number = 0

    async def open(self) -> None:
        await super().open()
        self.segment = Segment.create(self.services.folder, SEGMENT_BYTES)
        self.calm, self.fuzzed = self._frontend(CALM), self._frontend(FUZZED, self.segment)
        await self._load("canary", *self.models)

    async def _load(self, *names: str) -> None:
        for _ in range(400):
            if self.said.opened:
                break
            await asyncio.sleep(0.02)
        self.loaded.clear()
        loads = [scheduler_pb2.LoadModel(model=name) for name in names]
        self._greet()
        self._say(scheduler_pb2.ConnectExecutorResponse(loads=loads))
        for _ in range(600):
            if self.loaded >= set(names):
                return
            await asyncio.sleep(0.02)
        raise FindingError(f"only {self.loaded} of {names} were loaded")

    def _greet(self) -> None:
        self._say(
            scheduler_pb2.ConnectExecutorResponse(hello=scheduler_pb2.SchedulerHello(epoch=1, clock_id=clock_id()))
        )

    def _say(self, frame: scheduler_pb2.ConnectExecutorResponse) -> None:
        self.said.say(frame.SerializeToString())

    def _told(self, said: Said, frame: scheduler_pb2.ConnectExecutorRequest) -> None:
        for event in frame.events:
            match event.WhichOneof("event"):
                case "window_requested":
                    window = scheduler_pb2.GrantWindow(
                        window_id=event.window_requested.window_id, until_ns=now_ns() + 10**9
                    )
                    said.say(scheduler_pb2.ConnectExecutorResponse(windows=[window]).SerializeToString())
                case "model_loaded":
                    self.loaded.add(event.model_loaded.model)
                case "batch_dropped":
                    self.dropped.add(event.batch_dropped.batch_id)

    def _frontend(self, frontend_id: int, segment: Segment | None = None) -> Stream:
        stream = Stream(self.services.handler(EXCHANGE), self._answered)
        hello = executor_pb2.ExchangeRequest()
        hello.hello.frontend_id = frontend_id
        if segment:
            hello.hello.segment, hello.hello.nonce = segment.name, segment.nonce
        stream.send(hello)
        return stream

    def _answered(self, frame: executor_pb2.ExchangeResponse) -> None:
        self.answers.update((answer.request_id, answer) for answer in frame.answers)

    async def close(self) -> None:
        for stream in (self.calm, self.fuzzed):
            await stream.close()
        await super().close()
        self.segment.close()

    async def answer(self, request_id: int, batch_id: int) -> executor_pb2.Answer | None:
        """The answer of a request, or None if its batch is dropped. Raises FindingError where neither comes."""
        for pause_s in (*(0.0,) * 50, *(0.001,) * 50, *(0.05,) * 200):
            if request_id in self.answers:
                return self.answers.pop(request_id)
            if batch_id in self.dropped:
                self.dropped.discard(batch_id)
                return None
            await asyncio.sleep(pause_s)
        raise FindingError(f"batch {batch_id} was neither answered nor dropped")

    async def canary(self) -> None:
        self.services.alive()
        if len(self.dropped) > 1000 or len(self.answers) > 1000:
            self.dropped.clear()
            self.answers.clear()
        self.number += 1
        order, request_id = launch("canary"), CALM << SHIFT | self.number
        order.batch_id = 2**40 + self.number
        order.requests[0].request_id = request_id
        stage = executor_pb2.ExchangeRequest()
        stage.stages.add(request_id=request_id, attempt=1, tensors=tensor_set(), data=VECTOR)
        self.calm.send(stage)
        self._say(scheduler_pb2.ConnectExecutorResponse(launches=[order]))
        answer = await self.answer(request_id, order.batch_id)
        if answer is None or answer.reason or answer.inline[:64] != VECTOR:
            raise FindingError(f"the canary was answered {answer}")


class Orders(ExecutorTarget):
    """What a scheduler says to an executor."""

    name = "orders"
    GOOD: ClassVar[list[scheduler_pb2.ConnectExecutorResponse]] = frames()

    def make(self, rng: Random) -> bytes:
        return mutators.message(rng.choice(self.GOOD), rng)

    async def take(self, made: bytes) -> str:
        frame = mutators.parsed(scheduler_pb2.ConnectExecutorResponse, made)
        if frame is None:
            return "no message"
        self.number += 1
        for order in frame.launches:
            order.batch_id = self.number * 64 if order.batch_id == 1 else order.batch_id
            for request in order.requests:
                if request.request_id == 1:
                    request.request_id = FUZZED << SHIFT | self.number
                if request.tensors.segment == "segment":
                    request.tensors.segment = self.segment.name
        opened = self.said.opened
        self.said.say(frame.SerializeToString())
        await turns(4)
        if frame.HasField("hello"):
            self._greet()
        if any(row.model in ("canary", "ragged") for row in frame.unloads) or frame.loads:
            await self._load("canary", "ragged")
        if opened != self.said.opened:
            self._greet()
            return "ended"
        return "taken"


class Laid(NamedTuple):
    """A block, where it is said to lie, and what is launched on it."""

    header: bytes
    length: int  # of the header, as the block says
    data: bytes
    offset: int
    byte_size: int
    order: bytes


class Blocks(ExecutorTarget):
    """What frontends lay into shared memory for an executor, and how they say where it lies."""

    name = "blocks"

    def make(self, rng: Random) -> Laid:
        ragged = rng.random() < 0.4
        header = mutators.message(ragged_set() if ragged else tensor_set(), rng)
        data = RAGGED_DATA if ragged else VECTOR
        data = mutators.raw(data, rng) if rng.random() < 0.2 else data
        size = aligned(4 + len(header)) + len(data)
        order = launch("ragged", rng.choice(("4", "4", "8", "", "4-IN1", "²", "x"))) if ragged else launch("canary")
        bad = rng.random()
        return Laid(
            header,
            rng.choice(mutators.INTEGERS) % 2**32 if bad < 0.1 else len(header),
            data,
            rng.choice((*mutators.INTEGERS, SEGMENT_BYTES - 4, SEGMENT_BYTES)) if 0.1 < bad < 0.2 else BLOCK,
            rng.choice((*mutators.INTEGERS, SEGMENT_BYTES)) if 0.2 < bad < 0.3 else size,
            mutators.message(order, rng) if 0.3 < bad < 0.4 else order.SerializeToString(),
        )

    async def take(self, made: Laid) -> str:
        order = mutators.parsed(scheduler_pb2.Launch, made.order)
        if order is None or not order.requests:
            return "no message"
        view = self.segment.view
        view[BLOCK : BLOCK + 4] = made.length.to_bytes(4, "little")
        view[BLOCK + 4 : BLOCK + 4 + len(made.header)] = made.header
        start = BLOCK + aligned(4 + len(made.header))
        view[start : start + len(made.data)] = made.data
        self.number += 1
        order.batch_id, order.earliest_start_ns = self.number, 0
        order.latest_start_ns = now_ns() + 10**9
        request = order.requests[0]
        del order.requests[1:]
        request.request_id = FUZZED << SHIFT | self.number
        request.tensors.segment, request.tensors.offset = self.segment.name, made.offset
        request.tensors.byte_size = made.byte_size
        self._say(scheduler_pb2.ConnectExecutorResponse(launches=[order]))
        answer = await self.answer(request.request_id, order.batch_id)
        if answer is None:
            return "dropped"
        if answer.reason and not answer.message:
            raise FindingError(f"answered {answer.reason} without a word")
        return types_pb2.RejectReason.Name(answer.reason) if answer.reason else "outputs"


def exchanges() -> list[executor_pb2.ExchangeRequest]:
    """Good frames of a frontend."""
    stage = executor_pb2.ExchangeRequest()
    stage.stages.add(request_id=1, attempt=1, tensors=tensor_set(), data=VECTOR)
    release = executor_pb2.ExchangeRequest(releases=[executor_pb2.Release(offset=64)])
    return [stage, stage, release]


class Exchanges(ExecutorTarget):
    """What frontends say to an executor on their streams: hellos, tensors, releases."""

    name = "exchanges"
    GOOD: ClassVar[list[executor_pb2.ExchangeRequest]] = exchanges()

    def make(self, rng: Random) -> tuple[bool, bytes]:
        if rng.random() < 0.1:
            hello = executor_pb2.ExchangeRequest()
            hello.hello.frontend_id, hello.hello.segment, hello.hello.nonce = 3, "cotenant-1-abc", b"n" * 16
            return True, mutators.message(hello, rng)
        return False, mutators.message(rng.choice(self.GOOD), rng)

    async def take(self, made: tuple[bool, bytes]) -> str:
        first, data = made
        frame = mutators.parsed(executor_pb2.ExchangeRequest, data)
        if frame is None:
            return "no message"
        if first:
            return await self._introduced(frame)
        self.number += 1
        orders = scheduler_pb2.ConnectExecutorResponse()
        for stage in frame.stages:
            if stage.request_id == 1:
                stage.request_id = FUZZED << SHIFT | self.number
                order = launch("canary")
                order.batch_id, order.latest_start_ns = self.number, now_ns() + 10**9
                order.requests[0].request_id = stage.request_id
                orders.launches.append(order)
                break
        self.fuzzed.send(frame)
        await turns()
        if not orders.launches:
            return await self._standing()
        self._say(orders)
        answer = await self.answer(FUZZED << SHIFT | self.number, self.number)
        if answer is None:
            return "dropped"
        return types_pb2.RejectReason.Name(answer.reason) if answer.reason else "outputs"

    async def _standing(self) -> str:
        if not self.fuzzed.task.done():
            return "taken"
        stream, self.fuzzed = self.fuzzed, self._frontend(FUZZED, self.segment)
        if stream.raised:
            raise stream.raised
        return verdict(stream.error) if stream.error else "ended"

    async def _introduced(self, frame: executor_pb2.ExchangeRequest) -> str:
        if frame.hello.frontend_id in (CALM, FUZZED):
            frame.hello.frontend_id = 4
        stream = Stream(self.services.handler(EXCHANGE), lambda _: None)
        stream.send(frame)
        await turns(4)
        became = "taken"
        if stream.task.done():
            if stream.raised:
                raise stream.raised
            became = verdict(stream.error) if stream.error else "ended"
        await stream.close()
        return became
