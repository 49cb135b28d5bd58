"""What the operators of a torch program do: each is counted and timed as it passes the dispatcher."""

import re
import time
from typing import Any

from cotenant.executor.backend import Operator

_PICKS = ("embedding", "index_select", "gather", "index")  # read as much of their table as they write
_BY_VECTOR = {"mv": 0, "dot": 0, "vdot": 0, "addmv": 1}  # which argument has all that is multiplied
# Products that have no formula must not count as nothing.
_PRODUCTS = re.compile(
    r"(?!_?upsample).*(convolution|conv[123]d|(^|_)linear|matmul|(^|_|add|b)mm(_|$)|lstm|gru|rnn|attention|einsum)"
)


def make_recorder(parameters: set[int], device: Any) -> Any:
    """A context that keeps the `Operator`s of what is run inside it, in `.found()`.

    Args:
        parameters: storages of the model's weights, by address.
        device: where it runs, a `torch.device`.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    class Recorder(TorchDispatchMode):  # type: ignore[misc]
        """Composite operators are taken apart; what is left is what kernels run."""

        def __init__(self) -> None:
            super().__init__()
            self._stopwatch = _Stopwatch(device)
            self._found: list[tuple[str, int, int, int, int]] = []
            self._unknown: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            del types
            kwargs = kwargs or {}
            with self:
                if (result := func.decompose(*args, **kwargs)) is not NotImplemented:
                    return result
            self._stopwatch.start()
            result = func(*args, **kwargs)
            self._stopwatch.stop()
            if (flops := _flops(func, args, kwargs, result)) is None:
                self._unknown.append(str(func))
            element = next((t.element_size() for t in _tensors(result) if t.is_floating_point()), 0)
            moved = _moved(func, args, kwargs, result, parameters)
            self._found.append((str(func)[:128], flops or 0, *moved, element))
            return result

        def found(self) -> list[Operator]:
            """What has run. Raises ValueError for a product that has no formula."""
            if self._unknown:
                raise ValueError(f"operator {self._unknown[0]} cannot be counted: there is no formula for it")
            durations = self._stopwatch.durations_ns()
            return [Operator(*counted, duration) for counted, duration in zip(self._found, durations, strict=True)]

    return Recorder()


class _Stopwatch:
    """Durations of operators: on CUDA by events in the current stream, elsewhere by the clock."""

    def __init__(self, device: Any) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[Any] = []

    def start(self) -> None:
        self._mark()

    def stop(self) -> None:
        self._mark()

    def _mark(self) -> None:
        if not self._cuda:
            self._marks.append(time.perf_counter_ns())
            return
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)

    def durations_ns(self) -> list[int]:
        pairs = zip(self._marks[::2], self._marks[1::2], strict=True)
        if self._cuda:
            return [int(1e6 * begin.elapsed_time(end)) for begin, end in pairs]
        return [end - begin for begin, end in pairs]


def _flops(func: Any, args: Any, kwargs: Any, result: Any) -> int | None:
    """Floating-point operations; None for a product that has no formula."""
    from torch.utils.flop_counter import flop_registry, sdpa_flop_count

    name = func.overloadpacket.__name__
    if func.overloadpacket in flop_registry:
        return int(flop_registry[func.overloadpacket](*args, **kwargs, out_val=result))
    if name.startswith("_scaled_dot_product"):
        return int(sdpa_flop_count(*(tensor.shape for tensor in args[:3])))
    if name in _BY_VECTOR:
        return 2 * int(args[_BY_VECTOR[name]].numel())
    return None if _PRODUCTS.match(name) else 0


def _moved(func: Any, args: Any, kwargs: Any, result: Any, parameters: set[int]) -> tuple[int, int]:
    """Bytes of weights, and of other tensors, that an operator reads and writes."""
    name = func.overloadpacket.__name__
    read, written = _tensors((args, kwargs)), _tensors(result)
    storages = {_storage(tensor) for tensor in read}
    is_view = bool(written) and not func._schema.is_mutable and all(_storage(t) in storages for t in written)  # noqa: SLF001
    if is_view or name.startswith(("empty", "new_empty")):
        return 0, 0
    out = sum(_bytes(tensor) for tensor in written)
    limit = out if name in _PICKS else float("inf")
    weights = sum(min(_bytes(t), limit) for t in read if _storage(t) in parameters)
    others = sum(min(_bytes(t), limit) for t in read if _storage(t) not in parameters)
    return int(weights), int(others) + out


def _tensors(tree: Any) -> list[Any]:
    import torch
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _storage(tensor: Any) -> int:
    return int(tensor.untyped_storage().data_ptr())


def _bytes(tensor: Any) -> int:
    """What is really there: an expanded dimension repeats the same bytes."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else min(size, 1)
    return int(count * tensor.element_size())
