"""What waits for one device: its queues, and all their requests in one line. No decisions.

Both are kept in order as requests come and go. What others work out of queues is kept by them until a queue changes;
which have changed since is noted here.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from operator import itemgetter

from cotenant.scheduler.events import ModelSpec, Request
from cotenant.scheduler.queues import Entry, Queue, QueueKey

EMPTIED = 65536  # queues that are kept though nothing waits in them; bounds memory

_queue_of = itemgetter(3)  # of an entry in line


class Shares:
    """What one request of each queue costs (`backlog.py`), until the queue or what is believed of the device changes.

    `rest_on` is the count of the device's beliefs.
    """

    def __init__(self) -> None:
        self.ns: dict[Queue, float] = {}  # solo work
        self.changed: dict[QueueKey, Queue] = {}
        self.rest_on = -1


class Waiting:
    """See the module's text."""

    def __init__(self) -> None:
        self.models: dict[tuple[str, str], ModelSpec] = {}  # as they hold
        self.ranks: dict[str, int] = {}  # of tenants; queues put them before everything else
        self.queues: dict[QueueKey, Queue] = {}
        self.line: list[Entry] = []  # all that waits, most urgent first
        self.shares = Shares()
        self._heads: list[Entry] = []  # of all queues, most urgent first
        self._emptied: dict[QueueKey, Queue] = {}  # queues that are likely to be wanted again
        self._changed: dict[QueueKey, Queue] = {}  # of which the latest start must be asked again

    @property
    def queued(self) -> int:
        """Requests that wait for this device."""
        return len(self.line)

    def rank_of(self, queue: Queue) -> int:
        """Of the tenant of a queue's first request; 0 where all are alike. For policies with an order of their own."""
        return self.ranks.get(queue.head.tenant, 0) if self.ranks else 0

    def heads(self) -> Iterator[Queue]:
        """All queues in which something waits, most urgent head first."""
        return map(_queue_of, self._heads)

    def queue_of(self, request: Request) -> Queue:
        """The queue in which a request waits. Raises KeyError if nothing like it waits here."""
        return self.queues[request.model, request.version, request.shape_bucket]

    def enqueue(self, request: Request) -> Queue:
        """Adds a request to its queue, made if need be. Raises KeyError if its model is not loaded here."""
        key = (request.model, request.version, request.shape_bucket)
        queue = self.queues.get(key)
        if queue is None:
            spec = self.models[request.model, request.version]
            queue = self._emptied.pop(key, None)
            if queue is None or queue.spec is not spec:
                queue = Queue(key, spec, self.ranks)
            self.queues[key] = queue
        entry = queue.entry_of(request)
        if queue.add(entry):
            self._new_head(queue, before=queue.entry_at(1) if len(queue) > 1 else None)
        insort(self.line, entry)
        self._changed[key] = self.shares.changed[key] = queue
        return queue

    def _new_head(self, queue: Queue, before: Entry | None) -> None:
        """Keeps `_heads` after the first of a queue changed."""
        heads = self._heads
        if before is not None:
            del heads[bisect_left(heads, before)]
        if len(queue):
            insort(heads, queue.entry_at(0))

    def reorder(self) -> None:
        """Sorts all that waits again, after `ranks` changed."""
        for queue in self.queues.values():
            queue.respecify(queue.spec)
        self._sort()

    def _sort(self) -> None:
        """Puts everything that waits in line again."""
        self.line = sorted([entry for queue in self.queues.values() for entry in queue.entries()])
        self._heads = sorted([queue.entry_at(0) for queue in self.queues.values()])
        self._changed.update(self.queues)
        self.shares = Shares()

    def dequeue(self, request: Request) -> None:
        """Takes a request out of its queue; an empty queue goes, so that the books hold only what waits.

        Raises KeyError if it does not wait here.
        """
        queue = self.queue_of(request)
        urgency = queue.urgency_of(request)
        first = queue.entry_at(0)
        if queue.remove(urgency):
            self._new_head(queue, before=first)
        del self.line[bisect_left(self.line, urgency)]
        self._dequeued(queue)

    def dequeue_first(self, queue: Queue, count: int) -> None:
        """Takes the most urgent requests out of a queue."""
        first = queue.entry_at(0)
        for entry in queue.remove_first(count):
            del self.line[bisect_left(self.line, entry)]
        self._new_head(queue, before=first)
        self._dequeued(queue)

    def _dequeued(self, queue: Queue) -> None:
        self._changed[queue.key] = self.shares.changed[queue.key] = queue
        if not len(queue):
            if len(self._emptied) >= EMPTIED:
                self._emptied.clear()
            self._emptied[queue.key] = self.queues.pop(queue.key)
