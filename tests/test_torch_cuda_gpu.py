"""Torch programs in lanes on a GPU: what test_torch_cuda.py can only assume. All of it is marked `gpu`."""

import gc
import itertools
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

torch = pytest.importorskip("torch")

from cotenant.executor import kernel_timing, pinned_ranges, torch_cuda_device, torch_cuda_memory  # noqa: E402
from cotenant.executor.backend import Placement  # noqa: E402
from cotenant.executor.backend_torch import make  # noqa: E402
from cotenant.executor.torch_cuda_model import CudaModel  # noqa: E402
from cotenant.runtime.staging import Segment  # noqa: E402
from fake_torch_cuda import numbers  # noqa: E402
from test_torch_cuda import MIB, TENSORS, Asks, compiled, expected_of_two, exported, load, placed, until  # noqa: E402

pytestmark = pytest.mark.gpu


@pytest.fixture
def gpu() -> Placement:
    """The first GPU."""
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    make()
    torch.ones(1, device="cuda")  # the context is there before memory is looked at
    return placed(4)


class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Some hundred small products, one after the other: milliseconds that fill few multiprocessors."""

    depth = 200

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 256)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(256, 256) for _ in range(self.depth))
        self.last = torch.nn.Linear(256, 4)
        random = torch.Generator().manual_seed(0)
        for weights in self.parameters():
            torch.nn.init.uniform_(weights, -0.05, 0.05, generator=random)

    def forward(self, x: Any, y: Any) -> Any:
        h = self.first(x + y)
        for layer in self.layers:
            h = h + torch.tanh(layer(h)) * 0.1
        return {"z": self.last(h)}


NET = """
max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [ 4 ] }, { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }]
output [{ name: "z" data_type: TYPE_FP32 dims: [ 4 ] }]
"""


@pytest.fixture
def net(tmp_path: Path, gpu: Placement) -> Path:
    (tmp_path / "model.pt2").write_bytes(exported(Net))
    reference()
    return tmp_path


@cache
def reference() -> Any:
    return Net().eval()


def agrees(model: CudaModel, size: int) -> None:
    """A run's outputs are what the same program gives on the CPU."""
    x, y = numbers(size, 4), numbers(size, 4) + 1
    with torch.inference_mode():
        expected = reference()(torch.from_numpy(x), torch.from_numpy(y))["z"].numpy()
    np.testing.assert_allclose(model.run({"x": x, "y": y})["z"], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["exported", "scripted"])
def test_gpu_outputs_are_those_of_the_cpu(net: Path, gpu: Placement, kind: str) -> None:
    if kind == "scripted":
        (net / "model.pt2").unlink()
        torch.jit.trace(Net().eval(), (torch.ones(2, 4), torch.ones(2, 4)), strict=False).save(str(net / "model.pt"))
    model = load(net, 2, NET)
    for size in (1, 2, 3, 4, 5, 8, 1):
        agrees(model, size)
    assert model._eager == ""
    for lane in model._lanes.all:
        assert all(lane.knows(((size, 4), (size, 4))) for size in (1, 2, 4, 8))
    model.close()


@pytest.mark.long
def test_gpu_a_compiled_package_is_captured_too(tmp_path: Path, gpu: Placement) -> None:
    compiled(tmp_path, "cuda")
    model = load(tmp_path, 2, TENSORS)
    for size in (1, 4, 8):
        x, y = numbers(size, 4), numbers(size, 4) + 1
        outputs = model.run({"x": x, "y": y})
        for name, array in expected_of_two(x, y).items():
            np.testing.assert_allclose(outputs[name], array, rtol=1e-3)
    assert model._eager == ""
    model.close()


