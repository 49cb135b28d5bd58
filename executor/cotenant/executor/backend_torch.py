"""PyTorch programs, saved by `torch.export` (`model.pt2`) or as TorchScript (`model.pt`), on CPU or CUDA.

Exported programs tell their inputs, outputs and batch limit. TorchScript tells nothing, so its configuration must;
inputs are passed in the order of the configuration. An output that is a dictionary gives names; others are called
`OUTPUT__0`, `OUTPUT__1`, ... as in Triton.
"""

import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cotenant.executor import torch_work
from cotenant.executor.backend import (
    Backend,
    CountedModel,
    Kernel,
    Model,
    Operator,
    Placement,
    Signature,
    Tensors,
    TensorSpec,
)
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.datatypes import Array


def _datatypes() -> dict[Any, str]:
    import torch

    return {
        torch.bool: "BOOL",
        torch.uint8: "UINT8",
        torch.int8: "INT8",
        torch.int16: "INT16",
        torch.int32: "INT32",
        torch.int64: "INT64",
        torch.float16: "FP16",
        torch.bfloat16: "BF16",
        torch.float32: "FP32",
        torch.float64: "FP64",
    }


class TorchModel:
    """A callable of tensors; each thread runs it on a stream of its own."""

    inline = False
    timed_anytime = True

    def __init__(
        self,
        program: Any,
        names: tuple[str, ...],
        signature: Signature | None,
        bf16: frozenset[str],
        placement: Placement,
        output_names: tuple[str, ...] = (),
    ) -> None:
        import torch

        self._torch = torch
        self._program, self._names, self._bf16, self._output_names = program, names, bf16, output_names
        self.signature = signature
        self._device = torch.device("cuda", placement.index) if placement.kind == "cuda" else torch.device("cpu")
        tensors = [*program.parameters(), *program.buffers()]
        self.memory_bytes = sum(t.numel() * t.element_size() for t in tensors)
        self._threads = placement.threads
        self._local = threading.local()

    def run(self, inputs: Tensors) -> Tensors:
        """See `Model.run`."""
        torch = self._torch
        if self._device.type == "cpu":
            torch.set_num_threads(self._threads)  # counts for the calling thread's operators
            with torch.inference_mode():
                return self._to_arrays(self._program(*self._to_tensors(inputs)))
        stream = getattr(self._local, "stream", None)
        if stream is None:
            stream = self._local.stream = torch.cuda.Stream(self._device)
        with torch.cuda.device(self._device), torch.cuda.stream(stream), torch.inference_mode():
            outputs = self._to_arrays(self._program(*self._to_tensors(inputs)))
            stream.synchronize()
        return outputs

    def prepare_timed(self, inputs: Tensors) -> None:
        """See `Model.prepare_timed`: nothing is needed."""
        del inputs

    def run_timed(self, inputs: Tensors) -> tuple[Tensors, list[Kernel]]:
        """See `Model.run_timed`: operators on CPU, kernels on CUDA, of the calling thread's run."""
        from torch.profiler import ProfilerActivity, profile

        cuda = self._device.type == "cuda"
        with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
            outputs = self.run(inputs)
        events = [e for e in profiler.events() if (e.device_type.name == "CUDA") == cuda and e.cpu_parent is None]
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
        for name in self._names:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # read-only memory: nothing here writes to inputs
                tensor = self._torch.from_numpy(inputs[name])
            if name in self._bf16:
                tensor = tensor.view(self._torch.bfloat16)
            tensors.append(tensor.to(self._device, non_blocking=True))
        return tensors

    def _to_arrays(self, outputs: Any) -> Tensors:
        named = _named(outputs, self._output_names)
        return {name: self._to_array(tensor) for name, tensor in named.items()}

    def _to_array(self, tensor: Any) -> Array:
        if tensor.dtype is self._torch.bfloat16:
            tensor = tensor.view(self._torch.int16)
        array: Array = tensor.detach().cpu().numpy()
        return array

    def counted(self) -> CountedModel:
        """See `Model.counted`: the same program."""
        return CountedTorchModel(self)

    def close(self) -> None:
        """See `Model.close`."""
        del self._program
        if self._device.type == "cuda":
            self._torch.cuda.empty_cache()


