"""Devices: where a batch runs, how its time is taken, and what share of the resources it keeps busy.

A CPU or a CUDA device runs each batch on a thread of its own; the emulated one lets time pass. All of them write the
same timeline.
"""

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import psutil

from cotenant.executor.backend import Kernel, Model, Placement, Tensors
from cotenant.executor.backend_emulated import EmulatedModel
from cotenant.executor.emulated_gpu import EmulatedGpu
from cotenant.executor.timeline import Slice, Timeline
from cotenant.runtime.clock import now_ns
from cotenant.runtime.estimates import BatchClass
from cotenant.v1 import types_pb2

RESOURCES = ("sm", "l2", "dram")


class Ran(NamedTuple):
    """How a batch ran: instants, durations in ns, and who was beside it."""

    started_ns: int
    duration_ns: int
    slices: list[Slice]
    cpu_ns: int
    kernels: list[Kernel]


class Job(Protocol):
    """One batch, as a device sees it. `gather` and `scatter` copy tensors; both run where the model runs."""

    batch_id: int
    batch_class: BatchClass
    model: Model
    timed: bool  # take the timings of kernels or operators

    def gather(self) -> Tensors:
        """The model's inputs."""
        ...

    def started(self, at_ns: int) -> None:
        """Told once the model runs, on any thread."""
        ...

    def scatter(self, outputs: Tensors, ran: Ran) -> None:
        """Takes the outputs."""
        ...


class Device(Protocol):
    """Runs jobs."""

    timeline: Timeline
    placement: Placement

    def describe(self) -> types_pb2.Device:
        """What the contract tells of it."""
        ...

    async def execute(self, job: Job) -> None:
        """Runs a job. Raises what the model raises."""
        ...

    def execute_inline(self, job: Job) -> None:
        """Runs a job of a model that is too short for a thread, here and now. Raises what the model raises."""
        ...

    def demand(self, model: Model, batch_class: BatchClass, ran: Ran, io_bytes: int) -> tuple[float, ...]:
        """Shares of RESOURCES that a solo run kept busy."""
        ...


def run_here(timeline: Timeline, job: Job) -> None:
    """Runs a job on the calling thread."""
    inputs = job.gather()
    started_ns = timeline.begin(job.batch_id, job.batch_class)
    try:
        job.started(started_ns)
        cpu_ns = time.process_time_ns()
        outputs, kernels = job.model.run_timed(inputs) if job.timed else (job.model.run(inputs), [])
        cpu_ns = time.process_time_ns() - cpu_ns
    finally:
        ended_ns, slices = timeline.end(job.batch_id)
    job.scatter(outputs, Ran(started_ns, ended_ns - started_ns, slices, cpu_ns, kernels))


class ThreadedDevice:
    """A CPU, or a CUDA device driven by one thread per batch."""

    def __init__(self, spec: types_pb2.Device, placement: Placement, *, cache_bytes: int, bytes_per_s: float) -> None:
        self.timeline = Timeline()
        self.placement = placement
        self._spec = spec
        self._cache_bytes, self._bytes_per_s = cache_bytes, bytes_per_s
        # The scheduler bounds what runs; a few threads more keep a late end from delaying the next start.
        self._pool = ThreadPoolExecutor(spec.max_concurrency + 2, thread_name_prefix="batch")

    def describe(self) -> types_pb2.Device:
        """See `Device.describe`."""
        return self._spec

    async def execute(self, job: Job) -> None:
        """See `Device.execute`."""
        await asyncio.get_running_loop().run_in_executor(self._pool, run_here, self.timeline, job)

    def execute_inline(self, job: Job) -> None:
        """See `Device.execute_inline`."""
        run_here(self.timeline, job)

    def demand(self, model: Model, batch_class: BatchClass, ran: Ran, io_bytes: int) -> tuple[float, ...]:
        """Cores from CPU time, cache from what is touched, DRAM from bytes moved over measured bandwidth.

        Each is an estimate from outside: weights and tensors are taken to be read once.
        """
        del batch_class
        touched = model.memory_bytes + io_bytes
        cores = ran.cpu_ns / max(1, ran.duration_ns) / (os.cpu_count() or 1)
        moved = touched / max(1e-9, ran.duration_ns / 1e9) / self._bytes_per_s
        return min(1.0, cores), min(1.0, touched / self._cache_bytes), min(1.0, moved)


