"""What was learned, on disk: SQLite, written in one transaction every half second.

An event is acknowledged only after the transaction that holds what it taught. A kill -9 at any instant therefore
loses nothing that an executor would not send again, and the database is never half-written (write-ahead log).
"""

import sqlite3
from pathlib import Path

import msgspec
import numpy as np

from cotenant.predictor.bounds import Bounds
from cotenant.predictor.learning import CLASS_MEMORY, CLASS_SPREAD, ClassState, DeviceModel, Weights
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


class _KeptBounds(msgspec.Struct):
    alone: list[float]
    beside: list[float]


class _KeptDevice(msgspec.Struct):
    resources: int
    mean: list[float]
    covariance: list[list[float]]
    pooled: _KeptBounds


class _KeptClass(msgspec.Struct):
    work_ns: float
    demand: tuple[float, ...]
    mean: list[float]
    covariance: list[list[float]]
    bounds: _KeptBounds
    samples: int
    solo_samples: int
    profiled: bool


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
        devices: dict[str, DeviceModel] = {}
        for device_id, blob in self._db.execute("SELECT device_id, state FROM devices"):
            kept = msgspec.msgpack.decode(blob, type=_KeptDevice)
            model = devices[device_id] = DeviceModel(device_id, kept.resources)
            _restore_weights(model.shared, kept.mean, kept.covariance)
            _restore_bounds(model.pooled, kept.pooled)
        rows = self._db.execute("SELECT device_id, model, version, batch_size, shape_bucket, state FROM classes")
        for device_id, name, version, size, bucket, blob in rows:
            if device_id in devices:
                known = BatchClass(name, version, size, bucket)
                devices[device_id].classes[known] = _class_of(known, blob, devices[device_id].resources)
        seen = {(d, i): s for d, i, s in self._db.execute("SELECT device_id, incarnation, sequence FROM seen")}
        return devices, seen

    def close(self) -> None:
        """Closes the file."""
        self._db.close()


def encode_device(model: DeviceModel) -> bytes:
    """State of a device, without its classes."""
    kept = _KeptDevice(
        model.resources, model.shared.mean.tolist(), model.shared.covariance.tolist(), _keep_bounds(model.pooled)
    )
    return msgspec.msgpack.encode(kept)


def encode_class(state: ClassState) -> bytes:
    """State of a class."""
    kept = _KeptClass(
        state.work_ns,
        state.demand,
        state.deviation.mean.tolist(),
        state.deviation.covariance.tolist(),
        _keep_bounds(state.bounds),
        state.samples,
        state.solo_samples,
        state.profiled,
    )
    return msgspec.msgpack.encode(kept)


def _class_of(known: BatchClass, blob: bytes, resources: int) -> ClassState:
    kept = msgspec.msgpack.decode(blob, type=_KeptClass)
    state = ClassState(
        known, kept.work_ns, kept.demand, Weights(np.zeros(1 + 2 * resources), CLASS_SPREAD, CLASS_MEMORY)
    )
    _restore_weights(state.deviation, kept.mean, kept.covariance)
    _restore_bounds(state.bounds, kept.bounds)
    state.samples, state.solo_samples, state.profiled = kept.samples, kept.solo_samples, kept.profiled
    return state


def _keep_bounds(bounds: Bounds) -> _KeptBounds:
    return _KeptBounds(*(kind.recent() for kind in bounds.kinds))


def _restore_bounds(bounds: Bounds, kept: _KeptBounds) -> None:
    for kind, ratios in zip(bounds.kinds, (kept.alone, kept.beside), strict=True):
        for ratio in ratios:
            kind.learn(ratio)


def _restore_weights(weights: Weights, mean: list[float], covariance: list[list[float]]) -> None:
    weights.mean, weights.covariance = np.array(mean), np.array(covariance)
