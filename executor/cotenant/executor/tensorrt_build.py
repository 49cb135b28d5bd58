"""ONNX models built to plans, which are kept: beside the model, or in the cache where its folder is read-only.

A kept plan is found by what it depends on: the model's files, the version of TensorRT, the GPU, and the settings. What
the builder learns of kernels' times is kept in the cache for all models of a GPU and version.
"""

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from cotenant.executor.cuda_stream import CudaDevice
from cotenant.executor.tensorrt_plan import Shape, logger
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime import model_options

if TYPE_CHECKING:
    import tensorrt as trt

_log = structlog.get_logger()

PRECISIONS = ("fp32", "fp16")


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """What a plan is built for, from a model's configuration."""

    model: str
    max_batch_size: int  # 0: the model's first dimension is no batch
    preferred_batch_size: int  # which kernels are chosen for
    buckets: tuple[int, ...]
    dims: tuple[tuple[str, Shape], ...]  # configured shapes of inputs, without the batch
    precision: str
    workspace_mib: int  # 0: as much as there is


def settings_of(config: pb.ModelConfig) -> BuildSettings:
    """Reads the settings. Raises ValueError that names the parameter and what it may be."""
    options = model_options.read(config)
    precision = config.parameters["precision"].string_value if "precision" in config.parameters else "fp32"
    if precision not in PRECISIONS:
        raise ValueError(
            f"model '{config.name}': parameter 'precision' is {precision!r}, expected one of {', '.join(PRECISIONS)}"
        )
    workspace = config.parameters["workspace_mib"].string_value if "workspace_mib" in config.parameters else "0"
    if not workspace.isascii() or not workspace.isdigit():
        raise ValueError(
            f"model '{config.name}': parameter 'workspace_mib' is {workspace!r}, expected a whole number of MiB"
        )
    preferred = [size for size in config.dynamic_batching.preferred_batch_size if size <= config.max_batch_size]
    return BuildSettings(
        config.name,
        config.max_batch_size,
        max(preferred, default=config.max_batch_size),
        options.shape_buckets,
        tuple((tensor.name, tuple(tensor.dims)) for tensor in config.input),
        precision,
        int(workspace),
    )


def kept_files(path: Path, settings: BuildSettings, device: CudaDevice, cache: Path | None) -> list[Path]:
    """Where the plan of a model is kept, or would be: first beside it."""
    import tensorrt as trt

    digest = hashlib.blake2b(digest_size=12)
    digest.update(repr((trt.__version__, device.name, device.capability, settings)).encode())
    # Weights may lie in other files of the folder; what begins with a dot is ours.
    for file in sorted(f for f in path.parent.rglob("*") if f.is_file() and not f.name.startswith(".")):
        digest.update(str(file.relative_to(path.parent)).encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "blake2b").digest())
    name = f".cotenant-plan-{digest.hexdigest()}.plan"
    return [folder / name for folder in (path.parent, cache) if folder is not None]


def keep(content: bytes, files: list[Path]) -> bool:
    """Writes the first of the files that can be written; no reader sees half of it."""
    for file in files:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=file.parent, prefix=file.name, delete=False) as draft:
                draft.write(content)
            Path(draft.name).replace(file)
        except OSError:
            continue
        return True
    return False


def build(path: Path, settings: BuildSettings, device: CudaDevice, cache: Path | None) -> bytes:
    """Builds a plan, which takes seconds to many minutes. Raises ValueError with the parser's or builder's reasons."""
    import tensorrt as trt

    log, errors = logger(trt)
    errors.take()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    config = builder.create_builder_config()
    if settings.workspace_mib:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib * 2**20)
    times = _timing_file(trt, device, cache)
    _read_times(config, times)
    with tempfile.TemporaryDirectory(prefix="cotenant-onnx-") as folder:  # weights may be read while it builds
        if settings.precision == "fp16":
            path = _as_fp16(trt, config, path, Path(folder), settings.model)
        if not parser.parse_from_file(str(path)):
            raise ValueError(f"model '{settings.model}': {path.name} cannot be read: {parser_errors(parser)}")
        _add_profiles(trt, builder, network, config, settings)
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ValueError(f"model '{settings.model}': {path.name} cannot be built: {errors.take()}")
    _keep_times(config, times)
    return bytes(plan)


def parser_errors(parser: "trt.OnnxParser") -> str:
    """What the parser found wrong, node by node."""
    told = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        where = f"node {error.node()} '{error.node_name()}' ({error.node_operator()}): " if error.node() >= 0 else ""
        told.append(where + error.desc().strip())
    return "; ".join(told) or "the parser gave no reason"


