"""The models an executor has loaded, and how they get there and go.

Loading runs on one background thread, of low priority where the backends start no threads of their own, so that it
takes as little as it can from batches that serve. A version appears in the table only when it can serve; one that is
replaced or removed is closed when its last batch has ended.
"""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from cotenant.executor import completion, overrides, repository
from cotenant.executor.backend import DecoupledModel, Model, PreparedModel, find_backend
from cotenant.executor.device import Device
from cotenant.executor.profile import WINDOW_NS, Profiler, classes
from cotenant.executor.reports import Reports
from cotenant.inference import inference_pb2
from cotenant.runtime import model_options, sequences
from cotenant.v1 import executor_pb2 as pb
from cotenant.v1 import types_pb2

_log = structlog.get_logger()

_BASES = {
    pb.PROFILE_BASIS_UNSPECIFIED: "not told",
    pb.PROFILE_BASIS_NSIGHT: "measured by Nsight Compute",
    pb.PROFILE_BASIS_OPERATORS: "counted per operator",
    pb.PROFILE_BASIS_MODEL: "counted per model",
    pb.PROFILE_BASIS_OUTSIDE: "estimated from outside",
    pb.PROFILE_BASIS_EMULATED: "emulated",
}


class LoadedVersion:
    """One version of a model, ready to run."""

    def __init__(
        self, version: str, config: inference_pb2.ModelConfig, model: Model, folder: Path, load_ns: int
    ) -> None:
        self.version = version
        self.config = config
        self.told = config  # as clients see it
        self.model = model
        self.folder = folder
        self.load_ns = load_ns
        self.options = model_options.read(config)
        self.decoupled = config.model_transaction_policy.decoupled
        self.labels: dict[str, list[str]] = {}  # of outputs
        self.source: overrides.Source | None = None  # kept as long as it serves, with the files a load brought
        self.profiles: list[pb.ClassProfiled] = []
        self._users = 0
        self._retired = False

    def announce(self) -> pb.ModelLoaded:
        """What the contract tells of it."""
        return pb.ModelLoaded(
            model=self.config.name,
            version=self.version,
            model_config=self.told.SerializeToString(),
            memory_bytes=self.model.memory_bytes,
            load_ns=self.load_ns,
            labels=[types_pb2.OutputLabels(output=name, labels=some) for name, some in self.labels.items()],
        )

    def use(self) -> None:
        """A batch begins to use it."""
        self._users += 1

    def release(self) -> None:
        """A batch has ended."""
        self._users -= 1
        self._close_if_idle()

    def retire(self) -> None:
        """Nothing new will use it; it is closed when the last batch ends."""
        self._retired = True
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._retired and self._users == 0:
            self.model.close()


