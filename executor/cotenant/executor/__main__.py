"""Starts an executor for one device: settings, wiring, run."""

import asyncio
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import structlog

from cotenant.executor.device import Ran, open_device
from cotenant.executor.exchange import Exchange
from cotenant.executor.gpu_state import GpuState, Nvml
from cotenant.executor.links import PredictorLink, SchedulerLink
from cotenant.executor.metrics import ExecutorMetrics
from cotenant.executor.models import Models
from cotenant.executor.profile import Profiler
from cotenant.executor.reports import Reports
from cotenant.executor.runner import Runner
from cotenant.executor.service import ExecutorService
from cotenant.executor.torch_cuda_device import pinning
from cotenant.runtime import logs, metrics, server, settings, staging
from cotenant.runtime.settings import setting
from cotenant.runtime.transport import TransportSettings
from cotenant.v1 import executor_pb2_grpc

_log = structlog.get_logger()


@dataclass(frozen=True)
class ExecutorSettings(TransportSettings):
    """The executor's settings."""

    listen: str = setting("127.0.0.1:8005", "where frontends connect, host:port")
    advertise: str = setting("", "address that frontends are told to connect to; default: what it listens at")
    scheduler: str = setting("localhost:8003", "address of the scheduler")
    predictor: str = setting("localhost:8004", "address of the predictor; empty to run without one")
    model_repository: str = setting("models", "folder of models in Triton's layout", metavar="DIR")
    device: str = setting("cpu", "kind of device to serve", choices=["cpu", "cuda", "emulated"])
    device_index: int = setting(0, "which one, if there are several")
    device_id: str = setting(
        "",
        "name of the device, unique among the scheduler's executors; {host} stands for this host's name",
        metavar="ID",
    )
    concurrency: int = setting(0, "batches that may run at once; 0 for as many as suits the device")
    threads_per_batch: int = setting(1, "CPU threads one batch may use")
    default_max_batch_size: int = setting(8, "batch limit of models whose configuration and file set none")
    profile_cache: str = setting(
        "~/.cache/cotenant", "where the device's peaks are kept, and solo measurements if the repository is read-only"
    )
    remeasure: bool = setting(False, "ignore solo measurements that were kept")
    kernel_sample_every: int = setting(500, "take timings inside every so many batches of a class; 0 for never")
    staging_dir: str = setting("/dev/shm", "memory-backed folder shared with frontends of this host; empty for none")
    output_mib: int = setting(64, "shared memory for outputs, in MiB")
    event_buffer: int = setting(65536, "events kept for a scheduler or predictor that is away")
    emulation_seed: int = setting(0, "seed of the emulated device's noise")
    metrics: str = setting("127.0.0.1:8015", "where Prometheus reads metrics, host:port; empty for nowhere")
    drain_s: float = setting(10.0, "longest time to finish what runs after SIGTERM, in s")
    log_level: str = setting("info", "debug, info, warning or error")
    log_format: str = setting("json", "how log lines look", choices=["json", "console"])


async def serve(options: ExecutorSettings) -> None:
    """Runs until a signal. Raises ValueError if the device cannot be had."""
    software = version("cotenant")
    device = open_device(
        options.device,
        options.device_index,
        concurrency=options.concurrency,
        threads=options.threads_per_batch,
        seed=options.emulation_seed,
        cache=Path(options.profile_cache).expanduser(),
    )
    if options.device_id:
        device.describe().device_id = options.device_id.replace("{host}", socket.gethostname())
    staging_folder = Path(options.staging_dir)
    if options.staging_dir:
        staging.sweep(staging_folder)
    exchange = Exchange(staging_folder, options.output_mib * 2**20 if options.staging_dir else 0)
    if options.device == "cuda":
        exchange.on_map = pinning(options.device_index)
    reports = Reports(limit=options.event_buffer)
    process = server.Server(service_names=["cotenant.v1.ExecutorService"])
    executor_pb2_grpc.add_ExecutorServiceServicer_to_server(ExecutorService(device, exchange, reports), process.grpc)
    port = process.bind(options.listen)
    listening = options.listen if options.listen.startswith("unix:") else f"{options.listen.rpartition(':')[0]}:{port}"
    own_address = options.advertise or listening

    profiler = Profiler(
        device,
        lambda duration_ns, model: link.acquire_window(duration_ns, model),  # noqa: PLW0108 (link comes below)
        cache=Path(options.profile_cache).expanduser(),
        remeasure=options.remeasure,
    )
    models = Models(
        Path(options.model_repository),
        device,
        reports,
        profiler,
        default_max_batch_size=options.default_max_batch_size,
    )
    link = SchedulerLink(options.scheduler, device, models, reports, own_address=own_address, software=software)
    link.runner = runner = Runner(device, models, exchange, reports, sample_every=options.kernel_sample_every)
    profiler.on_kernels = lambda known, kernels: runner.tell_kernels(
        known, Ran(time.monotonic_ns(), 0, [], 0, kernels), 0
    )
    tasks = [asyncio.create_task(link.run())]
    if options.predictor:
        tasks.append(asyncio.create_task(PredictorLink(options.predictor, device, reports, models).run()))
    state = GpuState(reports, Nvml(options.device_index).read) if options.device == "cuda" else None
    if state:
        tasks.append(asyncio.create_task(state.run()))
    stop_metrics = metrics.serve(ExecutorMetrics(device, models, exchange, reports, state).registry, options.metrics)
    _log.info("listening", address=own_address, device=device.describe().name, software=software)

    async def drain() -> None:
        await link.leave()
        await runner.drain()

    await process.run(drain=drain, grace_s=options.drain_s)
    for task in tasks:
        task.cancel()
    exchange.close()
    stop_metrics()
    if runner.busy:  # told twice to stop, or a batch that does not end: the interpreter would wait for its thread
        os._exit(0)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m cotenant.executor`."""
    options = settings.read(ExecutorSettings, "executor", __doc__, argv)
    logs.configure("executor", level=options.log_level, style=options.log_format)
    try:
        server.run(serve(options), options)
    except (OSError, RuntimeError, ValueError) as error:  # an address that is taken, a device that is not there
        raise SystemExit(f"cotenant.executor: {error}") from error


if __name__ == "__main__":
    main()
