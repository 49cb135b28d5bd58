"""Between memory and disk: what was there at the start, and what changed every half second."""

import asyncio
import contextlib
import ctypes
import gc
import time
from collections.abc import Iterator, Sequence
from operator import itemgetter

import structlog

from cotenant.predictor.kept import KeptClass, KeptDevice, changes, from_solo_times, restored
from cotenant.predictor.knowledge import Knowledge, Unsaved
from cotenant.predictor.known_device import KnownDevice
from cotenant.predictor.store import Store
from cotenant.runtime.estimates import BatchClass

_log = structlog.get_logger()

STORE_S = 0.5  # how often what was learned is written; acknowledgements follow the write
TELL_S = 10.0  # how often the log tells what was not learned
PASSING_S = 300.0  # how long a device that is only passing is remembered after its last stream


def load(store: Store, knowledge: Knowledge) -> None:
    """Fills `knowledge` with its learner's state; with the solo times of another's where it has none."""
    by = knowledge.learner
    devices = store.devices(by)
    if not devices and (others := store.learners()):
        by = others[0]
        devices = store.devices(by)
        _log.info("starting from another learner's solo times", learner=knowledge.learner, of=by)
    with _long_lived():
        used = [one for kept in devices for one in _bring_back(store, knowledge, kept, by)]
    for _, key in sorted(used, key=itemgetter(0)):
        knowledge.used[key] = None
        knowledge.devices[key[0]].sets.ran(key[1])
    knowledge.forget_excess()
    for device_id, incarnation, sequence in store.sources():
        if known_device := knowledge.devices.get(device_id):
            known_device.sources[incarnation] = sequence


def _bring_back(
    store: Store, knowledge: Knowledge, kept: KeptDevice, by: str
) -> list[tuple[int, tuple[str, BatchClass]]]:
    """Restores one device; returns its classes, each with the number of the write when it was used last."""
    rows = store.classes(by, kept.device_id)
    known = knowledge.devices[kept.device_id] = _restored(knowledge, kept, [one for _, one in rows], by)
    classes = known.model.classes
    return [(at, (kept.device_id, one.batch_class)) for at, one in rows if one.batch_class in classes]


def _restored(knowledge: Knowledge, kept: KeptDevice, classes: Sequence[KeptClass], by: str) -> KnownDevice:
    """A device as its learner left it; else from solo times, which then replace on disk what could not be read."""
    if by == knowledge.learner:
        try:
            return restored(kept, classes)
        except (ValueError, LookupError, TypeError) as error:  # written by an earlier version of the learner
            _log.warning("state unreadable, starting from solo times", device=kept.device_id, error=str(error))
    knowledge.unsaved.devices[kept.device_id] = None
    knowledge.unsaved.classes.update(((kept.device_id, one.batch_class), None) for one in classes)
    return from_solo_times(kept, classes, knowledge.learner)


@contextlib.contextmanager
def _long_lived() -> Iterator[None]:
    """Makes what is to stay: the collector does not look through it again and again, neither now nor later.

    What was only needed to make it is given back to the system.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
        with contextlib.suppress(OSError, AttributeError):  # a C library without it
            ctypes.CDLL(None).malloc_trim(0)


class Keeper:
    """Writes what changed, and lets those know who wait for it. Use from one event loop."""

    def __init__(self, store: Store, knowledge: Knowledge) -> None:
        self._store, self._knowledge = store, knowledge
        self._saving = asyncio.Lock()
        self._waiting: set[asyncio.Event] = set()
        self.stored: dict[tuple[str, int], int] = {
            (device_id, incarnation): sequence
            for device_id, known in knowledge.devices.items()
            for incarnation, sequence in known.sources.items()
        }
        self.failures = 0
        self.write_s = 0.0  # the last write took so long
        self._told: dict[str, int] = {}

    def wait_with(self, wake: asyncio.Event) -> None:
        """Sets `wake` after each write, until `wait_no_more`."""
        self._waiting.add(wake)

    def wait_no_more(self, wake: asyncio.Event) -> None:
        """Ends what `wait_with` began."""
        self._waiting.discard(wake)

    async def run(self) -> None:
        """Writes what changed every half second, until cancelled; then once more."""
        told_s = time.monotonic()
        try:
            while True:
                await asyncio.sleep(STORE_S)
                now_s = time.monotonic()
                self._knowledge.forget_passing(now_s - PASSING_S)
                await asyncio.shield(self.save())
                if now_s - told_s > TELL_S:
                    told_s = now_s
                    self._tell_rejected()
        finally:
            await self.save()

    async def save(self) -> None:
        """Writes what changed. A disk that is full is told and tried again; nothing is acknowledged until then."""
        async with self._saving:
            unsaved = self._knowledge.unsaved_since()
            if not unsaved:
                return
            if self._store.path is None:  # nothing is written: only how far sources were followed matters
                unsaved = Unsaved(sources=unsaved.sources)
            started = time.perf_counter()
            try:
                encoded = changes(self._knowledge, unsaved)
                await asyncio.to_thread(self._store.write, encoded)
            except Exception as error:  # a full disk, or a learner of somebody's that cannot be kept
                self.failures += 1
                _log.error("state not written, trying again", error=str(error))
                self._knowledge.not_saved(unsaved)
                return
            self.write_s = time.perf_counter() - started
            for device_id, incarnation in encoded.gone_sources:
                self.stored.pop((device_id, incarnation), None)
            self.stored.update({(d, i): sequence for d, i, sequence in (*encoded.sources, *encoded.passing)})
        for wake in self._waiting:
            wake.set()

    def _tell_rejected(self) -> None:
        """One line for all that was rejected since the last, however much it was."""
        intake = self._knowledge.intake
        new = {reason: count - self._told.get(reason, 0) for reason, count in intake.rejected.items()}
        new = {reason: count for reason, count in new.items() if count}
        if new:
            self._told = dict(intake.rejected)
            _log.warning("events not learned", counts=new, last={reason: intake.examples[reason] for reason in new})
