"""One contract for every backend: the same checks on each that is installed."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from cotenant.executor.backend import BACKENDS, Model, Placement, find_backend
from cotenant.executor.completion import complete
from cotenant.inference import inference_pb2 as pb

CPU = Placement("cpu", 0, 1, 0)
EMULATED = Placement("emulated", 0, 1, 0)

# Two inputs, one output twice their sum (identity: the inputs themselves); batch first, four numbers an item.
CONFIG = """
name: "m" backend: "{backend}" max_batch_size: 8
input [{{ name: "x" data_type: TYPE_FP32 dims: [ 4 ] }}, {{ name: "y" data_type: TYPE_FP32 dims: [ 4 ] }}]
"""


@dataclass
class Case:
    """A model of one backend, and what it should answer."""

    folder: Path
    config: pb.ModelConfig
    placement: Placement
    expected: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]

    def load(self) -> Model:
        model = find_backend(self.config.backend).load(self.folder, self.config, self.placement)
        complete(self.config, model.signature, 8)
        return model


def twice(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    return {"z": 2 * (x + y)}


def config_of(backend: str, more: str = "") -> pb.ModelConfig:
    return text_format.Parse(CONFIG.format(backend=backend) + more, pb.ModelConfig())


def onnx_case(folder: Path) -> Case:
    helper = pytest.importorskip("onnx").helper
    import onnx

    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "y"], ["s"]), helper.make_node("Add", ["s", "s"], ["z"])],
        "g",
        [helper.make_tensor_value_info(n, floats, ["b", 4]) for n in ("x", "y")],
        [helper.make_tensor_value_info("z", floats, ["b", 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    return Case(folder, config_of("onnxruntime"), CPU, twice)


def exported_case(folder: Path) -> Case:
    torch = pytest.importorskip("torch")

    class Twice(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any, y: Any) -> Any:
            return {"z": 2 * (x + y)}

    batch = torch.export.Dim("b", min=1, max=8)
    example = (torch.ones(2, 4), torch.ones(2, 4))
    shapes = {"x": {0: batch}, "y": {0: batch}}
    torch.export.save(torch.export.export(Twice(), example, dynamic_shapes=shapes), folder / "model.pt2")
    return Case(folder, config_of("pytorch"), CPU, twice)


def scripted_case(folder: Path) -> Case:
    torch = pytest.importorskip("torch")

    class Twice(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any, y: Any) -> Any:
            return 2 * (x + y)

    torch.jit.trace(Twice(), (torch.ones(2, 4), torch.ones(2, 4))).save(str(folder / "model.pt"))
    config = config_of("pytorch", 'output [{ name: "z" data_type: TYPE_FP32 dims: [ 4 ] }]')
    return Case(folder, config, CPU, twice)


def identity_case(folder: Path) -> Case:
    outputs = ", ".join(f'{{ name: "{n}" data_type: TYPE_FP32 dims: [ 4 ] }}' for n in ("x2", "y2"))
    return Case(folder, config_of("identity", f"output [{outputs}]"), CPU, lambda x, y: {"x2": x, "y2": y})


def emulated_case(folder: Path) -> Case:
    more = 'output [{ name: "z" data_type: TYPE_INT32 dims: [ 2 ] }]'
    more += 'parameters { key: "personality" value { string_value: "resnet50" } }'

    def checksums(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        sums = [(sum(a.tobytes()) + sum(b.tobytes())) % 251 for a, b in zip(x, y, strict=True)]
        return {"z": np.array([[s, s] for s in sums], dtype=np.int32)}

    return Case(folder, config_of("emulated", more), EMULATED, checksums)


def tensorrt_case(folder: Path) -> Case:
    pytest.importorskip("tensorrt")
    if not pytest.importorskip("torch").cuda.is_available():
        pytest.skip("there is no CUDA device")
    placement = Placement("cuda", 0, 1, 0, concurrency=4)
    return Case(onnx_case(folder).folder, config_of("tensorrt"), placement, twice)


PYTHON = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x, y = (pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("x", "y"))
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("z", 2 * (x + y))]))
        return answers
"""


def python_case(folder: Path) -> Case:
    (folder / "model.py").write_text(PYTHON)
    return Case(folder, config_of("python", 'output [{ name: "z" data_type: TYPE_FP32 dims: [ 4 ] }]'), CPU, twice)


CASES = {
    "onnxruntime": onnx_case,
    "torch.export": exported_case,
    "torchscript": scripted_case,
    "identity": identity_case,
    "emulated": emulated_case,
    "python": python_case,
    "tensorrt": tensorrt_case,
}
NEED_GPU = {"tensorrt"}


@pytest.fixture(params=[pytest.param(n, marks=[pytest.mark.gpu] if n in NEED_GPU else []) for n in sorted(CASES)])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    made: Case = CASES[request.param](tmp_path)
    return made


