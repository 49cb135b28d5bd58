"""What clients may do with shared memory of the host: nothing unless allowed, nothing of ours, and not without end."""

import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cotenant.frontend import regions
from cotenant.frontend.errors import RequestError
from cotenant.frontend.regions import Place, Regions
from cotenant.runtime.staging import Segment


@pytest.fixture
def key() -> Iterator[str]:
    """A client's shared memory of a tebibyte, of which nothing is there."""
    path = Path(f"/dev/shm/tests-{os.getpid()}")
    path.touch()
    os.truncate(path, 2**40)
    yield path.name
    path.unlink()


def refused(attempt: Regions, key: str) -> RequestError:
    with pytest.raises(RequestError) as caught:
        attempt.register("region", key, 0, 64)
    assert not attempt.by_name
    return caught.value


def test_nothing_can_be_registered_unless_that_is_allowed(key: str) -> None:
    error = refused(Regions(allowed=False), key)
    assert error.code == grpc.StatusCode.UNIMPLEMENTED
    assert "--allow-client-shm" in error.message


def test_a_key_stays_in_its_folder(tmp_path: Path, key: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(64))
    link = Path(f"/dev/shm/{key}-link")
    link.symlink_to(tmp_path / "secret")
    outside = os.path.relpath(tmp_path / "secret", "/dev/shm")
    try:
        for attempt in (outside, f"/{outside}", str(tmp_path / "secret"), f"//{key}", "..", ".", "", "a\0b", link.name):
            assert refused(Regions(allowed=True), attempt).code == grpc.StatusCode.INTERNAL
    finally:
        link.unlink()


def test_our_own_memory_is_not_to_be_had() -> None:
    with Segment.create(Path("/dev/shm"), 2**20) as segment:
        for attempt in (segment.name, f"/{segment.name}"):
            told = refused(Regions(allowed=True), attempt)
            assert told.message == f"Unable to open shared memory region: '{attempt}'"  # as one that is not there


def test_what_is_not_there_costs_no_memory(key: str) -> None:
    held = Regions(allowed=True, max_input_bytes=2**20)
    held.register("region", key, 0, 2**40)
    with pytest.raises(RequestError) as caught:
        held.read(Place(held.by_name["region"], 0, 2**40))
    assert caught.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "the most is 1048576 (--max-message-mib)" in caught.value.message
    assert held.read(Place(held.by_name["region"], 2**39, 2**20)) == bytes(2**20)
    held.unregister_all()


def test_regions_do_not_take_all_open_files(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "MAX_REGIONS", 2)
    held = Regions(allowed=True)
    for name in ("a", "b"):
        held.register(name, key, 0, 64)
    with pytest.raises(RequestError, match="there are 2 shared memory regions already") as caught:
        held.register("c", key, 0, 64)
    assert caught.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    held.unregister("a")
    held.register("c", key, 0, 64)
    held.unregister_all()
