"""What the driver tells of the GPU served here: asked about once a second, told when it matters.

It matters that throttling begins or ends and that a clock changes; all else is told every now and then. An idle GPU
lowers its clocks for nobody's harm, so those do not matter. Whatever the driver does, serving goes on: what it does
not support is left out, and that it is gone is logged once.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import structlog

from cotenant.executor import nvml_devices
from cotenant.executor.reports import Reports
from cotenant.runtime.clock import now_ns
from cotenant.v1 import executor_pb2 as pb

POLL_S = 1.0
QUIET_NS = 10_000_000_000  # so long may nothing be told
CHANGED = 0.05  # share of a clock below which it wavers, as clocks do
# NVML's bits of nvmlDeviceGetCurrentClocksEventReasons.
REASONS: Mapping[int, pb.ThrottleReason] = {
    0x001: pb.THROTTLE_REASON_GPU_IDLE,
    0x002: pb.THROTTLE_REASON_APPLICATION_CLOCKS,
    0x004: pb.THROTTLE_REASON_POWER_CAP,
    0x008: pb.THROTTLE_REASON_HARDWARE_SLOWDOWN,
    0x010: pb.THROTTLE_REASON_SYNC_BOOST,
    0x020: pb.THROTTLE_REASON_SOFTWARE_THERMAL,
    0x040: pb.THROTTLE_REASON_HARDWARE_THERMAL,
    0x080: pb.THROTTLE_REASON_HARDWARE_POWER_BRAKE,
    0x100: pb.THROTTLE_REASON_DISPLAY_CLOCKS,
    0x200: pb.THROTTLE_REASON_BOARD_LIMIT,
    0x400: pb.THROTTLE_REASON_RELIABILITY,
}
_SM, _MEMORY = 1, 2  # NVML's kinds of clocks
# NVML's errors after which nothing more comes from it: uninitialised, no driver, GPU lost, reset required.
_GONE = (1, 9, 15, 16)
_log = structlog.get_logger()


class Nvml:
    """One GPU, or one MIG device, through pynvml."""

    def __init__(self, index: int) -> None:
        """`index` counts what CUDA sees, so `CUDA_VISIBLE_DEVICES` is honoured."""
        self._index = index
        self._nvml: Any = None
        self._device: Any = None  # what is served: whose memory is its own
        self._gpu: Any = None  # the whole of it: who has clocks
        self._instance: tuple[int, int] | None = None  # GPU and compute instance of a MIG device

    def read(self) -> pb.DeviceState:
        """What the driver tells now. Raises what pynvml raises if it tells nothing, and opens it anew at the next."""
        try:
            if self._nvml is None:
                self._open()
            return self._read()
        except Exception:
            self._nvml = None
            raise

    def _open(self) -> None:
        import pynvml

        pynvml.nvmlInit()
        self._device = self._gpu = nvml_devices.find(pynvml, self._index)
        self._nvml, self._instance = pynvml, None
        if self._ask("nvmlDeviceIsMigDeviceHandle", self._device):
            self._gpu = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self._device)
            gpu_instance = self._ask("nvmlDeviceGetGpuInstanceId", self._device)
            compute_instance = self._ask("nvmlDeviceGetComputeInstanceId", self._device)
            if gpu_instance is not None and compute_instance is not None:
                self._instance = gpu_instance, compute_instance

    def _ask(self, call: str, *arguments: Any) -> Any:
        """What a call returns; None if this device or this driver does not have it. Raises NVMLError if it is gone."""
        function = getattr(self._nvml, call, None)
        if function is None:
            return None
        try:
            return function(*arguments)
        except self._nvml.NVMLError as error:
            if error.value in _GONE:
                raise
            return None

    def _read(self) -> pb.DeviceState:
        state = pb.DeviceState(**dict(self._numbers()))
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons", self._gpu)
        if bits is None:
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", self._gpu)  # its name before R535
        if bits is not None:
            state.throttle_reasons_known = True
            state.throttle_reasons.extend(reasons(bits))
        if mode := self._ask("nvmlDeviceGetMigMode", self._gpu):
            state.mig_enabled = bool(mode[0])  # now; the other is after the next reset
        if self._instance:
            state.mig_gpu_instance_id, state.mig_compute_instance_id = self._instance
        if share := mps_share():
            state.mps_active_thread_percentage = share
        return state

    def _numbers(self) -> Iterator[tuple[str, Any]]:
        if memory := self._ask("nvmlDeviceGetMemoryInfo", self._device):
            yield "memory_used_bytes", memory.used
            yield "memory_total_bytes", memory.total
        for kind, name in ((_SM, "sm"), (_MEMORY, "memory")):
            yield f"{name}_clock_mhz", self._ask("nvmlDeviceGetClockInfo", self._gpu, kind)
            yield f"{name}_clock_max_mhz", self._ask("nvmlDeviceGetMaxClockInfo", self._gpu, kind)
        for call, name in (("PowerUsage", "power_w"), ("EnforcedPowerLimit", "power_limit_w")):
            milliwatts = self._ask(f"nvmlDeviceGet{call}", self._gpu)
            yield name, None if milliwatts is None else milliwatts / 1000
        yield "temperature_c", self._ask("nvmlDeviceGetTemperature", self._gpu, 0)  # of the chip
        if rates := self._ask("nvmlDeviceGetUtilizationRates", self._gpu):
            yield "utilisation", rates.gpu / 100


def reasons(bits: int) -> list[pb.ThrottleReason]:
    """What NVML's bits mean, ascending; UNSPECIFIED for all that are not known here."""
    found = {reason for bit, reason in REASONS.items() if bits & bit}
    if bits & ~sum(REASONS):
        found.add(pb.THROTTLE_REASON_UNSPECIFIED)
    return sorted(found)


