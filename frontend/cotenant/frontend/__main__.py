"""Starts the frontend: settings, wiring, run."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import structlog
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from cotenant.frontend import tracing
from cotenant.frontend.catalogue import Catalogue
from cotenant.frontend.dispatch import Dispatcher
from cotenant.frontend.identity import ANY, COMMON_NAME, FIELDS, SOURCES, Identity
from cotenant.frontend.inference import Inference
from cotenant.frontend.links import Links
from cotenant.frontend.metadata import MetadataMethods
from cotenant.frontend.metrics import FrontendMetrics
from cotenant.frontend.regions import Regions
from cotenant.frontend.repository import RepositoryMethods
from cotenant.frontend.response_cache import ResponseCache
from cotenant.frontend.restricted import RestrictedProtocols
from cotenant.frontend.service import SERVICE, InferenceMethods, register
from cotenant.frontend.settings_methods import SettingsMethods
from cotenant.frontend.shared_memory import SharedMemoryMethods
from cotenant.frontend.staging_area import StagingArea
from cotenant.frontend.statistics import Statistics
from cotenant.inference.pool import POOL
from cotenant.runtime import logs, metrics, server, settings, transport
from cotenant.runtime.settings import setting
from cotenant.runtime.transport import TransportSettings

if TYPE_CHECKING:
    from cotenant.frontend.rest.server import RestServer

_log = structlog.get_logger()


@dataclass(frozen=True)
class FrontendSettings(TransportSettings):
    """The frontend's settings."""

    listen: str = setting("0.0.0.0:8001", "where clients connect, host:port or unix:path")
    http_address: str = setting(
        "0.0.0.0:8000", "where clients of the REST protocol connect, host:port or unix:path; empty for nowhere"
    )
    scheduler: str = setting("localhost:8003", "address of the scheduler")
    max_pending: int = setting(16384, "requests that may be unanswered at a time; more are refused")
    max_message_mib: int = setting(512, "largest request, in MiB; larger ones are refused; 0 for no limit")
    max_streams: int = setting(16384, "calls that may be open on one connection; more wait at the client")
    max_connections: int = setting(
        0, "connections at a time; more are closed; 0 for what the limit of open files allows"
    )
    restricted_protocols: str = setting(
        "", "lines GROUP,GROUP:KEY=VALUE: methods that need a header (docs/security.md); empty for none", metavar="FILE"
    )
    scheduler_patience_ms: int = setting(5000, "how long requests wait for a scheduler that is away, in ms")
    staging_dir: str = setting("/dev/shm", "memory-backed folder shared with executors of this host; empty for none")
    staging_mib: int = setting(128, "shared memory for requests' tensors, in MiB")
    response_cache_mib: int = setting(0, "memory for cached answers of models that enable it, in MiB; 0 for no cache")
    allow_model_files: bool = setting(False, "loads may bring files of a model, which run as code in executors")
    allow_client_shm: bool = setting(False, "clients may register shared memory of this host for tensors")
    tenant_from: str = setting(
        ANY, "what names a request's tenant: its metadata, the client's certificate, any, or nobody", choices=SOURCES
    )
    tenant_certificate_field: str = setting(COMMON_NAME, "what of the certificate names the tenant", choices=FIELDS)
    tenant_proxies: tuple[str, ...] = setting(
        (), "names in certificates that may name any tenant in metadata, separated by commas", metavar="NAMES"
    )
    metrics: str = setting("0.0.0.0:8002", "where Prometheus reads metrics, host:port; empty for nowhere")
    trace_file: str = setting(
        "", "where traces go in Triton's format, once TraceSetting asks for them; empty for nowhere"
    )
    otlp_endpoint: str = setting("", "where spans go, host:port or URL of an OTLP gRPC collector; empty for nowhere")
    drain_s: float = setting(10.0, "longest time to answer what was accepted after SIGTERM, in s")
    log_level: str = setting("info", "debug, info, warning or error")
    log_format: str = setting("json", "how log lines look", choices=["json", "console"])