def test_gpu_lanes_overlap(net: Path, gpu: Placement) -> None:
    model = load(net, 4, NET)
    x = numbers(8, 4)
    shapes = ((8, 4), (8, 4))
    together = threading.Barrier(4)
    marks: list[list[Any]] = [[] for _ in range(4)]

    def run(lane: Any, told: list[Any]) -> None:
        together.wait(30)
        for _ in range(20):
            lane.run({"x": x, "y": x}, shapes, told)

    begin = model._lanes.all[0].stream.mark()
    threads = [threading.Thread(target=run, args=pair) for pair in zip(model._lanes.all, marks, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spans = sorted(
        (told[at + 1].ns_since(begin), told[at + 2].ns_since(begin), lane)
        for lane, told in enumerate(marks)
        for at in range(0, len(told), 4)
    )
    beside = [b for a, b in itertools.pairwise(spans) if b[0] < a[1] and a[2] != b[2]]
    assert len(beside) >= len(spans) // 4
    model.close()


def test_gpu_captured_runs_allocate_nothing(net: Path, gpu: Placement) -> None:
    model = load(net, 2, NET)
    agrees(model, 8)

    def allocations() -> int:
        return int(torch.cuda.memory_stats()["allocation.all.allocated"])

    before, reserved = allocations(), torch.cuda.memory_reserved()
    for size in (1, 8, 2, 4, 8):
        agrees(model, size)
    assert allocations() == before
    assert torch.cuda.memory_reserved() == reserved
    model.close()


def test_gpu_classes_are_captured_while_others_run(net: Path, gpu: Placement) -> None:
    model = load(net, 3, NET)
    wrong: list[BaseException] = []
    over = threading.Event()

    def serve() -> None:
        try:
            while not over.is_set():
                agrees(model, 8)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=serve) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for size in (3, 5, 6, 7):
            for _ in range(2):
                agrees(model, size)
            until(lambda size=size: all(lane.knows(((size, 4), (size, 4))) for lane in model._lanes.all))  # type: ignore[misc]
            agrees(model, size)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert model._eager == ""
    model.close()


def test_gpu_memory_is_told_and_given_back(net: Path, gpu: Placement) -> None:
    torch.cuda.empty_cache()
    reserved, free = torch.cuda.memory_reserved(), torch.cuda.mem_get_info()[0]
    model = load(net, 4, NET)
    torch.cuda.empty_cache()
    grown = torch.cuda.memory_reserved() - reserved
    assert model.memory_bytes >= grown >= model.weight_bytes >= 200 * 256 * 256 * 4
    assert model.memory_bytes >= free - torch.cuda.mem_get_info()[0] - 64 * MIB  # what other processes took meanwhile
    model.close()
    del model
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()  # which stay, for the next lanes of these streams
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= reserved + 8 * MIB


def test_gpu_a_load_that_does_not_fit_is_refused_before_it_begins(
    net: Path, gpu: Placement, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.cuda.memory_allocated()
    monkeypatch.setattr(torch_cuda_memory, "HEADROOM_BYTES", torch.cuda.mem_get_info()[0])
    with pytest.raises(ValueError, match=r"model 'm': weights need \d+\.\d MiB, .* are free on NVIDIA"):
        load(net, 4, NET)
    assert torch.cuda.memory_allocated() == before


def test_gpu_a_failed_capture_leaves_the_device_usable(tmp_path: Path, net: Path, gpu: Placement) -> None:
    folder = tmp_path / "asks"
    folder.mkdir()
    torch.jit.script(Asks()).save(str(folder / "model.pt"))
    with structlog.testing.capture_logs() as logs:
        asks = load(folder, 2, NET)
    assert [log["batch_class"] for log in logs if log["event"].startswith("no CUDA graph")] == ["[[8, 4], [8, 4]]"]
    model = load(net, 2, NET)
    for size in (1, 3, 8):
        agrees(model, size)
        x = numbers(size, 4)
        np.testing.assert_allclose(asks.run({"x": x, "y": x})["z"], 4 * x, rtol=1e-5)
    assert model._eager == ""
    asks.close()
    model.close()
    torch.cuda.empty_cache()


def test_gpu_kernels_are_told_from_the_best_source_there_is(net: Path, gpu: Placement) -> None:
    model = load(net, 2, NET)
    x = numbers(8, 4)
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            agrees(model, 8)

    model.prepare_timed({"x": x, "y": x})
    model.run_timed({"x": x, "y": x})
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        _, kernels = model.run_timed({"x": x, "y": x})
    finally:
        over.set()
        thread.join()
    source = kernel_timing.of_process._source
    print("source of kernel timings:", source.name if source else "CUDA events", len(kernels), "kernels")  # noqa: T201
    assert [k.offset_ns for k in kernels] == sorted(k.offset_ns for k in kernels)
    assert all(k.duration_ns >= 0 for k in kernels)
    if source is None:
        assert [k.name for k in kernels] == ["copy inputs", "execute", "copy outputs"]
    else:  # 200 layers of one product each, once: nothing of what ran beside
        assert 200 <= sum("memcpy" not in k.name.lower() for k in kernels) < 1300
    model.close()


def test_gpu_inputs_are_right_whether_shared_memory_can_be_pinned_or_not(
    net: Path, gpu: Placement, tmp_path: Path
) -> None:
    model = load(net, 1, NET)
    pin = torch_cuda_device.pinning(0)
    with Segment.create(Path("/dev/shm"), MIB) as ours:
        x, y = numbers(8, 4), numbers(8, 4) + 1
        ours.view[4096 : 4096 + x.nbytes] = x.tobytes()
        theirs = Segment.attach(Path("/dev/shm"), ours.name, ours.nonce)
        assert theirs is not None
        unpin = pin(theirs.view)
        print("shared memory is pinned:", bool(pinned_ranges.ranges._ranges))  # noqa: T201
        array = np.frombuffer(theirs.view[4096 : 4096 + x.nbytes], dtype=np.float32).reshape(8, 4)
        expected = model.run({"x": x, "y": y})["z"].copy()
        np.testing.assert_array_equal(model.run({"x": array, "y": y})["z"], expected)
        del array
        unpin()
        theirs.close()
    model.close()


def test_gpu_streams_have_the_priority_that_was_asked_for(net: Path, gpu: Placement) -> None:
    high = load(net, 1, NET + "optimization { priority: PRIORITY_MAX }")
    low = load(net, 1, NET)
    priorities = [model._lanes.all[0].stream._stream.priority for model in (high, low)]  # type: ignore[attr-defined]
    assert priorities[0] < priorities[1] == 0
    high.close()
    low.close()
