"""Sentences to token ids, with the sentence encoder's own tokenizer."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from cotenant.executor.zoo import minilm
from cotenant.runtime.datatypes import Array


def encode(sentences: Sequence[str], *, max_length: int = 128) -> tuple[Array, Array]:
    """`input_ids` and `attention_mask`, both INT64 [sentences, longest]; what exceeds `max_length` tokens is cut off.

    Raises ValueError if there is no sentence, or if the tokenizer's file is not installed.
    """
    if not sentences:
        raise ValueError("there is no sentence to encode")
    tokenizer = _tokenizer(max_length)
    found = tokenizer.encode_batch(list(sentences))
    ids = np.array([encoding.ids for encoding in found], dtype=np.int64)
    mask = np.array([encoding.attention_mask for encoding in found], dtype=np.int64)
    return ids, mask


@functools.cache
def _tokenizer(max_length: int) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm.folder() / "tokenizer.json"))
    tokenizer.enable_truncation(max_length)
    tokenizer.enable_padding()  # with [PAD], id 0, up to the longest sentence; the file's own setting is always 128
    return tokenizer
