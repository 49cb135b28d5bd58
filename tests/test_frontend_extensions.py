"""Triton's extensions, live: classification, shared memory, settings, loads with overrides, the response cache."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import structlog
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shm

from cotenant.inference import inference_pb2 as pb
from cotenant.runtime import logs
from frontend_stack import RawClient, eventually, identity_of, infer_request, raw_client, tensor, vector
from stacks import IDENTITY, StackThread, write_model
from stateful_models import ADD_SUB, add_sub

LABELLED = f"""
backend: "identity" max_batch_size: 4
input [{tensor("IN0", "FP32", [3])}] output [{tensor("OUT0", "FP32", [3], 'label_filename: "labels.txt"')}]
"""
CACHED = identity_of([("FP32", [4])], more="response_cache { enable: true }")
UNIMPLEMENTED, INVALID = grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT


class Server:
    """A stack with everything allowed, its folder and a client."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.traces = folder / "models", folder / "traces.json"
        write_model(self.folder, "identity", IDENTITY)
        write_model(self.folder, "labelled", LABELLED)
        (self.folder / "labelled" / "labels.txt").write_text("cat\ndog\n", encoding="utf-8")
        write_model(self.folder, "cached", CACHED)
        allowed = ("--allow-client-shm", "--allow-model-files")
        frontend = (*allowed, "--response-cache-mib=1", f"--trace-file={self.traces}")
        scheduler = ("--load-models=identity,labelled,cached",)
        self.stack = StackThread(folder, self.folder, extra={"frontend": frontend, "scheduler": scheduler})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("extensions"))
    yield made
    made.stack.close()


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with triton.InferenceServerClient(server.stack.url) as made:
        yield made


@pytest.fixture
def raw(server: Server) -> Iterator[RawClient]:
    with raw_client(server.stack) as made:
        yield made


def refusal(call: Any, *arguments: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, timeout=20)
    return caught.value.code(), str(caught.value.details())


# ---- classification


def test_the_largest_values_with_their_labels(client: Any) -> None:
    x = triton.InferInput("IN0", [2, 3], "FP32")
    x.set_data_from_numpy(np.array([[0.1, 0.7, 0.2], [5, 5, -1]], np.float32))
    wanted = [triton.InferRequestedOutput("OUT0", class_count=2)]
    result = client.infer("labelled", [x], outputs=wanted)
    assert result.as_numpy("OUT0").tolist() == [
        [b"0.700000:1:dog", b"0.200000:2"],
        [b"5.000000:0:cat", b"5.000000:1:dog"],
    ]


# ---- shared memory


def test_tensors_in_shared_memory_of_the_client(client: Any) -> None:
    key = f"/extensions-{os.getpid()}"
    region = shm.create_shared_memory_region("r", key, 256)
    try:
        shm.set_shared_memory_region(region, [vector(3.0), vector(4.0)])
        client.register_system_shared_memory("r", key, 256)
        assert client.get_system_shared_memory_status().regions["r"].byte_size == 256
        x = triton.InferInput("INPUT0", [1, 16], "FP32")
        x.set_shared_memory("r", 64, offset=64)
        y = triton.InferRequestedOutput("OUTPUT0")
        y.set_shared_memory("r", 64, offset=128)
        result = client.infer("identity", [x], outputs=[y])
        assert result.get_response().raw_output_contents == [b""]
        np.testing.assert_array_equal(shm.get_contents_as_numpy(region, np.float32, (1, 16), 128), vector(4.0))
        os.truncate(f"/dev/shm{key}", 100)  # a client that breaks its word
        with pytest.raises(triton.InferenceServerException, match="'r' is shorter than when it was registered"):
            client.infer("identity", [x])
        x.set_data_from_numpy(vector(5.0))
        np.testing.assert_array_equal(client.infer("identity", [x]).as_numpy("OUTPUT0"), vector(5.0))
        client.unregister_system_shared_memory("r")
        x.set_shared_memory("r", 64)
        with pytest.raises(triton.InferenceServerException, match="Unable to find shared memory region: 'r'"):
            client.infer("identity", [x])
    finally:
        shm.destroy_shared_memory_region(region)


