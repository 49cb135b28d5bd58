"""The frontend's shared memory: where requests' tensors lie until they are answered."""

from pathlib import Path

import structlog

from cotenant.frontend.checking import Checked
from cotenant.runtime import staging
from cotenant.runtime.staging import NONCE_BYTES, Arena, Segment, aligned
from cotenant.v1 import types_pb2

_log = structlog.get_logger()


class StagingArea:
    """Blocks for requests, in a segment that executors of this host map; none where sharing is off."""

    def __init__(self, folder: str, size: int) -> None:
        self.folder = Path(folder)
        self.segment: Segment | None = None
        if folder and size:
            staging.sweep(self.folder)
            self.segment = Segment.create(self.folder, size)
            if self.segment.size < size:
                _log.warning("staging memory is smaller than asked", asked=size, got=self.segment.size, folder=folder)
        self._arena = Arena(NONCE_BYTES, self.segment.size) if self.segment else None

    @property
    def used_bytes(self) -> int:
        """Bytes that requests occupy now."""
        return self._arena.used if self._arena else 0

    @property
    def capacity_bytes(self) -> int:
        """Bytes there are in all."""
        return self._arena.capacity if self._arena else 0

    def put(self, checked: Checked) -> types_pb2.StagedTensors | None:
        """Copies a request's tensors into a block; None where there is no room or no sharing."""
        if self._arena is None or self.segment is None:
            return None
        size = aligned(4 + len(checked.header)) + checked.data_bytes
        offset = self._arena.take(size)
        if offset is None:
            return None
        staging.write_block(self.segment.view, offset, checked.header, checked.buffers)
        return types_pb2.StagedTensors(segment=self.segment.name, offset=offset, byte_size=size)

    def free(self, block: types_pb2.StagedTensors) -> None:
        """Gives a block back."""
        if self._arena is not None:
            self._arena.give_back(block.offset)

    def close(self) -> None:
        """Removes the segment."""
        if self.segment:
            self.segment.close()
