"""The state of a GPU as the executor reads it, tells it and counts it; the driver is a fake, as there is no GPU."""

import asyncio
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from cotenant.executor import gpu_state, nvml_devices, peaks
from cotenant.executor.device import gpu_count, open_device
from cotenant.executor.exchange import Exchange
from cotenant.executor.gpu_state import QUIET_NS, GpuState, Nvml
from cotenant.executor.metrics import ExecutorMetrics
from cotenant.executor.reports import Reports
from cotenant.v1 import executor_pb2 as pb

NOT_SUPPORTED, NOT_FOUND, GPU_IS_LOST = 3, 6, 15  # of NVML's errors
POWER_CAP, IDLE = 0x4, 0x1
GIB = 2**30


class NVMLError(Exception):
    """As pynvml has it: the error's number is its `value`."""

    def __init__(self, value: int) -> None:
        super().__init__(f"error {value}")
        self.value = value


class FakeNvml:
    """The part of pynvml that is used. `failing` names calls with the error each raises."""

    NVMLError = NVMLError

    def __init__(self) -> None:
        self.failing: dict[str, int] = {}
        self.inits = 0
        self.clocks = {1: 1980, 2: 3201}
        self.bits = 0
        self.mig = [0, 0]
        # By number, as the driver counts; a MIG device is "MIG", the GPU it is part of, and its slot.
        self.gpus = {f"gpu-{number}": "H200" for number in range(4)}
        self.uuids = {f"gpu-{number}": f"GPU-{number}{number}aa-bb" for number in range(4)}
        self.uuids |= {"MIG gpu-3 0": "MIG-cc00-dd", "MIG gpu-3 2": "MIG-cc22-dd"}

    def instance(self, gpu: str, slot: int) -> str:
        """Those of MIG devices that have been made."""
        if f"MIG {gpu} {slot}" not in self.uuids:
            raise NVMLError(NOT_FOUND)
        return f"MIG {gpu} {slot}"

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            raise AttributeError(name)
        answers: dict[str, Callable[..., Any]] = {
            "nvmlDeviceGetCount": lambda: len(self.gpus),
            "nvmlDeviceGetHandleByIndex": lambda index: list(self.gpus)[index],
            "nvmlDeviceGetName": lambda device: self.gpus[device.split()[-2] if "MIG" in device else device],
            "nvmlDeviceGetUUID": lambda device: self.uuids[device],
            "nvmlDeviceIsMigDeviceHandle": lambda device: "MIG" in device,
            "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": lambda device: device.split()[1],
            "nvmlDeviceGetMaxMigDeviceCount": lambda _: 7,
            "nvmlDeviceGetMigDeviceHandleByIndex": self.instance,
            "nvmlDeviceGetGpuInstanceId": lambda device: 5 + int(device.split()[2]),
            "nvmlDeviceGetComputeInstanceId": lambda _: 0,
            "nvmlDeviceGetMemoryInfo": lambda device: SimpleNamespace(
                used=2 * GIB, free=(14 if "MIG" in device else 78) * GIB, total=(16 if "MIG" in device else 80) * GIB
            ),
            "nvmlDeviceGetClockInfo": lambda _, kind: self.clocks[kind],
            "nvmlDeviceGetMaxClockInfo": lambda _, kind: {1: 1980, 2: 3201}[kind],
            "nvmlDeviceGetPowerUsage": lambda _: 350_500,
            "nvmlDeviceGetEnforcedPowerLimit": lambda _: 700_000,
            "nvmlDeviceGetTemperature": lambda *_: 61,
            "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=87, memory=12),
            "nvmlDeviceGetCurrentClocksEventReasons": lambda _: self.bits,
            "nvmlDeviceGetMigMode": lambda device: self.mig if device == "gpu-3" else [0, 0],
        }

        def call(*arguments: Any) -> Any:
            if name in self.failing:
                raise NVMLError(self.failing[name])
            if name == "nvmlInit":
                self.inits += 1
                return None
            return answers[name](*arguments)

        return call


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    monkeypatch.delenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", raising=False)
    return fake


