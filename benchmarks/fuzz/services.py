"""All four services in this process, over the loopback network, and what goes wrong in them.

`Services` starts the services' own `serve` coroutines. `Complaints` collects what a service logs as an error, what a
handler raised, and what an asyncio task or callback died of: none of these may come of anybody's bytes.
"""

import asyncio
import gc
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import structlog
from fuzz.loopback import AbortedError, Context, Network

from cotenant.executor import __main__ as executor
from cotenant.frontend import __main__ as frontend
from cotenant.frontend.dispatch import Dispatcher
from cotenant.inference import inference_pb2 as pb
from cotenant.predictor import __main__ as predictor
from cotenant.scheduler import __main__ as scheduler
from cotenant.v1 import scheduler_pb2

T = TypeVar("T")
INFERENCE, SCHEDULER = "/inference.GRPCInferenceService/", "/cotenant.v1.SchedulerService/"
CANARY = """
backend: "identity" max_batch_size: 8 dynamic_batching {}
input [{ name: "INPUT0" data_type: TYPE_FP32 dims: [ 16 ] }]
output [{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 16 ] }]
"""
SETTLE_S = 30.0  # for all models to serve


LAST: deque[str] = deque(maxlen=4)  # complaints, for when the process ends


def traced(error: BaseException) -> str:
    """An error with the last places it came through."""
    places, at = [], error.__traceback__
    while at is not None:
        places.append(f"{Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno}")
        at = at.tb_next
    return f"{type(error).__name__}: {error} at {' < '.join(reversed(places[-6:]))}"


class FindingError(Exception):
    """Something that must not be."""


