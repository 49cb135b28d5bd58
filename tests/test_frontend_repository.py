"""Triton's model repository extension at run time: broken models harm nobody, versions come and go under load."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from cotenant.inference import inference_pb2 as pb
from frontend_stack import (
    RawClient,
    eventually,
    identity_of,
    infer_request,
    lane,
    model_status,
    raw_client,
    running,
    vector,
)
from stacks import IDENTITY, StackThread, write_model

SMALL = identity_of([("FP32", [16])], max_batch_size=2)
NOT_FOUND, INVALID = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT
INTERNAL, UNIMPLEMENTED = grpc.StatusCode.INTERNAL, grpc.StatusCode.UNIMPLEMENTED


class Repository:
    """A stack and the folder it serves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "models"
        write_model(self.folder, "identity", IDENTITY)
        write_model(self.folder, "lane", lane(100))
        write_model(self.folder, "bad_config", "max_batch_size: many")
        write_model(self.folder, "bad_onnx", 'backend: "onnxruntime"', files={"model.onnx": b"not a model"})
        write_model(self.folder, "no_file", 'backend: "onnxruntime"')
        (self.folder / "empty").mkdir()
        self.stack = StackThread(folder, self.folder)

    def versions(self, name: str, config: str, *versions: str) -> None:
        """Adds a model with several versions."""
        for version in versions:
            write_model(self.folder, name, config, version=version)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    made = Repository(tmp_path_factory.mktemp("repository"))
    yield made
    made.stack.close()


@pytest.fixture
def client(repository: Repository) -> Iterator[Any]:
    with triton.InferenceServerClient(repository.stack.url) as made:
        yield made


@pytest.fixture
def raw(repository: Repository) -> Iterator[RawClient]:
    with raw_client(repository.stack) as made:
        yield made


def refused(call: Callable[..., Any], *arguments: Any, **more: Any) -> tuple[grpc.StatusCode, str]:
    """Status and message of a call that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **more, timeout=60)
    return caught.value.code(), str(caught.value.details())


def load(raw: RawClient, name: str) -> None:
    raw.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name), timeout=60)


def load_error(raw: RawClient, name: str) -> tuple[grpc.StatusCode, str]:
    return refused(raw.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name=name))


def index(raw: RawClient, **more: Any) -> dict[str, dict[str, tuple[str, str]]]:
    """State and reason of every version of every model."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for row in raw.RepositoryIndex(pb.RepositoryIndexRequest(**more), timeout=20).models:
        found.setdefault(row.name, {})[row.version] = (row.state, row.reason)
    return found


def served(raw: RawClient, name: str, version: str = "") -> str:
    """The version that answers."""
    request = infer_request(name, IN0=vector())
    request.model_version = version
    answer: str = raw.ModelInfer(request, timeout=30).model_version
    return answer


class Traffic:
    """Requests to a model, one after another on a thread, as long as the block lasts; every failure is kept."""

    def __init__(self, raw: RawClient, request: pb.ModelInferRequest) -> None:
        self._raw, self._request = raw, request
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answered = 0
        self.errors: list[str] = []

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._raw.ModelInfer(self._request, timeout=30)
                self.answered += 1
            except grpc.RpcError as error:
                self.errors.append(f"{error.code()}: {error.details()}")

    def __enter__(self) -> "Traffic":
        self._thread.start()
        eventually(lambda: self.answered, "the first answer")
        return self

    def __exit__(self, *_: object) -> None:
        before = self.answered
        eventually(lambda: self.answered > before + 1, "an answer after all that")
        self._stop.set()
        self._thread.join()


# ---- broken models


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("bad_config", INTERNAL, "failed to load 'bad_config', failed to poll from model repository: "),
        ("empty", INTERNAL, "failed to load 'empty', failed to poll from model repository: model 'empty': no version"),
        ("bad_onnx", INVALID, "load failed for model 'bad_onnx': version 1 is at UNAVAILABLE state: "),
        ("no_file", INVALID, "load failed for model 'no_file': version 1 is at UNAVAILABLE state: "),
    ],
)
def test_a_broken_model_tells_why_and_harms_nobody(raw: RawClient, name: str, code: Any, message: str) -> None:
    with Traffic(raw, infer_request("identity", INPUT0=vector())) as traffic:
        found = load_error(raw, name)
    assert traffic.errors == []
    assert found[0] == code
    assert found[1].startswith(message)
    assert len(found[1]) > len(message)
    assert refused(raw.ModelInfer, infer_request(name, X=vector())) == (
        NOT_FOUND,
        f"Request for unknown model: '{name}' has no available versions",
    )
    assert not raw.ModelReady(pb.ModelReadyRequest(name=name)).ready
    ((state, reason),) = index(raw)[name].values()
    assert state == "UNAVAILABLE"
    assert reason


