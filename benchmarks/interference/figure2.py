"""The seed paper's Figure 2, throughput over batch sizes: the zoo on this CPU, personalities on the emulated GPU.

    python benchmarks/interference/figure2.py [--devices cpu,emulated] [--folder FOLDER] [--runs N]

Makes the models in FOLDER and has `cotenant profile` measure them, each alone. Throughput is that of batches that
follow each other without a gap, as in the paper. What runs beside it on the machine shows on the CPU, and not on the
emulated GPU.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cotenant.cli import profile
from cotenant.executor.emulated_gpu import personalities

EMULATED = """\
backend: "emulated"
max_batch_size: {max_batch_size}
input [{{ name: "INPUT0" data_type: TYPE_FP32 dims: [ 16 ] }}]
output [{{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 1 ] }}]
dynamic_batching {{}}
parameters {{ key: "personality" value {{ string_value: "{name}" }} }}
"""
MAX_BATCH_SIZE = 8


def make(device: str, folder: Path) -> None:
    """The models to measure, where they are not there."""
    if device == "cpu":
        subprocess.run([sys.executable, "-m", "cotenant.executor.zoo", f"--repository={folder}"], check=True)
        return
    for name in personalities():
        (folder / name / "1").mkdir(parents=True, exist_ok=True)
        text = EMULATED.format(name=name, max_batch_size=MAX_BATCH_SIZE)
        (folder / name / "config.pbtxt").write_text(text, encoding="utf-8")


def table(profiles: list[dict[str, Any]]) -> str:
    """Items per second over batch sizes, in Markdown."""
    sizes = sorted({entry["batch_size"] for found in profiles for entry in found["classes"]})
    heads = ["model", "length", *(f"batch {size}" for size in sizes), "best over single"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for found in profiles:
        for bucket in dict.fromkeys(entry["shape_bucket"] for entry in found["classes"]):
            rates = {e["batch_size"]: e["items_per_s"] for e in found["classes"] if e["shape_bucket"] == bucket}
            cells = [f"{rates[size]:.1f}" if size in rates else "-" for size in sizes]
            gain = max(rates.values()) / rates[1] - 1
            lines.append(f"| {' | '.join([found['model'], bucket or '-', *cells, f'{gain:+.0%}'])} |")
    return "\n".join(lines)


def main() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from common import RESULTS, save

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="cpu,emulated")
    parser.add_argument("--folder", type=Path, default=Path("build/interference/figure2"))
    parser.add_argument("--runs", type=int, default=0, help="default: what fits into 2 s, 5 to 100")
    arguments = parser.parse_args()
    for device in arguments.devices.split(","):
        repository, output = arguments.folder / device, arguments.folder / f"{device}-profile"
        make(device, repository)
        flags = [f"--repository={repository}", f"--device={device}", f"--runs={arguments.runs}", f"--output={output}"]
        if profile.main([*flags, "--remeasure"]):
            raise SystemExit(f"figure2: not every model was measured on {device}")
        found = json.loads((output / "profile.json").read_text(encoding="utf-8"))
        for plot in ("throughput", "latency"):
            (output / f"{plot}.svg").replace(RESULTS / f"interference-figure2-{device}-{plot}.svg")
        path = save(f"interference-figure2-{device}", found["profiles"], device=found["device"])
        print(f"\n{table(found['profiles'])}\n\nraw results in {path}\n")


if __name__ == "__main__":
    main()
