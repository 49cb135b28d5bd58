"""A stack whose predictor is not there, comes, dies, comes back with nothing, or stands still: requests are served."""

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest

from cotenant.cli.stack import Stack
from cotenant.runtime.server import open_channel
from cotenant.v1 import scheduler_pb2, scheduler_pb2_grpc
from loads import Client, Outcome, statuses
from stacks import running
from test_live import repository

MODELS = ["vision", "text", "small"]
RATE = 50.0


class Predictor:
    """A predictor that keeps nothing, at an address that a stack believes in from the start."""

    def __init__(self, folder: Path) -> None:
        self.address = f"unix:{folder}/predictor.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        flags = [f"--listen={self.address}", "--state=", "--metrics="]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cotenant.predictor", *flags], stderr=subprocess.DEVNULL
        )

    def send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


async def status(stack: Stack) -> scheduler_pb2.GetStatusResponse:
    async with open_channel(stack.services["scheduler"].address) as channel:
        stub = cast("scheduler_pb2_grpc.SchedulerServiceAsyncStub", scheduler_pb2_grpc.SchedulerServiceStub(channel))
        return await stub.GetStatus(scheduler_pb2.GetStatusRequest())


async def until(stack: Stack, holds: Callable[[scheduler_pb2.GetStatusResponse], bool], what: str) -> int:
    """Waits for a state of the scheduler; returns its version of estimates."""
    for _ in range(200):
        if holds(found := await status(stack)):
            return found.estimates_version
        await asyncio.sleep(0.1)
    pytest.fail(f"not within 20 s: {what}")


@contextlib.asynccontextmanager
async def served(folder: Path) -> AsyncIterator[tuple[Stack, Predictor, Client]]:
    predictor = Predictor(folder)
    options = {"devices": ("emulated:0",), "predictor": predictor.address}
    async with running(folder, repository(folder), **options) as stack:
        client = Client(stack.url)
        try:
            yield stack, predictor, client
        finally:
            await client.channel.close()
            predictor.end()


def check(outcomes: list[Outcome]) -> None:
    """Nearly all were answered (a busy machine may be late), and each launch had a forecast."""
    found = statuses(outcomes)
    assert set(found) <= {"OK", "DEADLINE_EXCEEDED"}
    assert found["OK"] > 0.8 * len(outcomes)
    answered = [outcome for outcome in outcomes if outcome.status == "OK"]
    assert {outcome.model for outcome in answered} == set(MODELS)
    assert all(outcome.parameters["cotenant_predicted_execution_ns"] > 0 for outcome in answered)


@pytest.mark.long
def test_a_predictor_that_comes_late_and_comes_back_with_nothing_is_taken_in(tmp_path: Path) -> None:
    async def scenario() -> list[list[Outcome]]:
        async with served(tmp_path) as (stack, predictor, client):

            async def load(seconds: float) -> list[Outcome]:
                return await client.load(MODELS, RATE, seconds, explain=True)

            without = await load(1.0)
            assert await until(stack, lambda s: not s.predictor_connected, "away") == 0
            predictor.start()
            taken = asyncio.create_task(until(stack, lambda s: s.estimates_version > 0, "estimates"))
            coming = await load(1.5)
            version = await taken
            predictor.end()
            gone = await load(1.0)
            predictor.start()
            taken = asyncio.create_task(until(stack, lambda s: s.estimates_version > version, "newer estimates"))
            back = await load(1.5)
            await taken
            return [without, coming, gone, back]

    for outcomes in asyncio.run(scenario()):
        check(outcomes)


@pytest.mark.long
def test_a_predictor_that_stands_still_is_done_without_and_taken_back(tmp_path: Path) -> None:
    async def scenario() -> list[Outcome]:
        async with served(tmp_path) as (stack, predictor, client):
            predictor.start()
            await until(stack, lambda s: s.estimates_version > 0, "estimates")
            load = asyncio.create_task(client.load(MODELS, RATE, 8.0, explain=True))
            await asyncio.sleep(1.0)
            predictor.send(signal.SIGSTOP)
            await asyncio.sleep(1.0)
            version = (await status(stack)).estimates_version
            await asyncio.sleep(4.0)
            assert (await status(stack)).estimates_version == version
            predictor.send(signal.SIGCONT)
            await until(stack, lambda s: s.estimates_version > version, "newer estimates")
            return await load

    check(asyncio.run(scenario()))
