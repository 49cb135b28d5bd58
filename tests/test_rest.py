"""The REST form of the protocol against a real stack, with the clients that people use and with bare HTTP."""

import asyncio
import gzip
import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from frontend_stack import KINDS, eventually, infer_request, model_status, raw_client, running, vector, write_many
from stacks import StackThread, free_port
from test_clients import CLIENTS, sample

LENGTH = "Inference-Header-Content-Length"
ONES = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 16], "data": [1.0] * 16}
MIB = 2**20


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackThread]:
    folder = tmp_path_factory.mktemp("rest")
    write_many(folder / "models")
    groups = folder / "groups"
    groups.write_text("logging:log-key=secret\n")
    flags = ("--allow-client-shm", "--max-message-mib=1", f"--restricted-protocols={groups}")
    made = StackThread(folder, folder / "models", http_port=free_port(), extra={"frontend": flags})
    yield made
    made.close()


@pytest.fixture
def client(stack: StackThread) -> Iterator[Any]:
    made = triton.InferenceServerClient(stack.stack.http_url)
    yield made
    made.close()


def ask(stack: StackThread, verb: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], Any]:
    """Status, headers in lower case, and the body: JSON where it is."""
    connection = http.client.HTTPConnection(stack.stack.http_url, timeout=10)
    content = body if body is None or isinstance(body, bytes) else json.dumps(body)
    connection.request(verb, path, content, {key.replace("_", "-"): value for key, value in headers.items()})
    answer = connection.getresponse()
    told = answer.read()
    connection.close()
    found = {key.lower(): value for key, value in answer.getheaders()}
    is_json = found.get("content-type") == "application/json" and told and "content-encoding" not in found
    return answer.status, found, json.loads(told) if is_json else told


def tensor(name: str, array: Any, datatype: str, *, binary: bool = True) -> Any:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


# ---- tritonclient


