"""Real stacks for tests: every service a process, on loopback, with free ports and folders of its own."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cotenant.cli.stack import Stack, StackOptions

IDENTITY = """
backend: "identity"
max_batch_size: 64
input [{ name: "INPUT0" data_type: TYPE_FP32 dims: [ 16 ] }]
output [{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 16 ] }]
dynamic_batching {}
"""


def free_port() -> int:
    """A TCP port that nobody listens at just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def write_model(
    repository: Path, name: str, config: str, *, version: str = "1", files: Mapping[str, bytes] | None = None
) -> Path:
    """Adds a model to a repository; returns its folder."""
    folder = repository / name
    (folder / version).mkdir(parents=True, exist_ok=True)
    (folder / "config.pbtxt").write_text(config, encoding="utf-8")
    for file, content in (files or {}).items():
        (folder / version / file).write_bytes(content)
    return folder


def delayed(delay_ms: float, *, slo_ms: float = 0, max_batch_size: int = 8, more: str = "") -> str:
    """Configuration of an identity model that takes its time."""
    slo = f'parameters {{ key: "slo_ms" value {{ string_value: "{slo_ms}" }} }}' if slo_ms else ""
    return f"""
backend: "identity"
max_batch_size: {max_batch_size}
input [{{ name: "INPUT0" data_type: TYPE_FP32 dims: [ 16 ] }}]
output [{{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 16 ] }}]
dynamic_batching {{}}
parameters {{ key: "execute_delay_ms" value {{ string_value: "{delay_ms}" }} }}
{slo}
{more}
"""


@contextlib.asynccontextmanager
async def running(folder: Path, repository: Path, **options: Any) -> AsyncIterator[Stack]:
    """A stack that is ready, with all models of the repository settled."""
    extra = dict(options.pop("extra", {}))
    extra["executor"] = (f"--profile-cache={folder / 'profiles'}", *extra.get("executor", ()))
    stack = Stack(
        StackOptions(repository, folder / "run", port=free_port(), metrics=False, sockets=True, extra=extra, **options)
    )
    async with stack:
        await stack.models_settled(timeout_s=60)
        yield stack


class StackThread:
    """A stack for tests that use blocking clients: it lives on a loop of its own."""

    def __init__(self, folder: Path, repository: Path, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._context = running(folder, repository, **options)
        self.stack = self._loop.run_until_complete(self._context.__aenter__())

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self.stack.url

    def close(self) -> None:
        """Stops everything."""
        self._loop.run_until_complete(self._context.__aexit__(None, None, None))
        self._loop.close()


@pytest.fixture(scope="module")
def identity_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackThread]:
    """A stack on the CPU with `identity` (batches up to 64) and `slow` (20 ms, SLO 200 ms)."""
    folder = tmp_path_factory.mktemp("stack")
    repository = folder / "models"
    write_model(repository, "identity", IDENTITY)
    write_model(repository, "slow", delayed(20, slo_ms=200))
    stack = StackThread(folder, repository)
    yield stack
    stack.close()
