"""Our frontend against a real Triton: the same calls to both, and every difference is one that is meant.

What differs on purpose is in differences.toml. A test that fails here tells the call and both answers.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from cotenant.inference import inference_pb2 as pb
from frontend_stack import RawClient, infer_request, vector
from oracle import corpus, generated, repository
from oracle.comparing import Call, Comparison, Oracle, ask, intended
from oracle.infer_corpus import put_region
from oracle.tritonserver import TritonServer, installed
from stacks import StackThread

pytestmark = [
    pytest.mark.long,
    pytest.mark.oracle,
    pytest.mark.skipif(not installed(), reason="there is no tritonserver here to compare with: run scripts/oracle"),
]
EXAMPLES = int(os.environ.get("COTENANT_ORACLE_EXAMPLES", "1500"))


@dataclass
class Pair:
    """Both servers."""

    oracle: Oracle
    ours: RawClient
    comparison: Comparison

    def same(self, name: str, method: str, request: Any) -> str:
        """Asserts that both answer alike; what that is."""
        theirs, ours = self.oracle.ask(Call(name, method, request)), ask(self.ours, Call(name, method, request))
        assert ours == theirs, name
        return ours


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("oracle")
    repository.write(folder / "ours", folder / "theirs")
    flags = ("--model-control-mode=explicit", "--load-model=*")
    with TritonServer(folder / "theirs", folder / "log", flags=flags) as server:
        stack = StackThread(folder, folder / "ours", extra={"frontend": ("--allow-client-shm", "--allow-model-files")})
        oracle, ours = Oracle(server), RawClient(stack.url)
        yield Pair(oracle, ours, Comparison(oracle, ours, intended()))
        oracle.close()
        ours.close()
        stack.close()


def test_every_method_and_what_goes_wrong_with_it(pair: Pair) -> None:
    for call in corpus.calls():
        pair.comparison.put(call)
    assert pair.comparison.count > 550
    assert pair.comparison.unexplained == []


def test_requests_that_nobody_thought_of(pair: Pair) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(generated.requests())
    def put(request: pb.ModelInferRequest) -> None:
        pair.comparison.put(Call(f"generated {request}", "ModelInfer", request))

    before = pair.comparison.count
    put()
    assert pair.comparison.count - before >= 0.9 * EXAMPLES
    assert pair.comparison.unexplained == []


def test_no_difference_is_listed_that_does_not_occur(pair: Pair) -> None:
    """After the two tests above; alone it has nothing to judge by."""
    if pair.comparison.count < 500:
        pytest.skip("the calls were not put")
    rare = {"typed-overflow", "unaligned-region", "same-key"}  # have tests of their own
    rare |= {"one-empty-batch"}  # a chance of the generated ones
    unused = {difference.id for difference in intended()} - pair.comparison.explained.keys() - rare
    assert unused == set()
    told = ", ".join(f"{key} {count}" for key, count in sorted(pair.comparison.explained.items()))
    print(f"{pair.comparison.count} calls compared; intended differences: {told}")  # noqa: T201


def test_a_number_that_does_not_fit(pair: Pair) -> None:
    request = pb.ModelInferRequest(model_name="types")
    request.inputs.add(name="IN1", datatype="UINT8", shape=[1, 3]).contents.uint_contents.extend([1, 2, 300])
    theirs, ours = (side(Call("300", "ModelInfer", request)) for side in (pair.oracle.ask, lambda c: ask(pair.ours, c)))
    assert "holds a value that UINT8 cannot" in ours
    assert "expected 13 inputs" in theirs  # it would have taken the 300 as 44


# ---- shared memory


@pytest.fixture
def key() -> Iterator[str]:
    """Shared memory of 256 bytes with vector(2.5) in its second quarter, and a copy."""
    paths = [Path(f"/dev/shm/oracle-test-{os.getpid()}{copy}") for copy in ("", "-copy")]
    for path in paths:
        path.write_bytes(bytes(64) + vector(2.5).tobytes() + bytes(128))
    yield f"/{paths[0].name}"
    for path in paths:
        path.unlink()


def _from_region(size: int = 64, offset: int | None = 64, name: str = "r") -> pb.ModelInferRequest:
    request = infer_request("identity", INPUT0=vector())
    del request.raw_input_contents[:]
    put_region(request.inputs[0], name, size, offset)
    return request


def test_regions_of_shared_memory(pair: Pair, key: str) -> None:
    register = pb.SystemSharedMemoryRegisterRequest
    path = Path("/dev/shm") / key.removeprefix("/")
    for name, asked in (
        ("too large", register(name="big", key=key, byte_size=257)),
        ("beyond its end", register(name="big", key=key, offset=200, byte_size=57)),
        ("three quarters", register(name="r", key=key, byte_size=192)),
        ("twice", register(name="r", key=key, byte_size=64)),
    ):
        pair.same(name, "SystemSharedMemoryRegister", asked)
    for name in ("r", "", "nope"):
        pair.same(f"status of {name}", "SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(name=name))
    assert "IEAAACBA" in pair.same("read", "ModelInfer", _from_region())
    pair.same("read without an offset", "ModelInfer", _from_region(offset=None))
    for name, asked in (
        ("again", register(name="odd", key=key, byte_size=64)),
        ("unaligned", register(name="odder", key=f"{key}-copy", offset=64, byte_size=64)),
    ):
        assert pair.comparison.put(Call(name, "SystemSharedMemoryRegister", asked)), pair.comparison.unexplained
    for size, offset in ((63, 0), (65, 0), (64, 128), (64, 129), (64, 192), (64, -1), (-5, 0)):
        pair.comparison.unexplained.clear()
        assert pair.comparison.put(Call(f"{size} at {offset}", "ModelInfer", _from_region(size, offset))), (
            pair.comparison.unexplained
        )
    for size in (64, 100, 63):
        request = infer_request("identity", INPUT0=vector(7.0))
        put_region(request.outputs.add(name="OUTPUT0"), "r", size, 128 if size == 64 else 64)
        answer = pair.same(f"write {size}", "ModelInfer", request)
        if size >= 64:
            assert "'')" in answer  # nothing in the message
            assert np.frombuffer(path.read_bytes()[128:192], np.float32).tolist() == [7.0] * 16
    mixed = infer_request("add_sub", INPUT0=np.ones((1, 16), np.int32), INPUT1=np.ones((1, 16), np.int32) * 5)
    del mixed.raw_input_contents[0]
    put_region(mixed.inputs[0], "r", 64)
    pair.same("one input in a region, one in the message", "ModelInfer", mixed)
    both = _from_region()
    both.inputs[0].contents.fp32_contents.append(1.0)
    pair.same("contents beside a region", "ModelInfer", both)
    unregister = pb.SystemSharedMemoryUnregisterRequest
    pair.same("unregister", "SystemSharedMemoryUnregister", unregister(name="r"))
    for name in ("odd", "odder"):
        ask(pair.ours, Call("ours alone", "SystemSharedMemoryUnregister", unregister(name=name)))
    pair.same("gone", "ModelInfer", _from_region())
    pair.same("unregister all", "SystemSharedMemoryUnregister", unregister())
    pair.same("all gone", "SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest())
