"""The zoo's networks are those of their papers: sizes as published, and the same results as other implementations."""

from typing import Any

import pytest

from cotenant.executor.zoo import MODELS
from cotenant.executor.zoo.convolutional import convnext, resnet
from cotenant.executor.zoo.transformer import text_encoder, vit
from cotenant.executor.zoo.yolo import yolov8

PUBLISHED_PARAMETERS = {
    "resnet50": 25.6e6,
    "yolov8n": 3.15e6,
    "roberta_base": 124.6e6,  # with the pooler, which ours leaves out
    "vit_b16": 86.6e6,
    "vgg19": 143.7e6,
    "convnext_base": 88.6e6,
}


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_full_models_have_as_many_parameters_as_published(name: str) -> None:
    import torch

    with torch.device("meta"):
        built = MODELS[name].network(**MODELS[name].settings)
    assert sum(p.numel() for p in built.parameters()) == pytest.approx(PUBLISHED_PARAMETERS[name], rel=0.01)


def randomised(module: Any) -> Any:
    """A module of transformers in eval mode whose weights, down to the scales, all matter."""
    import torch

    torch.manual_seed(0)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if name.endswith("running_var") else tensor.normal_(0, 0.2)
    return module.eval()


def assert_same(ours: Any, theirs: Any, *inputs: Any) -> None:
    import torch

    with torch.inference_mode():
        found, wanted = ours.eval()(*inputs), theirs(*inputs)
    wanted = wanted.logits if "logits" in wanted else wanted.last_hidden_state
    assert wanted.std() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_resnet_and_convnext_compute_what_transformers_does_with_the_same_weights() -> None:
    import torch
    import transformers

    image = torch.randn(2, 3, 64, 64)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[32, 64, 128, 256], depths=[2, 1, 2, 1], num_labels=7
    )
    theirs = randomised(transformers.ResNetForImageClassification(config))
    ours = resnet(depths=(2, 1, 2, 1), width=8, classes=7)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))  # in the same order
    assert_same(ours, theirs, image)

    config = transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 2, 1, 1], num_labels=7)
    theirs = randomised(transformers.ConvNextForImageClassification(config))
    ours = convnext(depths=(1, 2, 1, 1), widths=(8, 16, 24, 32), classes=7)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    assert_same(ours, theirs, image)


def transplant(theirs: Any, ours: Any) -> None:
    """Weights of a transformer's layers; transformers keeps query, key and value apart."""
    import torch
    from torch import nn

    linear = [m for m in theirs.modules() if isinstance(m, nn.Linear)]
    norms = [m for m in theirs.modules() if isinstance(m, nn.LayerNorm)]
    own_linear = [m for m in ours.modules() if isinstance(m, nn.Linear)]
    own_norms = [m for m in ours.modules() if isinstance(m, nn.LayerNorm)]
    for kind in ("weight", "bias"):
        values = [getattr(m, kind).data for m in linear]
        fused = [
            v for i in range(0, len(values) - 1, 6) for v in (torch.cat(values[i : i + 3]), *values[i + 3 : i + 6])
        ]
        fused += values[len(values) - len(values) % 6 :]
        for module, value in zip(own_linear, fused, strict=True):
            getattr(module, kind).data.copy_(value)
        for module, norm in zip(own_norms, norms, strict=True):
            getattr(module, kind).data.copy_(getattr(norm, kind).data)


def test_vit_computes_what_transformers_does_with_the_same_weights() -> None:
    import torch
    import transformers

    config = transformers.ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=192, image_size=64,
        layer_norm_eps=1e-6, num_labels=7,
    )  # fmt: skip
    theirs = randomised(transformers.ViTForImageClassification(config))
    ours = vit(resolution=64, patch=16, width=48, depth=2, heads=3, classes=7)
    transplant(theirs, ours)
    embeddings = theirs.vit.embeddings
    ours.class_token.data.copy_(embeddings.cls_token)
    ours.positions.data.copy_(embeddings.position_embeddings)
    ours.patches.load_state_dict(embeddings.patch_embeddings.projection.state_dict())
    assert_same(ours, theirs, torch.randn(2, 3, 64, 64))


def test_roberta_computes_what_transformers_does_with_the_same_weights() -> None:
    import torch
    import transformers

    config = transformers.RobertaConfig(
        vocab_size=99, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96,
        max_position_embeddings=34, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1,
    )  # fmt: skip
    theirs = randomised(transformers.RobertaModel(config, add_pooling_layer=False))
    ours = text_encoder(
        vocabulary=99, width=48, depth=2, heads=3, hidden=96, positions=34, types=1, eps=1e-5, padding_id=1
    )
    transplant(theirs, ours)
    ours.words.load_state_dict(theirs.embeddings.word_embeddings.state_dict())
    ours.positions.load_state_dict(theirs.embeddings.position_embeddings.state_dict())
    ours.types.load_state_dict(theirs.embeddings.token_type_embeddings.state_dict())
    ids = torch.randint(2, 99, (2, 9))
    ids[1, 6:] = 1  # padding
    assert_same(ours, theirs, ids, (ids != 1).long())


def test_yolo_reads_boxes_and_scores_off_its_grids() -> None:
    import torch
    from torch import nn

    detector = yolov8(depth=0.33, width=0.25, resolution=64, classes=3).eval()
    for branch, bias in [(b, None) for b in detector.head.boxes] + [(b, 1.0) for b in detector.head.classes]:
        nn.init.zeros_(branch[-1].weight)
        nn.init.zeros_(branch[-1].bias)
        if bias is None:  # each side: left 3, top 1, right 5 and bottom 2 strides away
            for side, distance in enumerate((3, 1, 5, 2)):
                branch[-1].bias.data[16 * side + distance] = 100
        else:
            branch[-1].bias.data[1] = bias
    with torch.inference_mode():
        found = detector(torch.randn(1, 3, 64, 64))[0]
    assert found.shape == (7, 64 + 16 + 4)
    for place, stride, column, row in [(0, 8, 0, 0), (9, 8, 1, 1), (64 + 7, 16, 3, 1), (83, 32, 1, 1)]:
        x, y = (column + 0.5) * stride, (row + 0.5) * stride
        box = [x + (5 - 3) * stride / 2, y + (2 - 1) * stride / 2, (3 + 5) * stride, (1 + 2) * stride]
        torch.testing.assert_close(found[:4, place], torch.tensor(box))
        torch.testing.assert_close(found[4:, place], torch.tensor([0.0, 1.0, 0.0]).sigmoid())
