"""The TensorRT backend on a stand-in for TensorRT and for the device (fake_tensorrt.py), and, marked `gpu`, on both.

The stand-in shows order, accounting, pools, what is kept, and messages. It cannot show that TensorRT does what the
backend takes it to do.
"""

import asyncio
import gc
import json
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

import fake_tensorrt as fake
from cotenant.executor import cuda_stream, repository, tensorrt_build
from cotenant.executor.backend import Placement, find_backend
from cotenant.executor.backend_tensorrt import TensorRtBackend, TensorRtModel
from cotenant.executor.demand import RESOURCES
from cotenant.executor.device import ThreadedDevice
from cotenant.executor.peaks import Peaks
from cotenant.executor.profile import Profiler, alone
from cotenant.inference import inference_pb2 as pb
from cotenant.v1 import executor_pb2, types_pb2
from test_backends import (  # noqa: F401 (the contract, collected here to run on the stand-in)
    Case,
    test_a_timed_run_gives_the_same_outputs_and_plausible_timings,
    test_outputs_are_right_at_any_batch_size,
    test_runs_on_several_threads_do_not_disturb_each_other,
    test_the_configuration_is_complete_after_a_load,
    twice,
)

SHAPES = {"x": [[1, 4], [8, 4], [8, 4]], "y": [[1, 4], [8, 4], [8, 4]]}
NETWORK = {
    "operation": "twice",
    "inputs": {"x": ["FLOAT", [-1, 4]], "y": ["FLOAT", [-1, 4]]},
    "outputs": {"z": ["FLOAT", [-1, 4]]},
}
ONE = {"operation": "same", "inputs": {"x": ["FLOAT", [-1, -1]]}, "outputs": {"z": ["FLOAT", [-1, -1]]}}
VECTOR = {
    "operation": "positive",
    "inputs": {"x": ["FLOAT", [-1]]},
    "outputs": {"z": ["FLOAT", [-1]]},
    "profiles": [{"x": [[1], [16], [16]]}],
    "max_output": 64,
}


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> fake.Device:
    """The stand-ins in place of TensorRT and the device."""
    made = fake.Device()
    monkeypatch.setitem(sys.modules, "tensorrt", sys.modules[fake.__name__])
    monkeypatch.setattr(cuda_stream, "open_device", lambda _: made)
    fake.Builder.builds.clear()
    fake.Engine.deserialised = 0
    return made


