"""Which of the driver's devices (NVML's) CUDA's device 0, 1, ... is, by CUDA's own rules.

`CUDA_VISIBLE_DEVICES` lists what a process sees, by number, by UUID (`GPU-...`, `MIG-...`) or by a beginning of one
that fits a single device; the first that fits none ends the list. Without it a process sees all. On a GPU that is
divided by MIG, CUDA sees an instance: the first, where none is named. Numbers count from the fastest GPU on, unless
`CUDA_DEVICE_ORDER` is PCI_BUS_ID, which is how NVML counts; where GPUs differ, CUDA is asked which it means.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

_ABSENT = (2, 6)  # NVML's errors for what is not there: invalid argument, not found

Uuid = Callable[[int], str]  # of the CUDA device of that number, as CUDA tells it


def find(nvml: Any, index: int, cuda_uuid: Uuid | None = None) -> Any:
    """NVML's handle of CUDA's device `index`. `nvml` is pynvml, initialised.

    Raises ValueError if CUDA has no such device, NVMLError if the driver does not answer.
    """
    handles = visible(nvml)
    if not 0 <= index < len(handles):
        names = os.environ.get("CUDA_VISIBLE_DEVICES")
        shown = "the driver shows" if names is None else f"with CUDA_VISIBLE_DEVICES='{names}' there are"
        raise ValueError(f"there is no CUDA device {index}: {shown} {len(handles)}")
    handle = handles[index]
    if handle is None:
        uuid = (cuda_uuid or _told_by_torch)(index).removeprefix("GPU-")
        handle = _by_uuid(nvml, f"GPU-{uuid}") or _by_uuid(nvml, f"MIG-{uuid}")
        if handle is None:
            raise ValueError(f"CUDA's device {index} has UUID {uuid}, which the driver does not know")
    return next(_instances(nvml, handle), handle)


def visible(nvml: Any) -> list[Any]:
    """What this process sees, in CUDA's order: handles, None where only CUDA can tell which GPU a number means."""
    text = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = int(nvml.nvmlDeviceGetCount())
    names = [str(number) for number in range(count)] if text is None else [name.strip() for name in text.split(",")]
    counts_alike = _counts_alike(nvml, count)
    found: list[Any] = []
    for name in names:
        if name.isdecimal():
            if int(name) >= count:
                break
            found.append(nvml.nvmlDeviceGetHandleByIndex(int(name)) if counts_alike else None)
        elif (handle := _by_uuid(nvml, name)) is not None:
            found.append(handle)
        else:
            break
    return found


def _counts_alike(nvml: Any, count: int) -> bool:
    """Whether CUDA counts GPUs as NVML does: told to, or because they are all equally fast."""
    if os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return True
    return len({nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(number)) for number in range(count)}) <= 1


def _by_uuid(nvml: Any, name: str) -> Any:
    """The device of that UUID, or the only one whose UUID begins so; None if there is none."""
    if name.startswith("MIG-GPU-") and name.count("/") == 2:
        return _by_instance(nvml, *name.removeprefix("MIG-").split("/"))
    if not name.startswith(("GPU-", "MIG-")):
        return None
    gpus = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(int(nvml.nvmlDeviceGetCount()))]
    if name.startswith("MIG-"):
        gpus = [instance for gpu in gpus for instance in _instances(nvml, gpu)]
    fitting = [handle for handle in gpus if _text(nvml.nvmlDeviceGetUUID(handle)).startswith(name)]
    return fitting[0] if len(fitting) == 1 else None


def _by_instance(nvml: Any, gpu_uuid: str, gpu_instance: str, compute_instance: str) -> Any:
    """A MIG device as drivers before R470 named it: GPU, GPU instance, compute instance."""
    gpu = _by_uuid(nvml, gpu_uuid)
    for instance in _instances(nvml, gpu) if gpu is not None else ():
        numbers = (nvml.nvmlDeviceGetGpuInstanceId(instance), nvml.nvmlDeviceGetComputeInstanceId(instance))
        if tuple(map(str, numbers)) == (gpu_instance, compute_instance):
            return instance
    return None


def _instances(nvml: Any, gpu: Any) -> Iterator[Any]:
    """The MIG devices of a GPU, none if it is not divided, is one itself, or the driver knows no MIG."""
    try:
        divided = not nvml.nvmlDeviceIsMigDeviceHandle(gpu) and nvml.nvmlDeviceGetMigMode(gpu)[0]
        slots = range(int(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu))) if divided else ()
    except (nvml.NVMLError, AttributeError):
        return
    for slot in slots:
        try:
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, slot)
        except nvml.NVMLError as error:
            if error.value not in _ABSENT:
                raise


def _told_by_torch(index: int) -> str:
    """Raises ValueError if torch sees no such device."""
    import torch

    try:
        return str(torch.cuda.get_device_properties(index).uuid)
    except (AssertionError, AttributeError, RuntimeError) as error:
        hint = "set CUDA_DEVICE_ORDER=PCI_BUS_ID, so that CUDA counts as the driver does"
        raise ValueError(
            f"GPUs differ, and CUDA does not tell which is its device {index} ({error}); {hint}"
        ) from error


def _text(uuid: str | bytes) -> str:
    """Older bindings return bytes."""
    return uuid if isinstance(uuid, str) else uuid.decode()
