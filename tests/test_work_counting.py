"""Operations and bytes of a model's operators, against counts made by hand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cotenant.executor import onnx_work
from cotenant.executor.backend import CountedModel, Operator, Placement, Tensors, find_backend
from cotenant.inference import inference_pb2 as pb

CPU = Placement("cpu", 0, 1, 0)
FLOAT = 4


def count(model: CountedModel | None, *batches: Tensors) -> list[list[Operator]]:
    assert model is not None
    for inputs in batches:
        model.run(inputs)
    found = model.operators()
    model.close()
    return found


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def total(operators: list[Operator]) -> tuple[int, int, int]:
    """Operations, bytes of weights, bytes of other tensors."""
    weights, others = sum(o.weight_bytes for o in operators), sum(o.activation_bytes for o in operators)
    return sum(o.flops for o in operators), weights, others


# ---- torch


def torch_model(folder: Path, module: Any, example: tuple[Any, ...], form: str, placement: Placement = CPU) -> Any:
    torch = pytest.importorskip("torch")
    module = module.eval().requires_grad_(False)
    config = pb.ModelConfig(name="m", backend="pytorch")
    if form == "pt2":
        torch.export.save(torch.export.export(module, example), folder / "model.pt2")
    else:
        torch.jit.trace(module, example).save(str(folder / "model.pt"))
        for i in range(len(example)):
            config.input.add(name=f"x{i}", data_type=pb.TYPE_FP32)
        config.output.add(name="y", data_type=pb.TYPE_FP32)
    return find_backend("pytorch").load(folder, config, placement)


@pytest.mark.parametrize("form", ["pt2", "pt"])
def test_a_linear_layer_of_torch(tmp_path: Path, form: str) -> None:
    torch = pytest.importorskip("torch")
    model = torch_model(tmp_path, torch.nn.Linear(16, 32), (torch.ones(4, 16),), form)
    name = "input" if form == "pt2" else "x0"
    first, second = count(model.counted(), {name: normal(4, 16)}, {name: normal(4, 16)})
    # 4 x 16 times 16 x 32, and a bias that is added in the same operator; in, weights and bias, out.
    assert total(first) == total(second) == (2 * 4 * 16 * 32, FLOAT * (16 * 32 + 32), FLOAT * (4 * 16 + 4 * 32))
    assert sum(o.duration_ns for o in second) > 0
    assert {o.element_bytes for o in second} == {FLOAT}


@pytest.mark.gpu
def test_operators_of_torch_are_timed_on_a_gpu(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    cuda = Placement("cuda", 0, 1, 0)
    model = torch_model(tmp_path, torch.nn.Linear(16, 32), (torch.ones(4, 16),), "pt2", cuda)
    (operators,) = count(model.counted(), {"input": normal(4, 16)})
    assert total(operators)[:2] == (2 * 4 * 16 * 32, FLOAT * (16 * 32 + 32))
    assert sum(o.duration_ns for o in operators) > 0


@pytest.mark.parametrize("form", ["pt2", "pt"])
def test_a_convolution_of_torch(tmp_path: Path, form: str) -> None:
    torch = pytest.importorskip("torch")
    layer = torch.nn.Conv2d(6, 8, 3, groups=2, bias=False)
    model = torch_model(tmp_path, layer, (torch.ones(2, 6, 10, 10),), form)
    (operators,) = count(model.counted(), {"input" if form == "pt2" else "x0": normal(2, 6, 10, 10)})
    flops = 2 * (2 * 8 * 8 * 8) * (3 * 3 * 3)  # each output sees a window of three channels
    assert total(operators) == (flops, FLOAT * 8 * 3 * 9, FLOAT * (2 * 6 * 100 + 2 * 8 * 64))


def test_attention_of_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Attend(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, q: Any, k: Any, v: Any) -> Any:
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    q, k = torch.ones(2, 3, 5, 16), torch.ones(2, 3, 7, 16)
    model = torch_model(tmp_path, Attend(), (q, k, k), "pt2")
    (operators,) = count(
        model.counted(), {"q": normal(2, 3, 5, 16), "k": normal(2, 3, 7, 16), "v": normal(2, 3, 7, 16)}
    )
    assert total(operators)[0] == 2 * (2 * 3) * 5 * 7 * 16 * 2  # scores, and what they weigh
    assert total(operators)[1] == 0


def test_views_move_nothing_and_an_embedding_reads_its_rows_only(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Look(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(1000, 8)

        def forward(self, ids: Any) -> Any:
            return self.table(ids).transpose(1, 2).unsqueeze(0)

    model = torch_model(tmp_path, Look(), (torch.ones(2, 3, dtype=torch.int64),), "pt2")
    (operators,) = count(model.counted(), {"ids": np.ones((2, 3), np.int64)})
    rows = FLOAT * 2 * 3 * 8
    assert total(operators) == (0, rows, 8 * 2 * 3 + rows)


@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python boolean")
def test_a_product_without_a_formula_is_refused_and_named(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Remember(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.cell = torch.nn.LSTM(4, 8)

        def forward(self, x: Any) -> Any:
            return self.cell(x)[0]

    model = torch_model(tmp_path, Remember(), (torch.ones(3, 2, 4),), "pt")
    with pytest.raises(ValueError, match=r"operator aten.*(lstm|rnn).* cannot be counted: there is no formula"):
        count(model.counted(), {"x0": normal(3, 2, 4)})


def test_a_product_with_a_vector_and_what_only_sounds_like_a_product(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Mixed(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any, v: Any) -> Any:
            larger = torch.nn.functional.interpolate((x @ v)[None, None], scale_factor=2.0, mode="linear")
            return larger.cummax(2).values

    model = torch_model(tmp_path, Mixed(), (torch.ones(4, 6), torch.ones(6)), "pt2")
    (operators,) = count(model.counted(), {"x": normal(4, 6), "v": normal(6)})
    assert total(operators)[0] == 2 * 4 * 6


def test_counting_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = torch_model(tmp_path, torch.nn.Linear(4, 4), (torch.ones(2, 4),), "pt2")
    inputs = {"input": normal(2, 4)}
    before = model.run(inputs)
    count(model.counted(), inputs)
    after = model.run(inputs)
    assert [np.array_equal(before[name], after[name]) for name in before] == [True]


# ---- ONNX


def onnx_model(folder: Path, nodes: list[Any], inputs: Mapping[str, tuple[int, ...]], weights: dict[str, Any]) -> Any:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make = onnx.helper
    graph = make.make_graph(
        [make.make_node(kind, list(read), list(written), **more) for kind, read, written, more in nodes],
        "g",
        [make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    return find_backend("onnxruntime").load(folder, pb.ModelConfig(name="m", backend="onnxruntime"), CPU)


@pytest.mark.parametrize(("transposed", "width"), [(0, 32), (1, 32), (1, 16)])
def test_a_linear_layer_of_onnx_whose_weights_the_runtime_has_packed(
    tmp_path: Path, transposed: int, width: int
) -> None:
    weight = normal(width, 16) if transposed else normal(16, width)
    nodes = [("Gemm", "xwb", "y", {"transB": transposed})]
    model = onnx_model(tmp_path, nodes, {"x": (4, 16)}, {"w": weight, "b": normal(width)})
    first, second = count(model.counted(), {"x": normal(4, 16)}, {"x": normal(4, 16)})
    moved = FLOAT * (16 * width + width), FLOAT * (4 * 16 + 4 * width)
    assert total(first) == total(second) == (2 * 4 * 16 * width, *moved)
    assert {o.element_bytes for o in second} == {FLOAT}


def test_a_convolution_of_onnx(tmp_path: Path) -> None:
    nodes = [("Conv", "xw", "y", {"group": 2})]
    model = onnx_model(tmp_path, nodes, {"x": (2, 6, 10, 10)}, {"w": normal(8, 3, 3, 3)})
    (operators,) = count(model.counted(), {"x": normal(2, 6, 10, 10)})
    flops = 2 * (2 * 8 * 8 * 8) * (3 * 3 * 3)
    assert total(operators) == (flops, FLOAT * 8 * 3 * 9, FLOAT * (2 * 6 * 100 + 2 * 8 * 64))


def test_attention_of_onnx_and_views(tmp_path: Path) -> None:
    nodes: list[Any] = [
        ("MatMul", "qk", "s", {}),
        ("Softmax", "s", "p", {}),
        ("MatMul", "pv", "o", {}),
        ("Unsqueeze", ("o", "axes"), "y", {}),
    ]
    inputs = {"q": (2, 5, 16), "k": (2, 16, 7), "v": (2, 7, 16)}
    model = onnx_model(tmp_path, nodes, inputs, {"axes": np.array([0])})
    (operators,) = count(model.counted(), {name: normal(*shape) for name, shape in inputs.items()})
    products = [o for o in operators if "MatMul" in o.name]
    assert [o.flops for o in products] == [2 * 2 * 5 * 16 * 7] * 2
    scores = FLOAT * 2 * 5 * 7
    others = FLOAT * 2 * (5 * 16 + 7 * 16)  # queries and keys in, or values in and the result out
    assert [o.activation_bytes for o in products] == [scores + others] * 2
    softmax = next(o for o in operators if o.name == "Softmax")
    assert (softmax.flops, softmax.activation_bytes) == (0, 2 * scores)
    assert all(o.activation_bytes == o.weight_bytes == 0 for o in operators if o.name == "Unsqueeze")


def traced(name: str, inputs: list[list[int]], outputs: list[list[int]], kind: str = "float", **more: Any) -> Any:
    told = {"op_name": name, "input_type_shape": [{kind: s} for s in inputs], **more}
    told |= {"output_type_shape": [{kind: s} for s in outputs]}
    return {"cat": "Node", "name": "n_kernel_time", "ts": 5, "dur": 2, "args": told}


def counted(*nodes: Any) -> list[Operator]:
    run = {"cat": "Session", "name": "model_run", "ts": 1, "dur": 100}
    (operators,) = onnx_work.operators([*nodes, run])
    return operators


@pytest.mark.parametrize(
    ("name", "inputs", "outputs", "flops", "weights"),
    [
        # Projection to queries, keys and values, then scores and what they weigh.
        ("Attention", [[2, 5, 8], [8, 24], [24]], [[2, 5, 8]], 2 * 2 * 5 * 8 * 24 + 4 * 2 * 5 * 5 * 8, 0),
        ("Attention", [[2, 5, 8], [24]], [[2, 5, 8]], 2 * 2 * 5 * 8 * 24 + 4 * 2 * 5 * 5 * 8, 4 * 8 * 24),
        ("MultiHeadAttention", [[2, 5, 8], [2, 7, 8], [2, 7, 8]], [[2, 5, 8]], 4 * 2 * 5 * 7 * 8, 0),
        # Four gates of 6 from 3 features and 6 hidden, both directions, ten steps of a batch of two.
        ("LSTM", [[10, 2, 3]], [[10, 2, 2, 6]], 2 * 10 * 2 * 2 * 24 * 9, 4 * 2 * 24 * 9),
        ("GRU", [[10, 2, 3], [1, 18, 3], [1, 18, 6]], [[10, 1, 2, 6]], 2 * 10 * 2 * 18 * 9, 0),
        ("MatMul", [[3]], [[4]], 2 * 3 * 4, 4 * 12),
        ("MatMul", [[5, 3], [3]], [[5]], 2 * 5 * 3, 0),
        ("FusedMatMul", [[2, 3, 5], [2, 3, 7]], [[2, 5, 7]], 2 * 2 * 5 * 3 * 7, 0),  # the first one transposed
        ("ConvTranspose", [[1, 4, 5, 5], [4, 2, 3, 3]], [[1, 2, 7, 7]], 2 * 4 * 25 * 2 * 9, 0),
        ("FusedConv", [[1, 3, 5, 5], [2, 3, 3, 3], [2]], [[1, 2, 3, 3]], 2 * 2 * 9 * 27, 0),
        ("Relu", [[7]], [[7]], 0, 0),
    ],
)
def test_operators_by_their_shapes(
    name: str, inputs: list[list[int]], outputs: list[list[int]], flops: int, weights: int
) -> None:
    (operator,) = counted(traced(name, inputs, outputs))
    assert operator.flops == flops
    assert operator.weight_bytes == weights
    assert operator.duration_ns == 2000


def test_tables_are_read_by_row_and_bodies_of_branches_count_once() -> None:
    gather = traced("Gather", [[1000, 8], [3]], [[3, 8]], parameter_size="32000", activation_size="24")
    operators = counted(gather, traced("If", [[1]], [[3, 8]]))
    assert [(o.name, o.weight_bytes, o.activation_bytes) for o in operators] == [("Gather", 96, 24 + 96)]


@pytest.mark.parametrize(
    "node",
    [
        traced("Einsum", [[2, 3], [3, 4]], [[2, 4]]),
        traced("QLinearConv", [[1, 3, 5, 5], [], []], [[1, 2, 3, 3]]),  # its kernel is nowhere
        traced("MatMul", [], [[3]]),
        {"cat": "Node", "name": "n_kernel_time", "ts": 5, "dur": 2, "args": {"op_name": "TensorRT"}},
    ],
)
def test_what_the_trace_does_not_tell_is_refused_and_named(node: Any) -> None:
    with pytest.raises(ValueError, match=r"operator n_kernel_time \(.*\) cannot be counted"):
        counted(node)


def test_each_run_of_a_trace_has_its_own_operators() -> None:
    early, late = traced("Relu", [[7]], [[7]]), traced("Relu", [[7]], [[7]]) | {"ts": 205}
    runs = [{"name": "model_run", "ts": ts, "dur": 100} for ts in (200, 1)]
    assert [len(operators) for operators in onnx_work.operators([late, early, *runs])] == [1, 1]


def test_models_without_work_are_not_counted(tmp_path: Path) -> None:
    config = pb.ModelConfig(name="m", backend="identity")
    for tensors in (config.input, config.output):
        tensors.add(name="x", data_type=pb.TYPE_FP32, dims=[4])
    assert find_backend("identity").load(tmp_path, config, CPU).counted() is None
