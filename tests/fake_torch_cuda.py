"""A stand-in for a CUDA device under torch: what lanes rely on, on the CPU's tensors.

A stream is a queue. What a thread asks of torch on it is kept, in order, until the stream is waited for: outputs that
are read early are poison, and staging memory that is filled twice gives wrong numbers. A capture records instead, and
refuses what needs the host; a replay asks for all of it again, on the same memory, and not while an earlier one is
under way on another stream. Memory is counted, limited, and kept by an allocator until it is released.
"""

import contextlib
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from cotenant.executor.torch_cuda_device import CaptureError, reason_of

Work = Callable[[], None]


class Block:
    """Pinned memory."""

    def __init__(self, device: "Device", nbytes: int) -> None:
        self.tensor = torch.full((nbytes,), 0xAB, dtype=torch.uint8)
        self.array = self.tensor.numpy()
        self.nbytes = nbytes
        device.pinned_storages.add(self.tensor.untyped_storage().data_ptr())
        device.pinned_blocks.add(self)


class Mark:
    def __init__(self) -> None:
        self.at_ns = 0

    def ns_since(self, earlier: Any) -> int:
        assert self.at_ns, "the mark has not been passed yet"
        return self.at_ns - int(earlier.at_ns)


class Stream:
    def __init__(self, device: "Device", priority: int) -> None:
        self.device, self.priority = device, priority
        self.asked: list[Work] = []
        self.recording: list[Work] | None = None
        self.refusal = ""  # TorchScript does not pass on what Python raised in an operator
        self.handle = id(self)

    def ask(self, work: Work) -> None:
        (self.asked if self.recording is None else self.recording).append(work)

    def active(self) -> AbstractContextManager[Any]:
        return _OnStream(self)

    def mark(self) -> Mark:
        mark = Mark()
        self.ask(lambda: setattr(mark, "at_ns", time.monotonic_ns()))
        return mark

    def finish(self) -> None:
        assert self.recording is None, "a stream that is being captured cannot be waited for"
        self.device.enter()
        try:
            time.sleep(self.device.latency_s)  # others run meanwhile
            asked, self.asked = self.asked, []
            with _disable_current_modes():
                for work in asked:
                    work()
        finally:
            self.device.leave()


class _OnStream(TorchDispatchMode):  # type: ignore[misc]
    """Sends the calling thread's operators to a stream."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.stream = stream

    def __enter__(self) -> Any:
        self.stream.device.local.stream = self.stream
        return super().__enter__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:
            if (result := func.decompose(*args, **kwargs)) is not NotImplemented:
                return result
        schema = func._schema
        if schema.is_mutable:
            target = args[0]
            if target.untyped_storage().data_ptr() in self.stream.device.pinned_storages:
                target.view(torch.uint8).fill_(0xAB)  # undefined until the stream is waited for
            self.stream.ask(lambda: func(*args, **kwargs))
            return target
        on_host = (torch.ops.aten.empty, torch.ops.aten._assert_tensor_metadata)
        if any(r.alias_info for r in schema.returns) or func.overloadpacket in on_host:
            return func(*args, **kwargs)  # views, memory without content, and what looks at shapes alone
        try:
            shapes = func(*tree_map(_meta, args), **tree_map(_meta, kwargs))
        except (NotImplementedError, RuntimeError):
            shapes = None
        leaves = tree_leaves(shapes)
        if not leaves or not all(isinstance(leaf, torch.Tensor) for leaf in leaves):
            return self._with_host(func, args, kwargs)
        results = tree_map(self.stream.device.result, shapes)
        self.stream.device.note(results, self.stream)

        def compute() -> None:
            for target, value in zip(tree_leaves(results), tree_leaves(func(*args, **kwargs)), strict=True):
                if value.numel() or not target.numel():  # a CPU's normalisation gives no statistics back
                    target.copy_(value)

        self.stream.ask(compute)
        return results

    def _with_host(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operator that cannot be asked for without knowing the data."""
        if self.stream.recording is not None:
            self.stream.refusal = f"CUDA error: operation not permitted when stream is capturing ({func})"
            raise RuntimeError(self.stream.refusal)
        self.stream.finish()
        return func(*args, **kwargs)


def _meta(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device="meta")
    return torch.device("meta") if isinstance(leaf, torch.device) else leaf