def test_a_broken_model_that_is_mended_is_served(repository: Repository, raw: RawClient) -> None:
    write_model(repository.folder, "mended", "backend: 5")
    assert load_error(raw, "mended")[0] == INTERNAL
    write_model(repository.folder, "mended", SMALL)
    load(raw, "mended")
    assert served(raw, "mended") == "1"
    assert index(raw)["mended"] == {"1": ("READY", "")}


def test_a_broken_new_version_leaves_the_old_one_serving(repository: Repository, raw: RawClient) -> None:
    repository.versions("kept", SMALL, "1")
    load(raw, "kept")
    (repository.folder / "kept" / "2").mkdir()
    config = repository.folder / "kept" / "config.pbtxt"
    config.write_text(config.read_text().replace('"identity"', '"onnxruntime"'))
    with Traffic(raw, infer_request("kept", IN0=vector())) as traffic:
        code, message = load_error(raw, "kept")
    assert code == INVALID
    assert message.startswith("load failed for model 'kept': version 2 is at UNAVAILABLE state: ")
    assert traffic.errors == []
    assert served(raw, "kept") == "1"


# ---- what is asked for wrongly


def test_unknown_models(raw: RawClient) -> None:
    code, message = load_error(raw, "nope")
    assert (code, message) == (INTERNAL, "failed to load 'nope', failed to poll from model repository")
    for name in ("", "..", "a/b", ".hidden"):
        assert load_error(raw, name)[0] == INTERNAL
    raw.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="nope"), timeout=20)
    assert "nope" not in index(raw)
    assert refused(raw.ModelInfer, infer_request("nope", X=vector()))[1].endswith("'nope' is not found")


def test_repository_names_and_parameters(raw: RawClient) -> None:
    named = "'repository_name' specification is not supported"
    assert refused(raw.RepositoryIndex, pb.RepositoryIndexRequest(repository_name="r")) == (UNIMPLEMENTED, named)
    # KServe's own load carries the model's name in the field that is Triton's repository name.
    kserves = pb.RepositoryModelLoadRequest(repository_name="identity")
    assert refused(raw.RepositoryModelLoad, kserves) == (UNIMPLEMENTED, named)
    assert refused(raw.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(repository_name="r"))[0] == UNIMPLEMENTED
    request = pb.RepositoryModelLoadRequest(model_name="identity")
    request.parameters["foo"].bool_param = True
    assert refused(raw.RepositoryModelLoad, request) == (INVALID, "unrecognized load parameter 'foo'.")
    request = pb.RepositoryModelLoadRequest(model_name="identity")
    request.parameters["config"].bytes_param = b"{}"
    wrong_type = "invalid value type for load parameter 'config', expected string_param."
    assert refused(raw.RepositoryModelLoad, request) == (INVALID, wrong_type)
    request = pb.RepositoryModelLoadRequest(model_name="identity")
    request.parameters["file:1/model.onnx"].bytes_param = b"x"
    code, message = refused(raw.RepositoryModelLoad, request)
    assert code == UNIMPLEMENTED
    assert "--allow-model-files" in message
    wrong = pb.RepositoryModelUnloadRequest(model_name="nope")
    wrong.parameters["unload_dependents"].string_param = "yes"
    assert refused(raw.RepositoryModelUnload, wrong)[0] == INVALID


# ---- coming and going


def test_load_unload_and_index_with_tritonclient(repository: Repository, client: Any, raw: RawClient) -> None:
    repository.versions("coming", SMALL, "1")
    assert index(raw)["coming"] == {"": ("", "")}  # found on disk, never loaded
    assert "coming" not in index(raw, ready=True)
    client.load_model("coming")
    assert client.is_model_ready("coming")
    assert index(raw, ready=True)["coming"] == {"1": ("READY", "")}
    assert served(raw, "coming") == "1"
    client.unload_model("coming")
    assert not client.is_model_ready("coming")
    assert index(raw)["coming"] == {"1": ("UNAVAILABLE", "unloaded")}
    with pytest.raises(triton.InferenceServerException, match="'coming' has no available versions"):
        client.get_model_metadata("coming")
    with pytest.raises(triton.InferenceServerException, match="'coming' version 1 is not at ready state"):
        client.get_model_config("coming", "1")
    for _ in range(20):  # what has returned has happened, for the next call of the same client
        client.load_model("coming")
        assert client.is_model_ready("coming")
        assert served(raw, "coming") == "1"
        client.unload_model("coming")
        assert not client.is_model_ready("coming")


