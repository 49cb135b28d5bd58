"""What the networks are put together of: torch's own layers, and the few below.

A network is a function that returns a module. `wired` joins modules by a plain function, so that torch is imported
when a network is built, and not before.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

Module: TypeAlias = Any  # torch.nn.Module
Tensor: TypeAlias = Any  # torch.Tensor


def wired(forward: Callable[..., Any], /, **parts: Any) -> Module:
    """A module of `parts` (modules, parameters, tensors, plain values) that runs `forward(self, ...)`."""
    import torch

    module = type(forward.__name__, (torch.nn.Module,), {"forward": forward})()
    for name, part in parts.items():
        assert not hasattr(module, name), f"'{name}' means something to torch.nn.Module"
        if isinstance(part, torch.Tensor) and not isinstance(part, torch.nn.Parameter):
            module.register_buffer(name, part)
        else:
            setattr(module, name, part)
    return module


def residual(branch: Module, shortcut: Module = None) -> Module:
    """The sum of what `branch` and `shortcut` (default: nothing done) make of the input."""
    from torch import nn

    return wired(_add, shortcut=nn.Identity() if shortcut is None else shortcut, branch=branch)


def _add(self: Any, x: Tensor) -> Tensor:
    return self.shortcut(x) + self.branch(x)


def convolution(
    width_in: int, width: int, kernel: int, stride: int = 1, *, activation: Module = None, eps: float = 1e-5
) -> Module:
    """Convolution, batch normalisation and, if one is given, an activation; the size is kept where the stride is 1."""
    from torch import nn

    layers = [
        nn.Conv2d(width_in, width, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(width, eps=eps),
    ]
    return nn.Sequential(*layers, *([] if activation is None else [activation]))


def mlp(width: int, hidden: int) -> Module:
    """Two linear layers with a GELU between them."""
    from torch import nn

    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


def attention(width: int, heads: int) -> Module:
    """Multi-head self-attention (Vaswani et al. 2017) over [batch, length, width], with an optional additive mask."""
    from torch import nn

    return wired(_attend, qkv=nn.Linear(width, 3 * width), out=nn.Linear(width, width), heads=heads)


def _attend(self: Any, x: Tensor, mask: Tensor = None) -> Tensor:
    from torch.nn.functional import scaled_dot_product_attention

    batch, length, width = x.shape
    split = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads)
    query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)  # each [batch, heads, length, width / heads]
    mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return self.out(mixed.transpose(1, 2).reshape(batch, length, width))
