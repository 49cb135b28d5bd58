"""A lane runs one batch of a plan at a time: a stream, a context per profile, and the memory that they use.

All of it is made at load, large enough for the largest shapes of every profile, so a run allocates nothing: copies and
kernels go to one stream and are waited for once. The contexts of a lane share one block of scratch memory, since only
one of them runs. Outputs lie in pinned blocks that are used again when the last array of a run is gone.
"""

from collections import deque
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from cotenant.executor.backend import Kernel, Tensors
from cotenant.executor.cuda_stream import CudaDevice, DeviceBlock, Lease, PinnedBlock
from cotenant.executor.tensorrt_callbacks import allocator_of, profiler_of
from cotenant.executor.tensorrt_plan import Binding, Plan, Shape, logger
from cotenant.runtime.datatypes import NUMPY, Array

if TYPE_CHECKING:
    import tensorrt as trt

_ALIGNMENT = 256  # bytes, of outputs within a block
_KNOWN_SHAPES = 256  # combinations of input shapes that a lane remembers


@dataclass(slots=True)
class Prepared:
    """What a run of inputs of known shapes needs."""

    profile: int
    shapes: tuple[Shape, ...]  # of the inputs
    staged: list[Array]  # the inputs' places in pinned memory
    outputs: list[Shape | None]  # None: depends on data


