"""Logs of the sets in workloads.toml: from the simulator, or from a stack that serves real models on a CPU or GPU."""

import asyncio
import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from cotenant.cli.stack import Stack, StackOptions
from cotenant.executor.emulated_gpu import LAUNCH_GAP_NS, personalities
from cotenant.scheduler import events as ev
from cotenant.scheduler.simulate import SimulatedModel, Simulation, SimulationOutcome

SETS = ("train", "test1", "test2", "test3")
PATIENCE = 10_000  # the SLO, in solo times: nothing is ever refused


@dataclass(frozen=True)
class ModelSet:
    """A set of models, how the load is divided among them, and the loads."""

    models: tuple[str, ...]
    shares: tuple[float, ...]
    loads: tuple[float, ...]


def sets(path: Path, device: str) -> dict[str, ModelSet]:
    """The sets for a device ("emulated", "cpu" or "cuda")."""
    found = tomllib.loads(path.read_text(encoding="utf-8"))[device]
    return {name: ModelSet(*(tuple(found[name][key]) for key in ("models", "shares", "loads"))) for name in SETS}


def settings(path: Path, device: str) -> dict[str, Any]:
    """Everything else that the file fixes for a device."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    return {**{k: v for k, v in document.items() if not isinstance(v, dict)}, **document[device]}


# ---- emulated


def solo_ns(model: str) -> float:
    """Time of one item alone, without noise."""
    kernels = personalities()[model].kernels(1)
    return sum(kernel.duration_ns for kernel in kernels) + LAUNCH_GAP_NS * len(kernels)


class Foretold(Simulation):
    """A simulation that asks, at each launch, a forecaster that knows the device's law but not who comes later."""

    def __init__(self, models: Sequence[SimulatedModel], **how: Any) -> None:
        super().__init__(models, **how)
        self.foretold_ns: dict[int, float] = {}  # by batch
        self.errors: list[tuple[float, float]] = []  # (foretold, actual) durations in ns

    def _start(self, device: Any, batch: ev.Batch, at_ns: int) -> None:
        kernels = personalities()[batch.batch_class.model].kernels(batch.batch_class.batch_size)
        self.foretold_ns[batch.batch_id] = device.device.gpu.foretell(at_ns, kernels)
        super()._start(device, batch, at_ns)

    def _note(self, event: ev.Event, outcome: SimulationOutcome) -> None:
        super()._note(event, outcome)
        if isinstance(event, ev.BatchFinished):
            self.errors.append((self.foretold_ns.pop(event.batch_id), event.duration_ns))


def simulate(
    chosen: ModelSet, folder: Path, *, law: str, concurrency: int, seed: int, seconds: float, max_batch_size: int
) -> list[Path]:
    """One log per load."""
    logs = []
    for i, load in enumerate(chosen.loads):
        log = folder / f"load{i}"
        models = [
            SimulatedModel(
                name, name, load * share * 1e9 / solo_ns(name), round(PATIENCE * solo_ns(name)), max_batch_size
            )
            for name, share in zip(chosen.models, chosen.shares, strict=True)
        ]
        simulation = Foretold(models, concurrency=concurrency, seed=seed * 100 + i, record=log, law=law)
        simulation.run(round(seconds * 1e9))
        (folder / f"foretold{i}.json").write_text(json.dumps(simulation.errors), encoding="utf-8")
        logs.append(log)
    return logs


# ---- this CPU, or a GPU


def serve(
    chosen: ModelSet,
    folder: Path,
    repository: Path,
    *,
    concurrency: int,
    seed: int,
    seconds: float,
    port: int,
    device: str = "cpu",
) -> list[Path]:
    """One log per load, of a stack that is started for each; models that are not of the set are not loaded."""
    return [
        asyncio.run(
            _serve_one(
                chosen, load, folder / f"load{i}", repository, concurrency, seed * 100 + i, seconds, port, device
            )
        )
        for i, load in enumerate(chosen.loads)
    ]


async def _serve_one(
    chosen: ModelSet,
    load: float,
    log: Path,
    repository: Path,
    concurrency: int,
    seed: int,
    seconds: float,
    port: int,
    device: str,
) -> Path:
    own = link(log.parent / f"{log.name}-models", chosen.models, repository)
    options = observing(own, log, concurrency=concurrency, port=port, device=device)
    async with Stack(options) as stack:
        await stack.models_settled(120)
        await offer(stack.url, rates(chosen, load, own), repository, seed=seed, seconds=seconds)
    return log


def link(own: Path, models: Sequence[str], repository: Path) -> Path:
    """A repository of some of another's models."""
    own.mkdir(parents=True, exist_ok=True)
    for model in models:
        if not (own / model).exists():
            (own / model).symlink_to((repository / model).resolve())
    return own


def observing(repository: Path, log: Path, *, concurrency: int, port: int, device: str) -> StackOptions:
    """A stack that refuses nothing and records."""
    return StackOptions(
        repository,
        log.parent / f"{log.name}-run",
        devices=(device,),
        port=port,
        metrics=False,
        sockets=True,
        record=str(log),
        observe_only=True,
        extra={"executor": (f"--concurrency={concurrency}", "--threads-per-batch=1")},
    )


def rates(chosen: ModelSet, load: float, own: Path) -> dict[str, float]:
    """Requests per second of each model of a set, of solo times that an executor kept beside the models."""
    return {
        model: load * share * 1e9 / measured_ns(own / model)
        for model, share in zip(chosen.models, chosen.shares, strict=True)
    }


async def offer(
    url: str,
    rates_per_s: Mapping[str, float],
    repository: Path,
    *,
    seed: int,
    seconds: float,
    flags: Sequence[str] = (),
) -> None:
    """Sends a Poisson load of samples; more flags of `cotenant load` count more than these. Raises RuntimeError."""
    command = ["--url", url, *(f"--model={model}:rate={rate:.3f}" for model, rate in rates_per_s.items())]
    command += ["--samples", str(repository), "--seed", str(seed), "--no-table"]
    command += ["--duration-s", str(seconds), "--warmup-s", "1", "--drain-s", "60", *flags]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "cotenant.cli", "load", *command)
    if await process.wait() not in (0, 1):
        raise RuntimeError(f"the load ended with status {process.returncode}")


def measured_ns(model: Path) -> float:
    """Solo time of one item, mean over shape buckets, as the executor kept it beside the model."""
    kept = max((model / "1").glob(".cotenant-profile-*.json"), key=lambda path: path.stat().st_mtime)
    return fmean(row["work_ns"] for row in json.loads(kept.read_text(encoding="utf-8")) if row["batch_size"] == 1)