class Complaints:
    """See the module's text."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._found: list[str] = []
        structlog.configure(processors=[self._note], cache_logger_on_first_use=False)
        asyncio.get_running_loop().set_exception_handler(self._unhandled)

    def _note(self, _: object, method: str, event: Any) -> Any:
        if method in ("error", "critical", "exception"):
            error = event.get("exc_info") or event.get("error") or ""
            error = sys.exc_info()[1] if error is True else error
            where = traced(error) if isinstance(error, BaseException) else error
            LAST.append(f"logged {event.get('event')!r}: {event.get('state', '')} {where}"[:500])
            self._found.append(LAST[-1])
        raise structlog.DropEvent

    def _unhandled(self, _: object, context: dict[str, Any]) -> None:
        self._found.append(f"unhandled: {context.get('message')} {context.get('exception')!r}"[:500])

    def all(self) -> list[str]:
        """What has been complained of since the last call."""
        found, self._found = self._found + self._network.raised, []
        self._network.raised = []
        return found


def write(repository: Path, models: Mapping[str, str]) -> None:
    for name, config in models.items():
        (repository / name / "1").mkdir(parents=True, exist_ok=True)
        (repository / name / "config.pbtxt").write_text(config, encoding="utf-8")


class Services:
    """Use as `async with Services(models) as services`."""

    def __init__(
        self,
        models: Mapping[str, str],
        *,
        only: tuple[str, ...] = (),
        altered: Callable[[Any], Any] = lambda message: message,
    ) -> None:
        self._models = {"canary": CANARY, **models}
        self._only = only
        self.network, self._patched = Network(altered), ExitStack()
        self._folder = tempfile.TemporaryDirectory(dir="/dev/shm", prefix="cotenant-fuzz-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._value = 0

    async def __aenter__(self) -> "Services":
        self._patched.callback(structlog.configure, **structlog.get_config())
        self.complaints = Complaints(self.network)
        write(self.folder / "models", self._models)
        starts = {
            "predictor": lambda: predictor.serve(predictor.PredictorSettings(listen="predictor", metrics="")),
            "scheduler": lambda: scheduler.serve(
                scheduler.SchedulerSettings(
                    listen="scheduler",
                    predictor="predictor",
                    explain_requests=2000,  # remembered lives are no leak, and shall not look like one
                    metrics="",
                )
            ),
            "executor": lambda: executor.serve(
                executor.ExecutorSettings(
                    listen="executor",
                    advertise="executor",
                    scheduler="scheduler",
                    predictor="predictor",
                    model_repository=str(self.folder / "models"),
                    profile_cache=str(self.folder / "profiles"),
                    staging_dir=str(self.folder),
                    output_mib=8,
                    metrics="",
                )
            ),
            "frontend": lambda: frontend.serve(
                frontend.FrontendSettings(
                    listen="frontend",
                    http_address="",
                    scheduler="scheduler",
                    staging_dir=str(self.folder),
                    staging_mib=8,
                    response_cache_mib=1,
                    allow_client_shm=True,
                    allow_model_files=True,
                    metrics="",
                )
            ),
        }
        self._patched.enter_context(self.network.in_place_of_grpc())
        for name, start in starts.items():
            if not self._only or name in self._only:
                self._tasks[name] = asyncio.create_task(start())
        await asyncio.sleep(0.05)
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in ("frontend", "scheduler", "executor", "predictor"):
            if name in self._tasks:
                if found := self.network.servers.get(name):
                    found.stop()
                done, _late = await asyncio.wait({self._tasks[name]}, timeout=15)
                if not done:
                    self._tasks[name].cancel()
        self._patched.close()
        self._folder.cleanup()

    async def ready(self) -> None:
        """Waits until all models serve. Raises FindingError that tells which do not."""
        try:
            async with asyncio.timeout(SETTLE_S):
                while not await self.all_serve():
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            index = await self.unary("RepositoryIndex", pb.RepositoryIndexRequest())
            away = [f"{m.name} {m.state} {m.reason}" for m in index.models if m.state != "READY"]
            raise FindingError(f"models do not serve: {away or index}, {self.complaints.all()}") from error

    async def all_serve(self) -> bool:
        for name in self._models:
            if not (await self.unary("ModelReady", pb.ModelReadyRequest(name=name))).ready:
                return False
        return True

    def alive(self) -> None:
        """Raises FindingError if a service has ended."""
        for name, task in self._tasks.items():
            if task.done():
                raise FindingError(f"the {name} ended: {task.exception()!r}")

    # ---- calls

    def handler(self, path: str) -> Any:
        address = "frontend" if path.startswith(INFERENCE) else path.split(".")[2].partition("Service")[0].lower()
        return self.network.servers[address].handlers[path]

    async def call(self, path: str, data: bytes, timeout_s: float | None = None) -> bytes:
        """One unary call with bytes. Raises AbortedError, or whatever the handler raises."""
        handler = self.handler(path)
        answer = await handler.unary_unary(handler.request_deserializer(data), Context(timeout_s))
        made: bytes = handler.response_serializer(answer)
        return made

    async def unary(self, method: str, request: Any) -> Any:
        """A call of the inference service."""
        answer = await self.call(INFERENCE + method, request.SerializeToString())
        kind = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name[method].output_type.name
        return getattr(pb, kind).FromString(answer)

    async def canary(self) -> None:
        """A good request in between is answered, and rightly. Raises FindingError."""
        self._value = (self._value + 1) % 1000
        x = np.full((1, 16), self._value, np.float32)
        request = pb.ModelInferRequest(model_name="canary")
        request.inputs.add(name="INPUT0", datatype="FP32", shape=[1, 16])
        request.raw_input_contents.append(x.tobytes())
        try:
            async with asyncio.timeout(20):
                answer = await self.unary("ModelInfer", request)
        except (AbortedError, TimeoutError) as error:
            raise FindingError(f"the canary was not answered: {error!r}") from error
        if list(answer.raw_output_contents) != [x.tobytes()]:
            raise FindingError("the canary got another answer than its own")

    async def questions(self) -> None:
        """What people and dashboards ask is answered. Raises FindingError."""
        try:
            await self.call(SCHEDULER + "GetStatus", scheduler_pb2.GetStatusRequest().SerializeToString())
            await self.unary("ModelStatistics", pb.ModelStatisticsRequest())
        except Exception as error:
            raise FindingError(f"the state of things cannot be told: {error!r}") from error

    # ---- insides

    def scheduler(self) -> Any:
        return self.handler(SCHEDULER + "ConnectFrontend").stream_stream.__self__

    def executor(self) -> Any:
        return self.handler("/cotenant.v1.ExecutorService/Exchange").stream_stream.__self__

    def predictor(self) -> Any:
        return self.handler("/cotenant.v1.PredictorService/Observe").stream_stream.__self__

    def dispatcher(self) -> Dispatcher:
        return the(Dispatcher, lambda found: str(self.folder) == str(found.staging.folder))


def the(kind: type[T], which: Callable[[T], bool]) -> T:
    """The one living object of a kind."""
    (found,) = [one for one in gc.get_objects() if isinstance(one, kind) and which(one)]
    return found
