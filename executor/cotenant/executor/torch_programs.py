"""What a version's folder holds for torch, made callable: exported programs, AOTInductor packages, TorchScript.

Exported programs tell their inputs, outputs and batch limit. The other two tell nothing, so the configuration must:
inputs are passed in its order, outputs are named in its order. An output that is a dictionary gives names.
"""

import json
import threading
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotenant.executor.backend import Signature, TensorSpec
from cotenant.executor.completion import type_name
from cotenant.inference import inference_pb2 as pb

# Operators whose results have shapes, or go to the host, as the data decides: a graph cannot hold them.
_DEPENDS_ON_DATA = ("item", "_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "bincount")


@dataclass(frozen=True, slots=True)
class Program:
    """A program in memory, and what is known of it."""

    call: Callable[..., Any]
    inputs: tuple[tuple[str, str], ...]  # names and datatypes, in the order of the arguments
    output_names: tuple[str, ...]  # of outputs that are not a dictionary
    signature: Signature | None
    weight_bytes: int
    storages: frozenset[int]  # of the weights, by address; empty where they cannot be told
    countable: bool = True  # its operators pass torch's dispatcher
    not_graphed: str = ""  # why no graph can hold it

    def named(self, outputs: Any) -> Mapping[str, Any]:
        """The tensors of a result, by name."""
        return _named(outputs, self.output_names)


def find(folder: Path, config: pb.ModelConfig) -> Path:
    """The file to load. Raises ValueError if there is none."""
    names = [config.default_model_filename] if config.default_model_filename else ["model.pt2", "model.pt"]
    for path in (folder / name for name in names):
        if path.exists():
            return path
    raise ValueError(f"model '{config.name}': none of {', '.join(names)} is in {folder}")


def load(
    path: Path, config: pb.ModelConfig, where: Any, *, concurrency: int, fits: Callable[[int], None] = lambda _: None
) -> Program:
    """Loads a program onto a `torch.device`.

    Args:
        path: the file.
        config: tells inputs and outputs where the file does not.
        where: the device.
        concurrency: how many threads may call it at once.
        fits: called with the bytes of the weights before they are moved there; may raise.

    Raises ValueError for what cannot be served.
    """
    if path.suffix != ".pt2":
        return _load_scripted(path, config, where, fits)
    if _is_compiled(path):
        return _load_compiled(path, config, where, concurrency, fits)
    return _load_exported(path, where, fits)


# ---- exported programs


def _load_exported(path: Path, where: Any, fits: Callable[[int], None]) -> Program:
    import torch

    program = torch.export.load(path)
    fits(_bytes((*program.state_dict.values(), *program.constants.values())))
    if where.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, str(where))
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    names = tuple(str(name) for name in program.graph_signature.user_inputs)
    inputs = tuple(_spec(name, values[name]) for name in names)
    results = [values[str(name)] for name in program.graph_signature.user_outputs]
    spec = program.module_call_graph[0].signature.out_spec
    structure = torch.utils._pytree.tree_unflatten(results, spec)  # noqa: SLF001 (it has no public name)
    outputs = tuple(_spec(name, value) for name, value in _named(structure).items())
    signature = Signature(inputs, outputs, _batch_limit(program, values[names[0]]))
    module = program.module()
    weights = [*module.parameters(), *module.buffers()]
    return Program(
        module,
        tuple((spec.name, spec.datatype) for spec in inputs),
        (),
        signature,
        _bytes(weights),
        _storages(weights),
        not_graphed=_why_not_graphed(program),
    )


def _why_not_graphed(program: Any) -> str:
    for node in program.graph.nodes:
        name = str(getattr(getattr(node.target, "overloadpacket", None), "__name__", ""))
        if node.op == "call_function" and name in _DEPENDS_ON_DATA:
            return f"its operator {node.target} depends on data"
    return ""


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


# ---- packages of AOTInductor


