"""Real clients of many makers against a real stack: what they send is what they get back."""

import asyncio
import json
import os
import queue
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cotenant.frontend.service import SERVICE
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.datatypes import NUMPY
from frontend_stack import KINDS, RawClient, raw_client, vector, write_many
from stacks import StackThread

ROOT = Path(__file__).parent.parent
CLIENTS = Path(__file__).parent / "clients"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackThread]:
    folder = tmp_path_factory.mktemp("clients")
    write_many(folder / "models")
    made = StackThread(folder, folder / "models")
    yield made
    made.close()


@pytest.fixture
def client(stack: StackThread) -> Iterator[Any]:
    with triton.InferenceServerClient(stack.url) as made:
        yield made


@pytest.fixture
def raw(stack: StackThread) -> Iterator[RawClient]:
    with raw_client(stack) as made:
        yield made


def triton_input(name: str, array: Any, datatype: str, module: Any = triton) -> Any:
    made = module.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def sample(datatype: str, items: int = 2) -> Any:
    """Some values of a datatype, of shape [items, 3]."""
    if datatype == "BYTES":
        return np.array([[b"", b"\x00\xff", "grüß".encode()]] * items, dtype=object)
    if datatype == "BF16":
        return np.arange(items * 3).reshape(items, 3).astype(ml_dtypes.bfloat16)
    return np.arange(items * 3).reshape(items, 3).astype(NUMPY[datatype])


# ---- tritonclient


def test_triton_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("identity")
    assert client.is_model_ready("identity", "1")
    assert not client.is_model_ready("identity", "2")
    assert not client.is_model_ready("nope")
    server = client.get_server_metadata(as_json=True)
    assert server["name"] == "cotenant"
    assert {"binary_tensor_data", "model_configuration", "model_repository", "statistics"} <= set(server["extensions"])
    model = client.get_model_metadata("ragged", as_json=True)
    assert model["versions"] == ["1"]
    assert model["platform"] == "identity"
    assert model["inputs"] == [{"name": "IN0", "datatype": "INT32", "shape": ["-1", "-1"]}]
    assert client.get_model_metadata("unbatched").inputs[0].shape == [2, 2]
    assert client.get_model_metadata("text").outputs[0].datatype == "BYTES"
    config = client.get_model_config("ragged").config
    assert config.name == "ragged"
    assert config.max_batch_size == 4
    assert config.parameters["shape_buckets"].string_value == "4,8,16"


@pytest.mark.parametrize("datatype", list(NUMPY))
def test_triton_gets_every_datatype_back(client: Any, datatype: str) -> None:
    inputs = [triton_input(f"IN{i}", sample(kind), kind) for i, kind in enumerate(NUMPY)]
    output = f"OUT{list(NUMPY).index(datatype)}"
    result = client.infer("types", inputs, outputs=[triton.InferRequestedOutput(output)], request_id="r1")
    assert result.get_response().id == "r1"
    assert result.get_response().model_version == "1"
    assert [o.name for o in result.get_response().outputs] == [output]
    np.testing.assert_array_equal(result.as_numpy(output), sample(datatype))


def test_outputs_keep_the_order_of_the_request(client: Any) -> None:
    numbers, words = np.array([[1, 2], [3, 4]], np.int32), np.array([b"a", b"bc"], dtype=object)
    inputs = [triton_input("IN1", words, "BYTES"), triton_input("IN0", numbers, "INT32")]
    wanted = [triton.InferRequestedOutput("OUT1"), triton.InferRequestedOutput("OUT0")]
    result = client.infer("unbatched", inputs, outputs=wanted)
    assert [o.name for o in result.get_response().outputs] == ["OUT1", "OUT0"]
    np.testing.assert_array_equal(result.as_numpy("OUT0"), numbers)
    np.testing.assert_array_equal(result.as_numpy("OUT1"), words)


@pytest.mark.parametrize("length", [0, 1, 4, 5, 16])
def test_a_padded_answer_has_the_length_of_its_request(client: Any, length: int) -> None:
    x = np.arange(2 * length, dtype=np.int32).reshape(2, length)
    result = client.infer("ragged", [triton_input("IN0", x, "INT32")])
    np.testing.assert_array_equal(result.as_numpy("OUT0"), x)


