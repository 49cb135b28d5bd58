"""What fairness between tenants is worth: one floods a device and the other is served, with and without it.

    python benchmarks/tenants.py [--policies goodput,edf] [--rates 0.5,1,2] [--seconds 10] [--seeds 3] [--output FILE]

The world is examples/worlds/tenants.toml. Without fairness the order is that of urgency alone, whoever's a request is.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec
from common import save

from cotenant.scheduler.simulation import world
from cotenant.scheduler.simulation.building import Setting
from cotenant.scheduler.simulation.study import Row, Study
from cotenant.scheduler.simulation.world import World

WORLD = Path(__file__).parent.parent / "examples" / "worlds" / "tenants.toml"
ENDLESS_TURN_MS = 1e9  # nobody is ever ahead


def compared(told: World, policy: str, rate: float, seeds: int) -> list[dict[str, Any]]:
    """A row with fairness and one without."""
    found = []
    for fair in (False, True):
        study = Study(told if fair else msgspec.structs.replace(told, fair_turn_ms=ENDLESS_TURN_MS))
        rows = [study.run(policy, Setting(rate=rate), seed) for seed in range(seeds)]
        found.append(
            {
                "policy": policy,
                "rate": rate,
                "fair": fair,
                "offered_per_s": fmean(r.offered for r in rows) / told.seconds,
            }
            | {"goodput_per_s": fmean(row.goodput_per_s for row in rows)}
            | {tenant.tenant: _seen(rows, tenant.tenant) for tenant in rows[0].tenants}
        )
    return found


def _seen(rows: Sequence[Row], name: str) -> dict[str, float]:
    told = [tenant for row in rows for tenant in row.tenants if tenant.tenant == name]
    shares = [tenant.in_time / tenant.offered for tenant in told]
    return {
        "in_time": fmean(shares),
        "least": min(shares),
        "most": max(shares),
        "late": sum(tenant.late for tenant in told) / sum(tenant.offered for tenant in told),
        "work_share": fmean(tenant.work_share or 0.0 for tenant in told),
    }


def main() -> None:
    """Prints a table, and writes it with the machine it was taken on."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--policies", default="goodput,edf")
    p.add_argument("--rates", default="0.5,1,2")
    p.add_argument("--seconds", type=float, default=10.0)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--output", type=Path)
    a = p.parse_args()
    told = msgspec.structs.replace(world.read(WORLD), seconds=a.seconds)
    rows: list[dict[str, Any]] = []
    for policy in a.policies.split(","):
        for rate in map(float, a.rates.split(",")):
            rows += compared(told, policy, rate, a.seeds)
            for row in rows[-2:]:
                print(json.dumps(row), flush=True)
    save("tenants", rows, path=a.output, seconds=a.seconds, seeds=a.seeds)


if __name__ == "__main__":
    main()
