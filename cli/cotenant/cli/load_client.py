"""Sends requests over the KServe v2 protocol and says what became of each.

Two clients with one face: ours sends requests that were serialised beforehand, which costs least; tritonclient is
what many people use (load_tritonclient.py).
"""

import enum
from typing import Any, NamedTuple, Protocol

import grpc
from google.rpc import error_details_pb2, status_pb2

from cotenant.cli.load_inputs import Model, Tensors
from cotenant.cli.load_options import ModelLoad
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime import transport
from cotenant.runtime.datatypes import from_raw, to_raw
from cotenant.runtime.server import CHANNEL_OPTIONS

SERVICE = "/inference.GRPCInferenceService/"
EXPLAIN = "cotenant_explain"
TENANT = "cotenant-tenant"  # metadata
DOMAIN = "cotenant"
# Refusals in form that are none in substance: nobody decided against the request.
_NO_REFUSAL = {"EXECUTION_FAILED", "CANCELLED"}


class Outcome(enum.IntEnum):
    """What became of a request."""

    IN_TIME = 0
    LATE = 1
    REFUSED = 2
    FAILED = 3
    CANCELLED = 4
    PENDING = 5


class Explained(NamedTuple):
    """What the server told of a request: durations in ns, and the mean number of batches beside its own."""

    queue_ns: int
    execution_ns: int
    predicted_ns: int
    bound_ns: int
    work_ns: int
    batch_size: int
    co_runners: float
    request_id: int  # inside the stack, as `cotenant explain` takes it; 0 if not told


class Answer(NamedTuple):
    """`failure` is None for outputs; else the outcome, and `detail` the reason or the gRPC status."""

    failure: Outcome | None = None
    detail: str = ""
    explained: Explained | None = None


class Client(Protocol):
    """Whoever sends."""

    async def describe(self, load: ModelLoad) -> Model:
        """What the server tells of a model. Raises AioRpcError, or ValueError for what it makes no sense of."""
        ...

    async def ready(self, load: ModelLoad) -> bool:
        """Whether a model serves; false also where there is no server."""
        ...

    def prepare(self, load: ModelLoad, model: Model, tensors: Tensors, *, explain: bool) -> Any:
        """A request that `infer` takes."""
        ...

    async def infer(self, prepared: Any, deadline_s: float | None) -> Answer:
        """Sends a request and waits for its answer."""
        ...

    async def close(self) -> None:
        """Closes the connection."""
        ...


def failure_of(error: grpc.aio.AioRpcError) -> Answer:
    """What an error means: a refusal where its details say so, else a failure."""
    if (info := error_info(error.trailing_metadata() or ())) and info.reason not in _NO_REFUSAL:
        return Answer(Outcome.REFUSED, info.reason)
    if error.code() == grpc.StatusCode.CANCELLED:
        return Answer(Outcome.CANCELLED, error.code().name)
    return Answer(Outcome.FAILED, error.code().name)


def error_info(metadata: Any) -> error_details_pb2.ErrorInfo | None:
    """Our typed details among the trailing metadata of an error, if there are any."""
    for key, value in metadata:
        if key == "grpc-status-details-bin":
            info = error_details_pb2.ErrorInfo()
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info) and info.domain == DOMAIN:
                    return info
    return None


def explained(parameters: Any) -> Explained | None:
    """What a response's parameters tell; None if it was not asked, or the server does not know the question."""
    if "cotenant_execution_ns" not in parameters:
        return None

    def number(name: str) -> int:
        value: int = parameters[f"cotenant_{name}"].int64_param
        return value

    return Explained(
        number("queue_ns"),
        number("execution_ns"),
        number("predicted_execution_ns"),
        number("predicted_bound_ns"),
        number("work_ns"),
        number("batch_size"),
        parameters["cotenant_mean_co_runners"].double_param,
        number("request_id"),
    )


