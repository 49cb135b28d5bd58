"""Tensors reach an executor through shared memory, and without it: where there is none, or it is full."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from frontend_stack import RawClient, identity_of, infer_request, raw_client
from stacks import StackThread, write_model


@pytest.fixture(scope="module", params=["small", "none"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawClient]:
    """A stack whose frontend has one MiB of shared memory, or none."""
    folder = tmp_path_factory.mktemp("staging")
    write_model(folder / "models", "any", identity_of([("FP32", [-1])], max_batch_size=0))
    flag = {"small": "--staging-mib=1", "none": "--staging-dir="}[request.param]
    stack = StackThread(folder, folder / "models", extra={"frontend": (flag,)})
    with raw_client(stack) as made:
        yield made
    stack.close()


def array(size: int, value: float) -> Any:
    return np.full(size, value, np.float32)


@pytest.mark.parametrize("size", [0, 1, 1000, 200_000, 2_000_000])
def test_tensors_of_any_size_come_back(client: RawClient, size: int) -> None:
    answer = client.ModelInfer(infer_request("any", IN0=array(size, 3.5)), timeout=60)
    assert list(answer.outputs[0].shape) == [size]
    assert answer.raw_output_contents[0] == array(size, 3.5).tobytes()


def test_many_at_once_are_not_mixed_up(client: RawClient) -> None:
    sizes = [1 + 977 * i for i in range(120)]  # some 28 MB in flight, of one MiB that could be shared
    calls = [client.ModelInfer.future(infer_request("any", IN0=array(n, n)), timeout=60) for n in sizes]
    for n, call in zip(sizes, calls, strict=True):
        assert call.result().raw_output_contents[0] == array(n, n).tobytes()
