"""A recipe's module in eval mode, with its weights: trained where they can be had, else seeded.

Seeded weights are drawn so that numbers keep their size from layer to layer, as they do in a trained network: no
overflow, no denormals (which would slow a CPU down), and outputs that depend on every layer, so that an export that
went wrong shows.
"""

import math
import zlib
from typing import Any

import numpy as np

from cotenant.executor.zoo import sampling
from cotenant.executor.zoo.layers import Module, Tensor
from cotenant.executor.zoo.recipes import Recipe, recipe


def build(name: str) -> Module:
    """The `torch.nn.Module` of a model. Raises ValueError if there is no such model, or its weights are missing."""
    import torch

    wanted = recipe(name)
    with torch.no_grad():
        network = wanted.network(**wanted.settings)
        if not wanted.pretrained:
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            _draw(network, generator)
            _settle(network, example_inputs(wanted, batch=4))
    return network.eval().requires_grad_(False)


def example_inputs(wanted: Recipe, batch: int, length: int = 24) -> tuple[Tensor, ...]:
    """Inputs that are the same each time: pictures, or texts of any words."""
    import torch

    if wanted.takes_text:
        ids = torch.randint(2, 1000, (batch, length), generator=torch.Generator().manual_seed(0))
        return ids, torch.ones(batch, length, dtype=torch.int64)
    return (torch.from_numpy(np.stack([sampling.scene(wanted, seed) for seed in range(batch)])),)


def _draw(network: Module, generator: Any) -> None:
    """Weights by fan-in (He et al. 2015, arXiv:1502.01852: twice as much before a rectifier), small biases."""
    from torch import nn

    for module in network.modules():
        own = dict(module.named_parameters(recurse=False))
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            gain = 2 if isinstance(module, nn.Conv2d) else 1
            weight = own.pop("weight")
            weight.normal_(0, math.sqrt(gain / weight[0].numel()), generator=generator)
        elif isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            own.pop("weight")  # stays 1
        for parameter in own.values():  # biases, embeddings, class tokens, scales
            parameter.normal_(0, 0.2, generator=generator)


def _settle(network: Module, inputs: tuple[Tensor, ...]) -> None:
    """Gives batch normalisation the statistics that it would have learned from `inputs`."""
    from torch import nn

    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not layers:
        return
    usual = layers[0].momentum
    for layer in layers:
        layer.momentum = None  # the mean over all that is seen, which is one batch
    network.train()(*inputs)
    for layer in layers:
        layer.momentum = usual
