"""The servers that `datapath.py` compares, each with an identity model: ours, `tritonserver`, MLServer.

Those that are not installed are left out: `scripts/oracle` installs tritonserver, `scripts/peers` MLServer.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import grpc
from common import TICKS, cpu_s

from cotenant.cli.stack import ENVIRONMENT, Stack, StackOptions
from cotenant.inference import inference_pb2 as pb

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from oracle.tritonserver import TritonServer, free_ports, installed  # noqa: E402

MLSERVER = ROOT / "build" / "mlserver" / "bin" / "mlserver"
START_S = 60.0

OURS = """
backend: "identity"
max_batch_size: 64
input [{ name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] }]
output [{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1 ] }]
dynamic_batching {}
parameters { key: "shape_buckets" value { string_value: "16,150528" } }
parameters { key: "profile_batch_sizes" value { string_value: "1,8,64" } }
"""
TRITON = """
backend: "python"
max_batch_size: 64
input [{ name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] }]
output [{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1 ] }]
dynamic_batching {}
"""
TRITON_MODEL = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            tensor = pb_utils.get_input_tensor_by_name(request, "INPUT0")
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", tensor.as_numpy())]))
        return answers
"""
MLSERVER_MODEL = """
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Identity(MLModel):
    async def load(self):
        return True

    async def predict(self, payload):
        tensor = NumpyCodec.decode_input(payload.inputs[0])
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("OUTPUT0", tensor)])
"""


class Peer(Protocol):
    """A server with an identity model named "identity"."""

    url: str

    async def start(self) -> None:
        """Returns once the model serves."""
        ...

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds that its processes have used, by process."""
        ...

    async def stop(self) -> None:
        """Ends all its processes."""
        ...


class Ours:
    """The stack, with its own HTTP/2 or grpcio's."""

    def __init__(self, folder: Path, port: int, *, http2: str, sockets: bool) -> None:
        repository = folder / "models"
        (repository / "identity" / "1").mkdir(parents=True)
        (repository / "identity" / "config.pbtxt").write_text(OURS, encoding="utf-8")
        services = ("frontend", "scheduler", "executor", "predictor")
        extra = dict.fromkeys(services, (f"--http2={http2}",))
        options = StackOptions(repository, folder / "run", port=port, metrics=False, sockets=sockets, extra=extra)
        self.stack = Stack(options)
        self.url = ""

    async def start(self) -> None:
        """See `Peer`."""
        await self.stack.__aenter__()
        await self.stack.models_settled(START_S)
        self.url = self.stack.url

    def cpu_s(self) -> dict[str, float]:
        """See `Peer`."""
        return cpu_s(self.stack)

    async def stop(self) -> None:
        """See `Peer`."""
        await self.stack.__aexit__(None, None, None)


class Triton:
    """`tritonserver` with its Python backend."""

    def __init__(self, folder: Path) -> None:
        model = folder / "models" / "identity"
        (model / "1").mkdir(parents=True)
        (model / "config.pbtxt").write_text(TRITON, encoding="utf-8")
        (model / "1" / "model.py").write_text(TRITON_MODEL, encoding="utf-8")
        self.server = TritonServer(folder / "models", folder / "run", environment=_allocator())
        self.url = ""

    async def start(self) -> None:
        """See `Peer`."""
        await asyncio.to_thread(self.server.start)
        self.url = self.server.url

    def cpu_s(self) -> dict[str, float]:
        """See `Peer`."""
        return {"all": sum(_cpu_s(pid) for pid in self.server.processes())}

    async def stop(self) -> None:
        """See `Peer`."""
        await asyncio.to_thread(self.server.stop)


class MLServer:
    """MLServer with the model in its own process, the cheapest way it has."""

    def __init__(self, folder: Path) -> None:
        (folder / "identity").mkdir(parents=True)
        (folder / "identity" / "identity.py").write_text(MLSERVER_MODEL, encoding="utf-8")
        model = {"name": "identity", "implementation": "identity.Identity"}
        (folder / "identity" / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
        http, port, metrics = free_ports(3)
        server = {"http_port": http, "grpc_port": port, "metrics_port": metrics, "parallel_workers": 0}
        server |= {"host": "127.0.0.1", "grpc_max_message_length": 2**28, "debug": False}
        (folder / "settings.json").write_text(json.dumps(server), encoding="utf-8")
        self._folder, self.url = folder, f"127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """See `Peer`."""
        self._process = self._started()
        async with grpc.aio.insecure_channel(self.url) as channel:
            ready = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelReady",
                request_serializer=pb.ModelReadyRequest.SerializeToString,
                response_deserializer=pb.ModelReadyResponse.FromString,
            )
            async with asyncio.timeout(START_S):
                while True:
                    try:
                        if (await ready(pb.ModelReadyRequest(name="identity"))).ready:
                            return
                    except grpc.aio.AioRpcError:
                        pass
                    await asyncio.sleep(0.2)

    def _started(self) -> "subprocess.Popen[bytes]":
        environment = {**_allocator(), "PATH": os.environ["PATH"], "PYTHONPATH": str(self._folder / "identity")}
        with (self._folder / "log").open("wb") as log:
            return subprocess.Popen([MLSERVER, "start", self._folder], stdout=log, stderr=log, env=environment)

    def cpu_s(self) -> dict[str, float]:
        """See `Peer`."""
        return {"all": _cpu_s(self._process.pid)} if self._process else {}

    async def stop(self) -> None:
        """See `Peer`."""
        if self._process:
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(self._process.wait, 10)
            except subprocess.TimeoutExpired:
                self._process.kill()


def _allocator() -> dict[str, str]:
    """Our settings of glibc's allocator, for everybody."""
    return {name: value for name, value in ENVIRONMENT.items() if name.startswith("MALLOC_")}


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def peers(folder: Path, port: int, *, sockets: bool) -> dict[str, Peer]:
    """All that are installed, none started, by name."""
    found: dict[str, Peer] = {
        "cotenant": Ours(folder / "own", port, http2="own", sockets=sockets),
        "cotenant on grpcio": Ours(folder / "grpcio", port + 20, http2="grpcio", sockets=sockets),
    }
    if installed():
        found["tritonserver"] = Triton(folder / "triton")
    if MLSERVER.exists():
        found["MLServer"] = MLServer(folder / "mlserver")
    return found