def test_everything_the_driver_tells_is_read(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.bits, nvml.clocks[1] = POWER_CAP | 0x40, 1200
    monkeypatch.setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "25")
    assert Nvml(0).read() == pb.DeviceState(
        memory_used_bytes=2 * GIB,
        memory_total_bytes=80 * GIB,
        sm_clock_mhz=1200,
        sm_clock_max_mhz=1980,
        memory_clock_mhz=3201,
        memory_clock_max_mhz=3201,
        throttle_reasons_known=True,
        throttle_reasons=[pb.THROTTLE_REASON_POWER_CAP, pb.THROTTLE_REASON_HARDWARE_THERMAL],
        power_w=350.5,
        power_limit_w=700.0,
        temperature_c=61,
        utilisation=0.87,
        mig_enabled=False,
        mps_active_thread_percentage=25.0,
    )


@pytest.mark.parametrize(
    ("call", "fields"),
    [
        ("nvmlDeviceGetMemoryInfo", ["memory_used_bytes", "memory_total_bytes"]),
        ("nvmlDeviceGetClockInfo", ["sm_clock_mhz", "memory_clock_mhz"]),
        ("nvmlDeviceGetMaxClockInfo", ["sm_clock_max_mhz", "memory_clock_max_mhz"]),
        ("nvmlDeviceGetPowerUsage", ["power_w"]),
        ("nvmlDeviceGetEnforcedPowerLimit", ["power_limit_w"]),
        ("nvmlDeviceGetTemperature", ["temperature_c"]),
        ("nvmlDeviceGetUtilizationRates", ["utilisation"]),
        ("nvmlDeviceGetMigMode", ["mig_enabled"]),
    ],
)
def test_what_a_device_does_not_support_is_left_out(nvml: FakeNvml, call: str, fields: list[str]) -> None:
    whole = Nvml(0).read()
    nvml.failing[call] = NOT_SUPPORTED
    read = Nvml(0).read()
    for field in fields:
        assert whole.HasField(field)
        assert not read.HasField(field)
        whole.ClearField(field)
    assert read == whole


def test_reasons_that_are_not_told_differ_from_none(nvml: FakeNvml) -> None:
    assert Nvml(0).read().throttle_reasons_known
    nvml.failing["nvmlDeviceGetCurrentClocksEventReasons"] = NOT_SUPPORTED
    nvml.failing["nvmlDeviceGetCurrentClocksThrottleReasons"] = NOT_SUPPORTED
    assert not Nvml(0).read().throttle_reasons_known


def test_a_reason_of_a_newer_driver_is_one_all_the_same() -> None:
    assert gpu_state.reasons(POWER_CAP | 1 << 40) == [
        pb.THROTTLE_REASON_UNSPECIFIED,
        pb.THROTTLE_REASON_POWER_CAP,
    ]


