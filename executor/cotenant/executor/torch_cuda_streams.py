"""Streams that belong to one lane each, and what a lane does with its own."""

import threading
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from cotenant.executor.cuda_stream import Mark

if TYPE_CHECKING:
    import torch


class Streams:
    """Streams of the process that belong to one lane each.

    Two lanes on one stream would wait for each other, and one of them could not be captured while the other runs. Those
    of torch come from a ring of 32, so they are made with the CUDA bindings where these are installed, and otherwise
    taken from the ring as long as it has new ones. None is destroyed, because libraries keep memory for each (cuBLAS a
    workspace): the next lane gets it.
    """

    _RING = 32

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[tuple[int, int], list[Any]] = {}
        self._given: set[int] = set()

    def take(self, torch: Any, index: int, priority: int) -> Any:
        """A `torch.cuda.Stream` that no lane has. Raises ValueError if there is none left."""
        with self._lock:
            if idle := self._idle.setdefault((index, priority), []):
                return idle.pop()
            stream = self._new(torch, index, priority)
            self._given.add(int(stream.cuda_stream))
            return stream

    def give_back(self, stream: Any, index: int, priority: int) -> None:
        """A lane is gone."""
        self._idle[index, priority].append(stream)  # one step: this may run in the middle of anything

    def _new(self, torch: Any, index: int, priority: int) -> Any:
        try:
            from cuda.bindings import runtime
        except ImportError:
            for _ in range(self._RING):
                stream = torch.cuda.Stream(index, priority=priority)
                if int(stream.cuda_stream) not in self._given:
                    return stream
            raise ValueError(
                f"torch has {self._RING} streams of priority {priority}, and all of them belong to lanes already; with "
                "the package cuda-python there can be more"
            ) from None
        with torch.cuda.device(index):
            status, handle = runtime.cudaStreamCreateWithPriority(runtime.cudaStreamNonBlocking, priority)
        torch.cuda.check_error(int(status))
        return torch.cuda.ExternalStream(int(handle), index)


_streams = Streams()


class OwnStream:
    """A stream of one lane; see `LaneStream`."""

    def __init__(self, torch: Any, index: int, priority: int) -> None:
        self._torch, self._key = torch, (index, priority)
        self._stream = _streams.take(torch, index, priority)
        self.handle = int(self._stream.cuda_stream)
        # Blocking: the thread sleeps until the device interrupts. The default spins, and N running batches would then
        # take N cores from the processes that feed them; the price is the wake-up. Torch frees the interpreter while
        # it waits, either way.
        self._end = torch.cuda.Event(blocking=True)

    def __del__(self) -> None:
        if hasattr(self, "_stream"):
            _streams.give_back(self._stream, *self._key)

    def active(self) -> AbstractContextManager[Any]:
        """See `LaneStream.active`."""
        context: AbstractContextManager[Any] = self._torch.cuda.stream(self._stream)
        return context

    def mark(self) -> Mark:
        """See `LaneStream.mark`."""
        event = self._torch.cuda.Event(enable_timing=True)
        event.record(self._stream)
        return _Mark(event)

    def finish(self) -> None:
        """See `LaneStream.finish`."""
        self._end.record(self._stream)
        self._end.synchronize()


class _Mark:
    def __init__(self, event: "torch.cuda.Event") -> None:
        self.event = event

    def ns_since(self, earlier: Any) -> int:
        return round(float(earlier.event.elapsed_time(self.event)) * 1e6)
