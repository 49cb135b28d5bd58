"""Devices: where a batch runs, how its time is taken, and what share of the resources it keeps busy.

A CPU or a CUDA device runs each batch on a thread of its own; the emulated one lets time pass. All of them write the
same timeline.
"""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import psutil

from cotenant.executor import nvml_devices, peaks
from cotenant.executor.backend import Kernel, Model, Placement, Tensors
from cotenant.executor.backend_emulated import EmulatedModel
from cotenant.executor.demand import RESOURCES, Demand, Solo, of_solo
from cotenant.executor.emulated_gpu import EmulatedGpu, profiled
from cotenant.executor.peaks import Peaks
from cotenant.executor.timeline import Slice, Timeline
from cotenant.runtime.clock import now_ns
from cotenant.runtime.estimates import BatchClass
from cotenant.v1 import types_pb2


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

    def demand(self, model: Model, solo: Solo) -> Demand:
        """Shares of RESOURCES that solo runs of a model kept busy."""
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


BATCH_NICE = 10  # of threads that run batches on a CPU


def _yield_to_services() -> None:
    """Lets a thread of batches wait for the services of its host, which decide and answer in far less than a batch.

    Of the vision mix at 346 requests/s, two cores kept 93 and 95 % of the SLOs with it, 78 and 94 % without, in turn.
    """
    with contextlib.suppress(OSError):  # a sandbox may not know threads
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + BATCH_NICE)


class ThreadedDevice:
    """A CPU, or a CUDA device driven by one thread per batch."""

    def __init__(self, spec: types_pb2.Device, placement: Placement, peaks: Peaks) -> None:
        self.timeline = Timeline()
        self.placement = placement
        self._spec, self._peaks = spec, peaks
        # The scheduler bounds what runs; a few threads more keep a late end from delaying the next start.
        self._pool = ThreadPoolExecutor(
            spec.max_concurrency + 2, thread_name_prefix="batch", initializer=_yield_to_services
        )

    def describe(self) -> types_pb2.Device:
        """See `Device.describe`."""
        return self._spec

    async def execute(self, job: Job) -> None:
        """See `Device.execute`."""
        await asyncio.get_running_loop().run_in_executor(self._pool, run_here, self.timeline, job)

    def execute_inline(self, job: Job) -> None:
        """See `Device.execute_inline`."""
        run_here(self.timeline, job)

    def demand(self, model: Model, solo: Solo) -> Demand:
        """See `Device.demand`; demand.py has the rule."""
        del model
        cores = len(os.sched_getaffinity(0)) if self.placement.kind == "cpu" else 0
        return of_solo(solo, self._peaks, cores=cores, threads=self.placement.threads)


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

    def demand(self, model: Model, solo: Solo) -> Demand:
        """What a profiler would report of the solo run: the true means, with its error of some percent."""
        if not isinstance(model, EmulatedModel):
            return Demand((0.0, 0.0, 0.0), "EMULATED")
        noise = np.random.default_rng([self.placement.seed, *str(solo.batch_class).encode()])
        told = profiled(model.kernels(solo.batch_class.batch_size), lambda: float(noise.normal(1.0, 0.04)))
        return Demand(told.demand, "EMULATED", told.kernel_ns, told.phases)


def open_device(
    kind: str, index: int, *, concurrency: int, threads: int, seed: int, cache: Path | None = None
) -> Device:
    """The device an executor serves; what it can do at most is kept in the folder `cache`, if there is one.

    Raises ValueError if there is no such device here.
    """
    openers: dict[str, Callable[[], Device]] = {
        "cpu": lambda: _open_cpu(concurrency, threads, cache),
        "cuda": lambda: _open_cuda(index, concurrency, threads, cache),
        "emulated": lambda: _open_emulated(index, concurrency, seed),
    }
    if kind not in openers:
        raise ValueError(f"device kind '{kind}' is not known; there are {', '.join(sorted(openers))}")
    return openers[kind]()


def _open_cpu(concurrency: int, threads: int, cache: Path | None) -> Device:
    cores = len(os.sched_getaffinity(0))
    spec = types_pb2.Device(
        device_id="cpu-0",
        kind="cpu",
        name=_cpu_name(),
        memory_bytes=psutil.virtual_memory().available,
        # Two for each core: while one's end is told and the next is ordered, another runs.
        max_concurrency=concurrency or max(2, 2 * cores // threads),
        resources=RESOURCES,
    )
    placement = Placement("cpu", 0, threads, 0, concurrency=spec.max_concurrency)
    return ThreadedDevice(spec, placement, peaks.known(spec.name, peaks.of_cpu, cache))


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


def _open_cuda(index: int, concurrency: int, threads: int, cache: Path | None) -> Device:
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = nvml_devices.find(pynvml, index)
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

    device = torch.device("cuda", index)
    l2_bytes = torch.cuda.get_device_properties(index).L2_cache_size
    found = peaks.known(f"{spec.name}|{index}|{memory.total}", lambda: peaks.of_torch(device, l2_bytes), cache)
    return ThreadedDevice(
        spec, Placement("cuda", index, threads, 0, concurrency=spec.max_concurrency, cache=cache), found
    )


def gpu_count() -> int:
    """CUDA devices that this process sees; 0 without a driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return len(nvml_devices.visible(pynvml))
    except Exception:  # no driver, no library: both mean no GPU
        return 0


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return "CPU"