def test_no_client_reads_the_servers_own_memory(server: Server, raw: RawClient) -> None:
    own = [path.name for path in Path("/dev/shm").glob("cotenant-*")]
    assert own
    for key in (*own, f"/{own[0]}", "../etc/passwd", "", "/", "."):
        request = pb.SystemSharedMemoryRegisterRequest(name="x", key=key, byte_size=16)
        code, message = refusal(raw.SystemSharedMemoryRegister, request)
        assert (code, message) == (grpc.StatusCode.INTERNAL, f"Unable to open shared memory region: '{key}'")
    assert refusal(raw.CudaSharedMemoryRegister, pb.CudaSharedMemoryRegisterRequest(name="c"))[0] == UNIMPLEMENTED


# ---- settings


def test_log_settings_are_told_and_taken(client: Any) -> None:
    assert client.get_log_settings(as_json=True)["settings"]["log_verbose_level"] == {"uint32_param": 0}
    client.update_log_settings({"log_info": False, "log_verbose_level": 1})
    assert client.get_log_settings(as_json=True)["settings"]["log_info"] == {"bool_param": False}
    client.update_log_settings({"log_info": True, "log_verbose_level": 0})
    with pytest.raises(triton.InferenceServerException, match="log file location can not be updated"):
        client.update_log_settings({"log_file": "x"})


def test_what_is_switched_off_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    switches = logs.Switches()
    switches.start(logging.INFO)
    log = structlog.wrap_logger(structlog.PrintLogger(), processors=[switches, structlog.processors.JSONRenderer()])

    def logged() -> list[str]:
        for level in ("debug", "info", "warning", "error", "critical"):
            getattr(log, level)(level)
        return [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]

    assert logged() == ["info", "warning", "error", "critical"]
    switches.info, switches.verbose = False, 1
    assert logged() == ["debug", "warning", "error", "critical"]
    switches.warning = switches.error = False
    assert logged() == ["debug"]


def test_traces_are_written_while_they_are_asked_for(server: Server, client: Any, raw: RawClient) -> None:
    assert client.get_trace_settings(as_json=True)["settings"]["trace_level"] == {"value": ["OFF"]}
    settings = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": "2", "log_frequency": "1"}
    told = client.update_trace_settings(model_name="identity", settings=settings, as_json=True)["settings"]
    assert told["trace_count"] == {"value": ["2"]}
    assert client.get_trace_settings(as_json=True)["settings"]["trace_level"] == {"value": ["OFF"]}  # of the others
    for _ in range(4):
        raw.ModelInfer(infer_request("identity", INPUT0=vector()), timeout=20)
    files = [server.traces.with_name(f"{server.traces.name}.{i}") for i in range(3)]
    eventually(files[1].exists, "the second trace")
    first = json.loads(files[0].read_text())
    assert first[0] == {"id": first[0]["id"], "model_name": "identity", "model_version": 1}
    instants = {event["name"]: event["ns"] for row in first[1:] for event in row["timestamps"]}
    order = ["REQUEST_START", "COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END"]
    order.append("REQUEST_END")
    assert [instants[name] for name in order] == sorted(instants[name] for name in order)
    assert not files[2].exists()  # two, and no more
    client.update_trace_settings(model_name="identity", settings=dict.fromkeys(settings))
    assert client.get_trace_settings(model_name="identity", as_json=True)["settings"]["trace_level"] == {
        "value": ["OFF"]
    }


# ---- loads that bring something


def config_json(name: str, max_batch_size: int, **more: Any) -> str:
    """The JSON of an identity model."""
    pair = {"data_type": "TYPE_FP32", "dims": ["4"]}
    tensors = {"input": [{"name": "IN0", **pair}], "output": [{"name": "OUT0", **pair}]}
    return json.dumps({"name": name, "backend": "identity", "max_batch_size": max_batch_size, **tensors, **more})


