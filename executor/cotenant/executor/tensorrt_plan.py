"""Plans of TensorRT: deserialised once per model, and what their engines tell of tensors and profiles.

What cannot be served is refused here, with a text that names the plan and the tensor, so that a run need not look.
"""

import threading
from collections import deque
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import structlog

from cotenant.executor.backend import Signature, TensorSpec
from cotenant.executor.cuda_stream import CudaDevice

if TYPE_CHECKING:
    import tensorrt as trt

_log = structlog.get_logger()

Shape = tuple[int, ...]

# By the names of `tensorrt.DataType`; the others (FP8, FP4, INT4, E8M0) have no datatype in the protocol.
_DATATYPES = {
    "BOOL": "BOOL",
    "UINT8": "UINT8",
    "INT8": "INT8",
    "INT32": "INT32",
    "INT64": "INT64",
    "HALF": "FP16",
    "BF16": "BF16",
    "FLOAT": "FP32",
}
_TAG = b"ftrt"  # a plan begins with it; bytes 24 to 27 are the version of the TensorRT that made it


@dataclass(frozen=True, slots=True)
class Binding:
    """An input or output. `ranges` are the smallest and largest shape of an input in each profile."""

    name: str
    datatype: str
    shape: Shape  # -1 for a variable dimension
    ranges: tuple[tuple[Shape, Shape], ...] = ()

    def takes(self, shape: Shape, profile: int) -> bool:
        """Whether an input of that shape fits into a profile."""
        low, high = self.ranges[profile]
        return len(shape) == len(low) and all(a <= d <= b for a, d, b in zip(low, shape, high, strict=True))


@dataclass(frozen=True, slots=True)
class Plan:
    """A deserialised plan. The engine holds the weights and is shared by all contexts."""

    runtime: "trt.Runtime"  # outlives the engine
    engine: "trt.ICudaEngine"
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    profiles: int
    weight_bytes: int
    scratch_bytes: int  # that a context needs while it runs

    def profile_of(self, shapes: tuple[Shape, ...]) -> int | None:
        """The first profile that takes inputs of these shapes."""
        fits = (p for p in range(self.profiles) if all(map(Binding.takes, self.inputs, shapes, [p] * len(shapes))))
        return next(fits, None)

    def signature(self) -> Signature:
        """Names, datatypes, shapes, and the largest batch of any profile."""
        batched = [binding for binding in self.inputs if binding.shape and binding.shape[0] == -1]
        limits = [min(b.ranges[p][1][0] for b in batched) for p in range(self.profiles)] if batched else [0]
        inputs, outputs = (
            tuple(TensorSpec(b.name, b.datatype, b.shape) for b in side) for side in (self.inputs, self.outputs)
        )
        return Signature(inputs, outputs, max(limits))


class Errors:
    """What TensorRT said was wrong. Its calls only fail; the reason is in its log."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=16)
        self._lock = threading.Lock()

    def add(self, text: str) -> None:
        """Notes a line of the log."""
        with self._lock:
            self._lines.append(text.strip())

    def take(self) -> str:
        """What was said since it was last asked; says so if that was nothing."""
        with self._lock:
            lines = list(dict.fromkeys(self._lines))
            self._lines.clear()
        return "; ".join(lines) or "TensorRT gave no reason"


@cache
def logger(module: ModuleType) -> "tuple[trt.ILogger, Errors]":
    """The process's logger (TensorRT keeps the first it gets) and the errors that went through it."""
    errors = Errors()

    class Logger(module.ILogger):  # type: ignore[misc, name-defined]
        """Errors are kept for the exception that follows, warnings go to the log."""

        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity.name in ("INTERNAL_ERROR", "ERROR"):
                errors.add(msg)
            elif severity.name == "WARNING":
                _log.warning("TensorRT warns", text=msg)

    return Logger(), errors


def made_by(plan: bytes) -> str:
    """The version of TensorRT that made a plan; empty where its head does not tell."""
    if len(plan) < 28 or plan[:4] != _TAG or int.from_bytes(plan[4:8], "little") != 0:
        return ""
    return ".".join(map(str, plan[24:28]))


def describe(device: CudaDevice) -> str:
    """A device in messages: name and compute capability."""
    return f"{device.name} (compute capability {device.capability[0]}.{device.capability[1]})"


def open_plan(content: bytes, path: Path, device: CudaDevice) -> Plan:
    """Deserialises a plan. Raises ValueError if it is none, not for this TensorRT or GPU, or cannot be served."""
    import tensorrt as trt

    log, errors = logger(trt)
    errors.take()
    version = made_by(content)
    if not version:
        raise ValueError(f"{path} is no plan of TensorRT")
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise ValueError(
            f"{path} was made by TensorRT {version} and cannot be used by TensorRT {trt.__version__} "
            f"on {describe(device)}; a plan serves the version and the GPU it was made with: {errors.take()}"
        )
    try:
        inputs, outputs = _bindings(trt, engine)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    weights = engine.get_engine_stat(trt.EngineStat.TOTAL_WEIGHTS_SIZE)
    return Plan(
        runtime,
        engine,
        inputs,
        outputs,
        engine.num_optimization_profiles,
        int(weights) if weights > 0 else len(content),
        int(engine.device_memory_size_v2),
    )


def _bindings(trt: Any, engine: "trt.ICudaEngine") -> tuple[tuple[Binding, ...], tuple[Binding, ...]]:
    inputs, outputs = [], []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            inputs.append(_binding(trt, engine, name, "input"))
        else:
            outputs.append(_binding(trt, engine, name, "output"))
    return tuple(inputs), tuple(outputs)


def _binding(trt: Any, engine: "trt.ICudaEngine", name: str, role: str) -> Binding:
    """One tensor. Raises ValueError that names it if it cannot be served."""
    kind = engine.get_tensor_dtype(name).name
    if kind not in _DATATYPES:
        raise ValueError(f"{role} '{name}' has type {kind}, which the protocol does not know")
    if engine.is_shape_inference_io(name) or engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
        raise ValueError(f"{role} '{name}' is a shape tensor, whose values decide shapes; these are not supported")
    profiles = range(engine.num_optimization_profiles)
    for profile in profiles:
        layout = engine.get_tensor_format(name, profile)
        if layout != trt.TensorFormat.LINEAR:
            raise ValueError(f"{role} '{name}' is laid out as {layout.name}, expected LINEAR (row-major)")
    shape = tuple(engine.get_tensor_shape(name))
    if role == "output":
        return Binding(name, _DATATYPES[kind], shape)
    ranges = []
    for profile in profiles:
        low, _, high = engine.get_tensor_profile_shape(name, profile) if -1 in shape else (shape, shape, shape)
        ranges.append((tuple(low), tuple(high)))
    return Binding(name, _DATATYPES[kind], shape, tuple(ranges))