@pytest.fixture
def case(tmp_path: Path, device: fake.Device, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setattr("test_backends.find_backend", lambda _: TensorRtBackend())
    (tmp_path / "model.plan").write_bytes(fake.plan_of(NETWORK | {"profiles": [SHAPES]}))
    return Case(tmp_path, configured("max_batch_size: 8"), placed(), twice)


def placed(concurrency: int = 2, cache: Path | None = None) -> Placement:
    return Placement("cuda", 0, 1, 0, concurrency=concurrency, cache=cache)


def configured(text: str = "") -> pb.ModelConfig:
    return text_format.Parse('name: "m" backend: "tensorrt" ' + text, pb.ModelConfig())


def parameter(key: str, value: str) -> str:
    return f' parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'


def load(
    folder: Path, network: dict[str, Any], text: str = "", *, concurrency: int = 2, cache: Path | None = None
) -> TensorRtModel:
    """A model of a plan, or of an ONNX file where the network has no profiles."""
    plan = "profiles" in network or all(-1 not in shape for _, shape in network["inputs"].values())
    file, content = ("model.plan", fake.plan_of(network)) if plan else ("model.onnx", json.dumps(network).encode())
    (folder / file).write_bytes(content)
    model = TensorRtBackend().load(folder, configured(text), placed(concurrency, cache))
    assert isinstance(model, TensorRtModel)
    return model


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


# ---- a plan, its contexts and its memory


def test_a_plan_is_deserialised_once_and_each_concurrent_batch_has_a_context(
    tmp_path: Path, device: fake.Device
) -> None:
    model = load(tmp_path, NETWORK | {"profiles": [SHAPES]}, concurrency=3)
    assert fake.Engine.deserialised == 1
    assert model._plan.engine.contexts == 3
    limited = load(tmp_path, NETWORK | {"profiles": [SHAPES]}, "instance_group { count: 2 }", concurrency=3)
    assert limited._plan.engine.contexts == 2


def test_memory_is_what_the_device_gave_and_all_of_it_is_freed(tmp_path: Path, device: fake.Device) -> None:
    model = load(tmp_path, NETWORK | {"profiles": [SHAPES], "weights": 5000, "scratch": 7000})
    assert device.device_bytes() == 2 * (7000 + 3 * 8 * 4 * 4)
    assert model.memory_bytes == 5000 + device.device_bytes()
    model.run({"x": numbers(2, 4), "y": numbers(2, 4)})
    model.close()
    del model
    gc.collect()
    assert device.device_bytes() == 0
    assert not device.pinned_blocks


@pytest.mark.parametrize("concurrency", [1, 4])
def test_what_is_estimated_from_outside_counts_weights_and_no_scratch_memory_or_other_lanes(
    tmp_path: Path, device: fake.Device, concurrency: int
) -> None:
    config = configured("max_batch_size: 8")
    for name in ("x", "y"):
        config.input.add(name=name, data_type=pb.TYPE_FP32, dims=[4])
    network = NETWORK | {"profiles": [SHAPES], "weights": 50_000, "scratch": 70_000}
    model = load(tmp_path, network, concurrency=concurrency)
    spec = types_pb2.Device(device_id="gpu-0", kind="cuda", max_concurrency=concurrency, resources=RESOURCES)
    gpu = ThreadedDevice(spec, placed(concurrency), Peaks(1e12, 1e12, 1e9, 1_000_000, 0))
    profiler = Profiler(gpu, alone, cache=tmp_path)
    profiler.batch_sizes = (8,)
    (told,) = asyncio.run(profiler.measure(config, model, "1", tmp_path))
    assert told.basis == executor_pb2.PROFILE_BASIS_OUTSIDE
    _, cache_share, _ = told.demand
    assert cache_share == pytest.approx((50_000 + 2 * 8 * 4 * 4) / 1_000_000)


def test_a_load_that_runs_out_of_memory_keeps_none(
    tmp_path: Path, device: fake.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = device.block

    def scarce(nbytes: int) -> fake.Block:
        if device.device_bytes() + nbytes > 10_000:
            raise MemoryError(f"no {nbytes} bytes")
        return whole(nbytes)

    monkeypatch.setattr(device, "block", scarce)
    with pytest.raises(MemoryError, match="no 4096 bytes"):
        load(tmp_path, NETWORK | {"profiles": [SHAPES]}, concurrency=3)
    gc.collect()
    assert device.device_bytes() == 0


def test_weights_are_the_plans_size_where_the_engine_does_not_tell(tmp_path: Path, device: fake.Device) -> None:
    model = load(tmp_path, NETWORK | {"profiles": [SHAPES], "weights": -1})
    assert model.memory_bytes - device.device_bytes() == (tmp_path / "model.plan").stat().st_size


def test_runs_allocate_nothing_after_the_load(tmp_path: Path, device: fake.Device) -> None:
    model = load(tmp_path, NETWORK | {"profiles": [SHAPES]})
    before = device.allocations
    for size in (1, 8, 3, 1, 8):
        for _ in range(3):
            x, y = numbers(size, 4), numbers(size, 4)
            np.testing.assert_array_equal(model.run({"x": x, "y": y})["z"], 2 * (x + y))
    assert device.allocations == before


def test_outputs_stay_what_they_were_as_long_as_anyone_has_them(tmp_path: Path, device: fake.Device) -> None:
    model = load(tmp_path, NETWORK | {"profiles": [SHAPES]}, concurrency=1)
    kept = []
    for seed in range(1, 5):
        x = np.full((seed, 4), seed, dtype=np.float32)
        kept.append(model.run({"x": x, "y": x})["z"][:1])  # a part keeps the whole
    assert [float(array[0, 0]) for array in kept] == [4.0, 8.0, 12.0, 16.0]
    held = device.allocations
    del kept
    model.run({"x": numbers(8, 4), "y": numbers(8, 4)})
    assert device.allocations == held


def test_lanes_share_no_stream_and_no_scratch_memory(case: Case, device: fake.Device) -> None:
    model = case.load()
    together = threading.Barrier(2)
    both: list[bool] = []

    def run() -> None:
        with model._lane() as lane:  # type: ignore[attr-defined]
            together.wait(timeout=10)
            x = numbers(3, 4)
            both.append(bool((lane.run({"x": x, "y": x})["z"] == 4 * x).all()))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert both == [True, True]
    assert [len(streams) for streams in device.scratch_of.values()] == [1, 1]


def test_a_run_waits_where_every_lane_is_taken(case: Case, device: fake.Device) -> None:
    model = case.load()
    x = numbers(1, 4)
    ended = threading.Event()

    def run() -> None:
        model.run({"x": x, "y": x})
        ended.set()

    with model._lane(), model._lane():  # type: ignore[attr-defined]
        thread = threading.Thread(target=run)
        thread.start()
        assert not ended.wait(0.05)
        assert device.ran == []
    thread.join()
    assert ended.is_set()


# ---- shapes and types


def test_each_profile_has_a_context_and_the_first_that_fits_is_used(tmp_path: Path, device: fake.Device) -> None:
    profiles = [{"x": [[1, length], [4, length], [4, length]]} for length in (16, 32)]
    model = load(tmp_path, ONE | {"profiles": profiles}, concurrency=1)
    assert model._plan.engine.contexts == 2
    assert device.device_bytes() == 4096 + 2 * (4 * 32 * 4)
    for size, length in ((1, 16), (4, 32), (2, 16), (3, 32)):
        x = numbers(size, length)
        np.testing.assert_array_equal(model.run({"x": x})["z"], x)
    with pytest.raises(ValueError, match=r"no profile .* takes inputs 'x' \[1, 17\]; there are: 'x' \[1, 16\] to"):
        model.run({"x": numbers(1, 17)})
    assert model.signature.max_batch_size == 4


def test_a_plan_of_fixed_shapes_runs_without_profiles(tmp_path: Path, device: fake.Device) -> None:
    fixed = {"operation": "same", "inputs": {"x": ["INT64", [2, 3]]}, "outputs": {"z": ["INT64", [2, 3]]}}
    model = load(tmp_path, fixed)
    x = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(model.run({"x": x})["z"], x)
    assert model.signature.max_batch_size == 0


@pytest.mark.parametrize(
    ("kind", "datatype", "dtype"),
    [
        ("BOOL", "BOOL", np.bool_),
        ("INT64", "INT64", np.int64),
        ("INT32", "INT32", np.int32),
        ("HALF", "FP16", np.float16),
        ("BF16", "BF16", np.uint16),
        ("UINT8", "UINT8", np.uint8),
        ("INT8", "INT8", np.int8),
    ],
)
def test_types_go_in_and_out_unchanged(
    tmp_path: Path, device: fake.Device, kind: str, datatype: str, dtype: Any
) -> None:
    network = {"operation": "same", "inputs": {"x": [kind, [5]]}, "outputs": {"z": [kind, [5]]}}
    model = load(tmp_path, network)
    x = np.array([0, 1, 1, 0, 1], dtype=dtype)
    output = model.run({"x": x})["z"]
    assert output.dtype == x.dtype
    np.testing.assert_array_equal(output, x)
    assert model.signature.inputs[0].datatype == datatype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": {"x": ["FP8", [4]]}}, "input 'x' has type FP8, which the protocol does not know"),
        ({"shape_tensors": ["x"]}, "input 'x' is a shape tensor"),
        ({"formats": {"z": "CHW32"}}, "output 'z' is laid out as CHW32, expected LINEAR"),
    ],
)
def test_what_cannot_be_served_is_refused_at_load(
    tmp_path: Path, device: fake.Device, change: dict[str, Any], message: str
) -> None:
    network = {"operation": "same", "inputs": {"x": ["FLOAT", [4]]}, "outputs": {"z": ["FLOAT", [4]]}} | change
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path, network)
    assert "model.plan" in str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": numbers(2, 4)}, "input 'y' is missing"),
        ({"x": numbers(2, 4), "y": numbers(2, 4).astype(np.float64)}, "input 'y' has type float64, expected FP32"),
        ({"x": numbers(2, 4), "y": numbers(2, 3)}, r"'y' \[2, 3\]"),
        ({"x": numbers(9, 4), "y": numbers(9, 4)}, r"'x' \[1, 4\] to \[8, 4\]"),
        ({"x": numbers(2, 4), "y": numbers(2, 4), "q": numbers(2, 4)}, "there is no input 'q'"),
    ],
)
def test_wrong_inputs_are_named_and_the_model_goes_on(case: Case, inputs: dict[str, np.ndarray], message: str) -> None:
    model = case.load()
    with pytest.raises(ValueError, match=message):
        model.run(inputs)
    x = numbers(2, 4)
    np.testing.assert_array_equal(model.run({"x": x, "y": x})["z"], 4 * x)


