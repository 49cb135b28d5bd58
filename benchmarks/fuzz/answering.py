"""What a scheduler and an executor say to a frontend, which serves a client meanwhile."""

import asyncio
from random import Random
from typing import ClassVar, NamedTuple

from fuzz import mutators
from fuzz.executing import EXCHANGE
from fuzz.scheduling import MODEL, batch_class, config, forecast
from fuzz.services import SCHEDULER, FindingError
from fuzz.streams import Said, Speaker
from fuzz.target import StackTarget, turns

from cotenant.runtime.clock import clock_id, now_ns
from cotenant.v1 import executor_pb2, scheduler_pb2, types_pb2

REQUEST_ID = 78


class Spoken(NamedTuple):
    """A frame of the scheduler's, or of the executor's."""

    scheduler: bool
    data: bytes


def scheduler_frames() -> list[scheduler_pb2.ConnectFrontendResponse]:
    frame = scheduler_pb2.ConnectFrontendResponse
    model = scheduler_pb2.ModelState(model=MODEL, version="1", availability=3, model_config=config(), load_ns=5)
    model.device_ids.append("fuzz-0")
    model.labels.add(output="OUTPUT0", labels=["a", "b"])
    device = types_pb2.Device(device_id="fuzz-0", kind="cpu", max_concurrency=1)
    executor = scheduler_pb2.ExecutorState(device=device, incarnation=1, address="nowhere")
    refusal = scheduler_pb2.Refusal(
        request_id=REQUEST_ID, attempt=1, reason=13, predicted_finish_ns=5, earliest_possible_ns=6, message="m",
        retry_after_ns=5, quota="requests_per_s",
    )  # fmt: skip
    return [
        frame(models=[model]),
        frame(models=[model]),
        frame(executors=[executor]),
        frame(assigns=[scheduler_pb2.Assign(request_id=REQUEST_ID, attempt=1, device_id="executor-0")]),
        frame(refusals=[refusal]),
        frame(pong=types_pb2.Pong(ping_sent_ns=1, received_ns=2, sent_ns=3)),
        frame(tenants=scheduler_pb2.KnownTenants(names=["a"], others=5)),
        frame(hello=scheduler_pb2.SchedulerHello(epoch=2, clock_id="c", version="1")),
    ]


def executor_frames() -> list[executor_pb2.ExchangeResponse]:
    answer = executor_pb2.Answer(request_id=REQUEST_ID, attempt=1, inline=b"x" * 64)
    answer.outputs.tensors.add(name="OUTPUT0", datatype="FP32", shape=[1, 16], offset=0, byte_size=64)
    execution = answer.execution
    execution.batch_id, execution.batch_size, execution.first_of_batch, execution.started_ns = 1, 1, True, 5
    execution.forecast.CopyFrom(forecast())
    execution.slices.add(duration_ns=5, co_runners=[batch_class()], co_runner_elapsed_ns=[1])
    staged = executor_pb2.Answer()
    staged.CopyFrom(answer)
    staged.staged.segment, staged.staged.offset, staged.staged.byte_size = "cotenant-1-x", 64, 64
    failed = executor_pb2.Answer(request_id=REQUEST_ID, attempt=1, reason=11, message="no")
    welcome = executor_pb2.ExchangeWelcome(
        device_id="executor-0", incarnation=1, segment="cotenant-1-x", nonce=b"n" * 16
    )
    frame = executor_pb2.ExchangeResponse
    return [frame(answers=[answer]), frame(answers=[staged]), frame(answers=[failed]), frame(welcome=welcome)]


class Answers(StackTarget):
    """See the module's text."""

    name = "answers"
    only: ClassVar[tuple[str, ...]] = ("frontend",)
    fresh_every: ClassVar[int] = 10_000
    tolerated: ClassVar[tuple[str, ...]] = ("model configuration unusable",)
    OF_SCHEDULER = scheduler_frames()
    OF_EXECUTOR = executor_frames()

    def prepare(self) -> None:
        network = self.services.network
        self.scheduler = Speaker(network, "scheduler").stream(
            SCHEDULER + "ConnectFrontend", scheduler_pb2.ConnectFrontendRequest, self._submitted
        )
        self.executor = Speaker(network, "executor").stream(EXCHANGE, executor_pb2.ExchangeRequest, self._staged)
        self.canaries: set[int] = set()

    async def open(self) -> None:
        await super().open()
        await self._greet()
        await self.canary()

    async def _greet(self) -> None:
        """Says what a scheduler says first, and an executor, whatever was said before."""
        hello = scheduler_pb2.ConnectFrontendResponse()
        hello.hello.epoch, hello.hello.clock_id = 1, clock_id()
        device = types_pb2.Device(device_id="executor-0", kind="cpu", max_concurrency=1)
        hello.executors.add(device=device, incarnation=1, address="executor")
        hello.models.add(
            model="canary", version="1", availability=3, model_config=config("canary"), device_ids=["executor-0"]
        )
        for _ in range(400):
            if self.scheduler.opened:
                break
            await asyncio.sleep(0.02)
        self.scheduler.say(hello.SerializeToString())
        for _ in range(400):
            if self.executor.opened:
                break
            await asyncio.sleep(0.02)
        welcome = executor_pb2.ExchangeResponse()
        welcome.welcome.device_id, welcome.welcome.incarnation = "executor-0", 1
        self.executor.say(welcome.SerializeToString())
        await turns(6)

    def _submitted(self, said: Said, frame: scheduler_pb2.ConnectFrontendRequest) -> None:
        reply = scheduler_pb2.ConnectFrontendResponse()
        for submit in frame.submits:
            reply.assigns.add(request_id=submit.request_id, attempt=submit.attempt, device_id="executor-0")
        if frame.HasField("ping"):
            now = now_ns()
            reply.pong.ping_sent_ns, reply.pong.received_ns, reply.pong.sent_ns = frame.ping.sent_ns, now, now
        if reply.ByteSize():
            said.say(reply.SerializeToString())

    def _staged(self, said: Said, frame: executor_pb2.ExchangeRequest) -> None:
        for stage in frame.stages:
            answer = executor_pb2.Answer(request_id=stage.request_id, attempt=stage.attempt, inline=stage.data)
            answer.outputs.tensors.add(name="OUTPUT0", datatype="FP32", shape=[1, 16], offset=0, byte_size=64)
            said.say(executor_pb2.ExchangeResponse(answers=[answer]).SerializeToString())

    def make(self, rng: Random) -> Spoken:
        scheduler = rng.random() < 0.6
        return Spoken(
            scheduler, mutators.message(rng.choice(self.OF_SCHEDULER if scheduler else self.OF_EXECUTOR), rng)
        )

    async def take(self, made: Spoken) -> str:
        kind = scheduler_pb2.ConnectFrontendResponse if made.scheduler else executor_pb2.ExchangeResponse
        frame = mutators.parsed(kind, made.data)
        if frame is None:
            return "no message"
        if made.scheduler and any(row.model == "canary" for row in frame.models):
            return "the canary's model"
        if made.scheduler and any(row.device.device_id == "executor-0" for row in frame.executors):
            return "the canary's executor"
        opened = self.scheduler.opened, self.executor.opened
        (self.scheduler if made.scheduler else self.executor).say(made.data)
        await turns(6)
        said_anew = frame.HasField("hello") if made.scheduler else frame.HasField("welcome")
        if said_anew or opened != (self.scheduler.opened, self.executor.opened):
            await self._greet()
        return "taken"

    async def canary(self) -> None:
        try:
            await super().canary()
        except FindingError:
            self.services.complaints.all()
            raise
