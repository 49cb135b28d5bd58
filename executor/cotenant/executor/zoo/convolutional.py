"""Classifiers of pictures made of convolutions: ResNet, VGG and ConvNeXt, any depth and width. Inference only.

All map `image` [batch, 3, height, width] to `logits` [batch, classes].
"""

from typing import Any

from cotenant.executor.zoo.layers import Module, Tensor, convolution, mlp, residual, wired


def resnet(*, depths: tuple[int, ...], width: int, classes: int) -> Module:
    """ResNet with bottleneck blocks (He et al. 2015, arXiv:1512.03385); `depths` (3, 4, 6, 3) is ResNet-50.

    A block that halves the size does so in its 3x3 convolution, as is usual since Goyal et al. (arXiv:1706.02677).
    """
    from torch import nn

    layers = [convolution(3, width, 7, 2, activation=nn.ReLU()), nn.MaxPool2d(3, 2, padding=1)]
    width_in = width
    for stage, depth in enumerate(depths):
        inner = width * 2**stage
        for block in range(depth):
            stride = 2 if stage and not block else 1
            layers += [_bottleneck(width_in, inner, stride), nn.ReLU()]
            width_in = 4 * inner
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width_in, classes))


def _bottleneck(width_in: int, inner: int, stride: int) -> Module:
    from torch import nn

    width = 4 * inner
    branch = nn.Sequential(
        convolution(width_in, inner, 1, activation=nn.ReLU()),
        convolution(inner, inner, 3, stride, activation=nn.ReLU()),
        convolution(inner, width, 1),
    )
    same = width_in == width and stride == 1
    return residual(branch, None if same else convolution(width_in, width, 1, stride))


def vgg(*, stages: tuple[tuple[int, int], ...], resolution: int, hidden: int, classes: int) -> Module:
    """VGG (Simonyan & Zisserman 2014, arXiv:1409.1556); `stages` are (depth, width), each followed by pooling."""
    from torch import nn

    layers: list[Module] = []
    width_in = 3
    for depth, width in stages:
        for _ in range(depth):
            layers += [nn.Conv2d(width_in, width, 3, padding=1), nn.ReLU()]
            width_in = width
        layers.append(nn.MaxPool2d(2))
    features = width_in * (resolution // 2 ** len(stages)) ** 2
    layers += [nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden, classes))


def convnext(*, depths: tuple[int, ...], widths: tuple[int, ...], classes: int) -> Module:
    """ConvNeXt (Liu et al. 2022, arXiv:2201.03545)."""
    from torch import nn

    layers: list[Module] = [nn.Conv2d(3, widths[0], 4, stride=4), _channel_norm(widths[0])]
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        if stage:
            layers += [_channel_norm(widths[stage - 1]), nn.Conv2d(widths[stage - 1], width, 2, stride=2)]
        layers += [_convnext_block(width) for _ in range(depth)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(widths[-1], eps=1e-6), nn.Linear(widths[-1], classes)]
    return nn.Sequential(*layers, *head)


def _convnext_block(width: int) -> Module:
    import torch
    from torch import nn

    branch = wired(
        _convnext_branch,
        depthwise=nn.Conv2d(width, width, 7, padding=3, groups=width),
        norm=nn.LayerNorm(width, eps=1e-6),
        mlp=mlp(width, 4 * width),
        scale=nn.Parameter(torch.ones(width)),
    )
    return residual(branch)


def _convnext_branch(self: Any, x: Tensor) -> Tensor:
    x = self.depthwise(x).permute(0, 2, 3, 1)  # [batch, height, width, channels]: channels are linear layers' features
    return (self.scale * self.mlp(self.norm(x))).permute(0, 3, 1, 2)


def _channel_norm(width: int) -> Module:
    from torch import nn

    return wired(_normalise_channels, norm=nn.LayerNorm(width, eps=1e-6))


def _normalise_channels(self: Any, x: Tensor) -> Tensor:
    return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
