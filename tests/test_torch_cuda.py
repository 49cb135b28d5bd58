"""Torch programs in lanes: order, graphs and memory on a stand-in (fake_torch_cuda.py).

The stand-in shows order, accounting and messages. It cannot show that CUDA does what the lanes take it to do.
"""

import gc
import io
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import structlog
from google.protobuf import text_format

torch = pytest.importorskip("torch")

import fake_torch_cuda as fake  # noqa: E402
from cotenant.executor import (  # noqa: E402
    torch_cuda_device,
    torch_cuda_memory,
)
from cotenant.executor.backend import Placement  # noqa: E402
from cotenant.executor.backend_torch import TorchBackend, make  # noqa: E402
from cotenant.executor.completion import complete  # noqa: E402
from cotenant.executor.profile import classes  # noqa: E402
from cotenant.executor.torch_cuda_model import CudaModel, Lanes  # noqa: E402
from cotenant.inference import inference_pb2 as pb  # noqa: E402
from fake_torch_cuda import numbers  # noqa: E402
from test_backends import (  # noqa: E402, F401 (the contract, collected here to run on the stand-in)
    CASES,
    Case,
    config_of,
    test_a_timed_run_gives_the_same_outputs_and_plausible_timings,
    test_outputs_are_right_at_any_batch_size,
    test_runs_on_several_threads_do_not_disturb_each_other,
    test_the_configuration_is_complete_after_a_load,
    twice,
)

MIB = 2**20


class Twice(torch.nn.Module):  # type: ignore[misc, name-defined]
    def forward(self, x: Any, y: Any) -> Any:
        return {"z": 2 * (x + y)}


