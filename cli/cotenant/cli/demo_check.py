"""Asks the sentence encoder real sentences, as a client would, and whether its answers make sense."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cotenant.cli.load_client import GrpcClient
from cotenant.cli.load_inputs import Tensors, read_samples
from cotenant.cli.load_options import ModelLoad

MODEL = "minilm"


@dataclass(frozen=True, slots=True)
class Similarities:
    """What was found among sentences in groups that say the same. A similarity is a cosine, in [-1, 1]."""

    sentences: int
    closest_alike: int  # sentences whose nearest other sentence is of their group
    alike: float  # mean similarity within groups
    unlike: float  # and across them
    examples: tuple[tuple[float, str, str], ...]  # similarity, and two sentences: a pair that is alike, one that is not

    @property
    def sensible(self) -> bool:
        """Whether the encoder tells meanings apart. Random weights would do so for one sentence in thirty or so."""
        return self.closest_alike >= 0.95 * self.sentences and self.alike > self.unlike + 0.3


async def check(url: str, repository: Path) -> Similarities:
    """Sends every sentence of the encoder's samples. Raises AioRpcError where it is not answered."""
    from cotenant.executor.zoo.sentences import GROUPS  # plain text; what the samples were made of, in their order

    client = GrpcClient(url)
    load = ModelLoad(MODEL)
    try:
        model = await client.describe(load)
        samples = read_samples(model, repository)
        rows = [(await client.outputs(load, model, _batch_of_one(sample))).popitem()[1][0] for sample in samples]
    finally:
        await client.close()
    texts = [text for group in GROUPS for text in group]
    groups = np.repeat(np.arange(len(GROUPS)), [len(group) for group in GROUPS])
    return compare(np.array(rows, dtype=np.float64), groups, texts)


def _batch_of_one(sample: Tensors) -> Tensors:
    return {name: array[None] for name, array in sample.items()}


def compare(vectors: npt.NDArray[np.float64], groups: npt.NDArray[np.int64], texts: list[str]) -> Similarities:
    """Compares vectors [sentences, width] of sentences, `groups` telling which of them mean the same.

    Raises:
        ValueError: If their numbers differ.
    """
    if not len(vectors) == len(groups) == len(texts):
        raise ValueError(f"there are {len(vectors)} answers for {len(texts)} sentences")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    same = groups[:, None] == groups[None, :]
    others = ~np.eye(len(groups), dtype=bool)
    nearest = np.where(others, cosine, -np.inf).argmax(axis=1)
    stranger = int(np.argmax(groups != groups[0]))
    return Similarities(
        sentences=len(texts),
        closest_alike=int((groups[nearest] == groups).sum()),
        alike=float(cosine[same & others].mean()),
        unlike=float(cosine[~same].mean()),
        examples=tuple((float(cosine[0, i]), texts[0], texts[i]) for i in (1, stranger)),
    )
