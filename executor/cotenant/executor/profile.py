"""Solo measurements: how long each batch class takes when nothing runs beside it.

Measured once per model file and device, in exclusive windows the scheduler grants, and kept beside the model
(`MODEL/VERSION/.cotenant-profile-*.json`, or in the cache folder where the repository is read-only). Windows are
short and many, so that a load delays the batches of others by one window at most.
"""

import asyncio
import hashlib
import statistics
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import structlog

from cotenant.executor import nsight
from cotenant.executor.backend import CountedModel, Kernel, Model, Operator, Tensors, Weighed
from cotenant.executor.completion import type_name
from cotenant.executor.demand import Basis, Solo
from cotenant.executor.device import Device, Ran
from cotenant.inference import inference_pb2
from cotenant.runtime import model_options
from cotenant.runtime.clock import now_ns
from cotenant.runtime.datatypes import NUMPY, Array
from cotenant.runtime.estimates import BatchClass, Phase
from cotenant.v1 import executor_pb2 as pb
from cotenant.v1 import types_pb2

_log = structlog.get_logger()

_FORMAT = b"2"  # of what is kept: older measurements know no phases, and are made again
WINDOW_NS = 40_000_000  # the longest a window lasts, where runs are shorter
WINDOW_LIMIT_NS = 2_000_000_000  # the scheduler grants no more

# Asks for the device alone for so many ns on behalf of a model; returns what gives it back, and until when it holds.
Acquire = Callable[[int, str], Awaitable[tuple[Callable[[], None], int]]]


class _Kept(msgspec.Struct):
    """A measurement as it is kept on disk."""

    batch_size: int
    shape_bucket: str
    work_ns: int
    samples: int
    spread: float
    demand: tuple[float, ...]
    basis: Basis
    kernel_ns: float = 0.0
    phases: tuple[Phase, ...] = ()

    def announce(self, model: str, version: str) -> pb.ClassProfiled:
        """What the contract tells of it."""
        known = types_pb2.BatchClass(
            model=model, version=version, batch_size=self.batch_size, shape_bucket=self.shape_bucket
        )
        return pb.ClassProfiled(
            batch_class=known,
            work_ns=self.work_ns,
            samples=self.samples,
            spread=self.spread,
            demand=self.demand,
            basis=f"PROFILE_BASIS_{self.basis}",
            kernel_ns=self.kernel_ns,
            phases=[types_pb2.Phase(end=p.end, demand=p.demand, kernel_ns=p.kernel_ns) for p in self.phases],
        )


class _Timed(NamedTuple):
    """How long a class takes alone."""

    batch_class: BatchClass
    work_ns: int  # median
    samples: int
    spread: float
    typical: Ran  # the run next to the median
    io_bytes: int


class _Probe:
    """A job that measures instead of serving."""

    def __init__(self, batch_id: int, batch_class: BatchClass, model: Model, inputs: Tensors, *, timed: bool) -> None:
        self.batch_id, self.batch_class, self.model, self.timed = batch_id, batch_class, model, timed
        self._inputs = inputs
        self.ran: Ran | None = None
        self.io_bytes = sum(array.nbytes for array in inputs.values())

    def gather(self) -> Tensors:
        """See `Job.gather`."""
        return self._inputs

    def started(self, at_ns: int) -> None:
        """Nobody waits for it."""

    def scatter(self, outputs: Tensors, ran: Ran) -> None:
        """Keeps the measurement."""
        self.ran = ran
        self.io_bytes += sum(array.nbytes for array in outputs.values())


