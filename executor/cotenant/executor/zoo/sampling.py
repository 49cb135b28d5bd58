"""Requests to send to a model: pictures that were drawn, and real sentences, as arrays.

`samples.npz` beside a model's configuration holds them, so that a load generator needs numpy and nothing else:
`<input>.<i>` is that input of request i, without the batch; `group.<i>`, where there is one, tells which requests mean
the same.
"""

import math
from pathlib import Path

import numpy as np

from cotenant.executor.zoo import text
from cotenant.executor.zoo.recipes import Recipe
from cotenant.executor.zoo.sentences import GROUPS
from cotenant.runtime.datatypes import Array

COUNT = 32  # pictures ...
MAX_BYTES = 32 * 2**20  # ... or as many as fit in here
# What classifiers of ImageNet are trained with; detectors of the YOLO kind take 0 .. 1 as it is.
MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], dtype=np.float32)


def write(recipe: Recipe, path: Path) -> None:
    """Writes `samples.npz`. Raises ValueError if text is wanted and the tokenizer is not installed."""
    arrays = _texts(recipe) if recipe.takes_text else _pictures(recipe)
    np.savez(path, **arrays)  # type: ignore[arg-type]  # its stub takes every keyword for an option


def _texts(recipe: Recipe) -> dict[str, Array]:
    """All sentences, each as long as it is.

    Weights that are not trained give ids no meaning, so that any vocabulary will do: ids are folded into the
    model's own, above the id that stands for padding.
    """
    arrays: dict[str, Array] = {}
    lowest, vocabulary = recipe.pad_values.get("input_ids", -1) + 1, recipe.settings.get("vocabulary")
    sentences = [(group, sentence) for group, same in enumerate(GROUPS) for sentence in same]
    for i, (group, sentence) in enumerate(sentences):
        ids, mask = text.encode([sentence], max_length=recipe.buckets[-1])
        folded = lowest + ids[0] % (vocabulary - lowest) if vocabulary else ids[0]
        arrays |= {f"input_ids.{i}": folded, f"attention_mask.{i}": mask[0], f"group.{i}": np.array(group)}
    return arrays


def _pictures(recipe: Recipe) -> dict[str, Array]:
    image = recipe.inputs[0]
    count = min(COUNT, MAX_BYTES // (4 * math.prod(image.shape[1:])))
    return {f"{image.name}.{i}": scene(recipe, i) for i in range(count)}


def scene(recipe: Recipe, seed: int) -> Array:
    """A picture as the model takes it: FP32 [3, height, width], scaled as its family is."""
    _, _, height, width = recipe.inputs[0].shape
    pixels = picture(seed, height, width)
    if recipe.family != "yolov8":
        pixels = (pixels - MEAN) / DEVIATION
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def picture(seed: int, height: int, width: int) -> Array:
    """A scene [height, width, 3] in 0 .. 1: a gradient, a few rectangles and ellipses on it, and a camera's noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / max(height, width)
    angle = random.uniform(0, 2 * np.pi)
    along = np.clip(0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle), 0, 1)[..., None]
    scene = random.uniform(0, 1, 3) * along + random.uniform(0, 1, 3) * (1 - along)
    for shape in range(random.integers(3, 8)):
        across, down = (
            (x - random.uniform()) / random.uniform(0.05, 0.3),
            (y - random.uniform()) / random.uniform(0.05, 0.3),
        )
        inside = across**2 + down**2 < 1 if shape % 2 else (abs(across) < 1) & (abs(down) < 1)
        scene[inside] = random.uniform(0, 1, 3)
    noisy: Array = np.clip(scene + random.normal(0, 0.03, scene.shape), 0, 1).astype(np.float32)
    return noisy
