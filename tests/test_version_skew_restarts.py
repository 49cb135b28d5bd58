"""Rolling restarts: each service told to stop under load, in turn, and another takes its place; no request is lost."""

import asyncio
import dataclasses
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest

from cotenant.cli.stack import Stack
from loads import Client, Outcome, statuses
from stacks import delayed, free_port, running, write_model

RATE = 60.0
REFUSED = "GRPC server is shutting down and has stopped accepting new requests."
Infer = Callable[[str, float], Awaitable[Outcome]]


async def restarted(stack: Stack, name: str) -> int:
    """Tells a service to stop, and waits until its successor serves; its exit status."""
    process = stack.processes[name]
    process.terminate()
    status = await asyncio.to_thread(process.wait, 20)
    async with asyncio.timeout(60):
        while stack.processes[name] is process:
            await asyncio.sleep(0.01)  # the stack starts what has ended
        while True:
            try:
                await stack.models_settled(timeout_s=30)
            except grpc.aio.AioRpcError:  # it does not listen yet
                await asyncio.sleep(0.05)
            else:
                return status


async def loaded(infer: Infer, done: asyncio.Event) -> list[Outcome]:
    """Requests at a steady rate until `done`."""
    tasks: list[asyncio.Future[Outcome]] = []
    for i in itertools.count():
        if done.is_set():
            return list(await asyncio.gather(*tasks))
        tasks.append(asyncio.ensure_future(infer(("quick", "slow")[i % 2], float(i % 97))))
        await asyncio.sleep(1 / RATE)
    raise AssertionError


def rolled(folder: Path, *names: str) -> list[Outcome]:
    """Restarts services one after another while requests come to two frontends; what became of each.

    A client that is told, or finds, that a frontend is not there asks the other.
    """

    async def play() -> list[Outcome]:
        write_model(folder / "models", "quick", delayed(5, slo_ms=8000))
        write_model(folder / "models", "slow", delayed(40, slo_ms=8000))
        devices = ("emulated:0", "emulated:1")
        async with running(folder, folder / "models", devices=devices, state=str(folder / "state")) as stack:
            clients = [Client(stack.url), Client(await another_frontend(stack))]
            turn = itertools.cycle(clients)

            async def infer(model: str, value: float) -> Outcome:
                for _ in range(40):
                    outcome = await next(turn).infer(model, value)
                    if outcome.status != "UNAVAILABLE":
                        break
                    assert outcome.details == REFUSED or "connect" in outcome.details, outcome
                    await asyncio.sleep(0.05)
                return outcome

            done = asyncio.Event()
            loading = asyncio.create_task(loaded(infer, done))
            await asyncio.sleep(0.3)
            for name in names:
                assert await restarted(stack, name) == 0
                await asyncio.sleep(0.3)
            done.set()
            outcomes = await loading
            for client in clients:
                await client.channel.close()
            return outcomes

    return asyncio.run(play())


async def another_frontend(stack: Stack) -> str:
    """Starts one more; returns its address once it serves."""
    first = stack.services["frontend"]
    address = f"127.0.0.1:{free_port()}"
    flags = tuple(f"--listen={address}" if flag.startswith("--listen=") else flag for flag in first.flags)
    stack.services["frontend-1"] = dataclasses.replace(first, name="frontend-1", flags=flags, address=address)
    stack.spawn("frontend-1")
    client = Client(address)
    async with asyncio.timeout(30):
        while (await client.infer("quick")).status != "OK":
            await asyncio.sleep(0.05)
    await client.channel.close()
    return address


def check(outcomes: list[Outcome]) -> None:
    assert set(statuses(outcomes)) == {"OK"}, (statuses(outcomes), {o.details for o in outcomes if o.status != "OK"})
    assert all(outcome.correct for outcome in outcomes)
    assert len(outcomes) > 100


def test_executors_and_scheduler_are_restarted_and_no_request_is_lost(tmp_path: Path) -> None:
    check(rolled(tmp_path, "executor-0", "scheduler"))


@pytest.mark.long
def test_every_service_is_restarted_twice_and_no_request_is_lost(tmp_path: Path) -> None:
    round_of_all = ("predictor", "scheduler", "executor-0", "executor-1", "frontend", "frontend-1")
    check(rolled(tmp_path, *round_of_all, *round_of_all))