def test_triton_asks_everything(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("identity")
    assert not client.is_model_ready("identity", "2")
    assert not client.is_model_ready("nope")
    assert client.get_server_metadata()["name"] == "cotenant"
    assert client.get_model_metadata("identity")["inputs"] == [
        {"name": "INPUT0", "datatype": "FP32", "shape": [-1, 16]}
    ]
    config = client.get_model_config("identity")
    assert (config["name"], config["max_batch_size"], config["input"][0]["dims"]) == ("identity", 64, [16])
    assert client.get_model_repository_index()[0]["state"] == "READY"
    assert client.get_trace_settings()["trace_level"] == ["OFF"]
    assert client.update_trace_settings("identity", {"trace_rate": "7"})["trace_rate"] == "7"
    assert client.get_trace_settings("identity")["trace_rate"] == "7"
    assert client.update_trace_settings("identity", {"trace_rate": None})["trace_rate"] == "1000"
    assert client.get_system_shared_memory_status() == []
    assert client.get_cuda_shared_memory_status() == []


def test_triton_sends_every_datatype(client: Any) -> None:
    """As binary data, and as JSON where JSON has it."""
    datatypes = ["BYTES" if kind == "STRING" else kind for kind in KINDS]
    arrays = [sample(datatype) for datatype in datatypes]
    for in_json in (False, True):
        inputs, outputs = [], []
        for i, (datatype, array) in enumerate(zip(datatypes, arrays, strict=True)):
            some = np.array([["a", "grüß", ""]] * 2, dtype=object) if in_json and datatype == "BYTES" else array
            binary = not in_json or datatype in ("FP16", "BF16")
            inputs.append(tensor(f"IN{i}", some, datatype, binary=binary))
            outputs.append(triton.InferRequestedOutput(f"OUT{i}", binary_data=binary))
        result = client.infer("types", inputs, outputs=outputs, request_id="an id")
        assert result.get_response()["id"] == "an id"
        for i, (datatype, array) in enumerate(zip(datatypes, arrays, strict=True)):
            told = result.as_numpy(f"OUT{i}").tolist()
            if in_json and datatype == "BYTES":
                assert [[str(word) for word in row] for row in told] == [["a", "grüß", ""]] * 2
            else:
                assert told == array.tolist(), datatype


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_triton_compresses(client: Any, algorithm: str) -> None:
    x = np.arange(65536, dtype=np.float32)[None]
    result = client.infer(
        "large",
        [tensor("IN0", x, "FP32")],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert (result.as_numpy("OUT0") == x).all()


def test_triton_uses_shared_memory(client: Any) -> None:
    name = f"rest-{os.getpid()}"
    path = Path("/dev/shm") / name
    path.write_bytes(vector(3.0).tobytes() + bytes(64))
    try:
        client.register_system_shared_memory("r", f"/{name}", 128)
        assert client.get_system_shared_memory_status("r") == [
            {"name": "r", "key": f"/{name}", "offset": 0, "byte_size": 128}
        ]
        place = triton.InferInput("INPUT0", [1, 16], "FP32")
        place.set_shared_memory("r", 64)
        output = triton.InferRequestedOutput("OUTPUT0")
        output.set_shared_memory("r", 64, 64)
        result = client.infer("identity", [place], outputs=[output])
        assert result.get_output("OUTPUT0") == {"name": "OUTPUT0", "datatype": "FP32", "shape": [1, 16]}
        assert np.frombuffer(path.read_bytes()[64:], np.float32).tolist() == [3.0] * 16
        client.unregister_system_shared_memory("r")
        assert client.get_system_shared_memory_status() == []
    finally:
        path.unlink()


def test_triton_classifies_loads_and_counts(client: Any) -> None:
    output = triton.InferRequestedOutput("OUTPUT0", class_count=2)
    x = np.arange(16, dtype=np.float32)[None]
    before = client.get_inference_statistics("identity")["model_stats"][0]["inference_count"]
    result = client.infer("identity", [tensor("INPUT0", x, "FP32")], outputs=[output])
    assert result.as_numpy("OUTPUT0").tolist() == [[b"15.000000:15", b"14.000000:14"]]
    assert client.get_inference_statistics("identity")["model_stats"][0]["inference_count"] == before + 1
    client.unload_model("pair")
    assert not client.is_model_ready("pair")
    client.load_model("pair")
    assert client.is_model_ready("pair")
    with pytest.raises(InferenceServerException, match="failed to load 'nope'"):
        client.load_model("nope")


def test_triton_asyncio(stack: StackThread) -> None:
    async def main() -> None:
        async with triton_aio.InferenceServerClient(stack.stack.http_url) as client:
            assert await client.is_server_ready()
            asked = [client.infer("identity", [tensor("INPUT0", vector(float(i)), "FP32")]) for i in range(20)]
            answers = await asyncio.gather(*asked)
            assert [answer.as_numpy("OUTPUT0")[0, 0] for answer in answers] == list(range(20))

    asyncio.run(main())


def test_kserve(stack: StackThread) -> None:
    line = [sys.executable, str(CLIENTS / "kserve_rest_client.py"), f"http://{stack.stack.http_url}"]
    ran = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["live"], told["ready"], told["model_ready"]) == (True, True, True)
    assert told["json"] == told["binary"] == ["k-1", [list(map(float, range(16)))]]
    status, text = told["unknown"]
    assert status == 404
    assert "Request for unknown model: 'nope' is not found" in text


# ---- what HTTP alone shows


def test_a_refusal_tells_why(stack: StackThread) -> None:
    body = {"inputs": [ONES], "parameters": {"timeout": 1000}, "id": "late"}
    status, _, told = ask(stack, "POST", "/v2/models/slow/infer", body)
    assert status == 504
    assert told["cotenant"]["status"] == "DEADLINE_EXCEEDED"
    assert told["cotenant"]["reason"] in ("PREDICTED_MISS", "EXPIRED_IN_QUEUE")
    assert told["cotenant"]["budget_ms"] == "1.000"
    assert told["error"]


def test_an_answer_can_tell_how_it_ran(stack: StackThread) -> None:
    body = {"inputs": [ONES], "parameters": {"cotenant_explain": True}}
    status, _, told = ask(stack, "POST", "/v2/models/identity/infer", body)
    assert status == 200
    assert told["parameters"]["cotenant_execution_ns"] > 0
    assert told["parameters"]["cotenant_device"] == "cpu-0"


def test_both_ways_in_count_together(stack: StackThread) -> None:
    """There is one translation and one handler: what REST served stands in gRPC's statistics, and is checked alike."""
    with raw_client(stack) as raw:
        before = raw.inferences("identity")
        assert ask(stack, "POST", "/v2/models/identity/infer", {"inputs": [ONES]})[0] == 200
        raw.ModelInfer(infer_request("identity", INPUT0=vector()))
        assert raw.inferences("identity") == before + 2
        with pytest.raises(grpc.RpcError, match="unexpected shape") as caught:
            raw.ModelInfer(infer_request("identity", INPUT0=np.ones((1, 8), np.float32)))
    short = {**ONES, "shape": [1, 8], "data": [1.0] * 8}
    status, _, told = ask(stack, "POST", "/v2/models/identity/infer", {"inputs": [short]})
    assert (status, told["error"]) == (400, caught.value.details())


def test_names_may_be_percent_encoded(stack: StackThread) -> None:
    assert ask(stack, "GET", "/v2/models/ident%69ty/ready")[0] == 200
    status, _, told = ask(stack, "GET", "/v2/models/a%20b")
    assert (status, told["error"]) == (404, "Request for unknown model: 'a b' is not found")
    assert ask(stack, "GET", "/v2/models/identity%2Fready")[0] == 404


def test_bodies_are_bounded(stack: StackThread) -> None:
    path = "/v2/models/identity/infer"
    status, _, told = ask(stack, "POST", path, b"x" * (MIB + 1))
    assert status == 413
    assert "--max-message-mib" in told["error"]
    bomb = gzip.compress(bytes(64 * MIB))
    assert len(bomb) < MIB
    status, _, told = ask(stack, "POST", path, bomb, Content_Encoding="gzip")
    assert status == 413
    assert ask(stack, "POST", path, {"inputs": [ONES]})[0] == 200


def test_gzip_in_several_parts(stack: StackThread) -> None:
    body = json.dumps({"inputs": [ONES]}).encode()
    parts = gzip.compress(body[:20]) + gzip.compress(body[20:])
    assert ask(stack, "POST", "/v2/models/identity/infer", parts, Content_Encoding="gzip")[0] == 200
    status, _, told = ask(stack, "POST", "/v2/models/identity/infer", parts[:-3], Content_Encoding="gzip")
    assert (status, told["error"]) == (400, "the body is not gzip: it is cut off")


def test_a_client_is_told_to_go_on_with_its_body(stack: StackThread) -> None:
    """What curl does with more than a mebibyte: it sends the body once it is told to."""
    host, _, port = stack.stack.http_url.rpartition(":")
    body = json.dumps({"inputs": [ONES]}).encode()
    with socket.create_connection((host, int(port)), timeout=10) as link:
        head = f"POST /v2/models/identity/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        link.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert link.recv(4096).startswith(b"HTTP/1.1 100 ")
        link.sendall(body)
        assert link.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_restricted_groups_need_their_header(stack: StackThread) -> None:
    status, _, told = ask(stack, "GET", "/v2/logging")
    assert (status, told["error"]) == (403, "This API is restricted, expecting header 'log-key'")
    assert ask(stack, "GET", "/v2/logging", log_key="wrong")[0] == 403
    assert ask(stack, "GET", "/v2/logging", log_key="secret")[0] == 200
    status, _, told = ask(stack, "POST", "/v2/logging", {"log_info": True}, triton_grpc_protocol_log_key="secret")
    assert (status, told["log_info"]) == (200, True)


def test_a_header_names_the_tenant(stack: StackThread) -> None:
    headers = {"cotenant_tenant": "team a"}
    status, _, told = ask(stack, "POST", "/v2/models/identity/infer", {"inputs": [ONES]}, **headers)
    assert status == 400
    assert "cotenant-tenant" in told["error"]
    assert ask(stack, "POST", "/v2/models/identity/infer", {"inputs": [ONES]}, cotenant_tenant="team-a")[0] == 200


def test_a_client_that_goes_away_frees_its_place(stack: StackThread) -> None:
    """Requests of a model that takes its time are gone from the queue once their connections are."""
    host, _, port = stack.stack.http_url.rpartition(":")
    body = json.dumps({"inputs": [ONES]}).encode()
    head = f"POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    links = [socket.create_connection((host, int(port)), timeout=10) for _ in range(40)]
    for link in links:
        link.sendall(head + body)
    eventually(lambda: model_status(stack, "slow").queued > 5, "a queue")
    for link in links:
        link.close()
    eventually(lambda: model_status(stack, "slow").queued == 0, "an empty queue")
    eventually(lambda: running(stack) == 0, "an idle device")
    with raw_client(stack) as raw:
        raw.ModelInfer(infer_request("slow", INPUT0=vector()), timeout=10)  # behind all that were answered
        assert raw.inferences("slow") <= len(links)


def test_not_yet_ready_is_400(stack: StackThread) -> None:
    """Without a scheduler the server lives, is not ready, and says so as Triton does."""
    line = [sys.executable, "-m", "cotenant.frontend", "--listen=127.0.0.1:0", "--metrics=", "--staging-dir="]
    port = free_port()
    alone = subprocess.Popen([*line, f"--http-address=127.0.0.1:{port}", "--scheduler=127.0.0.1:1"])
    try:

        def asked(path: str) -> tuple[int, bytes]:
            link = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                link.request("GET", path)
                answer = link.getresponse()
                return answer.status, answer.read()
            except OSError:
                return 0, b""
            finally:
                link.close()

        eventually(lambda: asked("/v2/health/live") == (200, b'{"live":true}'), "a live server")
        assert asked("/v2/health/ready") == (400, b'{"error":"Server not ready"}')
        again = subprocess.run(
            [*line, f"--http-address=127.0.0.1:{port}"], capture_output=True, text=True, check=False, timeout=30
        )
        assert again.returncode == 1
        assert "cannot listen at" in again.stderr
        assert "--http-address" in again.stderr
    finally:
        alone.terminate()
        assert alone.wait(10) == 0