def test_lengths_of_one_bucket_share_a_batch_and_are_parted_again(stack: StackThread, raw: RawClient) -> None:
    before = raw.executions("ragged")

    async def run() -> None:
        async with triton_aio.InferenceServerClient(stack.url) as client:

            async def one(length: int) -> None:
                x = np.full((1, length), length, np.int32)
                result = await client.infer("ragged", [triton_input("IN0", x, "INT32", triton_aio)])
                np.testing.assert_array_equal(result.as_numpy("OUT0"), x)

            await asyncio.gather(*(one(1 + i % 16) for i in range(64)))

    asyncio.run(run())
    assert raw.executions("ragged") - before < 64


def test_inputs_of_two_lengths_lose_nothing_to_padding(client: Any) -> None:
    short, long = np.array([[1, 2, 3]], np.int32), np.array([[1, 2, 3, 4, 5]], np.int32)
    result = client.infer("pair", [triton_input("IN0", short, "INT32"), triton_input("IN1", long, "INT32")])
    np.testing.assert_array_equal(result.as_numpy("OUT1"), long)
    np.testing.assert_array_equal(result.as_numpy("OUT0")[:, :3], short)  # as long as the longest
    alone = [triton.InferRequestedOutput("OUT0")]
    result = client.infer("pair", [triton_input("IN0", short, "INT32")], outputs=alone)
    np.testing.assert_array_equal(result.as_numpy("OUT0"), short)


def test_an_optional_input_may_be_left_out(client: Any) -> None:
    x = np.ones((1, 2), np.float32)
    wanted = [triton.InferRequestedOutput("OUT0")]
    for inputs in ([("IN0", x)], [("IN0", x), ("IN1", x)]):
        result = client.infer("optional", [triton_input(n, a, "FP32") for n, a in inputs], outputs=wanted)
        np.testing.assert_array_equal(result.as_numpy("OUT0"), x)


def test_tensors_larger_than_a_grpc_message_by_default(client: Any) -> None:
    x = np.random.default_rng(0).random(1_500_000, np.float32).reshape(-1)
    words = np.array([x.tobytes(), b"tail"], dtype=object)
    result = client.infer("text", [triton_input("IN0", words, "BYTES")])
    assert result.as_numpy("OUT0").tolist() == words.tolist()


def test_outputs_larger_than_what_travels_in_an_answer(client: Any) -> None:
    rng = np.random.default_rng(1)
    for _ in range(150):  # 75 MiB in all, of 64 MiB that are shared
        x = rng.random((2, 65536), np.float32)
        np.testing.assert_array_equal(client.infer("large", [triton_input("IN0", x, "FP32")]).as_numpy("OUT0"), x)


def test_compressed_messages(client: Any) -> None:
    x = triton_input("INPUT0", vector(items=64), "FP32")
    for algorithm in ("gzip", "deflate"):
        result = client.infer("identity", [x], compression_algorithm=algorithm)
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), vector(items=64))


def test_triton_async_callbacks(client: Any) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    for i in range(20):
        x = triton_input("INPUT0", vector(i), "FP32")
        client.async_infer(
            "identity", [x], callback=lambda result, error: answers.put((result, error)), request_id=str(i)
        )
    seen = set()
    for _ in range(20):
        result, error = answers.get(timeout=20)
        assert error is None
        seen.add(int(result.get_response().id))
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), vector(float(result.get_response().id)))
    assert seen == set(range(20))


def test_triton_stream_with_callbacks(client: Any) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for i in range(20):
        client.async_stream_infer("identity", [triton_input("INPUT0", vector(i), "FP32")], request_id=str(i))
    client.async_stream_infer("nope", [triton_input("INPUT0", vector(), "FP32")], request_id="unknown")
    client.async_stream_infer("identity", [triton_input("INPUT0", vector(99), "FP32")], request_id="99")
    for i in range(20):
        result, error = answers.get(timeout=20)
        assert error is None
        assert result.get_response().id == str(i)
        assert result.get_response().parameters["triton_final_response"].bool_param
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), vector(i))
    result, error = answers.get(timeout=20)
    assert result is None
    assert "Request for unknown model: 'nope' is not found" in str(error)
    result, error = answers.get(timeout=20)
    assert error is None
    assert result.get_response().id == "99"
    client.stop_stream()


