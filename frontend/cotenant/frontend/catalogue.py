"""The models a frontend knows, as the scheduler pushed them, prepared for checking requests quickly."""

import itertools
import re
from dataclasses import dataclass, field

import grpc
import structlog
from google.protobuf.message import DecodeError

from cotenant.frontend import errors
from cotenant.frontend.errors import RequestError
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime import model_options, sequences
from cotenant.runtime.clock import now_ns
from cotenant.runtime.datatypes import element_size
from cotenant.v1 import scheduler_pb2

_log = structlog.get_logger()

_UNLOADED = "unloaded"  # the reason of a version that was asked to go, in the contract as in Triton's index
_READY = scheduler_pb2.MODEL_AVAILABILITY_READY
# A scheduler that was started again learns of models as executors return to it. What it has not named after this time
# is gone; until then requests for it are submitted, and wait there.
RETURN_NS = 10_000_000_000
_generations = itertools.count(1)
_INTEGER = re.compile(r"\s*[+-]?[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class TensorView:
    """An input or output of a model."""

    name: str
    datatype: str
    shape: tuple[int, ...]  # -1 where it varies; with the batch in front where the model batches
    variable: tuple[int, ...]  # indices in `shape` of what varies, without the batch
    optional: bool
    element_bytes: int  # 0 for BYTES
    labels: tuple[str, ...] = ()  # of the classes that its indices stand for


@dataclass(frozen=True, slots=True)
class ModelView:
    """One version of a model."""

    name: str
    version: str
    config: pb.ModelConfig
    options: model_options.ModelOptions
    inputs: dict[str, TensorView]
    outputs: dict[str, TensorView]
    max_batch_size: int  # 0 for a model that does not batch
    required: int  # inputs that are not optional
    variable: bool  # whether any input's shape varies
    buckets: tuple[int, ...] = ()
    memory_bytes: int = 0
    device_ids: tuple[str, ...] = ()
    ensemble: bool = False
    decoupled: bool = False  # it answers a request with any number of responses
    stateful: bool = False  # it answers sequences
    hidden: dict[str, TensorView] = field(
        default_factory=dict
    )  # inputs that tell of sequences, which clients do not see
    # By priority, 0 for all others: how long a request may take that asks for nothing itself, in ns; 0 for any time.
    queue_timeout_ns: dict[int, int] = field(default_factory=dict)
    generation: int = 0  # differs whenever it was told of anew
    states: frozenset[str] = frozenset()  # outputs that clients do not see


@dataclass(frozen=True, slots=True)
class _Entry:
    availability: int
    reason: str
    view: ModelView | None

    @property
    def ready(self) -> ModelView | None:
        """The view of a version that serves."""
        return self.view if self.availability == _READY else None

    @property
    def away(self) -> bool:
        """Whether it comes by itself: it is being loaded, or was lost with its device and not unloaded."""
        if self.availability == scheduler_pb2.MODEL_AVAILABILITY_LOADING:
            return True
        lost = self.availability == scheduler_pb2.MODEL_AVAILABILITY_UNAVAILABLE and self.reason != _UNLOADED
        return lost and self.view is not None


class Catalogue:
    """All models. Look-ups raise `RequestError` with Triton's words."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, _Entry]] = {}
        self._latest: dict[str, ModelView] = {}  # the ready version with the highest number
        self._unconfirmed: set[tuple[str, str]] = set()  # told by an earlier scheduler, not yet by this one
        self._confirm_until_ns = 0
        self.executors_connected = False

    def apply(self, state: scheduler_pb2.ModelState) -> None:
        """Takes a push."""
        view = None
        if state.model_config:
            try:
                int(state.version)  # versions are compared as numbers
                view = _view(state)
            except (ValueError, KeyError, DecodeError) as error:
                _log.error("model configuration unusable", model=state.model, error=str(error))
        self._models.setdefault(state.model, {})[state.version] = _Entry(state.availability, state.reason, view)
        self._unconfirmed.discard((state.model, state.version))
        self._choose_latest(state.model)

    def _choose_latest(self, name: str) -> None:
        ready = [view for entry in self._models.get(name, {}).values() if (view := entry.ready)]
        if ready:
            self._latest[name] = max(ready, key=lambda view: int(view.version))
        else:
            self._latest.pop(name, None)

    def doubt(self) -> None:
        """Another scheduler tells anew: what it does not confirm in time is dropped by `drop_unconfirmed`."""
        self._unconfirmed = {(name, version) for name, versions in self._models.items() for version in versions}
        self._confirm_until_ns = now_ns() + RETURN_NS

    def drop_unconfirmed(self) -> None:
        """Forgets what was not confirmed in time. Called a few times a second."""
        if not self._unconfirmed or now_ns() < self._confirm_until_ns:
            return
        for name, version in self._unconfirmed:
            del self._models[name][version]
            if not self._models[name]:
                del self._models[name]
            self._choose_latest(name)
        self._unconfirmed.clear()

    def find(self, name: str, version: str) -> ModelView:
        """The version asked for; without one, the latest that is ready. Raises RequestError."""
        view = self._latest.get(name)
        if not version:
            if view is None:
                raise self._missing(name)
            return view
        version = version_number(version)
        if view is not None and view.version == version:
            return view
        versions = self._models.get(name)
        if versions is None:
            raise self._missing(name)
        entry = versions.get(version)
        if entry is None:
            raise errors.unknown_model(name, version)
        if entry.ready is None:
            raise errors.not_ready(name, version)
        return entry.ready

    def _missing(self, name: str) -> RequestError:
        """Why no version of a model is to be had."""
        if not self.executors_connected:
            return RequestError(grpc.StatusCode.UNAVAILABLE, f"no executor is connected, so model '{name}' cannot run")
        if name not in self._models:
            return errors.unknown_model(name)
        if away := [entry.reason for entry in self._models[name].values() if entry.away]:
            message = f"model '{name}' is not served at the moment: {away[-1] or 'it is being loaded'}"
            return RequestError(grpc.StatusCode.UNAVAILABLE, message)
        return errors.no_versions(name)

    def versions_of(self, name: str) -> list[str]:
        """Versions that are ready, ascending."""
        entries = self._models.get(name, {})
        return sorted((version for version, entry in entries.items() if entry.ready), key=int)

    def is_ready(self, name: str, version: str) -> bool:
        """Whether a version (or any, if none is named) serves; false for what does not exist.

        Raises RequestError for a version that is no number.
        """
        if not version:
            view = self._latest.get(name)
        else:
            entry = self._models.get(name, {}).get(version_number(version))
            view = entry.ready if entry else None
        return view is not None and self._steps_ready(view)

    def _steps_ready(self, view: ModelView) -> bool:
        """Whether all models of an ensemble serve; true for what is none."""
        if not view.ensemble:
            return True
        steps = view.config.ensemble_scheduling.step
        return all(self.is_ready(s.model_name, "" if s.model_version < 0 else str(s.model_version)) for s in steps)

    def ready(self) -> list[ModelView]:
        """All versions that serve."""
        return [view for versions in self._models.values() for entry in versions.values() if (view := entry.ready)]


def version_number(text: str) -> str:
    """A version as the repository writes it. Raises RequestError where it is none."""
    if not _INTEGER.fullmatch(text):
        raise errors.invalid(
            f"failed to get model version from specified version string '{text}' (details: stol), "
            "version should be an integral value > 0"
        )
    if int(text) < 0:
        raise errors.invalid(f"invalid model version specified '{text}' , version should be an integral value > 0")
    return str(int(text))


def _view(state: scheduler_pb2.ModelState) -> ModelView:
    config = pb.ModelConfig.FromString(state.model_config)
    labels = {row.output: tuple(row.labels) for row in state.labels}
    batched = config.max_batch_size > 0
    inputs = {tensor.name: _tensor(tensor, batched, optional=tensor.optional) for tensor in config.input}
    outputs = {tensor.name: _tensor(tensor, batched, labels=labels.get(tensor.name, ())) for tensor in config.output}
    hidden = {tensor.name: _tensor(tensor, batched) for tensor in sequences.hidden_inputs(config)}
    states = frozenset(state.output_name for state in config.sequence_batching.state) - outputs.keys()
    options = model_options.read(config)
    return ModelView(
        name=state.model,
        version=state.version,
        config=config,
        options=options,
        inputs=inputs,
        outputs=outputs,
        max_batch_size=config.max_batch_size,
        required=sum(not tensor.optional for tensor in inputs.values()),
        variable=any(tensor.variable for tensor in inputs.values()),
        buckets=options.shape_buckets,
        memory_bytes=state.memory_bytes,
        device_ids=tuple(state.device_ids),
        ensemble=config.HasField("ensemble_scheduling"),
        decoupled=config.model_transaction_policy.decoupled,
        stateful=config.HasField("sequence_batching"),
        hidden=hidden,
        states=states,
        queue_timeout_ns=_queue_timeouts(config.dynamic_batching),
        generation=next(_generations),
    )


def _queue_timeouts(batching: pb.ModelDynamicBatching) -> dict[int, int]:
    """Of queue policies that reject; one that delays refuses nothing, so it bounds nothing."""
    policies = {0: batching.default_queue_policy, **batching.priority_queue_policy}
    if batching.default_priority_level in batching.priority_queue_policy:
        policies[0] = batching.priority_queue_policy[batching.default_priority_level]
    return {
        priority: policy.default_timeout_microseconds * 1000 if policy.timeout_action == policy.REJECT else 0
        for priority, policy in policies.items()
    }


def _tensor(
    tensor: "pb.ModelInput | pb.ModelOutput", batched: bool, *, optional: bool = False, labels: tuple[str, ...] = ()
) -> TensorView:
    name = pb.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    datatype = "BYTES" if name == "STRING" else name
    shape = (-1, *tensor.dims) if batched else tuple(tensor.dims)
    variable = tuple(axis for axis, size in enumerate(shape) if size < 0 and axis >= batched)
    return TensorView(tensor.name, datatype, shape, variable, optional, element_size(datatype), labels)
