"""Memory that is pinned where it lies, and torch's side of a capture, as far as these can be had without a device."""

import gc
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import structlog

torch = pytest.importorskip("torch")

import fake_torch_cuda as fake  # noqa: E402
from cotenant.executor import cuda_stream, torch_cuda_device, torch_cuda_lane, torch_cuda_streams  # noqa: E402
from cotenant.executor.exchange import Exchange  # noqa: E402
from cotenant.executor.pinned_ranges import PinnedRanges  # noqa: E402
from cotenant.executor.torch_cuda_device import CaptureError, TorchGraphDevice, reason_of  # noqa: E402
from cotenant.runtime.staging import Segment  # noqa: E402
from cotenant.v1 import executor_pb2  # noqa: E402
from fake_torch_cuda import numbers  # noqa: E402
from test_torch_cuda import MIB, Two, expected_of_two, exported, load  # noqa: E402


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> fake.Device:
    """The stand-in in place of the device."""
    made = fake.Device()
    monkeypatch.setattr(torch_cuda_device, "open_device", lambda _: made)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.pt2").write_bytes(exported(Two))
    return tmp_path


# ---- memory that is pinned where it lies


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> PinnedRanges:
    made = PinnedRanges()
    monkeypatch.setattr(torch_cuda_lane, "ranges", made)
    monkeypatch.setattr(torch_cuda_device, "ranges", made)
    return made


def test_inputs_in_pinned_memory_are_copied_from_where_they_lie(
    folder: Path, device: fake.Device, ranges: PinnedRanges
) -> None:
    model = load(folder, 1)
    memory = np.zeros(4096, dtype=np.uint8)
    x = memory[64 : 64 + 2 * 4 * 4].view(np.float32).reshape(2, 4)
    x[:] = numbers(2, 4)
    y = numbers(2, 4)
    unpin = torch_cuda_device.pinning(0)(memory.data)
    assert device.registered == {memory.ctypes.data: 4096}
    (lane,) = model._lanes.all
    for put in lane._classes[(2, 4), (2, 4)].inputs:
        put.staged[:] = 7
    outputs = model.run({"x": x, "y": y})
    np.testing.assert_allclose(outputs["p"], expected_of_two(x, y)["p"], rtol=1e-5)
    staged = {put.name: put.staged for put in lane._classes[(2, 4), (2, 4)].inputs}
    assert (staged["x"] == 7).all()
    np.testing.assert_array_equal(staged["y"], y)
    unpin()
    assert device.registered == {}


def test_a_range_that_is_being_read_stays_pinned_until_that_is_done(ranges: PinnedRanges) -> None:
    memory, other = np.zeros(4096, dtype=np.uint8), np.zeros(64, dtype=np.uint8)
    unpinned: list[int] = []
    known = ranges.add(memory.data, lambda *_: None, unpinned.append)
    assert known is not None
    assert ranges.read(other) is None
    assert ranges.read(memory[:128:2]) is None  # not one piece
    reads = [ranges.read(memory[:10]), ranges.read(memory[4000:])]
    assert reads == [known, known]
    ranges.remove(known)
    assert ranges.read(memory[:10]) is None
    ranges.done([known])
    assert unpinned == []
    ranges.done([known])
    assert unpinned == [memory.ctypes.data]


def test_memory_that_cannot_be_pinned_is_copied_from_as_before(ranges: PinnedRanges) -> None:
    def refuse(start: int, nbytes: int) -> None:
        raise RuntimeError("CUDA error: operation not supported\nmore")

    memory = np.zeros(MIB, dtype=np.uint8)
    with structlog.testing.capture_logs() as logs:
        assert ranges.add(memory.data, refuse, lambda _: None) is None
    assert (logs[0]["mib"], logs[0]["error"]) == (1, "CUDA error: operation not supported")
    assert ranges.read(memory) is None


def test_a_frontends_segment_is_pinned_while_it_is_mapped(
    tmp_path: Path, device: fake.Device, ranges: PinnedRanges
) -> None:
    exchange = Exchange(tmp_path, 0)
    exchange.on_map = torch_cuda_device.pinning(0)
    with Segment.create(tmp_path, 4096) as segment:
        hello = executor_pb2.ExchangeHello(frontend_id=1, segment=segment.name, nonce=segment.nonce)
        exchange.connect(hello)
        assert list(device.registered.values()) == [4096]
        again = exchange.connect(hello)
        assert list(device.registered.values()) == [4096]
        view = again.segment.view if again.segment else memoryview(b"")
        array = np.frombuffer(view[64:128], dtype=np.uint8)
        reading = ranges.read(array)
        assert reading is not None
        exchange.disconnect(again)
        assert len(device.registered) == 1  # what is being read stays
        ranges.done([reading])
    assert device.registered == {}


