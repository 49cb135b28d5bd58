"""What a device can do at most: measured once per host, in a fraction of a second, and kept.

Measured rather than read from data sheets: clocks that a power limit lowers, a memory that a virtual machine shares
and a slice of a GPU all show in a measurement.
"""

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import structlog

_log = structlog.get_logger()

_TRIES = 3  # each rate is the best of so many tries, since others may be busy
_SPAN_S = 0.02  # how long a try copies


class Peaks(msgspec.Struct, frozen=True):
    """Rates of a whole device, and what its caches hold."""

    flops_per_s: float  # of FP32 products; 0 for a CPU, whose batches share cores
    cache_bytes_per_s: float  # of the last cache that batches share, read and written
    memory_bytes_per_s: float  # read and written
    cache_bytes: int  # of that cache
    private_bytes: int  # of the caches before it that one core has to itself; 0 where they outlast no operator
    half_flops_per_s: float = 0.0  # of products of 16 bits and less, where they are faster; else 0

    def product_rate(self, element_bytes: int) -> float:
        """Floating-point operations per second of products of numbers of that size."""
        return (0 < element_bytes <= 2 and self.half_flops_per_s) or self.flops_per_s


def known(name: str, measure: Callable[[], Peaks], cache: Path | None) -> Peaks:
    """The peaks of a device: as kept in the folder `cache`, else measured and kept there.

    Args:
        name: of the device; with the host's, it tells whether what is kept is still true.
        measure: does it.
        cache: None to measure every time.
    """
    if cache is None:
        return measure()
    cores = len(os.sched_getaffinity(0))
    key = hashlib.blake2b(f"{os.uname().nodename}|{name}|{cores}".encode(), digest_size=8).hexdigest()
    path = cache / f"peaks-{key}.json"
    if path.exists():
        try:
            return msgspec.json.decode(path.read_bytes(), type=Peaks)
        except (OSError, msgspec.MsgspecError) as error:
            _log.warning("peaks of the device unreadable, measuring again", path=str(path), error=str(error))
    peaks = measure()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}.part")
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(peaks)))
        draft.replace(path)
    except OSError as error:
        _log.warning("peaks of the device not kept", path=str(path), error=str(error))
    return peaks


def of_cpu() -> Peaks:
    """Peaks of all cores that this process may use."""
    cores = len(os.sched_getaffinity(0))
    private, shared = cache_bytes()
    # Twice what a core's own caches hold does not fit there, and a quarter of its part of the shared one does.
    in_cache = max(2 * private, shared // (4 * cores))
    return Peaks(
        flops_per_s=0.0,
        cache_bytes_per_s=_copy_rate(in_cache, cores),
        memory_bytes_per_s=_copy_rate(max(2**24, 2 * shared // cores), cores),
        cache_bytes=shared,
        private_bytes=private,
    )


def cache_bytes(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> tuple[int, int]:
    """Sizes of a core's largest private data cache and of the last level; where unknown, 1 and 32 MiB."""
    sizes: dict[int, int] = {}
    for folder in root.glob("index*"):
        try:
            level, kind, text = (
                (folder / name).read_text(encoding="ascii").strip() for name in ("level", "type", "size")
            )
            if kind != "Instruction":
                sizes[int(level)] = int(text[:-1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[text[-1]]
        except (OSError, ValueError, KeyError, IndexError):
            continue
    if len(sizes) < 2:
        return 2**20, max(sizes.values(), default=32 * 2**20)
    *_, private, last = (sizes[level] for level in sorted(sizes))
    return private, last


def _copy_rate(size: int, threads: int) -> float:
    """Bytes per second that so many threads read and write together, each copying half of `size` to the other half.

    Their CPU time counts: a thread that had to wait for a core did not wait for memory.
    """
    halves = [(np.ones(size // 2, dtype=np.uint8), np.ones(size // 2, dtype=np.uint8)) for _ in range(threads)]

    def copy(pair: tuple[Any, Any]) -> float:
        source, target = pair
        copies, started = 0, time.thread_time()
        while time.thread_time() < started + _SPAN_S:
            np.copyto(target, source)
            copies += 1
        return float(copies * 2 * source.nbytes / (time.thread_time() - started))

    with ThreadPoolExecutor(threads) as pool:
        return max(sum(pool.map(copy, halves)) for _ in range(_TRIES))


def of_torch(device: Any, cache_size: int, memory_copy: int = 2**29, product: int = 4096) -> Peaks:
    """Peaks of a device of torch's.

    Args:
        device: a `torch.device`.
        cache_size: bytes of its L2 cache.
        memory_copy: bytes to copy for the memory's rate; should be many times the cache.
        product: rows and columns of the matrices to multiply.
    """
    import torch

    def rate(amount: float, work: Callable[[], Any], times: int) -> float:
        best = 0.0
        for _ in range(_TRIES + 1):  # the first one warms up
            _synchronize(device)
            started = time.perf_counter()
            for _ in range(times):
                work()
            _synchronize(device)
            best = max(best, times * amount / (time.perf_counter() - started))
        return best

    def copy_rate(size: int, times: int) -> float:
        source = torch.ones(size // 2, dtype=torch.uint8, device=device)
        target = torch.ones_like(source)
        return rate(size, lambda: target.copy_(source), times)

    def product_rate(kind: Any) -> float:
        left = torch.ones(product, product, dtype=kind, device=device)
        return rate(2 * product**3, lambda: left @ left, 2)

    return Peaks(
        flops_per_s=product_rate(torch.float32),
        cache_bytes_per_s=copy_rate(max(2**16, cache_size // 2), 64),
        memory_bytes_per_s=copy_rate(memory_copy, 4),
        cache_bytes=cache_size,
        private_bytes=0,
        half_flops_per_s=product_rate(torch.float16) if device.type == "cuda" else 0.0,
    )


def _synchronize(device: Any) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
