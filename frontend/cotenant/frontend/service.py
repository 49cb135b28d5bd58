"""`inference.GRPCInferenceService`: the KServe v2 protocol with Triton's extensions.

Each method checks, asks, answers; nothing here decides anything about time. Its messages live in a descriptor pool
of their own, so the service is registered by hand rather than with a generated servicer.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import grpc
import structlog

from cotenant.frontend import errors, response
from cotenant.frontend.catalogue import Catalogue, ModelView
from cotenant.frontend.checking import check
from cotenant.frontend.dispatch import Dispatcher
from cotenant.frontend.errors import RequestError
from cotenant.frontend.links import Links
from cotenant.frontend.statistics import Statistics
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime import trace
from cotenant.runtime.clock import now_ns
from cotenant.v1 import scheduler_pb2, scheduler_pb2_grpc

_log = structlog.get_logger()
Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = "inference.GRPCInferenceService"
EXTENSIONS = (
    "model_repository",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
)
# Answers of one stream that may be outstanding; further requests wait in gRPC's flow control.
STREAM_LIMIT = 256

# Triton's reason of a failure by gRPC status, for nv_inference_request_failure.
_FAILURES = {
    grpc.StatusCode.UNAVAILABLE: "REJECTED",
    grpc.StatusCode.DEADLINE_EXCEEDED: "REJECTED",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "REJECTED",
    grpc.StatusCode.CANCELLED: "CANCELED",
    grpc.StatusCode.INTERNAL: "BACKEND",
}
_STATES = {
    scheduler_pb2.MODEL_AVAILABILITY_KNOWN: "",
    scheduler_pb2.MODEL_AVAILABILITY_LOADING: "LOADING",
    scheduler_pb2.MODEL_AVAILABILITY_READY: "READY",
    scheduler_pb2.MODEL_AVAILABILITY_UNLOADING: "UNLOADING",
    scheduler_pb2.MODEL_AVAILABILITY_UNAVAILABLE: "UNAVAILABLE",
}


class InferenceService:
    """See the module's text."""

    def __init__(
        self, catalogue: Catalogue, dispatcher: Dispatcher, links: Links, statistics: Statistics, *, software: str
    ) -> None:
        self._catalogue, self._dispatcher, self._links = catalogue, dispatcher, links
        self._statistics, self._software = statistics, software
        self.draining = False
        self.open_requests = 0

    # ---- inference

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:  # noqa: N802
        """One request, one response."""
        try:
            return await self.infer(request, context)
        except RequestError as error:
            await context.abort(error.code, error.message, error.details)
            raise

    async def infer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        """Checks a request, has it run, and makes the response. Raises RequestError."""
        arrival_ns = now_ns()
        if self.draining:
            raise errors.draining()
        model = self._catalogue.find(request.model_name, request.model_version)
        checked = check(request, model, context.time_remaining())
        pending = self._dispatcher.submit(checked, model, arrival_ns, _traceparent(context))
        self._statistics.arrived(model)
        self.open_requests += 1
        try:
            answered = await pending.done
            result = response.build(request, model, pending, answered)
            self._links.release(answered.answer)
        except RequestError as error:
            self._failed(model, arrival_ns, error)
            raise
        except asyncio.CancelledError:
            self._dispatcher.abandon(pending)
            self._statistics.failed(model, now_ns() - arrival_ns, reason="CANCELLED", kind="CANCELED")
            raise
        finally:
            self._statistics.left(model)
            self.open_requests -= 1
        total_ns = now_ns() - arrival_ns
        self._statistics.succeeded(
            model,
            answered.answer.execution,
            items=checked.batch_size,
            queue_ns=max(0, answered.execution_started_ns - arrival_ns - answered.answer.execution.input_ns),
            total_ns=total_ns,
            late=0 < checked.budget_ns < total_ns,
        )
        return result

    def _failed(self, model: ModelView, arrival_ns: int, error: RequestError) -> None:
        kind = _FAILURES.get(error.code, "OTHER")
        self._statistics.failed(model, now_ns() - arrival_ns, reason=error.reason, kind=kind)

    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Requests of a stream run at once; responses keep their order. Errors travel in the stream, which goes on."""
        tasks: asyncio.Queue[asyncio.Task[pb.ModelStreamInferResponse] | None] = asyncio.Queue(STREAM_LIMIT)

        async def read() -> None:
            try:
                async for request in requests:
                    await tasks.put(asyncio.create_task(self._infer_in_stream(request, context)))
            finally:
                await tasks.put(None)

        reader = asyncio.create_task(read())
        try:
            while (task := await tasks.get()) is not None:
                yield await task
        finally:
            reader.cancel()
            while not tasks.empty():
                if task := tasks.get_nowait():
                    task.cancel()

    async def _infer_in_stream(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelStreamInferResponse:
        try:
            result = await self.infer(request, context)
            result.parameters["triton_final_response"].bool_param = True
            return pb.ModelStreamInferResponse(infer_response=result)
        except RequestError as error:
            message = pb.ModelStreamInferResponse(error_message=error.message)
            message.infer_response.id = request.id
            return message

    # ---- health and metadata

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:  # noqa: N802
        """The process runs."""
        del request, context
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:  # noqa: N802
        """Requests are taken."""
        del request, context
        return pb.ServerReadyResponse(ready=self._links.connected.is_set() and not self.draining)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:  # noqa: N802
        """A model serves; false for one that does not exist."""
        del context
        return pb.ModelReadyResponse(ready=self._catalogue.is_ready(request.name, request.version))

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:  # noqa: N802
        """Name, version, extensions."""
        del request, context
        return pb.ServerMetadataResponse(name="cotenant", version=self._software, extensions=EXTENSIONS)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:  # noqa: N802
        """Inputs and outputs of a model, the batch dimension in front where it batches."""
        model = await self._find(request.name, request.version, context)
        batch = [-1] if model.max_batch_size else []
        result = pb.ModelMetadataResponse(
            name=model.name,
            versions=self._catalogue.versions_of(model.name),
            platform=model.config.platform or model.config.backend,
        )
        for tensor in model.inputs.values():
            result.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=[*batch, *tensor.dims])
        for tensor in model.outputs.values():
            result.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=[*batch, *tensor.dims])
        return result

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:  # noqa: N802
        """A model's configuration, completed."""
        model = await self._find(request.name, request.version, context)
        return pb.ModelConfigResponse(config=model.config)

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, context: Context) -> pb.ModelStatisticsResponse:  # noqa: N802
        """What has been served: of one version, of all versions of a model, or of everything."""
        if request.name and not self._catalogue.is_ready(request.name, request.version):
            what = f"'{request.name}' version {request.version}" if request.version else f"'{request.name}'"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"requested model {what} is not available")
        result = pb.ModelStatisticsResponse()
        for model in self._catalogue.ready():
            if request.name not in ("", model.name) or request.version not in ("", model.version):
                continue
            row = result.model_stats.add(name=model.name, version=model.version)
            self._statistics.of(model.name, model.version).put(row)
            for device_id in model.device_ids:
                kind = "CPU" if device_id.startswith("cpu") else "GPU"
                row.memory_usage.add(type=kind, id=int(device_id.rpartition("-")[2]), byte_size=model.memory_bytes)
        return result

    async def _find(self, name: str, version: str, context: Context) -> ModelView:
        try:
            return self._catalogue.find(name, version)
        except RequestError as error:
            await context.abort(error.code, error.message, error.details)
            raise

    # ---- repository

    def _scheduler(self) -> "scheduler_pb2_grpc.SchedulerServiceAsyncStub":
        assert self._links.channel is not None
        stub = scheduler_pb2_grpc.SchedulerServiceStub(self._links.channel)
        return cast("scheduler_pb2_grpc.SchedulerServiceAsyncStub", stub)

    async def _asked(self, context: Context, call: Callable[[], Awaitable[Any]]) -> Any:
        """What the scheduler answers to a question about the repository; its errors become the client's."""
        if not self._links.connected.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the scheduler cannot be reached")
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")
            raise

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:  # noqa: N802
        """What the repository holds, in which state."""
        await self._no_repository_name(request.repository_name, context)
        listed = await self._asked(context, lambda: self._scheduler().ListModels(scheduler_pb2.ListModelsRequest()))
        result = pb.RepositoryIndexResponse()
        for model in listed.models:
            if request.ready and model.availability != scheduler_pb2.MODEL_AVAILABILITY_READY:
                continue
            state = _STATES.get(model.availability, "")
            result.models.add(name=model.model, version=model.version, state=state, reason=model.reason)
        return result

    async def RepositoryModelLoad(  # noqa: N802
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Loads or reloads a model; returns when it serves."""
        await self._no_repository_name(request.repository_name, context)
        for key in request.parameters:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"unrecognized load parameter '{key}'.")
        load = scheduler_pb2.LoadModelRequest(model=request.model_name)
        await self._asked(context, lambda: self._scheduler().LoadModel(load))
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Unloads a model; returns when what was admitted has been answered."""
        await self._no_repository_name(request.repository_name, context)
        unload = scheduler_pb2.UnloadModelRequest(model=request.model_name)
        await self._asked(context, lambda: self._scheduler().UnloadModel(unload))
        return pb.RepositoryModelUnloadResponse()

    async def _no_repository_name(self, name: str, context: Context) -> None:
        if name:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "'repository_name' specification is not supported")

    async def unsupported(self, request: Any, context: Context) -> Any:
        """Extensions that are not there yet."""
        name = type(request).__name__.removesuffix("Request")
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{name} is not supported by this version of Cotenant")


def _traceparent(context: Context) -> str:
    """The client's trace context with a span of ours, or nothing."""
    for key, value in context.invocation_metadata() or ():
        if key == "traceparent" and isinstance(value, str) and trace.valid(value):
            return trace.child_of(value)
    return ""


def register(service: InferenceService, server: grpc.aio.Server) -> None:
    """Adds the service to a server."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        request = getattr(pb, method.input_type.name)
        reply = getattr(pb, method.output_type.name)
        behaviour = getattr(service, method.name, service.unsupported)
        make = grpc.stream_stream_rpc_method_handler if method.client_streaming else grpc.unary_unary_rpc_method_handler
        handlers[method.name] = make(behaviour, request.FromString, reply.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