def inputs(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.random.default_rng(seed)
    x, y = numbers.random((size, 4), dtype=np.float32), numbers.random((size, 4), dtype=np.float32)
    for array in (x, y):
        array.flags.writeable = False  # as memory shared with a frontend is
    return x, y


def test_every_backend_has_a_case() -> None:
    assert {"pytorch" if "torch" in name else name for name in CASES} == set(BACKENDS) - {
        "ensemble"
    }  # run by frontends


@pytest.mark.parametrize("size", [1, 3, 8])
def test_outputs_are_right_at_any_batch_size(case: Case, size: int) -> None:
    model = case.load()
    x, y = inputs(size)
    outputs = model.run({"x": x, "y": y})
    expected = case.expected(x, y)
    assert set(outputs) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(outputs[name], array, rtol=1e-6)
        assert outputs[name].dtype == array.dtype
    model.close()


def test_the_configuration_is_complete_after_a_load(case: Case) -> None:
    case.load().close()
    config = case.config
    assert config.max_batch_size == 8
    assert [t.name for t in config.input] == ["x", "y"]
    assert [list(t.dims) for t in config.input] == [[4], [4]]
    assert len(config.output) >= 1


def test_runs_on_several_threads_do_not_disturb_each_other(case: Case) -> None:
    model = case.load()
    wrong: list[int] = []

    def run(seed: int) -> None:
        for i in range(20):
            x, y = inputs(1 + (seed + i) % 8, seed * 100 + i)
            for name, array in case.expected(x, y).items():
                if not np.allclose(model.run({"x": x, "y": y})[name], array):
                    wrong.append(seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("prepared", [False, True])
def test_a_timed_run_gives_the_same_outputs_and_plausible_timings(case: Case, prepared: bool) -> None:
    model = case.load()
    x, y = inputs(2)
    if prepared:
        model.prepare_timed({"x": x, "y": y})
    outputs, kernels = model.run_timed({"x": x, "y": y})
    for name, array in case.expected(x, y).items():
        np.testing.assert_allclose(outputs[name], array, rtol=1e-6)
    if case.placement.kind == "cpu":
        assert kernels
        assert all(k.duration_ns >= 0 and k.offset_ns >= 0 and k.name for k in kernels)
        assert [k.offset_ns for k in kernels] == sorted(k.offset_ns for k in kernels)


def test_a_wrong_input_raises_and_the_model_goes_on(case: Case) -> None:
    model = case.load()
    x, y = inputs(2)
    if case.config.backend in ("onnxruntime", "pytorch", "tensorrt"):
        with pytest.raises(Exception):  # noqa: B017, PT011
            model.run({"x": x, "y": y[:, :3]})
    assert model.run({"x": x, "y": y})


@pytest.mark.parametrize(
    ("backend", "file"), [("onnxruntime", "model.onnx"), ("pytorch", "model.pt2"), ("pytorch", "model.pt")]
)
def test_a_broken_file_raises(tmp_path: Path, backend: str, file: str) -> None:
    pytest.importorskip("torch" if backend == "pytorch" else backend)
    (tmp_path / file).write_bytes(b"this is no model")
    config = config_of(backend, 'output [{ name: "z" data_type: TYPE_FP32 dims: [ 4 ] }]')
    with pytest.raises(Exception):  # noqa: B017, PT011
        find_backend(backend).load(tmp_path, config, CPU)


def test_backends_that_do_not_exist_are_named() -> None:
    with pytest.raises(ValueError, match="'nope' is not known"):
        find_backend("nope")


def test_the_batch_limit_of_an_exported_program_is_kept(tmp_path: Path) -> None:
    case = exported_case(tmp_path)
    case.config.max_batch_size = 16
    with pytest.raises(ValueError, match="exported for at most 8"):
        case.load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('input [{ name: "q" data_type: TYPE_FP32 dims: [ 4 ] }]', "no input 'q'"),
        ('input [{ name: "x" data_type: TYPE_INT32 dims: [ 4 ] }]', "configured as INT32, but its file says FP32"),
        ('input [{ name: "x" data_type: TYPE_FP32 dims: [ 5 ] }]', "configured as \\[-1, 5\\]"),
    ],
)
def test_a_configuration_that_contradicts_the_file_is_refused(tmp_path: Path, change: str, message: str) -> None:
    case = onnx_case(tmp_path)
    case.config.ClearField("input")
    text_format.Merge(change, case.config)
    with pytest.raises(ValueError, match=message):
        case.load()


def test_a_missing_configuration_is_inferred(tmp_path: Path) -> None:
    for make in (onnx_case, exported_case):
        folder = tmp_path / make.__name__
        folder.mkdir()
        case = make(folder)
        case.config.CopyFrom(pb.ModelConfig(name="m", backend=case.config.backend))
        model = case.load()
        assert case.config.max_batch_size == 8
        assert case.config.HasField("dynamic_batching")
        assert [(t.name, t.data_type, list(t.dims)) for t in case.config.output] == [("z", pb.TYPE_FP32, [4])]
        model.close()


def test_emulated_models_run_only_on_the_emulated_device(tmp_path: Path) -> None:
    case = emulated_case(tmp_path)
    case.placement = CPU
    with pytest.raises(ValueError, match="only on an emulated device"):
        case.load()
    case.placement = EMULATED
    case.config.parameters["personality"].string_value = "nobody"
    with pytest.raises(ValueError, match="expected one of"):
        case.load()
