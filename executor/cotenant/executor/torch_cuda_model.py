"""A torch program on a CUDA device: its lanes, when classes are captured, and what memory it takes.

The classes that are known at load are captured then, the largest first, so that the smaller find their memory in the
pool. Others run eagerly and are captured in the background once they have come twice. A program that cannot be
captured runs eagerly for good, and the log says so once.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import prod

import structlog

from cotenant.executor import kernel_timing
from cotenant.executor.backend import CountedModel, Kernel, Placement, Signature, Tensors
from cotenant.executor.cuda_stream import Mark
from cotenant.executor.torch_cuda_device import CaptureError, GraphDevice, TensorBlock
from cotenant.executor.torch_cuda_lane import Lane, Shapes
from cotenant.executor.torch_cuda_memory import Memory
from cotenant.executor.torch_programs import Program
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.datatypes import NUMPY

_log = structlog.get_logger()

_SIGHTS = 2  # a class that comes so often is captured
_MOST_SHAPES = 1024  # whose sights are counted
_MOST_CLASSES = 64  # that are captured: each is a graph per lane


class Lanes:
    """Lanes, and who has them. One that is wanted by itself goes to nobody else when it comes back."""

    def __init__(self, lanes: list[Lane]) -> None:
        self.all = tuple(lanes)
        self._free, self._wanted = list(lanes), set[Lane]()
        self._changed = threading.Condition()

    @contextmanager
    def any(self) -> Iterator[Lane]:
        """A lane that nothing runs on; waits for one if all are taken."""
        with self._changed:
            while (lane := next((one for one in reversed(self._free) if one not in self._wanted), None)) is None:
                self._changed.wait()
            self._free.remove(lane)
        try:
            yield lane
        finally:
            self._give_back(lane)

    @contextmanager
    def this(self, lane: Lane) -> Iterator[None]:
        """That lane, as soon as nothing runs on it."""
        with self._changed:
            self._wanted.add(lane)
            self._changed.wait_for(lambda: lane in self._free)
            self._free.remove(lane)
        try:
            yield
        finally:
            self._wanted.discard(lane)
            self._give_back(lane)

    def _give_back(self, lane: Lane) -> None:
        with self._changed:
            self._free.append(lane)
            self._changed.notify_all()


class CudaModel:
    """See the module's text."""

    inline = False
    timed_anytime = True

    def __init__(
        self,
        program: Program,
        device: GraphDevice,
        memory: Memory,
        *,
        name: str,
        lanes: int,
        priority: int,
        count: Callable[[], CountedModel | None],
    ) -> None:
        self.signature: Signature | None = program.signature
        self._program, self._device, self._memory, self._name, self._count = program, device, memory, name, count
        self._eager = program.not_graphed
        self._weight_bytes = max(program.weight_bytes, memory.taken())
        self._outputs: deque[TensorBlock] = deque()  # that no array uses
        with device.use():
            self._lanes = Lanes([Lane(program, device, self._outputs, priority=priority) for _ in range(lanes)])
        self._lane_bytes = 0
        self._sights: dict[Shapes, int] = {}  # of classes that have no graph
        self._asked: set[Shapes] = set()  # classes that have one, or that were given up
        self._kinds = {name: NUMPY[datatype] for name, datatype in program.inputs}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="capture")
        self._closed = False
        if self._eager:
            self._log_eager("every class")

    @property
    def memory_bytes(self) -> int:
        """Weights, buffers of the lanes, and graphs with their pools, as the device tells them."""
        return self._weight_bytes + self._lane_bytes

    @property
    def weight_bytes(self) -> int:
        """See `Weighed`."""
        return self._program.weight_bytes

    # ---- capturing

    def prepare(self, examples: Iterable[Tensors]) -> None:
        """See `PreparedModel.prepare`: makes room for the classes and captures them.

        Raises ValueError if the device has too little memory for all lanes.
        """
        classes = sorted({self._shapes(example) for example in examples}, key=_elements, reverse=True)
        self._asked.update(classes[:_MOST_CLASSES])
        first, *others = self._lanes.all
        self._memory.require(len(self._lanes.all) * self._input_bytes(classes), "input buffers of all lanes")
        self._prepare(first, classes)
        one = self._taken()
        self._lane_bytes += one
        if others:
            self._memory.require(one * len(others), f"{len(others)} more lanes like the first")
            for lane in others:
                self._prepare(lane, classes)
            self._lane_bytes += self._taken()

    def _taken(self) -> int:
        """What lanes took. A program without graphs works in memory that the allocator keeps for it: that counts."""
        return self._memory.taken(release=not self._eager)

    def _prepare(self, lane: Lane, classes: list[Shapes]) -> None:
        import torch

        try:
            with self._device.use(), self._lanes.this(lane):
                if not self._eager:
                    lane.reserve(classes)
                for shapes in classes[:_MOST_CLASSES]:
                    self._capture(lane, shapes)
                if self._eager and classes:
                    lane.rehearse(classes[0])
                lane.spare(2)  # one that a batch fills, and one whose outputs are still being handed out
        except torch.OutOfMemoryError as error:
            self._device.release()
            free = self._device.free_bytes() / 2**20
            raise ValueError(
                f"model '{self._name}': the device ran out of memory while lane {self._lanes.all.index(lane) + 1} of "
                f"{len(self._lanes.all)} was made; weights took {self._weight_bytes / 2**20:.1f} MiB, {free:.1f} MiB "
                f"are free on {self._device.name} without it: {str(error).partition(chr(10))[0]}"
            ) from error

    def _capture(self, lane: Lane, shapes: Shapes) -> None:
        if self._eager:
            return
        try:
            lane.capture(shapes)
        except CaptureError as error:
            self._eager = str(error)
            self._log_eager(str([list(shape) for shape in shapes]))

    def _log_eager(self, which: str) -> None:
        _log.warning("no CUDA graph, running eagerly", model=self._name, batch_class=which, reason=self._eager)

    def _meet(self, shapes: Shapes) -> None:
        """Notes a class that has no graph, and has it captured once it has come often enough."""
        if self._eager or self._closed or shapes in self._asked or len(self._asked) >= _MOST_CLASSES:
            return
        if len(self._sights) >= _MOST_SHAPES:
            self._sights.clear()
        sights = self._sights[shapes] = self._sights.get(shapes, 0) + 1
        if sights >= _SIGHTS:
            self._asked.add(shapes)
            self._worker.submit(self._capture_everywhere, shapes)

    def _capture_everywhere(self, shapes: Shapes) -> None:
        """Runs on the capturing thread, one lane after the other, so that the others serve."""
        before = self._device.reserved_bytes()
        try:
            for lane in self._lanes.all:
                with self._device.use(), self._lanes.this(lane):
                    if self._closed:
                        return
                    self._memory.require(self._input_bytes([shapes]), "buffers of a new class")
                    self._capture(lane, shapes)
        except Exception as error:  # whatever it is: the class runs eagerly, as it did until now
            _log.warning(
                "class not captured, running it eagerly",
                model=self._name,
                batch_class=[list(shape) for shape in shapes],
                reason=str(error).partition("\n")[0],
            )
        self._lane_bytes += max(0, self._device.reserved_bytes() - before)

    def _input_bytes(self, classes: list[Shapes]) -> int:
        """What one lane needs for inputs of these classes."""
        sizes = [kind.itemsize for kind in self._kinds.values()]
        largest = [max((prod(shapes[i]) for shapes in classes), default=0) for i in range(len(sizes))]
        return sum(count * size for count, size in zip(largest, sizes, strict=True))

    # ---- running

    def run(self, inputs: Tensors) -> Tensors:
        """See `Model.run`. Raises ValueError for inputs that are not the program's."""
        shapes = self._shapes(inputs)
        with self._lanes.any() as lane:
            outputs = lane.run(inputs, shapes)
            known = lane.knows(shapes)
        if not known:
            self._meet(shapes)
        return outputs

    def prepare_timed(self, inputs: Tensors) -> None:
        """See `Model.prepare_timed`: has the source of timings start, which may take long once."""
        with self._lanes.any() as lane:
            kernel_timing.of_process.prepare(lambda: lane.run(inputs, self._shapes(inputs)), lane.stream.handle)

    def run_timed(self, inputs: Tensors) -> tuple[Tensors, list[Kernel]]:
        """See `Model.run_timed`: kernels and copies, or these with what is between them where kernels are not told."""
        marks: list[Mark] = []
        shapes = self._shapes(inputs)
        with self._lanes.any() as lane:
            outputs, kernels = kernel_timing.of_process.time(
                lambda: lane.run(inputs, shapes, marks), lane.stream.handle
            )
            return outputs, kernels or _between(marks)

    def _shapes(self, inputs: Tensors) -> Shapes:
        """Shapes in the program's order. Raises ValueError for names or types that it does not have."""
        if len(inputs) > len(self._kinds):
            raise ValueError(f"there is no input {', '.join(repr(n) for n in inputs if n not in self._kinds)}")
        shapes = []
        for name, kind in self._kinds.items():
            array = inputs.get(name)
            if array is None:
                raise ValueError(f"input '{name}' is missing")
            if array.dtype != kind:
                raise ValueError(f"input '{name}' has type {array.dtype}, expected {kind}")
            shapes.append(array.shape)
        return tuple(shapes)

    def counted(self) -> CountedModel | None:
        """See `Model.counted`: the same program, eagerly."""
        return self._count()

    def close(self) -> None:
        """See `Model.close`."""
        self._closed = True
        self._worker.shutdown(wait=True)
        del self._program, self._lanes, self._count
        self._outputs.clear()
        with self._device.use():
            self._device.release()


def _elements(shapes: Shapes) -> int:
    return sum(prod(shape) for shape in shapes)


def _between(marks: list[Mark]) -> list[Kernel]:
    """What marks before and after inputs, program and outputs tell."""
    start, copied, ran, end = marks
    at_ns, ran_ns = copied.ns_since(start), ran.ns_since(start)
    return [
        Kernel("copy inputs", 0, at_ns),
        Kernel("execute", at_ns, max(0, ran_ns - at_ns)),
        Kernel("copy outputs", ran_ns, end.ns_since(ran)),
    ]


def concurrent(config: pb.ModelConfig, placement: Placement) -> int:
    """How many batches of a model run at once at most, as the scheduler reads the configuration."""
    instances = sum(max(1, group.count) for group in config.instance_group) or placement.concurrency
    return max(1, min(instances, placement.concurrency))


def priority(config: pb.ModelConfig) -> int:
    """The priority of a model's streams: Triton's `optimization { priority: PRIORITY_MAX }` asks for the higher."""
    return -1 if config.optimization.priority == pb.ModelOptimizationPolicy.PRIORITY_MAX else 0
