"""Models that give back what they get, and a client that checks it: for stacks whose wiring is in question."""

import io
import time
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton

from stacks import delayed, write_model

SMALL, LARGE = 16, 400_000  # elements of FP32: 64 bytes, which travel in messages, and 1.6 MB, which do not


_BRIEF = 'parameters { key: "profile_batch_sizes" value { string_value: "1" } }'


def write_repository(folder: Path) -> None:
    """`small` and `large` give back FP32 vectors of these sizes; `slow` takes 300 ms."""
    write_model(folder, "small", delayed(0, more=_BRIEF))
    write_model(folder, "large", delayed(0, more=_BRIEF).replace("dims: [ 16 ]", f"dims: [ {LARGE} ]"))
    write_model(folder, "slow", delayed(300, more=_BRIEF))


def await_ready(url: str, *models: str, timeout_s: float = 60) -> None:
    """Waits until the server and its models are ready: services are healthy before models are loaded."""
    deadline = time.monotonic() + timeout_s
    with triton.InferenceServerClient(url) as client:
        while not (client.is_server_ready() and all(client.is_model_ready(model) for model in models)):
            assert time.monotonic() < deadline, client.get_model_repository_index(as_json=True)
            time.sleep(0.05)


def check_echo(url: str, model: str, elements: int, *, seed: int = 0) -> None:
    """Sends noise and asserts that the very same comes back."""
    sent = np.random.default_rng(seed).standard_normal((1, elements), dtype=np.float32)
    tensor = triton.InferInput("INPUT0", [1, elements], "FP32")
    tensor.set_data_from_numpy(sent)
    with triton.InferenceServerClient(url) as client:
        received = client.infer(model, [tensor], client_timeout=30).as_numpy("OUTPUT0")
    np.testing.assert_array_equal(received, sent)


def write_library_models(folder: Path) -> None:
    """`onnx` and `exported` add one to FP32[1, 16]: small models that need the real libraries."""
    import onnx
    import torch

    one = onnx.helper.make_tensor("one", onnx.TensorProto.FLOAT, [1], [1.0])
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, SMALL]) for name in ("x", "y")]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "one"], ["y"])], "add", ends[:1], ends[1:], [one]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    write_model(folder, "onnx", "", files={"model.onnx": model.SerializeToString()})

    class AddOne(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"y": x + 1.0}

    content = io.BytesIO()
    torch.export.save(torch.export.export(AddOne(), (torch.zeros(1, SMALL),)), content)
    write_model(folder, "exported", "", files={"model.pt2": content.getvalue()})


def check_libraries(url: str) -> None:
    """Asserts that both models of `write_library_models` compute."""
    sent = np.arange(SMALL, dtype=np.float32)[None]
    for model in ("onnx", "exported"):
        tensor = triton.InferInput("x", [1, SMALL], "FP32")
        tensor.set_data_from_numpy(sent)
        with triton.InferenceServerClient(url) as client:
            received = client.infer(model, [tensor], client_timeout=30).as_numpy("y")
        np.testing.assert_array_equal(received, sent + 1)