class EmulatedDevice:
    """The emulated GPU in real time; models that are not emulated run on threads and take no emulated time."""

    def __init__(self, spec: types_pb2.Device, placement: Placement) -> None:
        self.timeline = Timeline()
        self.placement = placement
        self._spec = spec
        self._gpu = EmulatedGpu(placement.seed)
        self._ends: dict[int, asyncio.Future[tuple[int, list[Slice], list[Kernel]]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._pool = ThreadPoolExecutor(spec.max_concurrency + 2, thread_name_prefix="batch")

    def describe(self) -> types_pb2.Device:
        """See `Device.describe`."""
        return self._spec

    async def execute(self, job: Job) -> None:
        """See `Device.execute`."""
        if not isinstance(job.model, EmulatedModel):
            await asyncio.get_running_loop().run_in_executor(self._pool, run_here, self.timeline, job)
            return
        inputs = job.gather()
        self._collect()
        started_ns = self.timeline.begin(job.batch_id, job.batch_class)
        job.started(started_ns)
        self._gpu.start(started_ns, job.batch_id, job.model.kernels(job.batch_class.batch_size))
        end: asyncio.Future[tuple[int, list[Slice], list[Kernel]]] = asyncio.get_running_loop().create_future()
        self._ends[job.batch_id] = end
        self._set_timer()
        ended_ns, slices, kernels = await end
        outputs = job.model.run(inputs)
        job.scatter(outputs, Ran(started_ns, ended_ns - started_ns, slices, 0, kernels if job.timed else []))

    def execute_inline(self, job: Job) -> None:
        """See `Device.execute_inline`."""
        run_here(self.timeline, job)

    def _collect(self) -> None:
        """Ends what has ended on the device, in order."""
        for stream in self._gpu.finished(now_ns()):
            ended_ns, slices = self.timeline.end(stream.key, round(stream.finished_ns))
            kernels = [Kernel(f"kernel_{i}", round(a), round(b - a)) for i, (a, b) in enumerate(stream.trace)]
            if not (end := self._ends.pop(stream.key)).done():
                end.set_result((ended_ns, slices, kernels))

    def _set_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
        if (next_ns := self._gpu.next_finish_ns()) is not None:
            delay_s = max(0, next_ns - now_ns()) / 1e9
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._collect()
        self._set_timer()

    def demand(self, model: Model, batch_class: BatchClass, ran: Ran, io_bytes: int) -> tuple[float, ...]:
        """What a profiler would report of the solo run: the true means, with its error of some percent."""
        del ran, io_bytes
        if not isinstance(model, EmulatedModel):
            return (0.0, 0.0, 0.0)
        noise = np.random.default_rng([self.placement.seed, *str(batch_class).encode()])
        return tuple(min(1.0, d * float(noise.normal(1.0, 0.04))) for d in model.demand(batch_class.batch_size))


def open_device(kind: str, index: int, *, concurrency: int, threads: int, seed: int) -> Device:
    """The device an executor serves. Raises ValueError if there is no such device here."""
    openers: dict[str, Callable[[], Device]] = {
        "cpu": lambda: _open_cpu(concurrency, threads),
        "cuda": lambda: _open_cuda(index, concurrency, threads),
        "emulated": lambda: _open_emulated(index, concurrency, seed),
    }
    if kind not in openers:
        raise ValueError(f"device kind '{kind}' is not known; there are {', '.join(sorted(openers))}")
    return openers[kind]()


def _open_cpu(concurrency: int, threads: int) -> Device:
    cores = len(os.sched_getaffinity(0))
    spec = types_pb2.Device(
        device_id="cpu-0",
        kind="cpu",
        name=_cpu_name(),
        memory_bytes=psutil.virtual_memory().available,
        max_concurrency=concurrency or max(2, cores // threads),
        resources=RESOURCES,
    )
    placement = Placement("cpu", 0, threads, 0)
    return ThreadedDevice(spec, placement, cache_bytes=_last_level_cache_bytes(), bytes_per_s=_copy_bytes_per_s())


def _open_emulated(index: int, concurrency: int, seed: int) -> Device:
    spec = types_pb2.Device(
        device_id=f"emulated-{index}",
        kind="emulated",
        name="emulated GPU (80 SMs)",
        memory_bytes=16 * 2**30,
        max_concurrency=concurrency or 4,
        resources=RESOURCES,
    )
    return EmulatedDevice(spec, Placement("emulated", index, 1, seed + index))


def _open_cuda(index: int, concurrency: int, threads: int) -> Device:
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        name, memory = pynvml.nvmlDeviceGetName(handle), pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError as error:
        raise ValueError(f"there is no CUDA device {index}: {error}") from error
    spec = types_pb2.Device(
        device_id=f"gpu-{index}",
        kind="cuda",
        name=name if isinstance(name, str) else name.decode(),
        memory_bytes=memory.free,
        max_concurrency=concurrency or 4,
        resources=RESOURCES,
    )
    import torch

    size = 2**28
    source = torch.empty(size, dtype=torch.uint8, device=f"cuda:{index}")
    target = torch.empty_like(source)
    target.copy_(source)
    torch.cuda.synchronize(index)
    started = time.perf_counter()
    for _ in range(8):
        target.copy_(source)
    torch.cuda.synchronize(index)
    bytes_per_s = 16 * size / (time.perf_counter() - started)
    cache = torch.cuda.get_device_properties(index).L2_cache_size
    return ThreadedDevice(spec, Placement("cuda", index, threads, 0), cache_bytes=cache, bytes_per_s=bytes_per_s)


def gpu_count() -> int:
    """CUDA devices the driver shows; 0 without a driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except Exception:  # no driver, no library: both mean no GPU
        return 0


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return "CPU"


def _last_level_cache_bytes() -> int:
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text(encoding="ascii").strip()
        sizes.append(int(text[:-1]) * {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1], 1))
    return max(sizes) or 32 * 2**20


def _copy_bytes_per_s() -> float:
    """Memory bandwidth of one core, by copying 64 MiB: read and write counted."""
    source = np.ones(2**26, dtype=np.uint8)
    target = np.empty_like(source)
    best = 0.0
    for _ in range(3):
        started = time.perf_counter()
        np.copyto(target, source)
        best = max(best, 2 * source.nbytes / (time.perf_counter() - started))
    return best
