"""What TensorRT calls: allocators of outputs, profilers of layers.

TensorRT's classes can be derived from only once it is imported, so theirs are made per module, at first use.
"""

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

from cotenant.executor.tensorrt_plan import Shape


@cache
def allocator_of(module: ModuleType) -> Callable[[Callable[[int], int]], Any]:
    """The class of allocators for outputs whose shape depends on data; made of a function from bytes to address."""

    class Allocator(module.IOutputAllocator):  # type: ignore[misc, name-defined]
        """Told the size of an output while a batch is enqueued, and its shape before that ends."""

        def __init__(self, address_of: Callable[[int], int]) -> None:
            module.IOutputAllocator.__init__(self)
            self._address_of = address_of
            self.shape: Shape = ()
            self.error: Exception | None = None

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            del tensor_name, memory, alignment, stream
            try:
                return self._address_of(size)
            except Exception as error:  # must not pass through TensorRT; the run raises it
                self.error = error
                return 0

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            del tensor_name
            self.shape = tuple(shape)

    return Allocator


@cache
def profiler_of(module: ModuleType) -> Callable[[], Any]:
    """The class of profilers, which note the duration of each layer."""

    class Profiler(module.IProfiler):  # type: ignore[misc, name-defined]
        """Layers in the order they ran."""

        def __init__(self) -> None:
            module.IProfiler.__init__(self)
            self.layers: list[tuple[str, int]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.layers.append((layer_name, round(ms * 1e6)))

    return Profiler
