"""What a decision costs: CPU time of the core alone, one event at a time, in rolls of a set of five batches.

    python benchmarks/decisions.py [--devices 8] [--models 50] [--running 4] [--queued 100] [--policies edf,goodput]
    python benchmarks/decisions.py --grow        the same with more models, more devices, and phases

Every device serves every model, runs as many batches as it may, and has so many requests waiting. Batches end when the
core's own books say so, and for each that ends as many requests arrive as it answered, so queues stay as long as they
are. A roll is what the cost is measured in: five batches rolled forward to their ends with what a prediction knows
already (`cotenant.runtime.rolling`), timed in the same run between the events. Times are CPU times of the thread, so
that other load delays nothing that is measured; what it does to caches remains.
"""

import argparse
import random
from itertools import product
from time import thread_time_ns
from typing import Any

from common import median, percentile, save

from cotenant.runtime import rolling
from cotenant.runtime.estimates import BatchClass, ClassEstimate, EstimateTable, Phase, QuantileFactor
from cotenant.scheduler import events as ev
from cotenant.scheduler.core import Core, CoreConfig
from cotenant.scheduler.policies import POLICIES

MS = 1_000_000
RESOURCES = ("sm", "l2", "dram")
BATCH_SIZES = (1, 2, 4, 8)
SLO_NS = 4_000 * MS  # nothing is refused: what is measured is queues of this length
LEVEL = 0.95
GROWN_MODELS, GROWN_DEVICES = (25, 100, 200), (4, 16, 32)


def estimates(models: int, phases: int, seed: int) -> list[ClassEstimate]:
    """Classes of plausible demands; work of 2 to 20 ms for one item."""
    noise = random.Random(seed)
    found = []
    for number in range(models):
        work_ns = noise.uniform(2, 20) * MS
        demand = [noise.uniform(0.1, 0.8) for _ in RESOURCES]
        for size in BATCH_SIZES:
            larger = tuple(min(1.0, d * (1 + 0.1 * size)) for d in demand)
            told = tuple(
                Phase((i + 1) / phases, tuple(min(1.0, d * noise.uniform(0.7, 1.3)) for d in larger), 50_000.0)
                for i in range(phases)
            )
            weights = (0.01, 0.02, 0.02, 0.02, 0.33, 0.33, 0.33, 0.05, 0.05, 0.05, 0.2, 0.0)
            quantiles = tuple(QuantileFactor(LEVEL, 1.05 + 0.05 * n, n) for n in range(4))
            found.append(
                ClassEstimate(
                    BatchClass(f"m{number}", "1", size),
                    int(work_ns * (0.4 + 0.6 * size)),
                    larger,
                    weights,
                    quantiles=quantiles,
                    kernel_ns=50_000.0,
                    phases=told if phases > 1 else (),
                )
            )
    return found


class World:
    """A core, and what happens to it."""

    def __init__(self, arguments: argparse.Namespace, policy: str) -> None:
        self.noise = random.Random(arguments.seed)
        self.core = Core(CoreConfig(policy=policy, level=LEVEL), POLICIES[policy](LEVEL))
        self.models, self.now_ns, self.number = arguments.models, 1_000_000_000, 0
        known = estimates(arguments.models, arguments.phases, arguments.seed)
        specs = tuple(ev.ModelSpec(f"m{i}", "1", 8, batching=True) for i in range(arguments.models))
        started: list[ev.Event] = []
        for i in range(arguments.devices):
            device = ev.DeviceSpec(f"gpu-{i}", "emulated", "simulated", 2**34, arguments.running, RESOURCES)
            started.append(ev.DeviceJoined(device, 1, specs, (2**20,) * len(specs)))
            started.append(ev.EstimatesPushed(device.device_id, 1, classes=tuple(known), complete=True))
        self.core.handle(self.now_ns, started)
        self.running: dict[int, tuple[str, ev.Batch, int]] = {}

    def arrival(self) -> ev.RequestArrived:
        """One request of one item for any model."""
        self.number += 1
        model = f"m{self.noise.randrange(self.models)}"
        return ev.RequestArrived(
            ev.Request(self.number, 1, model, "1", 1, self.now_ns, self.now_ns + self.noise.randint(SLO_NS, 2 * SLO_NS))
        )

    def step(self, event: ev.Event) -> int:
        """Lets the core decide on an event; what that took, in ns."""
        began = thread_time_ns()
        actions = self.core.handle(self.now_ns, [event])
        took = thread_time_ns() - began
        for action in actions:
            if isinstance(action, ev.Launch):
                self.running[action.batch.batch_id] = action.device_id, action.batch, self.now_ns
        return took

    def finish(self) -> ev.BatchFinished:
        """The batch that ends next, by the books, ends."""
        ends = []
        for device in self.core.devices.values():
            for batch_id, offset in zip(device.running, device.finish_offsets(), strict=True):
                ends.append((max(self.now_ns, device.updated_ns + offset), batch_id))
        self.now_ns, batch_id = min(ends)
        device_id, batch, began_ns = self.running.pop(batch_id)
        return ev.BatchFinished(
            device_id,
            batch_id,
            self.now_ns,
            began_ns,
            self.now_ns - began_ns,
            batch.batch_class,
            forecast=batch.forecast,
        )