class Lane:
    """See the module's text. For one thread at a time, inside `device.use()`."""

    def __init__(self, plan: Plan, device: CudaDevice, free: deque[PinnedBlock], *, layers: bool = False) -> None:
        import tensorrt as trt

        self._plan, self._device, self._free = plan, device, free
        self._errors = logger(trt)[1]
        self._stream = device.stream()
        self._scratch = device.block(max(plan.scratch_bytes, 1))
        self._profiler = profiler_of(trt)() if layers else None
        self._contexts = [self._context(trt, profile) for profile in range(plan.profiles)]
        self._set: list[tuple[Shape, ...] | None] = [None] * plan.profiles  # the shapes each context has
        self._prepared: dict[tuple[Shape, ...], Prepared] = {}
        self._device_blocks: dict[str, DeviceBlock] = {}
        self._pinned_inputs: dict[str, PinnedBlock] = {}
        self._allocators: dict[str, Any] = {}
        for output in plan.outputs:
            self._allocators[output.name] = allocator_of(trt)(partial(_grow, device, self._device_blocks, output.name))
        for profile in range(plan.profiles):
            self.prepare(tuple(binding.ranges[profile][1] for binding in plan.inputs), profile)
        self._prepared.clear()  # blocks may have grown after the first were prepared
        self._output_bytes = sum(_aligned(self._device_blocks[output.name].nbytes) for output in plan.outputs)
        free.append(device.pinned(max(1, self._output_bytes)))
        self._stream.wait()

    @property
    def memory_bytes(self) -> int:
        """On the device, without the weights."""
        return self._scratch.nbytes + sum(block.nbytes for block in self._device_blocks.values())

    def _context(self, trt: Any, profile: int) -> "trt.IExecutionContext":
        context = self._plan.engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None or not context.set_optimization_profile_async(profile, self._stream.handle):
            raise RuntimeError(f"no context for profile {profile}: {self._errors.take()}")
        context.set_device_memory(self._scratch.address, self._scratch.nbytes)
        if self._profiler is not None:
            context.enqueue_emits_profile = False
            context.profiler = self._profiler
        return context

    # ---- before a run

    def prepare(self, shapes: tuple[Shape, ...], profile: int | None = None) -> Prepared:
        """Sees to it that inputs of these shapes can run. Raises ValueError if no profile takes them."""
        if profile is None:
            if (known := self._prepared.get(shapes)) is not None:
                return known
            profile = self._plan.profile_of(shapes)
        if profile is None:
            raise ValueError(_no_profile(self._plan, shapes))
        self._set_shapes(profile, shapes)
        context = self._contexts[profile]
        if missing := context.infer_shapes():
            raise RuntimeError(f"TensorRT needs more to know the shapes of {', '.join(missing)}")
        for binding, shape in zip(self._plan.inputs, shapes, strict=True):
            nbytes = max(1, _nbytes(binding, shape))
            self._room(binding.name, nbytes)
            if binding.name not in self._pinned_inputs or self._pinned_inputs[binding.name].nbytes < nbytes:
                self._pinned_inputs[binding.name] = self._device.pinned(nbytes)
                self._prepared.clear()
        outputs = [self._expect(context, output) for output in self._plan.outputs]
        staged = [
            self._pinned_inputs[binding.name].array[: _nbytes(binding, shape)].view(NUMPY[binding.datatype])
            for binding, shape in zip(self._plan.inputs, shapes, strict=True)
        ]
        staged = [array.reshape(shape) for array, shape in zip(staged, shapes, strict=True)]
        if len(self._prepared) >= _KNOWN_SHAPES:
            self._prepared.clear()
        prepared = self._prepared[shapes] = Prepared(profile, shapes, staged, outputs)
        return prepared

    def _set_shapes(self, profile: int, shapes: tuple[Shape, ...]) -> None:
        if self._set[profile] == shapes:
            return
        self._set[profile] = None
        for binding, shape in zip(self._plan.inputs, shapes, strict=True):
            if not self._contexts[profile].set_input_shape(binding.name, shape):
                raise ValueError(f"input '{binding.name}' cannot have shape {list(shape)}: {self._errors.take()}")
        self._set[profile] = shapes

    def _expect(self, context: "trt.IExecutionContext", output: Binding) -> Shape | None:
        """Makes room for an output and tells its shape; None if that depends on data."""
        shape = tuple(context.get_tensor_shape(output.name))
        if -1 not in shape:
            self._room(output.name, max(1, _nbytes(output, shape)))
            return shape
        self._room(output.name, max(1, context.get_max_output_size(output.name)))
        if not context.set_output_allocator(output.name, self._allocators[output.name]):
            raise RuntimeError(f"output '{output.name}' takes no allocator: {self._errors.take()}")
        return None

    def _room(self, name: str, nbytes: int) -> None:
        """Sees to it that a tensor's block on the device is that large, and that all contexts know where it is."""
        known = self._device_blocks.get(name)
        if known is not None and known.nbytes >= nbytes:
            return
        block = self._device_blocks[name] = self._device.block(nbytes)
        for context in self._contexts:
            if not context.set_tensor_address(name, block.address):
                raise RuntimeError(f"tensor '{name}' takes no address: {self._errors.take()}")

    # ---- a run

    def run(self, inputs: Tensors) -> Tensors:
        """One batch. Raises ValueError for inputs that do not fit the plan, RuntimeError where TensorRT fails."""
        return self._run(inputs)[0]

    def run_timed(self, inputs: Tensors) -> tuple[Tensors, list[Kernel]]:
        """One batch, with the device's times of the copies and of what is between; of each layer if it notes these."""
        outputs, (start, copied, ran, end) = self._run(inputs, timed=True)
        at_ns, run_ns = copied.ns_since(start), ran.ns_since(copied)
        kernels = [Kernel("copy inputs", 0, at_ns)]
        for name, duration_ns in self._profiler.layers if self._profiler else [("execute", run_ns)]:
            kernels.append(Kernel(name[:128], at_ns, duration_ns))
            at_ns += duration_ns
        at_ns = max(at_ns, ran.ns_since(start))
        return outputs, [*kernels, Kernel("copy outputs", at_ns, end.ns_since(ran))]

    def _run(self, inputs: Tensors, *, timed: bool = False) -> tuple[Tensors, list[Any]]:
        prepared = self.prepare(_shapes(self._plan, inputs))
        context, stream = self._contexts[prepared.profile], self._stream
        self._set_shapes(prepared.profile, prepared.shapes)
        marks: list[Any] = []

        def note() -> None:
            if timed:
                marks.append(stream.mark())

        try:
            note()
            for binding, staged in zip(self._plan.inputs, prepared.staged, strict=True):
                np.copyto(staged, inputs[binding.name])
                if staged.nbytes:
                    stream.copy_in(self._device_blocks[binding.name], self._pinned_inputs[binding.name], staged.nbytes)
            note()
            self._enqueue(context)
            note()
            outputs = self._fetch(prepared)
            note()
        finally:
            stream.wait()  # also after a failure: staging memory must be free when the next batch comes
        if self._profiler is not None:
            self._profiler.layers.clear()
            if not context.report_to_profiler():
                raise RuntimeError(f"TensorRT tells no times of layers: {self._errors.take()}")
        return outputs, marks

    def _enqueue(self, context: "trt.IExecutionContext") -> None:
        for allocator in self._allocators.values():
            allocator.error = None
        if not context.execute_async_v3(self._stream.handle):
            errors = [a.error for a in self._allocators.values() if a.error is not None]
            raise RuntimeError(f"TensorRT failed: {self._errors.take()}") from (errors[0] if errors else None)

    def _fetch(self, prepared: Prepared) -> Tensors:
        """Has the outputs copied to a pinned block, and makes arrays of it."""
        places, at = [], 0
        for output, known in zip(self._plan.outputs, prepared.outputs, strict=True):
            shape = known if known is not None else self._allocators[output.name].shape
            places.append((output, shape, at))
            at += _aligned(_nbytes(output, shape))
        lease = Lease(self._free, self._take(max(at, 1)))
        memory = np.asarray(lease)
        arrays: Tensors = {}
        for output, shape, offset in places:
            nbytes = _nbytes(output, shape)
            if nbytes:
                self._stream.copy_out(lease.block, self._device_blocks[output.name], offset, nbytes)
            arrays[output.name] = memory[offset : offset + nbytes].view(NUMPY[output.datatype]).reshape(shape)
        return arrays

    def _take(self, nbytes: int) -> PinnedBlock:
        """A free block that is large enough; a new one, to be kept, where there is none."""
        self._output_bytes = nbytes = max(nbytes, self._output_bytes)  # so that any later run may use it
        try:
            block = self._free.pop()
        except IndexError:
            return self._device.pinned(nbytes)
        return block if block.nbytes >= nbytes else self._device.pinned(nbytes)


