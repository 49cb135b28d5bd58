"""Requests of one model that wait for one device, most urgent first.

What is worked out of a queue is kept with the queue until the queue changes, or what is believed of the device does.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler.events import ModelSpec, Request

if TYPE_CHECKING:
    from cotenant.scheduler.books import Device

# Requests without a deadline are ordered as if they had this much time, so that they age and never starve. So do levels
# of priority: one level weighs more than any difference of deadlines up to this, and less than twice as much.
PATIENCE_NS = 10_000_000_000

QueueKey = tuple[str, str, str]  # model, version, shape bucket
Urgency = tuple[int, int, int]  # rank and priority, deadline, id: smaller is more urgent
Entry = tuple[int, int, int, "Queue", Request]  # urgency, and of whom
NO_RANKS: Mapping[str, int] = {}


def level_in(spec: ModelSpec, priority: int) -> int:
    """The level of a model that a request's priority stands for; 0 and what is beyond its levels: its default."""
    levels = spec.priority_levels
    if priority and (not levels or priority <= levels):
        return priority
    return spec.default_priority or (levels + 1) // 2 or 2


class Queue:
    """Requests of one model, version and bucket that wait for one device, most urgent first.

    Order: rank of the tenant (`fairness.py`), then priority, then deadline, then id. Priority ages: what was due 10 to
    20 s before another goes first for each level that it is below it, so nothing waits for ever.
    """

    def __init__(self, key: QueueKey, spec: ModelSpec, ranks: Mapping[str, int] = NO_RANKS) -> None:
        self.key = key
        self.spec = spec
        self._ranks = ranks  # of tenants, above all levels of priority; empty where all are alike
        self._entries: list[Entry] = []
        self._classes: dict[int, BatchClass] = {}
        self._latest = 0  # of all entries but those not looked at yet
        self._latest_at = -1  # the beliefs that it rests on; -1: none
        self._solo_ns: dict[int, int] = {}  # by these beliefs, by batch size
        self._unseen: list[Request] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Request]:
        return (entry[4] for entry in self._entries)

    @property
    def head(self) -> Request:
        """The most urgent request. Raises IndexError if none waits."""
        return self._entries[0][4]

    @property
    def last(self) -> Request:
        """The least urgent request. Raises IndexError if none waits."""
        return self._entries[-1][4]

    def class_of(self, items: int) -> BatchClass:
        """The class of a batch of so many items from this queue."""
        found = self._classes.get(items)
        if found is None:
            found = self._classes[items] = BatchClass(self.key[0], self.key[1], items, self.key[2])
        return found

    # ---- order

    def level_of(self, request: Request) -> int:
        """Priority of a request below its tenant's rank.

        It counts from the model's default, so that models with different numbers of levels compare: 1 is the most
        urgent, 0 and what is beyond the model's levels stand for its default.
        """
        level = level_in(self.spec, request.priority) - level_in(self.spec, 0) if request.priority else 0
        if self._ranks:
            level += self._ranks.get(request.tenant, 0)
        return level

    def urgency_of(self, request: Request) -> Urgency:
        """Sort key of a request, in this queue or not."""
        order_ns = request.order_ns or request.deadline_ns or request.arrival_ns + PATIENCE_NS
        level = self.level_of(request) if request.priority or self._ranks else 0
        return 2 * level + order_ns // PATIENCE_NS, order_ns, request.request_id

    def entry_of(self, request: Request) -> Entry:
        """A request as it stands in line."""
        return (*self.urgency_of(request), self, request)

    def entry_at(self, start: int) -> Entry:
        """A request in its place. Raises IndexError past the end."""
        return self._entries[start]

    def entries(self) -> Sequence[Entry]:
        """All, in order."""
        return self._entries

    def urgency_at(self, start: int) -> Urgency:
        """Sort key of the request at an index, smaller is more urgent. Raises IndexError past the end."""
        return self._entries[start][:3]

    def respecify(self, spec: ModelSpec) -> None:
        """Puts what waits in the order that this asks for."""
        waiting = list(self)
        self.spec, self._entries = spec, []
        self._unseen, self._latest_at = [], -1
        for request in waiting:
            self.add(self.entry_of(request))

    # ---- coming and going

    def add(self, entry: Entry) -> bool:
        """Inserts a request at its place; whether that is the first."""
        self._unseen.append(entry[4])
        entries = self._entries
        if not entries or entries[-1] < entry:
            entries.append(entry)
            return len(entries) == 1
        insort(entries, entry)
        return entries[0] is entry

    def remove(self, urgency: Urgency) -> bool:
        """Takes a request out; whether it was the first. Raises KeyError if it is not there."""
        entries = self._entries
        index = bisect_left(entries, urgency)
        if index == len(entries) or entries[index][2] != urgency[2]:
            raise KeyError(urgency[2])
        self._gone(entries.pop(index)[4])
        return index == 0

    def begins_with(self, requests: Sequence[Request]) -> bool:
        """Whether these are the most urgent ones, in order."""
        return all(entry[4] is request for entry, request in zip(self._entries, requests, strict=False))

    def remove_first(self, count: int) -> list[Entry]:
        """Takes out the most urgent ones."""
        gone = self._entries[:count]
        del self._entries[:count]
        for entry in gone:
            self._gone(entry[4])
        return gone

    def _gone(self, request: Request) -> None:
        if request.deadline_ns:
            solo_ns = self._solo_ns.get(request.batch_size)
            if self._unseen or solo_ns is None or request.deadline_ns - solo_ns <= self._latest:
                self._latest_at = -1  # the rest may start later

    # ---- what is worked out

    def batch_at(self, start: int) -> tuple[list[Request], int]:
        """The largest batch that can be formed from index `start` on, and its number of items.

        A model without dynamic batching runs each request as a batch of its own.
        """
        spec, entries = self.spec, self._entries
        if not spec.batching or len(entries) == start + 1:
            request = entries[start][4]
            return [request], request.batch_size
        chosen: list[Request] = []
        items = 0
        for entry in entries[start : start + spec.max_batch_size]:
            request = entry[4]
            if chosen and (request.alone or items + request.batch_size > spec.max_batch_size):
                break
            chosen.append(request)
            items += request.batch_size
            if request.alone:
                break
        return chosen, items

    def latest_start_ns(self, device: "Device") -> int:
        """The last instant at which each of its requests could still be answered in time, alone on the device.

        0 if none has a deadline.
        """
        if self._latest_at != device.beliefs:
            self._latest, self._latest_at, self._solo_ns = 0, device.beliefs, {}
            self._unseen = list(self)
        for request in self._unseen:
            if request.deadline_ns:
                size = request.batch_size
                solo_ns = self._solo_ns.get(size)
                if solo_ns is None:
                    solo_ns = self._solo_ns[size] = device.solo_ns(self.class_of(size))
                start_ns = request.deadline_ns - solo_ns
                if not self._latest or start_ns < self._latest:
                    self._latest = start_ns
        self._unseen.clear()
        return self._latest
