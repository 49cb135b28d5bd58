"""Trace context from the client to the spans: exported over OTLP where asked, and nothing imported where not."""

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from frontend_requests import put_parameters
from frontend_stack import RawClient, eventually, infer_request, lane, raw_client, running, vector
from stacks import IDENTITY, StackThread, free_port, write_model

pytest.importorskip("opentelemetry.sdk", reason="the extra 'opentelemetry' is not installed")

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc]
    """Keeps the spans it is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resource: dict[str, str] = {}

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        for resource in request.resource_spans:
            self.resource.update({a.key: a.value.string_value for a in resource.resource.attributes})
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()

    def of(self, trace: str) -> dict[str, Any]:
        """The spans of one trace, by name."""
        return {span.name: span for span in list(self.spans) if span.trace_id.hex() == trace}


@pytest.fixture(scope="module")
def collector() -> Iterator[tuple[Collector, int]]:
    made, port = Collector(), free_port()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(made, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    yield made, port
    server.stop(None)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, collector: tuple[Collector, int]) -> Iterator[StackThread]:
    folder = tmp_path_factory.mktemp("tracing")
    write_model(folder / "models", "identity", IDENTITY)
    write_model(folder / "models", "lane", lane(100))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        extra = {"frontend": (f"--otlp-endpoint=http://127.0.0.1:{collector[1]}",)}
        made = StackThread(folder, folder / "models", extra=extra)
    yield made
    made.close()


@pytest.fixture
def client(traced: StackThread) -> Iterator[RawClient]:
    with raw_client(traced) as made:
        yield made


def traceparent(trace: str, flags: str = "01") -> tuple[tuple[str, str], ...]:
    return (("traceparent", f"00-{trace}-{PARENT}-{flags}"),)


def values(span: Any) -> dict[str, Any]:
    """A span's attributes."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def test_a_request_is_a_span_with_queue_and_execution_inside(
    traced: StackThread, client: RawClient, collector: tuple[Collector, int]
) -> None:
    blocker = client.ModelInfer.future(infer_request("lane", IN0=vector()))
    eventually(lambda: running(traced) == 1, "the blocker runs")
    began = time.time_ns()
    answer = client.ModelInfer(infer_request("lane", IN0=vector()), metadata=traceparent(TRACE))
    ended = time.time_ns()
    blocker.result()
    assert not answer.parameters  # the collector is told; the client did not ask
    eventually(lambda: len(collector[0].of(TRACE)) == 3, "the spans arrive")
    spans = collector[0].of(TRACE)
    request, queue, execution = (spans[n] for n in ("inference.GRPCInferenceService/ModelInfer", "queue", "execution"))
    assert request.parent_span_id.hex() == PARENT
    assert request.kind == 2  # SERVER
    assert queue.parent_span_id == execution.parent_span_id == request.span_id
    assert began <= request.start_time_unix_nano <= request.end_time_unix_nano <= ended
    assert request.start_time_unix_nano == queue.start_time_unix_nano
    assert queue.end_time_unix_nano <= execution.start_time_unix_nano
    assert execution.end_time_unix_nano <= request.end_time_unix_nano
    assert queue.end_time_unix_nano > queue.start_time_unix_nano
    assert execution.end_time_unix_nano - execution.start_time_unix_nano >= 100e6
    told = values(execution)
    assert told["cotenant.batch_size"] == 1
    assert told["cotenant.batch_id"] > 0
    assert told["cotenant.co_runners"] == 0
    assert told["cotenant.measured_ns"] >= 100e6
    assert told["cotenant.predicted_ns"] >= 100e6
    assert told["cotenant.predicted_bound_ns"] >= told["cotenant.predicted_ns"]
    outer = values(request)
    assert (outer["cotenant.model"], outer["cotenant.version"]) == ("lane", "1")
    assert (outer["rpc.service"], outer["rpc.method"]) == ("inference.GRPCInferenceService", "ModelInfer")
    assert outer["rpc.grpc.status_code"] == 0
    assert collector[0].resource["service.name"] == "cotenant-frontend"


def test_a_refusal_is_a_span_with_its_reason(client: RawClient, collector: tuple[Collector, int]) -> None:
    trace = "1" * 32
    hasty = infer_request("lane", IN0=vector())
    put_parameters(hasty, {"timeout": 1000})
    with pytest.raises(grpc.RpcError):
        client.ModelInfer(hasty, metadata=traceparent(trace))
    eventually(lambda: collector[0].of(trace), "the span arrives")
    (span,) = collector[0].of(trace).values()
    assert span.status.code == 2  # ERROR
    assert "predicted to finish" in span.status.message
    assert values(span)["cotenant.reason"] == "PREDICTED_MISS"
    assert values(span)["rpc.grpc.status_code"] == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


def test_requests_of_a_stream_are_spans_of_one_trace(client: RawClient, collector: tuple[Collector, int]) -> None:
    trace = "2" * 32
    requests = [infer_request("identity", INPUT0=vector()) for _ in range(3)]
    assert len(list(client.ModelStreamInfer(iter(requests), metadata=traceparent(trace)))) == 3
    spans = collector[0].spans
    eventually(lambda: sum(s.trace_id.hex() == trace for s in list(spans)) == 9, "all arrive")
    outer = [s for s in spans if s.trace_id.hex() == trace and s.name.endswith("/ModelStreamInfer")]
    assert len(outer) == 3
    assert {s.parent_span_id.hex() for s in outer} == {PARENT}


def test_what_the_client_does_not_sample_is_not_exported(client: RawClient, collector: tuple[Collector, int]) -> None:
    unsampled, sampled = "3" * 32, "4" * 32
    request = infer_request("identity", INPUT0=vector())
    client.ModelInfer(request, metadata=traceparent(unsampled, flags="00"))
    client.ModelInfer(request, metadata=(("traceparent", "00-nonsense"),))  # a trace of its own
    client.ModelInfer(request, metadata=traceparent(sampled))
    eventually(lambda: len(collector[0].of(sampled)) == 3, "the later one arrives")
    assert not collector[0].of(unsampled)


def test_without_an_endpoint_nothing_is_imported() -> None:
    code = (
        "import sys, cotenant.frontend.__main__\n"
        "from cotenant.frontend import tracing\n"
        "span = tracing.connect('', software='x').start((), 'a/b', 'm', 0)\n"
        "span.end()\n"
        "print([m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_without_an_endpoint_the_clients_context_is_carried_on() -> None:
    from cotenant.frontend.tracing import Tracing

    start = Tracing().start
    valid = f"00-{TRACE}-{PARENT}-01"
    assert start((("traceparent", valid),), "a/b", "m", 0).traceparent == valid
    assert start((("x", "y"), ("traceparent", valid)), "a/b", "m", 0).traceparent == valid
    for metadata in (None, (), (("traceparent", "00-" + "0" * 32 + f"-{PARENT}-01"),), (("traceparent", b"x"),)):
        assert start(metadata, "a/b", "m", 0).traceparent == ""


def test_a_missing_library_is_told_by_name() -> None:
    code = (
        "import sys\n"
        "sys.modules['opentelemetry.sdk.trace'] = None\n"
        "from cotenant.frontend.__main__ import main\n"
        "main(['--otlp-endpoint=localhost:4317', '--listen=127.0.0.1:0', '--metrics='])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert "cotenant.frontend: --otlp-endpoint needs the extra cotenant[opentelemetry]" in ended.stderr
