"""Decoupled models, end to end: none or many responses to a request, in a stream."""

import os
import queue
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from cotenant.inference import inference_pb2 as pb
from frontend_stack import RawClient, eventually, infer_request, raw_client, running, vector
from python_models import write_repeat, write_ticking
from stacks import IDENTITY, StackThread, free_port, write_model
from test_rest import ask

ENSEMBLE = """
platform: "ensemble"
input [{ name: "X" data_type: TYPE_INT32 dims: [ -1 ] }] output [{ name: "Y" data_type: TYPE_INT32 dims: [ 1 ] }]
ensemble_scheduling { step [{ model_name: "repeat" model_version: -1
  input_map { key: "IN" value: "X" } output_map { key: "OUT" value: "Y" } }] }
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackThread]:
    folder = tmp_path_factory.mktemp("decoupled")
    models = folder / "models"
    write_repeat(models)
    write_ticking(models, "ticking", 5)
    write_model(models, "identity", IDENTITY)
    write_model(models, "through", ENSEMBLE)
    made = StackThread(folder, models, http_port=free_port())
    yield made
    made.close()


@pytest.fixture
def raw(stack: StackThread) -> Iterator[RawClient]:
    with raw_client(stack) as made:
        yield made


def repeat(values: list[int], *, how: str = "", empty: bool = False, name: str = "r") -> pb.ModelInferRequest:
    request = infer_request("repeat", IN=np.array(values, np.int32))
    if how:
        request = infer_request("repeat", IN=np.array(values, np.int32), HOW=np.array([how.encode()], object))
    request.id = name
    if empty:
        request.parameters["triton_enable_empty_final_response"].bool_param = True
    return request


def ticking(size: int, count: int) -> pb.ModelInferRequest:
    return infer_request("ticking", HOW=np.array([size, count], np.int32))


def told(answer: pb.ModelStreamInferResponse) -> Any:
    """An answer in short: its error, its first number, or None for the end; and whether it is the last."""
    final = answer.infer_response.parameters["triton_final_response"].bool_param
    if answer.error_message:
        return answer.error_message, final
    raw = answer.infer_response.raw_output_contents
    return int(np.frombuffer(raw[0], np.int32)[0]) if raw else None, final


def streamed(raw: RawClient, *requests: pb.ModelInferRequest, **more: Any) -> list[Any]:
    return [told(answer) for answer in raw.ModelStreamInfer(iter(requests), timeout=20, **more)]


@pytest.mark.parametrize(
    ("request_", "answers"),
    [
        (repeat([4, 5, 6]), [(4, False), (5, False), (6, False)]),
        (repeat([4, 5], empty=True), [(4, False), (5, False), (None, True)]),
        (repeat([]), []),
        (repeat([], empty=True), [(None, True)]),
        (repeat([4, 5], how="flagged"), [(4, False), (5, True)]),
        (repeat([4, 5], how="flagged", empty=True), [(4, False), (5, True)]),
        (repeat([4, -2, 6]), [(4, False), ("negative: -2", False), (6, False)]),
        (
            repeat([4], how="raises", empty=True),
            [(4, False), ("Failed to process the request(s) for model 'repeat', message: as asked", True)],
        ),
    ],
)
def test_responses_come_as_the_model_gives_them(raw: RawClient, request_: pb.ModelInferRequest, answers: Any) -> None:
    assert streamed(raw, request_) == answers


def test_others_in_the_stream_are_answered_as_ever(raw: RawClient) -> None:
    """Each request's responses keep their order; those to other models do not wait for them."""
    plain = infer_request("identity", INPUT0=vector(3.0))
    plain.id = "plain"
    requests = [ticking(1, 200), plain, repeat([1, 2], name="a", empty=True), repeat([3], name="b", empty=True)]
    requests[0].id = "long"
    answers = list(raw.ModelStreamInfer(iter(requests), timeout=20))
    assert [answer.error_message for answer in answers if answer.error_message] == []
    ids = [answer.infer_response.id for answer in answers]
    assert [ids.count(name) for name in ("long", "plain", "a", "b")] == [200, 1, 3, 2]
    assert ids[-1] == "long"


def test_tritonclient(stack: StackThread) -> None:
    found: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(stack.url) as client:
        client.start_stream(lambda result, error: found.put((result, error)))
        values = triton.InferInput("IN", [3], "INT32")
        values.set_data_from_numpy(np.array([7, -8, 9], np.int32))
        client.async_stream_infer("repeat", [values], request_id="id", enable_empty_final_response=True)
        answers = [found.get(timeout=10) for _ in range(4)]
        client.stop_stream()
    assert answers[0][0].as_numpy("OUT").tolist() == [7]
    assert "negative: -8" in str(answers[1][1])
    assert answers[2][0].as_numpy("INDEX").tolist() == [2]
    last = answers[3][0].get_response()
    assert last.parameters["triton_final_response"].bool_param
    assert not last.outputs


def test_large_responses_and_small_ones(raw: RawClient) -> None:
    """In shared memory and in the message; none is lost, none is another's."""
    for size in (0, 3, 300_000):
        answers = list(raw.ModelStreamInfer(iter([ticking(size, 30)]), timeout=20))
        assert len(answers) == 30
        for index, answer in enumerate(answers):
            array = np.frombuffer(answer.infer_response.raw_output_contents[0], np.float32)
            assert answer.infer_response.outputs[0].shape == [size]
            assert len(array) == size
            assert (array == index).all()


