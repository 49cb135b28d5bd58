"""The servers that are compared: the whole stack under one of its policies, and `tritonserver`.

Both get the same cores, the same allocator settings, one thread a batch, and requests from the same load generator. A
side is started, loaded at several points, and stopped before the next one starts.
"""

import asyncio
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import triton_repository
from mixes import Mix
from triton_repository import Tuning

from cotenant.cli.load_client import GrpcClient
from cotenant.cli.load_options import ModelLoad
from cotenant.cli.stack import ENVIRONMENT, Stack, StackOptions

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from oracle.tritonserver import TritonServer, free_ports  # noqa: E402

TRITON = "tritonserver"
# A policy that stands for a paper runs with the learner of that paper.
LEARNERS = {"seed-paper": "ewma12-rls"}
TICKS = os.sysconf("SC_CLK_TCK")


class Side(Protocol):
    """A server that is, or is to be, up."""

    url: str
    told: bool  # whether requests carry their budget, which an SLO is to this server

    async def start(self) -> None:
        """Returns once all models serve. Raises RuntimeError or TimeoutError where they do not."""
        ...

    def cpu_s(self) -> float:
        """CPU time that all its processes have used."""
        ...

    async def stop(self) -> None:
        """Ends all its processes."""
        ...


def cpu_of(pid: int) -> float:
    """User and system time of one process so far, in s; 0 where it has gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def spent_s(stack: Stack) -> float:
    """CPU time that a stack's processes have used so far."""
    return sum(cpu_of(process.pid) for process in stack.processes.values())


async def serving(url: str, names: Iterable[str], patience_s: float = 180.0) -> None:
    """Waits until a server serves these models. Raises TimeoutError."""
    client = GrpcClient(url)
    try:
        async with asyncio.timeout(patience_s):
            for name in names:
                while not await client.ready(ModelLoad(name)):
                    await asyncio.sleep(0.1)
    finally:
        await client.close()


class OurStack:
    """Predictor, scheduler, executor and frontend as processes; what was learned is kept in `folder` for the next."""

    told = True

    def __init__(self, policy: str, mix: Mix, repository: Path, folder: Path, *, record: Path | None = None) -> None:
        learner = LEARNERS.get(policy, "fluid")
        self._names = [loaded.model for loaded in mix.models]
        self.stack = Stack(
            StackOptions(
                repository,
                folder / f"run-{policy}",
                port=free_ports(1)[0],
                metrics=False,
                sockets=True,
                policy=policy,
                state=str(folder / f"learned-{learner}.db"),
                record=str(record or ""),
                extra={
                    "scheduler": (f"--load-models={','.join(self._names)}",),
                    "executor": (f"--profile-cache={folder / 'profiles'}",),
                    "predictor": (f"--learner={learner}",),
                },
            )
        )
        shutil.rmtree(folder / f"run-{policy}", ignore_errors=True)

    @property
    def url(self) -> str:
        """See `Side`."""
        return self.stack.url

    async def start(self) -> None:
        """See `Side.start`."""
        await self.stack.start()
        await serving(self.url, self._names)

    def cpu_s(self) -> float:
        """See `Side.cpu_s`."""
        return spent_s(self.stack)

    async def stop(self) -> None:
        """See `Side.stop`."""
        await self.stack.stop()


class Triton:
    """`tritonserver` with the Python backend."""

    told = False  # its timeout would bound the queue alone; the configured one knows what the model takes

    def __init__(self, tuning: Tuning, mix: Mix, repository: Path, folder: Path, threads: int = 1) -> None:
        target = triton_repository.write(mix, repository, folder / "triton", tuning, threads)
        environment = {k: v for k, v in ENVIRONMENT.items() if not k.startswith(("COTENANT", "PYTHON"))}
        self.server = TritonServer(target, folder / "run-triton", environment=environment)

    @property
    def url(self) -> str:
        """See `Side`."""
        return self.server.url

    async def start(self) -> None:
        """See `Side.start`."""
        await asyncio.to_thread(self.server.start)

    def cpu_s(self) -> float:
        """See `Side.cpu_s`."""
        return sum(cpu_of(pid) for pid in self.server.processes())

    async def stop(self) -> None:
        """See `Side.stop`."""
        await asyncio.to_thread(self.server.stop)
