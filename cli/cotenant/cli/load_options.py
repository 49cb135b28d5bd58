"""What `cotenant load` is asked to do: its flags, and the load of each model."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

_EPILOG = """\
Each --model is NAME or NAME:key=value,... with these keys:
  rate         requests per second (default: --rate)
  slo_ms       answers within this count as in time (default: the model's own SLO; without one, any answer is in time)
  timeout_ms   budget told to the server, which may refuse what cannot meet it (default: slo_ms, if it was given here)
  deadline_ms  the client gives up after this, a gRPC deadline (default: none)
  batch        items in a request (default: 1)
  priority     1 is the most urgent; 0 leaves it to the model (default: 0)
  version      version of the model (default: the latest)
  tenant       whose requests they are (default: nobody's); a model may be named once for each tenant

examples:
  cotenant load --model identity:rate=200,slo_ms=20
  cotenant load --model minilm:rate=30,slo_ms=80 --model resnet:rate=5 --samples models --explain 1 --json load.json
  cotenant load --models-from models --rate 20 --rate-scale 0.5 --cv 3
  cotenant load --model minilm --trace arrivals.csv

Latency counts from the instant at which a request was meant to be sent, whether or not the sender kept up; how far it
fell behind is reported. docs/load.md describes the JSON file.
"""


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """The load of one model; durations in ms. None stands for what the flags did not say."""

    name: str
    version: str = ""
    rate: float | None = None
    slo_ms: float | None = None
    timeout_ms: float | None = None
    deadline_ms: float | None = None
    batch: int = 1
    priority: int = 0
    tenant: str = ""

    @property
    def label(self) -> str:
        """How results call it: the model's name, with the tenant's where there is one."""
        return f"{self.name}@{self.tenant}" if self.tenant else self.name

    @property
    def told_timeout_ms(self) -> float:
        """The budget told to the server; 0 for none."""
        return self.timeout_ms if self.timeout_ms is not None else self.slo_ms or 0.0


_PARSERS = {
    "version": str,
    "rate": float,
    "slo_ms": float,
    "timeout_ms": float,
    "deadline_ms": float,
    "batch": int,
    "priority": int,
    "tenant": str,
}


def model_load(text: str) -> ModelLoad:
    """Reads `NAME:key=value,...`. Raises ArgumentTypeError that names the key and what it may be."""
    name, _, rest = text.partition(":")
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} has no name, expected NAME:key=value,...")
    values: dict[str, str | float | int] = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        if key not in _PARSERS:
            raise argparse.ArgumentTypeError(f"model '{name}': there is no key {key!r}, expected {', '.join(_PARSERS)}")
        kind = _PARSERS[key]
        try:
            number = kind(value)
        except ValueError as error:
            wanted = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"model '{name}': {key} is {value!r}, expected {wanted}") from error
        if not isinstance(number, str) and not (1 if key == "batch" else 0) <= number < 1e12:
            raise argparse.ArgumentTypeError(f"model '{name}': {key} is {value}, which is out of range")
        values[key] = number
    return replace(ModelLoad(name), **values)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """All of it."""

    models: tuple[ModelLoad, ...]
    url: str
    client: str
    duration_s: float | None  # None: 10 s, or the whole trace
    warmup_s: float
    drain_s: float
    wait_s: float
    seed: int
    rate: float
    rate_scale: float
    cv: float
    trace: Path | None
    samples: Path | None
    explain: float
    json: Path | None
    table: bool


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    p = argparse.ArgumentParser(
        prog="cotenant load",
        description="Sends an open-loop load and tells who was answered in time.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--model", type=model_load, action="append", default=[], metavar="NAME:...", help="see below")
    p.add_argument("--models-from", type=Path, metavar="DIR", help="load every model of this repository as well")
    p.add_argument("--url", default="localhost:8001", help="server, host:port or unix:path (default: localhost:8001)")
    p.add_argument("--duration-s", type=float, metavar="S", help="time that counts (default: 10, or the whole trace)")
    p.add_argument("--warmup-s", type=float, default=1.0, metavar="S", help="load before it, not counted (default: 1)")
    p.add_argument("--drain-s", type=float, default=30.0, metavar="S", help="wait for the last answers (default: 30)")
    p.add_argument("--wait-s", type=float, default=10.0, metavar="S", help="wait for models to be ready (default: 10)")
    p.add_argument("--seed", type=int, default=0, help="of arrivals and inputs (default: 0)")
    p.add_argument("--rate", type=float, default=10.0, help="requests/s of models that name none (default: 10)")
    p.add_argument("--rate-scale", type=float, default=1.0, metavar="X", help="multiplies all rates, speeds up a trace")
    p.add_argument("--cv", type=float, default=1.0, help="of the gaps: 1 Poisson, above bursty, 0 even (default: 1)")
    p.add_argument("--trace", type=Path, metavar="FILE", help="send at these instants: lines of seconds[,model]")
    p.add_argument("--samples", type=Path, metavar="DIR", help="repository whose NAME/samples.npz are the inputs")
    p.add_argument("--explain", type=float, default=0.0, metavar="SHARE", help="of requests to ask for explanations")
    p.add_argument("--client", choices=("grpc", "tritonclient"), default="grpc", help="who sends (default: grpc)")
    p.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    p.add_argument("--no-table", dest="table", action="store_false", help="print no table")
    return p


def options(argv: Sequence[str] | None) -> LoadOptions:
    """Reads the flags. Exits with a usage message where something is wrong with them."""
    p = parser()
    a = p.parse_args(argv)
    models: list[ModelLoad] = list(a.model)
    if a.models_from:
        if not a.models_from.is_dir():
            p.error(f"--models-from: there is no folder {a.models_from}")
        named = {model.name for model in models}
        models += [ModelLoad(name) for name in _names_in(a.models_from) if name not in named]
    names = [model.label for model in models]
    if not names:
        p.error("there is no model to load: give --model or --models-from")
    if len(set(names)) < len(names):
        p.error(f"--model: {max(names, key=names.count)} is named twice")
    for flag in ("duration_s", "rate_scale"):
        if getattr(a, flag) is not None and not 0 < getattr(a, flag) < 1e7:
            p.error(f"--{flag.replace('_', '-')} must be above 0")
    for flag in ("warmup_s", "drain_s", "wait_s", "cv", "rate"):
        if not 0 <= getattr(a, flag) < 1e7:
            p.error(f"--{flag.replace('_', '-')} must not be below 0")
    if not 0 <= a.explain <= 1:
        p.error("--explain is a share, from 0 to 1")
    samples = a.samples or a.models_from
    return LoadOptions(
        tuple(models), a.url, a.client, a.duration_s, a.warmup_s, a.drain_s, a.wait_s, a.seed, a.rate, a.rate_scale,
        a.cv, a.trace, samples, a.explain, a.json, a.table,
    )  # fmt: skip


def _names_in(repository: Path) -> list[str]:
    """Folders that look like models: they hold a configuration or a version."""
    folders = sorted(p for p in repository.iterdir() if p.is_dir() and not p.name.startswith("."))
    return [p.name for p in folders if (p / "config.pbtxt").exists() or any(v.name.isdigit() for v in p.iterdir())]
