"""`cotenant simulate`: policies in a world of models, load and devices, in virtual time."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from cotenant.cli import machine, simulate_plots, simulate_table, simulate_timeline
from cotenant.cli.simulate_sweep import Sweep, run
from cotenant.scheduler.policies import POLICIES
from cotenant.scheduler.simulation import search, world
from cotenant.scheduler.simulation.building import Setting
from cotenant.scheduler.simulation.search import Found
from cotenant.scheduler.simulation.study import Extras, Row, Study
from cotenant.scheduler.simulation.world import CLAIRVOYANT, World

_EPILOG = f"""\
A policy is one of {", ".join(POLICIES)}
or '{CLAIRVOYANT}', a bound that no policy exceeds. NAME:PREDICTOR runs it with a learner of its own, with the true
rates ('edf:true'), or with solo times alone ('edf:solo').

examples:
  cotenant simulate examples/worlds/four-models.toml
  cotenant simulate WORLD.toml --policy edf,exclusive-fifo,{CLAIRVOYANT} --rates 0.5,1,2 --seeds 3 --out study
  cotenant simulate WORLD.toml --policy edf,edf:true --find-rate 0.99
  cotenant simulate WORLD.toml --policy edf --seeds 1 --seconds 5 --record log --timeline 1:1.2
docs/simulate.md tells the format of worlds, and what is simulated.
"""


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    p = argparse.ArgumentParser(
        prog="cotenant simulate",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_world(p)
    p.add_argument("--rates", type=_numbers, default=(), metavar="R,...", help="multiples of the world's rates")
    p.add_argument("--cvs", type=_numbers, default=(), metavar="CV,...", help="burstiness of all arrivals")
    p.add_argument("--slo-scales", type=_numbers, default=(), metavar="S,...", help="multiples of the world's SLOs")
    p.add_argument("--devices", type=_numbers, default=(), metavar="N,...", help="numbers of devices")
    p.add_argument("--find-rate", type=float, metavar="SHARE", help="the highest rate at which so many are in time")
    p.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="simulations at once, each in a process (default: 1)"
    )
    p.add_argument("--out", type=Path, metavar="FOLDER", help="write result.json and plots (SVG)")
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    p.add_argument("--record", type=Path, metavar="FILE", help="write the log of the simulation, if there is only one")
    p.add_argument(
        "--timeline", type=_stretch, metavar="FROM:TO", help="draw who ran beside whom, in s; only one as well"
    )
    p.add_argument("--timed", action="store_true", help="measure the share of the core in the CPU time")
    return p


def add_world(p: argparse.ArgumentParser) -> None:
    """The flags that say what world it is."""
    p.add_argument("world", type=Path, metavar="WORLD.toml")
    p.add_argument("--policy", metavar="A,B,...", help="default: the world's")
    p.add_argument("--predictor", metavar="NAME", help="default: the world's")
    p.add_argument("--kind", choices=[world.KERNELS, world.PHASES], help="how devices are simulated")
    p.add_argument("--seconds", type=float, metavar="S", help="of arrivals; default: the world's")
    p.add_argument("--seeds", type=int, metavar="N", help="runs with other arrivals and noise; default: the world's")


def changed(a: argparse.Namespace) -> World:
    """The world of a file, with what flags say instead. Raises ValueError or OSError that name file and field."""
    found = world.read(a.world)
    told: dict[str, Any] = {}
    if a.policy:
        told["policy"] = tuple(name.strip() for name in a.policy.split(",") if name.strip())
    for name in ("predictor", "seconds", "seeds"):
        if getattr(a, name) is not None:
            told[name] = getattr(a, name)
    if a.kind:
        told["devices"] = msgspec.structs.replace(found.devices, kind=a.kind)
    found = msgspec.structs.replace(found, **told)
    world.check(found)
    return found


def _numbers(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected numbers separated by commas, got '{text}'") from error
    if not all(0.0 < number < float("inf") for number in found):
        raise argparse.ArgumentTypeError(f"expected numbers above 0, got '{text}'")
    return found


def _stretch(text: str) -> tuple[float, float]:
    try:
        begin_s, end_s = (float(part) for part in text.split(":"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected FROM:TO in s, got '{text}'") from error
    if not 0.0 <= begin_s < end_s:
        raise argparse.ArgumentTypeError(f"expected FROM before TO, got '{text}'")
    return begin_s, end_s


@dataclass(frozen=True)
class _Result:
    rows: list[Row]
    found: list[Found]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 where the world is not what it should be."""
    a = parser().parse_args(argv)
    try:
        told = changed(a)
        result = _searched(told, a) if a.find_rate else _swept(told, a)
        if a.out:
            a.out.mkdir(parents=True, exist_ok=True)
            (a.out / "result.json").write_bytes(_document(told, result) + b"\n")
            simulate_plots.write(result.rows, a.out)
    except (OSError, ValueError) as error:
        print(f"cotenant simulate: {error}", file=sys.stderr)
        return 1
    if a.json:
        print(_document(told, result).decode())
    elif result.found:
        simulate_table.show_found(Console(), result.found, "rate")
    else:
        simulate_table.show(Console(), result.rows)
    return 0


def _document(told: World, result: _Result) -> bytes:
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "world": told,
        "rows": result.rows,
        "found": result.found,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1)


def _swept(told: World, a: argparse.Namespace) -> _Result:
    sweep = Sweep(told, a.rates, a.cvs, a.slo_scales, tuple(round(n) for n in a.devices))
    if not (a.record or a.timeline):
        return _Result(run(sweep, a.jobs, timed=a.timed), [])
    if len(tasks := sweep.tasks()) != 1:
        raise ValueError(
            f"--record and --timeline are of one simulation, not of {len(tasks)}: name one --policy, and --seeds 1"
        )
    spans = simulate_timeline.Spans(*(a.timeline or (0.0, 0.0)))
    row = Study(told).run(*tasks[0], extras=Extras(a.record, spans.add if a.timeline else None, a.timed))
    if a.timeline:
        spans.write((a.out or Path()) / "timeline.svg")
    return _Result([row], [])


def _searched(told: World, a: argparse.Namespace) -> _Result:
    if not 0.0 < a.find_rate < 1.0:
        raise ValueError(f"--find-rate: expected a share between 0 and 1, got {a.find_rate:g}")
    study = Study(told)
    console = Console(stderr=True)

    def tried(policy: str, rate: float, attainment: float) -> None:
        if console.is_terminal:
            console.print(f"{policy}: rate {rate:.3g}, {attainment:.2%} in time at most", highlight=False)

    return _Result(
        [],
        [
            search.highest_rate(
                study,
                p,
                a.find_rate,
                told.seeds,
                Setting(),
                lambda rate, share, p=p: tried(p, rate, share),  # type: ignore[misc]
            )
            for p in told.policies
        ],
    )