def policy(text: str) -> str:
    return f"{SMALL} version_policy: {{ {text} }}"


@pytest.mark.parametrize(
    ("name", "config", "wanted"),
    [
        ("latest", SMALL, ["10"]),
        ("latest_two", policy("latest { num_versions: 2 }"), ["2", "10"]),
        ("every", policy("all {}"), ["1", "2", "10"]),
        ("chosen", policy("specific { versions: [1, 2, 7] }"), ["1", "2"]),
    ],
)
def test_version_policies(repository: Repository, raw: RawClient, name: str, config: str, wanted: list[str]) -> None:
    repository.versions(name, config, "1", "2", "10")
    load(raw, name)
    assert raw.ModelMetadata(pb.ModelMetadataRequest(name=name)).versions == wanted
    assert served(raw, name) == wanted[-1]
    for version in ("1", "2", "10"):
        if version in wanted:
            assert served(raw, name, version) == version
        else:
            request = infer_request(name, IN0=vector())
            request.model_version = version
            assert refused(raw.ModelInfer, request)[0] == NOT_FOUND
    assert {row.version for row in raw.ModelStatistics(pb.ModelStatisticsRequest(name=name)).model_stats} == set(wanted)


def test_a_new_version_takes_over_without_a_gap(repository: Repository, raw: RawClient) -> None:
    repository.versions("rolling", SMALL, "1")
    load(raw, "rolling")
    assert served(raw, "rolling") == "1"
    with Traffic(raw, infer_request("rolling", IN0=vector())) as traffic:
        for version in ("2", "3", "4"):
            repository.versions("rolling", SMALL, version)
            load(raw, "rolling")
            assert served(raw, "rolling") == version
    assert traffic.errors == []
    eventually(lambda: [v for v, (s, _) in index(raw)["rolling"].items() if s == "READY"] == ["4"], "older ones go")


def test_what_was_admitted_is_answered_before_a_model_goes(repository: Repository, raw: RawClient) -> None:
    sent = [raw.ModelInfer.future(infer_request("lane", IN0=vector()), timeout=30) for _ in range(4)]
    eventually(lambda: model_status(repository.stack, "lane").queued >= 2, "some wait")
    unloading = raw.RepositoryModelUnload.future(pb.RepositoryModelUnloadRequest(model_name="lane"), timeout=30)
    eventually(lambda: not raw.ModelReady(pb.ModelReadyRequest(name="lane")).ready, "it takes no more")
    assert refused(raw.ModelInfer, infer_request("lane", IN0=vector()))[0] == NOT_FOUND
    assert not unloading.done()
    for call in sent:
        assert call.result().raw_output_contents
    unloading.result()
    assert running(repository.stack) == 0
    load(raw, "lane")
    assert served(raw, "lane") == "1"


# ---- models without a configuration


def onnx_model() -> bytes:
    """Y = X + X, for float[N, 4]."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Add", ["X", "X"], ["Y"])],
        "twice",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["N", 4])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = made.SerializeToString()
    return content


def test_a_configuration_is_inferred_from_an_onnx_file(repository: Repository, raw: RawClient) -> None:
    folder = repository.folder / "twice" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(onnx_model())
    load(raw, "twice")
    config = raw.ModelConfig(pb.ModelConfigRequest(name="twice")).config
    assert config.backend == "onnxruntime"
    assert config.max_batch_size > 1
    assert config.HasField("dynamic_batching")
    metadata = raw.ModelMetadata(pb.ModelMetadataRequest(name="twice"))
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [("X", "FP32", [-1, 4])]
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    answer = raw.ModelInfer(infer_request("twice", X=x), timeout=30)
    np.testing.assert_array_equal(np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(2, 4), x + x)


def test_a_configuration_is_inferred_from_an_exported_program(repository: Repository, raw: RawClient) -> None:
    import torch

    class Twice(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return x + x

    folder = repository.folder / "exported" / "1"
    folder.mkdir(parents=True)
    batch = torch.export.Dim("batch", min=1, max=4)
    program = torch.export.export(Twice(), (torch.zeros(2, 3),), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "model.pt2")
    with Traffic(raw, infer_request("identity", INPUT0=vector())) as traffic:
        load(raw, "exported")
    assert traffic.errors == []
    (tensor,) = raw.ModelMetadata(pb.ModelMetadataRequest(name="exported")).inputs
    assert (tensor.datatype, list(tensor.shape)) == ("FP32", [-1, 3])
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    answer = raw.ModelInfer(infer_request("exported", **{tensor.name: x}), timeout=30)
    np.testing.assert_array_equal(np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(2, 3), x + x)
