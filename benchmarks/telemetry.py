"""What telling costs: CPU and latency with sampled operator timings, and with the record, on and off.

    python benchmarks/telemetry.py [--repeat 5] [--seconds 5] [--repository models]

The torch variant of a small vision model runs in a closed loop on two lanes (its operators are timed at run time; of an
ONNX model, only once at load), and the identity model on 64. Each setting has a stack of its own; settings alternate.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import Client, cpu_s, difference, identity_request, median, percentile, save
from datapath_peers import OURS

from cotenant.cli.stack import Stack, StackOptions
from cotenant.inference import inference_pb2 as pb

TORCH = "resnet_small_torch"
SAMPLING = {"off": 0, "default (1 in 500)": 500, "1 in 20": 20}


async def measure(stack: Stack, request: pb.ModelInferRequest, lanes: int, seconds: float) -> dict[str, Any]:
    client = Client(stack.url)
    await client.closed_loop(request, lanes, 1.0)
    before = cpu_s(stack)
    latencies = await client.closed_loop(request, lanes, seconds)
    spent = difference(cpu_s(stack), before)
    await client.channel.close()
    return {
        "cpu_us_per_request": sum(spent.values()) / len(latencies) * 1e6,
        "requests_per_s": len(latencies) / seconds,
        "p50_ms": percentile(latencies, 0.5) * 1e3,
        "p99_ms": percentile(latencies, 0.99) * 1e3,
    }


async def run(repository: Path, repeat: int, seconds: float) -> list[dict[str, Any]]:
    picture = np.load(repository / TORCH / "samples.npz")["image.0"]
    vision = pb.ModelInferRequest(model_name=TORCH)
    vision.inputs.add(name="image", datatype="FP32", shape=[1, *picture.shape])
    vision.raw_input_contents.append(picture.tobytes())
    small = identity_request("identity", 16)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        (models / "identity" / "1").mkdir(parents=True)
        (models / "identity" / "config.pbtxt").write_text(OURS, encoding="utf-8")
        (models / TORCH).symlink_to((repository / TORCH).resolve())
        port = 18703
        for i in range(repeat):
            for name, every in SAMPLING.items():
                extra = {"executor": (f"--kernel-sample-every={every}",)}
                options = StackOptions(
                    models,
                    Path(folder) / f"a{i}{every}",
                    port=port,
                    metrics=False,
                    sockets=True,
                    observe_only=True,
                    extra=extra,
                )
                async with Stack(options) as stack:
                    await stack.models_settled(300)
                    rows.append(
                        {"what": "operator timings", "setting": name, **await measure(stack, vision, 2, seconds)}
                    )
            for name in ("off", "on"):
                record = str(Path(folder) / f"log{i}") if name == "on" else ""
                options = StackOptions(
                    models, Path(folder) / f"b{i}{name}", port=port, metrics=False, sockets=True, record=record
                )
                async with Stack(options) as stack:
                    await stack.models_settled(300)
                    rows.append({"what": "record", "setting": name, **await measure(stack, small, 64, seconds)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repository", type=Path, default=Path("models"))
    arguments = parser.parse_args()
    rows = asyncio.run(run(arguments.repository, arguments.repeat, arguments.seconds))
    path = save("telemetry", rows)
    print(
        "| what | setting | CPU us/request | ratio to off, pair by pair | p50 ms | p99 ms |\n|---|---|---|---|---|---|"
    )
    for what in ("operator timings", "record"):
        off = [r["cpu_us_per_request"] for r in rows if r["what"] == what and r["setting"] == "off"]
        for setting in dict.fromkeys(r["setting"] for r in rows if r["what"] == what):
            cell = [r for r in rows if r["what"] == what and r["setting"] == setting]
            cpu = [r["cpu_us_per_request"] for r in cell]
            ratio = median([a / b for a, b in zip(cpu, off, strict=True)])
            told = [median(cpu), ratio, median([r["p50_ms"] for r in cell]), median([r["p99_ms"] for r in cell])]
            print(f"| {what} | {setting} | {told[0]:.0f} | {told[1]:.3f} | {told[2]:.2f} | {told[3]:.2f} |")
    print(f"\nraw results in {path}")


if __name__ == "__main__":
    main()