def test_the_device_is_the_one_that_cuda_sees(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.mig = [1, 1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,MIG-cc00-dd")
    whole = Nvml(0)
    whole.read()
    assert whole._gpu == "gpu-2"
    part = Nvml(1).read()
    assert (part.mig_enabled, part.mig_gpu_instance_id, part.mig_compute_instance_id) == (True, 5, 0)
    assert part.memory_total_bytes == 16 * GIB  # its own
    assert part.sm_clock_mhz == 1980  # those of the GPU it is part of


@pytest.mark.parametrize(
    ("names", "index", "found"),
    [
        (None, 1, "gpu-1"),
        ("2,0", 0, "gpu-2"),
        ("2,0", 1, "gpu-0"),
        ("GPU-11aa-bb", 0, "gpu-1"),
        (" GPU-2 , GPU-0", 0, "gpu-2"),  # beginnings that fit one
        ("0,MIG-cc22-dd", 1, "MIG gpu-3 2"),
        ("MIG-cc22", 0, "MIG gpu-3 2"),
        ("MIG-GPU-33aa-bb/7/0", 0, "MIG gpu-3 2"),  # as older drivers have it
        ("3", 0, "MIG gpu-3 0"),  # a GPU that is divided is its first instance to CUDA
        ("GPU-33aa-bb", 0, "MIG gpu-3 0"),
    ],
)
def test_what_cuda_calls_a_device_is_found(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, names: str | None, index: int, found: str
) -> None:
    nvml.mig = [1, 1]
    if names is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    assert nvml_devices.find(nvml, index) == found
    assert nvml_devices.find(nvml, index, cuda_uuid=_never) == found


@pytest.mark.parametrize(
    ("names", "count"),
    [(None, 4), ("", 0), ("-1", 0), ("1,9,2", 1), ("2,GPU-77,0", 1), ("GPU-", 0), ("0,NoDevFiles", 1), ("1,3", 2)],
)
def test_what_fits_no_device_ends_the_list(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, names: str | None, count: int
) -> None:
    if names is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    assert gpu_count() == count
    shown = "the driver shows 4" if names is None else f"with CUDA_VISIBLE_DEVICES='{names}' there are {count}"
    with pytest.raises(ValueError, match=f"there is no CUDA device {count}: {shown}"):
        nvml_devices.find(nvml, count)


def test_where_gpus_differ_cuda_is_asked_which_it_counts_first(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.gpus["gpu-2"] = "T4"
    asked: list[int] = []

    def uuid(index: int) -> str:  # as torch tells it, without the prefix; CUDA has the fastest first
        asked.append(index)
        return ["33aa-bb", "00aa-bb", "11aa-bb", "22aa-bb"][index]

    assert nvml_devices.find(nvml, 0, uuid) == "gpu-3"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert nvml_devices.find(nvml, 1, uuid) == "gpu-0"  # its number among those that are visible
    assert asked == [0, 1]
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert nvml_devices.find(nvml, 1, _never) == "gpu-0"
    assert nvml_devices.find(nvml, 0, _never) == "gpu-1"


def test_where_cuda_does_not_tell_the_way_out_is_named(nvml: FakeNvml) -> None:
    nvml.gpus["gpu-2"] = "T4"
    with pytest.raises(ValueError, match="set CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        nvml_devices.find(nvml, 0)  # torch sees no GPU here


def test_the_executor_opens_the_gpu_that_cuda_sees(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-cc22-dd")
    nvml.mig = [1, 1]
    nvml.gpus["gpu-3"] = "H200 MIG"
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(L2_cache_size=50 * 2**20))
    monkeypatch.setattr("cotenant.executor.peaks.known", lambda *_: peaks.of_cpu)
    described = open_device("cuda", 0, concurrency=1, threads=1, seed=0).describe()
    assert described.name == "H200 MIG"
    assert described.memory_bytes == 14 * GIB  # what is free of the instance, not of the GPU
    with pytest.raises(
        ValueError, match="there is no CUDA device 1: with CUDA_VISIBLE_DEVICES='MIG-cc22-dd' there are 1"
    ):
        open_device("cuda", 1, concurrency=1, threads=1, seed=0)


def _never(index: int) -> str:
    raise AssertionError(index)


@pytest.mark.parametrize("share", ["", "all", "0", "-5", "nan", "250"])
def test_a_share_that_is_none_is_left_out(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, share: str) -> None:
    monkeypatch.setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", share)
    assert not Nvml(0).read().HasField("mps_active_thread_percentage")


class Told:
    """A watched GPU, the events it led to, and a clock that is set."""

    def __init__(self, nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nvml, self.now_ns = nvml, 10**12
        self.reports = Reports(limit=100)
        self.events: list[pb.ExecutorEvent] = []
        self.reports.listeners.append(self.events.append)
        self.state = GpuState(self.reports, Nvml(0).read)
        monkeypatch.setattr(gpu_state, "now_ns", lambda: self.now_ns)

    def after(self, seconds: float = 1.0, *, mhz: int | None = None, bits: int | None = None) -> int:
        """Events that one more look told."""
        self.now_ns += round(seconds * 1e9)
        self.nvml.clocks[1] = self.nvml.clocks[1] if mhz is None else mhz
        self.nvml.bits = self.nvml.bits if bits is None else bits
        before = len(self.events)
        asyncio.run(self.state.poll())
        return len(self.events) - before


@pytest.fixture
def told(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(nvml, monkeypatch)


def test_throttling_and_clocks_are_told_at_once_and_all_else_now_and_then(told: Told) -> None:
    assert told.after() == 1  # the first
    assert told.after(mhz=1920) == 0  # 3 %
    assert told.after(bits=POWER_CAP) == 1
    assert told.events[-1].device_state.throttle_reasons == [pb.THROTTLE_REASON_POWER_CAP]
    assert told.events[-1].at_ns == told.now_ns
    assert told.after() == 0
    assert told.after(mhz=1700) == 1
    assert told.after(bits=0) == 1
    assert told.after(seconds=QUIET_NS / 1e9 - 1) == 0
    assert told.after() == 1
    assert [event.sequence for event in told.events] == [1, 2, 3, 4, 5]


def test_slow_steps_add_up(told: Told) -> None:
    told.after()
    assert [told.after(mhz=1980 - 40 * step) for step in range(1, 4)] == [0, 0, 1]


def test_an_idle_gpu_lowers_its_clocks_for_nobodys_harm(told: Told) -> None:
    told.after()
    assert told.after(mhz=345, bits=IDLE) == 0
    assert told.after(mhz=1980, bits=0) == 0
    assert told.after(mhz=1980, bits=IDLE | POWER_CAP) == 1


def test_a_driver_that_goes_is_logged_once_and_asked_again(told: Told) -> None:
    told.after()
    told.nvml.failing["nvmlDeviceGetMemoryInfo"] = GPU_IS_LOST
    with capture_logs() as logs:
        assert [told.after() for _ in range(5)] == [0] * 5
    assert len(logs) == 1
    assert "error 15" in logs[0]["error"]
    assert told.state.latest is None
    told.nvml.failing.clear()
    assert told.after(bits=POWER_CAP) == 1
    assert told.events[-1].device_state.throttle_reasons == [pb.THROTTLE_REASON_POWER_CAP]
    assert told.nvml.inits > 1  # a driver that was loaded anew knows nothing of the old handles


def test_no_driver_at_all_stops_nothing(nvml: FakeNvml, told: Told) -> None:
    nvml.failing["nvmlInit"] = 9
    with capture_logs() as logs:
        assert [told.after() for _ in range(3)] == [0, 0, 0]
    assert len(logs) == 1


def test_metrics_tell_what_the_driver_tells(told: Told, tmp_path: Any) -> None:
    told.nvml.failing["nvmlDeviceGetTemperature"] = NOT_SUPPORTED
    told.after(bits=POWER_CAP)
    device = open_device("emulated", 0, concurrency=1, threads=1, seed=0)
    models: Any = SimpleNamespace(table={})
    metrics = ExecutorMetrics(device, models, Exchange(tmp_path, 0), told.reports, told.state)
    text = generate_latest(metrics.registry).decode()
    assert 'cotenant_gpu_sm_clock_hertz{device="emulated-0"} 1.98e+09' in text
    assert 'cotenant_gpu_power_watts{device="emulated-0"} 350.5' in text
    assert 'cotenant_gpu_throttled{device="emulated-0",reason="power_cap"} 1.0' in text
    assert 'cotenant_gpu_throttled{device="emulated-0",reason="hardware_thermal"} 0.0' in text
    assert "temperature" not in text
    told.nvml.failing["nvmlDeviceGetMemoryInfo"] = GPU_IS_LOST
    told.after()
    assert "cotenant_gpu" not in generate_latest(metrics.registry).decode()  # what was is not told as if it still were
