"""Bytes of requests of the `inference` service, at the frontend's handlers, in front of a scheduler and an executor."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any, ClassVar, NamedTuple

from fuzz import corpus, mutators
from fuzz.loopback import AbortedError, Context
from fuzz.services import INFERENCE, FindingError
from fuzz.target import OURS, StackTarget, verdict

from cotenant.inference import inference_pb2 as pb

REGION = f"fuzz-region-{os.getpid()}"  # others may fuzz at the same time


class Sent(NamedTuple):
    """A call: its method, the bytes of its messages, and its deadline."""

    method: str
    messages: tuple[bytes, ...]
    timeout_s: float | None = None


def others() -> list[tuple[str, Any]]:
    """Good requests of all methods but inference."""
    load = pb.RepositoryModelLoadRequest(model_name="ragged")
    files = pb.RepositoryModelLoadRequest(model_name="brought")
    files.parameters["config"].string_param = corpus.BROUGHT
    files.parameters["file:1/model.x"].bytes_param = b"x"
    trace = pb.TraceSettingRequest(model_name="queue")
    trace.settings["trace_level"].value.append("TIMESTAMPS")
    trace.settings["trace_rate"].value.append("100")
    logs = pb.LogSettingsRequest()
    logs.settings["log_verbose_level"].uint32_param = 0
    logs.settings["log_info"].bool_param = True
    return [
        ("ServerLive", pb.ServerLiveRequest()),
        ("ServerReady", pb.ServerReadyRequest()),
        ("ModelReady", pb.ModelReadyRequest(name="queue", version="1")),
        ("ServerMetadata", pb.ServerMetadataRequest()),
        ("ModelMetadata", pb.ModelMetadataRequest(name="queue", version="1")),
        ("ModelConfig", pb.ModelConfigRequest(name="chain", version="1")),
        ("ModelStatistics", pb.ModelStatisticsRequest(name="queue", version="1")),
        ("RepositoryIndex", pb.RepositoryIndexRequest(ready=True)),
        ("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(name="region")),
        ("SystemSharedMemoryRegister", region("other")),
        ("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name="other")),
        ("CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest(name="x")),
        ("CudaSharedMemoryRegister", pb.CudaSharedMemoryRegisterRequest(name="x", raw_handle=b"x" * 64, byte_size=64)),
        ("CudaSharedMemoryUnregister", pb.CudaSharedMemoryUnregisterRequest(name="x")),
        ("TraceSetting", trace),
        ("LogSettings", logs),
        ("RepositoryModelLoad", load),
        ("RepositoryModelLoad", files),
        ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="brought")),
    ]


def region(name: str) -> pb.SystemSharedMemoryRegisterRequest:
    return pb.SystemSharedMemoryRegisterRequest(name=name, key=f"/{REGION}", byte_size=4096)


def expected(code: str, details: str) -> str:
    """The word for a code that would be ours, where Triton answers so, or a model is to blame; empty otherwise."""
    texts = {
        "INTERNAL": (
            "Unable to parse request", "Unable to open shared memory region", "failed to load", "failed to unload",
            "failed to poll", "the model gave no output", "bytes to hold the results",
        ),
        "UNIMPLEMENTED": (
            "'repository_name' specification", "CUDA shared memory", "shared memory of clients is not allowed",
        ),
    }  # fmt: skip
    return f"{code}, as Triton" if any(text in details for text in texts.get(code, ())) else ""


class Wire(StackTarget):
    """See the module's text."""

    name = "wire"
    models: ClassVar[dict[str, str]] = corpus.MODELS

    def __init__(self) -> None:
        self._infer, self._others = corpus.requests(), others()
        self._slow = [row for row in self._others if row[0].startswith("RepositoryModel")]
        self._quick = [row for row in self._others if row not in self._slow]

    async def open(self) -> None:
        self._shared = Path(f"/dev/shm/{REGION}")
        self._shared.write_bytes(os.urandom(8192))
        await super().open()
        await self._restore()

    async def close(self) -> None:
        await super().close()
        self._shared.unlink(missing_ok=True)

    async def _restore(self) -> None:
        """Brings back what an input may have taken away by right: regions, models, and logs."""
        for method, request in (("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest()),
                                ("SystemSharedMemoryRegister", region("region"))):  # fmt: skip
            await self.services.unary(method, request)
        if not await self.services.all_serve():
            for name in ("canary", *self.models):
                if not (await self.services.unary("ModelReady", pb.ModelReadyRequest(name=name))).ready:
                    await self.services.unary("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name=name))
            await self.services.ready()

    def make(self, rng: Random) -> Sent:
        chance = rng.random()
        if chance < 0.002:
            method, good = rng.choice(self._slow)
            return Sent(method, (mutators.message(good, rng),))
        if chance < 0.15:
            method, good = rng.choice(self._quick)
            return Sent(method, (mutators.message(good, rng),))
        if chance < 0.25:
            several = tuple(mutators.message(rng.choice(self._infer), rng) for _ in range(rng.randrange(1, 5)))
            return Sent("ModelStreamInfer", several)
        timeout_s = rng.choice((None, None, None, 10.0, 0.001, 0.0, -1.0))
        return Sent("ModelInfer", (mutators.message(rng.choice(self._infer), rng),), timeout_s)

    async def take(self, made: Sent) -> str:
        if made.method == "ModelStreamInfer":
            return await self._stream(made)
        try:
            await self.services.call(INFERENCE + made.method, made.messages[0], made.timeout_s)
        except AbortedError as error:
            return expected(error.code.name, error.details) or verdict(error)
        finally:
            if made.method.startswith(("RepositoryModel", "SystemShared")):
                await self._restore()
        return "OK"

    async def _stream(self, made: Sent) -> str:
        handler = self.services.handler(INFERENCE + "ModelStreamInfer")

        async def sent() -> AsyncIterator[Any]:
            for data in made.messages:
                yield handler.request_deserializer(data)

        count = 0
        async for answer in handler.stream_stream(sent(), Context(made.timeout_s)):
            count += 1
            status = answer.infer_response.parameters["cotenant_status"].string_param
            if bool(answer.error_message) != bool(status):
                raise FindingError(f"a stream's answer has status '{status}' and text '{answer.error_message}'")
            if status in OURS and not expected(status, answer.error_message):
                raise FindingError(f"answered {status} in a stream: {answer.error_message}")
        if count != len(made.messages):
            raise FindingError(f"a stream of {len(made.messages)} requests was answered {count} times")
        return "stream"

    async def canary(self) -> None:
        await super().canary()
        await self.services.questions()

    async def settled(self) -> None:
        """Nothing pending, no block of staging memory taken, no place in the scheduler."""
        dispatcher, core = self.services.dispatcher(), self.services.scheduler().shell.core
        for _ in range(400):
            left = (len(dispatcher.pending), dispatcher.unstaged_bytes, len(core.places), len(core.waiting))
            if not any(left):
                return
            await asyncio.sleep(0.05)
        raise FindingError(f"left behind: pending, unstaged bytes, places, waiting = {left}")