def test_triton_asyncio(stack: StackThread) -> None:
    async def run() -> None:
        async with triton_aio.InferenceServerClient(stack.url) as client:
            assert await client.is_server_ready()
            inputs = [[triton_input("INPUT0", vector(i), "FP32", triton_aio)] for i in range(32)]
            results = await asyncio.gather(*(client.infer("identity", x) for x in inputs))
            for i, result in enumerate(results):
                np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), vector(i))

            async def requests() -> Any:
                for i in range(10):
                    yield {"model_name": "identity", "inputs": inputs[i], "request_id": str(i)}
                yield {"model_name": "nope", "inputs": inputs[0]}

            answers = [answer async for answer in client.stream_infer(requests())]
            assert [result.get_response().id for result, _ in answers[:10]] == [str(i) for i in range(10)]
            assert "unknown model" in str(answers[10][1])

    asyncio.run(run())


def test_triton_statistics_index_and_clean_up(client: Any) -> None:
    client.infer("identity", [triton_input("INPUT0", vector(items=3), "FP32")])
    (row,) = client.get_inference_statistics("identity").model_stats
    assert row.name == "identity"
    assert row.version == "1"
    assert row.inference_count >= 3
    assert 1 <= row.execution_count <= row.inference_stats.success.count <= row.inference_count
    assert {b.batch_size for b in row.batch_stats} >= {3}
    assert row.inference_stats.compute_infer.ns > 0
    assert row.last_inference > 1.7e12
    everything = client.get_inference_statistics().model_stats
    assert {"identity", "types", "slow"} <= {m.name for m in everything}
    index = {m.name: (m.version, m.state) for m in client.get_model_repository_index().models}
    assert index["identity"] == ("1", "READY")
    # What clients do before they begin, whether or not they use shared memory.
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    assert not client.get_system_shared_memory_status().regions
    with pytest.raises(triton.InferenceServerException, match="must be started with --allow-client-shm"):
        client.register_system_shared_memory("r", "/k", 64)


# ---- clients whose stubs conflict with each other


def run(*command: str | Path, **more: Any) -> "subprocess.CompletedProcess[str]":
    """Runs a program to its end."""
    arguments = list(map(str, command))
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False, **more)


def printed(*command: str | Path, **more: Any) -> str:
    """What a program prints that ends well."""
    done = run(*command, **more)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_kserve_client(stack: StackThread) -> None:
    answer = json.loads(printed(sys.executable, CLIENTS / "kserve_client.py", stack.url).splitlines()[-1])
    assert answer["live"] is True
    assert answer["ready"] is True
    assert answer["model_ready"] is True
    assert answer["unknown_ready"] is False
    expected = np.arange(16, dtype=np.float32)[None].tolist()
    assert answer["raw"] == expected
    assert answer["typed"] == expected
    assert answer["id"] == "k-1"
    assert answer["words"] == ["a", "grüß"]
    assert answer["unknown"] == ["NOT_FOUND", "Request for unknown model: 'nope' is not found"]
    assert answer["late"] == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("script", ["with_tritonclient.py", "with_kserve.py"])
@pytest.mark.parametrize("order", ["ours_first", "theirs_first"])
def test_our_messages_live_beside_theirs(stack: StackThread, script: str, order: str) -> None:
    assert printed(sys.executable, CLIENTS / script, stack.url, order, cwd=ROOT).split() == ["ours", "theirs"]


def test_stubs_made_by_protoc_of_the_public_text(stack: StackThread, tmp_path: Path) -> None:
    outputs = (f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}")
    printed(sys.executable, "-m", "grpc_tools.protoc", f"-I{CLIENTS}", *outputs, "open_inference.proto")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    told = json.loads(printed(sys.executable, CLIENTS / "protoc_client.py", stack.url, env=environment))
    assert told == {"live": True, "version": "1", "values": [1.5, -2.0], "steps": 3}


# ---- clients without stubs