def _is_compiled(path: Path) -> bool:
    """Whether a `.pt2` archive holds a compiled model; exported programs alone have none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/aotinductor/" in f"/{name}" and name.endswith(".so") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False  # the loader tells what is wrong


def _load_compiled(
    path: Path, config: pb.ModelConfig, where: Any, concurrency: int, fits: Callable[[int], None]
) -> Program:
    import torch
    from torch._inductor import package  # what `torch._inductor.aoti_load_package` calls, with one option more

    _need_tensors(config, "an AOTInductor package")
    cuda = where.type == "cuda"
    if (meant_for := _compiled_for(path)) not in ("", where.type):
        raise ValueError(f"model '{config.name}': {path.name} was compiled for {meant_for}, and this is {where.type}")
    weight_bytes = _compiled_bytes(path)
    fits(weight_bytes)
    # On CUDA, runs are captured, which a container that records events of its own would disturb: it is told that one
    # thread calls it at a time, and this is seen to here. Replays do not call it at all.
    try:
        model = package.load_package(
            str(path),
            run_single_threaded=cuda,
            num_runners=1 if cuda else max(1, concurrency),
            device_index=where.index if cuda and where.index is not None else -1,
        )
    except RuntimeError as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"model '{config.name}': {path.name} was compiled by AOTInductor and does not load with torch "
            f"{torch.__version__} on {where}: {first}"
        ) from error
    return Program(
        _one_at_a_time(model) if cuda else model,
        _configured(config),
        tuple(tensor.name for tensor in config.output),
        None,
        weight_bytes,
        frozenset(),
        countable=False,
    )


def _compiled_for(path: Path) -> str:
    """The kind of device a package was compiled for; empty where it does not say."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if "/aotinductor/" in f"/{name}"]
        told = [json.loads(archive.read(name)) for name in names if name.endswith("_metadata.json")]
    return next((str(one["AOTI_DEVICE_KEY"]) for one in told if "AOTI_DEVICE_KEY" in one), "")


def _compiled_bytes(path: Path) -> int:
    """Bytes of the weights in a package: they lie beside the library or in it."""
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename, entry.file_size) for entry in archive.infolist()]
    beside = sum(size for name, size in entries if "/weights/" in name or "/constants/" in name)
    return beside + sum(
        size for name, size in entries if "/aotinductor/" in f"/{name}" and name.endswith((".so", ".bin"))
    )


def _one_at_a_time(model: Callable[..., Any]) -> Callable[..., Any]:
    lock = threading.Lock()

    def call(*tensors: Any) -> Any:
        with lock:
            return model(*tensors)

    return call


# ---- TorchScript


def _load_scripted(path: Path, config: pb.ModelConfig, where: Any, fits: Callable[[int], None]) -> Program:
    import torch

    _need_tensors(config, "TorchScript")
    fits(path.stat().st_size)  # constants in the code move with a load only, so it goes to the device at once
    program = torch.jit.load(str(path), map_location=where).eval()
    weights = [*program.parameters(), *program.buffers()]
    output_names = tuple(tensor.name for tensor in config.output)
    return Program(program, _configured(config), output_names, None, _bytes(weights), _storages(weights))


# ---- what they share


def _need_tensors(config: pb.ModelConfig, what: str) -> None:
    if not config.input or not config.output:
        raise ValueError(f"model '{config.name}': {what} tells no inputs and outputs; config.pbtxt must")


def _configured(config: pb.ModelConfig) -> tuple[tuple[str, str], ...]:
    return tuple((tensor.name, type_name(tensor.data_type)) for tensor in config.input)


def _named(outputs: Any, names: tuple[str, ...] = ()) -> Mapping[str, Any]:
    if isinstance(outputs, Mapping):
        return outputs
    tensors = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    return {names[i] if i < len(names) else f"OUTPUT__{i}": output for i, output in enumerate(tensors)}


def _bytes(tensors: Iterable[Any]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if hasattr(t, "element_size"))


def _storages(tensors: Iterable[Any]) -> frozenset[int]:
    return frozenset(int(tensor.untyped_storage().data_ptr()) for tensor in tensors)


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
