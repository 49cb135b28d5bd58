"""The simulation of a live run, from its record: its arrivals, the law that was learned, the delays that were observed.

It is what `cotenant simulate` would do with the world written here as `world.json`. Requests arrive when their clients
meant to send them.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from configurations import Configuration

from cotenant.cli import load_result, report_log
from cotenant.scheduler.simulation.building import Setting
from cotenant.scheduler.simulation.near import Seen
from cotenant.scheduler.simulation.observed_delays import ObservedDelays
from cotenant.scheduler.simulation.study import Study
from cotenant.scheduler.simulation.world import ArrivalsTable, DelaysTable, DevicesTable, ModelTable, World, check

DELAYS = ("arrive", "order", "report", "answer", "told")


def world(configuration: Configuration, folder: Path, seconds: float) -> World:
    """The world of a run whose `log` and `load.json` lie in `folder`."""
    (device,) = report_log.read(folder / "log").devices.values()
    sent = {model.model for model in load_result.read(folder / "load.json").models if model.offered}
    found = World(
        tuple(
            ModelTable(loaded.model, slo_ms=loaded.slo_ms) for loaded in configuration.models if loaded.model in sent
        ),
        seconds=seconds,
        policy=configuration.policy,
        devices=DevicesTable(kind="learned", log="log", concurrency=device.max_concurrency),
        arrivals=ArrivalsTable(kind="trace", format="load", file="load.json", speed=1.0),
        delays=DelaysTable(log="log", load="load.json"),
        folder=str(folder),
    )
    check(found)
    return found


def simulate(configuration: Configuration, folder: Path, seconds: float, seeds: Iterable[int]) -> dict[str, Any]:
    """Runs it with several seeds of noise and delays."""
    told = world(configuration, folder, seconds)
    (folder / "world.json").write_bytes(msgspec.json.encode(told))
    study = Study(told)
    rows = [study.run(configuration.policy, Setting(), seed) for seed in seeds]
    kept = ("seed", "attainment", "late", "refused", "dropped", "batches", "co_runners", "forecast_error")
    assert isinstance(study.delays, ObservedDelays)
    return {
        "runs": [{name: getattr(row, name) for name in kept} for row in rows],
        "delays": {name: _quantiles(getattr(study.delays, name)) for name in DELAYS},
    }


def _quantiles(seen: tuple[Seen[int], ...]) -> dict[str, float]:
    """Median and 95th percentile of delays, in ms."""
    delays = sorted(one.value / 1e6 for one in seen) or [0.0]
    return {"p50_ms": delays[len(delays) // 2], "p95_ms": delays[int(0.95 * (len(delays) - 1))]}
