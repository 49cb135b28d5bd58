"""Clocks of several hosts: a scheduler whose monotonic clock is not ours serves like one whose clock is."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotenant.cli.stack import Service, Stack, StackOptions
from cotenant.executor.links import SchedulerLink
from cotenant.runtime.clock import PeerClock, clock_id, now_ns
from cotenant.v1 import scheduler_pb2, types_pb2
from loads import Client, statuses
from stacks import delayed, free_port, write_model
from test_executor import Bench

OFFSET_S = 1_000_000
OFFSET_NS = OFFSET_S * 10**9


def may_have_another_clock() -> bool:
    if os.geteuid() != 0 or not shutil.which("unshare"):
        return False
    return (
        subprocess.run(["unshare", "-T", "--monotonic", "1", "true"], check=False, capture_output=True).returncode == 0
    )


# ---- the clock


@given(
    offset_ns=st.integers(-(10**15), 10**15),
    trips=st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), min_size=1, max_size=40),
)
def test_the_error_of_a_mapped_instant_is_within_its_uncertainty(offset_ns: int, trips: list[tuple[int, int]]) -> None:
    clock = PeerClock(shared=False)
    sent_ns = 10**15
    for there_ns, back_ns in trips:
        sent_ns += 10**9
        received_ns = sent_ns + there_ns + offset_ns
        clock.observe(sent_ns, received_ns, received_ns + 1000, sent_ns + there_ns + 1000 + back_ns)
    assert clock.known
    assert abs(clock.to_peer(sent_ns) - (sent_ns + offset_ns)) <= clock.uncertainty_ns + 1
    assert abs(clock.from_peer(clock.to_peer(sent_ns)) - sent_ns) <= 1
    assert clock.to_peer(0) == clock.from_peer(0) == 0  # no instant stays none


# ---- an executor


class Elsewhere:
    """A scheduler on another host: it greets, notes what it is told, and orders one batch."""

    def __init__(self, launch: scheduler_pb2.Launch) -> None:
        self.launch = launch
        self.frames: list[scheduler_pb2.ConnectExecutorRequest] = []
        self.finished = asyncio.Event()

    async def ConnectExecutor(  # noqa: N802
        self, request_iterator: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[Any]:
        del context
        async for frame in request_iterator:
            self.frames.append(frame)
            peer_ns = now_ns() + OFFSET_NS
            pong = types_pb2.Pong(ping_sent_ns=frame.ping.sent_ns, received_ns=peer_ns, sent_ns=peer_ns)
            if len(self.frames) == 1:
                hello = scheduler_pb2.SchedulerHello(epoch=1, clock_id="another host", version="test")
                yield scheduler_pb2.ConnectExecutorResponse(hello=hello, pong=pong)
            elif frame.HasField("hello"):
                self.launch.latest_start_ns = peer_ns + 10**9
                yield scheduler_pb2.ConnectExecutorResponse(launches=[self.launch])
            if any(event.HasField("batch_finished") for event in frame.events):
                self.finished.set()


def test_an_executor_asks_for_the_time_before_it_tells_any(tmp_path: Path) -> None:
    async def play() -> None:
        bench = Bench(tmp_path)
        write_model(bench.repository, "m", delayed(5))
        await bench.models.load("m")
        request_id = bench.stage(("INPUT0", np.ones((1, 16), np.float32)))
        elsewhere = Elsewhere(bench.order(1, "m", [request_id]))
        server = grpc.aio.server()
        handler = grpc.stream_stream_rpc_method_handler(
            elsewhere.ConnectExecutor,
            scheduler_pb2.ConnectExecutorRequest.FromString,
            scheduler_pb2.ConnectExecutorResponse.SerializeToString,
        )
        handlers = {"ConnectExecutor": handler}
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("cotenant.v1.SchedulerService", handlers),)
        )
        address = f"unix:{tmp_path}/scheduler.sock"
        server.add_insecure_port(address)
        await server.start()
        link = SchedulerLink(
            address, bench.device, bench.models, bench.reports, own_address="unix:nowhere", software="test"
        )
        link.runner = bench.runner
        before_ns = now_ns() + OFFSET_NS
        running = asyncio.create_task(link.run())
        await asyncio.wait_for(elsewhere.finished.wait(), 10)
        after_ns = now_ns() + OFFSET_NS
        running.cancel()
        await server.stop(None)

        first, second = elsewhere.frames[:2]
        assert first.HasField("ping")
        assert not first.HasField("hello")
        assert not first.events
        assert second.hello.device.device_id
        told = [event for frame in elsewhere.frames for event in frame.events]
        assert all(OFFSET_NS < event.at_ns < after_ns + 10**9 for event in told)
        (finished,) = [event.batch_finished for event in told if event.HasField("batch_finished")]
        unsure_ns = link.clock.uncertainty_ns  # on a busy machine the first exchange may take milliseconds
        assert before_ns - unsure_ns < finished.started_ns < after_ns + unsure_ns
        (answer,) = await bench.answers(1)
        # What a frontend reads is on the scheduler's clock.
        assert before_ns - unsure_ns < answer.execution.started_ns < after_ns + unsure_ns

    asyncio.run(play())


# ---- everything


class ClocksApart(Stack):
    """A stack whose scheduler has another monotonic clock."""

    def command(self, service: Service) -> list[str]:
        command = super().command(service)
        if service.name == "scheduler":
            return ["unshare", "-T", "--monotonic", str(OFFSET_S), *command]
        return command


@pytest.mark.skipif(not may_have_another_clock(), reason="needs root, unshare and time namespaces")
def test_a_scheduler_on_another_clock_keeps_deadlines_and_survives_a_restart(tmp_path: Path) -> None:
    async def play() -> None:
        repository = tmp_path / "models"
        write_model(repository, "m", delayed(10, slo_ms=1000))
        extra = {"executor": (f"--profile-cache={tmp_path / 'profiles'}",)}
        options = StackOptions(repository, tmp_path / "run", port=free_port(), metrics=False, sockets=True, extra=extra)
        async with ClocksApart(options) as stack:
            await stack.models_settled(60)
            assert '"shared_clock": false' in stack.log("frontend").read_text()
            assert '"shared_clock": false' in stack.log("executor-0").read_text()
            client = Client(stack.url)
            outcomes = await client.load(["m"], 50, 2.0)
            assert statuses(outcomes) == {"OK": 100}
            assert all(outcome.correct for outcome in outcomes)
            hopeless = await client.infer("m", timeout_s=0.004)
            assert hopeless.status == "DEADLINE_EXCEEDED"
            told = (await client.infer("m", explain=True)).parameters
            assert 9e6 < told["cotenant_execution_ns"] < 100e6
            assert 0 <= told["cotenant_queue_ns"] < 500e6
            stack.kill("scheduler")
            await asyncio.sleep(1.0)
            await stack.models_settled(60)
            assert statuses(await client.load(["m"], 50, 1.0)) == {"OK": 50}
            await client.channel.close()

    asyncio.run(play())


def test_the_identity_of_a_clock_is_the_same_in_all_processes_of_a_host() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "from cotenant.runtime.clock import clock_id; print(clock_id())"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout.strip() == clock_id() != ""
