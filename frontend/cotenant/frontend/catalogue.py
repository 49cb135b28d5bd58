"""The models a frontend knows, as the scheduler pushed them, prepared for checking requests quickly."""

import math
from dataclasses import dataclass, field

import grpc
import structlog
from google.protobuf.message import DecodeError

from cotenant.frontend.errors import RequestError, no_versions, unknown_model
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime import model_options
from cotenant.runtime.datatypes import element_size
from cotenant.v1 import scheduler_pb2

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class TensorView:
    """An input or output of a model."""

    name: str
    datatype: str
    dims: tuple[int, ...]  # without the batch
    optional: bool
    element_bytes: int  # 0 for BYTES
    item_elements: int  # elements of one item; 0 if a dimension is variable
    variable: tuple[int, ...]  # indices of variable dimensions in `dims`


@dataclass(slots=True)
class ModelView:
    """One version of a model."""

    name: str
    version: str
    config: pb.ModelConfig
    options: model_options.ModelOptions
    inputs: dict[str, TensorView]
    outputs: dict[str, TensorView]
    max_batch_size: int
    required: int  # inputs that are not optional
    memory_bytes: int = 0
    load_ns: int = 0
    device_ids: tuple[str, ...] = ()
    buckets: tuple[int, ...] = field(default=())


@dataclass(slots=True)
class _Entry:
    availability: int
    reason: str
    view: ModelView | None


_READY = scheduler_pb2.MODEL_AVAILABILITY_READY


class Catalogue:
    """All models. Look-ups raise `RequestError` with Triton's words."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, _Entry]] = {}
        self._latest: dict[str, ModelView] = {}  # the ready version with the highest number
        self.executors_connected = False

    def apply(self, state: scheduler_pb2.ModelState) -> None:
        """Takes a push."""
        versions = self._models.setdefault(state.model, {})
        view = None
        if state.availability == _READY or state.model_config:
            try:
                view = _view(state)
            except (ValueError, DecodeError) as error:
                _log.error("model configuration unusable", model=state.model, error=str(error))
        versions[state.version] = _Entry(state.availability, state.reason, view)
        ready = [e.view for e in versions.values() if e.availability == _READY and e.view is not None]
        if ready:
            self._latest[state.model] = max(ready, key=lambda v: int(v.version))
        else:
            self._latest.pop(state.model, None)

    def clear(self) -> None:
        """Forgets everything: another scheduler tells anew."""
        self._models.clear()
        self._latest.clear()

    def find(self, name: str, version: str) -> ModelView:
        """The version asked for; without one, the latest that is ready. Raises RequestError."""
        if not version:
            if view := self._latest.get(name):
                return view
            raise self._missing(name)
        if not (version.isascii() and version.lstrip("-").isdigit()):
            raise RequestError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"failed to get model version from specified version string '{version}' (details: not an integer), "
                "version should be an integral value > 0",
            )
        entry = self._models.get(name, {}).get(version)
        if entry and entry.availability == _READY and entry.view:
            return entry.view
        if name not in self._models:
            raise unknown_model(name)
        raise self._missing(name) if entry else unknown_model(name, version)

    def _missing(self, name: str) -> RequestError:
        versions = self._models.get(name)
        if versions is None:
            return unknown_model(name)
        if versions and not self.executors_connected:
            return RequestError(grpc.StatusCode.UNAVAILABLE, f"model '{name}' has no device: no executor is connected")
        return no_versions(name)

    def versions_of(self, name: str) -> list[str]:
        """Versions that are ready, ascending."""
        entries = self._models.get(name, {})
        return sorted((v for v, e in entries.items() if e.availability == _READY), key=int)

    def is_ready(self, name: str, version: str) -> bool:
        """Whether a version (or any, if none is named) serves; false for what does not exist."""
        try:
            self.find(name, version)
        except RequestError:
            return False
        return True

    def ready(self) -> list[ModelView]:
        """All versions that serve."""
        return [
            e.view
            for versions in self._models.values()
            for e in versions.values()
            if e.availability == _READY and e.view
        ]


def _view(state: scheduler_pb2.ModelState) -> ModelView:
    config = pb.ModelConfig.FromString(state.model_config)
    inputs = {tensor.name: _tensor(tensor, tensor.optional) for tensor in config.input}
    options = model_options.read(config)
    return ModelView(
        name=state.model,
        version=state.version,
        config=config,
        options=options,
        inputs=inputs,
        outputs={tensor.name: _tensor(tensor, False) for tensor in config.output},
        max_batch_size=config.max_batch_size,
        required=sum(not tensor.optional for tensor in inputs.values()),
        memory_bytes=state.memory_bytes,
        load_ns=state.load_ns,
        device_ids=tuple(state.device_ids),
        buckets=options.shape_buckets,
    )


def _tensor(tensor: "pb.ModelInput | pb.ModelOutput", optional: bool) -> TensorView:
    name = pb.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    datatype = "BYTES" if name == "STRING" else name
    dims = tuple(tensor.dims)
    variable = tuple(i for i, d in enumerate(dims) if d < 0)
    elements = 0 if variable else math.prod(dims)
    return TensorView(tensor.name, datatype, dims, optional, element_size(datatype), elements, variable)
