"""What storms found (benchmarks/storm), each by itself: full disks, clocks that step, silence, lost answers."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

from cotenant.cli.stack import Stack
from cotenant.executor.device import Ran
from cotenant.executor.links import SchedulerLink
from cotenant.executor.reports import Reports
from cotenant.executor.runner import put_slices
from cotenant.executor.timeline import Slice
from cotenant.frontend import dispatch, streaming
from cotenant.frontend.errors import RequestError
from cotenant.frontend.streaming import Stream
from cotenant.inference import inference_pb2 as pb
from cotenant.predictor.kept import changes
from cotenant.predictor.store import Store
from cotenant.runtime.clock import PeerClock
from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler import events as ev
from cotenant.scheduler import record, snapshot
from cotenant.scheduler.core import Core, CoreConfig
from cotenant.scheduler.policies import POLICIES
from cotenant.scheduler.replay import replay
from cotenant.v1 import executor_pb2, scheduler_pb2, types_pb2
from loads import Client
from stacks import delayed, running, write_model
from test_frontend_dispatch import SECOND, Bench, answer_of
from test_predictor_restart import lesson, loaded, taught

# ---- full disks

LOGGING = """
import structlog
from cotenant.runtime import logs
logs.configure("tested")
for i in range(3):
    structlog.get_logger().info("a line", number=i)
