"""Measures models alone and tells it on stdout, one event a line: the process behind `cotenant profile`.

It loads and measures as an executor with the same settings and environment does, only longer, so that what it keeps
beside a model is what the next load of that executor finds. Its own record lies next to it (`.cotenant-solo-*.json`).
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from cotenant.executor import repository
from cotenant.executor.__main__ import ExecutorSettings
from cotenant.executor.backend import Placement, find_backend
from cotenant.executor.device import Device, open_device
from cotenant.executor.models import LoadedVersion, Models
from cotenant.executor.reports import Reports
from cotenant.executor.solo_profiler import Outcome, SoloProfiler, keep
from cotenant.runtime import logs, server, settings, solo
from cotenant.runtime.settings import setting
from cotenant.v1 import executor_pb2 as pb

_PACKAGES = ("cotenant", "numpy", "onnxruntime", "onnxruntime-gpu", "torch", "tensorrt", "cuda-python")

Tell = Callable[[solo.Event], None]


@dataclass(frozen=True)
class ProfilingSettings(ExecutorSettings):
    """An executor's settings, and what to measure."""

    models: tuple[str, ...] = setting((), "models to measure; none for all of the repository", metavar="A,B")
    batch_sizes: tuple[str, ...] = setting((), "instead of those that a load measures", metavar="1,2,4")
    runs: int = setting(0, "runs of each batch class; 0 for as many as fit into 2 s, 5 to 100")


async def profile(options: ProfilingSettings, tell: Tell) -> None:
    """Measures one model after the other. Raises ValueError if there is no such device, or nothing to measure."""
    root, cache = Path(options.model_repository), Path(options.profile_cache).expanduser()
    there = repository.scan(root)
    names = options.models or tuple(there)
    if not names:
        raise ValueError(f"there are no models in {root}")
    device = open_device(
        options.device,
        options.device_index,
        concurrency=options.concurrency,
        threads=options.threads_per_batch,
        seed=options.emulation_seed,
        cache=cache,
    )
    sizes = tuple(sorted({int(size) for size in options.batch_sizes}))
    profiler = SoloProfiler(device, tell, cache=cache, anew=options.remeasure, batch_sizes=sizes, runs=options.runs)
    reports = Reports(limit=1)
    reports.listeners.append(lambda event: _tell_failure(event, tell))
    models = Models(root, device, reports, profiler, default_max_batch_size=options.default_max_batch_size)
    spec = describe(device)
    tell(solo.Opened(spec, names))
    for name in names:
        tell(solo.Begun(name))
        if name in there:
            await asyncio.to_thread(_rehearse, root / name, there[name], device.placement)
        await models.load(name)
        for loaded in [found for (model, _), found in models.table.items() if model == name]:
            tell(_profiled(loaded, profiler.outcomes[loaded.version], spec))
            models.unload(name, loaded.version)


def _rehearse(folder: Path, available: list[str], placement: Placement) -> None:
    """Loads a model once, so that the time of its load is not that of imports and of files that were never read."""
    with contextlib.suppress(Exception):  # the load itself tells what is wrong
        for found in repository.wanted_versions(repository.read_config(folder), available):
            config = repository.read_config(folder)
            backend = find_backend(repository.backend_name(config, folder / found))
            backend.load(folder / found, config, placement).close()


def _tell_failure(event: pb.ExecutorEvent, tell: Tell) -> None:
    if event.WhichOneof("event") == "model_load_failed":
        failed = event.model_load_failed
        tell(solo.Failed(failed.model, failed.version, failed.message))


def _profiled(loaded: LoadedVersion, outcome: Outcome, device: solo.SoloDevice) -> solo.Profiled:
    """A version's measurements, which are kept if they are new and may be."""
    if outcome.kept:
        return solo.Profiled(outcome.kept, kept=True, fresh=False)
    found = solo.SoloProfile(
        loaded.config.name,
        loaded.version,
        loaded.config.backend,
        device,
        datetime.now(UTC).isoformat(timespec="seconds"),
        outcome.load_average,
        loaded.load_ns,
        loaded.model.memory_bytes,
        tuple(outcome.classes(loaded.profiles)),
    )
    kept = outcome.file is not None and keep(found, outcome.file)
    remark = outcome.remark or ("" if kept else "not kept: its folder and the profile cache cannot be written")
    return solo.Profiled(found, kept=kept, fresh=True, remark=remark)


def describe(device: Device) -> solo.SoloDevice:
    """The device as measurements name it, with the versions of what runs there."""
    spec = device.describe()
    return solo.SoloDevice(
        spec.device_id,
        spec.kind,
        spec.name,
        spec.memory_bytes,
        spec.max_concurrency,
        device.placement.threads,
        dict(_software(spec.kind)),
    )


def _software(kind: str) -> Iterable[tuple[str, str]]:
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            yield name, version(name)
    if kind == "cuda":
        import pynvml

        with contextlib.suppress(pynvml.NVMLError):
            driver = pynvml.nvmlSystemGetDriverVersion()
            yield "driver", driver if isinstance(driver, str) else driver.decode()


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m cotenant.executor.profiling`."""
    options = settings.read(ProfilingSettings, "executor", __doc__, argv)
    logs.configure("executor", level=options.log_level, style=options.log_format)
    # Libraries may print what they like: stdout is ours alone, and theirs goes where logs go.
    with os.fdopen(os.dup(1), "wb", buffering=0) as events:
        os.dup2(2, 1)
        try:
            server.run(profile(options, lambda event: _write(events.fileno(), event)))
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            raise SystemExit(f"{error}") from error


def _write(target: int, event: solo.Event) -> None:
    line = msgspec.json.encode(event) + b"\n"
    while line:
        line = line[os.write(target, line) :]


if __name__ == "__main__":
    main()
