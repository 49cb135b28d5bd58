"""What was learned, on disk: SQLite, written in one transaction every half second.

An event is acknowledged only after the transaction that holds what it taught. A kill -9 at any instant therefore
loses nothing that an executor would not send again, and the database is never half-written (write-ahead log).
"""

import sqlite3
from pathlib import Path

import msgspec

from cotenant.predictor.device_model import DeviceModel
from cotenant.runtime.estimates import BatchClass

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS devices (device_id TEXT PRIMARY KEY, state BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS classes (
  device_id TEXT NOT NULL, model TEXT NOT NULL, version TEXT NOT NULL, batch_size INTEGER NOT NULL,
  shape_bucket TEXT NOT NULL, state BLOB NOT NULL,
  PRIMARY KEY (device_id, model, version, batch_size, shape_bucket)
);
CREATE TABLE IF NOT EXISTS seen (
  device_id TEXT NOT NULL, incarnation INTEGER NOT NULL, sequence INTEGER NOT NULL,
  PRIMARY KEY (device_id, incarnation)
);
"""


class Changes(msgspec.Struct):
    """Encoded state to be written in one transaction; made on the loop's thread, written on another."""

    devices: list[tuple[str, bytes]] = []
    classes: list[tuple[str, str, str, int, str, bytes]] = []
    seen: list[tuple[str, int, int]] = []


class Store:
    """A database file, or memory if `path` is None."""

    def __init__(self, path: Path | None) -> None:
        """Opens or creates it. Raises ValueError if it is of a newer version, sqlite3.DatabaseError if it is none."""
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path or ":memory:", check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)
        row = self._db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        if row and int(row[0]) > SCHEMA_VERSION:
            raise ValueError(f"{path}: state of version {row[0]} is newer than this program's ({SCHEMA_VERSION})")
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION),))

    def write(self, changes: Changes) -> None:
        """Writes everything or nothing. Raises sqlite3.Error (a full disk, for one)."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany("INSERT OR REPLACE INTO devices VALUES (?, ?)", changes.devices)
            self._db.executemany("INSERT OR REPLACE INTO classes VALUES (?, ?, ?, ?, ?, ?)", changes.classes)
            self._db.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", changes.seen)
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    def read(self) -> tuple[dict[str, DeviceModel], dict[tuple[str, int], int]]:
        """Everything that was learned, and how far each source was followed."""
        classes: dict[str, dict[BatchClass, bytes]] = {}
        rows = self._db.execute("SELECT device_id, model, version, batch_size, shape_bucket, state FROM classes")
        for device_id, name, version, size, bucket, blob in rows:
            classes.setdefault(device_id, {})[BatchClass(name, version, size, bucket)] = blob
        devices = {
            device_id: DeviceModel.restored(device_id, blob, classes.get(device_id, {}))
            for device_id, blob in self._db.execute("SELECT device_id, state FROM devices")
        }
        seen = {(d, i): s for d, i, s in self._db.execute("SELECT device_id, incarnation, sequence FROM seen")}
        return devices, seen

    def close(self) -> None:
        """Closes the file."""
        self._db.close()
