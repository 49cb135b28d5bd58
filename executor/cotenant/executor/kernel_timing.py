"""Timings of the kernels of a batch, from the best source there is: CUPTI's records, or torch's profiler.

A source is asked for the batches that are sampled and for no others; between them it is off and costs nothing. Which
records belong to a batch, the source must know: others run beside it. One that fails is not asked again, and the next
one is; where none is left, backends tell what CUDA events tell.
"""

import importlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import structlog

from cotenant.executor.backend import Kernel
from cotenant.executor.cuda_stream import capturing
from cotenant.runtime.clock import now_ns

_log = structlog.get_logger()

T = TypeVar("T")

_PATIENCE = 3  # a source that tells nothing so often in a row is taken to be broken


class Source(Protocol):
    """Where timings come from."""

    name: str

    def begin(self, stream: int) -> Any:
        """The calling thread begins a batch on a stream (a cudaStream_t); None if this one cannot be timed.

        May raise anything: the source is not used again then. So may `end`.
        """
        ...

    def end(self, token: Any) -> list[Kernel]:
        """The same thread has waited for the batch. Kernels in the order of their starts, from its begin."""
        ...


class KernelTiming:
    """Sources in order of preference, made when they are first needed. Safe for threads."""

    def __init__(self, sources: Sequence[Callable[[], Source]]) -> None:
        self.on = True  # may be changed at any time
        self._lock = threading.Lock()
        self._untried = list(sources)
        self._source: Source | None = None
        self._silent = 0

    def time(self, run: Callable[[], T], stream: int) -> tuple[T, list[Kernel]]:
        """A run and its kernels; none where they cannot be told. Raises what the run raises."""
        source, token = self._begin(stream)
        if source is None or token is None:
            return run(), []
        kernels: list[Kernel] = []
        ran = False
        try:
            result = run()
            ran = True
        finally:
            try:
                kernels = source.end(token)
            except Exception as error:  # whatever a profiling library raises
                self._drop(source, f"{type(error).__name__}: {error}")
            else:
                if ran:
                    self._heard(source, kernels)
        return result, kernels

    def prepare(self, run: Callable[[], Any], stream: int) -> None:
        """Starts the source, which may take seconds the first time; tries the next if it tells nothing."""
        for _ in range(_PATIENCE):
            if self.time(run, stream)[1] or self._source is None:
                return

    def _begin(self, stream: int) -> tuple[Source | None, Any]:
        while self.on:
            with self._lock:
                source = self._source
                if source is None:
                    if not self._untried:
                        break
                    source = self._make(self._untried.pop(0))
                    if source is None:
                        continue
                    self._source = source
            try:
                return source, source.begin(stream)
            except Exception as error:  # whatever a profiling library raises
                self._drop(source, f"{type(error).__name__}: {error}")
        return None, None

    @staticmethod
    def _make(source: Callable[[], Source]) -> Source | None:
        try:
            made = source()
        except Exception as error:  # missing, or unusable on this machine
            _log.info("a source of kernel timings is not to be had", error=f"{type(error).__name__}: {error}")
            return None
        _log.info("kernel timings", source=made.name)
        return made

    def _heard(self, source: Source, kernels: list[Kernel]) -> None:
        self._silent = 0 if kernels else self._silent + 1
        if self._silent >= _PATIENCE:
            self._drop(source, f"it told no kernels of {_PATIENCE} batches in a row")

    def _drop(self, source: Source, reason: str) -> None:
        with self._lock:
            if self._source is not source:
                return
            self._source, self._silent = None, 0
        _log.warning("a source of kernel timings is given up", source=source.name, reason=reason)


class TorchProfiler:
    """Torch's profiler, which records for the whole process: one batch at a time, and only what its thread launched."""

    name = "torch.profiler"

    def __init__(self) -> None:
        from torch.profiler import ProfilerActivity, supported_activities

        if ProfilerActivity.CUDA not in supported_activities():
            raise RuntimeError("torch's profiler was built without CUDA")
        self._busy = threading.Lock()

    def begin(self, stream: int) -> Any:
        """See `Source.begin`."""
        del stream
        if not self._busy.acquire(blocking=False):
            return None
        import torch
        from torch.profiler import ProfilerActivity, profile

        try:
            profiler = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
            with capturing:
                profiler.__enter__()
        except BaseException:
            self._busy.release()
            raise
        # An operator as torch sees it, so that a graph's launch, which is none, has one that its kernels belong to.
        operator = torch._C._profiler._RecordFunctionFast("cotenant.batch")  # noqa: SLF001
        operator.__enter__()
        return profiler, operator

    def end(self, token: Any) -> list[Kernel]:
        """See `Source.end`."""
        profiler, operator = token
        try:
            operator.__exit__(None, None, None)
            with capturing:  # it waits for the whole device, which ends captures
                profiler.__exit__(None, None, None)
        finally:
            self._busy.release()
        return kernels_of(profiler.profiler.kineto_results.events())


def kernels_of(events: Sequence[Any]) -> list[Kernel]:
    """Kernels that a thread's operators launched, of what torch's profiler recorded while it watched that thread."""
    operators = {e.correlation_id(): e for e in events if e.device_type().name == "CPU" and e.scope() == 0}
    begins = [e.start_ns() for e in operators.values() if e.name() == "cotenant.batch"]
    if not begins:
        return []
    ours = [e for e in events if e.device_type().name == "CUDA" and e.linked_correlation_id() in operators]
    return [
        Kernel(e.name()[:128], e.start_ns() - begins[0], e.duration_ns())
        for e in sorted(ours, key=lambda e: int(e.start_ns()))
    ]


def _cupti() -> Source:
    module = importlib.import_module("cotenant.executor.cupti_timing")
    source: Source = module.open_source(now_ns)
    return source


of_process = KernelTiming([_cupti, TorchProfiler])