def _as_fp16(trt: Any, config: "trt.IBuilderConfig", path: Path, folder: Path, model: str) -> Path:
    """Allows FP16 kernels; since TensorRT 11 types are those of the file, which is converted then."""
    if hasattr(trt.BuilderFlag, "FP16"):
        config.set_flag(trt.BuilderFlag.FP16)
        return path
    try:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise ValueError(
            f"model '{model}': precision 'fp16' with TensorRT {trt.__version__} needs the packages onnx and "
            f"onnxruntime, which convert the file, or a file that is FP16 already: {error}"
        ) from error
    converted = convert_float_to_float16(onnx.load(path), keep_io_types=True)
    onnx.save(converted, folder / path.name, save_as_external_data=True, location="weights")
    return folder / path.name


# ---- shapes


def _add_profiles(
    trt: Any, builder: "trt.Builder", network: "trt.INetworkDefinition", config: "trt.IBuilderConfig", s: BuildSettings
) -> None:
    """One profile, or one for each bucket, if any input has variable dimensions."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    for tensor in inputs:
        if tensor.is_shape_tensor:
            raise ValueError(f"model '{s.model}': input '{tensor.name}' is a shape tensor; these are not supported")
    shapes = {tensor.name: _fixed(tensor.name, tuple(tensor.shape), s) for tensor in inputs}
    if all(-1 not in tuple(tensor.shape) for tensor in inputs):
        return
    lengths = any(-1 in shape[1 if s.max_batch_size else 0 :] for shape in shapes.values())
    for bucket in (s.buckets if lengths else ()) or (0,):
        profile = builder.create_optimization_profile()
        for name, shape in shapes.items():
            low, best, high = (
                trt.Dims(_filled(name, shape, batch, bucket, s))
                for batch in (1, max(1, s.preferred_batch_size), max(1, s.max_batch_size))
            )
            profile.set_shape(name, low, best, high)
        if config.add_optimization_profile(profile) < 0:
            raise ValueError(f"model '{s.model}': TensorRT takes no profile with {shapes} and bucket {bucket}")


def _fixed(name: str, shape: Shape, s: BuildSettings) -> Shape:
    """A network's shape, with the variable dimensions that the configuration fixes."""
    told = dict(s.dims).get(name)
    if told is None:
        return shape
    whole = (-1, *told) if s.max_batch_size else told
    if len(whole) != len(shape):
        raise ValueError(
            f"model '{s.model}': input '{name}' is configured as {list(whole)}, but its file says {list(shape)}"
        )
    return tuple(known if d == -1 else d for d, known in zip(shape, whole, strict=True))


def _filled(name: str, shape: Shape, batch: int, bucket: int, s: BuildSettings) -> Shape:
    """A shape without variable dimensions: the batch first, then the bucket for each."""
    first = shape[:1]
    if s.max_batch_size and first == (-1,):
        first, rest = (batch,), shape[1:]
    else:
        first, rest = (), shape
    if -1 in rest and not bucket:
        raise ValueError(
            f"model '{s.model}': input '{name}' has the variable shape {list(shape)}; a plan needs limits: set "
            f"max_batch_size if the first dimension is the batch, fix dims in config.pbtxt, or set shape_buckets"
        )
    return (*first, *(bucket if d == -1 else d for d in rest))


# ---- times of kernels


def _timing_file(trt: Any, device: CudaDevice, cache: Path | None) -> Path | None:
    if cache is None:
        return None
    gpu = "".join(c if c.isalnum() else "-" for c in device.name)
    return cache / f"tensorrt-timing-{gpu}-{trt.__version__}.bin"


def _read_times(config: "trt.IBuilderConfig", file: Path | None) -> None:
    """Gives the builder what was kept; an empty start where that is not there or not of use."""
    if file is None:
        return
    try:
        kept = file.read_bytes()
    except OSError:
        kept = b""
    if kept:
        times = config.create_timing_cache(kept)
        if times is not None and config.set_timing_cache(times, False):
            return
        _log.warning("times of kernels are not of use, measuring again", path=str(file))
    config.set_timing_cache(config.create_timing_cache(b""), False)


def _keep_times(config: "trt.IBuilderConfig", file: Path | None) -> None:
    times = config.get_timing_cache()
    if file is not None and times is not None and not keep(bytes(times.serialize()), [file]):
        _log.warning("times of kernels not kept, they will be measured again", path=str(file))
