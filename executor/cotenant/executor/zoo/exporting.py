"""A module to a file that a backend loads: `model.onnx`, or `model.pt2` of torch.export. Any batch of 1 to 8.

ONNX is made by torch's exporter that traces TorchScript. The newer one, built on torch.export, gives the same results
at the same speed but takes about 8 times as long (docs/zoo.md); it serves where a torch no longer has the first.
"""

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cotenant.executor.zoo.building import example_inputs
from cotenant.executor.zoo.layers import Module, Tensor, wired
from cotenant.executor.zoo.recipes import MAX_BATCH_SIZE, MAX_LENGTH, Recipe

OPSET = 18  # of ONNX: has LayerNormalization, and every onnxruntime that we support knows it


def to_onnx(network: Module, recipe: Recipe, path: Path, *, dynamo: bool | None = None) -> None:
    """Writes one file with the weights inside; `dynamo` chooses the newer exporter, by default only where it must."""
    import torch

    if dynamo is None:
        dynamo = importlib.util.find_spec("torch.onnx._internal.torchscript_exporter") is None
    with _quietly(), torch.no_grad():
        (_from_export if dynamo else _from_trace)(network, recipe, path)


def _from_trace(network: Module, recipe: Recipe, path: Path) -> None:
    import torch

    axes = {
        spec.name: {axis: "length" if axis else "batch" for axis, size in enumerate(spec.shape) if size == -1}
        for spec in (*recipe.inputs, recipe.output)
    }
    torch.onnx.export(
        network,
        example_inputs(recipe, batch=2),
        path,
        input_names=[spec.name for spec in recipe.inputs],
        output_names=[recipe.output.name],
        dynamic_axes=axes,
        opset_version=OPSET,
        dynamo=False,
    )


def _from_export(network: Module, recipe: Recipe, path: Path) -> None:
    import torch

    inputs = example_inputs(recipe, batch=2)
    made = torch.onnx.export(
        torch.export.export(network, inputs, dynamic_shapes=tuple(_dimensions(recipe).values())),
        inputs,
        input_names=[spec.name for spec in recipe.inputs],
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    graph = made.model.graph
    for value in (value for node in graph for value in node.outputs if value.name == recipe.output.name):
        value.name = f"{value.name}_inside"  # the exporter names values after operators, and one is called "embedding"
    graph.outputs[0].name = recipe.output.name
    made.save(path, external_data=False)


def to_program(network: Module, recipe: Recipe, path: Path) -> None:
    """Writes an exported program with the recipe's names for inputs and output."""
    import torch

    forward = _of_text if recipe.takes_text else _of_image
    named = wired(forward, network=network, output=recipe.output.name).eval()
    with _quietly(), torch.no_grad():
        inputs = example_inputs(recipe, batch=2)
        torch.export.save(torch.export.export(named, inputs, dynamic_shapes=_dimensions(recipe)), path)


# A program's inputs are called as the arguments of the exported function, and its outputs as the keys that it returns.
def _of_image(self: Any, image: Tensor) -> dict[str, Tensor]:
    return {self.output: self.network(image)}


def _of_text(self: Any, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
    return {self.output: self.network(input_ids, attention_mask)}


def _dimensions(recipe: Recipe) -> dict[str, dict[int, Any]]:
    """The variable dimensions of each input and their limits."""
    from torch.export import Dim

    batch, length = Dim("batch", min=1, max=MAX_BATCH_SIZE), Dim("length", min=1, max=MAX_LENGTH)
    return {
        spec.name: {axis: length if axis else batch for axis, size in enumerate(spec.shape) if size == -1}
        for spec in recipe.inputs
    }


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Both exporters warn of what they are and of what they skip, which is nothing to a caller who chose them."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