def mps_share() -> float | None:
    """Percentage of the multiprocessors that MPS grants this process; None if its environment does not limit it."""
    try:
        share = float(os.environ["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"])
    except (KeyError, ValueError):
        return None
    return share if 0.0 < share <= 100.0 else None


def matters(now: pb.DeviceState, told: pb.DeviceState) -> bool:
    """Whether throttling began or ended, or a clock of a GPU that works changed."""
    idle = pb.THROTTLE_REASON_GPU_IDLE
    if now.throttle_reasons_known != told.throttle_reasons_known:
        return True
    if {*now.throttle_reasons} - {idle} != {*told.throttle_reasons} - {idle}:
        return True
    if idle in now.throttle_reasons:
        return False
    clocks = ((now.sm_clock_mhz, told.sm_clock_mhz), (now.memory_clock_mhz, told.memory_clock_mhz))
    return any(abs(mhz - before) > CHANGED * before for mhz, before in clocks)


class GpuState:
    """Follows the state of one device. `latest` is None while the driver tells nothing."""

    def __init__(self, reports: Reports, read: Callable[[], pb.DeviceState]) -> None:
        self.latest: pb.DeviceState | None = None
        self._reports, self._read = reports, read
        self._told: tuple[int, pb.DeviceState] | None = None  # when, and what
        self._gone = False

    async def run(self) -> None:
        """Asks until cancelled."""
        while True:
            await self.poll()
            await asyncio.sleep(POLL_S)

    async def poll(self) -> None:
        """Asks once, on another thread: drivers take their time."""
        try:
            state = await asyncio.to_thread(self._read)
        except Exception as error:  # a driver may fail in any way, and serving goes on
            if not self._gone:
                _log.warning("the driver does not tell the GPU's state", error=f"{type(error).__name__}: {error}")
            self._gone, self.latest = True, None
            return
        if self._gone:
            _log.info("the driver tells the GPU's state again")
        self._gone, self.latest = False, state
        at_ns = now_ns()
        if self._told is None or at_ns - self._told[0] >= QUIET_NS or matters(state, self._told[1]):
            event = self._reports.event(at_ns)
            event.device_state.CopyFrom(state)
            self._reports.tell(event)
            self._told = at_ns, state
