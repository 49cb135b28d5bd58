"""Foreign predictors: the examples keep the contract, and a stack changes predictors without losing a request."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import grpc
import pytest

from cotenant.cli.stack import Stack
from cotenant.predictor.contract.__main__ import main as check
from cotenant.predictor.contract.peer import Peer, Subscriber, batch_class
from cotenant.runtime.server import open_channel
from cotenant.v1 import predictor_pb2 as pb
from cotenant.v1 import scheduler_pb2, scheduler_pb2_grpc
from loads import Client, Outcome, statuses
from node_packages import installed
from stacks import running, write_model
from test_live import EMULATED

EXAMPLES = Path(__file__).parent.parent / "examples" / "predictors"
PROTOS = Path(__file__).parent.parent / "protos"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of the predictor in Node, without its address."""
    folder = installed(EXAMPLES / "node", tmp_path_factory.mktemp("predictor"))
    return ["node", str(folder / "predictor.js")]


OURS = [sys.executable, "-m", "cotenant.predictor", "--metrics="]
RIVER = [sys.executable, str(EXAMPLES / "python_river" / "my_predictor.py"), "--metrics="]


@contextlib.contextmanager
def serving(command: list[str], address: str) -> Iterator[None]:
    """A predictor at an address; it is killed in the end, as by accident."""
    Path(address.removeprefix("unix:")).unlink(missing_ok=True)
    flags = [address, str(PROTOS)] if command[0] == "node" else [f"--listen={address}"]
    process = subprocess.Popen([*command, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=30)
        yield
    finally:
        process.kill()
        process.wait()


def test_the_one_in_node_keeps_the_contract(
    node: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(node, address := f"unix:{tmp_path}/p.sock"):
        assert check([address, "--patience=30"]) == 0, capsys.readouterr().out


@pytest.mark.long
def test_the_one_with_a_river_model_keeps_the_contract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("river")
    with serving(RIVER, address := f"unix:{tmp_path}/p.sock"):
        assert check([address, "--patience=30"]) == 0, capsys.readouterr().out


def repository(folder: Path) -> Path:
    """Models with seconds to spare, so that only what is lost is missing."""
    models = folder / "models"
    for name, personality in (("vision", "resnet50"), ("text", "transformer_xl"), ("small", "mobilenet_v2")):
        write_model(models, name, EMULATED.format(personality=personality, scale=2, slo_ms=4000))
    return models


async def version(stack: Stack) -> tuple[bool, int]:
    """Whether the scheduler has a predictor, and the version of what it told last."""
    async with open_channel(stack.scheduler) as channel:
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        scheduler = cast("scheduler_pb2_grpc.SchedulerServiceAsyncStub", stub)
        status = await scheduler.GetStatus(scheduler_pb2.GetStatusRequest())
        return status.predictor_connected, status.estimates_version


async def connected(stack: Stack) -> None:
    """Waits until the scheduler hears of a predictor again, and again of what it learns."""
    async with asyncio.timeout(20):
        while not (await version(stack))[0]:
            await asyncio.sleep(0.05)
        first = (await version(stack))[1]  # perhaps still of the predictor before, which counted on its own
        while (await version(stack))[1] == first:
            await asyncio.sleep(0.05)


async def explanation(address: str) -> str:
    """What a predictor says of two models that share a device."""
    async with open_channel(address) as channel:
        question = pb.EstimateColocationRequest()
        question.colocation.device_id = "emulated-0"
        question.colocation.batches.extend(batch_class(model) for model in ("vision", "text"))
        return (await Peer(channel).stub.EstimateColocation(question)).explanation


def test_a_published_method_serves_a_live_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTENANT_PREDICTOR_LEARNER", "ewma12-rls")

    async def play() -> tuple[list[Outcome], Subscriber]:
        async with running(tmp_path, repository(tmp_path), devices=("emulated:0",)) as stack:
            client = Client(stack.url)
            outcomes = await client.load(["vision", "text", "small"], 100, 3.0, explain=True)
            async with open_channel(stack.services["predictor"].address) as channel:
                subscriber = Peer(channel).watch((0.95,))
                await subscriber.until(lambda s: s.learned, "nothing was learned")
                subscriber.close()
            await client.channel.close()
            return outcomes, subscriber

    outcomes, subscriber = asyncio.run(play())
    assert statuses(outcomes)["OK"] > 0.9 * len(outcomes), statuses(outcomes)
    beside = [float(o.parameters["cotenant_mean_co_runners"]) for o in outcomes if o.status == "OK"]
    assert max(beside) > 0.5  # sets were believed: without them nothing is launched beside anything
    table = subscriber.table("emulated-0")
    assert not any(estimate.sensitivity for estimate in table.classes.values())
    together = {(victim.model, others[0].model) for victim, others in table.sets if len(others) == 1}
    assert {("vision", "text"), ("text", "vision"), ("small", "vision")} <= together


def test_changing_the_predictor_of_a_running_stack_loses_no_request(node: list[str], tmp_path: Path) -> None:
    pytest.importorskip("river")
    address = f"unix:{tmp_path}/predictor.sock"
    rate, seconds = 50, 22

    async def change(stack: Stack, load: "asyncio.Task[list[Outcome]]") -> int:
        changes = 0
        for command in (OURS, node, RIVER, OURS):
            with serving(command, address):
                await connected(stack)
                await asyncio.sleep(1.0)
                assert not load.done()
                changes += 1
                why = await explanation(address) if command is OURS else ""
        # One that was not there when models were measured knows their solo times and demands all the same.
        assert "of it" in why
        assert "not measured" not in why
        return changes

    async def play() -> tuple[list[Outcome], int]:
        async with running(tmp_path, repository(tmp_path), devices=("emulated:0",), predictor=address) as stack:
            client = Client(stack.url)
            load = asyncio.create_task(client.load(["vision", "text", "small"], rate, seconds, explain=True))
            changes = await change(stack, load)
            outcomes = await load
            await client.channel.close()
            return outcomes, changes

    outcomes, changes = asyncio.run(play())
    assert changes == 4
    assert len(outcomes) == rate * seconds
    assert set(statuses(outcomes)) <= {"OK", "DEADLINE_EXCEEDED"}, statuses(outcomes)
    assert statuses(outcomes)["OK"] > 0.9 * len(outcomes), statuses(outcomes)
    assert all(outcome.correct for outcome in outcomes if outcome.status == "OK")
