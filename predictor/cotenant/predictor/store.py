"""What was learned, on disk: SQLite, written in one transaction every half second.

An event is acknowledged only after the transaction that holds what it taught. A kill -9 at any instant therefore
loses nothing that an executor would not send again, and the database is never half-written (write-ahead log).

Each learner's state is kept under its own name, so one that is tried for a while does not destroy another's. Solo
times stand beside the learners' own bytes: a learner that finds no state of its own, or bytes that it cannot read,
starts from them.
"""

import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from cotenant.predictor.kept import Changes, KeptClass, KeptDevice
from cotenant.runtime.estimates import BatchClass, Phase

SCHEMA_VERSION = 4
_META = "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS devices (
  learner TEXT NOT NULL, device_id TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, resources TEXT NOT NULL,
  batches INTEGER NOT NULL, state BLOB NOT NULL, PRIMARY KEY (learner, device_id)
);
CREATE TABLE IF NOT EXISTS classes (
  learner TEXT NOT NULL, device_id TEXT NOT NULL, model TEXT NOT NULL, version TEXT NOT NULL,
  batch_size INTEGER NOT NULL, shape_bucket TEXT NOT NULL, work_ns INTEGER NOT NULL, demand TEXT NOT NULL,
  kernel_ns REAL NOT NULL, phases TEXT NOT NULL, samples INTEGER NOT NULL, inherited INTEGER NOT NULL,
  used INTEGER NOT NULL, state BLOB NOT NULL,
  PRIMARY KEY (learner, device_id, model, version, batch_size, shape_bucket)
);
CREATE TABLE IF NOT EXISTS sources (
  device_id TEXT NOT NULL, incarnation TEXT NOT NULL, sequence INTEGER NOT NULL, used INTEGER NOT NULL,
  PRIMARY KEY (device_id, incarnation)
);
"""


class Store:
    """A database file that no other predictor uses, or nothing at all if `path` is None."""

    def __init__(self, path: Path | None, *, alone: bool = True) -> None:
        """Opens or creates it.

        Raises ValueError if it is of another version or, with `alone`, another process uses it; sqlite3.DatabaseError
        if it is no database.
        """
        self.path = path
        self._db: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._used = 0
        self._guard = contextlib.ExitStack()
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if alone:
            self._guard.enter_context(_locked(path))
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._guard.callback(self._db.close)
        try:
            self._open(self._db)
        except BaseException:
            self.close()
            raise

    def _open(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA busy_timeout=5000")
        db.execute(_META)
        row = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        if row and int(row[0]) != SCHEMA_VERSION:
            age = "newer" if int(row[0]) > SCHEMA_VERSION else "older"
            raise ValueError(
                f"{self.path}: state of version {row[0]} is {age} than what this program reads ({SCHEMA_VERSION}); "
                f"use another file"
            )
        db.executescript(_SCHEMA)
        db.execute("INSERT OR REPLACE INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION),))
        self._used = db.execute("SELECT coalesce(max(used), 0) FROM classes").fetchone()[0]

    def write(self, changes: Changes) -> None:
        """Writes everything or nothing. Raises sqlite3.Error (a full disk, for one)."""
        if self._db is None:
            return
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._write(self._db, changes)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite itself rolls back where the disk is full
                    self._db.execute("ROLLBACK")
                raise

    def _write(self, db: sqlite3.Connection, changes: Changes) -> None:
        learner = changes.learner
        self._used += 1  # the order within one write is lost, which forgets just as well
        db.executemany(
            "DELETE FROM devices WHERE learner = ? AND device_id = ?", [(learner, d) for d in changes.gone_devices]
        )
        db.executemany(
            "DELETE FROM classes WHERE learner = ? AND device_id = ? "
            "AND model = ? AND version = ? AND batch_size = ? AND shape_bucket = ?",
            [(learner, d, c.model, c.version, c.batch_size, c.shape_bucket) for d, c in changes.gone_classes],
        )
        db.executemany(
            "DELETE FROM sources WHERE device_id = ? AND incarnation = ?",
            [(d, str(incarnation)) for d, incarnation in changes.gone_sources],
        )
        db.executemany(
            "INSERT OR REPLACE INTO devices VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(learner, d.device_id, d.kind, d.name, _text(d.resources), d.batches, d.state) for d in changes.devices],
        )
        db.executemany(
            "INSERT OR REPLACE INTO classes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(learner, device_id, *_row(kept), self._used, kept.state) for device_id, kept in changes.classes],
        )
        db.executemany(
            "INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?)",
            [(d, str(incarnation), sequence, self._used) for d, incarnation, sequence in changes.sources],
        )

    # ---- reading

    def learners(self) -> list[str]:
        """Whose state is in it, most learned first."""
        if self._db is None:
            return []
        rows = self._db.execute("SELECT learner FROM devices GROUP BY learner ORDER BY sum(batches) DESC, learner")
        return [row[0] for row in rows]

    def devices(self, learner: str) -> list[KeptDevice]:
        """The devices one learner knows."""
        if self._db is None:
            return []
        rows = self._db.execute(
            "SELECT device_id, kind, name, resources, batches, state FROM devices WHERE learner = ? ORDER BY device_id",
            (learner,),
        )
        return [KeptDevice(d, kind, name, _words(r), n, state) for d, kind, name, r, n, state in rows]

    def classes(self, learner: str, device_id: str) -> list[tuple[int, KeptClass]]:
        """What one learner knows of a device's classes, each with the number of the write when it was used last."""
        if self._db is None:
            return []
        rows = self._db.execute(
            "SELECT used, model, version, batch_size, shape_bucket, work_ns, demand, kernel_ns, phases, samples, "
            "inherited, state FROM classes WHERE learner = ? AND device_id = ?",
            (learner, device_id),
        )
        return [
            (
                used,
                KeptClass(
                    BatchClass(m, v, size, bucket), work, _numbers(d), samples, state, bool(inherited), k, _phases(p)
                ),
            )
            for used, m, v, size, bucket, work, d, k, p, samples, inherited, state in rows
        ]

    def sources(self) -> list[tuple[str, int, int]]:
        """(device, incarnation, sequence): how far each source was followed, least recent first."""
        if self._db is None:
            return []
        rows = self._db.execute("SELECT device_id, incarnation, sequence FROM sources ORDER BY used, incarnation")
        return [(d, int(incarnation), sequence) for d, incarnation, sequence in rows]

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that is read meanwhile is of one instant, whoever writes."""
        if self._db is None:
            yield
            return
        with self._lock:
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("COMMIT")

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._guard.close()


def _row(kept: KeptClass) -> tuple[str | int | float, ...]:
    c, demand, phases = kept.batch_class, _text(kept.demand), _text(kept.phases)
    names = c.model, c.version, c.batch_size, c.shape_bucket
    return *names, kept.work_ns, demand, kept.kernel_ns, phases, kept.samples, int(kept.inherited)


_words = msgspec.json.Decoder(tuple[str, ...]).decode
_numbers = msgspec.json.Decoder(tuple[float, ...]).decode
_phases = msgspec.json.Decoder(tuple[Phase, ...]).decode


def _text(values: tuple[object, ...]) -> str:
    return msgspec.json.encode(values).decode()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds `path`.lock; the system lets go of it when the process ends, however it ends."""
    lock = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{path}: another process uses this state") from None
        yield
    finally:
        os.close(lock)
