"""The log: everything that entered the core and everything it decided, as JSON lines (docs/log-format.md).

A log is a file that is continued in `FILE.1`, `FILE.2`, ... when it grows past its share of the cap; the oldest parts
go when the cap is reached, the first being kept no longer than the others. Each part starts with a header and a
snapshot of the core, so each can be replayed and evaluated by itself. A disk that is full ends the part, not the
service; another part is begun once there is room again.
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
_RETRY_NS = 5_000_000_000  # after a write that failed, the next part is tried so much later
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
        self._retry_at_ns = 0  # where a part is wanted and there is none; 0 where that is as it should be

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
        try:
            if self._file is None:
                if 0 < self._retry_at_ns <= now_ns:
                    self._begin_again(core, now_ns)
                return
            line = _encoder.encode(Group(now_ns, tuple(events), tuple(actions))) + b"\n"
            self._file.write(line)
            self._written += len(line)
            if self._written >= self._part_bytes:
                self._next_part(core)
        except OSError as error:
            self._fail(error, now_ns)

    def flush(self) -> None:
        """Hands what was written to the system."""
        if self._file is not None:
            try:
                self._file.flush()
            except OSError as error:
                self._fail(error, time.monotonic_ns())

    def _fail(self, error: OSError, now_ns: int) -> None:
        if not self._retry_at_ns:
            _log.error("recording ends", path=str(self.path), error=str(error), tried_again_s=_RETRY_NS / 1e9)
        self._retry_at_ns = now_ns + _RETRY_NS
        self.close()

    def _begin_again(self, core: Core, now_ns: int) -> None:
        """Begins another part. Raises OSError where there is still no room; what was begun is removed then."""
        part = self._part
        try:
            self._next_part(core)
            assert self._file is not None
            self._file.flush()
        except OSError:
            self._drop()
            self._part = part
            part_path(self.path, part + 1).unlink(missing_ok=True)
            raise
        self._retry_at_ns = 0
        _log.info("recording again", path=str(part_path(self.path, self._part)), at_ns=now_ns)

    def close(self) -> None:
        """Ends the recording."""
        if error := self._drop():
            _log.error("the end of the log is lost", path=str(self.path), error=str(error))

    def _drop(self) -> OSError | None:
        """Closes the file; returns why what was still to be written was not."""
        file, self._file = self._file, None
        try:
            if file is not None:
                file.close()
        except OSError as error:
            return error
        return None

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
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
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
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return "", ""
    if found.type not in _RECORDS:
        return found.type, ""
    for what, kinds, known in (("event", found.events, _EVENTS), ("action", found.actions, _ACTIONS)):
        if unknown := [kind.type for kind in kinds if kind.type not in known]:
            return "", f"this version does not know the {what} '{unknown[0]}', so a replay would not be exact"
    return "", ""
