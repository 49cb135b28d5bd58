"""Triton's response cache: answers kept by model, inputs and outputs asked for; the least recently used go first.

For models whose configuration enables it. A model that is loaded again begins anew. Keys are digests of 128 bits.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from cotenant.frontend.catalogue import ModelView
from cotenant.frontend.checking import Checked
from cotenant.v1 import types_pb2

_ENTRY_BYTES = 512  # what an entry takes beside its tensors, about


@dataclass(frozen=True, slots=True)
class Kept:
    """The outputs of one answer."""

    tensors: tuple[types_pb2.Tensor, ...]
    contents: tuple[bytes, ...]

    @property
    def byte_size(self) -> int:
        """About the memory it takes."""
        return _ENTRY_BYTES + sum(len(content) for content in self.contents)


class ResponseCache:
    """See the module's text. At most `limit_bytes`; 0 for none at all. For the event loop's thread only."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._entries: OrderedDict[bytes, Kept] = OrderedDict()

    def key(self, model: ModelView, checked: Checked) -> bytes | None:
        """The key of a request; None where answers to it are not kept."""
        if not self.limit_bytes or not model.config.response_cache.enable or model.stateful or checked.explain:
            return None
        digest = hashlib.blake2b(f"{model.name}\0{model.version}\0{model.generation}\0".encode(), digest_size=16)
        header = types_pb2.TensorSet.FromString(checked.header)
        for name in sorted(header.requested_outputs or model.outputs):
            digest.update(f"{name}\0".encode())
        order = sorted(range(len(header.tensors)), key=lambda i: header.tensors[i].name)
        for index in order:
            tensor, buffer = header.tensors[index], checked.buffers[index]
            digest.update(f"\0{tensor.name}\0{tensor.datatype}\0{list(tensor.shape)}\0{len(buffer)}\0".encode())
            digest.update(buffer)
        return digest.digest()

    def find(self, key: bytes) -> Kept | None:
        """What was kept, if it still is."""
        kept = self._entries.get(key)
        if kept is not None:
            self._entries.move_to_end(key)
        return kept

    def keep(self, key: bytes, tensors: Sequence[types_pb2.Tensor], contents: Sequence[bytes]) -> None:
        """Keeps an answer, if it fits at all."""
        kept = Kept(tuple(tensors), tuple(contents))
        if kept.byte_size > self.limit_bytes:
            return
        if (before := self._entries.pop(key, None)) is not None:
            self.used_bytes -= before.byte_size
        self._entries[key] = kept
        self.used_bytes += kept.byte_size
        while self.used_bytes > self.limit_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.used_bytes -= oldest.byte_size
