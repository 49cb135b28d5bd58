"""What is read from files that others replace while we run: certificates, tokens, rules.

Rule: what was good stays in use until something good takes its place. A file that cannot be used is told once, and
counted; nothing that depends on it stops.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Generic, TypeVar

import structlog

Content = TypeVar("Content")
_log = structlog.get_logger()

SETTLE_S = 1.0  # files of a pair are replaced one after the other: what is wrong for no longer is nobody's mistake


class Reloaded(Generic[Content]):
    """The content of some files, read anew when one of them changes. Safe for threads."""

    def __init__(self, what: str, paths: Sequence[Path], read: Callable[[], Content]) -> None:
        """`what` names it for people. Raises what `read` raises: OSError or ValueError, at the start only."""
        self.what, self.paths = what, tuple(paths)
        self.taken = self.kept = 0  # changes that were taken over, and those that were of no use
        self._read, self._lock = read, threading.Lock()
        self._seen = self._stamp()
        self._wrong_since_s = 0.0  # 0 while all is well, or when what is wrong has been told
        self._content = read()

    def get(self) -> Content:
        """The content as of now, or the last that could be used."""
        with self._lock:
            stamp = self._stamp()
            if stamp != self._seen:
                self._seen, self._wrong_since_s = stamp, monotonic()
                self._take()
            elif self._wrong_since_s and monotonic() - self._wrong_since_s >= SETTLE_S:
                self._take(tell=True)
            return self._content

    def _take(self, *, tell: bool = False) -> None:
        """Reads; where that fails, goes on with what there is."""
        try:
            self._content = self._read()
        except (OSError, ValueError) as error:
            if tell:
                self.kept += 1
                self._wrong_since_s = 0.0
                _log.error("not reloaded, the last good one stays in use", what=self.what, error=str(error))
            return
        self.taken += 1
        self._wrong_since_s = 0.0
        _log.info("reloaded", what=self.what)

    def _stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Differs after every replacement or edit; zeros for a file that is not there."""
        return tuple(_stamp(path) for path in self.paths)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_size, found.st_mtime_ns)
