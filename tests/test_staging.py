"""Shared memory between a frontend and executors: blocks never overlap, nothing leaks, the right memory is mapped."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotenant.runtime.staging import (
    ALIGNMENT,
    NONCE_BYTES,
    Arena,
    Buffer,
    Segment,
    aligned,
    read_block,
    sweep,
    write_block,
)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5000)), max_size=200))
def test_blocks_never_overlap_and_all_memory_comes_back(steps: list[tuple[bool, int]]) -> None:
    arena = Arena(NONCE_BYTES, 20_000)
    taken: dict[int, int] = {}
    for give_back, number in steps:
        if give_back and taken:
            offset = sorted(taken)[number % len(taken)]
            arena.give_back(offset)
            del taken[offset]
        elif (found := arena.take(number)) is not None:
            offset, size = found, max(ALIGNMENT, aligned(number))
            assert offset % ALIGNMENT == 0
            assert offset >= NONCE_BYTES
            assert offset + size <= 20_000
            for other, other_size in taken.items():
                assert offset + size <= other or other + other_size <= offset
            taken[offset] = size
        assert arena.used == sum(taken.values())
    for offset in taken:
        arena.give_back(offset)
    assert arena.used == 0
    assert arena.take(arena.capacity) is not None  # one block again, however it was cut up


def test_a_full_arena_says_so_and_a_wrong_offset_raises() -> None:
    arena = Arena(0, 256)
    assert arena.take(256) == 0
    assert arena.take(1) is None
    with pytest.raises(KeyError):
        arena.give_back(64)


def test_the_other_side_reads_what_was_written(tmp_path: Path) -> None:
    with Segment.create(tmp_path, 2**20) as owner:
        buffers: list[Buffer] = [b"first", memoryview(b"x" * 100)]
        size = aligned(4 + 3) + sum(aligned(len(b)) for b in buffers)
        write_block(owner.view, 128, b"hdr", buffers)
        other = Segment.attach(tmp_path, owner.name, owner.nonce)
        assert other is not None
        header, data = read_block(other.view, 128, size)
        assert bytes(header) == b"hdr"
        assert bytes(data[:5]) == b"first"
        assert bytes(data[64:164]) == b"x" * 100
        with pytest.raises(TypeError):
            other.view[0] = 1  # mapped read-only: an executor cannot spoil requests
        header.release()
        data.release()
        other.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("offset", "size"), [(0, 64), (2**20 - 8, 64), (128, 2), (128, 2**21)])
def test_a_block_outside_its_segment_is_refused(tmp_path: Path, offset: int, size: int) -> None:
    with Segment.create(tmp_path, 2**20) as owner, pytest.raises(ValueError, match="block"):
        read_block(owner.view, offset, size)


def test_only_the_same_memory_is_attached(tmp_path: Path) -> None:
    with Segment.create(tmp_path, 2**20) as owner:
        assert Segment.attach(tmp_path, owner.name, b"0" * 16) is None
        assert Segment.attach(tmp_path, "cotenant-none", owner.nonce) is None
        assert Segment.attach(tmp_path, "../" + owner.name, owner.nonce) is None
        (tmp_path / "elsewhere").mkdir()
        assert Segment.attach(tmp_path / "elsewhere", owner.name, owner.nonce) is None


def test_what_a_killed_process_left_is_swept_and_what_lives_is_kept(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from cotenant.runtime.staging import Segment;"
        "Segment.create(Path(sys.argv[1]), 2**20); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    with Segment.create(tmp_path, 2**20) as alive:
        assert sweep(tmp_path) == 1
        assert [p.name for p in tmp_path.iterdir()] == [alive.name]


def test_a_sweep_between_creation_and_lock_does_not_hide_a_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Services that start together sweep the same folder while others create theirs."""
    lock = fcntl.flock
    swept: list[int] = []

    def sweep_first(file: int, operation: int) -> None:
        if not swept:
            swept.append(0)
            swept[0] = sweep(tmp_path)
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    with Segment.create(tmp_path, 2**20) as owner:
        assert swept == [1]
        attached = Segment.attach(tmp_path, owner.name, owner.nonce)
        assert attached is not None
        attached.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_small_folder_gives_a_smaller_segment(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)], check=False)
    if mounted.returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        with Segment.create(tmp_path, 64 * 2**20) as segment:
            assert segment.size == 2 * 2**20
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
