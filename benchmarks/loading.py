"""What loading a model costs those that serve.

    python benchmarks/loading.py [--repeat 6] [--repository models]

One small vision model of the zoo answers at a steady rate, well below what the CPU can do; meanwhile another model is
loaded and unloaded, again and again, with its solo measurements kept (warm) and thrown away (cold: it is measured in
exclusive windows). Latencies of the first during loads are compared with those in the pauses between, which alternate,
so that drift of the machine hits both sides.
"""

import argparse
import asyncio
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from common import Client, median, percentile, save

from cotenant.cli.stack import Stack, StackOptions
from cotenant.inference import inference_pb2 as pb

SERVING, LOADED = "resnet_small", "vit_small"
RATE = 40.0
PAUSE_S = 3.0


async def call(channel: grpc.aio.Channel, method: str, request: Any, reply: Any) -> None:
    stub = channel.unary_unary(
        f"/inference.GRPCInferenceService/{method}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=reply.FromString,
    )
    await stub(request, timeout=120)


async def unload(channel: grpc.aio.Channel) -> None:
    request = pb.RepositoryModelUnloadRequest(model_name=LOADED)
    await call(channel, "RepositoryModelUnload", request, pb.RepositoryModelUnloadResponse)


async def load(channel: grpc.aio.Channel) -> None:
    await call(
        channel, "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name=LOADED), pb.RepositoryModelLoadResponse
    )


async def run(repository: Path, repeat: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    request = pb.ModelInferRequest(model_name=SERVING)
    picture = np.load(repository / SERVING / "samples.npz")["image.0"]
    request.inputs.add(name="image", datatype="FP32", shape=[1, *picture.shape])
    request.raw_input_contents.append(picture.tobytes())
    with tempfile.TemporaryDirectory() as folder:
        # Observe-only: what would have been refused is slow instead, and so is counted.
        options = StackOptions(
            repository, Path(folder) / "run", port=18702, metrics=False, sockets=True, observe_only=True
        )
        async with Stack(options) as stack:
            await stack.models_settled(300)
            client, stop = Client(stack.url), asyncio.Event()
            await unload(client.channel)
            serving = asyncio.create_task(client.steady(request, RATE, stop))
            spans: list[tuple[str, float, float]] = []
            for i in range(repeat * 2):
                kind = "warm" if i % 2 else "cold"
                await asyncio.sleep(1.0)
                spans.append(("pause", time.perf_counter(), time.perf_counter() + PAUSE_S))
                await asyncio.sleep(PAUSE_S)
                if kind == "cold":
                    for kept in (repository / LOADED / "1").glob(".cotenant-profile-*"):
                        kept.unlink()
                started = time.perf_counter()
                await load(client.channel)
                spans.append((kind, started, time.perf_counter()))
                await unload(client.channel)
            stop.set()
            seen = await serving
            await client.channel.close()
    for kind, start, end in spans:
        latencies = [latency for due, latency in seen if start <= due < end]
        if len(latencies) >= 5:
            rows.append(
                {
                    "kind": kind,
                    "seconds": end - start,
                    "requests": len(latencies),
                    "p50_ms": percentile(latencies, 0.5) * 1e3,
                    "p99_ms": percentile(latencies, 0.99) * 1e3,
                    "max_ms": max(latencies) * 1e3,
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=6)
    parser.add_argument("--repository", type=Path, default=Path("models"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        for model in (SERVING, LOADED):
            shutil.copytree(arguments.repository / model, repository / model)
        rows = asyncio.run(run(repository, arguments.repeat))
    path = save("loading", rows, serving=SERVING, loaded=LOADED, rate_per_s=RATE)
    print(f"{SERVING} at {RATE:.0f} requests/s while {LOADED} is loaded (medians over spans)\n")
    print("| | spans | lasts s | p50 ms | p99 ms | worst ms |\n|---|---|---|---|---|---|")
    for kind in ("pause", "warm", "cold"):
        cell = [row for row in rows if row["kind"] == kind]
        if cell:
            numbers = [median([row[key] for row in cell]) for key in ("seconds", "p50_ms", "p99_ms", "max_ms")]
            print(f"| {kind} | {len(cell)} | " + " | ".join(f"{n:.2f}" for n in numbers) + " |")
    print(f"\nraw results in {path}")


if __name__ == "__main__":
    main()
