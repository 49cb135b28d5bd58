"""What clients ask before and beside inference: health, metadata, configuration, statistics."""

from typing import Any

import grpc

from cotenant.frontend import errors
from cotenant.frontend.catalogue import Catalogue, ModelView, TensorView
from cotenant.frontend.inference import Inference
from cotenant.frontend.links import Links
from cotenant.frontend.statistics import Statistics
from cotenant.inference import inference_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]

EXTENSIONS = (
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "cuda_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)


class MetadataMethods:
    """See the module's text."""

    def __init__(
        self, catalogue: Catalogue, inference: Inference, links: Links, statistics: Statistics, *, software: str
    ) -> None:
        self._catalogue, self._inference, self._links = catalogue, inference, links
        self._statistics, self._software = statistics, software

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:  # noqa: N802
        """The process runs."""
        del request, context
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:  # noqa: N802
        """Requests are taken."""
        del request, context
        return pb.ServerReadyResponse(ready=self._links.connected.is_set() and not self._inference.draining)

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
        del context
        model = self._catalogue.find(request.name, request.version)
        return pb.ModelMetadataResponse(
            name=model.name,
            versions=self._catalogue.versions_of(model.name),
            platform=model.config.platform or model.config.backend,
            inputs=map(_tensor, model.inputs.values()),
            outputs=map(_tensor, model.outputs.values()),
        )

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:  # noqa: N802
        """A model's configuration, completed."""
        del context
        return pb.ModelConfigResponse(config=self._catalogue.find(request.name, request.version).config)

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, context: Context) -> pb.ModelStatisticsResponse:  # noqa: N802
        """What has been served: of one version, of all versions of a model, or of everything."""
        del context
        result = pb.ModelStatisticsResponse()
        for model in self._wanted(request.name, request.version):
            row = result.model_stats.add(name=model.name, version=model.version)
            self._statistics.of(model).put(row)
            for device_id in model.device_ids:
                kind, place = _place(device_id)
                row.memory_usage.add(type=kind, id=place, byte_size=model.memory_bytes)
        return result

    def _wanted(self, name: str, version: str) -> list[ModelView]:
        """The versions that serve, of those named. Raises RequestError in Triton's words if that is none."""
        if not name:
            return self._catalogue.ready()
        if not self._catalogue.is_ready(name, ""):
            raise errors.invalid(f"requested model '{name}' is not available")
        if not version:
            return [self._catalogue.find(name, v) for v in self._catalogue.versions_of(name)]
        if not self._catalogue.is_ready(name, version):
            raise errors.invalid(f"requested model version is not available for model '{name}'")
        return [self._catalogue.find(name, version)]


def _tensor(view: TensorView) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=view.name, datatype=view.datatype, shape=view.shape)


def _place(device_id: str) -> tuple[str, int]:
    """Kind and number of a device, as its name tells them; names are executors' to choose, and may tell nothing."""
    kind, _, index = device_id.rpartition("-")
    return "CPU" if kind == "cpu" else "GPU", int(index) if index.isdecimal() and len(index) < 10 else 0
