"""A real `tritonserver`, as `scripts/oracle` installs it, on a model repository and on ports of its own.

It answers the same clients as our frontend does, so that tests and benchmarks can put the same questions to both. It
needs no GPU; of its backends it has `python` alone. All else is as Triton has it by default, but for what flags say.

    with TritonServer(repository, folder) as server:
        client = tritonclient.grpc.InferenceServerClient(server.url)
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

import grpc

from cotenant.inference import inference_pb2 as pb

HOME = Path(__file__).resolve().parents[2] / "build" / "oracle"
BACKENDS = HOME / "tritonserver" / "backends"
_START_ATTEMPTS = 3  # somebody else may take a free port before the server does


def installed() -> bool:
    """Whether `scripts/oracle` was run to its end here."""
    return (HOME / ".made-of").exists()


def free_ports(count: int) -> list[int]:
    """So many different TCP ports that nobody listens at just now."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]


class TritonServer:
    """One server process. Use as a context manager, or call `start` and `stop`.

    Args:
        repository: Folder of models.
        folder: Where its log goes; made if it is not there.
        flags: More of `tritonserver`'s flags, such as `--model-control-mode=explicit`.
        environment: More environment variables, for the server and its Python models.
        wait_s: How long models may take to load.
    """

    def __init__(
        self,
        repository: Path,
        folder: Path,
        *,
        flags: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        wait_s: float = 120.0,
    ) -> None:
        self._repository, self._flags, self._wait_s = repository, flags, wait_s
        self._environment = environment or {}
        self.log = folder / "tritonserver.log"
        self.port = self.http_port = self.metrics_port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where its gRPC answers."""
        return f"127.0.0.1:{self.port}"

    @property
    def http_url(self) -> str:
        """Where its REST protocol answers."""
        return f"127.0.0.1:{self.http_port}"

    @property
    def metrics_url(self) -> str:
        """Its Prometheus page."""
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    def start(self) -> "TritonServer":
        """Starts it and waits until it is ready. Raises RuntimeError with the end of its log where it does not start.

        A failure to listen is tried again with other ports.
        """
        if not installed():
            raise RuntimeError("there is no tritonserver in build/oracle: run scripts/oracle")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(_START_ATTEMPTS):
            try:
                self._spawn()
                self._await_ready()
                return self
            except RuntimeError:
                self.stop()
                taken = "Address already in use" in self.log.read_text(errors="replace")
                if not taken or attempt == _START_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def command(self) -> list[str]:
        """What starts it."""
        return [
            str(HOME / "tritonserver" / "bin" / "tritonserver"),
            f"--model-repository={self._repository}",
            f"--backend-directory={BACKENDS}",
            # Several servers on one host must not share the names of their shared memory.
            f"--backend-config=python,shm-region-prefix-name=oracle-{os.getpid()}-{self.port}",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={self.port}",
            "--http-address=127.0.0.1",
            f"--http-port={self.http_port}",
            "--metrics-address=127.0.0.1",
            f"--metrics-port={self.metrics_port}",
            "--exit-timeout-secs=5",
            *self._flags,
        ]

    def _spawn(self) -> None:
        self.port, self.http_port, self.metrics_port = free_ports(3)
        path = f"{HOME / 'bin'}:{os.environ.get('PATH', '')}"  # whose Python the backend's models run with
        environment = {**os.environ, "PATH": path, "VIRTUAL_ENV": str(HOME), **self._environment}
        environment.pop("PYTHONPATH", None)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )

    def _await_ready(self) -> None:
        assert self.process is not None
        with grpc.insecure_channel(self.url) as channel:
            ready = channel.unary_unary(
                "/inference.GRPCInferenceService/ServerReady",
                request_serializer=pb.ServerReadyRequest.SerializeToString,
                response_deserializer=pb.ServerReadyResponse.FromString,
            )
            until = time.monotonic() + self._wait_s
            while True:
                if self.process.poll() is not None:
                    raise RuntimeError(f"tritonserver ended with status {self.process.returncode}: {self._tail()}")
                with contextlib.suppress(grpc.RpcError):
                    if ready(pb.ServerReadyRequest(), timeout=1.0).ready:
                        return
                if time.monotonic() > until:
                    raise RuntimeError(f"tritonserver is not ready after {self._wait_s:g} s: {self._tail()}")
                time.sleep(0.05)

    def _tail(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        wrong = [line for line in lines if line.startswith("E") or "error" in line.lower()]
        return " | ".join((wrong or lines)[-5:])

    def processes(self) -> list[int]:
        """Ids of its process and of those that run its Python models."""
        if self.process is None:
            return []
        found, asked = [self.process.pid], [self.process.pid]
        while asked:
            path = Path(f"/proc/{asked[0]}/task/{asked.pop(0)}/children")
            children = [int(pid) for pid in path.read_text().split()] if path.exists() else []
            found += children
            asked += children
        return found

    def stop(self) -> None:
        """Ends it and the processes of its models, and leaves nothing of them in shared memory."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for left in Path("/dev/shm").glob(f"oracle-{os.getpid()}-{self.port}*"):
            left.unlink(missing_ok=True)
        self.process = None

    def __enter__(self) -> "TritonServer":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
