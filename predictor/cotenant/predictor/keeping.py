"""Between memory and disk: what was there at the start, and what changed every half second."""

import asyncio
import sqlite3
import time

import structlog

from cotenant.predictor.kept import KeptClass, changes, restored
from cotenant.predictor.knowledge import Knowledge, Unsaved
from cotenant.predictor.store import Store

_log = structlog.get_logger()

STORE_S = 0.5  # how often what was learned is written; acknowledgements follow the write
TELL_S = 10.0  # how often the log tells what was not learned


def load(store: Store, knowledge: Knowledge) -> None:
    """Fills `knowledge` with its learner's state; with the solo times of another's where it has none."""
    by = knowledge.learner
    devices = store.devices(by)
    if not devices and (others := store.learners()):
        by = others[0]
        devices = store.devices(by)
        _log.info("starting from another learner's solo times", learner=knowledge.learner, of=by)
    classes = store.classes(by)
    of_device: dict[str, list[KeptClass]] = {}
    for device_id, one in classes:
        of_device.setdefault(device_id, []).append(one)
    for kept in devices:
        own = of_device.get(kept.device_id, [])
        knowledge.devices[kept.device_id] = restored(kept, own, by=by, learner=knowledge.learner)
    for device_id, one in classes:
        if (known := knowledge.devices.get(device_id)) and one.batch_class in known.model.classes:
            knowledge.used[device_id, one.batch_class] = None
    for device_id, incarnation, sequence in store.sources():
        if known := knowledge.devices.get(device_id):
            known.sources[incarnation] = sequence
    if by != knowledge.learner:
        knowledge.unsaved.devices |= dict.fromkeys(knowledge.devices)
        knowledge.unsaved.classes |= knowledge.used


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
                await self.save()
                if time.monotonic() - told_s > TELL_S:
                    told_s = time.monotonic()
                    self._tell_rejected()
        finally:
            self._write_now()

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
            self.stored.update({(d, i): sequence for d, i, sequence in encoded.sources})
        for wake in self._waiting:
            wake.set()

    def _write_now(self) -> None:
        try:
            self._store.write(changes(self._knowledge, self._knowledge.unsaved_since()))
        except sqlite3.Error as error:
            _log.error("state not written at the end", error=str(error))

    def _tell_rejected(self) -> None:
        """One line for all that was rejected since the last, however much it was."""
        intake = self._knowledge.intake
        new = {reason: count - self._told.get(reason, 0) for reason, count in intake.rejected.items()}
        new = {reason: count for reason, count in new.items() if count}
        if new:
            self._told = dict(intake.rejected)
            _log.warning("events not learned", counts=new, last={reason: intake.examples[reason] for reason in new})
