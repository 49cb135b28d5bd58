"""What a fuzzed place is to the campaign: it makes inputs of chance, takes them, and is asked whether all is well."""

import asyncio
import os
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from fuzz.loopback import AbortedError
from fuzz.services import FindingError, Services

PAGE = os.sysconf("SC_PAGE_SIZE")
# Codes that tell of a mistake of ours, not of the caller's.
OURS = frozenset({"UNKNOWN", "INTERNAL", "DATA_LOSS", "UNIMPLEMENTED"})


class Target:
    """A fuzzed place."""

    name: ClassVar[str]
    canary_every: ClassVar[int] = 10
    fresh_every: ClassVar[int] = 50_000  # inputs, after which it is opened anew
    look_every: ClassVar[int] = 1000  # inputs between looks at memory and descriptors

    async def open(self) -> None:
        """Starts what is fuzzed."""

    async def close(self) -> None:
        """Stops it."""

    def make(self, rng: Random) -> Any:
        """An input."""
        raise NotImplementedError

    async def take(self, made: Any) -> str:
        """Feeds it; returns what became of it in a word. Raises FindingError where that must not be."""
        raise NotImplementedError

    async def canary(self) -> None:
        """Raises FindingError if others are harmed."""

    async def settled(self) -> None:
        """Raises FindingError if what is done with still occupies something."""

    def complaints(self) -> list[str]:
        """What went wrong unseen."""
        return []

    def resources(self) -> tuple[int, int]:
        """Bytes of memory and open descriptors of the processes that are fuzzed: this one."""
        return occupied(os.getpid())


class StackTarget(Target):
    """A place in a stack that runs in this process."""

    models: ClassVar[dict[str, str]] = {}
    only: ClassVar[tuple[str, ...]] = ()
    tolerated: ClassVar[tuple[str, ...]] = ()  # texts of errors that are as they should be

    async def open(self) -> None:
        self.services = Services(self.models, only=self.only)
        self.prepare()
        await self.services.__aenter__()
        if not self.only or {"scheduler", "executor", "frontend"} <= set(self.only):
            await self.services.ready()
            await self.services.canary()

    def prepare(self) -> None:
        """Puts something in the place of services that are not started."""

    async def close(self) -> None:
        await self.services.__aexit__()

    async def canary(self) -> None:
        self.services.alive()
        await self.services.canary()

    def complaints(self) -> list[str]:
        return [text for text in self.services.complaints.all() if not any(word in text for word in self.tolerated)]


def verdict(error: AbortedError) -> str:
    """The word for a status that a caller gets. Raises FindingError for one that tells of a mistake of ours."""
    if error.code.name in OURS:
        raise FindingError(f"answered {error.code.name}: {error.details}")
    if not error.details:
        raise FindingError(f"answered {error.code.name} without a word")
    return error.code.name


def occupied(pid: int) -> tuple[int, int]:
    """Bytes of memory and descriptors that a process has."""
    process = Path("/proc") / str(pid)
    return int((process / "statm").read_text().split()[1]) * PAGE, sum(1 for _ in (process / "fd").iterdir())


async def turns(count: int = 3) -> None:
    """Lets tasks run that have something to do."""
    for _ in range(count):
        await asyncio.sleep(0)