def test_a_load_may_bring_another_configuration(server: Server, client: Any, raw: RawClient) -> None:
    write_model(server.folder, "tuned", identity_of([("FP32", [4])], max_batch_size=2))
    client.load_model("tuned")
    client.load_model("tuned", config=config_json("tuned", 7))
    assert raw.ModelConfig(pb.ModelConfigRequest(name="tuned")).config.max_batch_size == 7
    x = np.ones((7, 4), np.float32)
    raw.ModelInfer(infer_request("tuned", IN0=x), timeout=20)
    with pytest.raises(triton.InferenceServerException, match="'config' is no configuration in JSON"):
        client.load_model("tuned", config='{"nope": 1}')
    assert raw.ModelConfig(pb.ModelConfigRequest(name="tuned")).config.max_batch_size == 7  # as before
    server.stack.stack.kill("executor-0")  # the one that comes in its place loads the same
    eventually(lambda: not client.is_model_ready("tuned"), "it is lost")
    server.stack.stack.processes["executor-0"].wait()
    server.stack.stack.spawn("executor-0")
    eventually(lambda: client.is_model_ready("tuned"), "it is back", timeout_s=30)
    assert raw.ModelConfig(pb.ModelConfigRequest(name="tuned")).config.max_batch_size == 7
    client.load_model("tuned")
    assert raw.ModelConfig(pb.ModelConfigRequest(name="tuned")).config.max_batch_size == 2


def test_a_load_may_bring_a_model_that_is_nowhere_on_disk(client: Any, raw: RawClient) -> None:
    from google.protobuf import json_format, text_format

    config = text_format.Parse(ADD_SUB, pb.ModelConfig(name="sent", backend="onnxruntime"))
    files = {"file:3/model.onnx": add_sub()}
    client.load_model("sent", config=json_format.MessageToJson(config), files=files)
    ones = np.ones((1, 16), np.int32)
    answer = raw.ModelInfer(infer_request("sent", INPUT0=ones, INPUT1=ones), timeout=20)
    assert answer.model_version == "3"
    assert np.frombuffer(answer.raw_output_contents[0], np.int32).tolist() == [2] * 16
    client.unload_model("sent")
    with pytest.raises(triton.InferenceServerException, match="failed to poll from model repository"):
        client.load_model("sent")


@pytest.mark.parametrize("path", ["../up", "/etc/x", "1/../../up", ""])
def test_files_of_a_load_stay_in_their_folder(raw: RawClient, path: str) -> None:
    request = pb.RepositoryModelLoadRequest(model_name="evil")
    request.parameters["config"].string_param = config_json("evil", 1)
    request.parameters[f"file:{path}"].bytes_param = b"x"
    code, message = refusal(raw.RepositoryModelLoad, request)
    assert code == grpc.StatusCode.INTERNAL
    assert f"'file:{path}' is no path in the model's folder" in message


# ---- the response cache


def test_an_answer_is_cached_until_the_model_is_loaded_again(client: Any, raw: RawClient) -> None:
    def ask(value: float) -> float:
        x = np.full((1, 4), value, np.float32)
        answer = raw.ModelInfer(infer_request("cached", IN0=x), timeout=20)
        return float(np.frombuffer(answer.raw_output_contents[0], np.float32)[0])

    def counts() -> tuple[int, int, int, int]:
        (row,) = raw.ModelStatistics(pb.ModelStatisticsRequest(name="cached")).model_stats
        stats = row.inference_stats
        return stats.cache_hit.count, stats.cache_miss.count, stats.success.count, row.inference_count

    assert [ask(v) for v in (1, 2, 1, 1, 2)] == [1, 2, 1, 1, 2]
    assert counts() == (3, 2, 5, 2)
    client.load_model("cached")
    assert ask(1) == 1
    assert counts()[:2] == (3, 3)