def test_outputs_whose_shape_depends_on_data_have_the_shape_they_turn_out_to_have(
    tmp_path: Path, device: fake.Device
) -> None:
    model = load(tmp_path, VECTOR)
    before = device.allocations
    for x in (numbers(16), -abs(numbers(9)), abs(numbers(16)), numbers(3)):
        np.testing.assert_array_equal(model.run({"x": x})["z"], x[x > 0])
    assert device.allocations == before


def test_an_output_larger_than_was_foreseen_is_given_room(tmp_path: Path, device: fake.Device) -> None:
    model = load(tmp_path, VECTOR | {"max_output": 8})
    x = abs(numbers(16))
    np.testing.assert_array_equal(model.run({"x": x})["z"], x)


def test_a_device_without_memory_for_an_output_fails_the_batch_alone(
    tmp_path: Path, device: fake.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(tmp_path, VECTOR | {"max_output": 8})

    def full(nbytes: int) -> Any:
        raise MemoryError(f"no {nbytes} bytes")

    monkeypatch.setattr(device, "block", full)
    with pytest.raises(RuntimeError, match="TensorRT failed") as caught:
        model.run({"x": abs(numbers(16))})
    assert "no 64 bytes" in str(caught.value.__cause__)
    np.testing.assert_array_equal(model.run({"x": abs(numbers(2))})["z"], abs(numbers(2)))


def test_a_failed_batch_raises_and_gives_its_lane_back(tmp_path: Path, device: fake.Device) -> None:
    model = load(tmp_path, NETWORK | {"profiles": [SHAPES], "fails": True}, concurrency=1)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="TensorRT failed: TensorRT gave no reason"):
            model.run({"x": numbers(1, 4), "y": numbers(1, 4)})
    assert all(not stream.asked for stream in device.streams.values())


