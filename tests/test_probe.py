"""The health probe that container health checks run."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from cotenant.runtime import probe
from cotenant.runtime.server import Server


async def answered(folder: Path, *arguments: str, serving: bool) -> tuple[int, str]:
    """Exit status and output of the probe's process, asking a server that does or does not serve."""
    server = Server(service_names=["test.Service"])
    server.bind(address := f"unix:{folder / 'server.sock'}")
    await server.grpc.start()
    await server.health.set(serving=serving)
    try:
        command = (sys.executable, "-m", "cotenant.runtime.probe", address, *arguments)
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode().strip()
    finally:
        await server.grpc.stop(None)


@pytest.mark.parametrize(
    ("serving", "service", "expected"),
    [
        (True, (), (0, "SERVING")),
        (False, (), (1, "NOT_SERVING")),
        (True, ("test.Service",), (0, "SERVING")),
        (True, ("test.Other",), (1, "NOT_FOUND")),
    ],
)
def test_exit_status_tells_health(
    tmp_path: Path, serving: bool, service: tuple[str, ...], expected: tuple[int, str]
) -> None:
    assert asyncio.run(answered(tmp_path, *service, serving=serving)) == expected


def test_a_server_that_is_not_there_is_unhealthy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main([f"unix:{tmp_path / 'nobody.sock'}"]) == 1
    assert capsys.readouterr().out.startswith("UNAVAILABLE: ")


@pytest.mark.parametrize("arguments", [[], ["localhost"], ["localhost:1", "service", "more"], ["--verbose"]])
def test_bad_usage_is_told_apart(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main(arguments) == 2
    assert "usage" in capsys.readouterr().err


def test_it_imports_nothing_of_the_services() -> None:
    code = "import sys, cotenant.runtime.probe; print([m for m in sys.modules if m.startswith('cotenant.')])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['cotenant.runtime', 'cotenant.runtime.probe']"