class Two(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A product and a normalisation, with outputs of two types."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.from_numpy(numbers(4, 4)))

    def forward(self, x: Any, y: Any) -> Any:
        product = (x + y) @ self.weight
        return {"p": torch.softmax(product, -1), "best": product.argmax(-1)}


def expected_of_two(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        return {name: tensor.numpy() for name, tensor in Two()(torch.from_numpy(x), torch.from_numpy(y)).items()}


class Positive(torch.nn.Module):  # type: ignore[misc, name-defined]
    """As many outputs as there are positive inputs."""

    def forward(self, x: Any) -> Any:
        return x[torch.nonzero(x > 0)[:, 0]]


class Asks(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Asks the device for a number in between, which no graph can."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # type: ignore[name-defined]
        return 2 * (x + y) if x.sum().item() > 0 else 2 * (y + x)


class Wide(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Works in far more memory than its inputs have."""

    def forward(self, x: Any, y: Any) -> Any:
        return {"z": torch.cat([x + y] * 16, 1).sum(1)}


def placed(concurrency: int = 2) -> Placement:
    return Placement("cuda", 0, 1, 0, concurrency=concurrency)


def configured(text: str = "max_batch_size: 8") -> pb.ModelConfig:
    return text_format.Parse('name: "m" backend: "pytorch" ' + text, pb.ModelConfig())


@cache
def exported(module: type[Any], shape: tuple[int, ...] = (4,), most: int = 8) -> bytes:
    """An archive of a program of two inputs."""
    batch = torch.export.Dim("b", min=1, max=most)
    example = (torch.ones(2, *shape), torch.ones(2, *shape))
    program = torch.export.export(module().eval(), example, dynamic_shapes={"x": {0: batch}, "y": {0: batch}})
    torch.export.save(program, archive := io.BytesIO())
    return archive.getvalue()


def load(folder: Path, concurrency: int = 2, text: str = "max_batch_size: 8", *, prepared: bool = True) -> CudaModel:
    config = configured(text)
    model = TorchBackend().load(folder, config, placed(concurrency))
    assert isinstance(model, CudaModel)
    complete(config, model.signature, 8)
    if prepared:
        model.prepare(inputs for _, inputs in classes(config, "1"))
    return model


def check(model: CudaModel, size: int) -> dict[str, np.ndarray]:
    x, y = numbers(size, 4), numbers(size, 4) + 1
    outputs = model.run({"x": x, "y": y})
    for name, array in expected_of_two(x, y).items():
        np.testing.assert_allclose(outputs[name], array, rtol=1e-5)
        assert outputs[name].dtype == array.dtype
    return outputs


def until(met: Callable[[], bool]) -> None:
    for _ in range(2000):
        if met():
            return
        time.sleep(0.005)
    raise AssertionError("it did not happen")


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> fake.Device:
    """The stand-in in place of the device."""
    made = fake.Device()
    make()
    monkeypatch.setattr(torch_cuda_device, "open_device", lambda _: made)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.pt2").write_bytes(exported(Two))
    return tmp_path


class PreparedCase(Case):
    """As an executor loads it."""

    def load(self) -> Any:
        model = super().load()
        model.prepare(inputs for _, inputs in classes(self.config, "1"))  # type: ignore[attr-defined]
        return model


@pytest.fixture(params=["torch.export", "torchscript"])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    made: Case = CASES[request.param](tmp_path)
    return made


@pytest.fixture(params=[Case, PreparedCase])
def case(request: pytest.FixtureRequest, program: Case) -> Case:
    """Programs whose classes are captured at load, and programs whose classes are met as they come."""
    made: Case = request.param(program.folder, program.config, placed(), program.expected)
    return made


# ---- lanes and graphs


def test_each_lane_has_a_graph_of_each_class_and_no_more_lanes_than_instances(
    folder: Path, device: fake.Device
) -> None:
    load(folder, concurrency=3)
    assert (len(device.streams), device.captures) == (3, 3 * 4)
    load(folder, 3, "max_batch_size: 8 instance_group { count: 2 }")
    assert len(device.streams) == 3 + 2


def test_captured_classes_replay_and_allocate_nothing(folder: Path, device: fake.Device) -> None:
    model = load(folder)
    before = device.allocations
    for size in (1, 8, 2, 4, 8, 1):
        check(model, size)
    assert device.replays == 6
    assert device.allocations == before


def test_outputs_stay_what_they_were_as_long_as_anyone_has_them(folder: Path, device: fake.Device) -> None:
    model = load(folder, concurrency=1)
    kept, expected = [], []
    for size in (1, 2, 4, 8):
        x = numbers(size, 4)
        kept.append(model.run({"x": x, "y": x})["p"][:1])  # a part keeps the whole
        expected.append(expected_of_two(x, x)["p"][:1])
    np.testing.assert_allclose(np.concatenate(kept), np.concatenate(expected), rtol=1e-5)
    held = device.allocations
    del kept
    check(model, 8)
    assert device.allocations == held


def test_whoever_does_not_wait_reads_poison(folder: Path, device: fake.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(folder)
    monkeypatch.setattr(fake.Stream, "finish", lambda _: None)
    x = numbers(2, 4)
    outputs = model.run({"x": x, "y": x})
    assert (outputs["p"].view(np.uint8) == 0xAB).all()


def test_a_graph_that_is_replayed_twice_at_once_is_found(folder: Path, device: fake.Device) -> None:
    model = load(folder)
    assert model.memory_bytes
    graph = next(iter(device.graphs))
    first, second = device.streams
    with first.active():
        graph.replay()
    with second.active(), pytest.raises(AssertionError, match="overlap"):
        graph.replay()


def test_as_many_batches_run_at_once_as_there_are_lanes(folder: Path, device: fake.Device) -> None:
    device.latency_s = 0.02
    model = load(folder, concurrency=3)
    device.most_running = 0
    threads = [threading.Thread(target=check, args=(model, 4)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert device.most_running == 3


def test_streams_have_the_priority_that_the_configuration_asks_for(folder: Path, device: fake.Device) -> None:
    load(folder, 1, "max_batch_size: 8 optimization { priority: PRIORITY_MAX }")
    load(folder, 1)
    assert [stream.priority for stream in device.streams] == [-1, 0]


def test_a_class_that_was_not_known_is_captured_beside_what_runs(folder: Path, device: fake.Device) -> None:
    model = load(folder, concurrency=2)
    captured = device.captures
    wrong: list[Exception] = []
    over = threading.Event()

    def serve() -> None:
        try:
            while not over.is_set():
                check(model, 8)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=serve) for _ in range(3)]
    for thread in threads:
        thread.start()
    check(model, 3)
    assert device.captures == captured  # once is not often enough
    check(model, 3)
    until(lambda: device.captures == captured + 2)
    over.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    until(lambda: all(lane.knows(((3, 4), (3, 4))) for lane in model._lanes.all))
    before = device.allocations
    check(model, 3)
    assert device.allocations == before


def test_a_lane_that_is_wanted_by_itself_goes_to_nobody_else() -> None:
    lane: Any = object()
    lanes = Lanes([lane])
    order: list[str] = []

    def run() -> None:
        with lanes.any():
            order.append("a batch")

    def capture() -> None:
        with lanes.this(lane):
            order.append("a capture")

    threads = [threading.Thread(target=run), threading.Thread(target=run), threading.Thread(target=capture)]
    with lanes.any():
        for waiting, thread in enumerate(threads, start=1):
            thread.start()
            until(lambda waiting=waiting: len(lanes._changed._waiters) == waiting)  # type: ignore[attr-defined, misc]
    for thread in threads:
        thread.join()
    assert order == ["a capture", "a batch", "a batch"]


# ---- programs that no graph can hold


def test_a_program_that_asks_the_device_runs_eagerly_and_the_log_says_so_once(
    tmp_path: Path, device: fake.Device
) -> None:
    torch.jit.script(Asks()).save(str(tmp_path / "model.pt"))
    tensors = ", ".join(f'{{ name: "{n}" data_type: TYPE_FP32 dims: [ 4 ] }}' for n in "xy")
    text = f'max_batch_size: 4 input [{tensors}] output [{{ name: "z" data_type: TYPE_FP32 dims: [ 4 ] }}]'
    with structlog.testing.capture_logs() as logs:
        model = load(tmp_path, 2, text)
        for size in (1, 4, 1, 3, 3, 3):
            x = numbers(size, 4)
            np.testing.assert_allclose(model.run({"x": x, "y": x})["z"], 4 * x, rtol=1e-6)
    told = [log for log in logs if log["event"] == "no CUDA graph, running eagerly"]
    assert [(log["model"], log["batch_class"]) for log in told] == [("m", "[[4, 4], [4, 4]]")]
    assert "operation not permitted when stream is capturing" in told[0]["reason"]
    assert device.replays == 0


def test_outputs_whose_shape_depends_on_data_need_no_try(tmp_path: Path, device: fake.Device) -> None:
    torch.export.save(torch.export.export(Positive(), (numbers_tensor(6),)), tmp_path / "model.pt2")
    with structlog.testing.capture_logs() as logs:
        model = load(tmp_path, 2, "")
    assert [log["reason"] for log in logs] == ["its operator aten.nonzero.default depends on data"]
    for x in (numbers(6), -abs(numbers(6)), abs(numbers(6))):
        np.testing.assert_array_equal(model.run({"x": x})["OUTPUT__0"], x[x > 0])
    assert device.captures == 0


def numbers_tensor(*shape: int) -> Any:
    return torch.from_numpy(numbers(*shape))


def test_what_an_eager_program_works_in_counts(tmp_path: Path, device: fake.Device) -> None:
    torch.export.save(torch.export.export(Positive(), (numbers_tensor(1000),)), tmp_path / "model.pt2")
    model = load(tmp_path, 1, "")
    assert model.memory_bytes == device.reserved_bytes() >= 1000


# ---- memory


def test_memory_is_what_the_device_gave_and_all_of_it_is_freed(folder: Path, device: fake.Device) -> None:
    model = load(folder)
    weights = 4 * 4 * 4
    inputs = 2 * 8 * 4 * 4
    assert device.reserved_bytes() > 2 * inputs  # and the graphs' pools
    assert model.memory_bytes == weights + device.reserved_bytes()
    assert model.weight_bytes == weights
    check(model, 8)
    check(model, 3)
    device.release()
    assert model.memory_bytes == weights + device.reserved_bytes()
    model.close()
    gc.collect()
    device.release()
    assert device.reserved_bytes() == 0
    assert not device.pinned_blocks


def test_a_class_that_is_captured_later_counts(folder: Path, device: fake.Device) -> None:
    model = load(folder, 1, prepared=False)
    before = model.memory_bytes
    for _ in range(2):
        check(model, 8)
    until(lambda: model.memory_bytes > before)


def load_and_prepare(folder: Path, examples: Iterable[dict[str, np.ndarray]]) -> None:
    model = TorchBackend().load(folder, configured(), placed(4))
    assert isinstance(model, CudaModel)
    try:
        model.prepare(examples)
    finally:
        model.close()


def refused(folder: Path, device: fake.Device, free: int, match: str) -> None:
    device.total = torch_cuda_memory.HEADROOM_BYTES + free
    with pytest.raises(ValueError, match=match):
        load_and_prepare(folder, ({"x": numbers(size, 2**16), "y": numbers(size, 2**16)} for size in (1, 8)))
    gc.collect()
    device.release()
    assert device.reserved_bytes() == 0


@pytest.mark.parametrize(
    ("free", "match"),
    [
        (-1, r"model 'm': weights need 0\.0 MiB, and 256 MiB must stay free, but 256\.0 MiB are free on NVIDIA Fake"),
        (15 * MIB, r"model 'm': input buffers of all lanes need 16\.0 MiB, .* but 271\.0 MiB are free"),
        (20 * MIB, r"model 'm': 3 more lanes like the first need \d+\.\d MiB, .* but \d+\.\d MiB are free"),
    ],
)
def test_a_load_that_would_not_fit_is_refused_with_the_figures(
    tmp_path: Path, device: fake.Device, free: int, match: str
) -> None:
    (tmp_path / "model.pt2").write_bytes(exported(Twice, (2**16,)))
    refused(tmp_path, device, free, match)


def test_a_device_that_runs_out_all_the_same_refuses_the_load_with_the_figures(
    tmp_path: Path, device: fake.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.pt2").write_bytes(exported(Wide, (2**16,)))
    monkeypatch.setattr(torch_cuda_memory, "HEADROOM_BYTES", 0)
    refused(tmp_path, device, 17 * MIB, r"ran out of memory while lane 1 of 4 was made; weights took 0\.0 MiB, \d+\.\d")


def test_memory_that_other_processes_hold_is_not_counted_on(folder: Path, device: fake.Device) -> None:
    device.others_bytes = device.total - MIB
    with pytest.raises(ValueError, match=r"1\.0 MiB are free on NVIDIA Fake"):
        load(folder)


def test_a_new_class_that_does_not_fit_runs_eagerly(folder: Path, device: fake.Device) -> None:
    model = load(folder, 1)
    device.others_bytes = device.total - device.reserved_bytes() - MIB
    with structlog.testing.capture_logs() as logs:
        for _ in range(4):
            check(model, 3)
        until(lambda: bool(logs))
    assert logs[0]["event"] == "class not captured, running it eagerly"
    assert "buffers of a new class need" in logs[0]["reason"]
    check(model, 3)


# ---- what goes in and out


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *(("bool", np.bool_), ("uint8", np.uint8), ("int8", np.int8), ("int16", np.int16), ("int32", np.int32)),
        *(("int64", np.int64), ("float16", np.float16), ("float64", np.float64), ("bfloat16", np.uint16)),
    ],
)
def test_types_go_in_and_out_unchanged(tmp_path: Path, device: fake.Device, kind: str, dtype: Any) -> None:
    class Turned(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return {"z": x.flip(0).clone()}

    torch.export.save(
        torch.export.export(Turned(), (torch.ones(5, dtype=getattr(torch, kind)),)), tmp_path / "model.pt2"
    )
    model = load(tmp_path, 1, "")
    x = np.array([0, 1, 1, 0, 0], dtype=dtype)
    for _ in range(2):
        output = model.run({"x": x})["z"]
        assert output.dtype == x.dtype
        np.testing.assert_array_equal(output, x[::-1])
    assert device.replays == 2


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": numbers(2, 4)}, "input 'y' is missing"),
        ({"x": numbers(2, 4), "y": numbers(2, 4).astype(np.float64)}, "input 'y' has type float64, expected float32"),
        ({"x": numbers(2, 4), "y": numbers(2, 4), "q": numbers(2, 4)}, "there is no input 'q'"),
    ],
)
def test_wrong_inputs_are_named_and_the_model_goes_on(
    folder: Path, device: fake.Device, inputs: dict[str, np.ndarray], message: str
) -> None:
    model = load(folder, 1)
    with pytest.raises(ValueError, match=message):
        model.run(inputs)
    check(model, 2)


def test_a_batch_that_fails_gives_its_lane_back(folder: Path, device: fake.Device) -> None:
    model = load(folder, 1)
    for _ in range(3):
        with pytest.raises(Exception, match=r"(?i)shape|size|dimension|guard|expect"):
            model.run({"x": numbers(2, 4), "y": numbers(2, 3)})
    check(model, 2)
    assert not device.streams[0].asked


def test_work_is_counted_on_the_program_itself(folder: Path, device: fake.Device) -> None:
    model = load(folder)
    counted = model.counted()
    assert counted is not None
    counted.run({"x": numbers(3, 4), "y": numbers(3, 4)})
    (operators,) = counted.operators()
    assert sum(operator.flops for operator in operators) == 2 * 3 * 4 * 4


def test_an_executor_has_classes_captured_before_it_tells_of_the_model(folder: Path, device: fake.Device) -> None:
    from cotenant.executor.models import Models
    from cotenant.executor.overrides import Source
    from cotenant.executor.reports import Reports

    (folder / "m" / "1").mkdir(parents=True)
    (folder / "model.pt2").rename(folder / "m" / "1" / "model.pt2")
    parts: Any = SimpleNamespace(placement=placed()), Reports(limit=1), SimpleNamespace()
    models = Models(folder, *parts, default_max_batch_size=4)
    loaded = models._read(Source(folder / "m"), "1")
    assert device.captures == 2 * 3
    assert loaded.announce().memory_bytes == 4 * 4 * 4 + device.reserved_bytes()
    device.total = 0
    with pytest.raises(ValueError, match="weights need"):
        models._read(Source(folder / "m"), "1")


# ---- packages of AOTInductor

TENSORS = """
max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [ 4 ] }, { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }]
output [{ name: "p" data_type: TYPE_FP32 dims: [ 4 ] }, { name: "best" data_type: TYPE_INT64 dims: [] }]
"""


def compiled(folder: Path, where: str) -> None:
    """Compiles `Two` for a kind of device."""
    batch = torch.export.Dim("b", min=1, max=8)
    example = (torch.ones(2, 4, device=where), torch.ones(2, 4, device=where))
    shapes = {"x": {0: batch}, "y": {0: batch}}
    program = torch.export.export(Two().to(where).eval(), example, dynamic_shapes=shapes)
    torch._inductor.aoti_compile_and_package(program, package_path=str(folder / "model.pt2"))


def packaged(folder: Path, device: str) -> None:
    """What looks like a package, with a library that is none."""
    with zipfile.ZipFile(folder / "model.pt2", "w") as archive:
        archive.writestr("model/archive_format", "pt2")
        archive.writestr("model/data/aotinductor/model/a.wrapper.so", b"no library")
        archive.writestr("model/data/aotinductor/model/a.wrapper_metadata.json", f'{{"AOTI_DEVICE_KEY": "{device}"}}')


@pytest.mark.parametrize(
    ("device_key", "text", "message"),
    [
        ("cuda", TENSORS, r"model 'm': model\.pt2 was compiled for cuda, and this is cpu"),
        ("cpu", TENSORS, r"model 'm': model\.pt2 was compiled by AOTInductor and does not load with torch \d.* on cpu"),
        ("cpu", "", r"model 'm': an AOTInductor package tells no inputs and outputs; config\.pbtxt must"),
    ],
)
def test_a_package_that_cannot_be_served_is_refused(tmp_path: Path, device_key: str, text: str, message: str) -> None:
    packaged(tmp_path, device_key)
    with pytest.raises(ValueError, match=message):
        TorchBackend().load(tmp_path, configured(text), Placement("cpu", 0, 1, 0))


@pytest.mark.long
def test_a_compiled_package_computes_what_the_program_does(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("AOTInductor needs a C++ compiler")
    compiled(tmp_path, "cpu")
    model = TorchBackend().load(tmp_path, configured(TENSORS), Placement("cpu", 0, 1, 0, concurrency=3))
    assert model.memory_bytes >= 4 * 4 * 4
    assert model.counted() is None
    together, most, wrong = threading.Barrier(3), [], []

    def run(seed: int) -> None:
        together.wait(30)
        for size in range(1, 9):
            x, y = numbers(size, 4) + seed, numbers(size, 4)
            outputs = model.run({"x": x, "y": y})
            most.append(size)
            for name, array in expected_of_two(x, y).items():
                if not np.allclose(outputs[name], array, rtol=1e-4):
                    wrong.append(name)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(most) == 3 * 8
    model.close()
