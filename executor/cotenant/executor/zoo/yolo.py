"""YOLOv8, an anchor-free detector, written from its published descriptions. Inference only.

Sources: Terven et al. 2023 (arXiv:2304.00501), section on YOLOv8; Yaseen 2024 (arXiv:2408.15857); and for its parts
CSPNet (arXiv:1911.11929), PANet (arXiv:1803.01534), spatial pyramid pooling (arXiv:1406.4729) and distribution focal
loss (arXiv:2006.04388). `image` [batch, 3, size, size] becomes `predictions` [batch, 4 + classes, places]: for each
place of three grids (strides 8, 16, 32) a box (centre x, y, width, height, in pixels) and a score for each class.
Suppressing boxes that overlap is left to the client.
"""

from typing import Any

from cotenant.executor.zoo.layers import Module, Tensor, convolution, residual, wired

STRIDES = (8, 16, 32)  # of the three grids, in pixels
BINS = 16  # a side's distance from its place is an expectation over 0 .. 15 strides


def yolov8(*, depth: float, width: float, resolution: int, classes: int) -> Module:
    """`depth` and `width` scale the published base (1, 1); 0.33 and 0.25 make YOLOv8n."""
    from torch import nn

    w2, w4, w8, w16, w32 = (int(width * base) for base in (64, 128, 256, 512, 1024))
    few, many = max(1, round(3 * depth)), max(1, round(6 * depth))
    to_8 = [_conv(3, w2, 3, 2), _conv(w2, w4, 3, 2), _c2f(w4, w4, few), _conv(w4, w8, 3, 2), _c2f(w8, w8, many)]
    to_16 = [_conv(w8, w16, 3, 2), _c2f(w16, w16, many)]
    to_32 = [_conv(w16, w32, 3, 2), _c2f(w32, w32, few), _pyramid(w32)]
    return wired(
        _detect,
        to_8=nn.Sequential(*to_8),
        to_16=nn.Sequential(*to_16),
        to_32=nn.Sequential(*to_32),
        up_16=_c2f(w32 + w16, w16, few, shortcut=False),
        up_8=_c2f(w16 + w8, w8, few, shortcut=False),
        down_16=_conv(w8, w8, 3, 2),
        join_16=_c2f(w8 + w16, w16, few, shortcut=False),
        down_32=_conv(w16, w16, 3, 2),
        join_32=_c2f(w16 + w32, w32, few, shortcut=False),
        enlarge=nn.Upsample(scale_factor=2, mode="nearest"),
        head=_head((w8, w16, w32), resolution, classes),
    )


def _detect(self: Any, image: Tensor) -> Tensor:
    import torch

    c8 = self.to_8(image)
    c16 = self.to_16(c8)
    c32 = self.to_32(c16)
    up16 = self.up_16(torch.cat([self.enlarge(c32), c16], 1))
    p8 = self.up_8(torch.cat([self.enlarge(up16), c8], 1))
    p16 = self.join_16(torch.cat([self.down_16(p8), up16], 1))
    p32 = self.join_32(torch.cat([self.down_32(p16), c32], 1))
    return self.head(p8, p16, p32)


def _conv(width_in: int, width: int, kernel: int, stride: int = 1) -> Module:
    from torch import nn

    return convolution(width_in, width, kernel, stride, activation=nn.SiLU(), eps=1e-3)


def _c2f(width_in: int, width: int, depth: int, *, shortcut: bool = True) -> Module:
    """A cross-stage partial block: half of the channels pass by, and every bottleneck's output is kept."""
    from torch import nn

    half = width // 2
    blocks = [nn.Sequential(_conv(half, half, 3), _conv(half, half, 3)) for _ in range(depth)]
    return wired(
        _cross_stage,
        split=_conv(width_in, 2 * half, 1),
        blocks=nn.ModuleList(residual(block) if shortcut else block for block in blocks),
        join=_conv((2 + depth) * half, width, 1),
    )


def _cross_stage(self: Any, x: Tensor) -> Tensor:
    import torch

    parts = list(self.split(x).chunk(2, 1))
    for block in self.blocks:
        parts.append(block(parts[-1]))
    return self.join(torch.cat(parts, 1))


def _pyramid(width: int) -> Module:
    """Spatial pyramid pooling, fast: one 5x5 pooling three times sees as much as 5x5, 9x9 and 13x13 side by side."""
    from torch import nn

    half = width // 2
    pool = nn.MaxPool2d(5, 1, padding=2)
    return wired(_pool_thrice, narrow=_conv(width, half, 1), pool=pool, join=_conv(4 * half, width, 1))


def _pool_thrice(self: Any, x: Tensor) -> Tensor:
    import torch

    parts = [self.narrow(x)]
    for _ in range(3):
        parts.append(self.pool(parts[-1]))
    return self.join(torch.cat(parts, 1))


def _head(widths: tuple[int, ...], resolution: int, classes: int) -> Module:
    """Separate branches for boxes and classes on each grid; no anchors: a place predicts its distances to a box."""
    import torch
    from torch import nn

    box_width = max(16, widths[0] // 4, 4 * BINS)
    class_width = max(widths[0], min(classes, 100))

    def branch(width_in: int, width: int, outputs: int) -> Module:
        return nn.Sequential(_conv(width_in, width, 3), _conv(width, width, 3), nn.Conv2d(width, outputs, 1))

    places, strides = _places(resolution)
    return wired(
        _decode,
        boxes=nn.ModuleList(branch(w, box_width, 4 * BINS) for w in widths),
        classes=nn.ModuleList(branch(w, class_width, classes) for w in widths),
        bins=torch.arange(BINS, dtype=torch.float32).reshape(1, 1, BINS, 1),
        places=places,
        strides=strides,
    )


def _places(resolution: int) -> tuple[Tensor, Tensor]:
    """Centres of all places [1, 2, places], in strides, and the stride of each [1, 1, places], in pixels."""
    import torch

    centres, strides = [], []
    for stride in STRIDES:
        ticks = torch.arange(resolution // stride) + 0.5
        y, x = torch.meshgrid(ticks, ticks, indexing="ij")
        centres.append(torch.stack([x.flatten(), y.flatten()]))
        strides.append(torch.full((1, x.numel()), float(stride)))
    return torch.cat(centres, 1)[None], torch.cat(strides, 1)[None]


def _decode(self: Any, *grids: Tensor) -> Tensor:
    import torch

    sides = torch.cat([f(g).flatten(2) for f, g in zip(self.boxes, grids, strict=True)], 2)  # [batch, 4 * BINS, places]
    scores = torch.cat([f(g).flatten(2) for f, g in zip(self.classes, grids, strict=True)], 2)
    shares = sides.unflatten(1, (4, BINS)).softmax(2)
    left_top, right_bottom = (shares * self.bins).sum(2).chunk(2, 1)
    centre = self.places + (right_bottom - left_top) / 2
    return torch.cat([centre * self.strides, (left_top + right_bottom) * self.strides, scores.sigmoid()], 1)
