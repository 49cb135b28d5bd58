"""ONNX models through onnxruntime, on CPU or CUDA (where its CUDA provider is installed)."""

import json
import tempfile
from pathlib import Path
from typing import Any

from cotenant.executor import onnx_work
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

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class OnnxModel:
    """One inference session; its `run` frees the interpreter and may overlap itself."""

    inline = False
    timed_anytime = False  # the profiler belongs to a session for its whole life, so timing takes a second session

    def __init__(self, path: Path, placement: Placement) -> None:
        self._path, self._placement = path, placement
        self._session = self._open(self._options())
        self._profiling: tuple[Any, tempfile.TemporaryDirectory[str]] | None = None
        self._output_names = [output.name for output in self._session.get_outputs()]
        self.signature = Signature(_specs(self._session.get_inputs()), _specs(self._session.get_outputs()))
        self.memory_bytes = sum(file.stat().st_size for file in path.parent.glob(path.name + "*"))

    def _options(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._placement.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # A thread that spins while it waits for work takes time from the batches beside it.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def _open(self, options: Any) -> Any:
        import onnxruntime

        providers: list[Any] = ["CPUExecutionProvider"]
        if self._placement.kind == "cuda":
            if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
                raise RuntimeError("onnxruntime is installed without its CUDA provider (package onnxruntime-gpu)")
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": self._placement.index}))
        return onnxruntime.InferenceSession(str(self._path), options, providers=providers)

    def run(self, inputs: Tensors) -> Tensors:
        """See `Model.run`."""
        return dict(zip(self._output_names, self._session.run(self._output_names, inputs), strict=True))

    def prepare_timed(self, inputs: Tensors) -> None:
        """See `Model.prepare_timed`. Opens a second session and warms it up; the timed run ends it."""
        if self._profiling is None:
            folder = tempfile.TemporaryDirectory(prefix="cotenant-profile-")
            session = self._open(_traced(self._options(), folder))
            session.run(self._output_names, inputs)
            self._profiling = session, folder

    def run_timed(self, inputs: Tensors) -> tuple[Tensors, list[Kernel]]:
        """See `Model.run_timed`. Takes the second session."""
        self.prepare_timed(inputs)
        assert self._profiling is not None
        (session, folder), self._profiling = self._profiling, None
        with folder:
            outputs = session.run(self._output_names, inputs)
            trace = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return dict(zip(self._output_names, outputs, strict=True)), _kernels(trace)

    def counted(self) -> CountedModel:
        """See `Model.counted`: the same file in a session that keeps a trace."""
        return CountedOnnxModel(self._path, self._placement)

    def close(self) -> None:
        """See `Model.close`."""
        self._profiling = None
        del self._session


class CountedOnnxModel(OnnxModel):
    """One session whose runs leave a trace."""

    def __init__(self, path: Path, placement: Placement) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="cotenant-count-")
        super().__init__(path, placement)

    def _options(self) -> Any:
        return _traced(super()._options(), self._folder)

    def operators(self) -> list[list[Operator]]:
        """See `CountedModel.operators`."""
        return onnx_work.operators(json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8")))

    def close(self) -> None:
        """See `Model.close`."""
        super().close()
        self._folder.cleanup()


def _traced(options: Any, folder: tempfile.TemporaryDirectory[str]) -> Any:
    """The same options, with a trace of each operator written into a folder."""
    options.enable_profiling = True
    options.profile_file_prefix = str(Path(folder.name) / "run")
    return options


def _kernels(trace: list[dict[str, Any]]) -> list[Kernel]:
    """The operators of the last run in a trace of onnxruntime's profiler (Chrome's format, times in us)."""
    runs = [event for event in trace if event.get("name") == "model_run"]
    if not runs:
        return []
    start_us = runs[-1]["ts"]
    nodes = [e for e in trace if e.get("cat") == "Node" and e["name"].endswith("_kernel_time") and e["ts"] >= start_us]
    return [
        Kernel(node["args"].get("op_name", node["name"])[:128], (node["ts"] - start_us) * 1000, node["dur"] * 1000)
        for node in sorted(nodes, key=lambda node: node["ts"])
    ]


def _specs(arguments: Any) -> tuple[TensorSpec, ...]:
    specs = []
    for argument in arguments:
        if argument.type not in _DATATYPES:
            raise ValueError(f"tensor '{argument.name}' has type {argument.type}, which the protocol does not know")
        shape = tuple(d if isinstance(d, int) and d >= 0 else -1 for d in argument.shape or ())
        specs.append(TensorSpec(argument.name, _DATATYPES[argument.type], shape))
    return tuple(specs)


class OnnxBackend:
    """See the module's text."""

    def load(self, folder: Path, config: pb.ModelConfig, placement: Placement) -> Model:
        """See `Backend.load`."""
        return OnnxModel(folder / (config.default_model_filename or "model.onnx"), placement)


def make() -> Backend:
    """The backend. Raises ImportError if onnxruntime is not installed."""
    import onnxruntime  # noqa: F401

    return OnnxBackend()
