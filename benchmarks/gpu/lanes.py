"""Models on a share of the multiprocessors: a CUDA graph for each class, on a stream of a green context.

The executor's own backends choose their streams themselves, so these lanes run the same exported program beside them:
captured once on the given stream, pinned memory on both sides, and a run is two copies and one launch. They follow
the executor's `Model` as far as a `Device` uses it, so a batch is timed as any other.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workload import Loaded

from cotenant.executor.backend import Kernel, Tensors
from cotenant.executor.green_contexts import GreenContext, GreenContexts
from cotenant.runtime.estimates import BatchClass


class Program:
    """A model's exported program on the device, shared by lanes."""

    def __init__(self, path: Path, index: int) -> None:
        import torch
        from torch.export.passes import move_to_device_pass

        program = torch.export.load(path)
        self.names = tuple(str(name) for name in program.graph_signature.user_inputs)
        self.module: Any = move_to_device_pass(program, f"cuda:{index}").module()


class GraphLane:
    """One class on one stream; see the module's text. One run at a time."""

    inline = False
    timed_anytime = True
    signature = None
    memory_bytes = 0  # the program is shared, and its graphs are not counted here

    def __init__(self, program: Program, inputs: Tensors, handle: int, index: int) -> None:
        import torch

        self._torch = torch
        self._device = torch.device("cuda", index)
        self._stream = torch.cuda.ExternalStream(handle, device=self._device) if handle else torch.cuda.Stream(index)
        self._pinned = [torch.from_numpy(inputs[name]).pin_memory() for name in program.names]
        self._inputs = [tensor.to(self._device) for tensor in self._pinned]
        with torch.cuda.stream(self._stream), torch.inference_mode():
            for _ in range(3):  # libraries choose their kernels before the capture
                program.module(*self._inputs)
            self._stream.synchronize()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._stream):
                outputs = program.module(*self._inputs)
        leaves = torch.utils._pytree.tree_leaves(outputs)  # noqa: SLF001 (it has no public name)
        self._outputs = [(leaf, torch.empty(leaf.shape, dtype=leaf.dtype, pin_memory=True)) for leaf in leaves]

    def run(self, inputs: Tensors) -> Tensors:
        """See `Model.run`; the inputs' contents are those it was made with."""
        return self._run(inputs, [])

    def run_timed(self, inputs: Tensors) -> tuple[Tensors, list[Kernel]]:
        """See `Model.run_timed`: times between CUDA events before and after copies and graph."""
        marks = [self._torch.cuda.Event(enable_timing=True) for _ in range(4)]
        outputs = self._run(inputs, marks)
        at_ns = [round(marks[0].elapsed_time(mark) * 1e6) for mark in marks]
        names = ("copy inputs", "execute", "copy outputs")
        return outputs, [Kernel(name, at_ns[i], at_ns[i + 1] - at_ns[i]) for i, name in enumerate(names)]

    def _run(self, inputs: Tensors, marks: list[Any]) -> Tensors:
        del inputs
        steps = (self._copy_in, self._graph.replay, self._copy_out)
        with self._torch.cuda.stream(self._stream):
            for i, step in enumerate(steps):
                if marks:
                    marks[i].record(self._stream)
                step()
            if marks:
                marks[-1].record(self._stream)
        self._stream.synchronize()
        return {f"OUTPUT__{i}": host.numpy() for i, (_, host) in enumerate(self._outputs)}

    def _copy_in(self) -> None:
        for device, host in zip(self._inputs, self._pinned, strict=True):
            device.copy_(host, non_blocking=True)

    def _copy_out(self) -> None:
        for device, host in self._outputs:
            host.copy_(device, non_blocking=True)

    def prepare_timed(self, inputs: Tensors) -> None:
        """See `Model.prepare_timed`."""

    def counted(self) -> None:
        """See `Model.counted`."""

    def close(self) -> None:
        """See `Model.close`. Nothing may outlive its stream: freed memory is marked there."""
        self._stream.synchronize()
        del self._graph, self._outputs, self._inputs, self._pinned


class Shares:
    """Lanes on shares of a device, made when they are first asked for."""

    def __init__(self, root: Path, index: int) -> None:
        """Raises ValueError that tells why the device has no shares."""
        self.contexts = GreenContexts(index)
        self._root, self._index = root, index
        self._programs: dict[str, Program] = {}

    def partition(self, parts: Sequence[float]) -> list[GreenContext]:
        """Contexts that share no SM, one for each part of those that can be given out; whole granules, at least one.

        Raises ValueError if they do not fit.
        """
        granule, total = self.contexts.granule_sms, self.contexts.free_sms
        return self.contexts.partition([max(granule, int(part * total / granule) * granule) for part in parts])

    def lane(self, loaded: Loaded, known: BatchClass, context: GreenContext) -> GraphLane:
        """A lane on a stream of a context."""
        if known.model not in self._programs:
            self._programs[known.model] = Program(self._root / known.model / "1" / "model.pt2", self._index)
        return GraphLane(self._programs[known.model], loaded.inputs[known], context.stream(), self._index)
