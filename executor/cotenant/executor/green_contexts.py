"""Shares of one GPU's multiprocessors, by green contexts of the CUDA driver: within a process, chosen at each launch.

The multiprocessors (SMs) of the device are split once into granules, the smallest groups that the driver gives out
(8 SMs from compute capability 9.0 on). A green context has some of them; what is launched to a stream of it runs on
these and no others, and who launches chooses by the stream. Contexts opened for themselves share no granule;
overlapping ones take those that the fewest have. What does not make a whole granule goes to whoever has all of them.

The driver is reached through `cuda.bindings`; tests put one without a GPU in its place. Nothing here changes a
setting of the device. A graph belongs to the context of the stream it was captured on.
"""

import threading
from collections.abc import Sequence
from typing import Any

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the null stream
_CALLS = ("cuDeviceGetDevResource", "cuDevSmResourceSplitByCount", "cuDevResourceGenerateDesc", "cuGreenCtxCreate")


class GreenContext:
    """A share of the SMs. `streams` are the handles (`cudaStream_t`) of those made so far."""

    def __init__(self, owner: "GreenContexts", handle: Any, granules: tuple[int, ...], sm_count: int) -> None:
        self.sm_count = sm_count
        self.granules = granules
        self.streams: list[int] = []
        self._owner, self._handle = owner, handle
        self._streams: list[Any] = []

    def stream(self, priority: int = 0) -> int:
        """A new stream of this share, as a handle; lower numbers go first. Raises RuntimeError if it is closed."""
        if self._handle is None:
            raise RuntimeError("the green context is closed")
        stream = self._owner.call("cuGreenCtxStreamCreate", self._handle, _NON_BLOCKING, priority)
        self._streams.append(stream)
        self.streams.append(int(stream))
        return int(stream)

    def close(self) -> None:
        """Gives its SMs back. Nothing runs on its streams any more, and no graph of them is used again."""
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        for stream in self._streams:
            self._owner.call("cuStreamDestroy", stream)
        self._owner.call("cuGreenCtxDestroy", handle)
        self._owner.give_back(self)


class GreenContexts:
    """The SMs of one device, and who has them. Safe for threads."""

    def __init__(self, index: int, driver: Any = None) -> None:
        """Splits the device's SMs. `driver` stands for `cuda.bindings.driver`.

        Raises ValueError that tells why there can be no green contexts here.
        """
        self._driver = driver if driver is not None else _bindings()
        if missing := [name for name in _CALLS if not hasattr(self._driver, name)]:
            raise ValueError(f"green contexts need CUDA 12.4: the bindings have no {missing[0]}")
        self._lock = threading.Lock()
        self._open: list[GreenContext] = []
        try:
            self.call("cuInit", 0)
            self._device = self.call("cuDeviceGet", index)
            kind = self._driver.CUdevResourceType.CU_DEV_RESOURCE_TYPE_SM
            whole = self.call("cuDeviceGetDevResource", self._device, kind)
            self.sm_count = int(whole.sm.smCount)
            self._granules, rest = self._split(whole)
        except RuntimeError as error:
            raise ValueError(f"device {index} has no green contexts: {error}") from error
        self.granule_sms = int(self._granules[0].sm.smCount)
        self._rest = rest if rest is not None and int(rest.sm.smCount) else None
        self._uses = [0] * len(self._granules)

    def _split(self, whole: Any) -> tuple[Sequence[Any], Any]:
        """As many of the smallest groups as there are, and what is left."""
        least = int(getattr(whole.sm, "minSmPartitionSize", 0)) or 1  # 1: the driver rounds it up
        _, count, _ = self._values("cuDevSmResourceSplitByCount", 0, whole, 0, least)
        groups, count, rest = self._values("cuDevSmResourceSplitByCount", count, whole, 0, least)
        if not count:
            raise RuntimeError("the driver splits its SMs into no group")
        return groups[:count], rest

    @property
    def free_sms(self) -> int:
        """SMs in granules that no context has."""
        return self._uses.count(0) * self.granule_sms

    def open(self, sms: int, *, overlap: bool = False) -> GreenContext:
        """A context of at least so many SMs: whole granules, or everything.

        Raises ValueError if the device has not so many, or (unless they may overlap) others have them.
        """
        if not 0 < sms <= self.sm_count:
            raise ValueError(f"a share of {sms} SMs was asked for, expected 1 to {self.sm_count}")
        count = min(len(self._granules), -(-sms // self.granule_sms))
        with self._lock:
            if not overlap and count > self._uses.count(0):
                raise ValueError(f"a share of {sms} SMs was asked for, and {self.free_sms} are free")
            chosen = tuple(sorted(range(len(self._uses)), key=lambda i: (self._uses[i], i))[:count])
            parts = [self._granules[i] for i in chosen]
            if count == len(self._granules) and self._rest is not None:
                parts.append(self._rest)
            description = self.call("cuDevResourceGenerateDesc", parts, len(parts))
            flags = self._driver.CUgreenCtxCreate_flags.CU_GREEN_CTX_DEFAULT_STREAM
            handle = self.call("cuGreenCtxCreate", description, self._device, flags)
            for i in chosen:
                self._uses[i] += 1
            context = GreenContext(self, handle, chosen, sum(int(part.sm.smCount) for part in parts))
            self._open.append(context)
        return context

    def partition(self, shares: Sequence[int]) -> list[GreenContext]:
        """Contexts that share no SM, one for each number of SMs; all of them or none.

        Raises ValueError as `open` does.
        """
        made: list[GreenContext] = []
        try:
            for sms in shares:
                made.append(self.open(sms))  # noqa: PERF401 (those before one that fails are closed below)
        except Exception:
            for context in made:
                context.close()
            raise
        return made

    def close(self) -> None:
        """Closes every context that is open."""
        for context in list(self._open):
            context.close()

    # ---- for GreenContext

    def call(self, name: str, *arguments: Any) -> Any:
        """What a call of the driver returns; None if nothing. Raises RuntimeError that names call and error."""
        values = self._values(name, *arguments)
        return values[0] if values else None

    def give_back(self, context: GreenContext) -> None:
        """A context's granules are free again, as far as no other has them."""
        with self._lock:
            self._open.remove(context)
            for i in context.granules:
                self._uses[i] -= 1

    def _values(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        error, *values = getattr(self._driver, name)(*arguments)
        if int(error):
            raise RuntimeError(f"{name}: {getattr(error, 'name', error)}")
        return tuple(values)


def _bindings() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise ValueError(f"green contexts need the package cuda-python: {error}") from error
    return driver
