"""A stand-in for `cupti.cupti`: what timings rely on of it, and nothing more.

Records are made only while their kind is enabled, and handed over by a thread of its own after a flush. Which call a
kernel came from is told by records of calls that were made within a pushed external id. Its clock runs by itself.
"""

import enum
import itertools
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class Kind(enum.IntEnum):
    MEMCPY, MEMSET, DRIVER, RUNTIME, CONCURRENT_KERNEL, EXTERNAL_CORRELATION = range(1, 7)


class External(enum.IntEnum):
    CUSTOM0, CUSTOM1, CUSTOM2 = range(3, 6)


class Copy(enum.IntEnum):
    HTOD, DTOH = 1, 2


class Cupti:
    ActivityKind = Kind
    ExternalCorrelationKind = External
    ActivityMemcpyKind = Copy

    def __init__(
        self,
        now: Callable[[], int],
        *,
        offset_ns: int = 0,
        drift: float = 0.0,
        late_s: float = 0.0,
        tells_calls: bool = True,
    ) -> None:
        self.now = now
        self.offset_ns, self.drift, self.late_s, self.tells_calls = offset_ns, drift, late_s, tells_calls
        self.enabled: set[Kind] = set()
        self.switched = 0
        self.waiting: list[Any] = []
        self.local = threading.local()
        self.correlations = itertools.count(1)
        self.take: Callable[[list[Any]], None] = lambda _: None
        self.lock = threading.Lock()

    def clock(self, ours_ns: int) -> int:
        return self.offset_ns + round(ours_ns * (1 + self.drift))

    def get_timestamp(self) -> int:
        return self.clock(self.now())

    def activity_register_callbacks(self, requested: Callable[[], tuple[int, int]], completed: Any) -> None:
        assert requested()[0] > 0
        self.take = completed

    def activity_enable(self, kind: Kind) -> None:
        self.enabled.add(kind)
        self.switched += 1

    def activity_disable(self, kind: Kind) -> None:
        self.enabled.remove(kind)

    def activity_push_external_correlation_id(self, kind: int, key: int) -> None:
        self.local.pushed = [*getattr(self.local, "pushed", []), (kind, key)]

    def activity_pop_external_correlation_id(self, kind: int) -> int:
        *self.local.pushed, (pushed, key) = self.local.pushed
        assert pushed == kind
        return int(key)

    def activity_flush_all(self, flag: int) -> None:
        assert flag == 1
        with self.lock:
            records, self.waiting = self.waiting, []

        def hand_over() -> None:
            time.sleep(self.late_s)
            self.take(records)
            for record in records:
                record.__dict__.clear()  # CUPTI takes its memory back

        thread = threading.Thread(target=hand_over)
        thread.start()
        if not self.late_s:
            thread.join()

    # ---- what the device does

    def launch(self, *works: tuple[Kind, str, int, int], stream: int = 7) -> None:
        """One call of the calling thread, and the works it launches: kind, name, start on our clock, duration."""
        correlation = next(self.correlations)
        if self.tells_calls and {Kind.RUNTIME, Kind.EXTERNAL_CORRELATION} <= self.enabled:
            for kind, key in getattr(self.local, "pushed", []):
                self.record(
                    Kind.EXTERNAL_CORRELATION,
                    correlation_id=correlation,
                    external_kind=int(kind),
                    external_id=key,
                )
            self.record(Kind.RUNTIME, correlation_id=correlation)
        for kind, name, start_ns, duration_ns in works:
            start = self.clock(start_ns)
            self.record(
                kind,
                name=name,
                copy_kind=int(Copy.HTOD),
                correlation_id=correlation,
                stream_id=stream,
                start=start,
                end=start + duration_ns,
            )

    def record(self, kind: Kind, **fields: Any) -> None:
        if kind in self.enabled:
            with self.lock:
                self.waiting.append(SimpleNamespace(kind=int(kind), **fields))
