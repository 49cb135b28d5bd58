"""The whole stack live under each scheduling policy, at rising load: goodput where 99 % are answered in time.

    python benchmarks/gpu/goodput.py [--device cuda:0|cpu|emulated] [--seconds N] [--out FOLDER] [--resume]
                                     [--policies edf,exclusive-fifo]

Each policy gets a frontend, a scheduler and a predictor of its own, which learns from a first load that does not count;
the executor stays, so models are loaded once. All models carry an equal share of the offered work (rate x solo time of
one item); an SLO is a fixed time for the way there and back and some solo times. The load rises until fewer than 99 %
of what was offered is answered in time, then the highest load that keeps it is searched for between the two, and one
load far beyond is measured, where goodput should not collapse.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import live
from journal import Journal, rows
from live import change_policy, loaded, serving
from recordings import ModelSet, measured_ns, rates
from script import Budget, Options, parsed, parser
from workload import prepare

from cotenant.scheduler.policies import POLICIES

FILE = "goodput.jsonl"
TARGET = 0.99
START, GROWTH, CLOSE, BEYOND = 0.4, 1.6, 1.15, 2.0  # first load, factors: rising, close enough, overload
MOST = 12  # loads of a policy
CONCURRENCY = 4


def next_load(seen: Mapping[float, float]) -> float | None:
    """The load to measure after those whose attainment is known; None if nothing is left to be learned."""
    if not seen:
        return START
    if len(seen) >= MOST:
        return None
    below = max((load for load, attainment in seen.items() if attainment >= TARGET), default=0.0)
    above = min((load for load in seen if load > below), default=0.0)
    if not above:
        return below * GROWTH
    if not below:
        return above / GROWTH if len(seen) < MOST // 2 else None
    if above / below > CLOSE:
        return float((below * above) ** 0.5)
    return above * BEYOND if max(seen) < above * BEYOND * 0.99 else None


def seen_of(journal: Journal, policy: str) -> dict[float, float]:
    """Attainment by load of a policy, so far."""
    return {
        row["load"]: row["attainment"]
        for row in rows(journal.path)
        if row["type"] == "goodput" and row["policy"] == policy
    }


class Measuring:
    """One run."""

    def __init__(self, options: Options, arguments: Any) -> None:
        self._options, self._arguments = options, arguments
        self._repository, self._names = prepare(options)
        how = {"slo_floor_ms": arguments.slo_floor_ms, "slo_solo_times": arguments.slo_solo_times}
        self.journal = options.journal(FILE, benchmark="goodput", target=TARGET, concurrency=CONCURRENCY, **how)
        self._budget = Budget(options.seconds)

    async def measure(self, policies: Sequence[str]) -> None:
        """All policies, or as many as the time allows."""
        missing = [policy for policy in policies if next_load(seen_of(self.journal, policy)) is not None]
        if not missing:
            return
        async with serving(
            self._options, self._repository, self._names, concurrency=CONCURRENCY, policy=missing[0]
        ) as (stack, own):
            for policy in missing:
                if self._budget.left_s <= 0:
                    print(f"time is over; --resume goes on with {policy}")
                    return
                if policy != missing[0]:
                    await change_policy(stack, policy)
                await self._rise(policy, stack, own)
                print(told(policy, self.journal), flush=True)

    async def _rise(self, policy: str, stack: live.Stack, own: Any) -> None:
        solo_ms = {name: measured_ns(own / name) / 1e6 for name in self._names}
        floor, times = self._arguments.slo_floor_ms, self._arguments.slo_solo_times
        slo_ms = {name: floor + times * ms for name, ms in solo_ms.items()}
        chosen = ModelSet(tuple(self._names), (1 / len(self._names),) * len(self._names), ())
        seconds = self._arguments.load_seconds
        await loaded(stack, rates(chosen, START, own), self._repository, seed=0, seconds=seconds, slo_ms=slo_ms)
        while (load := next_load(seen_of(self.journal, policy))) is not None and self._budget.left_s > 0:
            sent = rates(chosen, load, own)
            result = await loaded(stack, sent, self._repository, seed=1, seconds=seconds, slo_ms=slo_ms)
            total = result.total
            row = {"type": "goodput", "policy": policy, "load": load, "offered_per_s": total.offered / seconds}
            row |= {"attainment": total.attainment or 0.0, "goodput_per_s": total.goodput, "late": total.late}
            row |= {"refused": total.refused, "failed": total.failed, "reasons": total.reasons}
            row |= {"lag_p99_ms": result.lag.p99_ms, "slo_ms": slo_ms}
            row["attainment_by_model"] = {one.model: one.attainment for one in result.models}
            self.journal.add(f"{policy}/{load:.4f}", [row])


def told(policy: str, journal: Journal) -> str:
    """What a policy came to."""
    own = [row for row in rows(journal.path) if row["type"] == "goodput" and row["policy"] == policy]
    if not own:
        return f"{policy}: no time for a load"
    kept = [row["goodput_per_s"] for row in own if row["attainment"] >= TARGET]
    most = max(row["goodput_per_s"] for row in own)
    return f"{policy}: goodput {max(kept, default=0.0):.0f}/s at {TARGET:.0%}, {most:.0f}/s at most"


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    p = parser(__doc__, seconds=420.0)
    p.add_argument("--policies", default=",".join(POLICIES), help=f"of {', '.join(POLICIES)} (default: all)")
    p.add_argument("--load-seconds", type=float, default=4.0, help="of each load (default: 4)")
    p.add_argument("--slo-floor-ms", type=float, default=10.0, help="the fixed part of an SLO (default: 10)")
    p.add_argument("--slo-solo-times", type=float, default=5.0, help="solo times on top of it (default: 5)")
    options, arguments = parsed(p, argv)
    policies = arguments.policies.split(",")
    if unknown := [name for name in policies if name not in POLICIES]:
        p.error(f"--policies: there is no {unknown[0]}, expected {', '.join(POLICIES)}")
    try:
        asyncio.run(Measuring(options, arguments).measure(policies))
    except (RuntimeError, TimeoutError, ValueError) as error:
        raise SystemExit(f"goodput: {error}") from error


if __name__ == "__main__":
    main()
