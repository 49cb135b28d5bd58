"""Shared memory between a frontend and the executors of its host.

A `Segment` is a file in a memory-backed folder. Its owner creates it and hands out blocks with an `Arena`; the other
side maps it by name. The first 16 bytes are random: whoever reads the same bytes under the same name maps the same
memory, whatever containers and hosts lie between.

A block of inputs holds `u32 length of header | TensorSet | padding to 64 | data`, each tensor of the data aligned to
64; a block of outputs holds the data alone. docs/data-path.md tells who frees which when.
The owner holds a lock on the file for as long as it lives, so leftovers of processes that were killed are
recognised and removed by whoever starts next (`sweep`).
"""

import fcntl
import mmap
import os
import struct
from bisect import bisect_left, insort
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

NONCE_BYTES = 16
ALIGNMENT = 64  # a cache line, and what vectorised kernels want of their inputs
PREFIX = "cotenant-"


_HEADER_LENGTH = struct.Struct("<I")


def aligned(size: int) -> int:
    """The next multiple of 64."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def write_block(view: memoryview, offset: int, header: bytes, buffers: Iterable[Buffer]) -> None:
    """Writes a block of inputs; it takes `aligned(4 + len(header))` and then each buffer, aligned."""
    _HEADER_LENGTH.pack_into(view, offset, len(header))
    view[offset + 4 : offset + 4 + len(header)] = header
    write_data(view, offset + aligned(4 + len(header)), buffers)


def write_data(view: memoryview, offset: int, buffers: Iterable[Buffer]) -> None:
    """Writes buffers one after another, each aligned."""
    for buffer in buffers:
        view[offset : offset + len(buffer)] = buffer
        offset += aligned(len(buffer))


def read_block(view: memoryview, offset: int, size: int) -> tuple[memoryview, memoryview]:
    """Header and data of a block of inputs. Raises ValueError if it cannot be one."""
    if offset < NONCE_BYTES or size < 4 or offset + size > len(view):
        raise ValueError(f"a block at {offset} of {size} bytes lies outside its segment of {len(view)}")
    (length,) = _HEADER_LENGTH.unpack_from(view, offset)
    if 4 + length > size:
        raise ValueError(f"a block of {size} bytes has a header of {length}")
    return view[offset + 4 : offset + 4 + length], view[offset + aligned(4 + length) : offset + size]


class Arena:
    """Hands out blocks of `[start, end)`: best fit by size, merged with free neighbours when returned."""

    def __init__(self, start: int, end: int) -> None:
        start, end = aligned(start), end - end % ALIGNMENT
        self.capacity = end - start
        self.used = 0
        self._size_at: dict[int, int] = {start: end - start}  # free blocks: start -> size
        self._start_by_end: dict[int, int] = {end: start}
        self._by_size: list[tuple[int, int]] = [(end - start, start)]
        self._taken: dict[int, int] = {}  # offset -> size

    def take(self, size: int) -> int | None:
        """Offset of a free block of at least `size` bytes, aligned to 64, or None if there is none."""
        size = max(ALIGNMENT, aligned(size))
        index = bisect_left(self._by_size, (size, 0))
        if index == len(self._by_size):
            return None
        free, start = self._by_size.pop(index)
        del self._size_at[start], self._start_by_end[start + free]
        if free > size:
            self._add_free(start + size, free - size)
        self._taken[start] = size
        self.used += size
        return start

    def give_back(self, offset: int) -> None:
        """Returns a block. Raises KeyError if it was not taken."""
        size = self._taken.pop(offset)
        self.used -= size
        if (before := self._start_by_end.get(offset)) is not None:
            size += self._remove_free(before)
            offset = before
        if (offset + size) in self._size_at:
            size += self._remove_free(offset + size)
        self._add_free(offset, size)

    def _add_free(self, start: int, size: int) -> None:
        self._size_at[start] = size
        self._start_by_end[start + size] = start
        insort(self._by_size, (size, start))

    def _remove_free(self, start: int) -> int:
        size = self._size_at.pop(start)
        del self._start_by_end[start + size]
        del self._by_size[bisect_left(self._by_size, (size, start))]
        return size


class Segment:
    """A mapped file of shared memory. Use `create` or `attach`; `view` is the whole of it."""

    def __init__(self, path: Path, file: int, size: int, *, owner: bool) -> None:
        self.path = path
        self.name = path.name
        self.size = size
        self._file = file
        self._owner = owner
        self._map = mmap.mmap(file, size, access=mmap.ACCESS_WRITE if owner else mmap.ACCESS_READ)
        self.view = memoryview(self._map)
        self.nonce = bytes(self.view[:NONCE_BYTES])

    @classmethod
    def create(cls, folder: Path, size: int) -> "Segment":
        """Makes a segment of up to `size` bytes; halves the size until the folder has room for it.

        Raises OSError if not even one MiB is to be had.
        """
        path, file = _create_locked(folder)
        try:
            while True:
                try:
                    # Reserve now: a write to a page that cannot be had later would kill the process (SIGBUS).
                    os.posix_fallocate(file, 0, size)
                    break
                except OSError:
                    os.ftruncate(file, 0)
                    if size <= 2**20:
                        raise
                    size //= 2
            os.pwrite(file, os.urandom(NONCE_BYTES), 0)
            return cls(path, file, size, owner=True)
        except BaseException:
            os.close(file)
            path.unlink(missing_ok=True)
            raise

    @classmethod
    def attach(cls, folder: Path, name: str, nonce: bytes) -> "Segment | None":
        """Maps the segment a peer calls `name`, or None if this process cannot see that very memory."""
        if not name.startswith(PREFIX) or "/" in name:
            return None
        try:
            file = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, ValueError):  # ValueError: a name that no file system takes
            return None
        size = os.fstat(file).st_size
        if size > NONCE_BYTES and os.pread(file, NONCE_BYTES, 0) == nonce:
            return cls(folder / name, file, size, owner=False)
        os.close(file)
        return None

    def close(self) -> None:
        """Unmaps; the owner also removes the file. Views still held by others keep the memory, not the name."""
        if self._owner:
            self.path.unlink(missing_ok=True)
        try:
            self.view.release()
            self._map.close()
        except BufferError:  # an array over this memory is still alive; the map goes with it
            pass
        os.close(self._file)

    def __enter__(self) -> "Segment":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _create_locked(folder: Path) -> tuple[Path, int]:
    """A new file that is ours; another one if somebody's `sweep` came between its creation and its lock."""
    while True:
        path = folder / f"{PREFIX}{os.getpid()}-{os.urandom(6).hex()}"
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_nlink:
            return path, file
        os.close(file)


def sweep(folder: Path) -> int:
    """Removes segments whose owners are dead; returns how many."""
    removed = 0
    for path in folder.glob(f"{PREFIX}*"):
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
            removed += 1
        except OSError:
            pass  # its owner lives, or the file is another user's
        finally:
            os.close(file)
    return removed