def test_a_client_made_of_server_reflection(stack: StackThread) -> None:
    with grpc.insecure_channel(stack.url) as channel:
        reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
        (listed,) = reflect(iter(asked))
        names = [service.name for service in listed.list_services_response.service]
        assert set(names) == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
        pool = descriptor_pool.DescriptorPool()
        for name in names:
            (found,) = reflect(iter([reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)]))
            assert not found.HasField("error_response"), found
            for data in reversed(found.file_descriptor_response.file_descriptor_proto):
                pool.Add(descriptor_pb2.FileDescriptorProto.FromString(data))
        method = pool.FindServiceByName(SERVICE).FindMethodByName("ServerMetadata")
        request: Any = message_factory.GetMessageClass(method.input_type)
        reply: Any = message_factory.GetMessageClass(method.output_type)
        call = channel.unary_unary(
            f"/{SERVICE}/ServerMetadata",
            request_serializer=request.SerializeToString,
            response_deserializer=reply.FromString,
        )
        assert call(request(), timeout=10).name == "cotenant"


def test_health_as_kubernetes_asks(stack: StackThread) -> None:
    with grpc.insecure_channel(stack.url) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert next(iter(stub.Watch(health_pb2.HealthCheckRequest(), timeout=10))).status == 1
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="foo"), timeout=10)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_typed_contents_of_every_datatype_over_the_wire(raw: RawClient) -> None:
    from cotenant.frontend.tensors import CONTENTS

    request = pb.ModelInferRequest(model_name="types", id="typed")
    kinds = [("BYTES" if kind == "STRING" else kind) for kind in KINDS]
    for i, datatype in enumerate(kinds):
        if datatype in CONTENTS:
            request.inputs.add(name=f"IN{i}", datatype=datatype, shape=[1, 3])
            getattr(request.inputs[-1].contents, CONTENTS[datatype]).extend(sample(datatype, 1).ravel().tolist())
    with pytest.raises(grpc.RpcError) as caught:  # FP16 and BF16 have no field: raw only
        raw.ModelInfer(request)
    assert "missing required input(s)" in str(caught.value.details())
    mixed = pb.ModelInferRequest(model_name="unbatched")
    mixed.inputs.add(name="IN0", datatype="INT32", shape=[2, 2]).contents.int_contents.extend([1, -2, 3, -4])
    mixed.inputs.add(name="IN1", datatype="BYTES", shape=[2]).contents.bytes_contents.extend([b"", b"xyz"])
    response = raw.ModelInfer(mixed)
    assert not response.outputs[0].HasField("contents")  # answers are raw, whatever the request was
    assert response.raw_output_contents[0] == np.array([1, -2, 3, -4], "<i4").tobytes()
    assert response.raw_output_contents[1] == b"\0\0\0\0\3\0\0\0xyz"


# ---- Node


@pytest.fixture(scope="module")
def node_example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Node example with its dependencies, in a folder outside the repository that outlives the run."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    source = ROOT / "examples" / "node"
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cotenant-tests" / "node"
    cache.mkdir(parents=True, exist_ok=True)
    fresh = (source / "package.json").read_bytes()
    kept = cache / "package.json"
    if not kept.exists() or kept.read_bytes() != fresh or not (cache / "node_modules").exists():
        kept.write_bytes(fresh)
        done = run("npm", "install", "--no-audit", "--no-fund", "--silent", cwd=cache)
        if done.returncode:
            kept.unlink()
            pytest.skip(f"npm cannot install here: {done.stderr.strip()[-200:]}")
    folder = tmp_path_factory.mktemp("node")
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    (folder / "node_modules").symlink_to(cache / "node_modules")
    return folder


def test_node_client(stack: StackThread, node_example: Path) -> None:
    proto = ROOT / "protos" / "cotenant" / "inference" / "inference.proto"
    assert printed("node", "client.js", stack.url, "identity", proto, cwd=node_example).splitlines() == [
        "live true, ready true, model identity ready true",
        "identity version 1: INPUT0 FP32[-1,16] -> OUTPUT0 FP32[-1,16]",
        "OUTPUT0 FP32[1,16]: 0, 1, 2, 3, 4, 5, 6, 7, ...",
    ]
    failed = run("node", "client.js", stack.url, "nope", proto, cwd=node_example)
    assert failed.returncode == 1
    assert "NOT_FOUND: Request for unknown model: 'nope' is not found" in failed.stderr


@pytest.mark.parametrize("script", ["tritonclient_example.py", "raw_stub_example.py"])
def test_python_examples(stack: StackThread, script: str) -> None:
    told = printed(sys.executable, ROOT / "examples" / "python" / script, stack.url, "identity")
    assert "live True, ready True" in told
    assert "OUTPUT0 FP32[1, 16]" in told