class Profiler:
    """See the module's text."""

    budget_ns, min_runs, max_runs = 400_000_000, 3, 20  # time and runs spent on one class
    batch_sizes: Sequence[int] = ()  # to measure, instead of those that are worth it
    keeps = True

    def __init__(self, device: Device, acquire: Acquire, *, cache: Path, remeasure: bool = False) -> None:
        self._device, self._acquire, self._cache, self._remeasure = device, acquire, cache, remeasure
        self._probes = 0
        self.patience_ns: Callable[[], int] = lambda: WINDOW_NS  # how long those who serve may be kept waiting
        self.on_kernels: Callable[[BatchClass, list[Kernel]], None] = lambda *_: None
        # Told of each class the run that warmed up, and those that count.
        self.on_runs: Callable[[BatchClass, Ran, list[Ran]], None] = lambda *_: None

    async def measure(
        self, config: inference_pb2.ModelConfig, model: Model, version: str, folder: Path
    ) -> list[pb.ClassProfiled]:
        """Measures every class worth knowing, or reads what was measured before. Raises what the model raises."""
        if config.HasField("ensemble_scheduling"):
            return []  # its steps are measured
        key = self._fingerprint(config, folder)
        for path in self._files(folder, key):
            if path.exists() and not self._remeasure:
                try:
                    kept = msgspec.json.decode(path.read_bytes(), type=list[_Kept])
                    return [profile.announce(config.name, version) for profile in kept]
                except (OSError, msgspec.MsgspecError) as error:
                    _log.warning("profile unreadable, measuring again", path=str(path), error=str(error))
        chosen = classes(config, version, self.batch_sizes)
        timed = [await self._measure(known, model, inputs) for known, inputs in chosen]
        counted = await self._count(config, model, version, {t.batch_class: t.work_ns for t in timed})
        kernels = nsight.read(folder) if self._device.placement.kind == "cuda" else None
        profiles = [self._profile(t, model, counted.get(t.batch_class, []), kernels) for t in timed]
        if self.keeps:
            self._keep(folder, key, profiles)
        await self._time_operators(config, model, version)
        return [profile.announce(config.name, version) for profile in profiles]

    async def _measure(self, batch_class: BatchClass, model: Model, inputs: Tensors) -> _Timed:
        first = await self._runs(batch_class, model, inputs, WINDOW_NS, 1)  # warms up, and may take much longer
        runs = await self._runs(batch_class, model, inputs, self._window_ns(first[0].duration_ns), 1)
        expected_ns = runs[0].duration_ns
        wanted = max(self.min_runs, min(self.max_runs, self.budget_ns // max(1, expected_ns)))
        while len(runs) < wanted:
            runs += await self._runs(batch_class, model, inputs, self._window_ns(expected_ns), wanted - len(runs))
        solo = [ran for ran in runs if not any(s.co_runners for s in ran.slices)] or runs
        self.on_runs(batch_class, first[0], solo)
        durations = sorted(ran.duration_ns for ran in solo)
        work_ns = int(statistics.median(durations))
        spread = (durations[int(0.95 * (len(durations) - 1))] - work_ns) / max(1, work_ns)
        io_bytes = sum(array.nbytes for array in inputs.values())
        typical = min(solo, key=lambda ran: abs(ran.duration_ns - work_ns))
        return _Timed(batch_class, work_ns, len(durations), spread, typical, io_bytes)

    def _window_ns(self, expected_ns: int) -> int:
        """How long a window to ask for: as long as who serves can wait, and long enough for one run."""
        return min(WINDOW_LIMIT_NS, max(min(WINDOW_NS, self.patience_ns()), expected_ns * 3 // 2))

    def _profile(
        self, timed: _Timed, model: Model, operators: list[Operator], kernels: nsight.KernelProfiles | None
    ) -> _Kept:
        known, ran = timed.batch_class, timed.typical
        read = model.weight_bytes if isinstance(model, Weighed) else model.memory_bytes
        solo = Solo(known, ran.duration_ns, ran.cpu_ns, read, timed.io_bytes, operators, kernels)
        told = self._device.demand(model, solo)
        return _Kept(
            known.batch_size,
            known.shape_bucket,
            timed.work_ns,
            timed.samples,
            timed.spread,
            told.shares,
            told.basis,
            told.kernel_ns,
            told.phases,
        )

    async def _runs(
        self, batch_class: BatchClass, model: Model, inputs: Tensors, window_ns: int, count: int
    ) -> list[Ran]:
        """As many of `count` runs as fit into one window, at least one."""
        give_back, until_ns = await self._acquire(window_ns, batch_class.model)
        try:
            runs: list[Ran] = []
            while len(runs) < count:
                self._probes += 1
                probe = _Probe(-self._probes, batch_class, model, inputs, timed=False)
                await self._device.execute(probe)
                assert probe.ran is not None
                runs.append(probe.ran)
                if now_ns() + probe.ran.duration_ns > until_ns:
                    break
            return runs
        finally:
            give_back()

    async def _count(
        self, config: inference_pb2.ModelConfig, model: Model, version: str, work_ns: dict[BatchClass, int]
    ) -> dict[BatchClass, list[Operator]]:
        """What the operators of each class do, from the last of two runs; empty where it cannot be told."""
        if not work_ns:
            return {}
        counted: CountedModel | None = None
        try:
            if (counted := await asyncio.to_thread(model.counted)) is None:
                return {}
            last: dict[BatchClass, int] = {}  # which of all runs is the last one of a class
            total = 0
            for known, inputs in classes(config, version, self.batch_sizes):
                for _ in range(2):
                    total += len(await self._runs(known, counted, inputs, self._window_ns(2 * work_ns[known]), 1))
                last[known] = total - 1
            runs = await asyncio.to_thread(counted.operators)
            return {known: runs[index] for known, index in last.items()}
        except Exception as error:  # whatever a library raises: the model serves without it
            _log.warning("work cannot be counted, estimating from outside", model=config.name, error=str(error))
            return {}
        finally:
            if counted:
                counted.close()

    async def _time_operators(self, config: inference_pb2.ModelConfig, model: Model, version: str) -> None:
        """Takes the timings inside one solo run of the largest class, and hands them to `on_kernels`."""
        known = list(classes(config, version, self.batch_sizes))
        if not known:
            return
        batch_class, inputs = known[-1]
        await asyncio.to_thread(model.prepare_timed, inputs)
        give_back, _ = await self._acquire(WINDOW_LIMIT_NS, batch_class.model)
        try:
            self._probes += 1
            probe = _Probe(-self._probes, batch_class, model, inputs, timed=True)
            await self._device.execute(probe)
        finally:
            give_back()
        if probe.ran and probe.ran.kernels:
            self.on_kernels(batch_class, probe.ran.kernels)

    # ---- keeping

    def _fingerprint(self, config: inference_pb2.ModelConfig, folder: Path) -> str:
        """Differs if the files, the configuration, or the device differ."""
        device = self._device.describe()
        digest = hashlib.blake2b(_FORMAT, digest_size=12)
        digest.update(config.SerializeToString(deterministic=True))
        digest.update(f"{device.kind}|{device.name}|{device.max_concurrency}|{self._device.placement}".encode())
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
            status = path.stat()
            digest.update(f"{path.name}|{status.st_size}|{status.st_mtime_ns}".encode())
        return digest.hexdigest()

    def _files(self, folder: Path, key: str) -> tuple[Path, Path]:
        name = f".cotenant-profile-{key}.json"
        return folder / name, self._cache / name

    def _keep(self, folder: Path, key: str, profiles: list[_Kept]) -> None:
        text = msgspec.json.format(msgspec.json.encode(profiles))
        for path in self._files(folder, key):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                draft = path.with_suffix(".part")
                draft.write_bytes(text)
                draft.replace(path)
            except OSError:
                continue
            return
        _log.warning("profile not kept, it will be measured again at the next load", model=folder.parent.name)


def classes(
    config: inference_pb2.ModelConfig, version: str, batch_sizes: Sequence[int] = ()
) -> Iterator[tuple[BatchClass, Tensors]]:
    """The classes worth measuring, with inputs for each: powers of two (or as asked or configured) x declared buckets.

    None for a model with variable dimensions and no declared buckets: its classes are met as they come. A decoupled
    model has one for each size, whatever its dimensions: what a request takes is in its contents.
    """
    options = model_options.read(config)
    largest = max(1, config.max_batch_size)
    sizes = [s for s in batch_sizes or options.profile_batch_sizes if s <= largest] or [
        s for s in sorted({*(2**i for i in range(largest.bit_length())), largest}) if s <= largest
    ]
    variable = any(-1 in tensor.dims for tensor in config.input) and not config.model_transaction_policy.decoupled
    if variable and not options.shape_buckets:
        return
    for bucket in options.shape_buckets if variable else (0,):
        for size in sizes:
            inputs = {
                t.name: _example(t, config.max_batch_size > 0, size, bucket) for t in config.input if not t.optional
            }
            yield BatchClass(config.name, version, size, str(bucket) if bucket else ""), inputs


def _example(tensor: inference_pb2.ModelInput, batched: bool, size: int, bucket: int) -> Array:
    """Contents hardly matter for time: ones for integers (a valid token, a mask that is set), noise for floats."""
    shape = [(bucket or 1) if d == -1 else int(d) for d in tensor.dims]
    shape = [size, *shape] if batched else shape
    kind = NUMPY[type_name(tensor.data_type)]
    if kind == np.object_:
        return np.full(shape, b"", dtype=np.object_)
    if kind.kind == "f":
        return np.random.default_rng(0).standard_normal(shape, dtype=np.float32).astype(kind)
    return np.ones(shape, dtype=kind)


async def alone(duration_ns: int, model: str) -> tuple[Callable[[], None], int]:
    """For executors without a scheduler: the device is always alone."""
    del model
    await asyncio.sleep(0)
    return (lambda: None), now_ns() + duration_ns
