"""A stand-in for TensorRT and for a CUDA device, in numpy: what the backend relies on of both, and nothing more.

A stream keeps what it was asked for until it is waited for, so whoever reads outputs early or fills staging memory
twice gets wrong numbers. Contexts refuse to run without shapes, addresses or scratch memory of the right size.
A plan is a head as TensorRT writes it and JSON; an ONNX file is JSON.
"""

import contextlib
import enum
import gc
import itertools
import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

__version__ = "10.13.3.9"
VERSION = bytes(int(part) for part in __version__.split("."))

# ---- the device


class Block:
    def __init__(self, device: "Device", nbytes: int) -> None:
        self.address, self.nbytes = next(device.addresses) * 2**20, nbytes
        self.array = np.full(nbytes, 0xAB, dtype=np.uint8)
        device.memory[self.address] = self
        device.allocations += 1


class Mark:
    def __init__(self) -> None:
        self.at_ns = 0

    def ns_since(self, earlier: Any) -> int:
        assert self.at_ns
        assert earlier.at_ns
        return self.at_ns - int(earlier.at_ns)


class Stream:
    def __init__(self, device: "Device") -> None:
        self.device, self.handle = device, next(device.addresses)
        self.asked: list[Callable[[], None]] = []

    def ask(self, work: Callable[[], None]) -> None:
        assert getattr(self.device.local, "used", False), "the thread is not on the device"
        self.asked.append(work)

    def copy_in(self, target: Any, source: Any, nbytes: int) -> None:
        assert nbytes <= min(target.nbytes, source.nbytes)

        def copy() -> None:
            target.array[:nbytes] = source.array[:nbytes]

        self.ask(copy)

    def copy_out(self, target: Any, source: Any, at: int, nbytes: int) -> None:
        assert at + nbytes <= target.nbytes
        assert nbytes <= source.nbytes

        def copy() -> None:
            target.array[at : at + nbytes] = source.array[:nbytes]

        self.ask(copy)

    def mark(self) -> Mark:
        mark = Mark()

        def pass_by() -> None:
            mark.at_ns = time.monotonic_ns()

        self.ask(pass_by)
        return mark

    def wait(self) -> None:
        time.sleep(0.0002)  # others run meanwhile
        asked, self.asked = self.asked, []
        for work in asked:
            work()


class Device:
    """A CUDA device; `current` is the one that contexts find streams and memory on."""

    current: "Device"

    def __init__(self, name: str = "NVIDIA Fake", capability: tuple[int, int] = (9, 0)) -> None:
        self.name, self.capability = name, capability
        self.addresses = itertools.count(1)
        self.memory: weakref.WeakValueDictionary[int, Block] = weakref.WeakValueDictionary()
        self.streams: weakref.WeakValueDictionary[int, Stream] = weakref.WeakValueDictionary()
        self.allocations = 0
        self.pinned_blocks: weakref.WeakSet[Block] = weakref.WeakSet()
        self.local = threading.local()
        self.scratch_of: dict[int, set[int]] = {}  # streams that ran with a block of scratch memory
        self.ran: list[str] = []
        Device.current = self

    @contextlib.contextmanager
    def use(self) -> Iterator[None]:
        before, self.local.used = getattr(self.local, "used", False), True
        try:
            yield
        finally:
            self.local.used = before

    def stream(self) -> Stream:
        stream = Stream(self)
        self.streams[stream.handle] = stream
        return stream

    def block(self, nbytes: int) -> Block:
        return Block(self, nbytes)

    def pinned(self, nbytes: int) -> Block:
        block = Block(self, nbytes)
        self.pinned_blocks.add(block)
        return block

    def release(self) -> None:
        gc.collect()

    def device_bytes(self) -> int:
        return sum(block.nbytes for block in self.memory.values() if block not in self.pinned_blocks)


# ---- the module


class DataType(enum.Enum):
    FLOAT, HALF, BF16, INT8, INT32, INT64, BOOL, UINT8, FP8 = range(9)


