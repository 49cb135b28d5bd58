"""The executor's end of the data path: where requests' tensors are found, and where answers go.

Tensors of a frontend on this host lie in its segment; those of others arrive as `Stage`. Outputs lie in a segment of
ours until the frontend says it has read them, small ones travel in the answer itself.
"""

import threading
from collections.abc import Callable
from pathlib import Path

from cotenant.runtime.outbox import Outbox
from cotenant.runtime.staging import NONCE_BYTES, Arena, Buffer, Segment, aligned, read_block, write_data
from cotenant.v1 import executor_pb2 as pb
from cotenant.v1 import scheduler_pb2, types_pb2

INLINE_BYTES = 16384  # outputs up to this size travel in the answer: cheaper than a block and its release
FRONTEND_SHIFT = 33  # request id = frontend id << 33 | counter


def _nothing() -> None:
    pass


class FrontendPeer:
    """A connected frontend."""

    def __init__(self, hello: pb.ExchangeHello, folder: Path) -> None:
        self.frontend_id = hello.frontend_id
        self.outbox: Outbox[pb.ExchangeResponse] = Outbox(pb.ExchangeResponse)
        self.segment = Segment.attach(folder, hello.segment, hello.nonce) if hello.segment else None
        self.let_go: Callable[[], None] = _nothing  # called before the segment is unmapped
        self.stages: dict[int, pb.Stage] = {}
        self.blocks: set[int] = set()  # blocks of outputs it has not released


class Exchange:
    """All frontends, and the memory that outputs are put into."""

    def __init__(self, folder: Path, output_bytes: int) -> None:
        self.folder = folder
        self.segment = Segment.create(folder, output_bytes) if output_bytes else None
        self._arena = Arena(NONCE_BYTES, self.segment.size) if self.segment else None
        self._lock = threading.Lock()  # batches put their outputs from threads of their own
        self.peers: dict[int, FrontendPeer] = {}
        self.on_inputs: Callable[[], None] = _nothing  # tensors arrived, or memory where some lie
        self.on_cancel: Callable[[int], None] = lambda _: None
        # Told of a frontend's memory once it is mapped; returns what to call before it is unmapped.
        self.on_map: Callable[[memoryview], Callable[[], None]] = lambda _: _nothing

    @property
    def used_bytes(self) -> int:
        """Shared memory that outputs occupy now."""
        return self._arena.used if self._arena else 0

    # ---- frontends come and go

    def connect(self, hello: pb.ExchangeHello) -> FrontendPeer:
        """Introduces a frontend; a newer stream of the same one replaces the older."""
        if older := self.peers.get(hello.frontend_id):
            self.disconnect(older)
        peer = self.peers[hello.frontend_id] = FrontendPeer(hello, self.folder)
        if peer.segment:
            peer.let_go = self.on_map(peer.segment.view)
            self.on_inputs()
        return peer

    def disconnect(self, peer: FrontendPeer) -> None:
        """Frees all that was kept for a frontend."""
        if self.peers.get(peer.frontend_id) is peer:
            del self.peers[peer.frontend_id]
        for offset in list(peer.blocks):
            self._free(peer, offset)
        peer.outbox.close()
        if peer.segment:
            peer.let_go()
            peer.segment.close()
            peer.segment = None

    def take(self, peer: FrontendPeer, frame: pb.ExchangeRequest) -> None:
        """A frame from a frontend."""
        for stage in frame.stages:
            peer.stages[stage.request_id] = stage
        if frame.stages:
            self.on_inputs()
        for release in frame.releases:
            self._free(peer, release.offset)
        for request_id in frame.forgotten_request_ids:
            peer.stages.pop(request_id, None)
        for request_id in frame.cancelled_request_ids:
            self.on_cancel(request_id)

    def _free(self, peer: FrontendPeer, offset: int) -> None:
        with self._lock:
            if offset in peer.blocks and self._arena:
                peer.blocks.discard(offset)
                self._arena.give_back(offset)

    # ---- inputs

    def peer_of(self, request_id: int) -> FrontendPeer | None:
        """The frontend a request came from, if it is connected."""
        return self.peers.get(request_id >> FRONTEND_SHIFT)

    def has_inputs(self, request: scheduler_pb2.LaunchedRequest) -> bool:
        """Whether a request's tensors are here."""
        peer = self.peer_of(request.request_id)
        if peer is None:
            return False
        if request.request_id in peer.stages:
            return True
        return peer.segment is not None and request.tensors.segment == peer.segment.name

    def inputs(self, request: scheduler_pb2.LaunchedRequest) -> tuple[types_pb2.TensorSet, memoryview]:
        """Description and data of a request's tensors. Raises ValueError if they are not here, or make no sense."""
        peer = self.peer_of(request.request_id)
        if peer and (stage := peer.stages.get(request.request_id)):
            return stage.tensors, memoryview(stage.data)
        if peer is None or peer.segment is None or request.tensors.segment != peer.segment.name:
            raise ValueError(f"the tensors of request {request.request_id} are not here")
        header, data = read_block(peer.segment.view, request.tensors.offset, request.tensors.byte_size)
        return types_pb2.TensorSet.FromString(bytes(header)), data

    def forget(self, request_id: int) -> None:
        """Drops staged tensors of a request that is done with."""
        if peer := self.peer_of(request_id):
            peer.stages.pop(request_id, None)

    # ---- outputs

    def put_outputs(self, answer: pb.Answer, buffers: list[Buffer]) -> None:
        """Puts output tensors into an answer, or into shared memory where that is cheaper. Safe for threads."""
        size = sum(aligned(len(buffer)) for buffer in buffers)
        peer = self.peer_of(answer.request_id)
        if size > INLINE_BYTES and peer and peer.segment and self.segment and self._arena:
            with self._lock:
                offset = self._arena.take(size)
                if offset is not None:
                    peer.blocks.add(offset)
            if offset is not None:
                write_data(self.segment.view, offset, buffers)
                staged = answer.staged
                staged.segment, staged.offset, staged.byte_size = self.segment.name, offset, size
                return
        data = bytearray(size)
        write_data(memoryview(data), 0, buffers)
        answer.inline = bytes(data)

    def send(self, answers: list[pb.Answer]) -> None:
        """Sends answers to the frontends that asked; nobody waits at one that has gone. For the loop's thread."""
        for answer in answers:
            peer = self.peer_of(answer.request_id)
            if peer is None:
                continue
            peer.outbox.frame.answers.append(answer)
            peer.outbox.touch()

    def close(self) -> None:
        """Frees everything."""
        for peer in list(self.peers.values()):
            self.disconnect(peer)
        if self.segment:
            self.segment.close()