class Graph:
    def __init__(self, device: "Device", works: list[Work]) -> None:
        self.device, self.works = device, works
        self.replays = 0
        self._on: Stream | None = None  # where a replay is under way

    def replay(self) -> None:
        stream = self.device.local.stream
        assert self._on in (None, stream), "a graph cannot overlap itself"
        self._on = stream
        self.replays += 1
        self.device.replays += 1
        for work in self.works:
            stream.ask(work)
        stream.ask(self._end)

    def _end(self) -> None:
        self._on = None


class Device:
    """Use it in place of `torch_cuda_device.open_device`'s."""

    name = "NVIDIA Fake"

    def __init__(self, total: int = 2**30, latency_s: float = 0.0002) -> None:
        self.where = torch.device("cpu")
        self.total, self.latency_s = total, latency_s
        self.local = threading.local()
        self.pinned_storages: set[int] = set()
        self.pinned_blocks: weakref.WeakSet[Block] = weakref.WeakSet()
        self.streams: list[Stream] = []
        self.graphs: weakref.WeakSet[Graph] = weakref.WeakSet()
        self.registered: dict[int, int] = {}
        self.allocations = self.captures = self.replays = 0
        self.others_bytes = 0  # of other processes
        self._live = 0
        self._kept = 0  # what the allocator keeps although nobody uses it
        self._pools: dict[int, tuple[list[weakref.ref[Graph]], int]] = {}
        self._lock = threading.RLock()
        self.running = self.most_running = 0

    # ---- work

    def use(self) -> AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def lane_stream(self, priority: int) -> Stream:
        self.streams.append(Stream(self, priority))
        return self.streams[-1]

    def enter(self) -> None:
        with self._lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)

    def leave(self) -> None:
        with self._lock:
            self.running -= 1

    def new_pool(self) -> Any:
        return len(self.streams), object()

    def capture(self, stream: Any, pool: Any, work: Callable[[], Any]) -> tuple[Graph, Any]:
        assert not stream.asked, "the stream has work that was not waited for"
        stream.recording = []
        before, self.local.captured = self.allocations, 0
        try:
            with stream.active():
                result = work()
        except RuntimeError as error:
            raise CaptureError(stream.refusal or reason_of(error)) from error
        finally:
            works, stream.recording = stream.recording, None
            self.allocations = before
            taken, self.local.captured = self.local.captured, None
        graph = Graph(self, works)
        self.captures += 1
        self.graphs.add(graph)
        graphs, nbytes = self._pools.get(id(pool), ([], 0))
        self._pools[id(pool)] = ([*graphs, weakref.ref(graph)], max(nbytes, taken))
        return graph, result

    # ---- memory

    def _pooled(self) -> int:
        return sum(n for graphs, n in self._pools.values() if any(graph() is not None for graph in graphs))

    def _allocate(self, nbytes: int) -> None:
        with self._lock:
            if nbytes > self.free_bytes() + self._kept:
                raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {nbytes} bytes.\nmore")
            self._kept = max(0, self._kept - nbytes)
            self._live += nbytes
            self.allocations += 1

    def _free(self, nbytes: int) -> None:
        with self._lock:
            self._live -= nbytes
            self._kept += nbytes

    def empty(self, nbytes: int) -> torch.Tensor:
        self._allocate(nbytes)
        tensor = torch.full((nbytes,), 0xAB, dtype=torch.uint8)
        weakref.finalize(tensor, self._free, nbytes)
        return tensor

    def result(self, like: torch.Tensor) -> torch.Tensor:
        """Memory for a result, full of poison."""
        made = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype)
        if made.numel():
            made.untyped_storage().fill_(0xAB)
        return made

    def note(self, results: Any, stream: Stream) -> None:
        for tensor in tree_leaves(results):
            nbytes = tensor.numel() * tensor.element_size()
            if stream.recording is not None:
                self.local.captured += nbytes
                continue
            self._allocate(nbytes)
            weakref.finalize(tensor, self._free, nbytes)

    def pinned(self, nbytes: int) -> Block:
        self.allocations += 1
        return Block(self, nbytes)

    def free_bytes(self) -> int:
        return self.total - self.others_bytes - self.reserved_bytes()

    def reserved_bytes(self) -> int:
        return self._live + self._kept + self._pooled()

    def release(self) -> None:
        with self._lock:
            self._kept = 0

    def register(self, address: int, nbytes: int) -> None:
        self.registered[address] = nbytes

    def unregister(self, address: int) -> None:
        del self.registered[address]


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)
