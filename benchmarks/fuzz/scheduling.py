"""Frames of executors, frontends and predictors, at a scheduler that serves others meanwhile."""

import asyncio
from random import Random
from typing import Any, ClassVar, NamedTuple

from fuzz import mutators
from fuzz.services import SCHEDULER, FindingError
from fuzz.streams import Speaker, Stream
from fuzz.target import StackTarget, turns, verdict

from cotenant.inference import inference_pb2
from cotenant.runtime.clock import now_ns
from cotenant.v1 import executor_pb2, predictor_pb2, scheduler_pb2, types_pb2

MODEL = "fuzzed"
BATCH_ID, REQUEST_ID = 77, 78  # stand for those of batches and requests that are there
FRONTEND_ID, FRONTEND_SHIFT = 5, 33
REQUESTS = 3  # that wait for the fuzzed device, so that events concern somebody


def config(name: str = MODEL) -> bytes:
    """A model's configuration as an executor tells it."""
    made = inference_pb2.ModelConfig(name=name, backend="identity", max_batch_size=8)
    made.dynamic_batching.SetInParent()
    made.input.add(name="INPUT0", data_type=inference_pb2.TYPE_FP32, dims=[16])
    made.output.add(name="OUTPUT0", data_type=inference_pb2.TYPE_FP32, dims=[16])
    made.parameters["slo_ms"].string_value = "500"
    return made.SerializeToString()


def batch_class(size: int = 1) -> types_pb2.BatchClass:
    return types_pb2.BatchClass(model=MODEL, version="1", batch_size=size)


def profiled(size: int = 1) -> executor_pb2.ClassProfiled:
    phase = types_pb2.Phase(end=1.0, demand=[0.5, 0.3], kernel_ns=1000)
    return executor_pb2.ClassProfiled(
        batch_class=batch_class(size),
        work_ns=1_000_000,
        samples=5,
        demand=[0.5, 0.3],
        spread=0.1,
        basis=executor_pb2.PROFILE_BASIS_OPERATORS,
        kernel_ns=1000,
        phases=[phase],
    )


def forecast() -> types_pb2.Forecast:
    return types_pb2.Forecast(work_ns=1_000_000, duration_ns=1_100_000, bound_ns=1_500_000, level=0.95)


def events() -> list[executor_pb2.ExecutorEvent]:
    """A good event of every kind."""
    event, known = executor_pb2.ExecutorEvent, batch_class()
    beside = types_pb2.Slice(duration_ns=1_000_000, co_runners=[batch_class(2)], co_runner_elapsed_ns=[5])
    finished = executor_pb2.BatchFinished(
        batch_id=BATCH_ID, batch_class=known, started_ns=1, duration_ns=1_000_000, input_ns=5, output_ns=5,
        slices=[beside], forecast=forecast(),
    )  # fmt: skip
    state = executor_pb2.DeviceState(
        memory_used_bytes=1, memory_total_bytes=2, sm_clock_mhz=1000, sm_clock_max_mhz=2000, power_w=100.0,
        temperature_c=50, utilisation=0.5, throttle_reasons_known=True, throttle_reasons=[1, 3],
    )  # fmt: skip
    kernels = [executor_pb2.KernelTiming(name="k", offset_ns=1, duration_ns=5)]
    loaded = executor_pb2.ModelLoaded(model=MODEL, version="1", model_config=config(), memory_bytes=1000, load_ns=5)
    row = executor_pb2.RepositoryModel(model=MODEL, versions=["1"], fingerprint="x")
    return [
        event(batch_started=executor_pb2.BatchStarted(batch_id=BATCH_ID, batch_class=known, forecast=forecast())),
        event(batch_finished=finished),
        event(batch_finished=finished),
        event(batch_dropped=executor_pb2.BatchDropped(batch_id=BATCH_ID, reason=10, missing_request_ids=[REQUEST_ID])),
        event(kernel_timings=executor_pb2.KernelTimings(batch_id=BATCH_ID, batch_class=known, kernels=kernels)),
        event(model_loaded=loaded),
        event(model_load_failed=executor_pb2.ModelLoadFailed(model=MODEL, version="2", message="no")),
        event(model_unloaded=executor_pb2.ModelUnloaded(model="other", version="1")),
        event(class_profiled=profiled()),
        event(window_requested=executor_pb2.WindowRequested(window_id=1, duration_ns=1_000_000, model=MODEL)),
        event(window_released=executor_pb2.WindowReleased(window_id=1)),
        event(repository_scanned=executor_pb2.RepositoryScanned(models=[row])),
        event(model_load_ended=executor_pb2.ModelLoadEnded(model=MODEL, versions=["1"])),
        event(device_state=state),
    ]


