"""Kernel timings from CUPTI's activity records, through NVIDIA's package `cupti-python`.

While a sampled batch runs, its thread pushes an external id: CUPTI tells which calls were made meanwhile, and kernels
and copies name the call they came from, a graph's kernels that of its launch. Where such records are missing, those of
the batch's stream within its time count. Nothing is recorded while no sampled batch runs.
"""

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from cotenant.executor.backend import Kernel
from cotenant.executor.device_clock import Alignment, Sample, sample

_BUFFER_BYTES = 4 * 2**20
_PATIENCE_S = 0.05  # for records that CUPTI's own thread is still handing over after a flush
_FORCED = 1  # CUPTI_ACTIVITY_FLAG_FLUSH_FORCED


class _Record(NamedTuple):
    """A kernel, copy or fill; instants on CUPTI's clock."""

    start_ns: int
    end_ns: int
    name: str
    correlation: int
    stream: int


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch that is being recorded."""

    key: int
    stream: int  # as CUPTI counts them; 0 if that is not known
    started_ns: int  # on our clock
    before: Sample


class CuptiSource:
    """See the module's text. Safe for threads.

    Args:
        cupti: the module `cupti.cupti`.
        now: our clock, in ns.
        stream_id: what CUPTI calls a cudaStream_t; 0 where that cannot be told.
    """

    name = "CUPTI"

    def __init__(self, cupti: Any, now: Callable[[], int], stream_id: Callable[[int], int]) -> None:
        self._cupti, self._now, self._stream_id = cupti, now, stream_id
        kinds = cupti.ActivityKind
        self._kinds = (
            *(kinds.CONCURRENT_KERNEL, kinds.MEMCPY, kinds.MEMSET),
            *(kinds.RUNTIME, kinds.DRIVER, kinds.EXTERNAL_CORRELATION),
        )
        self._switching = threading.Lock()  # recording begins and ends
        self._running = 0
        self._changed = threading.Condition()  # guards what follows, which CUPTI's thread fills
        self._batch_of: dict[int, int] = {}  # by correlation id
        self._records: list[_Record] = []
        self._keys = itertools.count(1)
        # Not one that torch's profiler uses (CUSTOM0 and CUSTOM1).
        self._external = cupti.ExternalCorrelationKind.CUSTOM2
        cupti.activity_register_callbacks(lambda: (_BUFFER_BYTES, 0), self._take)

    def begin(self, stream: int) -> _Batch:
        """See `Source.begin`."""
        with self._switching:
            if self._running == 0:
                for kind in self._kinds:
                    self._cupti.activity_enable(kind)
            self._running += 1
        before = sample(self._cupti.get_timestamp, self._now)
        batch = _Batch(next(self._keys), self._stream_id(stream), self._now(), before)
        self._cupti.activity_push_external_correlation_id(self._external, batch.key)
        return batch

    def end(self, token: _Batch) -> list[Kernel]:
        """See `Source.end`."""
        self._cupti.activity_pop_external_correlation_id(self._external)
        align = Alignment(token.before, sample(self._cupti.get_timestamp, self._now))
        self._cupti.activity_flush_all(_FORCED)
        with self._changed:
            self._changed.wait_for(lambda: bool(self._of(token, align)), timeout=_PATIENCE_S)
            records = sorted(self._of(token, align))
        with self._switching:
            self._running -= 1
            if self._running == 0:
                for kind in self._kinds:
                    self._cupti.activity_disable(kind)
                with self._changed:
                    self._records.clear()
                    self._batch_of.clear()
        return [
            Kernel(r.name[:128], max(0, align.to_ours(r.start_ns) - token.started_ns), r.end_ns - r.start_ns)
            for r in records
        ]

    def _of(self, batch: _Batch, align: Alignment) -> list[_Record]:
        """The records of a batch, of those that have come so far."""
        launched = [r for r in self._records if self._batch_of.get(r.correlation) == batch.key]
        if launched or not batch.stream:
            return launched
        first_ns, last_ns = align.before.theirs_ns, align.after.theirs_ns
        return [r for r in self._records if r.stream == batch.stream and first_ns <= r.start_ns <= last_ns]

    def _take(self, activities: list[Any]) -> None:
        """Called by CUPTI; its records are gone when this returns."""
        kinds = self._cupti.ActivityKind
        with self._changed:
            for record in activities:
                if record.kind == kinds.EXTERNAL_CORRELATION:
                    if record.external_kind == self._external:
                        self._batch_of[record.correlation_id] = record.external_id
                elif record.kind in (kinds.CONCURRENT_KERNEL, kinds.MEMCPY, kinds.MEMSET) and record.end:
                    name = self._name(record)
                    self._records.append(
                        _Record(record.start, record.end, name, record.correlation_id, record.stream_id)
                    )
            self._changed.notify_all()

    def _name(self, record: Any) -> str:
        if record.kind == self._cupti.ActivityKind.MEMCPY:
            return f"memcpy {self._cupti.ActivityMemcpyKind(record.copy_kind).name}"
        return "memset" if record.kind == self._cupti.ActivityKind.MEMSET else str(record.name)


def open_source(now: Callable[[], int]) -> CuptiSource:
    """CUPTI in this process. Raises ImportError without `cupti-python`, and what CUPTI raises if it is in use."""
    from cuda.bindings import driver
    from cupti import cupti

    def stream_id(handle: int) -> int:
        try:
            _, context = driver.cuCtxGetCurrent()
            return int(cupti.get_stream_id_ex(int(context), handle, 0))
        except Exception:  # whatever the bindings raise: correlation ids do without
            return 0

    return CuptiSource(cupti, now, stream_id)
