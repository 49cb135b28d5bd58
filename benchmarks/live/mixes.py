"""The mixes of models that live benchmarks serve: rates, SLOs, and where their models come from.

At scale 1 a mix asks for about two cores' worth of solo time on the machine of docs/zoo.md, in equal shares for its
models; wire and queues come on top, so every server saturates below that. Rates and SLOs are fixed here, and so are
seeds elsewhere: a run on another machine, or of another server, gets the same requests at the same instants.
"""

import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SLO = re.compile(r'(key: "slo_ms"\s+value \{\s+string_value: ")[^"]+')


@dataclass(frozen=True)
class Loaded:
    """A model of the zoo and its load at scale 1; `solo_ms` is what one item took alone (docs/zoo.md)."""

    model: str
    rate: float  # requests/s, one item each
    slo_ms: float
    solo_ms: float


@dataclass(frozen=True)
class Mix:
    """Models that are served together; `scales` are the load points of a run."""

    name: str
    models: tuple[Loaded, ...]
    scales: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Requests per s of all models at scale 1."""
        return sum(loaded.rate for loaded in self.models)

    @property
    def middle(self) -> float:
        """The scale at which servers are tuned and learn: the one before the last."""
        return self.scales[-2]


MIXES = {
    mix.name: mix
    for mix in (
        Mix(
            "vision",  # short models alike: what a request costs besides its model weighs most
            (
                Loaded("resnet_small", 172, 50, 2.9),
                Loaded("yolov8_small", 147, 60, 3.4),
                Loaded("vit_small", 128, 70, 3.9),
                Loaded("vgg_small", 116, 80, 4.3),
            ),
            (0.2, 0.4, 0.6, 0.8),
        ),
        Mix(
            "text",  # variable lengths, 7 to 89 tokens, in buckets
            (
                Loaded("minilm", 161, 100, 6.2),
                Loaded("roberta_small", 303, 60, 3.3),
            ),
            (0.2, 0.4, 0.6, 0.8),
        ),
        Mix(
            "long-and-short",  # patient models of 45 ms beside impatient ones of 3 ms
            (
                Loaded("resnet50", 14.3, 400, 41.9),
                Loaded("yolov8n", 12.8, 500, 46.8),
                Loaded("resnet_small", 138, 50, 2.9),
                Loaded("roberta_small", 121, 60, 3.3),
            ),
            (0.3, 0.5, 0.7, 0.9),
        ),
    )
}


def write_models(repository: Path, names: Iterable[str], form: str = "onnx") -> None:
    """Has the zoo write models, which takes nothing where they are there already; `form` as it takes it."""
    command = [sys.executable, "-m", "cotenant.executor.zoo", f"--repository={repository}", f"--format={form}"]
    subprocess.run([*command, "--models", ",".join(sorted(set(names)))], check=True)


def promise(repository: Path, models: Iterable[Loaded]) -> None:
    """Writes SLOs into configurations: a request's budget is the least of what it and its model ask for."""
    for loaded in models:
        config = repository / loaded.model / "config.pbtxt"
        told = config.read_text(encoding="utf-8")
        config.write_text(SLO.sub(rf"\g<1>{loaded.slo_ms:g}", told), encoding="utf-8")


def forget_measurements(repository: Path, names: Iterable[str]) -> None:
    """Has models measured alone again at their next start: the last time the machine may have been busy."""
    for name in names:
        for kept in (repository / name).glob("*/.cotenant-profile-*.json"):
            kept.unlink()
