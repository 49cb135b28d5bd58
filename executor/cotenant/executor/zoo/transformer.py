"""Transformers: the vision transformer, and encoders of text of the BERT and RoBERTa kind. Inference only."""

from typing import Any

from cotenant.executor.zoo.layers import Module, Tensor, attention, mlp, residual, wired


def vit(*, resolution: int, patch: int, width: int, depth: int, heads: int, classes: int) -> Module:
    """Vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929): `image` [batch, 3, h, w] to `logits`."""
    import torch
    from torch import nn

    places = (resolution // patch) ** 2 + 1

    def branch(part: Module) -> Module:
        return residual(nn.Sequential(nn.LayerNorm(width, eps=1e-6), part))

    layers = [nn.Sequential(branch(attention(width, heads)), branch(mlp(width, 4 * width))) for _ in range(depth)]
    return wired(
        _classify,
        patches=nn.Conv2d(3, width, patch, stride=patch),
        class_token=nn.Parameter(torch.zeros(1, 1, width)),
        positions=nn.Parameter(torch.zeros(1, places, width)),
        layers=nn.Sequential(*layers),
        norm=nn.LayerNorm(width, eps=1e-6),
        head=nn.Linear(width, classes),
    )


def _classify(self: Any, image: Tensor) -> Tensor:
    import torch

    patches = self.patches(image).flatten(2).transpose(1, 2)  # [batch, places, width]
    token = self.class_token.expand(patches.shape[0], -1, -1)
    x = self.layers(torch.cat([token, patches], 1) + self.positions)
    return self.head(self.norm(x[:, 0]))


def text_encoder(
    *,
    vocabulary: int,
    width: int,
    depth: int,
    heads: int,
    hidden: int,
    positions: int,
    types: int,
    eps: float,
    padding_id: int | None = None,
) -> Module:
    """BERT's encoder (Devlin et al. 2018, arXiv:1810.04805), for one segment of text, without the pooler.

    `input_ids` and `attention_mask` [batch, length] become `last_hidden_state` [batch, length, width]. Without a
    `padding_id`, positions count from 0; with one, as in RoBERTa (Liu et al. 2019, arXiv:1907.11692), from
    `padding_id` + 1, and padding is passed over.
    """
    from torch import nn

    return wired(
        _encode,
        words=nn.Embedding(vocabulary, width),
        positions=nn.Embedding(positions, width),
        types=nn.Embedding(types, width),
        norm=nn.LayerNorm(width, eps=eps),
        layers=nn.ModuleList(_layer(width, heads, hidden, eps) for _ in range(depth)),
        padding_id=padding_id,
    )


def _encode(self: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    import torch

    if self.padding_id is None:
        positions = self.positions.weight[: input_ids.shape[1]]
    else:
        text = (input_ids != self.padding_id).long()
        positions = self.positions(text.cumsum(1) * text + self.padding_id)
    x = self.norm(self.words(input_ids) + self.types.weight[0] + positions)
    absent = 1 - attention_mask[:, None, None, :].to(x.dtype)
    mask = absent * torch.finfo(x.dtype).min  # added to the scores [batch, heads, length, length]
    for layer in self.layers:
        x = layer(x, mask)
    return x


def _layer(width: int, heads: int, hidden: int, eps: float) -> Module:
    from torch import nn

    return wired(
        _attend_then_mix,
        attention=attention(width, heads),
        attention_norm=nn.LayerNorm(width, eps=eps),
        mlp=mlp(width, hidden),
        mlp_norm=nn.LayerNorm(width, eps=eps),
    )


def _attend_then_mix(self: Any, x: Tensor, mask: Tensor) -> Tensor:
    x = self.attention_norm(x + self.attention(x, mask))
    return self.mlp_norm(x + self.mlp(x))


def sentence_encoder(encoder: Module) -> Module:
    """The mean over a text's tokens, of length 1 (Reimers & Gurevych 2019, arXiv:1908.10084): `embedding` [width]."""
    return wired(_embed, encoder=encoder)


def _embed(self: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    from torch.nn.functional import normalize

    states = self.encoder(input_ids, attention_mask)
    present = attention_mask[:, :, None].to(states.dtype)
    mean = (states * present).sum(1) / present.sum(1).clamp(min=1e-9)
    return normalize(mean, dim=1)
