"""Where a script's results go: JSON lines that are complete after every point, so that a run can end at any instant.

A *point* is what is measured in one go; its rows and the line that says it is complete are written at once, in a
compressed file (`.gz`) as a gzip member of its own. What an interrupted run left of a point is cut off when the file is
opened again, and points that are there are not measured again. Every run adds a line with the hardware, date and
command that its points belong to.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

RUN, POINT = "run", "point"  # types of the two kinds of lines that every file has

Row = dict[str, Any]


class Journal:
    """One file of results, open for more."""

    def __init__(self, path: Path, run: Row, *, resume: bool) -> None:
        """Begins a run. Raises ValueError if there are results already and they are not to be continued."""
        self.path = path
        self.done: set[str] = set()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            if not resume:
                raise ValueError(f"{path} is there already: --resume goes on with it, or move it away")
            _cut(path)
            self.done = {row["point"] for row in rows(path) if row["type"] == POINT}
        self._write([{"type": RUN, **run}])

    def add(self, point: str, found: Iterable[Row], **facts: Any) -> None:
        """A point is complete: its rows, each with a `type` of the script's own, and facts of the point itself."""
        self._write([*({"point": point, **row} for row in found), {"type": POINT, "point": point, **facts}])
        self.done.add(point)

    def _write(self, lines: Iterable[Row]) -> None:
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines).encode()
        with self.path.open("ab") as file:
            file.write(gzip.compress(text, mtime=0) if self.path.suffix == ".gz" else text)


def rows(path: Path) -> Iterator[Row]:
    """All lines of a file, whole points only. Raises ValueError that names a line which is not one of results."""
    text = _whole(path.read_bytes(), compressed=path.suffix == ".gz")[1]
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row: Row = json.loads(line)
            if "type" not in row:
                raise ValueError("it has no type")
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not a line of results: {error}") from error
        yield row


def _cut(path: Path) -> None:
    """Removes what is left of a point that was not completed."""
    content = path.read_bytes()
    length, _ = _whole(content, compressed=path.suffix == ".gz")
    if length < len(content):
        with path.open("r+b") as file:
            file.truncate(length)


def _whole(content: bytes, *, compressed: bool) -> tuple[int, str]:
    """How many bytes of a file are whole runs and points, and their text."""
    if compressed:
        return _members(content)
    end = 0
    for at, line in _lines(content):
        if line.endswith(b"\n") and line.startswith((b'{"type":"run"', b'{"type":"point"')):
            end = at + len(line)
    return end, content[:end].decode()


def _members(content: bytes) -> tuple[int, str]:
    """The same for gzip members, each of which was written at once."""
    found: list[bytes] = []
    end = 0
    while end < len(content):
        member = zlib.decompressobj(wbits=31)
        try:
            text = member.decompress(content[end:])
        except zlib.error:
            break
        if not member.eof:
            break
        found.append(text)
        end = len(content) - len(member.unused_data)
    return end, b"".join(found).decode()


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    for line in content.splitlines(keepends=True):
        yield at, line
        at += len(line)
