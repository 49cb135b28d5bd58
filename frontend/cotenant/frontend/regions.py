"""Regions of shared memory that clients registered, and where in them tensors lie.

A region is an open file that is read and written at offsets, never mapped: a client that shrinks its file gets an
error, where a mapping would end this process. Regions are trusted memory between client and server, so none can be
registered unless the operator allows it, and never one of our own segments. For the event loop's thread only.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from cotenant.frontend.errors import RequestError, invalid, unknown_region
from cotenant.runtime.staging import PREFIX

_FOLDER = "/dev/shm"  # where POSIX shared memory lies on Linux
_REGION, _SIZE, _OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"
MAX_REGIONS = 1024  # each keeps a file open
NOT_ALLOWED = "shared memory of clients is not allowed here; the server must be started with --allow-client-shm"


@dataclass(slots=True)
class Region:
    """One region: `byte_size` bytes of a file from `offset` on."""

    name: str
    key: str
    offset: int
    byte_size: int
    file: int
    users: int = 0  # requests that will write outputs into it


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a region one tensor lies, or may be put: at most `byte_size` bytes at `offset` of the region."""

    region: Region
    offset: int
    byte_size: int

    def read(self) -> bytes:
        """What lies there. Raises RequestError where the file has become shorter than the region."""
        content = os.pread(self.region.file, self.byte_size, self.region.offset + self.offset)
        if len(content) < self.byte_size:
            raise invalid(f"shared memory region '{self.region.name}' is shorter than when it was registered")
        return content

    def write(self, content: bytes) -> None:
        """Puts an output there, which must fit."""
        os.pwrite(self.region.file, content, self.region.offset + self.offset)


class Regions:
    """See the module's text. Raises RequestError with Triton's words."""

    def __init__(self, *, allowed: bool, max_input_bytes: int = 512 * 2**20) -> None:
        """`max_input_bytes` bounds what is copied of one input: files may be larger than the memory behind them."""
        self.allowed, self.max_input_bytes = allowed, max_input_bytes
        self.by_name: dict[str, Region] = {}

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Opens a region."""
        if not self.allowed:
            raise RequestError(grpc.StatusCode.UNIMPLEMENTED, NOT_ALLOWED)
        if name in self.by_name:
            message = f"shared memory region '{name}' already in manager"
            raise RequestError(grpc.StatusCode.ALREADY_EXISTS, message)
        if len(self.by_name) >= MAX_REGIONS:
            message = f"there are {MAX_REGIONS} shared memory regions already, the most that may be; unregister some"
            raise RequestError(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
        file = _open(key)
        if offset + byte_size > os.fstat(file).st_size:
            os.close(file)
            raise invalid(f"failed to register shared memory region '{name}': invalid args")
        self.by_name[name] = Region(name, key, offset, byte_size, file)

    def read(self, place: Place) -> bytes:
        """An input that lies in a region. Raises RequestError for one that is too large, or not there any more."""
        if place.byte_size > self.max_input_bytes:
            what = f"{place.byte_size} bytes of shared memory region '{place.region.name}' are asked for as one input"
            message = f"{what}; the most is {self.max_input_bytes} (--max-message-mib)"
            raise RequestError(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
        return place.read()

    def unregister(self, name: str) -> None:
        """Closes a region; well if there is none of that name. Raises RequestError while requests will write to it."""
        region = self.by_name.get(name)
        if region is None:
            return
        if region.users:
            message = f"Cannot unregister shared memory region '{name}', it is currently in use."
            raise RequestError(grpc.StatusCode.INTERNAL, message)
        os.close(region.file)
        del self.by_name[name]

    def unregister_all(self) -> None:
        """Closes all regions. Raises RequestError that names those that are in use."""
        used = [name for name, region in self.by_name.items() if region.users]
        for name in [name for name in self.by_name if name not in used]:
            self.unregister(name)
        if used:
            names = "".join(f"{name} ," for name in used)
            message = f"Failed to unregister the following system shared memory regions: {names}"
            raise RequestError(grpc.StatusCode.INTERNAL, message)

    def place_of(self, tensor: Any) -> Place | None:
        """Where an input lies or an output goes, by its parameters; None where that is the message."""
        parameters = tensor.parameters
        if _REGION not in parameters:
            for key in (_OFFSET, _SIZE):
                if key in parameters:
                    raise invalid(
                        f"'{key}' can not be specified without 'shared_memory_region' parameter "
                        f"for tensor '{tensor.name}'"
                    )
            return None
        name: str = _value(tensor, _REGION, "string_param")
        offset: int = _value(tensor, _OFFSET, "int64_param") if _OFFSET in parameters else 0
        if _SIZE not in parameters:
            raise invalid(
                "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter "
                f"for tensor '{tensor.name}'"
            )
        size: int = _value(tensor, _SIZE, "int64_param")
        return self._place(name, offset, size)

    def _place(self, name: str, offset: int, size: int) -> Place:
        region = self.by_name.get(name)
        if region is None:
            raise unknown_region(name)
        if not 0 <= offset < max(1, region.byte_size):
            raise invalid(f"Invalid offset for shared memory region: '{name}'")
        if not 0 <= size <= region.byte_size - offset:
            raise invalid(f"Invalid offset + byte size for shared memory region: '{name}'")
        return Place(region, offset, size)


@contextmanager
def in_use(deliveries: Mapping[str, Place | int]) -> Iterator[None]:
    """Keeps the regions that outputs go to from being closed meanwhile."""
    regions = [place.region for place in deliveries.values() if isinstance(place, Place)]
    for region in regions:
        region.users += 1
    try:
        yield
    finally:
        for region in regions:
            region.users -= 1


def _value(tensor: Any, key: str, kind: str) -> Any:
    parameter = tensor.parameters[key]
    if parameter.WhichOneof("parameter_choice") != kind:
        raise invalid(f"invalid value type for '{key}' parameter for tensor '{tensor.name}', expected {kind}.")
    return getattr(parameter, kind)


def _open(key: str) -> int:
    """The file of POSIX shared memory `key`. Raises RequestError where there is none, or it is not a client's."""
    name = key.removeprefix("/")
    unable = RequestError(grpc.StatusCode.INTERNAL, f"Unable to open shared memory region: '{key}'")
    if not name or "/" in name or name in (".", "..") or "\0" in name or name.startswith(PREFIX):
        raise unable
    try:
        file = os.open(f"{_FOLDER}/{name}", os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        raise unable from None
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise unable
    return file


__all__ = ["NOT_ALLOWED", "Place", "Region", "Regions", "in_use"]