class Frame(NamedTuple):
    """A frame, and whether it opens a stream of its own."""

    data: bytes
    first: bool = False


class SchedulerTarget(StackTarget):
    """A scheduler with a device and a model of the fuzzer's beside the canary's."""

    async def open(self) -> None:
        await super().open()
        self.incarnation = 1
        self.sequence = 0
        self.launched: list[int] = []
        self.next_request = 0
        self.executor = self.frontend = None
        await self.join()

    async def close(self) -> None:
        for stream in (self.executor, self.frontend):
            if stream:
                await stream.close()
        await super().close()

    @property
    def shell(self) -> Any:
        return self.services.scheduler().shell

    def stream(self, method: str, heard: Any) -> Stream:
        return Stream(self.services.handler(SCHEDULER + method), heard)

    def hello(self) -> scheduler_pb2.ConnectExecutorRequest:
        made = scheduler_pb2.ConnectExecutorRequest()
        device = types_pb2.Device(
            device_id="fuzz-0", kind="emulated", name="x", memory_bytes=2**30, max_concurrency=2, resources=["a", "b"]
        )
        made.hello.device.CopyFrom(device)
        made.hello.incarnation, made.hello.address, made.hello.version = 1, "nowhere", "0.1.0"
        made.hello.loaded.add(model=MODEL, version="1", model_config=config(), memory_bytes=1000)
        made.hello.profiles.append(profiled())
        held = made.hello.held.add(started_ns=5)
        held.launch.batch_id = BATCH_ID
        held.launch.batch_class.CopyFrom(batch_class())
        held.launch.requests.add(request_id=REQUEST_ID, attempt=1, batch_size=1)
        held.launch.forecast.CopyFrom(forecast())
        made.hello.repository.models.add(model=MODEL, versions=["1"])
        return made

    async def join(self) -> None:
        """The fuzzer's device joins, as new as it may be, and requests wait for it."""
        if self.executor:
            await self.executor.close()
        if self.frontend:
            await self.frontend.close()
        self.incarnation += 1
        self.sequence = 0
        hello = self.hello()
        hello.hello.incarnation = self.incarnation
        del hello.hello.held[:]
        self.executor = self.stream("ConnectExecutor", self.ordered)
        self.executor.send(hello)
        self.frontend = self.stream("ConnectFrontend", lambda _: None)
        first = scheduler_pb2.ConnectFrontendRequest()
        first.hello.frontend_id = FRONTEND_ID
        self.frontend.send(first)
        await asyncio.sleep(0.001)
        await self.wait_for_it()

    async def wait_for_it(self) -> None:
        """Has requests wait for the fuzzed device."""
        frame = scheduler_pb2.ConnectFrontendRequest()
        for _ in range(REQUESTS):
            self.next_request += 1
            frame.submits.add(
                request_id=FRONTEND_ID << FRONTEND_SHIFT | self.next_request, attempt=1, model=MODEL, version="1",
                batch_size=1, arrival_ns=now_ns(),
            )  # fmt: skip
        if self.frontend:
            self.frontend.send(frame)
        await turns()

    def ordered(self, frame: scheduler_pb2.ConnectExecutorResponse) -> None:
        self.launched.extend(order.batch_id for order in frame.launches)
        del self.launched[:-8]

    async def ended(self, stream: Stream) -> str:
        """What became of a stream; the word for it, or "taken" where it stands."""
        if not stream.task.done():
            return "taken"
        if stream.raised:
            raise stream.raised
        return verdict(stream.error) if stream.error else "ended"

    async def canary(self) -> None:
        await super().canary()
        await self.services.questions()