NUMPY: dict[str, np.dtype[Any]] = {
    "FLOAT": np.dtype("<f4"),
    "HALF": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "INT8": np.dtype("i1"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "BOOL": np.dtype(bool),
    "UINT8": np.dtype("u1"),
    "FP8": np.dtype("u1"),
}


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class TensorLocation(enum.Enum):
    DEVICE, HOST = range(2)


class TensorFormat(enum.Enum):
    LINEAR, CHW32 = range(2)


class EngineStat(enum.Enum):
    TOTAL_WEIGHTS_SIZE, STRIPPED_WEIGHTS_SIZE = range(2)


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class BuilderFlag(enum.Enum):
    FP16 = 0


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    log: Any


class IProfiler:
    report_layer_time: Any


class IOutputAllocator:
    reallocate_output_async: Any
    notify_shape: Any


Shape = tuple[int, ...]
Dims = Shape


def twice(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"z": (2 * (inputs["x"] + inputs["y"])).astype(inputs["x"].dtype)}


def same(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"z": inputs["x"]}


def positive(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"z": inputs["x"][inputs["x"] > 0]}


OPERATIONS = {"twice": twice, "same": same, "positive": positive}


def plan_of(network: dict[str, Any], version: bytes = VERSION, tag: bytes = b"ftrt") -> bytes:
    """A plan of a network: `operation`, `inputs` and `outputs` (name: [type, shape]), `profiles`, sizes."""
    return tag + bytes(20) + version + json.dumps(network).encode()


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, content: bytes) -> "Engine | None":
        network = json.loads(content[28:])
        error = self.logger.log
        if content[24:28] != VERSION:
            error(ILogger.Severity.ERROR, "Version tag does not match.")
            return None
        if tuple(network.get("capability", Device.current.capability)) != Device.current.capability:
            error(ILogger.Severity.ERROR, "Incompatible device, expecting compute 9.0 got compute 8.6.")
            return None
        Engine.deserialised += 1
        return Engine(network)


class Engine:
    deserialised = 0

    def __init__(self, network: dict[str, Any]) -> None:
        self.network = network
        self.tensors: list[str] = [*network["inputs"], *network["outputs"]]
        self.kinds = {**network["inputs"], **network["outputs"]}
        self.num_io_tensors = len(self.tensors)
        self.num_optimization_profiles = max(1, len(network.get("profiles", [])))
        self.device_memory_size_v2 = network.get("scratch", 4096)
        self.contexts = 0

    def get_tensor_name(self, index: int) -> str:
        return self.tensors[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.network["inputs"] else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[self.kinds[name][0]]

    def get_tensor_shape(self, name: str) -> Shape:
        return tuple(self.kinds[name][1])

    def is_shape_inference_io(self, name: str) -> bool:
        return name in self.network.get("shape_tensors", [])

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.HOST if self.is_shape_inference_io(name) else TensorLocation.DEVICE

    def get_tensor_format(self, name: str, profile: int) -> TensorFormat:
        return TensorFormat[self.network.get("formats", {}).get(name, "LINEAR")]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[Shape]:
        return [tuple(shape) for shape in self.network["profiles"][profile][name]]

    def get_engine_stat(self, stat: EngineStat) -> int:
        assert stat is EngineStat.TOTAL_WEIGHTS_SIZE
        return int(self.network.get("weights", 1000))

    def create_execution_context(self, strategy: ExecutionContextAllocationStrategy) -> "Context":
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        self.contexts += 1
        return Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.profile = engine, 0
        self.shapes: dict[str, Shape] = {}
        self.addresses: dict[str, int] = {}
        self.allocators: dict[str, Any] = {}
        self.scratch = 0
        self.profiler: Any = None
        self.enqueue_emits_profile = True

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        assert stream in Device.current.streams
        self.profile = profile
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        assert Device.current.memory[memory].nbytes >= size >= self.engine.device_memory_size_v2
        self.scratch = memory

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address in Device.current.memory

    def set_output_allocator(self, name: str, allocator: IOutputAllocator) -> bool:
        self.allocators[name] = allocator
        return True

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        static = self.engine.get_tensor_shape(name)
        if -1 in static:
            low, _, high = self.engine.get_tensor_profile_shape(name, self.profile)
            fits = len(low) == len(shape) and all(a <= d <= b for a, d, b in zip(low, shape, high, strict=True))
        else:
            fits = shape == static
        if fits:
            self.shapes[name] = tuple(shape)
        return fits

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine.network["inputs"] if name not in self.shapes]

    def get_tensor_shape(self, name: str) -> Shape:
        if self.engine.network["operation"] == "positive":
            return (-1,)
        if name in self.shapes:
            return self.shapes[name]
        first = self.shapes[next(iter(self.engine.network["inputs"]))]
        return tuple(
            known if d == -1 else d for d, known in zip(self.engine.get_tensor_shape(name), first, strict=True)
        )

    def get_max_output_size(self, name: str) -> int:
        return int(self.engine.network.get("max_output", -1))

    def execute_async_v3(self, handle: int) -> bool:
        device = Device.current
        stream = device.streams[handle]
        assert not self.infer_shapes()
        assert self.scratch in device.memory
        device.scratch_of.setdefault(self.scratch, set()).add(handle)
        device.ran.append(f"{dict(sorted(self.shapes.items()))}")
        if self.engine.network.get("fails"):
            return False
        if self.allocators:
            stream.wait()
            (result,) = self._compute().values()
            allocator = self.allocators["z"]
            self.addresses["z"] = allocator.reallocate_output_async(
                "z", self.addresses["z"], result.nbytes, 256, handle
            )
            if not self.addresses["z"]:
                return False
            allocator.notify_shape("z", result.shape)
        stream.ask(self._run)
        return True

    def _array(self, name: str, shape: Shape) -> np.ndarray:
        kind = NUMPY[self.engine.kinds[name][0]]
        nbytes = int(np.prod(shape)) * kind.itemsize
        block = Device.current.memory[self.addresses[name]]
        assert block.nbytes >= nbytes, "the tensor's memory is too small"
        return block.array[:nbytes].view(kind).reshape(shape)

    def _compute(self) -> dict[str, np.ndarray]:
        inputs = {name: self._array(name, self.shapes[name]) for name in self.engine.network["inputs"]}
        return OPERATIONS[self.engine.network["operation"]](inputs)

    def _run(self) -> None:
        for name, result in self._compute().items():
            np.copyto(self._array(name, result.shape), result)

    def report_to_profiler(self) -> bool:
        assert not self.enqueue_emits_profile
        for index, layer in enumerate(("add", "double")):
            self.profiler.report_layer_time(layer, 0.25 * (index + 1))
        return True


