"""The table of models: what each is made of, what goes in and comes out, and how it is to be served.

NEW MODEL: write a function that returns a module (see convolutional.py), and add a line to `MODELS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cotenant.executor.backend import TensorSpec
from cotenant.executor.zoo import minilm, yolo
from cotenant.executor.zoo.convolutional import convnext, resnet, vgg
from cotenant.executor.zoo.layers import Module
from cotenant.executor.zoo.transformer import text_encoder, vit
from cotenant.executor.zoo.yolo import yolov8

SIZES = ("small", "full")
MAX_BATCH_SIZE = 8  # of every model; exported programs take 1 to 8
MAX_LENGTH = 512  # tokens that the text models have positions for


@dataclass(frozen=True, slots=True)
class Recipe:
    """One model. In shapes, -1 is the batch where it comes first, and elsewhere a length of up to `MAX_LENGTH`."""

    family: str
    sizes: tuple[str, ...]  # the sets it belongs to, of `SIZES`
    network: Callable[..., Module]
    settings: Mapping[str, Any]  # keyword arguments of `network`
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    slo_ms: float  # a default for demonstrations; docs/zoo.md tells how it was chosen
    buckets: tuple[int, ...] = ()  # tokens
    pad_values: Mapping[str, int] = field(default_factory=dict)
    pretrained: bool = False  # `network` brings its weights; else they are seeded

    @property
    def takes_text(self) -> bool:
        """Whether its inputs are tokens; if not, a picture."""
        return self.inputs[0].name == "input_ids"


def _picture(
    family: str, size: str, network: Callable[..., Module], pixels: int, slo_ms: float, **settings: Any
) -> Recipe:
    image = TensorSpec("image", "FP32", (-1, 3, pixels, pixels))
    logits = TensorSpec("logits", "FP32", (-1, 1000))
    return Recipe(family, (size,), network, {"classes": 1000, **settings}, (image,), logits, slo_ms)


def _yolov8(size: str, pixels: int, slo_ms: float, **settings: Any) -> Recipe:
    image = TensorSpec("image", "FP32", (-1, 3, pixels, pixels))
    places = sum((pixels // stride) ** 2 for stride in yolo.STRIDES)
    boxes = TensorSpec("predictions", "FP32", (-1, 4 + 80, places))
    settings |= {"classes": 80, "resolution": pixels}
    return Recipe("yolov8", (size,), yolov8, settings, (image,), boxes, slo_ms)


_TEXT = (TensorSpec("input_ids", "INT64", (-1, -1)), TensorSpec("attention_mask", "INT64", (-1, -1)))


def _roberta(size: str, slo_ms: float, buckets: tuple[int, ...], **settings: Any) -> Recipe:
    states = TensorSpec("last_hidden_state", "FP32", (-1, -1, settings["width"]))
    settings |= {"positions": 2 + MAX_LENGTH, "types": 1, "eps": 1e-5, "padding_id": 1}
    padding = {"input_ids": 1}
    return Recipe("roberta", (size,), text_encoder, settings, _TEXT, states, slo_ms, buckets, padding)


def _minilm(slo_ms: float, buckets: tuple[int, ...]) -> Recipe:
    embedding = TensorSpec("embedding", "FP32", (-1, 384))
    return Recipe("minilm", SIZES, minilm.encoder, {}, _TEXT, embedding, slo_ms, buckets, pretrained=True)


_VGG_19 = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))
_VGG_SMALL = ((2, 32), (2, 64), (4, 128), (4, 256), (4, 256))

MODELS: Mapping[str, Recipe] = {
    "minilm": _minilm(100, (16, 32, 64, 128)),
    "resnet_small": _picture("resnet", "small", resnet, 96, 25, depths=(3, 4, 6, 3), width=32),
    "yolov8_small": _yolov8("small", 160, 30, depth=0.33, width=0.25),
    "roberta_small": _roberta("small", 30, (16, 32, 64), vocabulary=8192, width=256, depth=6, heads=4, hidden=1024),
    "vit_small": _picture("vit", "small", vit, 96, 35, resolution=96, patch=16, width=192, depth=12, heads=3),
    "vgg_small": _picture("vgg", "small", vgg, 64, 40, resolution=64, stages=_VGG_SMALL, hidden=512),
    "convnext_small": _picture("convnext", "small", convnext, 96, 25, depths=(3, 3, 9, 3), widths=(40, 80, 160, 320)),
    "resnet50": _picture("resnet", "full", resnet, 224, 200, depths=(3, 4, 6, 3), width=64),
    "yolov8n": _yolov8("full", 640, 250, depth=0.33, width=0.25),
    "roberta_base": _roberta("full", 600, (32, 64, 128), vocabulary=50265, width=768, depth=12, heads=12, hidden=3072),
    "vit_b16": _picture("vit", "full", vit, 224, 900, resolution=224, patch=16, width=768, depth=12, heads=12),
    "vgg19": _picture("vgg", "full", vgg, 224, 1200, resolution=224, stages=_VGG_19, hidden=4096),
    "convnext_base": _picture(
        "convnext", "full", convnext, 224, 900, depths=(3, 3, 27, 3), widths=(128, 256, 512, 1024)
    ),
}


def recipe(name: str) -> Recipe:
    """The recipe of that name. Raises ValueError that lists what there is."""
    if name not in MODELS:
        raise ValueError(f"the zoo has no model '{name}', but {', '.join(MODELS)}")
    return MODELS[name]