class Models:
    """See the module's text. For the event loop's thread only."""

    def __init__(
        self, root: Path, device: Device, reports: Reports, profiler: Profiler, *, default_max_batch_size: int
    ) -> None:
        self.root = root
        self.table: dict[tuple[str, str], LoadedVersion] = {}
        self._device, self._reports, self._profiler = device, reports, profiler
        self._default_max_batch_size = default_max_batch_size
        # A runtime's own threads would inherit the low priority, and keep it while they serve.
        alone = device.placement.kind == "cpu" and device.placement.threads == 1
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="load", initializer=_be_nice if alone else None)
        profiler.patience_ns = self._patience_ns
        self._one_at_a_time = asyncio.Lock()

    def _patience_ns(self) -> int:
        """How long a measurement may keep what serves waiting: a quarter of the tightest SLO."""
        return min((v.options.slo_ns // 4 for v in self.table.values() if v.options.slo_ns), default=WINDOW_NS)

    def scan(self) -> pb.RepositoryScanned:
        """What the repository holds."""
        found = repository.scan(self.root)
        rows = [
            pb.RepositoryModel(model=m, versions=v, fingerprint=repository.fingerprint(self.root / m))
            for m, v in found.items()
        ]
        return pb.RepositoryScanned(models=rows)

    async def load(self, name: str, override: types_pb2.ModelOverride | None = None) -> None:
        """Loads what a model's version policy wants, tells how each version went, and then that it is done."""
        async with self._one_at_a_time:
            wanted: list[str] = []
            try:
                source = overrides.source(self.root, name, override or types_pb2.ModelOverride())
                config = repository.read_config(source.folder, source.config_json)
                wanted = repository.wanted_versions(config, repository.versions(source.folder))
            except (OSError, ValueError) as error:  # whoever asked waits for an end, whatever the disk says
                self._failed(name, "", str(error))
            for version in wanted:
                await self._load_version(source, version)
            event = self._reports.event()
            event.model_load_ended.model = name
            event.model_load_ended.versions.extend(wanted)
            self._reports.tell(event)

    async def _load_version(self, source: overrides.Source, version: str) -> None:
        loop, folder = asyncio.get_running_loop(), source.folder
        try:
            loaded = await loop.run_in_executor(self._pool, self._read, source, version)
            self._check_memory(loaded)
            loaded.profiles = await self._profiler.measure(loaded.config, loaded.model, loaded.version, loaded.folder)
        except Exception as error:  # whatever a model's file makes a library raise
            message = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            self._failed(folder.name, version, message)
            return
        key = (folder.name, version)
        replaced, self.table[key] = self.table.get(key), loaded
        if replaced:
            replaced.retire()
        for profile in loaded.profiles:
            event = self._reports.event()
            event.class_profiled.CopyFrom(profile)
            self._reports.tell(event)
        event = self._reports.event()
        event.model_loaded.CopyFrom(loaded.announce())
        self._reports.tell(event)
        _log.info(
            "model loaded",
            model=folder.name,
            version=version,
            load_ms=loaded.load_ns / 1e6,
            demand_from=demand_basis(loaded.profiles),
        )

    def _read(self, source: overrides.Source, version: str) -> LoadedVersion:
        """Runs on the loading thread."""
        started, folder = time.monotonic_ns(), source.folder
        config = repository.read_config(folder, source.config_json)
        kind = self._device.placement.kind
        needs_gpu = any(group.kind == inference_pb2.ModelInstanceGroup.KIND_GPU for group in config.instance_group)
        if needs_gpu and kind == "cpu":
            raise ValueError(f"model '{folder.name}': instance_group asks for a GPU, and this executor serves a CPU")
        config.backend = repository.backend_name(config, folder / version)
        backend = find_backend(config.backend)
        model = backend.load(folder / version, config, self._device.placement)
        try:
            outputs = {tensor.name for tensor in config.output}
            completion.complete(config, model.signature, self._default_max_batch_size)
            sequences.complete(config)
            told = sequences.shown(config, outputs)
            labels = repository.labels(folder, config)
            if config.model_transaction_policy.decoupled and not isinstance(model, DecoupledModel):
                raise ValueError(
                    f"model '{folder.name}': its model_transaction_policy is decoupled, and a model of backend "
                    f"'{config.backend}' answers each request once"
                )
            if isinstance(model, PreparedModel):
                model.prepare(inputs for _, inputs in classes(config, version))
        except Exception:
            model.close()
            raise
        loaded = LoadedVersion(version, config, model, folder / version, time.monotonic_ns() - started)
        loaded.labels, loaded.source, loaded.told = labels, source, told
        return loaded

    def _check_memory(self, loaded: LoadedVersion) -> None:
        used = sum(other.model.memory_bytes for other in self.table.values())
        free = self._device.describe().memory_bytes - used
        if loaded.model.memory_bytes > free:
            loaded.model.close()
            raise ValueError(
                f"model '{loaded.config.name}' version {loaded.version} needs {loaded.model.memory_bytes >> 20} MiB, "
                f"and {max(0, free) >> 20} MiB are left on '{self._device.describe().device_id}'"
            )

    def _failed(self, name: str, version: str, message: str) -> None:
        _log.warning("model failed to load", model=name, version=version, error=message)
        event = self._reports.event()
        failed = event.model_load_failed
        failed.model, failed.version, failed.message = name, version, message
        self._reports.tell(event)

    def unload(self, name: str, version: str) -> None:
        """Removes a version and tells so; also if it was not there, since that is what was wanted."""
        if loaded := self.table.pop((name, version), None):
            loaded.retire()
        event = self._reports.event()
        event.model_unloaded.model, event.model_unloaded.version = name, version
        self._reports.tell(event)


def demand_basis(profiles: list[pb.ClassProfiled]) -> str:
    """What the demands of a model's classes rest on, for people; empty if there are none."""
    return ", ".join(_BASES[basis] for basis in sorted({profile.basis for profile in profiles}))


def _be_nice() -> None:
    """Lets the calling thread yield to others; on Linux, niceness belongs to a thread."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, 15)
    except OSError:
        _log.debug("the loading thread keeps its priority")