# ---- building


class NetworkTensor:
    def __init__(self, name: str, shape: list[int], shape_tensor: bool) -> None:
        self.name, self.shape, self.is_shape_tensor = name, tuple(shape), shape_tensor


class Network:
    def __init__(self) -> None:
        self.content: dict[str, Any] = {}

    @property
    def num_inputs(self) -> int:
        return len(self.content["inputs"])

    def get_input(self, index: int) -> NetworkTensor:
        name = list(self.content["inputs"])[index]
        return NetworkTensor(name, self.content["inputs"][name][1], name in self.content.get("shape_tensors", []))


class ParserError:
    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told

    def node(self) -> int:
        return int(self.told["node"])

    def node_name(self) -> str:
        return str(self.told["name"])

    def node_operator(self) -> str:
        return str(self.told["operator"])

    def desc(self) -> str:
        return str(self.told["desc"])


class OnnxParser:
    def __init__(self, network: Network, logger: ILogger) -> None:
        self.network, self.errors = network, list[dict[str, Any]]()

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, index: int) -> ParserError:
        return ParserError(self.errors[index])

    def parse_from_file(self, path: str) -> bool:
        self.network.content = json.loads(Path(path).read_bytes())
        self.errors = self.network.content.get("errors", [])
        return not self.errors


class OptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[Shape]] = {}

    def set_shape(self, name: str, low: Shape, best: Shape, high: Shape) -> None:
        self.shapes[name] = [low, best, high]


class HostMemory:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def __bytes__(self) -> bytes:
        return self.content


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> HostMemory:
        return HostMemory(self.content)


class BuilderConfig:
    def __init__(self) -> None:
        self.flags_set: list[BuilderFlag] = []
        self.profiles: list[OptimizationProfile] = []
        self.limits: dict[MemoryPoolType, int] = {}
        self.times: TimingCache | None = None

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags_set.append(flag)

    def add_optimization_profile(self, profile: OptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        self.limits[pool] = size

    def create_timing_cache(self, content: bytes) -> TimingCache | None:
        return None if content.startswith(b"broken") else TimingCache(content)

    def set_timing_cache(self, times: TimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.times = times
        return True

    def get_timing_cache(self) -> TimingCache | None:
        return self.times


class Builder:
    builds: ClassVar[list[tuple[BuilderConfig, dict[str, Any]]]] = []

    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def create_network(self, flags: int) -> Network:
        return Network()

    def create_builder_config(self) -> BuilderConfig:
        return BuilderConfig()

    def create_optimization_profile(self) -> OptimizationProfile:
        return OptimizationProfile()

    def build_serialized_network(self, network: Network, config: BuilderConfig) -> HostMemory | None:
        if network.content.get("unbuildable"):
            self.logger.log(ILogger.Severity.ERROR, "no kernel for node Foo")
            return None
        if config.times is not None:
            config.times = TimingCache(config.times.content + b"t")
        content = network.content | {"profiles": [profile.shapes for profile in config.profiles]}
        Builder.builds.append((config, content))
        return HostMemory(plan_of(content))
