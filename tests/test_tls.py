"""A whole stack in which everybody proves who he is: clients, services and commands, on one loopback."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from cotenant.cli import certificates
from cotenant.runtime.access import digest
from frontend_stack import eventually
from stacks import IDENTITY, StackThread, write_model
from test_clients import ROOT, node_example

__all__ = ["node_example"]  # a fixture

PROTO = ROOT / "protos" / "cotenant" / "inference" / "inference.proto"
TOKEN, GROUP_SECRET = "tok-3f9c1e57a0", "group-secret-81b2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def stack(folder: Path) -> Iterator[StackThread]:
    certificates.make(folder / "certs", names=["camera"])
    certificates.make(folder / "others")
    write_model(folder / "models", "identity", IDENTITY)
    access, groups = folder / "access.toml", folder / "groups"
    access.write_text(f'admin = ["name:admin", "sha256:{digest(TOKEN)}"]\nshared-memory = ["name:camera"]\n')
    groups.write_text(f"statistics:stats={GROUP_SECRET}\n")
    made = StackThread(
        folder,
        folder / "models",
        tls=folder / "certs",
        access=str(access),
        record=str(folder / "record"),
        extra={"frontend": (f"--restricted-protocols={groups}", "--allow-client-shm")},
    )
    yield made
    made.close()


def client(stack: StackThread, identity: Path | None, ca: Path | None = None) -> Any:
    """tritonclient, showing a certificate."""
    folder = stack.stack.options.tls
    assert folder is not None
    return triton.InferenceServerClient(
        stack.url,
        ssl=True,
        root_certificates=str(ca or folder / "ca.pem"),
        private_key=f"{identity}.key" if identity else None,
        certificate_chain=f"{identity}.pem" if identity else None,
    )


def image() -> Any:
    tensor = triton.InferInput("INPUT0", [1, 16], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 16), np.float32))
    return tensor


def command(folder: Path, who: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A `cotenant` command as somebody."""
    line = [sys.executable, "-m", "cotenant.cli", "--tls", str(folder / "certs" / who), *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)


def test_a_client_of_ours_infers(stack: StackThread, folder: Path) -> None:
    with client(stack, folder / "certs" / "client") as c:
        assert c.is_server_ready()
        assert c.infer("identity", [image()]).as_numpy("OUTPUT0").sum() == 16.0
        assert [model.name for model in c.get_model_repository_index().models] == ["identity"]


@pytest.mark.parametrize("who", ["nobody", "somebody of another authority", "a server of ours asked by another client"])
def test_who_proves_nothing_gets_no_connection(stack: StackThread, folder: Path, who: str) -> None:
    if who == "nobody":
        caller = client(stack, None)
    elif who == "somebody of another authority":
        caller = client(stack, folder / "others" / "admin")
    else:
        caller = client(stack, folder / "certs" / "client", folder / "others" / "ca.pem")
    with caller as c, pytest.raises(InferenceServerException, match="UNAVAILABLE"):
        c.is_server_live()
    told = {
        "nobody": "PEER_DID_NOT_RETURN_A_CERTIFICATE",
        "somebody of another authority": "CERTIFICATE_VERIFY_FAILED",
    }
    if who in told:  # the third closes the connection without a word
        eventually(lambda: told[who] in stack.stack.log("frontend").read_text(), "the frontend tells why")


def test_who_may_load(stack: StackThread, folder: Path) -> None:
    with client(stack, folder / "certs" / "client") as c:
        with pytest.raises(InferenceServerException) as caught:
            c.load_model("identity")
        assert caught.value.status() == "StatusCode.PERMISSION_DENIED"
        wanted = "RepositoryModelLoad needs the role 'admin', which certificate 'client' does not have"
        assert caught.value.message() == wanted
        with pytest.raises(InferenceServerException, match="the bearer token is not known") as caught:
            c.load_model("identity", headers={"authorization": "Bearer " + TOKEN + "x"})
        assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
        c.load_model("identity", headers={"authorization": f"Bearer {TOKEN}"})
        forbidden: list[tuple[Any, tuple[Any, ...]]] = [
            (c.unload_model, ("identity",)),
            (c.update_log_settings, ({"log_verbose_level": 1},)),
            (c.update_trace_settings, (None, {"trace_rate": "1"})),
            (c.register_system_shared_memory, ("region", "/region", 64)),
        ]
        for method, arguments in forbidden:
            with pytest.raises(InferenceServerException, match="PERMISSION_DENIED"):
                method(*arguments)
    with client(stack, folder / "certs" / "admin") as c:
        c.load_model("identity")
        with pytest.raises(InferenceServerException, match="must be started with --allow-model-files"):
            c.load_model("sent", config="{}", files={"file:1/model.pt": b"code"})
        for key, value in (("default_model_filename", "../../evil.pt"), ("default_model_filename", "/tmp/evil.pt")):
            with pytest.raises(InferenceServerException, match="does not lie in the model's folder"):
                c.load_model("identity", config=json.dumps({"backend": "identity", key: value}))
    unable = pytest.raises(InferenceServerException, match="Unable to open shared memory region")
    with client(stack, folder / "certs" / "camera") as c, unable:
        c.register_system_shared_memory("region", "/not-there", 64)