class CountedTorchModel(TorchModel):
    """A program of another model, each of its operators watched."""

    def __init__(self, model: TorchModel) -> None:
        self.__dict__.update(model.__dict__)
        tensors = [*self._program.parameters(), *self._program.buffers()]
        self._weights = {int(tensor.untyped_storage().data_ptr()) for tensor in tensors}
        self._runs: list[Any] = []

    def run(self, inputs: Tensors) -> Tensors:
        """See `Model.run`."""
        recorder = torch_work.make_recorder(self._weights, self._device)
        with recorder:
            outputs = super().run(inputs)
        self._runs.append(recorder)
        return outputs

    def operators(self) -> list[list[Operator]]:
        """See `CountedModel.operators`."""
        return [recorder.found() for recorder in self._runs]


def _named(outputs: Any, names: tuple[str, ...] = ()) -> Mapping[str, Any]:
    if isinstance(outputs, Mapping):
        return outputs
    tensors = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    return {names[i] if i < len(names) else f"OUTPUT__{i}": output for i, output in enumerate(tensors)}


def _load_exported(path: Path, placement: Placement) -> Model:
    import torch

    program = torch.export.load(path)
    if placement.kind == "cuda":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, f"cuda:{placement.index}")
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    names = tuple(str(name) for name in program.graph_signature.user_inputs)
    inputs = tuple(_spec(name, values[name]) for name in names)
    results = [values[str(name)] for name in program.graph_signature.user_outputs]
    spec = program.module_call_graph[0].signature.out_spec
    structure = torch.utils._pytree.tree_unflatten(results, spec)  # noqa: SLF001 (it has no public name)
    outputs = tuple(_spec(name, value) for name, value in _named(structure).items())
    signature = Signature(inputs, outputs, _batch_limit(program, values[names[0]]))
    bf16 = frozenset(s.name for s in inputs if s.datatype == "BF16")
    return TorchModel(program.module(), names, signature, bf16, placement)


def _spec(name: str, value: Any) -> TensorSpec:
    datatypes = _datatypes()
    if value.dtype not in datatypes:
        raise ValueError(f"tensor '{name}' has type {value.dtype}, which the protocol does not know")
    return TensorSpec(name, datatypes[value.dtype], tuple(d if isinstance(d, int) else -1 for d in value.shape))


def _batch_limit(program: Any, value: Any) -> int:
    """The largest first dimension the program was exported for; 0 if there is no limit."""
    dimension = value.shape[0] if len(value.shape) else 0
    if isinstance(dimension, int):
        return 0
    limit = program.range_constraints.get(dimension.node.expr)
    try:
        return int(limit.upper) if limit is not None and limit.upper < 2**31 else 0
    except (TypeError, OverflowError):
        return 0  # infinite


def _load_scripted(path: Path, config: pb.ModelConfig, placement: Placement) -> Model:
    import torch

    if not config.input or not config.output:
        raise ValueError(f"model '{config.name}': TorchScript tells no inputs and outputs; config.pbtxt must")
    device = f"cuda:{placement.index}" if placement.kind == "cuda" else "cpu"
    program = torch.jit.load(str(path), map_location=device).eval()
    names = tuple(tensor.name for tensor in config.input)
    bf16 = frozenset(tensor.name for tensor in config.input if tensor.data_type == pb.TYPE_BF16)
    return TorchModel(program, names, None, bf16, placement, tuple(tensor.name for tensor in config.output))


class TorchBackend:
    """See the module's text."""

    def load(self, folder: Path, config: pb.ModelConfig, placement: Placement) -> Model:
        """See `Backend.load`."""
        names = [config.default_model_filename] if config.default_model_filename else ["model.pt2", "model.pt"]
        for path in (folder / name for name in names):
            if path.exists():
                if path.suffix == ".pt2":
                    return _load_exported(path, placement)
                return _load_scripted(path, config, placement)
        raise ValueError(f"model '{config.name}': none of {', '.join(names)} is in {folder}")


def make() -> Backend:
    """The backend. Raises ImportError if torch is not installed."""
    import torch

    # What the process does beside running models must not take the cores from them.
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
    return TorchBackend()