def roll_ns(known: list[ClassEstimate], seed: int, times: int = 200) -> float:
    """What rolling a set of five batches takes: the median over sets."""
    table, noise = EstimateTable(), random.Random(seed)
    table.update(known, (), complete=True)
    took = []
    for _ in range(times):
        five = [noise.choice(known) for _ in range(5)]
        stages = [(table.mean(one.batch_class),) for one in five]
        works = [float(one.work_ns) for one in five]
        left = [work * noise.random() for work in works]
        rolling.finish_offsets(table.rates, stages, works, left)
        began = thread_time_ns()
        rolling.finish_offsets(table.rates, stages, works, left)
        took.append(thread_time_ns() - began)
    return median(took)


def measure(arguments: argparse.Namespace, policy: str) -> dict[str, Any]:
    """One policy: costs of arrivals and of ends."""
    world = World(arguments, policy)
    for _ in range(arguments.devices * (arguments.queued + arguments.running * 4)):
        world.step(world.arrival())
    known = estimates(arguments.models, arguments.phases, arguments.seed)
    rolls, costs = [roll_ns(known, 1)], {"arrival": [], "end": []}
    wanted = len(world.core.waiting)
    for number in range(arguments.events):
        if len(world.core.waiting) < wanted:
            costs["arrival"].append(world.step(world.arrival()))
        else:
            costs["end"].append(world.step(world.finish()))
        if number % (arguments.events // 4) == 0:
            rolls.append(roll_ns(known, number))
    roll = median(rolls)
    every = [one for took in costs.values() for one in took]
    told = {}
    for kind, took in costs.items():
        told |= {f"{kind}_median_us": median(took) / 1e3, f"{kind}_p99_us": percentile(took, 0.99) / 1e3}
    return {
        "policy": policy,
        **{key: getattr(arguments, key) for key in ("devices", "models", "running", "queued", "phases")},
        "waiting": wanted,
        "roll_us": roll / 1e3,
        **told,
        "mean_us": sum(every) / len(every) / 1e3,
        "p99_rolls": percentile(every, 0.99) / roll,
        "events": {kind: len(took) for kind, took in costs.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("devices", 8), ("models", 50), ("running", 4), ("queued", 100), ("phases", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--events", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--policies", default="goodput,edf")
    parser.add_argument("--grow", action="store_true")
    arguments = parser.parse_args()
    rows = []
    points: list[dict[str, int]] = [{}]
    if arguments.grow:
        points += [{"models": n} for n in GROWN_MODELS] + [{"devices": n} for n in GROWN_DEVICES] + [{"phases": 4}]
    for policy, point in product(arguments.policies.split(","), points):
        rows.append(measure(argparse.Namespace(**{**vars(arguments), **point}), policy))
        row = rows[-1]
        print({key: round(value, 1) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
    print(f"\nraw results in {save('decisions', rows)}")


if __name__ == "__main__":
    main()
