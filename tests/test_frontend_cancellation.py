"""Clients that go away: their requests leave the queue, what runs runs out, and the others notice nothing."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cotenant.inference import inference_pb2 as pb
from frontend_stack import RawClient, eventually, infer_request, lane, model_status, raw_client, running, vector
from stacks import StackThread, write_model

CLIENTS = Path(__file__).parent / "clients"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackThread]:
    folder = tmp_path_factory.mktemp("cancellation")
    write_model(folder / "models", "lane", lane(200))
    made = StackThread(folder, folder / "models")
    yield made
    made.close()


@pytest.fixture
def client(stack: StackThread) -> Iterator[RawClient]:
    with raw_client(stack) as made:
        yield made
    eventually(lambda: running(stack) == 0, "the lane is free")


def request(request_id: str = "") -> pb.ModelInferRequest:
    made = infer_request("lane", IN0=vector())
    made.id = request_id
    return made


def idle(stack: StackThread) -> bool:
    return running(stack) == 0 and model_status(stack, "lane").queued == 0


def test_a_cancelled_request_leaves_the_queue(stack: StackThread, client: RawClient) -> None:
    before, failed = client.executions("lane"), failures(client)
    running_one = client.ModelInfer.future(request(), timeout=30)
    eventually(lambda: running(stack) == 1, "the first runs")
    waiting = [client.ModelInfer.future(request(), timeout=30) for _ in range(5)]
    eventually(lambda: model_status(stack, "lane").queued == 5, "five wait")
    for call in waiting:
        call.cancel()
    eventually(lambda: model_status(stack, "lane").queued == 0, "none waits")
    assert running_one.result().raw_output_contents
    assert client.ModelInfer(request(), timeout=30).raw_output_contents
    assert client.executions("lane") - before == 2
    assert failures(client) - failed == 5


def failures(client: RawClient) -> int:
    (row,) = client.ModelStatistics(pb.ModelStatisticsRequest(name="lane")).model_stats
    count: int = row.inference_stats.fail.count
    return count


def test_a_cancelled_request_that_runs_runs_out(stack: StackThread, client: RawClient) -> None:
    call = client.ModelInfer.future(request(), timeout=30)
    eventually(lambda: running(stack) == 1, "it runs")
    call.cancel()
    assert client.ModelInfer(request(), timeout=30).raw_output_contents


def test_a_clients_deadline_frees_its_place(stack: StackThread, client: RawClient) -> None:
    before = client.executions("lane")
    blockers = [client.ModelInfer.future(request(), timeout=30) for _ in range(2)]
    eventually(lambda: running(stack) == 1, "the first runs")
    # In time when it is admitted; the second blocker's twin with priority then makes it late.
    hopeful = client.ModelInfer.future(request(), timeout=0.9)
    eventually(lambda: model_status(stack, "lane").queued == 2, "both wait")
    urgent = []
    for _ in range(3):
        urgent.append(request())
        urgent[-1].parameters["priority"].int64_param = 1
    others = [client.ModelInfer.future(message) for message in urgent]
    assert hopeful.exception().code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert all(call.result().raw_output_contents for call in (*blockers, *others))
    assert client.executions("lane") - before == 5


def test_a_cancelled_stream_takes_its_requests_with_it(stack: StackThread, client: RawClient) -> None:
    before = client.executions("lane")
    stream = client.ModelStreamInfer(iter([request(str(i)) for i in range(6)]))
    assert next(stream).infer_response.id == "0"
    stream.cancel()
    eventually(lambda: idle(stack), "nothing is left of it")
    assert client.executions("lane") - before <= 3  # the first, the one that ran, and one launched behind it
    assert client.ModelInfer(request(), timeout=30).raw_output_contents


def test_a_stream_longer_than_its_window_is_answered_in_order(client: RawClient) -> None:
    count = 600  # more than may be outstanding at a time
    wrong = (infer_request("nope", IN0=vector()) for _ in range(count))
    messages = []
    for i, message in enumerate(wrong):
        message.id = str(i)
        messages.append(message)
    answers = [answer.infer_response.id for answer in client.ModelStreamInfer(iter(messages), timeout=60)]
    assert answers == [str(i) for i in range(count)]


def test_a_client_that_is_killed_costs_nothing_more(stack: StackThread, client: RawClient) -> None:
    before = client.executions("lane")
    command = [sys.executable, str(CLIENTS / "never_reads.py"), stack.url, "lane", "40"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "sent"
        eventually(lambda: model_status(stack, "lane").queued > 20, "most of its requests wait")
        process.kill()
    eventually(lambda: idle(stack), "nothing is left of it")
    assert client.executions("lane") - before < 20
    assert client.ModelInfer(request(), timeout=30).raw_output_contents


def test_requests_without_end_from_one_that_does_not_read(stack: StackThread, client: RawClient) -> None:
    """A stream whose client sends and never reads holds only its own window."""

    def without_end() -> Iterator[Any]:
        while True:
            yield infer_request("nope", IN0=vector())

    stream = client.ModelStreamInfer(without_end())
    assert client.ModelInfer(request(), timeout=30).raw_output_contents
    stream.cancel()
    assert client.ModelInfer(request(), timeout=30).raw_output_contents
