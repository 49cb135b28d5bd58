"""Launches, copies and shares, measured with torch itself rather than through a backend.

Everything is written for a CUDA device, and runs on a CPU as a rehearsal: operators run at once there, there are no
streams, graphs or pinned memory, and rows say so by what they leave out.
"""

import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from cotenant.executor.green_contexts import GreenContexts

OPERATORS = 100  # of a graph, and of the same launched one by one
SIZES = (602_112, 4_915_200, 64 * 2**20)  # bytes: a picture of 224 and of 640 pixels, and much
PRODUCT = 2048  # rows and columns of the product beside copies
Rows = list[dict[str, Any]]


class Torch:
    """torch on one device; on a CPU, what there is not of it does nothing."""

    def __init__(self, kind: str, index: int) -> None:
        """Raises ValueError for an emulated device, which torch does not know."""
        if kind == "emulated":
            raise ValueError("the emulated device is none of torch's")
        import torch

        self.torch = torch
        self.cuda = kind == "cuda"
        self.device = torch.device("cuda", index) if self.cuda else torch.device("cpu")

    def synchronize(self) -> None:
        """Waits for the device."""
        if self.cuda:
            self.torch.cuda.synchronize(self.device)

    def stream(self, handle: int = 0) -> Any:
        """A new stream, or one that is there already."""
        if not self.cuda:
            return None
        if handle:
            return self.torch.cuda.ExternalStream(handle, device=self.device)
        return self.torch.cuda.Stream(self.device)

    @contextlib.contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        """What is launched inside goes to the stream."""
        with self.torch.cuda.stream(stream) if stream is not None else contextlib.nullcontext():
            yield

    def host(self, size: int, *, pinned: bool) -> Any:
        """Bytes of the host."""
        return self.torch.ones(size, dtype=self.torch.uint8, pin_memory=pinned and self.cuda)

    def time_ns(self, work: Callable[[], Any], seconds: float) -> float:
        """Median of the time from the first launch to the end of the last, over repeats."""
        work()
        self.synchronize()
        found = []
        until = time.monotonic() + seconds
        while time.monotonic() < until or len(found) < 3:
            begin = time.perf_counter_ns()
            work()
            self.synchronize()
            found.append(time.perf_counter_ns() - begin)
        return statistics.median(found)

    def asked_ns(self, work: Callable[[], Any], seconds: float) -> float:
        """Median of the time until launching has returned; what was launched is waited for outside."""
        found = []
        until = time.monotonic() + seconds
        while time.monotonic() < until or len(found) < 3:
            self.synchronize()
            begin = time.perf_counter_ns()
            work()
            found.append(time.perf_counter_ns() - begin)
        return statistics.median(found)


def launches(kind: str, index: int, seconds: float) -> Rows:
    """Operators one by one, and as a graph where there are graphs."""
    t = Torch(kind, index)
    tensor = t.torch.zeros(1024, device=t.device)

    def eager() -> None:
        for _ in range(OPERATORS):
            tensor.add_(1)

    ways: dict[str, Callable[[], Any]] = {"eager": eager}
    if t.cuda:
        stream = t.stream()
        graph = t.torch.cuda.CUDAGraph()
        with t.on(stream):
            eager()
            stream.synchronize()
            with t.torch.cuda.graph(graph, stream=stream):
                eager()
        ways["graph"] = graph.replay
    alone = counted(lambda: time.sleep(seconds))
    found = []
    for way, work in ways.items():
        row = {"type": "launch", "way": way, "operators": OPERATORS, "asked_ns": t.asked_ns(work, seconds)}
        row["until_done_ns"] = t.time_ns(work, seconds)

        def repeated(work: Callable[[], Any] = work) -> None:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                work()
                t.synchronize()

        found.append(row | {"interpreter_left": counted(repeated) / alone})
    return found


def counted(work: Callable[[], Any]) -> float:
    """How far another thread of this interpreter counts per second while `work` runs."""
    count, stop = 0, threading.Event()

    def counter() -> None:
        nonlocal count
        while not stop.is_set():
            count += 1

    thread = threading.Thread(target=counter)
    begin = time.perf_counter()
    thread.start()
    try:
        work()
    finally:
        span_s = time.perf_counter() - begin
        stop.set()
        thread.join()
    return count / span_s