def test_unary_calls_are_refused(stack: StackThread, raw: RawClient) -> None:
    for request, words in (
        (repeat([1]), "ModelInfer RPC doesn't support models with decoupled transaction policy"),
        (infer_request("through", X=np.array([1], np.int32)), "in ensemble 'through', ModelInfer RPC doesn't"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            raw.ModelInfer(request, timeout=10)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert words in (caught.value.details() or "")
    body = {"inputs": [{"name": "IN", "datatype": "INT32", "shape": [1], "data": [1]}]}
    status, _, answer = ask(stack, "POST", "/v2/models/repeat/infer", body)
    assert (status, answer["error"]) == (
        501,
        "HTTP end point doesn't support models with decoupled transaction policy",
    )


@pytest.mark.parametrize("how", ["cancels", "hangs up"])
def test_a_client_that_goes_away_stops_the_model(stack: StackThread, how: str) -> None:
    """It would go on for hours."""
    with raw_client(stack) as raw:
        call = raw.ModelStreamInfer(iter([ticking(10, 10**6)]))
        for _ in range(5):
            assert next(call).infer_response.outputs
        assert running(stack) == 1
        if how == "cancels":
            call.cancel()
        else:
            raw.close()
    eventually(lambda: running(stack) == 0, "the model stops")


@pytest.mark.long
def test_a_client_that_does_not_read_fills_nobodys_memory(stack: StackThread) -> None:
    """The frontend holds what is not read up to a limit, and ends the request there."""
    with raw_client(stack) as raw:
        call = raw.ModelStreamInfer(iter([ticking(500_000, 10**6)]))
        assert next(call).infer_response.outputs
        eventually(lambda: running(stack) == 0, "the model stops", timeout_s=30)
        answers = list(call)
    assert answers[-1].error_message == "the client does not read the responses it asked for"
    assert answers[-1].infer_response.parameters["cotenant_status"].string_param == "RESOURCE_EXHAUSTED"
    with raw_client(stack) as raw:
        assert streamed(raw, repeat([1])) == [(1, False)]


def test_a_deadline_ends_the_stream_and_the_model(stack: StackThread, raw: RawClient) -> None:
    call = raw.ModelStreamInfer(iter([ticking(1, 10**6)]), timeout=1.0)
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(lambda: running(stack) == 0, "the model stops")


def test_statistics_tell_of_each_response(raw: RawClient) -> None:
    def rows() -> dict[str, Any]:
        (row,) = raw.ModelStatistics(pb.ModelStatisticsRequest(name="repeat")).model_stats
        return {"requests": row.inference_stats.success.count, **dict(row.response_stats)}

    before = rows()
    streamed(raw, repeat([1, 2]))
    streamed(raw, repeat([1], how="flagged"))
    streamed(raw, repeat([-1], empty=True))
    after = rows()

    def grown(index: str, what: str) -> int:
        older = before.get(index)
        return int(getattr(after[index], what).count - (getattr(older, what).count if older else 0))

    assert after["requests"] - before["requests"] == 3
    assert [grown("0", what) for what in ("success", "fail", "empty_response", "cancel")] == [2, 1, 0, 0]
    assert [grown("1", what) for what in ("success", "fail", "empty_response", "cancel")] == [1, 0, 1, 0]
    assert [grown("2", what) for what in ("success", "fail", "empty_response", "cancel")] == [0, 0, 1, 0]
    assert after["0"].compute_infer.ns > 0


@pytest.mark.long
def test_an_executor_that_dies_ends_the_request_once(tmp_path: Path) -> None:
    """What was delivered is not delivered again: the request is not run a second time."""
    write_ticking(tmp_path / "models", "ticking", 20)
    made = StackThread(tmp_path, tmp_path / "models")
    try:
        with raw_client(made) as raw:
            call = raw.ModelStreamInfer(iter([ticking(1, 10**6)]))
            seen = [np.frombuffer(next(call).infer_response.raw_output_contents[0], np.float32)[0] for _ in range(5)]
            os.kill(made.stack.processes["executor-0"].pid, signal.SIGKILL)
            rest = list(call)
            seen += [np.frombuffer(answer.infer_response.raw_output_contents[0], np.float32)[0] for answer in rest[:-1]]
            assert seen == list(range(len(seen)))
            assert rest[-1].infer_response.parameters["cotenant_reason"].string_param == "EXECUTOR_LOST"
            assert rest[-1].infer_response.parameters["triton_final_response"].bool_param
    finally:
        made.close()


@pytest.mark.long
def test_what_drains_answers_what_it_has_accepted(tmp_path: Path) -> None:
    """A stream with a decoupled request in it ends behind the request's last response."""
    write_ticking(tmp_path / "models", "ticking", 20)
    made = StackThread(tmp_path, tmp_path / "models")
    try:
        with raw_client(made) as raw:
            more = queue.SimpleQueue[Any]()
            more.put(ticking(1, 50))
            call = raw.ModelStreamInfer(iter(more.get, None))
            answers = [next(call)]
            made.stack.kill("frontend", signal.SIGTERM)
            with pytest.raises(grpc.RpcError) as caught:
                answers.extend(iter(lambda: next(call), None))
            more.put(None)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert "shutting down" in (caught.value.details() or "")
            assert len(answers) == 50
    finally:
        made.close()
