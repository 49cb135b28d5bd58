"""Triton's model repository extension: what there is, loading and unloading at run time. The scheduler does it."""

from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar, cast

import grpc

from cotenant.frontend import errors
from cotenant.frontend.errors import RequestError
from cotenant.frontend.links import Links
from cotenant.inference import inference_pb2 as pb
from cotenant.v1 import scheduler_pb2, scheduler_pb2_grpc, types_pb2

Context = grpc.aio.ServicerContext[Any, Any]
Reply = TypeVar("Reply")

_STATES = {
    scheduler_pb2.MODEL_AVAILABILITY_KNOWN: "",
    scheduler_pb2.MODEL_AVAILABILITY_LOADING: "LOADING",
    scheduler_pb2.MODEL_AVAILABILITY_READY: "READY",
    scheduler_pb2.MODEL_AVAILABILITY_UNLOADING: "UNLOADING",
    scheduler_pb2.MODEL_AVAILABILITY_UNAVAILABLE: "UNAVAILABLE",
}


class RepositoryMethods:
    """See the module's text."""

    def __init__(self, links: Links, *, allow_files: bool = False) -> None:
        """`allow_files`: loads may bring the files of a model, which run as code where it is loaded."""
        self._links, self._allow_files = links, allow_files

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:  # noqa: N802
        """What the repository holds, in which state."""
        del context
        _refuse_repository_name(request.repository_name)
        listed = await _asked(self._scheduler().ListModels(scheduler_pb2.ListModelsRequest()))
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
        del context
        _refuse_repository_name(request.repository_name)
        load = scheduler_pb2.LoadModelRequest(model=request.model_name, override=self._override(request.parameters))
        await _asked(self._scheduler().LoadModel(load))
        await self._links.barrier()
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Unloads a model; returns when what was admitted has been answered. Nothing depends on another here."""
        del context
        _refuse_repository_name(request.repository_name)
        for key, parameter in request.parameters.items():
            if key == "unload_dependents" and parameter.WhichOneof("parameter_choice") != "bool_param":
                raise errors.invalid(f"invalid value type for '{key}' parameter, expected bool_param.")
        await _asked(self._scheduler().UnloadModel(scheduler_pb2.UnloadModelRequest(model=request.model_name)))
        await self._links.barrier()
        return pb.RepositoryModelUnloadResponse()

    def _override(self, parameters: Mapping[str, pb.ModelRepositoryParameter]) -> types_pb2.ModelOverride | None:
        files = [key for key in parameters if key.startswith("file:")]
        if files and not self._allow_files:
            raise errors.unsupported(
                f"load parameter '{files[0]}' is not allowed here; the server must be started with --allow-model-files"
            )
        return _override(parameters)

    def _scheduler(self) -> "scheduler_pb2_grpc.SchedulerServiceAsyncStub":
        """Raises RequestError while there is none."""
        if not self._links.connected.is_set() or self._links.channel is None:
            raise RequestError(grpc.StatusCode.UNAVAILABLE, "the scheduler cannot be reached")
        stub = scheduler_pb2_grpc.SchedulerServiceStub(self._links.channel)
        return cast("scheduler_pb2_grpc.SchedulerServiceAsyncStub", stub)


async def _asked(call: Awaitable[Reply]) -> Reply:
    """What the scheduler answers; its errors become the client's."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise RequestError(error.code(), error.details() or "") from error


def _refuse_repository_name(name: str) -> None:
    if name:
        raise errors.unsupported("'repository_name' specification is not supported")


def _override(parameters: Mapping[str, pb.ModelRepositoryParameter]) -> types_pb2.ModelOverride | None:
    """What is to be loaded instead of what the repository holds; None for the latter."""
    override = types_pb2.ModelOverride()
    for key, parameter in parameters.items():
        if key == "config":
            _expect(key, parameter, "string_param")
            override.config_json = parameter.string_param
        elif key.startswith("file:"):
            _expect(key, parameter, "bytes_param")
            override.files[key.removeprefix("file:")] = parameter.bytes_param
        else:
            raise errors.invalid(f"unrecognized load parameter '{key}'.")
    return override if parameters else None


def _expect(key: str, parameter: pb.ModelRepositoryParameter, kind: str) -> None:
    if parameter.WhichOneof("parameter_choice") != kind:
        raise errors.invalid(f"invalid value type for load parameter '{key}', expected {kind}.")
