"""A lane runs one batch of a torch program at a time: a stream, the memory it copies through, a graph per batch class.

A captured class runs without allocating: inputs are copied to where its graph reads them, the graph is one call, and
outputs are copied into a pinned block that is used again when the last array of a run is gone. Inputs that lie in
pinned memory already are copied from there. Graphs of a lane share one pool, since only one of them runs. What has no
graph runs eagerly on the same stream.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from cotenant.executor.backend import Tensors
from cotenant.executor.cuda_stream import Lease, Mark
from cotenant.executor.pinned_ranges import Range, ranges
from cotenant.executor.torch_cuda_device import Graph, GraphDevice, TensorBlock
from cotenant.executor.torch_programs import Program
from cotenant.runtime.datatypes import NUMPY, Array

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]
Shapes = tuple[Shape, ...]  # of a program's inputs, in its order: what tells batch classes apart here

_ALIGNMENT = 256  # bytes, of outputs within a block
_WARM_UPS = 3  # TorchScript optimises at the second run, libraries choose their kernels at the first


@dataclass(slots=True)
class _Input:
    """Where an input of one class goes."""

    name: str
    staged: Array  # in pinned memory
    source: "torch.Tensor"  # the same memory
    target: "torch.Tensor"  # on the device, where the graph reads it


@dataclass(slots=True)
class _Output:
    """Where an output of one class comes from, and where in a pinned block it goes."""

    name: str
    source: "torch.Tensor"  # its bytes on the device
    kind: "np.dtype[Any]"
    shape: Shape
    at: int
    nbytes: int


@dataclass(slots=True)
class _Class:
    """A captured class."""

    inputs: list[_Input]
    graph: Graph
    outputs: list[_Output]
    output_bytes: int


class Lane:
    """See the module's text. For one thread at a time."""

    def __init__(self, program: Program, device: GraphDevice, free: deque[TensorBlock], *, priority: int = 0) -> None:
        import torch

        self._torch, self._program, self._device, self._free = torch, program, device, free
        self.stream = device.lane_stream(priority)
        self._pool = device.new_pool()
        self._pinned: dict[str, TensorBlock] = {}
        self._blocks: dict[str, torch.Tensor] = {}
        self._classes: dict[Shapes, _Class] = {}
        self._output_bytes = 0
        self._numbers: dict[Any, np.dtype[Any]] = {torch.bfloat16: np.dtype(np.uint16)}

    def knows(self, shapes: Shapes) -> bool:
        """Whether a graph runs such inputs."""
        return shapes in self._classes

    # ---- before a run

    def reserve(self, classes: Iterable[Shapes]) -> None:
        """Makes room for the largest of each input."""
        for shapes in classes:
            for (name, datatype), shape in zip(self._program.inputs, shapes, strict=True):
                nbytes = max(1, prod(shape) * NUMPY[datatype].itemsize)
                if name not in self._blocks or self._blocks[name].numel() < nbytes:
                    self._blocks[name] = self._device.empty(nbytes)
                    self._pinned[name] = self._device.pinned(nbytes)

    def capture(self, shapes: Shapes) -> None:
        """Makes a graph for inputs of these shapes; blocks of earlier ones stay where they were.

        Raises CaptureError if there can be none, and what the program raises.
        """
        if shapes in self._classes:
            return
        self.reserve([shapes])
        inputs = [self._input(i, shape) for i, shape in enumerate(shapes)]
        with self._torch.inference_mode():
            try:
                with self.stream.active():
                    for put in inputs:
                        put.target.copy_(put.source, non_blocking=True)
                    for _ in range(_WARM_UPS):
                        self._call(inputs)
            finally:
                self.stream.finish()
            graph, results = self._device.capture(self.stream, self._pool, lambda: self._call(inputs))
        outputs, output_bytes = self._places(results)
        self._classes[shapes] = _Class(inputs, graph, outputs, output_bytes)
        self._output_bytes = max(self._output_bytes, output_bytes)

    def rehearse(self, shapes: Shapes) -> None:
        """Runs inputs of these shapes, for a program without graphs: what it works in is kept by the allocator."""
        kinds = [NUMPY[datatype] for _, datatype in self._program.inputs]
        ones = [np.ones(shape, dtype=kind) for shape, kind in zip(shapes, kinds, strict=True)]
        self.run({name: one for (name, _), one in zip(self._program.inputs, ones, strict=True)}, shapes)

    def spare(self, blocks: int) -> None:
        """Makes pinned blocks for the largest outputs, so that runs need not."""
        for _ in range(blocks if self._output_bytes else 0):
            self._free.append(self._device.pinned(max(1, self._output_bytes)))

    def _input(self, index: int, shape: Shape) -> _Input:
        name, datatype = self._program.inputs[index]
        kind = NUMPY[datatype]
        nbytes = prod(shape) * kind.itemsize
        block = self._pinned[name]
        staged = block.array[:nbytes].view(kind).reshape(shape)
        staged[...] = 1 if kind.kind in "iu" and datatype != "BF16" else 0  # a valid token, a mask that is set

        def typed(memory: "torch.Tensor") -> "torch.Tensor":
            return memory[:nbytes].view(self._torch_type(datatype)).view(shape)

        return _Input(name, staged, typed(block.tensor), typed(self._blocks[name]))

    def _torch_type(self, datatype: str) -> Any:
        """The type of tensors of a datatype of the protocol."""
        if datatype == "BF16":
            return self._torch.bfloat16
        return self._torch.from_numpy(np.empty(0, dtype=NUMPY[datatype])).dtype

    def _call(self, inputs: list[_Input]) -> dict[str, "torch.Tensor"]:
        named = self._program.named(self._program.call(*(put.target for put in inputs)))
        return {name: tensor.detach().contiguous() for name, tensor in named.items()}

    def _places(self, results: dict[str, "torch.Tensor"]) -> tuple[list[_Output], int]:
        """Where outputs go in a block, and how large it must be."""
        places, at = [], 0
        for name, tensor in results.items():
            kind = self._numbers.get(tensor.dtype)
            if kind is None:
                kind = self._numbers[tensor.dtype] = self._torch.empty(0, dtype=tensor.dtype).numpy().dtype
            nbytes = tensor.numel() * tensor.element_size()
            flat = tensor.view(-1).view(self._torch.uint8) if nbytes else tensor
            places.append(_Output(name, flat, kind, tuple(tensor.shape), at, nbytes))
            at += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        return places, at

    # ---- a run

    def run(self, inputs: Tensors, shapes: Shapes, marks: list[Mark] | None = None) -> Tensors:
        """One batch.

        Args:
            inputs: by name; checked.
            shapes: theirs.
            marks: gets a mark before and after the inputs, after the program and after the outputs.
        """

        def note() -> None:
            if marks is not None:
                marks.append(self.stream.mark())

        known = self._classes.get(shapes)
        read: list[Range] = []
        with self._torch.inference_mode(), self.stream.active():
            try:
                note()
                if known is None:
                    outputs, output_bytes = self._eager(inputs, note)
                else:
                    self._copy_in(known.inputs, inputs, read)
                    note()
                    known.graph.replay()
                    outputs, output_bytes = known.outputs, known.output_bytes
                note()
                arrays = self._copy_out(outputs, output_bytes)
                note()
            finally:
                self.stream.finish()  # also after a failure: staging memory must be free when the next batch comes
                ranges.done(read)
        return arrays

    def _copy_in(self, places: list[_Input], inputs: Tensors, read: list[Range]) -> None:
        for put in places:
            array = inputs[put.name]
            if (pinned := ranges.read(array)) is not None:
                read.append(pinned)
                put.target.copy_(self._tensor(array, put.target.dtype), non_blocking=True)
                continue
            np.copyto(put.staged, array)
            put.target.copy_(put.source, non_blocking=True)

    def _tensor(self, array: Array, kind: Any) -> "torch.Tensor":
        tensor: torch.Tensor = self._torch.from_numpy(array)
        return tensor.view(kind) if tensor.dtype is not kind else tensor

    def _eager(self, inputs: Tensors, note: Callable[[], None]) -> tuple[list[_Output], int]:
        tensors = []
        for name, datatype in self._program.inputs:
            tensor = self._tensor(np.ascontiguousarray(inputs[name]), self._torch_type(datatype))
            tensors.append(tensor.to(self._device.where, non_blocking=True))
        note()
        named = self._program.named(self._program.call(*tensors))
        return self._places({name: tensor.detach().contiguous() for name, tensor in named.items()})

    def _copy_out(self, outputs: list[_Output], output_bytes: int) -> Tensors:
        """Has the outputs copied to a pinned block, and makes arrays of it."""
        block = self._take(max(output_bytes, 1))
        memory = np.asarray(Lease(self._free, block))
        arrays: Tensors = {}
        for put in outputs:
            end = put.at + put.nbytes
            if put.nbytes:
                block.tensor[put.at : end].copy_(put.source, non_blocking=True)
            arrays[put.name] = memory[put.at : end].view(put.kind).reshape(put.shape)
        return arrays

    def _take(self, nbytes: int) -> TensorBlock:
        """A free block that is large enough; a new one, to be kept, where there is none."""
        self._output_bytes = nbytes = max(nbytes, self._output_bytes)  # so that any later run may use it
        try:
            block = self._free.pop()
        except IndexError:
            return self._device.pinned(nbytes)
        return block if block.nbytes >= nbytes else self._device.pinned(nbytes)
