"""What torch programs need of a CUDA device beside plain streams and memory: graphs, pools, priorities, figures.

`TorchGraphDevice` is torch's; tests put one without a GPU in the place of `open_device`. Captures and whatever gives
memory back exclude each other in the whole process (`cuda_stream.capturing`); running work is never held up by a lock.
"""

import contextlib
import gc
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from cotenant.executor.cuda_stream import Mark, PinnedBlock, TorchCuda, capturing
from cotenant.executor.pinned_ranges import ranges
from cotenant.executor.torch_cuda_streams import OwnStream

if TYPE_CHECKING:
    import torch

_ERROR = re.compile(r"\w*Error: \S")
_READ_ONLY = 0x08  # cudaHostRegisterReadOnly: the memory of a frontend is mapped for reading alone


class CaptureError(Exception):
    """A program that cannot be captured; says why."""


class Graph(Protocol):
    """Recorded work. Must not be replayed while an earlier replay of it runs."""

    def replay(self) -> None:
        """Asks the current stream for the whole of it."""
        ...


class LaneStream(Protocol):
    """A stream that torch's operators go to."""

    handle: int  # the cudaStream_t

    def active(self) -> AbstractContextManager[Any]:
        """What the calling thread asks of torch inside goes to this stream of this device."""
        ...

    def mark(self) -> Mark:
        """A mark behind what was asked for so far."""
        ...

    def finish(self) -> None:
        """Waits until all that was asked for so far has happened; other threads run meanwhile."""
        ...


class TensorBlock(PinnedBlock, Protocol):
    """Pinned bytes, as torch sees them."""

    tensor: "torch.Tensor"  # the bytes, as uint8


class GraphDevice(Protocol):
    """One CUDA device under torch."""

    name: str
    where: "torch.device"

    def use(self) -> AbstractContextManager[Any]:
        """What the calling thread does inside belongs to this device."""
        ...

    def lane_stream(self, priority: int) -> LaneStream:
        """A new stream: priority 0, or -1 to go before those."""
        ...

    def empty(self, nbytes: int) -> "torch.Tensor":
        """Memory on the device, as uint8. Raises `torch.OutOfMemoryError` if there is none left."""
        ...

    def pinned(self, nbytes: int) -> TensorBlock:
        """Pinned memory of the host."""
        ...

    def new_pool(self) -> Any:
        """Names a pool that graphs of one lane take their memory from."""
        ...

    def capture(self, stream: LaneStream, pool: Any, work: Callable[[], Any]) -> tuple[Graph, Any]:
        """The graph of what `work` asks of torch, and what it returned. Others may run meanwhile.

        Raises CaptureError if it asks for what a graph cannot hold, `torch.OutOfMemoryError` if there is no room for
        what it does; the stream is usable afterwards.
        """
        ...

    def free_bytes(self) -> int:
        """Memory of the device that nobody holds."""
        ...

    def reserved_bytes(self) -> int:
        """Memory that torch's allocator holds, in use or not."""
        ...

    def release(self) -> None:
        """Gives memory that nothing refers to any more back to the driver. Waits for what runs on the device."""
        ...

    def register(self, address: int, nbytes: int) -> None:
        """Pins read-only memory of the host that is already there. Raises RuntimeError where that cannot be done."""
        ...

    def unregister(self, address: int) -> None:
        """Ends `register`."""
        ...


class TorchGraphDevice(TorchCuda):
    """A device through torch."""

    _abandoned: list[Any] = []  # graphs whose capture failed: torch's allocators may still refer to them  # noqa: RUF012

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.where: torch.device = self._device
        self._index = index

    def lane_stream(self, priority: int) -> LaneStream:
        """See `GraphDevice.lane_stream`."""
        return OwnStream(self._torch, self._index, priority)

    def empty(self, nbytes: int) -> "torch.Tensor":
        """See `GraphDevice.empty`."""
        return self._torch.empty(nbytes, dtype=self._torch.uint8, device=self._device)

    def pinned(self, nbytes: int) -> Any:
        """See `GraphDevice.pinned`."""
        return super().pinned(nbytes)

    def new_pool(self) -> Any:
        """See `GraphDevice.new_pool`."""
        return self._torch.cuda.graph_pool_handle()

    def capture(self, stream: LaneStream, pool: Any, work: Callable[[], Any]) -> tuple[Graph, Any]:
        """See `GraphDevice.capture`.

        `torch.cuda.graph` would wait for the whole device and give memory back first; both stall what serves.
        """
        with capturing, _no_collection(), stream.active():
            graph = self._torch.cuda.CUDAGraph()
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                result = work()
                graph.capture_end()
            except Exception as error:
                self._abandon(graph, pool)
                if isinstance(error, self._torch.OutOfMemoryError):
                    raise
                raise CaptureError(reason_of(error)) from error
        return graph, result

    def _abandon(self, graph: Any, pool: Any) -> None:
        """Takes stream and allocator out of a capture that failed; torch before 2.14 leaves the allocator in it."""
        with contextlib.suppress(Exception):
            graph.capture_end()
            return  # it was the program that failed, not the capture
        with contextlib.suppress(Exception):
            self._torch._C._cuda_endAllocateToPool(self._index, pool)  # noqa: SLF001 (it has no public name)
        self._abandoned.append(graph)

    def free_bytes(self) -> int:
        """See `GraphDevice.free_bytes`."""
        return int(self._torch.cuda.mem_get_info(self._device)[0])

    def reserved_bytes(self) -> int:
        """See `GraphDevice.reserved_bytes`."""
        return int(self._torch.cuda.memory_reserved(self._device))

    def register(self, address: int, nbytes: int) -> None:
        """See `GraphDevice.register`."""
        self._asked(lambda cudart: cudart.cudaHostRegister(address, nbytes, _READ_ONLY))

    def unregister(self, address: int) -> None:
        """See `GraphDevice.unregister`."""
        self._asked(lambda cudart: cudart.cudaHostUnregister(address))

    def _asked(self, call: Callable[[Any], Any]) -> None:
        """On a thread of its own: CUDA keeps a failure as its thread's last error, which torch would find later."""

        def ask() -> int:
            with self.use():
                return int(call(self._torch.cuda.cudart()))

        with ThreadPoolExecutor(1) as thread:
            self._torch.cuda.check_error(thread.submit(ask).result())


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection: what it frees on the capturing thread could end the capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def reason_of(error: Exception) -> str:
    """One line that tells what went wrong; TorchScript's errors name it in their last."""
    lines = f"{type(error).__name__}: {error}".splitlines()
    return next((line for line in reversed(lines) if _ERROR.match(line)), lines[0])


def open_device(index: int) -> GraphDevice:
    """The CUDA device of that index. Raises what torch raises if there is none."""
    return TorchGraphDevice(index)


def pinning(index: int) -> Callable[[memoryview], Callable[[], None]]:
    """What pins memory that is already there for a device, so that inputs are copied from it; returns what ends that.

    Raises what torch raises if there is no such device.
    """
    device = open_device(index)

    def pin(view: memoryview) -> Callable[[], None]:
        known = ranges.add(view, device.register, device.unregister)
        return (lambda: ranges.remove(known)) if known else (lambda: None)

    return pin