def message(load: ModelLoad, model: Model, tensors: Tensors, *, explain: bool) -> pb.ModelInferRequest:
    """The request on the wire."""
    request = pb.ModelInferRequest(model_name=load.name, model_version=load.version)
    datatypes = {t.name: t.datatype for t in model.inputs}
    for name, array in tensors.items():
        request.inputs.add(name=name, datatype=datatypes[name], shape=array.shape)
        request.raw_input_contents.append(bytes(to_raw(array, datatypes[name])))
    if load.told_timeout_ms:
        request.parameters["timeout"].int64_param = round(load.told_timeout_ms * 1000)
    if load.priority:
        request.parameters["priority"].int64_param = load.priority
    if explain:
        request.parameters[EXPLAIN].bool_param = True
    return request


class _Prepared(NamedTuple):
    body: bytes
    explain: bool
    metadata: tuple[tuple[str, str], ...] | None


class GrpcClient:
    """grpc.aio with our stubs."""

    def __init__(self, url: str) -> None:
        self._channel = transport.own().channel(url, CHANNEL_OPTIONS)
        self._infer: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        self._infer = self._channel.unary_unary(SERVICE + "ModelInfer")

    async def _ask(self, method: str, request: Any, reply: Any) -> Any:
        call: grpc.aio.UnaryUnaryMultiCallable[Any, Any]
        call = self._channel.unary_unary(SERVICE + method, type(request).SerializeToString, reply.FromString)
        return await call(request, timeout=10.0)

    async def describe(self, load: ModelLoad) -> Model:
        """See `Client.describe`."""
        try:
            asked = pb.ModelConfigRequest(name=load.name, version=load.version)
            return Model.of_config((await self._ask("ModelConfig", asked, pb.ModelConfigResponse)).config)
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNIMPLEMENTED:
                raise
        wanted = pb.ModelMetadataRequest(name=load.name, version=load.version)
        return Model.of_metadata(await self._ask("ModelMetadata", wanted, pb.ModelMetadataResponse))

    async def ready(self, load: ModelLoad) -> bool:
        """See `Client.ready`."""
        asked = pb.ModelReadyRequest(name=load.name, version=load.version)
        try:
            answer = await self._ask("ModelReady", asked, pb.ModelReadyResponse)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.ready)

    def prepare(self, load: ModelLoad, model: Model, tensors: Tensors, *, explain: bool) -> _Prepared:
        """See `Client.prepare`."""
        body = message(load, model, tensors, explain=explain).SerializeToString()
        return _Prepared(body, explain, ((TENANT, load.tenant),) if load.tenant else None)

    async def infer(self, prepared: _Prepared, deadline_s: float | None) -> Answer:
        """See `Client.infer`."""
        try:
            body = await self._infer(prepared.body, timeout=deadline_s, metadata=prepared.metadata)
        except grpc.aio.AioRpcError as error:
            return failure_of(error)
        if not prepared.explain:
            return Answer()
        return Answer(explained=explained(pb.ModelInferResponse.FromString(body).parameters))

    async def outputs(self, load: ModelLoad, model: Model, tensors: Tensors) -> dict[str, Any]:
        """The outputs for given inputs, as arrays by name. Raises AioRpcError."""
        request = message(load, model, tensors, explain=False)
        response = await self._ask("ModelInfer", request, pb.ModelInferResponse)
        return {
            output.name: from_raw(raw, output.datatype, tuple(output.shape))
            for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
        }

    async def close(self) -> None:
        """See `Client.close`."""
        await self._channel.close()


def open_client(kind: str, url: str) -> Client:
    """The client of that kind, "grpc" or "tritonclient". Raises ValueError where it is not installed."""
    if kind == "grpc":
        return GrpcClient(url)
    try:
        from cotenant.cli.load_tritonclient import TritonClient
    except ImportError as error:
        raise ValueError("tritonclient is not installed: pip install 'tritonclient[grpc]'") from error
    return TritonClient(url)
