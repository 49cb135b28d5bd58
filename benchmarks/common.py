"""What all benchmarks share: a stack, CPU time of its processes, a closed-loop client, results with their context."""

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from cotenant.cli.machine import describe
from cotenant.cli.stack import Stack
from cotenant.inference import inference_pb2 as pb

RESULTS = Path(__file__).parent / "results"
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(stack: Stack) -> dict[str, float]:
    """User and system CPU seconds of each service so far (their children included)."""
    spent = {}
    for name, process in stack.processes.items():
        fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        spent[name] = sum(int(field) for field in fields[11:15]) / TICKS
    return spent


def difference(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: after[name] - before[name] for name in after}


def identity_request(model: str, elements: int) -> pb.ModelInferRequest:
    """A request of FP32[1, elements] for an identity model."""
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="INPUT0", datatype="FP32", shape=[1, elements])
    request.raw_input_contents.append(np.random.default_rng(0).random(elements, dtype=np.float32).tobytes())
    return request


class Client:
    """Requests over one channel."""

    def __init__(self, url: str) -> None:
        self.channel = grpc.aio.insecure_channel(url, options=OPTIONS)
        self.infer = self.channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )

    async def closed_loop(self, request: pb.ModelInferRequest, concurrency: int, seconds: float) -> list[float]:
        """Latencies in seconds of requests that follow each other on `concurrency` lanes."""
        latencies: list[float] = []
        until = time.perf_counter() + seconds

        async def lane() -> None:
            while (started := time.perf_counter()) < until:
                await self.infer(request)
                latencies.append(time.perf_counter() - started)

        await asyncio.gather(*(lane() for _ in range(concurrency)))
        return latencies

    async def steady(
        self, request: pb.ModelInferRequest, rate_per_s: float, stop: asyncio.Event
    ) -> list[tuple[float, float]]:
        """(intended send time, latency) in seconds of requests sent at a steady rate until told to stop."""
        seen: list[tuple[float, float]] = []

        async def one(due: float) -> None:
            await self.infer(request)
            seen.append((due, time.perf_counter() - due))

        tasks = []
        due = time.perf_counter()
        while not stop.is_set():
            due += 1 / rate_per_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(one(due)))
        await asyncio.gather(*tasks)
        return seen


def percentile(values: list[float], share: float) -> float:
    """The value that so large a share lies below."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def median(values: list[float]) -> float:
    return statistics.median(values)


def save(name: str, rows: list[dict[str, Any]], *, path: Path | None = None, **more: Any) -> Path:
    """Writes results with machine, date, command and other load beside them; to benchmarks/results if not to `path`."""
    document = {
        "benchmark": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "machine": describe(),
        "load_average": os.getloadavg(),
        **more,
        "rows": rows,
    }
    path = path or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path
