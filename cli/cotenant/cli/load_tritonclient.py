"""The load through tritonclient, as its users would send it. Costs about as much CPU as our own client."""

from typing import Any, NamedTuple

import grpc
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

from cotenant.cli.load_client import EXPLAIN, TENANT, Answer, explained, failure_of
from cotenant.cli.load_inputs import Model, Tensors
from cotenant.cli.load_options import ModelLoad
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime import transport
from cotenant.runtime.channels import Metadata
from cotenant.runtime.datatypes import Array


class _Headers(triton.InferenceServerClientPlugin):  # type: ignore[misc]
    """Adds headers to every call."""

    def __init__(self, headers: Metadata) -> None:
        self._headers = headers

    def __call__(self, request: Any) -> None:
        request.headers.update(self._headers)


class _Prepared(NamedTuple):
    load: ModelLoad
    inputs: list[Any]
    parameters: dict[str, bool] | None


class TritonClient:
    """See `load_client.Client`."""

    def __init__(self, url: str) -> None:
        tls = transport.own().settings
        self._client = triton_aio.InferenceServerClient(
            url,
            ssl=bool(tls.tls_ca),
            root_certificates=tls.tls_ca or None,
            private_key=tls.tls_key or None,
            certificate_chain=tls.tls_certificate or None,
        )
        if metadata := transport.own().metadata():
            self._client.register_plugin(_Headers(metadata))

    async def describe(self, load: ModelLoad) -> Model:
        """See `Client.describe`."""
        try:
            answer = await self._client.get_model_config(load.name, load.version)
        except triton.InferenceServerException as error:
            raise _grpc_error(error) from error
        # Their messages live in another descriptor pool; the bytes are the same.
        return Model.of_config(pb.ModelConfig.FromString(answer.config.SerializeToString()))

    async def ready(self, load: ModelLoad) -> bool:
        """See `Client.ready`."""
        try:
            return bool(await self._client.is_model_ready(load.name, load.version))
        except triton.InferenceServerException:
            return False

    def prepare(self, load: ModelLoad, model: Model, tensors: Tensors, *, explain: bool) -> _Prepared:
        """See `Client.prepare`."""
        datatypes = {t.name: t.datatype for t in model.inputs}
        inputs: list[Any] = []
        for name, array in tensors.items():
            tensor = triton.InferInput(name, list(array.shape), datatypes[name])
            try:
                tensor.set_data_from_numpy(_bfloat16(array) if datatypes[name] == "BF16" else array)
            except triton.InferenceServerException as error:
                raise ValueError(f"model '{load.name}', input '{name}': {error.message()}") from error
            inputs.append(tensor)
        return _Prepared(load, inputs, {EXPLAIN: True} if explain else None)

    async def infer(self, prepared: _Prepared, deadline_s: float | None) -> Answer:
        """See `Client.infer`."""
        load = prepared.load
        try:
            result = await self._client.infer(
                load.name,
                prepared.inputs,
                model_version=load.version,
                priority=load.priority,
                timeout=round(load.told_timeout_ms * 1000) or None,
                client_timeout=deadline_s,
                parameters=prepared.parameters,
                headers={TENANT: load.tenant} if load.tenant else None,
            )
        except triton.InferenceServerException as error:
            return failure_of(_grpc_error(error))
        return Answer(explained=explained(result.get_response().parameters) if prepared.parameters else None)

    async def close(self) -> None:
        """See `Client.close`."""
        await self._client.close()


def _bfloat16(array: Array) -> Array:
    """BF16, which we hold as its bits, as tritonclient takes it: ml_dtypes' type, or FP32 where it is too old."""
    try:
        import ml_dtypes
    except ImportError:
        return (array.astype("<u4") << 16).view("<f4")
    return array.view(ml_dtypes.bfloat16)


def _grpc_error(error: Any) -> grpc.aio.AioRpcError:
    """The gRPC error behind tritonclient's, which keeps only its text but was raised while handling it."""
    if isinstance(error.__context__, grpc.aio.AioRpcError):
        return error.__context__
    raise error
