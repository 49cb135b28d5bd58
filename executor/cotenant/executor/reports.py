"""What the executor tells the scheduler and the predictor: one numbered sequence of events, delivered to both.

Each receiver has a bounded buffer of events it has not acknowledged; what overflows is lost and counted. After a
broken stream the buffer is sent again, and the receiver ignores what it has seen.
"""

import threading
from collections import deque
from collections.abc import Callable

from cotenant.runtime.clock import now_ns
from cotenant.v1 import executor_pb2 as pb


class Unacknowledged:
    """Events one receiver has not confirmed, oldest first."""

    def __init__(self, limit: int) -> None:
        self._events: deque[pb.ExecutorEvent] = deque()
        self._limit = limit
        self.lost = 0

    def __len__(self) -> int:
        return len(self._events)

    def add(self, event: pb.ExecutorEvent) -> None:
        """Keeps an event until it is acknowledged, or too many newer ones are."""
        if len(self._events) >= self._limit:
            self._events.popleft()
            self.lost += 1
        self._events.append(event)

    def acknowledge(self, sequence: int) -> None:
        """Forgets everything up to a sequence."""
        while self._events and self._events[0].sequence <= sequence:
            self._events.popleft()

    def holds(self, event: pb.ExecutorEvent) -> bool:
        """Whether an event was not acknowledged yet, nor lost."""
        return bool(self._events) and self._events[0].sequence <= event.sequence

    def all(self) -> list[pb.ExecutorEvent]:
        """What must be sent after a broken stream."""
        return list(self._events)


class Reports:
    """Numbers events and hands them to whoever listens. Instants are on this host's clock until they are sent."""

    def __init__(self, *, limit: int) -> None:
        self.incarnation = now_ns()
        self.to_scheduler = Unacknowledged(limit)
        self.to_predictor = Unacknowledged(limit)
        self.listeners: list[Callable[[pb.ExecutorEvent], None]] = []
        self._sequence = 0
        self._thread = threading.get_ident()

    def event(self, at_ns: int | None = None) -> pb.ExecutorEvent:
        """A new event with the next number; fill it in, then `tell` it. For the event loop's thread only."""
        assert threading.get_ident() == self._thread
        self._sequence += 1
        return pb.ExecutorEvent(sequence=self._sequence, at_ns=at_ns or now_ns())

    def tell(self, event: pb.ExecutorEvent) -> None:
        """Delivers an event."""
        self.to_scheduler.add(event)
        self.to_predictor.add(event)
        for listener in self.listeners:
            listener(event)
