"""When something dies: the others go on, every request gets one answer, and what comes back is taken in."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cotenant.cli.stack import Stack
from loads import Client, Outcome, statuses
from stacks import delayed, running, write_model

RATE = 60.0


def scenario(
    folder: Path, disturb: Callable[[Stack], Awaitable[None]], *, seconds: float = 5.0, patient: int = 1, **options: Any
) -> tuple[list[Outcome], list[Outcome]]:
    """Loads a stack while `disturb` does its worst; returns the outcomes, and those of a few requests after it all."""

    async def play() -> tuple[list[Outcome], list[Outcome]]:
        repository = folder / "models"
        write_model(repository, "quick", delayed(5, slo_ms=patient * 2000))
        write_model(repository, "slow", delayed(40, slo_ms=patient * 3000))
        async with running(folder, repository, **options) as stack:
            client = Client(stack.url)
            load = asyncio.create_task(client.load(["quick", "slow"], RATE, seconds))
            await asyncio.sleep(1.0)
            await disturb(stack)
            during = await load
            after = [outcome for _ in range(50) if (outcome := await recovered(client))][:1]
            after += list(await client.load(["quick", "slow"], 20, 1.0))
            await client.channel.close()
            return during, after

    return asyncio.run(play())


async def recovered(client: Client) -> Outcome | None:
    """An answer of the slow model, or nothing after a while."""
    outcome = await client.infer("slow", timeout_s=5.0)
    if outcome.status == "OK":
        return outcome
    await asyncio.sleep(0.2)
    return None


def check(during: list[Outcome], after: list[Outcome], allowed: set[str]) -> None:
    assert len(during) == int(RATE * 5.0)
    assert set(statuses(during)) <= {"OK", *allowed}, statuses(during)
    assert all(outcome.correct for outcome in (*during, *after) if outcome.status == "OK")
    assert after, "the stack did not recover"
    assert statuses(after[1:]) == {"OK": 20}


def test_without_its_predictor_the_stack_serves_on_and_takes_it_back(tmp_path: Path) -> None:
    async def kill(stack: Stack) -> None:
        stack.kill("predictor")
        await asyncio.sleep(2.0)
        stack.kill("predictor")

    during, after = scenario(tmp_path, kill, state=str(tmp_path / "state"))
    check(during, after, set())


def test_an_executor_that_dies_is_answered_for_and_taken_back(tmp_path: Path) -> None:
    async def kill(stack: Stack) -> None:
        stack.kill("executor-0")

    during, after = scenario(tmp_path, kill)
    check(during, after, {"UNAVAILABLE", "DEADLINE_EXCEEDED"})
    assert statuses(during)["OK"] > 30


def test_another_device_takes_over_what_a_dead_executor_had(tmp_path: Path) -> None:
    async def kill(stack: Stack) -> None:
        stack.kill("executor-0")

    during, after = scenario(tmp_path, kill, patient=5, devices=("emulated:0", "emulated:1"))
    check(during, after, set())


def test_an_executor_that_stands_still_for_long_is_given_up_and_taken_back(tmp_path: Path) -> None:
    async def stop(stack: Stack) -> None:
        stack.kill("executor-0", signal.SIGSTOP)
        await asyncio.sleep(3.0)
        stack.kill("executor-0", signal.SIGCONT)

    during, after = scenario(tmp_path, stop, devices=("emulated:0", "emulated:1"))
    check(during, after, {"DEADLINE_EXCEEDED"})
    assert statuses(during)["OK"] > 250


@pytest.mark.long
def test_an_executor_that_stands_still_for_a_moment_resumes(tmp_path: Path) -> None:
    async def stop(stack: Stack) -> None:
        stack.kill("executor-0", signal.SIGSTOP)
        await asyncio.sleep(0.5)
        stack.kill("executor-0", signal.SIGCONT)

    during, after = scenario(tmp_path, stop)
    check(during, after, {"DEADLINE_EXCEEDED"})
    assert statuses(during)["OK"] > 250


def test_a_scheduler_that_dies_is_rebuilt_from_the_others(tmp_path: Path) -> None:
    async def kill(stack: Stack) -> None:
        stack.kill("scheduler")

    during, after = scenario(tmp_path, kill)
    check(during, after, {"UNAVAILABLE", "DEADLINE_EXCEEDED"})
    assert statuses(during)["OK"] > 150


def test_a_frontend_that_dies_leaves_no_trace(tmp_path: Path) -> None:
    async def kill(stack: Stack) -> None:
        stack.kill("frontend")

    shared = tmp_path / "shared"
    shared.mkdir()
    extra = {"frontend": (f"--staging-dir={shared}",), "executor": (f"--staging-dir={shared}",)}
    during, after = scenario(tmp_path, kill, extra=extra)
    check(during, after, {"UNAVAILABLE"})
    assert list(shared.iterdir()) == []  # what the killed one left was swept by the next


@pytest.mark.parametrize("name", ["frontend", "scheduler", "executor-0", "predictor"])
def test_a_service_told_to_stop_ends_well(tmp_path: Path, name: str) -> None:
    async def play() -> int:
        repository = tmp_path / "models"
        write_model(repository, "quick", delayed(5))
        async with running(tmp_path, repository) as stack:
            process = stack.processes[name]
            process.send_signal(signal.SIGTERM)
            return await asyncio.to_thread(process.wait, 10)

    assert asyncio.run(play()) == 0


def test_draining_answers_everything_that_was_accepted(tmp_path: Path) -> None:
    async def play() -> list[Outcome]:
        repository = tmp_path / "models"
        write_model(repository, "slow", delayed(100))
        async with running(tmp_path, repository) as stack:
            client = Client(stack.url)
            requests = [asyncio.create_task(client.infer("slow", float(i))) for i in range(30)]
            await asyncio.sleep(0.15)
            await stack.stop()
            return list(await asyncio.gather(*requests))

    outcomes = asyncio.run(play())
    assert statuses(outcomes) == {"OK": 30}
    assert all(outcome.correct for outcome in outcomes)


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    async def play() -> tuple[list[Outcome], int]:
        repository = tmp_path / "models"
        once = 'parameters { key: "profile_batch_sizes" value { string_value: "1" } }'
        write_model(repository, "slow", delayed(1500, more=once))
        async with running(tmp_path, repository) as stack:
            client = Client(stack.url)
            requests = [asyncio.create_task(client.infer("slow"))]
            await asyncio.sleep(0.3)
            process = stack.processes["frontend"]
            process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
            assert process.poll() is None  # it drains
            process.send_signal(signal.SIGTERM)
            status = await asyncio.to_thread(process.wait, 3)
            return list(await asyncio.gather(*requests)), status

    outcomes, status = asyncio.run(play())
    assert status == 0
    assert statuses(outcomes) == {"UNAVAILABLE": 1}
