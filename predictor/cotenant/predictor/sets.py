"""Sets worth telling one by one, for learners whose slowdowns the contract's vectors cannot express.

Told are: sets that were really seen together, at most `MAX_SEEN` of them, the least recently seen forgotten first; and
all pairs of the `RECENT` classes that ran last. For anything else the scheduler combines pairs on the safe side.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterator
from typing import NamedTuple

from cotenant.predictor.observations import Observation
from cotenant.runtime.estimates import BatchClass

MAX_SEEN = 4096
RECENT = 48


class SetKey(NamedTuple):
    """One batch beside given others."""

    victim: BatchClass
    co_runners: tuple[BatchClass, ...]  # ascending


class SeenSets:
    """The sets of one device. See the module's text."""

    def __init__(self) -> None:
        self.seen: OrderedDict[SetKey, int] = OrderedDict()  # how often, least recently seen first
        self.recent: dict[BatchClass, None] = {}  # least recently run first

    def note(self, seen: Observation) -> None:
        """Remembers whom a batch met."""
        victim = seen.batch_class
        self.ran(victim)
        for others in dict.fromkeys(part.co_runners for part in seen.slices if part.co_runners):
            key = SetKey(victim, others)
            self.seen[key] = self.seen.pop(key, 0) + 1
            if len(self.seen) > MAX_SEEN:
                self.seen.popitem(last=False)

    def ran(self, batch_class: BatchClass) -> None:
        """A class that ran last, of all."""
        self.recent.pop(batch_class, None)
        self.recent[batch_class] = None
        if len(self.recent) > RECENT:
            del self.recent[next(iter(self.recent))]

    def forget(self, batch_class: BatchClass) -> None:
        """A class is no longer known: it is no longer told as recent. Its sets go when their turn comes."""
        self.recent.pop(batch_class, None)

    def of(self, victims: Collection[BatchClass]) -> Iterator[SetKey]:
        """The sets worth telling of these classes; each may come twice."""
        for key in self.seen:
            if key.victim in victims:
                yield key
        for victim in self.recent:
            if victim in victims:
                for other in self.recent:
                    yield SetKey(victim, (other,))
