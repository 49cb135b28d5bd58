"""What the scripts of this folder have in common: flags, a budget of time, and where results go.

A run on anything but a CUDA device is a rehearsal: the same code with small numbers. It says so in its results, and
never writes into `results/`.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hardware
from journal import Journal

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RESULTS = HERE / "results"
BUILD = ROOT / "build" / "gpu"  # git ignores it


@dataclass(frozen=True)
class Options:
    """What all scripts are asked."""

    kind: str  # "cuda", "cpu" or "emulated"
    index: int
    seconds: float
    out: Path
    resume: bool
    repository: Path | None
    models: tuple[str, ...]  # none: the script's own choice

    @property
    def rehearsal(self) -> bool:
        """Whether this is not what the script is for."""
        return self.kind != "cuda"

    @property
    def device(self) -> str:
        """As `cotenant serve --devices` takes it."""
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"

    def journal(self, name: str, **facts: Any) -> Journal:
        """The file of results of that name in the folder of results."""
        run = hardware.run_facts(self.kind, self.index) | {"seconds": self.seconds} | facts
        return Journal(self.out / name, run, resume=self.resume)


class Budget:
    """Time that a run may take, from now."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        """Seconds left, 0 or less if there are none."""
        return self._until - time.monotonic()


def parser(description: str | None, *, seconds: float) -> argparse.ArgumentParser:
    """The flags of all scripts; `seconds` is how long one takes on a GPU at most."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cuda:0", help="cuda:N, or cpu or emulated for a rehearsal (default: cuda:0)")
    p.add_argument("--seconds", type=float, help=f"time to measure (default: {seconds:g}, in a rehearsal 10)")
    p.add_argument("--out", type=Path, help="folder of results (default: results/ beside the script, or build/gpu)")
    p.add_argument("--resume", action="store_true", help="go on with what is there")
    p.add_argument("--repository", type=Path, help="models (default: made in build/gpu/models)")
    p.add_argument("--models", default="", metavar="A,B", help="instead of those the script chooses")
    p.set_defaults(default_seconds=seconds)
    return p


def options(arguments: argparse.Namespace) -> Options:
    """The flags, read. Raises ValueError that names the flag."""
    kind, _, index = arguments.device.partition(":")
    if kind not in ("cuda", "cpu", "emulated") or (index and not index.isdigit()):
        raise ValueError(f"--device is '{arguments.device}', expected cuda:N, cpu or emulated")
    rehearsal = kind != "cuda"
    out = arguments.out or (BUILD / "rehearsal" / kind if rehearsal else RESULTS)
    if rehearsal and out.resolve().is_relative_to(RESULTS):
        raise ValueError(f"--out is {out}: a rehearsal on '{kind}' is no result, and does not go there")
    seconds = arguments.seconds or (10.0 if rehearsal else arguments.default_seconds)
    if seconds <= 0:
        raise ValueError(f"--seconds is {seconds:g}, expected more than 0")
    models = tuple(name for name in arguments.models.split(",") if name)
    return Options(kind, int(index or 0), seconds, out, arguments.resume, arguments.repository, models)


def parsed(p: argparse.ArgumentParser, argv: Sequence[str] | None) -> tuple[Options, argparse.Namespace]:
    """All flags: those of all scripts, and everything. Exits with a message where something is wrong with them."""
    arguments = p.parse_args(argv)
    try:
        return options(arguments), arguments
    except ValueError as error:
        p.error(str(error))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]
