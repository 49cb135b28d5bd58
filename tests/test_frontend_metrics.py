"""What Prometheus reads of the frontend: Triton's names, histograms, and why requests were refused."""

import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from cotenant.inference import inference_pb2 as pb
from frontend_requests import put_parameters
from frontend_stack import RawClient, eventually, identity_of, infer_request, lane, raw_client, running, vector
from stacks import StackThread, free_port, write_model

# Read as Prometheus reads it; the library's own parser renames counters.
_SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Measured:
    """A stack whose frontend serves metrics."""

    def __init__(self, folder: Any) -> None:
        write_model(folder / "models", "identity", identity_of([("FP32", [16])], max_batch_size=8))
        write_model(folder / "models", "lane", lane(100))
        write_model(folder / "models", "large", identity_of([("FP32", [65536])], max_batch_size=2))
        self._port, self._executors = free_port(), free_port()
        extra = {
            "frontend": (f"--metrics=127.0.0.1:{self._port}",),
            "executor": (f"--metrics=127.0.0.1:{self._executors}",),
        }
        self.stack = StackThread(folder, folder / "models", extra=extra)

    def text(self, port: int = 0) -> str:
        """The exposition of the frontend, or at another port."""
        with urllib.request.urlopen(f"http://127.0.0.1:{port or self._port}/metrics", timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            content: bytes = answer.read()
        return content.decode()

    def outputs_bytes(self) -> float:
        """Shared memory that outputs occupy at the executor."""
        (value,) = re.findall(r"^cotenant_output_bytes_used\{.*\} (\S+)$", self.text(self._executors), re.MULTILINE)
        return float(value)

    def samples(self) -> Samples:
        """All samples by name and labels."""
        found = (_SAMPLE.fullmatch(line) for line in self.text().splitlines() if not line.startswith("#"))
        return {(m[1], frozenset(_LABEL.findall(m[2] or ""))): float(m[3]) for m in found if m}


def of(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset({"version": "1", **labels}.items())]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    made = Measured(tmp_path_factory.mktemp("metrics"))
    yield made
    made.stack.close()


@pytest.fixture
def client(measured: Measured) -> Iterator[RawClient]:
    with raw_client(measured.stack) as made:
        yield made


def test_successes_move_tritons_counters_and_our_histograms(measured: Measured, client: RawClient) -> None:
    client.ModelInfer(infer_request("identity", IN0=vector()))
    before = measured.samples()
    for items in (1, 2, 3):
        client.ModelInfer(infer_request("identity", IN0=vector(items=items)))
    after = measured.samples()

    def moved(name: str, **labels: str) -> float:
        return of(after, name, model="identity", **labels) - of(before, name, model="identity", **labels)

    assert moved("nv_inference_request_success") == 3
    assert moved("nv_inference_count") == 6
    assert moved("nv_inference_exec_count") == 3
    assert moved("nv_inference_request_duration_us") > 0
    parts = (
        "queue_duration_us",
        "compute_input_duration_us",
        "compute_infer_duration_us",
        "compute_output_duration_us",
    )
    assert 0 < sum(moved(f"nv_inference_{part}") for part in parts) <= moved("nv_inference_request_duration_us")
    assert moved("cotenant_request_in_time_total") == 3
    assert moved("cotenant_request_late_total") == 0
    for histogram in ("cotenant_request_latency_seconds", "cotenant_request_queue_seconds"):
        assert moved(f"{histogram}_count") == 3
        assert moved(f"{histogram}_bucket", le="+Inf") == 3
        assert moved(f"{histogram}_sum") > 0


def test_tritons_counters_have_tritons_names(measured: Measured, client: RawClient) -> None:
    client.ModelInfer(infer_request("identity", IN0=vector()))
    text = measured.text()
    for name in (
        "request_success",
        "request_failure",
        "count",
        "exec_count",
        "request_duration_us",
        "queue_duration_us",
    ):
        assert f"# TYPE nv_inference_{name} counter\n" in text
        assert f"\nnv_inference_{name}{{" in text
    assert "# TYPE nv_inference_pending_request_count gauge\n" in text
    assert "# TYPE cotenant_request_latency_seconds histogram\n" in text
    assert "nv_inference_count_total" not in text


def test_refusals_are_counted_by_reason(measured: Measured, client: RawClient) -> None:
    client.ModelInfer(infer_request("lane", IN0=vector()))
    before = measured.samples()
    hasty = infer_request("lane", IN0=vector())
    put_parameters(hasty, {"timeout": 1000})
    for _ in range(2):
        with pytest.raises(grpc.RpcError):
            client.ModelInfer(hasty)
    with pytest.raises(grpc.RpcError):
        client.ModelInfer(infer_request("lane", FOO=vector()))
    after = measured.samples()
    name = "nv_inference_request_failure"
    for reason, count in {"REJECTED": 2, "OTHER": 1, "CANCELED": 0, "BACKEND": 0}.items():
        labels = {"model": "lane", "reason": reason}
        assert of(after, name, **labels) - of(before, name, **labels) == count, reason
    assert of(after, "cotenant_request_refused_total", model="lane", reason="PREDICTED_MISS") == 2


def test_pending_requests_and_cancellations_show(measured: Measured, client: RawClient) -> None:
    def pending() -> float:
        return of(measured.samples(), "nv_inference_pending_request_count", model="lane")

    client.ModelInfer(infer_request("lane", IN0=vector()))
    calls = [client.ModelInfer.future(infer_request("lane", IN0=vector())) for _ in range(4)]
    eventually(lambda: pending() == 4, "four are pending")
    eventually(lambda: running(measured.stack) == 1, "one runs")
    labels = {"model": "lane", "reason": "CANCELED"}
    before = of(measured.samples(), "nv_inference_request_failure", **labels)
    for call in calls[1:]:
        call.cancel()
    eventually(lambda: pending() <= 1, "the others have left")
    calls[0].result()
    eventually(lambda: pending() == 0, "none is left")
    assert of(measured.samples(), "nv_inference_request_failure", **labels) - before == 3


def test_shared_memory_is_given_back(measured: Measured, client: RawClient) -> None:
    large = infer_request("large", IN0=np.ones((2, 65536), np.float32))
    calls = [client.ModelInfer.future(large) for _ in range(20)]
    for call in calls[:10]:
        call.result()
    for call in calls[10:]:
        call.cancel()
    samples = measured.samples()
    assert samples["cotenant_staging_bytes", frozenset({("state", "capacity")})] > 2**20
    eventually(
        lambda: measured.samples()["cotenant_staging_bytes", frozenset({("state", "used")})] == 0, "no block is in use"
    )
    eventually(lambda: measured.outputs_bytes() == 0, "all outputs are released")


def test_unknown_models_add_no_series(measured: Measured, client: RawClient) -> None:
    for i in range(20):
        with pytest.raises(grpc.RpcError):
            client.ModelInfer(pb.ModelInferRequest(model_name=f"unknown-{i}"))
    assert "unknown-" not in measured.text()
