"""`cotenant profile`: how models run alone on a device: latency over batch sizes, throughput, memory, load time."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape

from cotenant.cli import profile_plots, profile_table
from cotenant.cli.machine import describe
from cotenant.cli.profile_run import Asked, ProfileError, events
from cotenant.cli.serve import device_names
from cotenant.runtime import solo

KINDS = ("cpu", "cuda", "emulated")

_EPILOG = """\
No stack needs to run. What is measured is kept beside the model, where an executor of the same device and settings
finds it when it loads the model, and shown again until the model, its configuration or the device changes. Settings of
the executor are taken from the environment, as `cotenant serve` does: COTENANT_EXECUTOR_THREADS_PER_BATCH=2.

examples:
  cotenant profile resnet_small vit_small --repository models
  cotenant profile --repository models --output figures        all models; JSON and plots
  cotenant profile bert --device cuda:0 --runs 500 --remeasure
docs/profile.md tells what each figure means.
"""


@dataclass
class Result:
    """What came of it."""

    device: solo.SoloDevice | None = None
    models: tuple[str, ...] = ()
    profiled: list[solo.Profiled] = field(default_factory=list)
    failed: list[solo.Failed] = field(default_factory=list)


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    p = argparse.ArgumentParser(
        prog="cotenant profile",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("models", nargs="*", metavar="MODEL", help="default: every model of the repository")
    p.add_argument("--repository", type=Path, required=True, metavar="DIR", help="models in Triton's layout")
    p.add_argument(
        "--device", default="auto", help="cpu, cuda:N or emulated; auto: the first GPU, or the CPU (default: auto)"
    )
    p.add_argument("--batch-sizes", default="", metavar="1,2,4", help="default: those that a load measures")
    p.add_argument(
        "--runs", type=int, default=0, metavar="N", help="of each batch class (default: what fits into 2 s, 5 to 100)"
    )
    p.add_argument("--remeasure", action="store_true", help="measure anew what was measured before")
    p.add_argument("--output", type=Path, metavar="DIR", help="write profile.json, throughput.svg and latency.svg")
    return p


def asked(a: argparse.Namespace) -> Asked:
    """What the flags ask for. Raises ProfileError that names the flag."""
    if not a.repository.is_dir():
        raise ProfileError(f"--repository: there is no folder {a.repository}")
    if a.device.partition(":")[0] not in (*KINDS, "auto") or not (a.device.partition(":")[2] or "0").isdecimal():
        raise ProfileError(f"--device must be cpu, cuda:N or emulated, got '{a.device}'")
    sizes = [size.strip() for size in a.batch_sizes.split(",") if size.strip()]
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise ProfileError(f"--batch-sizes must be positive integers separated by commas, got '{a.batch_sizes}'")
    if a.runs < 0:
        raise ProfileError(f"--runs must be positive, got {a.runs}")
    device = device_names(a.device)[0]
    return Asked(
        a.repository,
        device,
        tuple(dict.fromkeys(a.models)),
        tuple(sorted({int(size) for size in sizes})),
        a.runs,
        a.remeasure,
    )


def measure(wanted: Asked, console: Console) -> Result:
    """Measures, and tells on the console where it is. Raises ProfileError."""
    result = Result()
    with console.status("opening the device") as status:
        for event in events(wanted):
            match event:
                case solo.Opened():
                    result.device = result.device or event.device
                    result.models = result.models or event.models
                case solo.Begun():
                    at = f"{result.models.index(event.model) + 1} of {len(result.models)}"
                    status.update(f"{escape(event.model)} ({at})")
                case solo.Ran():
                    bucket = f", bucket {event.shape_bucket}" if event.shape_bucket else ""
                    status.update(f"{escape(event.model)} ({at}): batch size {event.batch_size}{bucket} is timed")
                case solo.Profiled():
                    result.profiled.append(event)
                case solo.Failed():
                    result.failed.append(event)
    return result


def document(result: Result, command: str) -> dict[str, Any]:
    """Everything that was found, with what it was found on."""
    profiles = []
    for found in result.profiled:
        profile: dict[str, Any] = msgspec.to_builtins(found.profile)
        for entry, told in zip(profile["classes"], found.profile.classes, strict=True):
            entry |= {f"p{percent}_ns": told.percentile_ns(percent) for percent in (95, 99)}
            entry |= {"items_per_s": told.items_per_s}
        profiles.append({**profile, "fresh": found.fresh, "kept": found.kept, "remark": found.remark})
    return {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(),
        "device": msgspec.to_builtins(result.device),
        "profiles": profiles,
        "failed": [{"model": f.model, "version": f.version, "message": f.message} for f in result.failed],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, 1 if a model could not be measured, 2 if none can (device, repository, flags)."""
    arguments = list(sys.argv[2:] if argv is None else argv)
    a = parser().parse_args(arguments)
    try:
        result = measure(asked(a), Console(stderr=True))
        if a.output:
            a.output.mkdir(parents=True, exist_ok=True)
            text = document(result, shlex.join(["cotenant", "profile", *arguments]))
            (a.output / "profile.json").write_bytes(msgspec.json.format(msgspec.json.encode(text), indent=1) + b"\n")
            profile_plots.write([found.profile for found in result.profiled], a.output)
    except (OSError, ProfileError) as error:
        print(f"cotenant profile: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    profile_table.show(Console(), result.profiled)
    for failed in result.failed:
        version = f" version {failed.version}" if failed.version else ""
        print(f"cotenant profile: {failed.model}{version} was not measured: {failed.message}", file=sys.stderr)
    return 1 if result.failed else 0
