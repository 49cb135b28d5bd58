"""What subscribers are told: everything first, then what changed, in frames of bounded size.

A push is one or more frames. The first frame of a complete push says `complete`, the frames that follow continue it;
classes used last come first, so what runs now is known after one frame. `learned_through` stands in a push's last
frame and holds for when the first was made: learning goes on while frames wait to be sent. Nothing is ever taken back
one by one: once much was forgotten, the next push is complete again.

What one batch taught may move all classes a little, by what they share. Classes that ran are told with the next push,
others in turn, `CLASS_BUDGET` of them a push: there may be tens of thousands.

Sets (for interests, and for learners whose `estimate` has no `sensitivity`) are evaluated in turn, at most `SET_BUDGET`
in a push that is not complete: those of classes that ran, and all of the device's, since any batch may move what all
of them share. `learned_through` waits for them.
"""

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator

from cotenant.predictor.codec import put_estimate, put_set, read_class, sound
from cotenant.predictor.knowledge import Knowledge
from cotenant.predictor.known_device import KnownDevice
from cotenant.predictor.sets import MAX_SEEN, RECENT, SetKey
from cotenant.runtime.estimates import BatchClass, QuantileFactor, factor_at
from cotenant.v1 import predictor_pb2 as pb

FRAME_BYTES = 64 * 1024  # made and taken in some milliseconds each; gRPC's own limit is 4 MiB
CLASS_BUDGET = 256
SET_BUDGET = 256
SET_CHANGE = 0.002  # a slowdown that moved less is not told again
MAX_INTERESTS = 4096  # sets a subscriber may ask for
MAX_INTEREST_BATCHES = 32_768  # in all of them together: each is told beside all others of its set
MAX_TOGETHER = 64  # batches in one set
MAX_TOLD = MAX_SEEN + RECENT * RECENT  # sets of one device
DEFAULT_LEVELS = (0.5, 0.9, 0.95, 0.99)
MAX_LEVELS = 32

DeviceSet = tuple[str, SetKey]


def check_levels(levels: Iterable[float]) -> tuple[float, ...]:
    """Ascending levels, ours where none is asked for. Raises ValueError for what is none."""
    asked = tuple(levels)
    if any(not 0.0 < level < 1.0 for level in asked):
        raise ValueError(f"levels must be in (0, 1), got {list(asked)[:MAX_LEVELS]}")
    if len(asked) > MAX_LEVELS:
        raise ValueError(f"at most {MAX_LEVELS} levels can be asked for, got {len(asked)}")
    return tuple(sorted(set(asked))) or DEFAULT_LEVELS


def read_interests(messages: Iterable[pb.Colocation]) -> dict[DeviceSet, None]:
    """Each member of each set beside the others. Raises ValueError for too many."""
    interests: dict[DeviceSet, None] = {}
    total = 0
    for i, asked in enumerate(messages):
        total += len(asked.batches)
        if i >= MAX_INTERESTS or len(asked.batches) > MAX_TOGETHER or total > MAX_INTEREST_BATCHES:
            raise ValueError(
                f"interests are at most {MAX_INTERESTS} sets of at most {MAX_TOGETHER} batches, "
                f"{MAX_INTEREST_BATCHES} in all"
            )
        batches = sorted(map(read_class, asked.batches))
        for j, victim in enumerate(batches):
            interests[asked.device_id, SetKey(victim, tuple(batches[:j] + batches[j + 1 :]))] = None
    return interests


