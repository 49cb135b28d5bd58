"""PyTorch programs on CPU or CUDA: exported or compiled ahead of time (`model.pt2`), or TorchScript (`model.pt`).

torch_programs.py loads them. On a CPU they are called as they are, one thread per batch; on CUDA they run in lanes
(torch_cuda_model.py).
"""

import contextlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from cotenant.executor import torch_cuda_device, torch_programs, torch_work
from cotenant.executor.backend import Backend, CountedModel, Kernel, Model, Operator, Placement, Tensors
from cotenant.executor.torch_cuda_memory import Memory
from cotenant.executor.torch_cuda_model import CudaModel, concurrent, priority
from cotenant.executor.torch_programs import Program
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.datatypes import Array


class TorchModel:
    """A program that is called on the calling thread; on CUDA, only to count what it does."""

    inline = False
    timed_anytime = True

    def __init__(self, program: Program, where: Any, threads: int) -> None:
        import torch

        self._torch, self._program, self._where, self._threads = torch, program, where, threads
        self.signature = program.signature
        self.memory_bytes = program.weight_bytes

    def run(self, inputs: Tensors) -> Tensors:
        """See `Model.run`."""
        on_device: Any = contextlib.nullcontext()
        if self._where.type == "cpu":
            self._torch.set_num_threads(self._threads)  # counts for the calling thread's operators
        else:
            on_device = self._torch.cuda.device(self._where)
        with on_device, self._torch.inference_mode():
            named = self._program.named(self._program.call(*self._to_tensors(inputs)))
            return {name: self._to_array(tensor) for name, tensor in named.items()}

    def prepare_timed(self, inputs: Tensors) -> None:
        """See `Model.prepare_timed`: nothing is needed."""
        del inputs

    def run_timed(self, inputs: Tensors) -> tuple[Tensors, list[Kernel]]:
        """See `Model.run_timed`: operators of the calling thread's run."""
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            outputs = self.run(inputs)
        events = [e for e in profiler.events() if e.device_type.name == "CPU" and e.cpu_parent is None]
        if not events:
            return outputs, []
        start_us = min(e.time_range.start for e in events)
        kernels = [
            Kernel(e.name[:128], int((e.time_range.start - start_us) * 1000), int(e.time_range.elapsed_us() * 1000))
            for e in sorted(events, key=lambda e: e.time_range.start)
        ]
        return outputs, kernels

    def _to_tensors(self, inputs: Tensors) -> list[Any]:
        tensors = []
        for name, datatype in self._program.inputs:
            tensor = self._torch.from_numpy(inputs[name])
            if datatype == "BF16":
                tensor = tensor.view(self._torch.bfloat16)
            tensors.append(tensor.to(self._where))
        return tensors

    def _to_array(self, tensor: Any) -> Array:
        if tensor.dtype is self._torch.bfloat16:
            tensor = tensor.view(self._torch.int16)
        array: Array = tensor.detach().cpu().numpy()
        return array

    def counted(self) -> CountedModel | None:
        """See `Model.counted`: the same program; a compiled one does not tell its operators."""
        return _counted(self._program, self._where, self._threads)

    def close(self) -> None:
        """See `Model.close`."""
        del self._program


class CountedTorchModel(TorchModel):
    """A program of another model, each of its operators watched."""

    def __init__(self, program: Program, where: Any, threads: int) -> None:
        super().__init__(program, where, threads)
        self._runs: list[Any] = []

    def run(self, inputs: Tensors) -> Tensors:
        """See `Model.run`."""
        recorder = torch_work.make_recorder(set(self._program.storages), self._where)
        with recorder:
            outputs = super().run(inputs)
        self._runs.append(recorder)
        return outputs

    def operators(self) -> list[list[Operator]]:
        """See `CountedModel.operators`."""
        return [recorder.found() for recorder in self._runs]


def _counted(program: Program, where: Any, threads: int) -> CountedModel | None:
    return CountedTorchModel(program, where, threads) if program.countable else None


class TorchBackend:
    """See the module's text."""

    def load(self, folder: Path, config: pb.ModelConfig, placement: Placement) -> Model:
        """See `Backend.load`."""
        path = torch_programs.find(folder, config)
        if placement.kind == "cuda":
            return _load_on_cuda(path, config, placement)
        import torch

        where = torch.device("cpu")
        program = torch_programs.load(path, config, where, concurrency=placement.concurrency)
        return TorchModel(program, where, placement.threads)


def _load_on_cuda(path: Path, config: pb.ModelConfig, placement: Placement) -> Model:
    device = torch_cuda_device.open_device(placement.index)
    with device.use():
        memory = Memory(device, config.name)
        lanes = concurrent(config, placement)
        program = torch_programs.load(
            path, config, device.where, concurrency=lanes, fits=lambda nbytes: memory.require(nbytes, "weights")
        )
        return CudaModel(
            program,
            device,
            memory,
            name=config.name,
            lanes=lanes,
            priority=priority(config),
            count=lambda: _counted(program, device.where, placement.threads),
        )


def make() -> Backend:
    """The backend. Raises ImportError if torch is not installed."""
    import torch

    # What the process does beside running models must not take the cores from them.
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
    with warnings.catch_warnings():  # of memory that is read-only, told once a process: nothing here writes to inputs
        warnings.simplefilter("ignore", UserWarning)
        fixed = np.zeros(1, dtype=np.uint8)
        fixed.flags.writeable = False
        torch.from_numpy(fixed)
    return TorchBackend()