def test_a_restricted_group_wants_its_header(stack: StackThread, folder: Path) -> None:
    with client(stack, folder / "certs" / "admin") as c:
        for headers in ({}, {"triton-grpc-protocol-stats": "guessed"}):
            with pytest.raises(InferenceServerException) as caught:
                c.get_inference_statistics("identity", headers=headers)
            assert caught.value.status() == "StatusCode.UNAVAILABLE"
            expected = "This protocol is restricted, expecting header 'triton-grpc-protocol-stats'"
            assert caught.value.message() == expected
        assert c.get_inference_statistics("identity", headers={"triton-grpc-protocol-stats": GROUP_SECRET})


def test_commands_are_somebody_too(stack: StackThread, folder: Path) -> None:
    flags = (f"--scheduler={stack.stack.scheduler}", "--interval-s=0.1", "--once", "--json")
    seen = command(folder, "viewer", "top", *flags)
    assert seen.returncode == 0, seen.stderr
    assert json.loads(seen.stdout)["devices"]
    denied = command(folder, "client", "top", *flags)
    assert denied.returncode == 1
    assert "PERMISSION_DENIED: GetStatus needs the role 'frontend' or 'viewer'" in denied.stderr
    assert not denied.stdout


def test_load_goes_through_tls(stack: StackThread, folder: Path) -> None:
    flags = (
        "--url",
        stack.url,
        "--model",
        "identity:rate=50",
        "--duration-s=0.5",
        "--warmup-s=0",
        "--client=tritonclient",
    )
    done = command(folder, "client", "load", *flags)
    assert done.returncode == 0, done.stderr


def test_the_node_example_shows_a_certificate(stack: StackThread, folder: Path, node_example: Path) -> None:
    line = ["node", "client.js", stack.url, "identity", str(PROTO)]
    told = {**os.environ, "COTENANT_TLS": str(folder / "certs" / "client")}
    done = subprocess.run(line, cwd=node_example, env=told, capture_output=True, text=True, check=False, timeout=30)
    assert "OUTPUT0 FP32[1,16]: 0, 1, 2" in done.stdout, done.stderr


def test_the_health_probe_proves_itself(stack: StackThread, folder: Path) -> None:
    line = [sys.executable, "-m", "cotenant.runtime.probe", stack.url]
    told = {**os.environ, "COTENANT_TLS": str(folder / "certs" / "frontend")}
    asked = subprocess.run(line, env=told, capture_output=True, text=True, check=False)
    assert (asked.returncode, asked.stdout.strip()) == (0, "SERVING")
    asked = subprocess.run(line, capture_output=True, text=True, check=False)
    assert asked.returncode == 1


def test_renewed_certificates_lose_no_request(stack: StackThread, folder: Path) -> None:
    """Old connections go on, new ones get the new certificates, between services as well."""
    stop, answered, failed = threading.Event(), [0], []

    def load() -> None:
        with client(stack, folder / "certs" / "client") as c:
            while not stop.is_set():
                try:
                    c.infer("identity", [image()])
                    answered[0] += 1
                except InferenceServerException as error:
                    failed.append(error)
                    return

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: answered[0] > 20, "load runs")
    for _ in range(3):
        certificates.make(folder / "certs", names=["camera"])
        more = answered[0] + 20
        while answered[0] < more and not failed:
            time.sleep(0.01)
    with client(stack, folder / "certs" / "client") as c:
        assert c.is_server_ready()
    logs = [stack.stack.log(name) for name in ("frontend", "scheduler", "executor-0", "predictor")]
    eventually(lambda: all('"event": "reloaded"' in log.read_text() for log in logs), "all take the new certificates")
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed


def test_a_service_that_comes_back_is_let_in_again(stack: StackThread, folder: Path) -> None:
    """Its peers connect to it anew, with certificates that were renewed since they started."""
    certificates.make(folder / "certs", names=["camera"])
    executor = stack.stack.processes["executor-0"]
    executor.kill()
    executor.wait()
    stack.stack.spawn("executor-0")
    with client(stack, folder / "certs" / "client") as c:

        def served() -> bool:
            try:
                return c.infer("identity", [image()]).as_numpy("OUTPUT0") is not None
            except InferenceServerException:
                return False

        eventually(served, "the model serves again")


def test_nothing_secret_is_told(stack: StackThread, folder: Path) -> None:
    """Last: everything above has been logged and recorded by now."""
    keys = ["".join(key.read_text().splitlines()[1:-1]) for key in (folder / "certs").glob("*.key")]
    secrets = [TOKEN, GROUP_SECRET, digest(TOKEN), *(key[40:80] for key in keys)]
    assert len(keys) == 9
    told = [path for path in (folder / "run").rglob("*") if path.is_file()] + [folder / "record"]
    assert len(told) >= 5
    for path in told:
        text = path.read_text(errors="replace").replace("\\n", "").replace("\n", "")
        for secret in secrets:
            assert secret not in text, f"{path.name} tells a secret"
    for process in stack.stack.processes.values():
        command_line = Path(f"/proc/{process.pid}/cmdline").read_text()
        assert not [secret for secret in secrets if secret in command_line]
