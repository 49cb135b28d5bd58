"""What runs a model: the `Backend` protocol, and the backends by name.

A backend reads what lies in a version's folder and makes it callable. It knows nothing of batches of several
requests, deadlines, shared memory or gRPC. Heavy libraries are imported when a model of theirs is first loaded,
never before. NEW BACKEND: write `backend_*.py`, add a line to `BACKENDS`; docs/backends.md tells the rest, and the
contract suite in tests/ runs on every backend in the table.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol, runtime_checkable

from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.datatypes import Array

Tensors = dict[str, Array]


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel or operator of a run: offset from its start, and duration."""

    name: str
    offset_ns: int
    duration_ns: int


@dataclass(frozen=True, slots=True)
class Operator:
    """What one operator of a run does. All but the duration is counted from shapes, not measured.

    Floating-point operations are those of products (matrices, convolutions, attention, recurrent cells): a
    multiplication and an addition count as two, anything else as none. A tensor counts once for each operator that
    reads or writes it, views not at all.
    """

    name: str
    flops: int
    weight_bytes: int  # of the model's parameters and constants
    activation_bytes: int  # of everything else, read and written
    element_bytes: int  # of one number that it multiplies: 4 for FP32
    duration_ns: int  # 0 where it cannot be told


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how a model is to run."""

    kind: str  # "cpu", "cuda" or "emulated"
    index: int  # of the CUDA device
    threads: int  # CPU threads one batch may use
    seed: int  # of an emulated device's noise
    # Kept measurements depend on what is shown above, and not on these.
    concurrency: int = field(default=1, repr=False)  # batches that may run at once
    cache: Path | None = field(default=None, repr=False)  # folder for what takes long to make


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output as the model's file tells it; -1 stands for a variable dimension, the batch included."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model's file tells of it. `max_batch_size` is 0 where the file sets no limit."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int = 0


class Model(Protocol):
    """A loaded model. `run` may be called by several threads at once."""

    @property
    def signature(self) -> Signature | None:
        """What its file tells; None where the configuration must."""
        ...

    @property
    def memory_bytes(self) -> int:
        """What it occupies on the device, as well as the backend can tell."""
        ...

    @property
    def inline(self) -> bool:
        """Whether a run is so short that handing it to a thread would cost more."""
        ...

    @property
    def timed_anytime(self) -> bool:
        """Whether `run_timed` costs little more than `run`; else it is used at load only."""
        ...

    def run(self, inputs: Tensors) -> Tensors:
        """Outputs by name; arrays with the batch first. May raise anything: the batch has failed then."""
        ...

    def prepare_timed(self, inputs: Tensors) -> None:
        """Does beforehand what the next `run_timed` of such inputs needs, so that it takes little longer than `run`.

        May itself take as long as loading; others run beside it.
        """
        ...

    def run_timed(self, inputs: Tensors) -> tuple[Tensors, list[Kernel]]:
        """Like `run`, with the timings of what ran inside; an empty list where they cannot be had."""
        ...

    def counted(self) -> "CountedModel | None":
        """A second one of the same file whose runs are counted; None where they cannot be.

        Used at load only. May take as long as loading; others run beside it. Raises what goes wrong.
        """
        ...

    def close(self) -> None:
        """Frees what it occupies. Nothing runs any more."""
        ...


@runtime_checkable
class PreparedModel(Protocol):
    """A model that makes something ready for each batch class."""

    def prepare(self, examples: Iterable[Tensors]) -> None:
        """Told once, at load, inputs of each class that is known; nothing runs yet. May raise: the load has failed.

        `memory_bytes` counts what it takes. Classes that were not told may come all the same.
        """
        ...


@runtime_checkable
class Weighed(Protocol):
    """A model that tells its weights apart from what else it occupies, such as scratch memory for each batch."""

    @property
    def weight_bytes(self) -> int:
        """What every run reads of it."""
        ...


class Responses(Protocol):
    """Where a decoupled model puts its responses to one request. Safe for threads."""

    @property
    def requested(self) -> tuple[str, ...]:
        """Names of the outputs that the client asked for; all of them where it named none."""
        ...

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits any more: what is sent is thrown away, and the model should end."""
        ...

    def send(self, outputs: Tensors, *, final: bool = False) -> None:
        """One response; `final` says that it is the last. Raises ValueError for one after that, or a wrong output."""
        ...

    def send_error(self, message: str) -> None:
        """A response that is an error; others may follow."""
        ...


@runtime_checkable
class DecoupledModel(Protocol):
    """A model that may answer a request with any number of responses, where its configuration says so."""

    def stream(self, inputs: Tensors, responses: Responses) -> None:
        """Answers one request; returns after the last response. May raise anything: the request has failed then.

        May be called by several threads at once. For measurements `run` gives the last outputs.
        """
        ...


class CountedModel(Model, Protocol):
    """A model that counts what its runs do; used by one thread at a time, and closed by who asked for it."""

    def operators(self) -> list[list[Operator]]:
        """The operators of each run so far, in order. Nothing runs afterwards.

        Raises ValueError where a product cannot be counted: too little counted is worse than nothing.
        """
        ...


class Backend(Protocol):
    """Makes models of files."""

    def load(self, folder: Path, config: pb.ModelConfig, placement: Placement) -> Model:
        """Makes a model of what lies in a version's folder ready to run. Raises what goes wrong.

        The configuration may be incomplete: what it does not say, the model's signature will.
        """
        ...


def _lazily(module: str) -> Callable[[], Backend]:
    return lambda: import_module(f"cotenant.executor.{module}").make()


# By the name in `backend` of a configuration; `platform` is accepted as well.
BACKENDS: Mapping[str, Callable[[], Backend]] = {
    "onnxruntime": _lazily("backend_onnxruntime"),
    "pytorch": _lazily("backend_torch"),
    "tensorrt": _lazily("backend_tensorrt"),
    "identity": _lazily("backend_identity"),
    "emulated": _lazily("backend_emulated"),
    "ensemble": _lazily("backend_ensemble"),
    "python": _lazily("backend_python"),
}
PLATFORMS: Mapping[str, str] = {
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "tensorrt_plan": "tensorrt",
}
# Which file makes which backend, where the configuration names none.
FILE_BACKENDS: Mapping[str, str] = {
    "model.onnx": "onnxruntime",
    "model.pt2": "pytorch",
    "model.pt": "pytorch",
    "model.plan": "tensorrt",
    "model.py": "python",
}


def find_backend(name: str) -> Backend:
    """The backend of that name. Raises ValueError if there is none, or if its library is not installed."""
    if name not in BACKENDS:
        raise ValueError(f"backend '{name}' is not known; there are {', '.join(sorted(BACKENDS))}")
    try:
        return BACKENDS[name]()
    except ImportError as error:
        raise ValueError(f"backend '{name}' is not installed here: {error}") from error
