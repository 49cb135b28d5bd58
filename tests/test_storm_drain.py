"""SIGTERM under load, of each service: health turns first, what was accepted is answered, and a second one ends now."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cotenant.cli.stack import Stack
from cotenant.runtime.server import open_channel
from cotenant.v1 import scheduler_pb2, scheduler_pb2_grpc
from loads import Client, Outcome, statuses
from stacks import delayed, running, write_model

RATE, SECONDS = 40.0, 2.5
STOPPING = "GRPC server is shutting down and has stopped accepting new requests."


def scenario(
    folder: Path, disturb: Callable[[Stack], Awaitable[Any]], *, slow_ms: float = 60, **options: Any
) -> tuple[list[Outcome], Any]:
    """Loads a stack, and disturbs it; returns what became of every request, and what `disturb` found."""

    async def play() -> tuple[list[Outcome], Any]:
        write_model(folder / "models", "slow", delayed(slow_ms, max_batch_size=4))
        async with running(folder, folder / "models", **options) as stack:
            client = Client(stack.url)
            load = asyncio.create_task(client.load(["slow"], RATE, SECONDS))
            await asyncio.sleep(0.5)
            found = await disturb(stack)
            outcomes = await load
            await client.channel.close()
            return outcomes, found

    return asyncio.run(play())


async def ended(stack: Stack, name: str) -> int:
    """Sends SIGTERM; returns the status with which the process ended."""
    process = stack.processes[name]
    process.send_signal(signal.SIGTERM)
    return await asyncio.to_thread(process.wait, 20)


@pytest.mark.long
def test_a_predictor_that_is_stopped_is_not_missed(tmp_path: Path) -> None:
    outcomes, status = scenario(tmp_path, lambda stack: ended(stack, "predictor"), state=str(tmp_path / "state"))
    assert status == 0
    assert statuses(outcomes) == {"OK": len(outcomes)}


def test_a_scheduler_that_is_stopped_and_replaced_loses_no_request(tmp_path: Path) -> None:
    outcomes, status = scenario(tmp_path, lambda stack: ended(stack, "scheduler"))
    assert status == 0
    assert statuses(outcomes) == {"OK": len(outcomes)}
    assert all(outcome.correct for outcome in outcomes)


def test_an_executor_that_is_stopped_hands_over_to_another_and_loses_no_request(tmp_path: Path) -> None:
    devices = ("emulated:0", "emulated:1")
    outcomes, status = scenario(tmp_path, lambda stack: ended(stack, "executor-0"), devices=devices)
    assert status == 0
    assert statuses(outcomes) == {"OK": len(outcomes)}
    assert all(outcome.correct for outcome in outcomes)


@pytest.mark.long
def test_an_executor_that_is_stopped_answers_what_it_was_given_and_is_given_no_more(tmp_path: Path) -> None:
    async def stop(stack: Stack) -> tuple[int, float, int, float]:
        """The process's status, when the scheduler saw it leave (0: never), what it ran then, when it ended."""
        stopped = asyncio.create_task(ended(stack, "executor-0"))
        async with open_channel(stack.scheduler) as channel:
            stub: Any = scheduler_pb2_grpc.SchedulerServiceStub(channel)
            while not stopped.done():
                for device in (await stub.GetStatus(scheduler_pb2.GetStatusRequest())).devices:
                    if not device.online:
                        seen_s = time.monotonic()
                        return await stopped, seen_s, len(device.running), time.monotonic()
                await asyncio.sleep(0.005)
        return await stopped, 0.0, 0, 0.0

    outcomes, (status, seen_s, held, ended_s) = scenario(tmp_path, stop, slow_ms=500)
    assert status == 0
    assert seen_s  # while it still lived, nothing more came to it
    assert held > 0  # and yet it ran out what it had
    reasons = {outcome.details for outcome in outcomes if outcome.status != "OK"}
    assert set(statuses(outcomes)) <= {"OK", "UNAVAILABLE"}
    assert not any("INTERNAL" in reason for reason in reasons)
    assert sum(o.status == "OK" and seen_s <= o.answered_s <= ended_s for o in outcomes) >= held


@pytest.mark.long
def test_a_frontend_that_is_stopped_answers_what_it_took_and_tells_others_why_not(tmp_path: Path) -> None:
    outcomes, status = scenario(tmp_path, lambda stack: ended(stack, "frontend"))
    assert status == 0
    refused = {outcome.details for outcome in outcomes if outcome.status != "OK"}
    assert set(statuses(outcomes)) <= {"OK", "UNAVAILABLE"}
    taken = [o for o in outcomes if o.status == "OK" or STOPPING not in o.details]
    broken = [o for o in taken if o.status != "OK" and "connect" not in o.details.lower()]
    assert not broken, refused  # refused with the reason, or not let in at all; but nothing that was taken is lost
    assert statuses(outcomes)["OK"] > RATE


@pytest.mark.long
@pytest.mark.parametrize("name", ["scheduler", "executor-0"])
def test_health_turns_while_what_was_accepted_still_runs_and_a_second_signal_ends_it(tmp_path: Path, name: str) -> None:
    once = 'parameters { key: "profile_batch_sizes" value { string_value: "1" } }'

    async def play() -> tuple[int, int, Outcome]:
        write_model(tmp_path / "models", "long", delayed(2500, max_batch_size=1, more=once))
        async with running(tmp_path, tmp_path / "models") as stack:
            client = Client(stack.url)
            request = asyncio.create_task(client.infer("long"))
            await asyncio.sleep(0.3)
            process = stack.processes[name]
            async with open_channel(stack.services[name].address) as channel:
                watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
                first = (await watched.read()).status
                assert first == health_pb2.HealthCheckResponse.SERVING
                process.send_signal(signal.SIGTERM)
                second = (await asyncio.wait_for(watched.read(), 2.0)).status
                assert process.poll() is None
                assert not request.done()
                process.send_signal(signal.SIGTERM)
                status = await asyncio.to_thread(process.wait, 1.8)
                watched.cancel()
            outcome = await request
            await client.channel.close()
            return second, status, outcome

    turned, status, outcome = asyncio.run(play())
    assert turned == health_pb2.HealthCheckResponse.NOT_SERVING
    assert status == 0
    assert outcome.status in {"OK", "UNAVAILABLE"}  # another scheduler learns of it; another executor has it not
    assert isinstance(outcome.answered_s, float)
