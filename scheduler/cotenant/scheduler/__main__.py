"""Starts the scheduler: settings, wiring, run."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import structlog

from cotenant.runtime import logs, metrics, server, settings
from cotenant.runtime.settings import setting
from cotenant.runtime.transport import TransportSettings
from cotenant.scheduler import polling, predictions, rate_limits, settings_codec
from cotenant.scheduler.control import Control
from cotenant.scheduler.core import Core, CoreConfig
from cotenant.scheduler.events import DrainRequested
from cotenant.scheduler.lives import Lives
from cotenant.scheduler.metrics import SchedulerMetrics
from cotenant.scheduler.policies import POLICIES
from cotenant.scheduler.record import Recorder
from cotenant.scheduler.service import SchedulerService
from cotenant.scheduler.shell import Shell
from cotenant.v1 import scheduler_pb2_grpc

_log = structlog.get_logger()


@dataclass(frozen=True)
class SchedulerSettings(TransportSettings):
    """The scheduler's settings."""

    listen: str = setting("127.0.0.1:8003", "where frontends and executors connect, host:port or unix:path")
    predictor: str = setting("localhost:8004", "address of the predictor; empty to run without one")
    policy: str = setting("goodput", "what decides (docs/policies.md)", choices=sorted(POLICIES))
    bound_level: float = setting(0.95, "admit and launch so that a batch ends in time with this probability")
    observe_only: bool = setting(False, "refuse nothing for being late; record what would have been refused")
    max_pending: int = setting(16384, "requests that may wait in all; more are refused")
    answer_overhead_us: int = setting(
        2000, "first guess of the time from a batch's end to its answers, in us; measured then"
    )
    load_models: tuple[str, ...] = setting(
        ("*",), "models to load at start, separated by commas; * for all in the repository", metavar="NAMES"
    )
    rate_limit: str = setting(
        "off",
        "execution_count: batches wait for the resources that their model's rate_limiter names (docs/protocol.md)",
        choices=["off", "execution_count"],
    )
    rate_limit_resource: tuple[str, ...] = setting(
        (),
        "how much there is of them: NAME:COUNT, or NAME:COUNT:DEVICE, separated by commas; what is not told is "
        "what the model needs that needs most",
        metavar="RESOURCES",
    )
    model_control_mode: str = setting(
        "explicit",
        "explicit: models are loaded and unloaded on request; poll: as the repository changes; none: at the start",
        choices=["none", "explicit", "poll"],
    )
    repository_poll_s: float = setting(15.0, "how often mode poll looks at the repository, in s")
    settings: str = setting(
        "", "file that keeps what was changed at run time (docs/tenants.md); over flags at a start; empty for none"
    )
    lease_ms: int = setting(1000, "an executor whose stream broke is given up after so long, in ms")
    record: str = setting("", "file to record events and decisions in (docs/log-format.md); empty for none")
    record_cap_mib: int = setting(1024, "size at which the oldest part of the record is dropped, in MiB")
    explain_requests: int = setting(
        50_000, "requests whose lives are remembered for `cotenant explain` without a log; 0 for none"
    )
    explain_mib: int = setting(64, "about the memory that they may occupy, in MiB")
    metrics: str = setting("127.0.0.1:8012", "where Prometheus reads metrics, host:port; empty for nowhere")
    drain_s: float = setting(10.0, "longest time to finish what was admitted after SIGTERM, in s")
    log_level: str = setting("info", "debug, info, warning or error")
    log_format: str = setting("json", "how log lines look", choices=["json", "console"])


async def serve(options: SchedulerSettings) -> None:
    """Runs until a signal."""
    software = version("cotenant")
    names = tuple(name for name in options.load_models if name != "*")
    config = CoreConfig(
        policy=options.policy,
        level=options.bound_level,
        observe_only=options.observe_only,
        max_pending=options.max_pending,
        answer_overhead_ns=options.answer_overhead_us * 1000,
        first_batch_id=int(time.time()) << 20,  # unique for a million batches a second, and within 53 bits
        load_all="*" in options.load_models,
        load_models=names,
        rate_limit=options.rate_limit == "execution_count",
        rate_limit_resources=rate_limits.read(options.rate_limit_resource),
    )
    if options.settings and Path(options.settings).exists():
        kept = settings_codec.read(Path(options.settings), config.settings, POLICIES)
        config = config.with_settings(kept)
    shell = Shell(Core(config, POLICIES[config.policy](config.level)), lease_ns=options.lease_ms * 1_000_000)
    if options.explain_requests > 0:
        shell.lives = Lives(
            shell.core,
            epoch=shell.epoch,
            software=software,
            max_requests=options.explain_requests,
            max_bytes=options.explain_mib * 2**20,
        )
    if options.record:
        cap_bytes = options.record_cap_mib * 2**20
        shell.recorder = Recorder(Path(options.record), cap_bytes, epoch=shell.epoch, software=software)
        shell.recorder.start(shell.core)
    control = Control(shell, Path(options.settings) if options.settings else None)
    explicit = options.model_control_mode == "explicit"
    service = SchedulerService(shell, software=software, control=control, explicit=explicit)
    process = server.Server(service_names=["cotenant.v1.SchedulerService"])
    scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(service, process.grpc)
    process.bind(options.listen)
    stop_metrics = metrics.serve(SchedulerMetrics(shell).registry, options.metrics)
    tasks = [asyncio.create_task(shell.run()), asyncio.create_task(shell.watch_leases())]
    tasks[0].add_done_callback(_die_with)
    if options.model_control_mode == "poll":
        tasks.append(asyncio.create_task(polling.follow(shell, options.repository_poll_s)))
    if options.predictor:
        tasks.append(asyncio.create_task(predictions.watch(options.predictor, shell, service)))
    _log.info("listening", address=options.listen, policy=config.policy, software=software)

    async def drain() -> None:
        shell.post(DrainRequested())
        while shell.core.places:
            await asyncio.sleep(0.01)

    await process.run(drain=drain, grace_s=options.drain_s)
    for task in tasks:
        task.cancel()
    if shell.recorder:
        shell.recorder.close()
    stop_metrics()


def _die_with(owner: "asyncio.Task[None]") -> None:
    """An error in the core is a bug of ours: better to die loudly and be rebuilt from what the others know."""
    if not owner.cancelled() and (error := owner.exception()):
        _log.critical("the core failed", exc_info=error)
        raise SystemExit(70)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m cotenant.scheduler`."""
    options = settings.read(SchedulerSettings, "scheduler", __doc__, argv)
    logs.configure("scheduler", level=options.log_level, style=options.log_format)
    try:
        server.run(serve(options), options)
    except (OSError, RuntimeError, ValueError) as error:  # an address that is taken, a file that makes no sense
        raise SystemExit(f"cotenant.scheduler: {error}") from error


if __name__ == "__main__":
    main()
