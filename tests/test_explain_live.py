"""A running stack, asked about requests: by their ids, their clients' ids, in the response, and in `cotenant top`."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from cotenant.cli import explain, top
from cotenant.inference import inference_pb2 as pb
from cotenant.v1 import scheduler_pb2, scheduler_pb2_grpc
from stacks import StackThread

Infer = Any
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture(scope="module")
def infer(identity_stack: StackThread) -> Iterator[Infer]:
    with grpc.insecure_channel(identity_stack.url) as channel:
        yield channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )


@pytest.fixture
def address(identity_stack: StackThread) -> str:
    return identity_stack.stack.services["scheduler"].address


def request(model: str, name: str = "", timeout_us: int = 0) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name=model, id=name, raw_input_contents=[bytes(64)])
    made.inputs.add(name="INPUT0", datatype="FP32", shape=[1, 16])
    made.parameters["cotenant_explain"].bool_param = True
    if timeout_us:
        made.parameters["timeout"].int64_param = timeout_us
    return made


def told(response: pb.ModelInferResponse) -> dict[str, Any]:
    return {key: getattr(p, p.WhichOneof("parameter_choice")) for key, p in response.parameters.items()}


def explained(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert explain.main([str(argument) for argument in arguments]) == 0
    return re.sub(r"\s+", " ", capsys.readouterr().out)


def test_a_response_and_the_scheduler_tell_the_same_of_a_request(infer: Infer, address: str) -> None:
    response = told(infer(request("slow", "order-17"), metadata=[("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01")]))
    assert response["cotenant_device"] == "cpu-0"
    assert response["cotenant_bound_level"] == 0.95
    story = explain.explain_running(address, str(response["cotenant_request_id"]))
    assert (story.model, story.client_request_id, story.outcome) == ("slow", "order-17", "in time")
    assert story.outlooks
    assert not story.remarks
    (launch,) = story.launches
    assert (launch.device_id, launch.batch_id) == (response["cotenant_device"], response["cotenant_batch_id"])
    assert launch.forecast is not None
    assert launch.run is not None
    assert launch.run.duration_ms == pytest.approx(response["cotenant_execution_ns"] / 1e6)
    assert launch.forecast.duration_ms == pytest.approx(response["cotenant_predicted_execution_ns"] / 1e6)
    assert launch.forecast.co_runner_count == response["cotenant_predicted_co_runners"]
    assert explain.explain_running(address, "order-17") == story
    assert explain.explain_running(address, TRACE) == story


def test_the_last_of_several_requests_of_one_name_is_told_and_the_others_are_named(
    infer: Infer, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "n" * 300  # of which 256 are kept
    ids = [told(infer(request("identity", long)))["cotenant_request_id"] for _ in range(2)]
    ids.append(told(infer(request("slow", long)))["cotenant_request_id"])
    story = explain.explain_running(address, long)
    assert story.request_id == ids[2]
    assert f"before it: {ids[1]}, {ids[0]}." in story.remarks[0]
    text = explained(capsys, long, "--scheduler", address, "--model", "identity")
    assert text.startswith(f"request {ids[1]}: identity version 1, 1 item: answered")
    assert "the scheduler does not tell" in text
    assert str(ids[0]) in text
    assert str(ids[2]) not in text
    number = told(infer(request("identity", "1234")))["cotenant_request_id"]  # a client's id may be a number
    assert explain.explain_running(address, "1234").request_id == number


def test_a_refusal_says_why_to_its_client_to_top_and_to_who_asks(
    infer: Infer, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        infer(request("slow", "hasty", timeout_us=5_000))
    trailers: dict[str, Any] = dict(cast("Any", refused.value).trailing_metadata())
    info = error_details_pb2.ErrorInfo()
    status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details[0].Unpack(info)
    assert info.reason == "PREDICTED_MISS"
    assert float(info.metadata["predicted_finish_ms"]) >= float(info.metadata["earliest_possible_ms"]) > 15.0
    text = explained(capsys, info.metadata["request_id"], "--address", address)
    assert "(PREDICTED_MISS)" in text
    assert "An empty device would have allowed one at +" in text
    assert "id 'hasty' of its client" in text

    found = asyncio.run(top.sample(address, 0.1))
    (miss,) = [miss for miss in found.misses if miss.client_request_id == "hasty"]
    assert str(miss.request_id) == info.metadata["request_id"]
    assert (miss.model, miss.reason) == ("slow", "PREDICTED_MISS")
    assert miss.why.startswith("refused, PREDICTED_MISS: ")
    assert top.main(["--scheduler", address, "--once", "--interval-s", "0.1"]) == 0
    assert f"{miss.request_id}  slow:1  refused, PREDICTED_MISS" in capsys.readouterr().out


def test_what_is_not_known_is_said_with_what_is(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain.main(["never-sent", "--scheduler", address]) == 1
    error = capsys.readouterr().err
    assert f"no request 'never-sent' at {address}: the scheduler remembers no such request; it remembers " in error
    assert explain.main(["1", "--scheduler", "localhost:1"]) == 1
    assert "localhost:1 answered UNAVAILABLE" in capsys.readouterr().err
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as wrong:
        list(scheduler_pb2_grpc.SchedulerServiceStub(channel).Explain(scheduler_pb2.ExplainRequest(trace_id="abc")))
    assert wrong.value.code() is grpc.StatusCode.INVALID_ARGUMENT
