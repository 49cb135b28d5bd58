"""A recipe's `config.pbtxt`: what Triton's readers expect there, and our parameters."""

from typing import Any

from google.protobuf import text_format

from cotenant.executor.backend import TensorSpec
from cotenant.executor.zoo.recipes import MAX_BATCH_SIZE, Recipe
from cotenant.inference import inference_pb2 as pb


def configuration(name: str, recipe: Recipe, backend: str, slo_scale: float) -> str:
    """The text of a model's configuration."""
    config = pb.ModelConfig(name=name, backend=backend, max_batch_size=MAX_BATCH_SIZE)
    for spec in recipe.inputs:
        _add(config.input, spec)
    _add(config.output, recipe.output)
    config.dynamic_batching.SetInParent()
    parameters = {"slo_ms": f"{recipe.slo_ms * slo_scale:g}"}
    if recipe.buckets:
        parameters["shape_buckets"] = ",".join(map(str, recipe.buckets))
    if recipe.pad_values:
        parameters["pad_values"] = ",".join(f"{key}={value}" for key, value in recipe.pad_values.items())
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    return "# Written by `python -m cotenant.executor.zoo`.\n" + text_format.MessageToString(config)


def _add(tensors: Any, spec: TensorSpec) -> None:
    """Adds an input or output; the configuration leaves the batch out of the shape."""
    tensors.add(name=spec.name, data_type=pb.DataType.Value(f"TYPE_{spec.datatype}"), dims=spec.shape[1:])