class Watcher:
    """One subscriber: what it has been told, and what it has not."""

    def __init__(self, knowledge: Knowledge, levels: tuple[float, ...], interests: dict[DeviceSet, None]) -> None:
        self.wake = asyncio.Event()
        self.pending: dict[tuple[str, BatchClass], None] = {}  # told with the next push
        self.later: OrderedDict[tuple[str, BatchClass], None] = OrderedDict()  # told in turn
        self.moved: dict[str, None] = {}  # devices that learned
        self._knowledge, self._levels, self._interests = knowledge, levels, interests
        self._asked: dict[str, dict[BatchClass, list[DeviceSet]]] = {}  # the interests by device and victim
        for interest in interests:
            of_device = self._asked.setdefault(interest[0], {})
            of_device.setdefault(interest[1].victim, []).append(interest)
        # To be evaluated, first come first served. A device without a set marks that all of its sets stood before it.
        self._sets: OrderedDict[tuple[str, SetKey | None], None] = OrderedDict()
        self._marked: dict[str, dict[int, int]] = {}  # how far its sources were followed when that was
        self._unswept: dict[str, None] = {}  # devices that learned since all of their sets were queued
        self._told: dict[DeviceSet, tuple[float, tuple[QuantileFactor, ...]]] = {}
        self._complete_due = True
        self._forgotten = 0

    def news(self, known: KnownDevice, changed: Iterable[BatchClass], ran: Collection[BatchClass]) -> None:
        """A device learned: these estimates changed, these classes ran."""
        device_id = known.spec.device_id
        for batch_class in changed:
            if batch_class in ran:
                self.pending[device_id, batch_class] = None
                self.later.pop((device_id, batch_class), None)
            else:
                self.later[device_id, batch_class] = None
        self.moved[device_id] = None
        self._unswept[device_id] = None
        self._queue_sets(known, ran)
        self.wake.set()

    def frames(self, versions: Iterator[int]) -> Iterator[pb.WatchEstimatesResponse]:
        """The frames of the next push; none if there is nothing to tell."""
        complete = self._begin_complete()
        pending, self.pending = self.pending, {}
        for _ in range(min(CLASS_BUDGET, len(self.later))):
            pending[self.later.popitem(last=False)[0]] = None
        moved, self.moved = self.moved, {}
        through = self._followed(moved)
        self._sweep()
        frame, size = pb.WatchEstimatesResponse(complete=complete), 0
        entries: Iterator[pb.ClassEstimate | pb.SetEstimate]
        entries = itertools.chain(self._class_estimates(pending), self._set_estimates(complete=complete))
        for entry in entries:
            if isinstance(entry, pb.SetEstimate):
                frame.sets.append(entry)
            else:
                frame.classes.append(entry)
            size += entry.ByteSize()
            if size >= FRAME_BYTES:
                frame.version = next(versions)
                yield frame
                frame, size = pb.WatchEstimatesResponse(), 0
        for device_id, sources in self._through(through):
            for incarnation, sequence in sources.items():
                frame.learned_through.add(device_id=device_id, incarnation=incarnation, sequence=sequence)
        if frame.complete or size or frame.learned_through:
            frame.version = next(versions)
            yield frame
        if self.later or self._sets or self._unswept:
            self.wake.set()

    def _begin_complete(self) -> bool:
        """Whether everything is to be told, and forgets what was told if so.

        Subscribers keep what is forgotten here until then; so they keep at most about twice as much as we do.
        """
        known = self._knowledge
        much_forgotten = known.forgotten - self._forgotten > max(1000, len(known.used))
        much_told = len(self._told) > 2 * MAX_TOLD * len(known.devices) + len(self._interests)
        if not (self._complete_due or much_forgotten or much_told):
            return False
        self._complete_due, self._forgotten = False, known.forgotten
        self.pending = dict.fromkeys(reversed(known.used))
        self.moved = dict.fromkeys(known.devices)
        self.later.clear()
        self._sets.clear()
        self._marked.clear()
        self._unswept = dict.fromkeys(known.devices)
        self._told.clear()
        return True

    def _class_estimates(self, pending: Iterable[tuple[str, BatchClass]]) -> Iterator[pb.ClassEstimate]:
        for device_id, batch_class in pending:
            known = self._knowledge.devices.get(device_id)
            if known is None or batch_class not in known.model.classes:
                continue
            message = pb.ClassEstimate()
            try:
                estimate = known.estimate(batch_class, self._levels)
                if not sound(estimate):
                    self._knowledge.intake.reject("estimate unsound", batch_class)
                    continue
                put_estimate(message, device_id, estimate)
            except Exception as error:  # a learner may be anybody's, and others must be told of the rest
                self._knowledge.intake.reject("learner failed", f"{type(error).__name__}: {error}")
                continue
            yield message

    # ---- sets

    def _tells_sets(self, known: KnownDevice) -> bool:
        return known.spec.device_id in self._asked or known.tells_sets

    def _queue_sets(self, known: KnownDevice, victims: Collection[BatchClass]) -> None:
        device_id = known.spec.device_id
        for victim, interests in self._asked.get(device_id, {}).items():
            if victim in victims:
                self._sets.update(dict.fromkeys(interests))
        if known.tells_sets:
            self._sets.update(((device_id, key), None) for key in known.sets.of(victims))

    def _sweep(self) -> None:
        """Queues all sets of devices that have learned since they were queued last, and a mark behind them."""
        for device_id in [d for d in self._unswept if d not in self._marked]:
            del self._unswept[device_id]
            known = self._knowledge.devices.get(device_id)
            if known and self._tells_sets(known):
                self._queue_sets(known, known.model.classes)
                self._sets[device_id, None] = None
                self._marked[device_id] = dict(known.sources)

    def _followed(self, moved: Iterable[str]) -> dict[str, dict[int, int]]:
        """How far the sources of devices have been followed, of those that tell no sets."""
        known = {device_id: self._knowledge.devices.get(device_id) for device_id in moved}
        return {d: dict(one.sources) for d, one in known.items() if one and not self._tells_sets(one)}

    def _through(self, followed: dict[str, dict[int, int]]) -> Iterator[tuple[str, dict[int, int]]]:
        """How far the sources of devices were followed whose every change has now been told."""
        yield from followed.items()
        for device_id in [d for d in self._marked if (d, None) not in self._sets]:
            yield device_id, self._marked.pop(device_id)

    def _set_estimates(self, *, complete: bool) -> Iterator[pb.SetEstimate]:
        for _ in range(len(self._sets) if complete else min(SET_BUDGET, len(self._sets))):
            device_id, key = self._sets.popitem(last=False)[0]
            if key is None:
                continue
            known = self._knowledge.devices.get(device_id)
            if known is None or key.victim not in known.model.classes:
                continue
            try:
                slowdown = known.slowdown(key)
                quantiles = self._quantiles(known, key) if (device_id, key) in self._interests else ()
            except Exception as error:  # as above
                self._knowledge.intake.reject("learner failed", f"{type(error).__name__}: {error}")
                continue
            told = self._told.get((device_id, key))
            if told is None or told[1] != quantiles or abs(told[0] - slowdown) > SET_CHANGE * slowdown:
                self._told[device_id, key] = slowdown, quantiles
                message = pb.SetEstimate()
                count = known.sets.seen.get(key, 0)
                put_set(message, device_id, key.victim, key.co_runners, slowdown, count, quantiles)
                yield message

    def _quantiles(self, known: KnownDevice, key: SetKey) -> tuple[QuantileFactor, ...]:
        quantiles = known.estimate(key.victim, self._levels).quantiles
        n = len(key.co_runners)
        factors = [(level, factor_at(quantiles, level, n, default=0.0)) for level in self._levels]
        return tuple(QuantileFactor(level, factor) for level, factor in factors if factor)