# ---- torch's side of it, as far as it can be had without a device


class _Steps:
    """A stand-in for the parts of torch that a capture goes through."""

    def __init__(self, fails_at: str = "") -> None:
        self.steps: list[str] = []
        self.fails_at = fails_at
        self.OutOfMemoryError = torch.OutOfMemoryError
        self.cuda = SimpleNamespace(CUDAGraph=lambda: self)
        self._C = SimpleNamespace(_cuda_endAllocateToPool=lambda index, pool: self.step(f"end pool {index} {pool}"))

    def step(self, name: str) -> str:
        self.steps.append(name)
        if name in self.fails_at.split():
            raise RuntimeError(f"CUDA error: {name}\nCompile with ...")
        return name

    def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
        assert not gc.isenabled()
        self.step(f"begin {pool} {capture_error_mode}")

    def capture_end(self) -> None:
        self.step("end")


class _Ring:
    """Torch's ring of streams, of three."""

    def __init__(self) -> None:
        self.drawn = 0

    def Stream(self, index: int, priority: int) -> Any:  # noqa: N802 (torch's name)
        self.drawn += 1
        return SimpleNamespace(cuda_stream=1000 * index + 100 * -priority + self.drawn % 3)


def test_no_two_lanes_have_one_stream_and_the_next_gets_what_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    streams, ring = torch_cuda_streams.Streams(), SimpleNamespace(cuda=_Ring())
    taken = [streams.take(ring, 1, priority) for priority in (0, 0, -1, 0)]
    assert len({stream.cuda_stream for stream in taken}) == 4
    with pytest.raises(ValueError, match="32 streams of priority 0, and all of them belong to lanes already"):
        streams.take(ring, 1, 0)
    streams.give_back(taken[1], 1, 0)
    assert streams.take(ring, 1, 0) is taken[1]


@pytest.mark.parametrize("fails_at", ["", "work", "end", "work end"])
def test_a_capture_that_fails_leaves_stream_and_allocator_usable(fails_at: str) -> None:
    steps = _Steps(fails_at)
    device: Any = TorchGraphDevice.__new__(TorchGraphDevice)
    device._torch, device._index, device._abandoned = steps, 2, []
    stream: Any = SimpleNamespace(active=lambda: cuda_stream.capturing)
    if not fails_at:
        graph, result = device.capture(stream, "pool", lambda: steps.step("work"))
        assert (graph, result) == (steps, "work")
        assert steps.steps == ["begin pool thread_local", "work", "end"]
    else:
        with pytest.raises(CaptureError, match=f"^RuntimeError: CUDA error: {fails_at.split(maxsplit=1)[0]}$"):
            device.capture(stream, "pool", lambda: steps.step("work"))
        # A capture that CUDA ended has to be taken out of torch's allocators, which may still ask it.
        assert steps.steps[-1] == ("end" if fails_at == "work" else "end pool 2 pool")
        assert device._abandoned == ([] if fails_at == "work" else [steps])
    assert gc.isenabled()
    assert cuda_stream.capturing.acquire(blocking=False)
    cuda_stream.capturing.release()


def test_the_reason_is_the_line_that_names_the_error() -> None:
    class Viewed(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[name-defined]
            return x.view(7, 7)

    with pytest.raises(RuntimeError) as caught:
        torch.jit.script(Viewed())(torch.ones(2))
    assert reason_of(caught.value) == "RuntimeError: shape '[7, 7]' is invalid for input of size 2"
    assert reason_of(ValueError("one\ntwo")) == "ValueError: one"


def test_out_of_memory_while_capturing_is_told_as_such() -> None:
    device: Any = TorchGraphDevice.__new__(TorchGraphDevice)
    device._torch, device._index, device._abandoned = _Steps(), 0, []
    stream: Any = SimpleNamespace(active=lambda: cuda_stream.capturing)

    def work() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        device.capture(stream, "pool", work)
