"""Starts all services as processes of this host, keeps them alive, and stops them in order.

`cotenant serve`, the demo, the benchmarks and the tests all start the same processes this way: each is
`python -m cotenant.SERVICE` with flags, nothing more.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cotenant.cli import identity
from cotenant.runtime import transport
from cotenant.runtime.server import open_channel
from cotenant.v1 import scheduler_pb2, scheduler_pb2_grpc

# glibc gives every large buffer back to the system and faults it in again; keeping them is worth 2.5x on images
# (docs/data-path.md). One thread per batch is ours to give, so libraries must not start teams of their own.
ENVIRONMENT: Mapping[str, str] = {
    "MALLOC_MMAP_THRESHOLD_": "268435456",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "67108864",
    "OMP_NUM_THREADS": "1",
    "GRPC_VERBOSITY": "ERROR",
    "PYTHONUNBUFFERED": "1",
    "COTENANT_DIE_WITH_PARENT": "1",  # a supervisor that is killed takes its services with it
}


@dataclass(frozen=True)
class Service:
    """One process: what it is, how it is started, where its health is asked."""

    name: str
    module: str
    flags: tuple[str, ...]
    address: str


@dataclass
class StackOptions:
    """What to start."""

    model_repository: Path
    run_dir: Path  # logs and sockets
    devices: tuple[str, ...] = ("cpu",)  # "cpu", "cuda:N", "emulated:N"
    host: str = "127.0.0.1"  # where clients connect
    port: int = 8001
    http_port: int = 0  # where clients of the REST protocol connect; 0 for nowhere
    metrics: bool = True
    sockets: bool = False  # talk inside over Unix sockets in `run_dir` instead of TCP ports 8003 to 8005
    predictor: str = ""  # address of a predictor that is already there; empty to start ours
    state: str = ""  # file of the predictor's state
    record: str = ""
    policy: str = "goodput"
    observe_only: bool = False
    tls: Path | None = None  # folder of certificates (`cotenant certificates`); None for no TLS
    client_certificates: bool = True  # with TLS, clients of the frontend must show a certificate
    access: str = ""  # file of who may do what at the frontend
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # more flags, by service


def services(options: StackOptions) -> list[Service]:
    """The processes of a stack, in the order in which they are started."""

    def inside(name: str, port: int) -> str:
        return f"unix:{options.run_dir / name}.sock" if options.sockets else f"127.0.0.1:{port}"

    def metrics(port: int, host: str = "127.0.0.1") -> str:
        return f"--metrics={host}:{port}" if options.metrics else "--metrics="

    def extra(name: str) -> tuple[str, ...]:
        asks = name != "frontend" or options.client_certificates
        tls = identity.flags(options.tls, name, ask_clients=asks) if options.tls else ()
        return (*tls, *options.extra.get(name, ()))

    scheduler = inside("scheduler", 8003)
    predictor = options.predictor or inside("predictor", 8004)
    found: list[Service] = []
    if not options.predictor:
        flags = (f"--listen={predictor}", f"--state={options.state}", metrics(8014), *extra("predictor"))
        found.append(Service("predictor", "cotenant.predictor", flags, predictor))
    flags = (
        f"--listen={scheduler}",
        f"--predictor={predictor}",
        f"--policy={options.policy}",
        f"--record={options.record}",
        metrics(8012),
        *(("--observe-only",) if options.observe_only else ()),
        *extra("scheduler"),
    )
    found.append(Service("scheduler", "cotenant.scheduler", flags, scheduler))
    for i, device in enumerate(options.devices):
        kind, _, index = device.partition(":")
        address = inside(f"executor-{i}", 8005 + i)
        flags = (
            f"--listen={address}",
            f"--scheduler={scheduler}",
            f"--predictor={predictor}",
            f"--model-repository={options.model_repository}",
            f"--device={kind}",
            f"--device-index={index or 0}",
            metrics(8025 + i),
            *extra("executor"),
        )
        found.append(Service(f"executor-{i}", "cotenant.executor", flags, address))
    public = f"{options.host}:{options.port}"
    flags = (
        f"--listen={public}",
        f"--http-address={options.host}:{options.http_port}" if options.http_port else "--http-address=",
        f"--scheduler={scheduler}",
        metrics(8002, options.host),
        *extra("frontend"),
    )
    if options.access:
        flags = (*flags, f"--access={options.access}")
    asked_at = f"127.0.0.1:{options.port}" if options.host == "0.0.0.0" else public
    found.append(Service("frontend", "cotenant.frontend", flags, asked_at))
    return found


class Stack:
    """See the module's text. Use as `async with Stack(options) as stack`."""

    def __init__(self, options: StackOptions, *, on_event: Callable[[str], None] = lambda _: None) -> None:
        self.options = options
        self.services = {service.name: service for service in services(options)}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        admin = options.tls / "admin" if options.tls else None
        self.transport = transport.Transport(identity.settings(admin))
        self._on_event = on_event
        self._supervising: asyncio.Task[None] | None = None
        self._started: dict[str, float] = {}

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self.services["frontend"].address

    @property
    def http_url(self) -> str:
        """Where clients of the REST protocol connect, without the scheme."""
        return f"{self.url.rpartition(':')[0]}:{self.options.http_port}"

    @property
    def scheduler(self) -> str:
        """Where the scheduler answers."""
        return self.services["scheduler"].address

    def log(self, name: str) -> Path:
        """Where a service's log goes."""
        return self.options.run_dir / f"{name}.log"

    async def __aenter__(self) -> "Stack":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Starts everything and supervises it. Raises RuntimeError if a service ends while it starts."""
        self.options.run_dir.mkdir(parents=True, exist_ok=True)
        for name in self.services:
            self.spawn(name)
        try:
            await asyncio.gather(*(self._answering(name) for name in self.services))
        except BaseException:
            await self.stop()
            raise
        self._supervising = asyncio.create_task(self._supervise())

    def command(self, service: Service) -> list[str]:
        """What starts a service."""
        return [sys.executable, "-m", service.module, *service.flags]

    def spawn(self, name: str) -> None:
        """Starts one service's process."""
        service = self.services[name]
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(  # noqa: S603
                self.command(service),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self._environment(),
                start_new_session=True,  # Ctrl-C is ours to pass on, in order
            )
        self._started[name] = time.monotonic()

    def _environment(self) -> dict[str, str]:
        """Of the services. Why a client's certificate was refused is told by gRPC alone, unless it must be silent."""
        ours = {k: v for k, v in ENVIRONMENT.items() if not (self.options.tls and k == "GRPC_VERBOSITY")}
        return {**ours, **os.environ}

    async def _answering(self, name: str) -> None:
        """Waits until a service's health answers (a frontend says NOT_SERVING until it has a scheduler)."""
        async with open_channel(self.services[name].address, self.transport) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while True:
                if (status := self.processes[name].poll()) is not None:
                    tail = self.log(name).read_text(errors="replace").strip().splitlines()[-3:]
                    raise RuntimeError(f"{name} ended with status {status} while starting: " + " | ".join(tail))
                try:
                    await stub.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.05)
                else:
                    return

    async def models_settled(self, timeout_s: float) -> list[scheduler_pb2.ModelState]:
        """Waits until no model is on its way; returns what there is, loaded or not. Raises TimeoutError."""
        async with open_channel(self.scheduler, self.transport) as channel:
            stub = cast(
                "scheduler_pb2_grpc.SchedulerServiceAsyncStub", scheduler_pb2_grpc.SchedulerServiceStub(channel)
            )
            moving = (scheduler_pb2.MODEL_AVAILABILITY_LOADING, scheduler_pb2.MODEL_AVAILABILITY_UNLOADING)
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        status = await stub.GetStatus(scheduler_pb2.GetStatusRequest())
                        models = (await stub.ListModels(scheduler_pb2.ListModelsRequest())).models
                    except grpc.aio.AioRpcError as error:
                        if error.code() != grpc.StatusCode.UNAVAILABLE:
                            raise
                        await asyncio.sleep(0.1)  # it is being started again
                        continue
                    everyone = sum(device.online for device in status.devices) == len(self.options.devices)
                    if everyone and not any(model.availability in moving for model in models):
                        return list(models)
                    await asyncio.sleep(0.1)

    async def _supervise(self) -> None:
        """Starts again what has ended, at once the first time, then after a second."""
        while True:
            await asyncio.sleep(0.05)
            for name, process in list(self.processes.items()):
                if (status := process.poll()) is not None:
                    lived_s = time.monotonic() - self._started[name]
                    self._on_event(f"{name} ended with status {status} after {lived_s:.1f} s, starting it again")
                    if lived_s < 2.0:
                        await asyncio.sleep(1.0)
                    self.spawn(name)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Sends a signal to one service."""
        self.processes[name].send_signal(number)

    async def stop(self, grace_s: float = 15.0) -> None:
        """Drains from the outside in: frontends answer what they accepted, then the others stop."""
        if self._supervising:
            self._supervising.cancel()
            await asyncio.gather(self._supervising, return_exceptions=True)
            self._supervising = None
        for prefix in ("frontend", "scheduler", "executor", "predictor"):
            await self._end([p for name, p in self.processes.items() if name.startswith(prefix)], grace_s)
        self.processes.clear()

    async def _end(self, processes: list["subprocess.Popen[bytes]"], grace_s: float) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while any(process.poll() is None for process in processes):
            if time.monotonic() > deadline:
                for process in processes:
                    process.kill()
            await asyncio.sleep(0.01)