# ---- times


def test_a_timed_run_tells_copies_and_what_is_between(case: Case) -> None:
    model = case.load()
    x = numbers(2, 4)
    _, kernels = model.run_timed({"x": x, "y": x})
    assert [kernel.name for kernel in kernels] == ["copy inputs", "execute", "copy outputs"]
    assert [k.offset_ns for k in kernels] == sorted(k.offset_ns for k in kernels)
    assert model.timed_anytime


def test_layers_are_timed_where_asked_on_a_lane_that_is_freed(tmp_path: Path, device: fake.Device) -> None:
    model = load(tmp_path, NETWORK | {"profiles": [SHAPES]}, parameter("layer_times", "true"), concurrency=1)
    serving = device.device_bytes()
    x = numbers(2, 4)
    model.prepare_timed({"x": x, "y": x})
    assert device.device_bytes() == 2 * serving
    outputs, kernels = model.run_timed({"x": x, "y": x})
    np.testing.assert_array_equal(outputs["z"], 4 * x)
    assert [(k.name, k.duration_ns) for k in kernels[1:3]] == [("add", 250_000), ("double", 500_000)]
    assert kernels[2].offset_ns == kernels[1].offset_ns + 250_000
    assert kernels[3].offset_ns >= kernels[2].offset_ns + 500_000
    assert not model.timed_anytime
    gc.collect()
    assert device.device_bytes() == serving