def copies(kind: str, index: int, seconds: float) -> Rows:
    """Copies to and from the device alone, and beside a product on another stream."""
    t = Torch(kind, index)
    rows_ = PRODUCT if t.cuda else 64
    left = t.torch.randn(rows_, rows_, device=t.device)
    compute_stream, copy_stream = t.stream(), t.stream()
    found = []
    for size in SIZES:
        there = t.torch.empty(size, dtype=t.torch.uint8, device=t.device)
        for pinned in (True, False):
            here = t.host(size, pinned=pinned)
            for direction, target, source in (("in", there, here), ("out", here, there)):

                def copy(target: Any = target, source: Any = source) -> None:
                    with t.on(copy_stream):
                        target.copy_(source, non_blocking=True)

                copy_ns = t.time_ns(copy, seconds / 4)
                once_ns = t.time_ns(lambda: left @ left, seconds / 8)
                products = max(1, min(1000, round(copy_ns / once_ns)))

                def compute(products: int = products) -> None:
                    with t.on(compute_stream):
                        for _ in range(products):
                            left @ left

                def both(compute: Callable[[], None] = compute, copy: Callable[[], None] = copy) -> None:
                    compute()
                    copy()

                compute_ns, both_ns = t.time_ns(compute, seconds / 4), t.time_ns(both, seconds / 4)
                row = {"type": "copy", "bytes": size, "pinned": pinned, "direction": direction}
                row |= {
                    "copy_ns": copy_ns,
                    "bytes_per_s": size / copy_ns * 1e9,
                    "asked_ns": t.asked_ns(copy, seconds / 8),
                }
                row |= {"products": products, "compute_ns": compute_ns, "both_ns": both_ns}
                # 1 where the shorter one vanishes behind the longer, 0 where they follow each other.
                row["overlap"] = (copy_ns + compute_ns - both_ns) / min(copy_ns, compute_ns)
                found.append(row)
    return found


def shares(kind: str, index: int, repeats: int = 20, product: int = 4096) -> Rows:
    """Green contexts: making them, launching to one and to two in turns, and what a product takes on each share.

    Raises ValueError where there are none.
    """
    if kind != "cuda":
        raise ValueError(f"'{kind}' has no green contexts")
    t = Torch(kind, index)
    contexts = GreenContexts(index)
    tensor, left = t.torch.zeros(1024, device=t.device), t.torch.randn(product, product, device=t.device)
    made = []
    for _ in range(repeats):
        begin = time.perf_counter_ns()
        context = contexts.open(contexts.sm_count // 2)
        context.stream()
        opened = time.perf_counter_ns()
        context.close()
        made.append((opened - begin, time.perf_counter_ns() - opened))
    row: dict[str, Any] = {"type": "share", "sm_count": contexts.sm_count, "granule_sms": contexts.granule_sms}
    row |= {"open_ns": statistics.median(one[0] for one in made), "close_ns": statistics.median(one[1] for one in made)}
    halves = contexts.partition([contexts.free_sms // 2] * 2)
    streams = [t.stream(half.stream()) for half in halves]
    same = [t.stream(halves[0].stream()) for _ in range(2)]
    for name, pair in (("in_turns", streams), ("same_context", same), ("no_context", [t.stream(), t.stream()])):

        def launch(pair: list[Any] = pair) -> None:
            for i in range(OPERATORS):
                with t.on(pair[i % 2]):
                    tensor.add_(1)

        row[f"launch_{name}_ns"] = t.asked_ns(launch, 0.2) / OPERATORS
    for half in halves:
        half.close()
    found = [row]
    for sms in sorted({contexts.granule_sms * n for n in (1, 2, 4, 8, 12)} | {contexts.sm_count}):
        if sms > contexts.sm_count:
            continue
        context = contexts.open(sms)
        stream = t.stream(context.stream())

        def multiply(stream: Any = stream) -> None:
            with t.on(stream):
                left @ left

        found.append({"type": "share_product", "sm_count": context.sm_count, "product_ns": t.time_ns(multiply, 0.2)})
        context.close()
    return found
