"""Brings together what a configuration says and what a model's file tells: each fills the other's gaps.

A missing configuration is inferred: inputs and outputs from the signature, batching where every tensor's first
dimension is variable. What both state must agree.
"""

from typing import Any

from cotenant.executor.backend import Signature, TensorSpec
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime import model_options
from cotenant.runtime.datatypes import NUMPY


def type_name(data_type: int) -> str:
    """The protocol's name of a configured type, e.g. "FP32"; "BYTES" for TYPE_STRING."""
    name = pb.DataType.Name(data_type).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def _data_type(datatype: str) -> int:
    return int(pb.DataType.Value("TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"))


def complete(config: pb.ModelConfig, signature: Signature | None, default_max_batch_size: int) -> None:
    """Completes `config` in place. Raises ValueError where it contradicts the signature, or itself."""
    if signature is not None:
        _infer_batching(config, signature, default_max_batch_size)
        _merge(config, config.input, signature.inputs, "input")
        _merge(config, config.output, signature.outputs, "output")
        if signature.max_batch_size and config.max_batch_size > signature.max_batch_size:
            raise ValueError(
                f"model '{config.name}': max_batch_size is {config.max_batch_size}, "
                f"but its file was exported for at most {signature.max_batch_size}"
            )
    if not config.input or not config.output:
        raise ValueError(f"model '{config.name}': inputs and outputs are neither configured nor told by its file")
    if config.version_policy.WhichOneof("policy_choice") is None:
        config.version_policy.latest.num_versions = 1
    both: list[Any] = [*config.input, *config.output]
    for tensor in both:
        if type_name(tensor.data_type) not in NUMPY:
            raise ValueError(f"model '{config.name}': tensor '{tensor.name}' has no data_type")
        if any(d == 0 or d < -1 for d in tensor.dims):
            raise ValueError(f"model '{config.name}': tensor '{tensor.name}' has dims {list(tensor.dims)}")
    model_options.read(config)


def _infer_batching(config: pb.ModelConfig, signature: Signature, default_max_batch_size: int) -> None:
    if config.max_batch_size or config.input or config.output:
        return
    specs = (*signature.inputs, *signature.outputs)
    if all(spec.shape and spec.shape[0] == -1 for spec in specs):
        limit = signature.max_batch_size or default_max_batch_size
        config.max_batch_size = min(default_max_batch_size, limit)
        if config.max_batch_size > 1 and config.WhichOneof("scheduling_choice") is None:
            config.dynamic_batching.SetInParent()


def _merge(config: pb.ModelConfig, configured: Any, told: tuple[TensorSpec, ...], role: str) -> None:
    """Fills `configured` (the repeated field of inputs or outputs) from `told`, or checks it."""
    tensors: list[Any] = list(configured)
    batched = config.max_batch_size > 0
    if not tensors:
        for spec in told:
            if batched and (not spec.shape or spec.shape[0] != -1):
                raise ValueError(
                    f"model '{config.name}': max_batch_size is {config.max_batch_size}, but {role} '{spec.name}' "
                    f"has the fixed shape {list(spec.shape)}"
                )
            dims = spec.shape[1:] if batched else spec.shape
            configured.add(name=spec.name, data_type=_data_type(spec.datatype), dims=dims)
        return
    by_name = {spec.name: spec for spec in told}
    for tensor in tensors:
        told_spec = by_name.get(tensor.name)
        if told_spec is None:
            names = ", ".join(f"'{name}'" for name in by_name)
            raise ValueError(f"model '{config.name}': its file has no {role} '{tensor.name}', but {names}")
        if type_name(tensor.data_type) != told_spec.datatype:
            raise ValueError(
                f"model '{config.name}': {role} '{tensor.name}' is configured as {type_name(tensor.data_type)}, "
                f"but its file says {told_spec.datatype}"
            )
        shape = [-1, *tensor.dims] if batched else list(tensor.dims)
        fits = len(shape) == len(told_spec.shape) and all(
            -1 in (a, b) or a == b for a, b in zip(shape, told_spec.shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"model '{config.name}': {role} '{tensor.name}' is configured as {shape}, "
                f"but its file says {list(told_spec.shape)}"
            )
