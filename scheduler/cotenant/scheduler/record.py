"""The log: everything that entered the core and everything it decided, as JSON lines (docs/log-format.md).

A log is a file that is continued in `FILE.1`, `FILE.2`, ... when it grows past its share of the cap; the oldest parts
go when the cap is reached, the first being kept no longer than the others. Each part starts with a header and a
snapshot of the core, so each can be replayed and evaluated by itself. A disk that is full ends the recording, not
the service.
"""

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TypeAlias, get_args

import msgspec
import structlog

from cotenant.runtime.clock import clock_id
from cotenant.scheduler import snapshot
from cotenant.scheduler.core import Core
from cotenant.scheduler.events import LOG_VERSION, Action, Event
from cotenant.scheduler.snapshot import Snapshot

_log = structlog.get_logger()
_PARTS = 8  # a log of the full cap consists of so many files


class Header(msgspec.Struct, frozen=True, tag=True, tag_field="type"):
    """First line of each part. `unix_ns - monotonic_ns` turns every instant of the part into a date."""

    format: str
    version: int
    software: str
    epoch: int
    part: int
    unix_ns: int
    monotonic_ns: int
    clock_id: str


class Group(msgspec.Struct, frozen=True, tag=True, tag_field="type"):
    """One call of the core: the events that were waiting, and the actions they led to."""

    now_ns: int
    events: tuple[Event, ...]
    actions: tuple[Action, ...]


def header(epoch: int, part: int, software: str) -> Header:
    """The header of a part that begins now."""
    return Header("cotenant-log", LOG_VERSION, software, epoch, part, time.time_ns(), time.monotonic_ns(), clock_id())


Record: TypeAlias = Header | Snapshot | Group
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)


class _Kind(msgspec.Struct):
    """What a record, event or action is, whatever else it holds."""

    type: str
    events: tuple["_Kind", ...] = ()
    actions: tuple["_Kind", ...] = ()


_kind = msgspec.json.Decoder(_Kind)
_RECORDS = frozenset(kind.__name__ for kind in get_args(Record))
_EVENTS = frozenset(kind.__name__ for kind in get_args(Event))
_ACTIONS = frozenset(kind.__name__ for kind in get_args(Action))


class Recorder:
    """Writes a log of at most about `cap_bytes`."""

    def __init__(self, path: Path, cap_bytes: int, *, epoch: int, software: str) -> None:
        self.path = path
        self._part_bytes = max(65536, cap_bytes // _PARTS)
        self._epoch, self._software = epoch, software
        self._part = max((part for part, _ in parts(path)), default=-1)
        self._file: IO[bytes] | None = None
        self._written = 0

    @property
    def recording(self) -> bool:
        """Whether groups are still written."""
        return self._file is not None

    def start(self, core: Core) -> None:
        """Begins a part. Raises OSError if the file cannot be made."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._next_part(core)

    def write(self, core: Core, now_ns: int, events: Sequence[Event], actions: Sequence[Action]) -> None:
        """Adds one call of the core; `core` is as it is after it."""
        if self._file is None:
            return
        try:
            line = _encoder.encode(Group(now_ns, tuple(events), tuple(actions))) + b"\n"
            self._file.write(line)
            self._written += len(line)
            if self._written >= self._part_bytes:
                self._next_part(core)
        except OSError as error:
            _log.error("recording ends", path=str(self.path), error=str(error))
            self.close()

    def flush(self) -> None:
        """Hands what was written to the system."""
        if self._file is not None:
            try:
                self._file.flush()
            except OSError as error:
                _log.error("recording ends", path=str(self.path), error=str(error))
                self._file = None

    def close(self) -> None:
        """Ends the recording."""
        if self._file is not None:
            file, self._file = self._file, None
            try:
                file.close()
            except OSError as error:
                _log.error("the end of the log is lost", path=str(self.path), error=str(error))

    def _next_part(self, core: Core) -> None:
        self.close()
        self._part += 1
        path = part_path(self.path, self._part)
        self._file = path.open("wb", buffering=1 << 18)
        start = header(self._epoch, self._part, self._software)
        self._written = self._file.write(_encoder.encode(start) + b"\n")
        self._written += self._file.write(_encoder.encode(snapshot.take(core)) + b"\n")
        for _, old in sorted(parts(self.path))[:-_PARTS]:
            old.unlink(missing_ok=True)


def part_path(path: Path, part: int) -> Path:
    """File of a part; the first bears the log's name."""
    return path.with_name(f"{path.name}.{part}") if part else path


def parts(path: Path) -> list[tuple[int, Path]]:
    """The parts of a log that exist, with their numbers."""
    pattern = re.compile(re.escape(path.name) + r"(?:\.(\d+))?")
    found = ((pattern.fullmatch(p.name), p) for p in path.parent.glob(path.name + "*"))
    return sorted((int(match[1] or 0), p) for match, p in found if match)


def read(path: Path, skipped: Counter[str] | None = None) -> Iterator[Record]:
    """The records of one part, for a replay. A last line that was cut off by a crash is left out.

    Records of types that only a later version knows are passed over, and counted by type in `skipped`. Raises
    ValueError that names file and line where something is not a record of this format and version, or holds events or
    actions of unknown types: those entered the core, or left it, and a replay without them would be another run.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                record = _decoder.decode(line)
            except msgspec.MsgspecError as error:
                kind, why = _of_later_version(line)
                if number > 1 and kind:
                    if skipped is not None:
                        skipped[kind] += 1
                    continue
                why = why or f"not a record of a Cotenant log: {error}"
                raise ValueError(f"{path}, line {number}: {why}") from error
            if isinstance(record, Header) and record.version > LOG_VERSION:
                raise ValueError(f"{path}: version {record.version} of the format is newer than ours ({LOG_VERSION})")
            yield record


def _of_later_version(line: bytes) -> tuple[str, str]:
    """For a line that cannot be read: its type if that is not known, and what it holds that is not."""
    try:
        found = _kind.decode(line)
    except msgspec.MsgspecError:
        return "", ""
    if found.type not in _RECORDS:
        return found.type, ""
    for what, kinds, known in (("event", found.events, _EVENTS), ("action", found.actions, _ACTIONS)):
        if unknown := [kind.type for kind in kinds if kind.type not in known]:
            return "", f"this version does not know the {what} '{unknown[0]}', so a replay would not be exact"
    return "", ""
