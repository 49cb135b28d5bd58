"""Health while services come and go; SIGTERM: what was accepted is answered, what comes later is told why not."""

import signal
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cotenant.inference import inference_pb2 as pb
from frontend_stack import RawClient, eventually, infer_request, lane, model_status, raw_client, running, vector
from stacks import StackThread, write_model

STOPPING = "GRPC server is shutting down and has stopped accepting new requests."


@pytest.fixture
def stack(tmp_path: Any) -> Iterator[StackThread]:
    write_model(tmp_path / "models", "lane", lane(400))
    made = StackThread(tmp_path, tmp_path / "models")
    yield made
    made.close()


@pytest.fixture
def client(stack: StackThread) -> Iterator[RawClient]:
    with raw_client(stack) as made:
        yield made


def request(request_id: str = "") -> pb.ModelInferRequest:
    made = infer_request("lane", IN0=vector())
    made.id = request_id
    return made


def test_accepted_requests_are_answered_and_new_ones_refused(stack: StackThread, client: RawClient) -> None:
    with grpc.insecure_channel(stack.url) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watched = health.Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        accepted = [client.ModelInfer.future(request(), timeout=30) for _ in range(3)]
        stream = client.ModelStreamInfer(endless([request("a"), request("b")]), timeout=30)
        eventually(lambda: running(stack) == 1, "the first runs")
        eventually(lambda: model_status(stack, "lane").queued == 4, "the others wait")
        process = stack.stack.processes["frontend"]
        process.send_signal(signal.SIGTERM)
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not any(call.done() for call in accepted[1:])  # health turned before they were answered
        assert not client.ServerReady(pb.ServerReadyRequest(), timeout=10).ready
        assert client.ServerLive(pb.ServerLiveRequest(), timeout=10).live
        with pytest.raises(grpc.RpcError) as caught:
            client.ModelInfer(request(), timeout=10)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == STOPPING
        for call in accepted:
            assert call.result().raw_output_contents
        assert [next(stream).infer_response.id for _ in range(2)] == ["a", "b"]
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == STOPPING
        assert process.wait(timeout=20) == 0


def test_a_scheduler_that_dies_is_seen_in_the_health_and_forgets_no_model(
    stack: StackThread, client: RawClient
) -> None:
    with grpc.insecure_channel(stack.url) as channel:
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        stack.stack.kill("scheduler")
        calls = [client.ModelInfer.future(request(), timeout=30) for _ in range(3)]
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert client.ModelMetadata(pb.ModelMetadataRequest(name="lane")).name == "lane"
        stack.stack.spawn("scheduler")
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        for call in calls:  # they waited for its successor
            assert call.result().raw_output_contents
        assert client.ModelInfer(request(), timeout=30).raw_output_contents


def endless(messages: list[pb.ModelInferRequest]) -> Iterator[pb.ModelInferRequest]:
    """Sends messages and then leaves the stream open."""
    yield from messages
    threading.Event().wait(60)