class Events(SchedulerTarget):
    """What executors tell a scheduler."""

    name = "events"
    tolerated: ClassVar[tuple[str, ...]] = ("model configuration unusable",)  # as a frontend is to say of one model

    def make(self, rng: Random) -> Frame:
        if rng.random() < 0.05:
            return Frame(mutators.message(self._good_hello(), rng), first=True)
        frame = scheduler_pb2.ConnectExecutorRequest()
        frame.events.extend(rng.choice(ALL_EVENTS) for _ in range(rng.choice((1, 1, 1, 2, 5))))
        if rng.random() < 0.1:
            frame.ping.sent_ns = 5
        return Frame(mutators.message(frame, rng))

    def _good_hello(self) -> scheduler_pb2.ConnectExecutorRequest:
        return self.hello()

    async def take(self, made: Frame) -> str:
        frame = mutators.parsed(scheduler_pb2.ConnectExecutorRequest, made.data)
        if frame is None:
            return "no message"
        if made.first:
            return await self._introduced(frame)
        for event in frame.events:
            self._in_order(event)
        assert self.executor
        self.executor.send(frame)
        await turns(4)
        became = await self.ended(self.executor)
        if became != "taken" or self.sequence > 2**50:
            await self.join()
        elif len(self.shell.core.waiting) < REQUESTS:
            await self.wait_for_it()
        return became

    def _in_order(self, event: executor_pb2.ExecutorEvent) -> None:
        """Gives an event the number and the batch that a true one would have, where it was not told others."""
        if event.sequence == 0 and self.sequence < 2**50:
            self.sequence += 1
            event.sequence = self.sequence
        self.sequence = max(self.sequence, event.sequence)
        kind = event.WhichOneof("event")
        told = getattr(event, kind) if kind else None
        if self.launched and getattr(told, "batch_id", 0) == BATCH_ID:
            told.batch_id = self.launched[-1]

    async def _introduced(self, frame: scheduler_pb2.ConnectExecutorRequest) -> str:
        if frame.hello.device.device_id == "cpu-0":
            return "the canary's device"
        stream = self.stream("ConnectExecutor", lambda _: None)
        stream.send(frame)
        await turns(4)
        became = await self.ended(stream)
        await stream.close()
        await self.join()
        return became


ALL_EVENTS = events()


def submits() -> list[scheduler_pb2.ConnectFrontendRequest]:
    """Good frames of a frontend."""
    frame = scheduler_pb2.ConnectFrontendRequest()
    frame.submits.add(
        request_id=REQUEST_ID, attempt=1, model=MODEL, version="1", batch_size=2, shape_bucket="", arrival_ns=1,
        deadline_ns=10**18, priority=1, tensors=types_pb2.StagedTensors(segment="s", offset=64, byte_size=100),
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", tenant="t", client_request_id="c",
    )  # fmt: skip
    cancel = scheduler_pb2.ConnectFrontendRequest(cancels=[scheduler_pb2.Cancel(request_id=REQUEST_ID)])
    told = scheduler_pb2.ConnectFrontendRequest()
    told.statistics.add(model=MODEL, in_time=1, late=1, refused=1, failed=1, answer_overhead_ns=1000)
    told.tenant_statistics.add(tenant="t", in_time=1, late=1, refused=1, failed=1)
    told.attachments.add(device_id="fuzz-0", incarnation=2, attached=True)
    told.ping.sent_ns = 5
    return [frame, frame, frame, cancel, told]


