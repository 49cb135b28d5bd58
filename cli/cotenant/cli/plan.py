"""`cotenant plan`: how many devices a world needs, and what it would be with each other policy."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from cotenant.cli import simulate_table
from cotenant.cli.simulate import add_world, changed
from cotenant.scheduler.policies import POLICIES
from cotenant.scheduler.simulation import search
from cotenant.scheduler.simulation.building import Setting
from cotenant.scheduler.simulation.search import Found
from cotenant.scheduler.simulation.study import Study
from cotenant.scheduler.simulation.world import CLAIRVOYANT, KERNELS, LEARNED, MEASURED, World


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    p = argparse.ArgumentParser(prog="cotenant plan", description=__doc__)
    add_world(p)
    p.add_argument("--attainment", type=float, default=0.99, metavar="SHARE", help="in time (default: 0.99)")
    p.add_argument("--rate", type=float, default=1.0, metavar="R", help="multiple of the world's rates (default: 1)")
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    p.add_argument("--out", type=Path, metavar="FILE", help="write the JSON to a file")
    return p


class _Plan(msgspec.Struct, frozen=True):
    attainment: float
    rate: float
    devices: list[Found]
    assumed: list[str]
    world: World


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 where the world is not what it should be."""
    a = parser().parse_args(argv)
    try:
        told = changed(a)
        if not a.policy:
            every = (*told.policies, *(name for name in POLICIES if name not in told.policies), CLAIRVOYANT)
            told = msgspec.structs.replace(told, policy=tuple(dict.fromkeys(every)))
        if not 0.0 < a.attainment < 1.0 or a.rate <= 0.0:
            raise ValueError("--attainment must be a share between 0 and 1, and --rate above 0")
        found = _found(told, a.attainment, Setting(rate=a.rate))
    except (OSError, ValueError) as error:
        print(f"cotenant plan: {error}", file=sys.stderr)
        return 1
    document = msgspec.json.encode(_Plan(a.attainment, a.rate, found, assumed(told), told))
    text = msgspec.json.format(document, indent=1)
    if a.out:
        a.out.parent.mkdir(parents=True, exist_ok=True)
        a.out.write_bytes(text + b"\n")
    if a.json:
        print(text.decode())
    else:
        _show(Console(), told, found, a.attainment)
    return 0


def _found(told: World, target: float, setting: Setting) -> list[Found]:
    console = Console(stderr=True)
    study = Study(told)
    found: list[Found] = []
    for policy in told.policies:
        if console.is_terminal:
            console.print(f"plan: {policy}", highlight=False)
        found.append(search.fewest_devices(study, policy, target, told.seeds, setting, lambda _, __: None))
    return found


def _show(console: Console, told: World, found: Sequence[Found], target: float) -> None:
    console.print(f"devices for {target:.4g} of all requests in time", highlight=False)
    simulate_table.show_found(console, found, "devices")
    for line in assumed(told):
        console.print(f"- {line}", highlight=False, soft_wrap=True)


def assumed(told: World) -> list[str]:
    """What a plan takes for granted."""
    devices = told.devices
    what = {
        MEASURED: f"devices slow batches as {devices.table} says, larger sets by the product of pairs",
        LEARNED: f"devices behave as the estimates at the end of {devices.log} say",
        KERNELS: f"devices are emulated GPUs, kernel by kernel, law '{devices.law}'",
    }.get(devices.kind, f"devices are emulated GPUs, phase by phase, law '{devices.law}'")
    pinned = [model.name for model in told.models if model.devices]
    memory = (
        f"{len(pinned)} of {len(told.models)} entries are on as many devices as they say, placed by load"
        if pinned
        else "every model is loaded on every device: memory is not looked at"
    )
    return [
        f"{what}, at most {devices.concurrency} batches at once; all devices are alike",
        memory,
        f"arrivals as the world says, {told.seconds:g} s, {told.seeds} seed(s); nothing fails, nothing is reloaded",
        "the more devices, the more requests are in time (bisection)",
        f"'{CLAIRVOYANT}' is a bound: with fewer devices no policy could",
    ]