logs.lines.file = open(1, "w", closefd=False)
structlog.get_logger().info("there is room again")
structlog.get_logger().info("and again")
"""


def test_a_line_that_cannot_be_written_harms_nobody_and_is_counted() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", LOGGING], stdout=subprocess.PIPE, stderr=full, check=True)
    first, second = done.stdout.decode().splitlines()
    assert '"lines_lost": ' in first
    assert "there is room again" in first
    assert "lines_lost" not in second


def test_a_predictor_whose_disk_was_full_says_so_and_writes_all_later(tmp_path: Path) -> None:
    knowledge, device = taught(lesson(count=300))
    store = Store(tmp_path / "state")
    assert store._db is not None
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count={pages}")
    unsaved = knowledge.unsaved_since()
    with pytest.raises(sqlite3.Error, match="full"):
        store.write(changes(knowledge, unsaved))
    store._db.execute("PRAGMA max_page_count=100000")
    store.write(changes(knowledge, unsaved))
    store.close()
    found = loaded(tmp_path / "state").devices["gpu-0"]
    assert found.batches == device.batches > 0


def test_a_recording_goes_on_once_there_is_room_again(tmp_path: Path) -> None:
    core = Core(CoreConfig(policy="edf"), POLICIES["edf"](0.95))
    log = record.Recorder(tmp_path / "log", 2**20, epoch=1, software="test")
    log.start(core)

    def live(now_ns: int) -> bool:
        events = [ev.AnswerOverheadMeasured(now_ns % 1000)]
        log.write(core, now_ns, events, core.handle(now_ns, events))
        return log.recording

    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            raise OSError(28, "No space left on device")

    live(1 * SECOND)
    log.flush()
    log._file = Full()  # type: ignore[assignment]
    assert not live(2 * SECOND)
    assert not live(3 * SECOND)  # too soon to try again
    assert live(20 * SECOND)
    for second in range(21, 25):
        live(second * SECOND)
    log.close()
    files = [path for _, path in record.parts(tmp_path / "log")]
    assert [path.name for path in files] == ["log", "log.1"]
    outcomes = [replay(path) for path in files]
    assert [outcome.groups for outcome in outcomes] == [1, 4]
    assert all(outcome.difference is None for outcome in outcomes)


def test_a_part_that_finds_no_room_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core(CoreConfig(policy="edf"), POLICIES["edf"](0.95))
    log = record.Recorder(tmp_path / "log", 2**20, epoch=1, software="test")
    log.start(core)
    log._fail(OSError(28, "No space left on device"), 0)

    def full(_: object) -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshot, "take", full)
    log.write(core, 20 * SECOND, [], [])
    assert not log.recording
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


# ---- clocks


def exchange(clock: PeerClock, at_ns: int, offset_ns: int, trip_ns: int = 200_000) -> None:
    there_ns = at_ns + trip_ns // 2 + offset_ns
    clock.observe(at_ns, there_ns, there_ns, at_ns + trip_ns)


@pytest.mark.parametrize("step_ns", [5 * SECOND, -5 * SECOND, 20_000_000])
def test_a_peers_clock_that_stepped_is_believed_at_once(step_ns: int) -> None:
    clock = PeerClock(shared=False)
    for i in range(16):
        exchange(clock, i * SECOND, 1000 * SECOND, trip_ns=100_000)
    exchange(clock, 17 * SECOND, 1000 * SECOND + step_ns)
    assert clock.to_peer(18 * SECOND) == 1018 * SECOND + step_ns


def test_a_slow_exchange_is_no_step() -> None:
    clock = PeerClock(shared=False)
    exchange(clock, 1 * SECOND, 1000 * SECOND, trip_ns=100_000)
    clock.observe(2 * SECOND, 1002 * SECOND + 90_000_000, 1002 * SECOND + 90_000_000, 2 * SECOND + 91_000_000)
    assert clock.to_peer(3 * SECOND) == 1003 * SECOND
    assert clock.uncertainty_ns == 50_000


def test_durations_on_a_clock_that_was_set_back_are_told_as_none() -> None:
    known = BatchClass("m", "1", 1)
    event = executor_pb2.BatchFinished()
    put_slices(event.slices, Ran(5, -40, [Slice(-40, (known,), (-30,)), Slice(7, (), ())], 0, []))
    assert [(s.duration_ns, list(s.co_runner_elapsed_ns)) for s in event.slices] == [(0, [0]), (7, [])]


# ---- a scheduler that says nothing, or is being stopped


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    made = Bench(tmp_path)
    monkeypatch.setattr(dispatch, "now_ns", lambda: made.now_ns)
    made.dispatcher._heard_ns = made.dispatcher._swept_ns = made.now_ns
    yield made
    made.staging.close()
    loop.close()
    asyncio.set_event_loop(None)


def pass_time(bench: Bench, seconds: float, *, heard: bool) -> None:
    for _ in range(round(seconds / 0.1)):
        bench.now_ns += SECOND // 10
        if heard:
            bench.dispatcher.heard()
        bench.dispatcher.sweep()


def status_of(pending: Any) -> tuple[grpc.StatusCode, str]:
    error = pending.done.exception()
    assert isinstance(error, RequestError)
    return error.code, error.reason


def submitted(bench: Bench, budget_s: float) -> Any:
    async def submit() -> Any:
        return bench.submit(timeout_us=int(budget_s * 1e6))

    return asyncio.get_event_loop().run_until_complete(submit())


def test_a_budget_bounds_the_answer_when_the_scheduler_stands_still(bench: Bench) -> None:
    bench.connect()
    short, long = submitted(bench, 1.0), submitted(bench, 60.0)
    pass_time(bench, 3.0, heard=False)
    assert status_of(short) == (grpc.StatusCode.UNAVAILABLE, "SCHEDULER_LOST")
    assert not long.done.done()
    assert bench.staging.used_bytes > 0  # an executor may be reading it
    bench.refuse(short)
    bench.answer(long)
    assert bench.staging.used_bytes == 0


def test_a_late_answer_is_awaited_while_the_scheduler_speaks(bench: Bench) -> None:
    bench.connect()
    pending = submitted(bench, 1.0)
    pass_time(bench, 5.0, heard=True)
    assert not pending.done.done()
    bench.answer(pending)
    assert pending.done.result().outputs


def test_a_frontend_that_stood_still_itself_blames_nobody(bench: Bench) -> None:
    bench.connect()
    pending = submitted(bench, 1.0)
    bench.now_ns += 5 * SECOND
    bench.dispatcher.sweep()
    assert not pending.done.done()


def test_what_a_scheduler_that_stops_does_not_take_the_next_one_gets(bench: Bench) -> None:
    bench.connect()
    kept, late = submitted(bench, 60.0), submitted(bench, 1.0)
    for pending in (kept, late):
        bench.refuse(pending, types_pb2.REJECT_REASON_SHUTTING_DOWN)
    pass_time(bench, 2.0, heard=True)
    assert not kept.done.done()
    assert status_of(late) == (grpc.StatusCode.UNAVAILABLE, "SCHEDULER_LOST")
    bench.dispatcher.disconnected()
    bench.connect()
    assert (kept.request_id, 2) in bench.submits
    bench.answer(kept, attempt=2)
    assert kept.done.result().outputs


# ---- executors that are being stopped


def test_an_executor_that_leaves_waits_until_launches_on_their_way_are_here() -> None:
    async def play() -> None:
        reports = Reports(limit=10)
        link = SchedulerLink("unix:nowhere", None, None, reports, own_address="", software="")  # type: ignore[arg-type]
        link._outbox = SimpleNamespace(  # type: ignore[assignment]
            frame=scheduler_pb2.ConnectExecutorRequest(), touch=lambda: None
        )
        leaving = asyncio.create_task(link.leave())
        await asyncio.sleep(0.05)
        (event,) = reports.to_scheduler.all()
        assert event.WhichOneof("event") == "draining"
        assert not leaving.done()
        reports.to_scheduler.acknowledge(event.sequence)
        await asyncio.wait_for(leaving, 0.5)

    asyncio.run(play())


# ---- clients that do not read


def test_a_client_that_does_not_read_holds_a_bounded_share_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "STREAM_BYTES", 100_000)
    taken = 0

    async def infer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        nonlocal taken
        taken += 1
        return pb.ModelInferResponse(id=request.id, raw_output_contents=[bytes(10_000)])

    async def requests() -> AsyncIterator[pb.ModelInferRequest]:
        for i in range(100):
            yield pb.ModelInferRequest(id=str(i), raw_input_contents=[bytes(10_000)])

    async def play() -> list[str]:
        answers = Stream(infer).answers(requests())
        first = await anext(answers)
        for _ in range(500):
            await asyncio.sleep(0)
        assert taken < 40  # some 100 kB, and those that are not counted
        return [first.infer_response.id, *[answer.infer_response.id async for answer in answers]]

    assert asyncio.run(play()) == [str(i) for i in range(100)]


# ---- stacks


def test_models_that_nobody_loads_do_not_keep_a_stack_from_settling(tmp_path: Path) -> None:
    async def play() -> dict[str, Any]:
        repository = tmp_path / "models"
        write_model(repository, "wanted", delayed(1))
        write_model(repository, "left", delayed(1))
        async with running(tmp_path, repository, extra={"scheduler": ("--load-models=wanted",)}) as stack:
            states = {m.model: m.availability for m in await settled(stack)}
            client = Client(stack.url)
            assert (await client.infer("wanted")).correct
            await client.channel.close()
            return states

    async def settled(stack: Stack) -> list[scheduler_pb2.ModelState]:
        return await stack.models_settled(timeout_s=5)

    assert asyncio.run(play()) == {
        "wanted": scheduler_pb2.MODEL_AVAILABILITY_READY,
        "left": scheduler_pb2.MODEL_AVAILABILITY_KNOWN,
    }


# ---- blocks of shared memory


def test_what_nobody_waits_for_gives_its_block_back_when_the_scheduler_returns(bench: Bench) -> None:
    bench.connect()
    gone = submitted(bench, 1.0)
    pass_time(bench, 3.0, heard=False)
    assert gone.abandoned
    bench.dispatcher.disconnected()
    bench.connect()
    assert (bench.submits, bench.cancels) == ([(gone.request_id, 2)], [gone.request_id])
    bench.refuse(gone, types_pb2.REJECT_REASON_CANCELLED)
    assert bench.staging.used_bytes == 0


def test_a_launch_that_finds_anothers_tensors_moves_nobody_elses(tmp_path: Path) -> None:
    async def play() -> None:
        from test_executor import Bench as ExecutorBench

        bench = ExecutorBench(tmp_path)
        write_model(bench.repository, "m", delayed(1))
        await bench.models.load("m")
        two = bench.stage(("INPUT0", np.full((2, 16), 7, np.float32)))
        one = bench.stage(("INPUT0", np.full((1, 16), 5, np.float32)))
        bench.runner.launch(bench.order(1, "m", [two, one]))  # whose launch says one item each
        await bench.runner.drain()
        assert [dropped.batch_id for dropped in bench.told("batch_dropped")] == [1]
        assert bench.told("batch_dropped")[0].reason == types_pb2.REJECT_REASON_EXECUTION_FAILED
        bench.runner.launch(bench.order(2, "m", [one]))
        (answer,) = await bench.answers(1)
        assert np.frombuffer(answer.inline, np.float32)[:16].tolist() == [5.0] * 16

    asyncio.run(play())


def test_an_overdue_answer_is_asked_for_until_somebody_gives_it(bench: Bench) -> None:
    bench.connect()
    pending = submitted(bench, 1.0)
    pass_time(bench, 2.5, heard=True)
    assert bench.submits == [(pending.request_id, 1)]
    pass_time(bench, 3.0, heard=True)
    assert (
        bench.submits
        == [(pending.request_id, 1), (pending.request_id, 2), (pending.request_id, 3)][: len(bench.submits)]
    )
    assert len(bench.submits) > 1
    bench.refuse(pending)
    assert status_of(pending)[0] == grpc.StatusCode.DEADLINE_EXCEEDED


def test_tensors_that_were_sent_and_will_not_run_are_forgotten_there(bench: Bench, tmp_path: Path) -> None:
    from test_executor import Bench as ExecutorBench

    told: list[tuple[str, int]] = []
    bench.dispatcher.on_forget = lambda device_id, request_id: told.append((device_id, request_id))
    bench.connect()
    refused, answered = submitted(bench, 60.0), submitted(bench, 60.0)
    for pending in (refused, answered):
        pending.staged_at |= {"here": 1, "there": 1}
    bench.refuse(refused)
    bench.dispatcher.answered(answer_of(answered.request_id, b"\2" * 8), memoryview(b"\2" * 8), "here")
    assert sorted(told) == sorted(
        [("here", refused.request_id), ("there", refused.request_id), ("there", answered.request_id)]
    )

    async def forget() -> None:
        executor = ExecutorBench(tmp_path)
        kept, dropped = (executor.stage(("INPUT0", np.ones((1, 16), np.float32))) for _ in range(2))
        executor.exchange.take(executor.peer, executor_pb2.ExchangeRequest(forgotten_request_ids=[dropped]))
        assert list(executor.peer.stages) == [kept]

    asyncio.run(forget())