class Submits(SchedulerTarget):
    """What frontends tell a scheduler."""

    name = "submits"
    GOOD: ClassVar[list[scheduler_pb2.ConnectFrontendRequest]] = submits()

    def make(self, rng: Random) -> Frame:
        if rng.random() < 0.03:
            first = scheduler_pb2.ConnectFrontendRequest()
            first.hello.frontend_id, first.hello.clock_id, first.hello.version = 9, "c", "0.1.0"
            return Frame(mutators.message(first, rng), first=True)
        return Frame(mutators.message(rng.choice(self.GOOD), rng))

    async def take(self, made: Frame) -> str:
        frame = mutators.parsed(scheduler_pb2.ConnectFrontendRequest, made.data)
        if frame is None:
            return "no message"
        if made.first:
            stream = self.stream("ConnectFrontend", lambda _: None)
            stream.send(frame)
            await turns(4)
            became = await self.ended(stream)
            await stream.close()
            return became
        if any(row.model == "canary" for row in frame.submits):
            return "the canary's model"  # whose launches wait 5 s for tensors that never come, by right
        for row in (*frame.submits, *frame.cancels):
            if row.request_id == REQUEST_ID:
                self.next_request += hasattr(row, "attempt")
                row.request_id = FRONTEND_ID << FRONTEND_SHIFT | self.next_request
        assert self.frontend
        self.frontend.send(frame)
        await turns(4)
        became = await self.ended(self.frontend)
        if became != "taken" or len(self.shell.core.places) > 500:
            await self.join()
        return became


def pushes() -> list[predictor_pb2.WatchEstimatesResponse]:
    """Good pushes of a predictor."""
    push = predictor_pb2.WatchEstimatesResponse(version=5, complete=True)
    row = push.classes.add(device_id="fuzz-0", batch_class=batch_class(), work_ns=1_000_000, demand=[0.5, 0.3])
    row.sensitivity.extend([0.1] * 9)
    row.corrections.add(co_runner=batch_class(2), delay=0.1)
    row.quantiles.add(level=0.95, factor=1.2, co_runner_count=1)
    row.phases.add(end=1.0, demand=[0.5, 0.3], kernel_ns=1000)
    row.kernel_ns, row.sample_count, row.basis = 1000, 5, predictor_pb2.BASIS_OBSERVED
    canary = push.classes.add(device_id="cpu-0", work_ns=1000, demand=[0.5], sensitivity=[0.1] * 6)
    canary.batch_class.CopyFrom(types_pb2.BatchClass(model="canary", version="1", batch_size=1))
    some = push.sets.add(device_id="fuzz-0", batch_class=batch_class(), slowdown=1.5, sample_count=2)
    some.co_runners.append(batch_class(2))
    some.quantiles.add(level=0.95, factor=1.1)
    push.learned_through.add(device_id="fuzz-0", incarnation=1, sequence=5)
    changed = predictor_pb2.WatchEstimatesResponse(version=6, classes=[row])
    return [push, changed]


class Estimates(SchedulerTarget):
    """What a predictor, which may be anybody's, tells a scheduler; the canary's own estimates included."""

    name = "estimates"
    GOOD: ClassVar[list[predictor_pb2.WatchEstimatesResponse]] = pushes()

    only: ClassVar[tuple[str, ...]] = ("scheduler", "executor", "frontend")

    def prepare(self) -> None:
        self.said = Speaker(self.services.network, "predictor").stream(
            "/cotenant.v1.PredictorService/WatchEstimates",
            predictor_pb2.WatchEstimatesRequest,
            lambda *_: None,
            streaming=False,
        )

    async def open(self) -> None:
        await super().open()
        for _ in range(200):
            if self.said.opened:
                return
            await asyncio.sleep(0.05)
        raise FindingError("the scheduler never came to its predictor")

    def make(self, rng: Random) -> Frame:
        return Frame(mutators.message(rng.choice(self.GOOD), rng))

    async def take(self, made: Frame) -> str:
        if mutators.parsed(predictor_pb2.WatchEstimatesResponse, made.data) is None:
            return "no message"
        self.said.say(made.data)
        await turns(4)
        assert self.executor
        if len(self.shell.core.waiting) < REQUESTS:
            await self.wait_for_it()
        if (became := await self.ended(self.executor)) != "taken" or len(self.shell.core.tables) > 500:
            await self.join()
        if self.said.opened > 1:
            raise FindingError("the scheduler ended its subscription")
        return became
