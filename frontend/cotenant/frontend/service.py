"""`inference.GRPCInferenceService`: the KServe v2 protocol with Triton's extensions, on a gRPC server.

Its messages live in a descriptor pool of their own, so it is registered by hand rather than with a generated
servicer. Methods raise `RequestError`; what becomes of that on the wire is decided here, once.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError

from cotenant.frontend import errors
from cotenant.frontend.errors import RequestError
from cotenant.frontend.identity import Identity
from cotenant.frontend.inference import Inference
from cotenant.frontend.streaming import Stream
from cotenant.inference import inference_pb2 as pb

_log = structlog.get_logger()
Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = "inference.GRPCInferenceService"
_INFER, _STREAM_INFER = f"{SERVICE}/ModelInfer", f"{SERVICE}/ModelStreamInfer"


class InferenceMethods:
    """Inference itself, alone and in streams."""

    def __init__(self, inference: Inference, identity: Identity) -> None:
        self._inference, self._identity = inference, identity
        self._streams: set[Stream] = set()

    @property
    def busy(self) -> bool:
        """Whether anything accepted is unanswered."""
        return bool(self._inference.open_requests or self._streams)

    def drain(self) -> None:
        """Takes no more requests."""
        self._inference.draining = True
        for stream in self._streams:
            stream.drain()

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:  # noqa: N802
        """One request, one response."""
        metadata = context.invocation_metadata()
        tenant = self._identity.tenant_of(metadata, context)
        return await self._inference.infer(request, _INFER, metadata, context.time_remaining(), tenant)

    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[pb.ModelInferRequest | None], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Requests of a stream run at once; responses keep their order. Errors travel in the stream, which goes on."""
        metadata = context.invocation_metadata() or ()
        tenant = self._identity.tenant_of(metadata, context)

        async def infer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
            return await self._inference.infer(request, _STREAM_INFER, metadata, context.time_remaining(), tenant)

        def respond(request: pb.ModelInferRequest) -> AsyncGenerator[pb.ModelStreamInferResponse, None]:
            return self._inference.respond(request, _STREAM_INFER, metadata, context.time_remaining(), tenant)

        failing = ("triton_grpc_error", "true") in tuple(metadata)
        stream = Stream(infer, respond, self._inference.decoupled, end_on_failure=failing)
        self._streams.add(stream)
        try:
            async for answer in stream.answers(requests):
                yield answer
        finally:
            self._streams.discard(stream)


def register(server: grpc.aio.Server, *services: object) -> None:
    """Adds the service to a server; each of its methods is that of the first of `services` that has it."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        request, reply = getattr(pb, method.input_type.name), getattr(pb, method.output_type.name)
        found = [getattr(service, method.name) for service in services if hasattr(service, method.name)]
        behaviour: Any = found[0] if found else _absent(method.name)
        if method.client_streaming:
            handler = grpc.stream_stream_rpc_method_handler(
                _streaming(behaviour), _reader(request), reply.SerializeToString
            )
        else:
            handler = grpc.unary_unary_rpc_method_handler(
                _unary(behaviour, method.input_type.full_name), _reader(request), reply.SerializeToString
            )
        handlers[method.name] = handler
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


def _absent(name: str) -> Callable[[Any, Context], Awaitable[Any]]:
    async def absent(request: Any, context: Context) -> Any:
        del request, context
        raise errors.unsupported(f"{name} is not supported by this version of Cotenant")

    return absent


def _reader(message: Any) -> Callable[[bytes], Any]:
    """Parses a message; None for bytes that are none, since what a parser raises, gRPC answers in its own way."""

    def read(data: bytes) -> Any:
        try:
            return message.FromString(data)
        except DecodeError:
            return None

    return read


def _unary(
    behaviour: Callable[[Any, Context], Awaitable[Any]], message: str
) -> Callable[[Any, Context], Awaitable[Any]]:
    async def answer(request: Any, context: Context) -> Any:
        try:
            if request is None:
                raise errors.unreadable(message)
            return await behaviour(request, context)
        except Exception as error:  # ours included: a client gets an answer whatever is wrong here
            problem = as_request_error(error)
        return await context.abort(problem.code, problem.message, problem.details)

    return answer


def _streaming(behaviour: Callable[[Any, Context], AsyncIterator[Any]]) -> Callable[[Any, Context], AsyncIterator[Any]]:
    async def answers(requests: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for response in behaviour(requests, context):
                yield response
        except Exception as error:
            problem = as_request_error(error)
        else:
            return
        await context.abort(problem.code, problem.message, problem.details)

    return answers


def as_request_error(error: Exception) -> RequestError:
    """What a client is told of an error; one that is ours is logged."""
    if isinstance(error, RequestError):
        return error
    _log.exception("request failed here", exc_info=error)
    return RequestError(grpc.StatusCode.INTERNAL, f"the frontend failed: {type(error).__name__}")