async def serve(options: FrontendSettings) -> None:
    """Runs until a signal."""
    software = version("cotenant")
    spans = tracing.connect(options.otlp_endpoint, software=software, file=options.trace_file)
    catalogue, statistics = Catalogue(), Statistics()
    staging = StagingArea(options.staging_dir, options.staging_mib * 2**20)
    dispatcher = Dispatcher(
        staging, max_pending=options.max_pending, patience_ns=options.scheduler_patience_ms * 1_000_000
    )
    links = Links(options.scheduler, dispatcher, catalogue, statistics, software=software)
    regions = Regions(allowed=options.allow_client_shm, max_input_bytes=(options.max_message_mib or 2**30) * 2**20)
    cache = ResponseCache(options.response_cache_mib * 2**20)
    inference = Inference(catalogue, dispatcher, statistics, spans, regions, cache)
    identity = Identity(options.tenant_from, options.tenant_certificate_field, options.tenant_proxies)
    methods = InferenceMethods(inference, identity)
    restricted = RestrictedProtocols(options.restricted_protocols) if options.restricted_protocols else None
    process = server.Server(
        service_names=[SERVICE],
        options=server.limits(
            message_mib=options.max_message_mib, streams=options.max_streams, connections=options.max_connections
        ),
        interceptors=[restricted] if restricted else [],
    )
    every = (
        methods,
        MetadataMethods(catalogue, inference, links, statistics, software=software),
        RepositoryMethods(links, allow_files=options.allow_model_files),
        SharedMemoryMethods(regions),
        SettingsMethods(catalogue, spans.settings),
    )
    register(process.grpc, *every)
    _reflect(process)
    process.bind(options.listen)
    rest = await _rest(options, restricted, catalogue, every) if options.http_address else None
    stop_metrics = metrics.serve(FrontendMetrics(statistics, dispatcher).registry, options.metrics)
    tasks = [asyncio.create_task(links.run()), asyncio.create_task(_sweep(dispatcher))]
    health = asyncio.create_task(_follow(links, process.health))
    _log.info("listening", address=options.listen, software=software)

    async def drain() -> None:
        health.cancel()
        if rest:
            rest.drain()
        methods.drain()
        while methods.busy:
            await asyncio.sleep(0.01)

    await process.run(drain=drain, grace_s=options.drain_s, ready=False)
    if rest:
        await rest.close()
    for task in (*tasks, health):
        task.cancel()
    links.close()
    staging.close()
    stop_metrics()
    spans.close()


async def _rest(
    options: FrontendSettings, restricted: RestrictedProtocols | None, catalogue: Catalogue, methods: tuple[object, ...]
) -> "RestServer":
    """The protocol over HTTP, whose library takes 14 MiB and is imported only where it is used."""
    from cotenant.frontend.rest.caller import Access
    from cotenant.frontend.rest.server import RestServer

    made = RestServer(
        catalogue,
        Access(transport.own().guard, restricted),
        *methods,
        max_body_bytes=options.max_message_mib * 2**20,
        max_connections=server.connection_limit(options.max_connections),
    )
    await made.bind(options.http_address, transport.own())
    return made


def _reflect(process: server.Server) -> None:
    """Server reflection over our own descriptor pool, health and reflection itself included."""
    names = [SERVICE]
    for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        POOL.AddSerializedFile(file.serialized_pb)
        names += [service.full_name for service in file.services_by_name.values()]
    reflection.enable_server_reflection(names, process.grpc, pool=POOL)


async def _follow(links: Links, health: server.Health) -> None:
    """Health is SERVING while the scheduler is connected."""
    while True:
        await links.connected.wait()
        await health.set(serving=True)
        await links.lost.wait()
        await health.set(serving=False)


async def _sweep(dispatcher: Dispatcher) -> None:
    while True:
        await asyncio.sleep(0.05)
        dispatcher.sweep()


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m cotenant.frontend`."""
    options = settings.read(FrontendSettings, "frontend", __doc__, argv)
    logs.configure("frontend", level=options.log_level, style=options.log_format)
    try:
        server.run(serve(options), options)
    except (OSError, RuntimeError, ValueError) as error:  # an address that is taken, a device that is not there
        raise SystemExit(f"cotenant.frontend: {error}") from error


if __name__ == "__main__":
    main()
