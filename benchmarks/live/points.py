"""One point: a load sent to a server that is up, and what became of it.

The load generator is `cotenant load`, a process of its own, for every server: an open loop whose arrivals depend on
the seed and on nothing else. An answer counts as in time within the mix's SLO from its intended send time; whatever is
not answered in time, for whatever reason, is a miss. CPU time that neither the server nor the load generator used is
other load, and is kept beside the result: where it is much, the point tells more of the machine than of the server.
"""

import asyncio
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mixes import Mix
from sides import TICKS, Side

from cotenant.cli import load_result

WARMUP_S = 1.0
DRAIN_S = 5.0


@dataclass(frozen=True)
class Point:
    """What is to be measured."""

    mix: str
    side: str
    scale: float
    seed: int
    cv: float = 1.0

    @property
    def key(self) -> str:
        """Its name among the results that are kept."""
        return f"{self.mix}/{self.side}/{self.scale:g}/{self.seed}/{self.cv:g}"


def busy_s() -> float:
    """CPU time that anybody on this machine has used, in s."""
    user, nice, system, _, _, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / TICKS


def flags(point: Point, mix: Mix, side: Side, samples: Path, seconds: float, output: Path) -> list[str]:
    """What `cotenant load` is told."""
    told = [f"--url={side.url}", f"--samples={samples}", f"--json={output}", "--no-table", f"--cv={point.cv:g}"]
    told += [f"--seed={point.seed}", f"--duration-s={seconds:g}", f"--warmup-s={WARMUP_S:g}", f"--drain-s={DRAIN_S:g}"]
    for loaded in mix.models:
        budget = "" if side.told else ",timeout_ms=0"
        rate = loaded.rate * point.scale
        told.append(f"--model={loaded.model}:rate={rate:.6g},slo_ms={loaded.slo_ms:g}{budget}")
    return told


async def send(arguments: list[str]) -> None:
    """Runs the load generator. Raises RuntimeError with its last words where it fails."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cotenant.cli", "load", *arguments, stderr=asyncio.subprocess.PIPE
    )
    _, told = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the load could not be sent: {told.decode(errors='replace').strip()[-500:]}")


async def measure(point: Point, mix: Mix, side: Side, samples: Path, seconds: float, output: Path) -> dict[str, Any]:
    """Sends one point's load, and returns its row; `output` keeps the load generator's own document."""
    began_s, server_s, all_s = time.monotonic(), side.cpu_s(), busy_s()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    await send(flags(point, mix, side, samples, seconds, output))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall_s, server_s = time.monotonic() - began_s, side.cpu_s() - server_s
    client_s = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    row = summary(load_result.read(output))
    sent = (seconds + WARMUP_S) / seconds * row["offered"]
    return {
        **asdict(point),
        **row,
        "seconds": seconds,
        "cpu_us_per_request": server_s / sent * 1e6,
        "client_cores": client_s / wall_s,
        "other_cores": max(0.0, busy_s() - all_s - server_s - client_s) / wall_s,
    }


def summary(result: load_result.LoadResult) -> dict[str, Any]:
    """What is kept of a load's document."""
    total = result.total
    told = ("offered", "in_time", "late", "refused", "failed", "cancelled", "attainment", "goodput", "statuses")
    return {
        **{name: getattr(total, name) for name in told},
        "p50_ms": total.latency.p50_ms if total.latency else None,
        "p99_ms": total.latency.p99_ms if total.latency else None,
        "sent_late_p99_ms": result.lag.p99_ms,
        "attainment_by_model": {model.model: model.attainment for model in result.models},
    }
