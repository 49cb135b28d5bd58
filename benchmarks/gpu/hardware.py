"""What the hardware and software of a measurement were: asked of the driver and of torch, and never changed."""

import contextlib
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict

from cotenant.cli.machine import describe as describe_host
from cotenant.executor import nvml_devices
from cotenant.executor.gpu_state import Nvml

ROOT = Path(__file__).resolve().parent.parent.parent
_CLOCKS = {"graphics": 0, "sm": 1, "memory": 2}  # NVML's kinds
_NUMBERS = {  # what NVML calls it, by our name; all of them in the driver's own units
    "memory_bus_width_bits": "nvmlDeviceGetMemoryBusWidth",
    "power_limit_mw": "nvmlDeviceGetEnforcedPowerLimit",
    "power_limit_default_mw": "nvmlDeviceGetPowerManagementDefaultLimit",
    "pcie_generation": "nvmlDeviceGetCurrPcieLinkGeneration",
    "pcie_width": "nvmlDeviceGetCurrPcieLinkWidth",
    "compute_mode": "nvmlDeviceGetComputeMode",  # 0 is the default: several processes may use it
    "persistence_mode": "nvmlDeviceGetPersistenceMode",
}


def run_facts(kind: str, index: int) -> dict[str, Any]:
    """What the first line of a run tells: date, command, host, device, libraries."""
    found: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *_relative(sys.argv)]),
        "rehearsal": kind != "cuda",
        "host": describe_host(),
        "load_average": os.getloadavg(),
        "device": {"kind": kind, "index": index},
    }
    if kind == "cuda":
        found["device"] |= gpu(index)
    if kind != "emulated":
        found["torch"] = torch_facts(kind, index)
    return found


def _relative(arguments: list[str]) -> list[str]:
    """Without the path of this checkout, which tells nothing."""
    return [argument.replace(f"{ROOT}/", "") for argument in arguments]


def gpu(index: int) -> dict[str, Any]:
    """The GPU as NVML tells it; a fact that the driver or device does not support is left out.

    Raises ValueError if there is no such GPU.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = nvml_devices.find(pynvml, index)
    except pynvml.NVMLError as error:
        raise ValueError(f"there is no CUDA device {index}: {error}") from error

    def ask(call: str, *arguments: Any) -> Any:
        with contextlib.suppress(pynvml.NVMLError, AttributeError):
            told = getattr(pynvml, call)(*arguments)
            return told.decode() if isinstance(told, bytes) else told
        return None

    memory = ask("nvmlDeviceGetMemoryInfo", handle)
    found: dict[str, Any] = {
        "name": ask("nvmlDeviceGetName", handle),
        "driver": ask("nvmlSystemGetDriverVersion"),
        "cuda_driver": ask("nvmlSystemGetCudaDriverVersion"),
        "memory_bytes": memory.total if memory else None,
        "memory_used_bytes": memory.used if memory else None,
        "mig_mode": ask("nvmlDeviceGetMigMode", handle),  # [now, after the next reset]; 0 is off
        "ecc_mode": ask("nvmlDeviceGetEccMode", handle),
        "power_limits_mw": ask("nvmlDeviceGetPowerManagementLimitConstraints", handle),
        "mps": {name: os.environ[name] for name in sorted(os.environ) if name.startswith("CUDA_MPS_")},
        **{name: ask(call, handle) for name, call in _NUMBERS.items()},
    }
    for name, kind in _CLOCKS.items():
        found[f"{name}_clock_mhz"] = ask("nvmlDeviceGetClockInfo", handle, kind)
        found[f"{name}_clock_max_mhz"] = ask("nvmlDeviceGetMaxClockInfo", handle, kind)
    return {name: value for name, value in found.items() if value is not None}


def torch_facts(kind: str, index: int) -> dict[str, Any]:
    """torch, what it computes with, and the device as it sees it; empty where it is not installed."""
    try:
        import torch
    except ImportError:
        return {}
    found: dict[str, Any] = {"version": torch.__version__, "cuda": torch.version.cuda}
    if kind == "cuda":
        properties = torch.cuda.get_device_properties(index)
        found |= {
            "cudnn": torch.backends.cudnn.version(),
            "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
            "cudnn_tf32": torch.backends.cudnn.allow_tf32,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "multiprocessors": properties.multi_processor_count,
            "capability": [properties.major, properties.minor],
            "l2_bytes": properties.L2_cache_size,
        }
    return found


class State:
    """Clocks, power, temperature and reasons for throttling of a GPU, from one call to the next."""

    def __init__(self, kind: str, index: int) -> None:
        self._nvml = Nvml(index) if kind == "cuda" else None

    def now(self) -> dict[str, Any]:
        """What the driver tells now, for the line of a point; empty for what is no GPU."""
        if self._nvml is None:
            return {}
        try:
            return {"state": MessageToDict(self._nvml.read(), preserving_proto_field_name=True)}
        except Exception as error:  # a driver may fail in any way; the measurement is there
            return {"state_error": f"{type(error).__name__}: {error}"}
