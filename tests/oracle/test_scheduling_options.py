"""Queue policies and the rate limiter against a real Triton: who is refused, and who waits for whom."""

import time
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from cotenant.inference import inference_pb2 as pb
from frontend_stack import RawClient, identity_of, infer_request, option
from oracle.repository import ECHO
from oracle.tritonserver import TritonServer, installed
from stacks import StackThread, write_model

pytestmark = [
    pytest.mark.long,
    pytest.mark.oracle,
    pytest.mark.skipif(not installed(), reason="there is no tritonserver here to compare with: run scripts/oracle"),
]
DELAY_S = 0.3
LONG_S = 1.5  # long enough for all to be sent while one runs
LEVELS = """
dynamic_batching { priority_levels: 3 default_priority_level: 2 default_queue_policy { max_queue_size: 3 }
  priority_queue_policy [{ key: 1 value { max_queue_size: 2 } }, { key: 3 value { } }] }
instance_group [{ count: 1 kind: KIND_CPU }]
"""
LIMITED = 'instance_group [{ count: 1 kind: KIND_CPU rate_limiter { resources [{ name: "R" count: 1 }] } }]'


def config(more: str) -> str:
    delay = option("execute_delay_ms", str(int((LONG_S if more == LEVELS else DELAY_S) * 1000)))
    return identity_of([("FP32", [1])], max_batch_size=1, more=f"{delay} {more}").removeprefix('backend: "identity"')


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RawClient, RawClient]]:
    """Theirs and ours."""
    folder = tmp_path_factory.mktemp("options")
    for name, more in (("levels", LEVELS), ("a", LIMITED), ("b", LIMITED)):
        write_model(folder / "ours", name, f'backend: "identity" {config(more)}')
        write_model(folder / "theirs", name, f'backend: "python" {config(more)}', files={"model.py": ECHO.encode()})
    flags = ("--rate-limit=execution_count", "--rate-limit-resource=R:1")
    extra = {"scheduler": ("--rate-limit=execution_count", "--rate-limit-resource=R:1")}
    with TritonServer(folder / "theirs", folder / "log", flags=flags) as server:
        stack = StackThread(folder, folder / "ours", extra=extra)
        clients = RawClient(server.url), RawClient(stack.url)
        yield clients
        for client in clients:
            client.close()
        stack.close()


def request(model: str, priority: int = 0) -> pb.ModelInferRequest:
    made = infer_request(model, IN0=np.ones((1, 1), np.float32))
    if priority:
        made.parameters["priority"].int64_param = priority
    return made


def outcome(call: "grpc.Future[pb.ModelInferResponse]") -> str:
    error = call.exception()
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.RpcError) else "OK"


@pytest.mark.parametrize("priority", [0, 1, 2, 3, 9])
def test_each_level_of_priority_has_a_queue_of_its_own(servers: tuple[RawClient, RawClient], priority: int) -> None:
    told = []
    for client in servers:
        calls = [client.ModelInfer.future(request("levels", 3), timeout=20)]
        time.sleep(LONG_S / 3)  # it runs
        for _ in range(6):
            calls.append(client.ModelInfer.future(request("levels", priority), timeout=20))
            time.sleep(0.01)
        told.append([outcome(call) for call in calls])
    assert told[0] == told[1]
    assert told[1][0] == "OK"


def test_models_wait_for_resources(servers: tuple[RawClient, RawClient]) -> None:
    """Asleep one after the other they need the sum; two at a time would need half of it."""
    for client in servers:
        began = time.monotonic()
        calls = [client.ModelInfer.future(request("ab"[n % 2]), timeout=20) for n in range(4)]
        assert [outcome(call) for call in calls] == ["OK"] * 4
        assert time.monotonic() - began >= 4 * DELAY_S * 0.95