def _grow(device: CudaDevice, blocks: dict[str, DeviceBlock], name: str, nbytes: int) -> int:
    """The address of an output whose size TensorRT tells only while it enqueues; larger blocks are kept."""
    if blocks[name].nbytes < nbytes:
        blocks[name] = device.block(nbytes)
    return blocks[name].address


def _nbytes(binding: Binding, shape: Shape) -> int:
    return prod(shape) * NUMPY[binding.datatype].itemsize


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def _shapes(plan: Plan, inputs: Tensors) -> tuple[Shape, ...]:
    """Shapes of the inputs in the plan's order. Raises ValueError for names or types that it does not have."""
    if len(inputs) > len(plan.inputs):
        known = {binding.name for binding in plan.inputs}
        raise ValueError(f"there is no input {', '.join(repr(name) for name in inputs if name not in known)}")
    for binding in plan.inputs:
        array = inputs.get(binding.name)
        if array is None:
            raise ValueError(f"input '{binding.name}' is missing")
        if array.dtype != NUMPY[binding.datatype]:
            raise ValueError(f"input '{binding.name}' has type {array.dtype}, expected {binding.datatype}")
    return tuple(inputs[binding.name].shape for binding in plan.inputs)


def _no_profile(plan: Plan, shapes: tuple[Shape, ...]) -> str:
    given = ", ".join(f"'{b.name}' {list(s)}" for b, s in zip(plan.inputs, shapes, strict=True))
    ranges = "; ".join(
        ", ".join(f"'{b.name}' {list(b.ranges[p][0])} to {list(b.ranges[p][1])}" for b in plan.inputs)
        for p in range(plan.profiles)
    )
    return f"no profile of the plan takes inputs {given}; there are: {ranges}"