# ---- plans that do not fit


def test_a_plan_of_another_version_is_refused_with_both_named(tmp_path: Path, device: fake.Device) -> None:
    content = fake.plan_of(NETWORK | {"profiles": [SHAPES]}, version=bytes([8, 6, 1, 6]))
    (tmp_path / "model.plan").write_bytes(content)
    names_both = r"made by TensorRT 8\.6\.1\.6 and cannot be used by TensorRT 10\.13\.3\.9"
    with pytest.raises(ValueError, match=names_both) as caught:
        TensorRtBackend().load(tmp_path, configured(), placed())
    assert str(caught.value).startswith("model 'm': ")
    assert "Version tag does not match" in str(caught.value)


def test_a_plan_of_another_gpu_is_refused_with_both_named(tmp_path: Path, device: fake.Device) -> None:
    with pytest.raises(ValueError, match=r"on NVIDIA Fake \(compute capability 9.0\).*got compute 8.6"):
        load(tmp_path, NETWORK | {"profiles": [SHAPES], "capability": [8, 6]})


def test_a_file_that_is_no_plan_is_told_so(tmp_path: Path, device: fake.Device) -> None:
    (tmp_path / "model.plan").write_bytes(b"this is no plan, but it is longer than the head of one")
    with pytest.raises(ValueError, match=r"model\.plan is no plan of TensorRT"):
        TensorRtBackend().load(tmp_path, configured(), placed())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size: 16", "the configuration allows a batch of 16, which no profile of the plan takes"),
        (parameter("layer_times", "maybe"), "parameter 'layer_times' is 'maybe', expected true or false"),
    ],
)
def test_a_configuration_that_the_plan_cannot_serve_is_refused(
    tmp_path: Path, device: fake.Device, text: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load(tmp_path, NETWORK | {"profiles": [SHAPES]}, text)


def test_a_bucket_that_the_plan_cannot_serve_is_refused(tmp_path: Path, device: fake.Device) -> None:
    profiles = [{"x": [[1, 16], [4, 16], [4, 16]]}]
    with pytest.raises(ValueError, match="a batch of 1 in bucket 32"):
        load(tmp_path, ONE | {"profiles": profiles}, "max_batch_size: 4" + parameter("shape_buckets", "16,32"))


# ---- building


def test_an_onnx_file_is_built_once_with_a_profile_for_each_bucket(tmp_path: Path, device: fake.Device) -> None:
    text = 'max_batch_size: 8 dynamic_batching { preferred_batch_size: 4 } input [{ name: "x" dims: [ -1 ] }]'
    text += parameter("shape_buckets", "16,32") + parameter("precision", "fp16") + parameter("workspace_mib", "64")
    for _ in range(2):
        model = load(tmp_path, ONE, text)
        x = numbers(3, 32)
        np.testing.assert_array_equal(model.run({"x": x})["z"], x)
        model.close()
    ((config, network),) = fake.Builder.builds
    assert network["profiles"] == [{"x": [(1, n), (4, n), (8, n)]} for n in (16, 32)]
    assert config.flags_set == [fake.BuilderFlag.FP16]
    assert config.limits == {fake.MemoryPoolType.WORKSPACE: 64 * 2**20}


def test_a_plan_is_built_again_for_another_file_gpu_version_or_setting(
    tmp_path: Path, device: fake.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(json.dumps(NETWORK).encode())
    settings = tensorrt_build.settings_of(configured("max_batch_size: 8"))

    def kept() -> Path:
        return tensorrt_build.kept_files(path, settings, device, None)[0]

    keys = [kept()]
    (tmp_path / "model.onnx.data").write_bytes(b"weights")
    keys.append(kept())
    device.name = "NVIDIA Other"
    keys.append(kept())
    monkeypatch.setattr(fake, "__version__", "10.14.1.48")
    keys.append(kept())
    settings = tensorrt_build.settings_of(configured("max_batch_size: 4"))
    keys.append(kept())
    assert len(set(keys)) == 5
    (tmp_path / ".cotenant-profile-1.json").write_bytes(b"[]")  # what is ours changes nothing
    assert kept() == keys[-1]


def test_a_plan_is_kept_in_the_cache_where_the_models_folder_is_read_only(
    tmp_path: Path, device: fake.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = tmp_path / "model", tmp_path / "cache"
    folder.mkdir()
    real = tempfile.NamedTemporaryFile

    def refuse(*args: Any, **more: Any) -> Any:
        if more["dir"] == folder:
            raise PermissionError(folder)
        return real(*args, **more)

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    for _ in range(2):
        load(folder, NETWORK, "max_batch_size: 8", cache=cache).close()
    assert len(fake.Builder.builds) == 1
    assert [path.suffix for path in sorted(cache.glob(".cotenant-plan-*"))] == [".plan"]
    assert list(folder.glob(".*")) == []


def test_a_kept_plan_that_is_broken_is_built_again(tmp_path: Path, device: fake.Device) -> None:
    load(tmp_path, NETWORK, "max_batch_size: 8").close()
    (kept,) = tmp_path.glob(".cotenant-plan-*")
    whole = kept.read_bytes()
    kept.write_bytes(b"half")
    load(tmp_path, NETWORK, "max_batch_size: 8").close()
    assert len(fake.Builder.builds) == 2
    assert kept.read_bytes() == whole


def test_times_of_kernels_are_kept_for_the_next_build(tmp_path: Path, device: fake.Device) -> None:
    for name, expected in (("a", b"t"), ("b", b"tt")):
        folder = tmp_path / name
        folder.mkdir()
        load(folder, NETWORK, "max_batch_size: 8", cache=tmp_path / "cache").close()
        (file,) = (tmp_path / "cache").glob("tensorrt-timing-*")
        assert file.name == "tensorrt-timing-NVIDIA-Fake-10.13.3.9.bin"
        assert file.read_bytes() == expected
    file.write_bytes(b"broken")
    (tmp_path / "c").mkdir()
    load(tmp_path / "c", NETWORK, "max_batch_size: 8", cache=tmp_path / "cache").close()
    assert file.read_bytes() == b"t"


@pytest.mark.parametrize(
    ("network", "text", "message"),
    [
        (
            NETWORK | {"errors": [{"node": 3, "name": "conv_3", "operator": "Conv", "desc": "pads are odd"}]},
            "max_batch_size: 8",
            r"model 'm': model.onnx cannot be read: node 3 'conv_3' \(Conv\): pads are odd",
        ),
        (NETWORK | {"unbuildable": True}, "max_batch_size: 8", "cannot be built: no kernel for node Foo"),
        (NETWORK, "", r"input 'x' has the variable shape \[-1, 4\].*max_batch_size"),
        (ONE, "max_batch_size: 8", r"input 'x' has the variable shape \[-1, -1\].*shape_buckets"),
        (NETWORK | {"shape_tensors": ["y"]}, "max_batch_size: 8", "input 'y' is a shape tensor"),
        (NETWORK, 'max_batch_size: 8 input [{ name: "x" dims: [ 4, 4 ] }]', r"configured as \[-1, 4, 4\]"),
        (NETWORK, parameter("precision", "int3"), "parameter 'precision' is 'int3', expected one of fp32, fp16"),
        (NETWORK, parameter("workspace_mib", "-1"), "parameter 'workspace_mib' is '-1', expected a whole number"),
    ],
)
def test_what_cannot_be_built_is_told(
    tmp_path: Path, device: fake.Device, network: dict[str, Any], text: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load(tmp_path, network, text)
    assert list(tmp_path.glob(".cotenant-plan-*")) == []


def test_configured_dims_fix_what_the_file_leaves_open(tmp_path: Path, device: fake.Device) -> None:
    load(tmp_path, ONE, 'max_batch_size: 2 input [{ name: "x" dims: [ 7 ] }]').close()
    assert fake.Builder.builds[0][1]["profiles"] == [{"x": [(1, 7), (2, 7), (2, 7)]}]


def test_without_an_fp16_flag_the_file_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    floats, weights = onnx.TensorProto.FLOAT, numbers(4, 4)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["z"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", floats, ["b", 4])],
        [onnx.helper.make_tensor_value_info("z", floats, ["b", 4])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    monkeypatch.setattr(fake, "BuilderFlag", object)  # as since TensorRT 11
    (tmp_path / "converted").mkdir()
    converted = tensorrt_build._as_fp16(
        fake, fake.BuilderConfig(), tmp_path / "model.onnx", tmp_path / "converted", "m"
    )
    assert [w.data_type for w in onnx.load(converted).graph.initializer] == [onnx.TensorProto.FLOAT16]
    session = onnxruntime.InferenceSession(str(converted))
    (z,) = session.run(None, {"x": weights})
    assert z.dtype == np.float32
    np.testing.assert_allclose(z, weights @ weights, rtol=5e-2, atol=5e-3)


def test_without_an_fp16_flag_and_a_converter_the_refusal_names_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "BuilderFlag", object)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r"'fp16' with TensorRT 10\.13\.3\.9 needs the packages onnx and onnxruntime"):
        tensorrt_build._as_fp16(fake, fake.BuilderConfig(), tmp_path / "model.onnx", tmp_path, "m")


# ---- finding it


def test_files_and_platforms_lead_to_the_backend(tmp_path: Path) -> None:
    (tmp_path / "model.plan").write_bytes(b"")
    assert repository.backend_name(pb.ModelConfig(name="m"), tmp_path) == "tensorrt"
    assert repository.backend_name(pb.ModelConfig(name="m", platform="tensorrt_plan"), tmp_path) == "tensorrt"


def test_it_runs_on_cuda_only_and_says_which_files_it_looks_for(tmp_path: Path, device: fake.Device) -> None:
    with pytest.raises(ValueError, match="model 'm': backend 'tensorrt' runs only on a CUDA device"):
        TensorRtBackend().load(tmp_path, configured(), Placement("cpu", 0, 1, 0))
    with pytest.raises(ValueError, match=r"model 'm': none of model\.plan, model\.onnx is in"):
        TensorRtBackend().load(tmp_path, configured(), placed())


def test_without_the_package_the_backend_is_told_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ValueError, match="backend 'tensorrt' is not installed here"):
        find_backend("tensorrt")


# ---- on a GPU with TensorRT


@pytest.fixture
def gpu() -> Placement:
    """The first GPU of a machine that has TensorRT too."""
    pytest.importorskip("tensorrt")
    if not pytest.importorskip("torch").cuda.is_available():
        pytest.skip("there is no CUDA device")
    return placed(2)


def save_onnx(path: Path, nodes: list[Any], output: tuple[int, list[Any]]) -> None:
    """A graph from `x` (FP32, [b, 64]) and the weights `w` (64 by 64) to `z`."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["b", 64])],
        [onnx.helper.make_tensor_value_info("z", *output)],
        [onnx.numpy_helper.from_array(numbers(64, 64), "w")],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """The folder of a model that multiplies by `w`."""
    onnx = pytest.importorskip("onnx")
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["z"])]
    save_onnx(tmp_path / "model.onnx", nodes, (onnx.TensorProto.FLOAT, ["b", 64]))
    return tmp_path


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_gpu_a_built_plan_computes_what_the_file_says_and_is_kept(
    product: Path, gpu: Placement, precision: str
) -> None:
    config = configured("max_batch_size: 8" + parameter("precision", precision))
    made = []
    for _ in range(2):
        model = TensorRtBackend().load(product, config, gpu)
        for size in (1, 3, 8):
            x = numbers(size, 64)
            z = model.run({"x": x})["z"]
            np.testing.assert_allclose(z, x @ numbers(64, 64), rtol=5e-2, atol=0.2 if precision == "fp16" else 5e-2)
        made.append([(path.name, path.stat().st_mtime_ns) for path in product.glob(".cotenant-plan-*")])
        model.close()
    assert made[0] == made[1]
    assert len(made[0]) == 1


@pytest.mark.gpu
def test_gpu_memory_is_what_torch_says_was_taken(product: Path, gpu: Placement) -> None:
    import torch

    before = torch.cuda.memory_allocated(0)
    model = TensorRtBackend().load(product, configured("max_batch_size: 8"), gpu)
    assert isinstance(model, TensorRtModel)
    taken = torch.cuda.memory_allocated(0) - before
    lanes = sum(lane.memory_bytes for lane in model._lanes)
    assert lanes <= taken <= lanes + 512 * 2 * 3  # torch rounds each of the blocks up
    for size in (1, 8, 3):
        model.run({"x": numbers(size, 64)})
    assert torch.cuda.memory_allocated(0) - before == taken
    model.close()
    assert torch.cuda.memory_allocated(0) == before


@pytest.mark.gpu
def test_gpu_layers_are_timed(product: Path, gpu: Placement) -> None:
    model = TensorRtBackend().load(product, configured("max_batch_size: 8" + parameter("layer_times", "true")), gpu)
    _, kernels = model.run_timed({"x": numbers(8, 64)})
    assert len(kernels) >= 3
    assert all(kernel.duration_ns > 0 for kernel in kernels)
    assert [k.offset_ns for k in kernels] == sorted(k.offset_ns for k in kernels)


@pytest.mark.gpu
def test_gpu_outputs_whose_shape_depends_on_data(tmp_path: Path, gpu: Placement) -> None:
    onnx = pytest.importorskip("onnx")
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["p"]), onnx.helper.make_node("NonZero", ["p"], ["z"])]
    save_onnx(tmp_path / "model.onnx", nodes, (onnx.TensorProto.INT64, [2, "n"]))
    config = configured('input [{ name: "x" dims: [ 4, 64 ] }]')
    model = TensorRtBackend().load(tmp_path, config, gpu)
    for x in (numbers(4, 64), np.zeros((4, 64), dtype=np.float32), np.eye(4, 64, dtype=np.float32)):
        np.testing.assert_array_equal(model.run({"x": x})["z"], np.array(np.nonzero(x @ numbers(64, 64))))


@pytest.mark.gpu
def test_gpu_a_plan_that_is_cut_off_is_refused(product: Path, gpu: Placement) -> None:
    TensorRtBackend().load(product, configured("max_batch_size: 8"), gpu).close()
    (kept,) = product.glob(".cotenant-plan-*")
    (product / "model.plan").write_bytes(kept.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="cannot be used by TensorRT"):
        TensorRtBackend().load(product, configured("max_batch_size: 8"), gpu)
