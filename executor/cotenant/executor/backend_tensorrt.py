"""TensorRT on CUDA: plans (`model.plan`), and ONNX models (`model.onnx`) that are built to plans at their first load.

A plan is deserialised once. As many batches as may run at once each have a lane (tensorrt_lane.py), made at load. None
of this has run on a GPU yet: it is written against the bindings' types and tested with a stand-in.
"""

import queue
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from cotenant.executor import cuda_stream, tensorrt_build
from cotenant.executor.backend import Backend, Kernel, Model, Placement, Signature, Tensors
from cotenant.executor.cuda_stream import CudaDevice, PinnedBlock
from cotenant.executor.tensorrt_lane import Lane
from cotenant.executor.tensorrt_plan import Plan, Shape, open_plan
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime import model_options

_log = structlog.get_logger()


class TensorRtModel:
    """One engine and its lanes."""

    inline = False

    def __init__(self, plan: Plan, device: CudaDevice, lanes: int, *, layers: bool) -> None:
        self.signature: Signature = plan.signature()
        self.timed_anytime = not layers  # these take a lane that is made for them
        self._plan, self._device, self._layers = plan, device, layers
        self._outputs: deque[PinnedBlock] = deque()  # that no array uses
        with device.use():
            self._lanes = [Lane(plan, device, self._outputs) for _ in range(lanes)]
        self._free: queue.LifoQueue[Lane] = queue.LifoQueue()
        for lane in self._lanes:
            self._free.put(lane)
        self._profiling: Lane | None = None

    @property
    def memory_bytes(self) -> int:
        """Weights once; scratch memory, inputs and outputs for each lane."""
        return self._plan.weight_bytes + sum(lane.memory_bytes for lane in self._lanes)

    @property
    def weight_bytes(self) -> int:
        """See `Weighed`: scratch memory and the lanes of other batches are not read by a run."""
        return self._plan.weight_bytes

    @contextmanager
    def _lane(self) -> Iterator[Lane]:
        """A lane that nothing runs on; waits for one if all are taken."""
        lane = self._free.get()
        try:
            with self._device.use():
                yield lane
        finally:
            self._free.put(lane)

    def run(self, inputs: Tensors) -> Tensors:
        """See `Model.run`."""
        with self._lane() as lane:
            return lane.run(inputs)

    def prepare_timed(self, inputs: Tensors) -> None:
        """See `Model.prepare_timed`. Times of layers take a lane of their own, which the timed run ends."""
        if self._layers and self._profiling is None:
            with self._device.use():
                lane = Lane(self._plan, self._device, self._outputs, layers=True)
                lane.run(inputs)
            self._profiling = lane

    def run_timed(self, inputs: Tensors) -> tuple[Tensors, list[Kernel]]:
        """See `Model.run_timed`: copies and the time between, by CUDA events; layers where configured."""
        if not self._layers:
            with self._lane() as lane:
                return lane.run_timed(inputs)
        self.prepare_timed(inputs)
        assert self._profiling is not None
        lane, self._profiling = self._profiling, None
        with self._device.use():
            return lane.run_timed(inputs)

    def counted(self) -> None:
        """See `Model.counted`: an engine does not tell what its kernels compute."""

    def close(self) -> None:
        """See `Model.close`."""
        self._lanes.clear()
        self._free = queue.LifoQueue()
        self._profiling = None
        self._outputs.clear()
        del self._plan  # after its contexts, which need the engine
        with self._device.use():
            self._device.release()


class TensorRtBackend:
    """See the module's text."""

    def load(self, folder: Path, config: pb.ModelConfig, placement: Placement) -> Model:
        """See `Backend.load`."""
        if placement.kind != "cuda":
            raise ValueError(f"model '{config.name}': backend 'tensorrt' runs only on a CUDA device")
        layers = _layers(config)
        path = _find(folder, config)
        device = cuda_stream.open_device(placement.index)
        with device.use():
            try:
                plan = _from_onnx(path, config, placement, device) if path.suffix == ".onnx" else _read(path, device)
            except ValueError as error:
                prefix = f"model '{config.name}': "
                raise ValueError(prefix + str(error).removeprefix(prefix)) from error
            _check(plan, config)
            return TensorRtModel(plan, device, _concurrent(config, placement), layers=layers)


def _find(folder: Path, config: pb.ModelConfig) -> Path:
    names = [config.default_model_filename] if config.default_model_filename else ["model.plan", "model.onnx"]
    for path in (folder / name for name in names):
        if path.exists():
            return path
    raise ValueError(f"model '{config.name}': none of {', '.join(names)} is in {folder}")


def _layers(config: pb.ModelConfig) -> bool:
    text = config.parameters["layer_times"].string_value if "layer_times" in config.parameters else "false"
    if text not in ("true", "false"):
        raise ValueError(f"model '{config.name}': parameter 'layer_times' is {text!r}, expected true or false")
    return text == "true"


def _concurrent(config: pb.ModelConfig, placement: Placement) -> int:
    """How many batches of the model run at once at most, as the scheduler reads the configuration."""
    instances = sum(max(1, group.count) for group in config.instance_group) or placement.concurrency
    return max(1, min(instances, placement.concurrency))


def _read(path: Path, device: CudaDevice) -> Plan:
    return open_plan(path.read_bytes(), path, device)


def _from_onnx(path: Path, config: pb.ModelConfig, placement: Placement, device: CudaDevice) -> Plan:
    """The kept plan of an ONNX model, or a new one."""
    settings = tensorrt_build.settings_of(config)
    files = tensorrt_build.kept_files(path, settings, device, placement.cache)
    for file in files:
        if file.exists():
            try:
                return _read(file, device)
            except (OSError, ValueError) as error:
                _log.warning("kept plan cannot be used, building again", path=str(file), error=str(error))
    _log.info("building a plan", model=config.name, precision=settings.precision)
    content = tensorrt_build.build(path, settings, device, placement.cache)
    if not tensorrt_build.keep(content, files):
        _log.warning("plan not kept, it will be built again at the next load", model=config.name)
    return open_plan(content, path, device)


def _check(plan: Plan, config: pb.ModelConfig) -> None:
    """Raises ValueError if no profile takes what the configuration promises to serve."""
    sizes = sorted({1, config.max_batch_size}) if config.max_batch_size else [0]
    buckets = model_options.read(config).shape_buckets
    for bucket in buckets or (-1,):
        for size in sizes:
            shapes = tuple(_shape(binding.shape, size, bucket) for binding in plan.inputs)
            if not any(-1 in shape for shape in shapes) and plan.profile_of(shapes) is None:
                what = f"a batch of {size}" + (f" in bucket {bucket}" if bucket > 0 else "")
                ranges = "; ".join(
                    str([list(map(list, b.ranges[p])) for b in plan.inputs]) for p in range(plan.profiles)
                )
                raise ValueError(
                    f"model '{config.name}': the configuration allows {what}, which no profile of the plan takes "
                    f"(smallest and largest shapes of the inputs: {ranges})"
                )


def _shape(shape: Shape, size: int, bucket: int) -> Shape:
    first = (size,) if size and shape[:1] == (-1,) else shape[:1]
    return (*first, *(bucket if d == -1 else d for d in shape[1:]))


def make() -> Backend:
    """The backend. Raises ImportError if TensorRT or torch, which provides memory and streams, is not installed."""
    import tensorrt  # noqa: F401
    import torch  # noqa: F401

    return TensorRtBackend()
