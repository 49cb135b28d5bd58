"""Streams, events and memory of one CUDA device, as little of them as a backend with a runtime of its own needs.

torch provides them; nothing here computes. Memory is asked for while a model loads and then kept: a run only copies
and waits. Tests put a device without a GPU in the place of `open_device`.
"""

import threading
from collections import deque
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from cotenant.runtime.datatypes import Array

if TYPE_CHECKING:
    import torch

# Held while a graph is captured and while torch's allocator gives memory back: it cannot do the one during the other.
capturing = threading.RLock()


class DeviceBlock(Protocol):
    """Bytes on the device."""

    address: int
    nbytes: int


class PinnedBlock(Protocol):
    """Bytes of the host that the device reads and writes by itself."""

    array: Array  # the bytes, as uint8
    nbytes: int


class Lease:
    """A pinned block whose arrays are in use. The arrays keep it; it goes back when the last of them is gone."""

    def __init__(self, free: deque[Any], block: PinnedBlock) -> None:
        self._free, self.block = free, block
        self.__array_interface__ = block.array.__array_interface__

    def __del__(self) -> None:
        self._free.append(self.block)


class Mark(Protocol):
    """A point in a stream whose instant the device takes."""

    def ns_since(self, earlier: "Mark") -> int:
        """Time between two marks of a stream that has been waited for, in ns."""
        ...


class Stream(Protocol):
    """Work in order. Copies and marks are asked for on the calling thread and happen later, until `wait` returns."""

    handle: int  # the cudaStream_t

    def copy_in(self, target: DeviceBlock, source: PinnedBlock, nbytes: int) -> None:
        """The first `nbytes` bytes, from host to device."""
        ...

    def copy_out(self, target: PinnedBlock, source: DeviceBlock, at: int, nbytes: int) -> None:
        """The first `nbytes` bytes of the device's block to those from `at` on, from device to host."""
        ...

    def mark(self) -> Mark:
        """A mark behind what was asked for so far."""
        ...

    def wait(self) -> None:
        """Waits until all that was asked for has happened; other threads run meanwhile."""
        ...


class CudaDevice(Protocol):
    """One device."""

    name: str
    capability: tuple[int, int]  # compute capability

    def use(self) -> AbstractContextManager[Any]:
        """What the calling thread does inside belongs to this device."""
        ...

    def stream(self) -> Stream:
        """A new stream."""
        ...

    def block(self, nbytes: int) -> DeviceBlock:
        """Memory on the device, aligned to 256 bytes or more. Raises what the device raises if there is none left."""
        ...

    def pinned(self, nbytes: int) -> PinnedBlock:
        """Pinned memory of the host."""
        ...

    def release(self) -> None:
        """Gives memory that nothing refers to any more back to the driver."""
        ...


class _TorchBlock:
    def __init__(self, tensor: "torch.Tensor") -> None:
        self.tensor = tensor
        self.address, self.nbytes = int(tensor.data_ptr()), int(tensor.numel())


class _TorchPinned:
    def __init__(self, tensor: "torch.Tensor") -> None:
        self.tensor = tensor
        self.array: Array = tensor.numpy()
        self.nbytes = int(tensor.numel())


class _TorchMark:
    def __init__(self, event: "torch.cuda.Event") -> None:
        self.event = event

    def ns_since(self, earlier: Any) -> int:
        return round(float(earlier.event.elapsed_time(self.event)) * 1e6)


class _TorchStream:
    def __init__(self, torch: Any, device: Any) -> None:
        self._torch = torch
        self._stream = torch.cuda.Stream(device)
        self.handle = int(self._stream.cuda_stream)

    def copy_in(self, target: Any, source: Any, nbytes: int) -> None:
        with self._torch.cuda.stream(self._stream):
            target.tensor[:nbytes].copy_(source.tensor[:nbytes], non_blocking=True)

    def copy_out(self, target: Any, source: Any, at: int, nbytes: int) -> None:
        with self._torch.cuda.stream(self._stream):
            target.tensor[at : at + nbytes].copy_(source.tensor[:nbytes], non_blocking=True)

    def mark(self) -> Mark:
        event = self._torch.cuda.Event(enable_timing=True)
        event.record(self._stream)
        return _TorchMark(event)

    def wait(self) -> None:
        self._stream.synchronize()


class TorchCuda:
    """A device through torch."""

    def __init__(self, index: int) -> None:
        import torch

        self._torch = torch
        self._device = torch.device("cuda", index)
        self.name = str(torch.cuda.get_device_name(self._device))
        major, minor = torch.cuda.get_device_capability(self._device)
        self.capability = (int(major), int(minor))

    def use(self) -> AbstractContextManager[Any]:
        """See `CudaDevice.use`."""
        context: AbstractContextManager[Any] = self._torch.cuda.device(self._device)
        return context

    def stream(self) -> Stream:
        """See `CudaDevice.stream`."""
        return _TorchStream(self._torch, self._device)

    def block(self, nbytes: int) -> DeviceBlock:
        """See `CudaDevice.block`."""
        return _TorchBlock(self._torch.empty(nbytes, dtype=self._torch.uint8, device=self._device))

    def pinned(self, nbytes: int) -> PinnedBlock:
        """See `CudaDevice.pinned`."""
        return _TorchPinned(self._torch.empty(nbytes, dtype=self._torch.uint8, pin_memory=True))

    def release(self) -> None:
        """See `CudaDevice.release`."""
        with capturing:
            self._torch.cuda.empty_cache()


def open_device(index: int) -> CudaDevice:
    """The CUDA device of that index. Raises what torch raises if there is none."""
    return TorchCuda(index)
