"""Six and ten tenants of one RTX 3080, foretold from two and from six: by which law do delays add up?

    python benchmarks/interference/tenants.py DATA/disb

The data set (DISB) tells mean latencies of clients, alone and together, under TensorRT, Triton and TF-Serving. There
is no timeline: steady state is assumed. A client that sends at a rate is taken to be present for throughput x latency
of the time (Little's law), independently of the others; one that sends without pause always. Who was seen beside few
is taken to be delayed by each further tenant as by the mean of those it met, for 2 tenants tell of two models alone.
"""

import argparse
import csv
import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cotenant.predictor import learners
from cotenant.predictor.observations import Observation, Profile, Slice
from cotenant.runtime.estimates import BatchClass

HERE = Path(__file__).resolve().parent
COMMAND = "python benchmarks/interference/tenants.py DATA/disb"  # without where the data lies here
FRAMEWORKS = ("trt", "triton", "tfs")
TWO, SIX, TEN = ("A", "B"), ("C",), ("D", "E", "REAL")
REPEATS = 30  # batches that a learner sees for each client
DRAWS = 60  # slices that stand for the sets that a client meets
RESOURCES = 3
DEMANDS: Mapping[str, tuple[float, ...]] = {"fluid, no profile": (), "fluid, half of everything": (0.5,) * RESOURCES}


@dataclass(frozen=True)
class Client:
    """A tenant beside others; latencies in us."""

    framework: str
    workload: str
    model: str
    solo_us: float
    latency_us: float
    present: float  # share of the time

    @property
    def slowdown(self) -> float:
        """Over its own solo latency in the same campaign."""
        return self.latency_us / self.solo_us


def read(path: Path) -> list[Client]:
    """All clients."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        Client(
            row["framework"],
            row["workload"],
            row["client"].rpartition("_")[0],
            float(row["standalone_total_us"]),
            float(row["avg_total_us"]),
            min(1.0, float(row["throughput_rps"]) * float(row["avg_total_us"]) / 1e6),
        )
        for row in rows
    ]


def beside(client: Client, clients: Sequence[Client]) -> list[Client]:
    """Whom a client shares the GPU with."""
    return [c for c in clients if (c.framework, c.workload) == (client.framework, client.workload) and c is not client]


# ---- laws of one number per victim: what each neighbour costs, and what n of them cost

LAWS: Mapping[str, tuple[Callable[[float, float], float], Callable[[float, float], float]]] = {
    "delays add up": (lambda s, n: (s - 1) / n, lambda x, n: 1 + x * n),
    "slowdowns multiply": (lambda s, n: math.log(s) / n, lambda x, n: math.exp(x * n)),
    "rates lose": (lambda s, n: (1 - 1 / s) / n, lambda x, n: 1 / max(0.02, 1 - x * n)),
    "delays saturate (root of n)": (lambda s, n: (s - 1) / math.sqrt(n), lambda x, n: 1 + x * math.sqrt(n)),
    "the first neighbour's cost, for all": (lambda s, _: s, lambda x, _: x),
    "equal shares (n + 1)": (lambda _s, _n: 1.0, lambda _x, n: 1 + n),
    "ignore": (lambda _s, _n: 1.0, lambda _x, _n: 1.0),
}


def by_law(name: str, train: Sequence[Client], test: Sequence[Client], clients: Sequence[Client]) -> list[float]:
    """Slowdowns of `test`, each model's cost of a neighbour being the mean of what `train` tells."""
    cost, slowdown = LAWS[name]
    told: dict[str, list[float]] = defaultdict(list)
    for one in train:
        told[one.model].append(cost(max(1.0, one.slowdown), number(one, clients)))
    return [max(1.0, slowdown(float(np.mean(told[one.model])), number(one, clients))) for one in test]


def number(client: Client, clients: Sequence[Client]) -> float:
    """Mean number of neighbours that are present."""
    return sum(other.present for other in beside(client, clients))


# ---- our learner


def by_learner(name: str, train: Sequence[Client], test: Sequence[Client], clients: Sequence[Client]) -> list[float]:
    """Slowdowns of `test` as our learner explains them."""
    learner = learners.make("fluid", RESOURCES)
    for one in (*train, *test, *(other for chosen in test[:1] for other in beside(chosen, clients))):
        learner.learn_profile(Profile(_class(one.model), round(one.solo_us * 1e3), DEMANDS[name]))
    order = [one for one in train for _ in range(REPEATS)]
    random.Random(0).shuffle(order)
    for one in order:
        learner.learn_profile(Profile(_class(one.model), round(one.solo_us * 1e3), DEMANDS[name]))
        duration_ns = round(one.latency_us * 1e3)
        slices = _slices(one, clients, duration_ns)
        learner.learn_batch(Observation(_class(one.model), sum(s.duration_ns for s in slices), slices))
    return [learner.explain(_class(one.model), _slices(one, clients, round(one.latency_us * 1e3))) for one in test]


def _class(model: str) -> BatchClass:
    return BatchClass(model, "1", 1)


def _slices(client: Client, clients: Sequence[Client], duration_ns: int) -> tuple[Slice, ...]:
    """Sets drawn by how long each neighbour is present, all of the same duration; equal ones are one slice."""
    draw = random.Random(f"{client.framework} {client.workload} {client.model}")
    shares: dict[tuple[BatchClass, ...], int] = defaultdict(int)
    for _ in range(DRAWS):
        there = [_class(other.model) for other in beside(client, clients) if draw.random() < other.present]
        shares[tuple(sorted(there))] += 1
    return tuple(Slice(round(duration_ns * count / DRAWS), others) for others, count in shares.items())


# ---- telling


def measure(clients: Sequence[Client]) -> list[dict[str, Any]]:
    """Errors by what was learned from, what was foretold, framework and law."""
    rows = []
    for train_on, test_on in ((TWO, SIX), (TWO, TEN), (SIX, TEN), ((*TWO, *SIX), TEN)):
        for framework in FRAMEWORKS:
            own = [c for c in clients if c.framework == framework]
            train = [c for c in own if c.workload in train_on]
            test = [c for c in own if c.workload in test_on and any(t.model == c.model for t in train)]
            actual = np.array([c.slowdown for c in test])
            for name in (*LAWS, *DEMANDS):
                way = by_law if name in LAWS else by_learner
                predicted = np.array(way(name, train, test, clients))
                signed = predicted / actual - 1.0
                row: dict[str, Any] = {
                    "learned": "".join(train_on),
                    "foretold": ",".join(test_on),
                    "framework": framework,
                }
                row |= {"way": name, "clients": len(test), "models": len({c.model for c in test})}
                row |= {"mape": float(np.abs(signed).mean()), "median": float(np.median(np.abs(signed)))}
                rows.append({**row, "bias": float(signed.mean()), "worst": float(np.abs(signed).max())})
    return rows


def solo_noise(clients: Sequence[Client]) -> dict[str, float]:
    """Median spread of a model's solo latency round its median, which was measured in several campaigns."""
    solos: dict[tuple[str, str], list[float]] = defaultdict(list)
    for one in clients:
        solos[one.framework, one.model].append(one.solo_us)
    return {
        framework: float(
            np.median([abs(x / np.median(own) - 1) for (f, _), own in solos.items() if f == framework for x in own])
        )
        for framework in FRAMEWORKS
    }


def main() -> None:
    import sys

    sys.path.insert(0, str(HERE.parent))
    from common import save

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder with results_flat.csv")
    clients = read(parser.parse_args().data / "results_flat.csv")
    rows, noise = measure(clients), solo_noise(clients)
    path = save("interference-tenants", rows, command=COMMAND, solo_repeat_noise=noise)
    print("repeat noise of solo latencies: " + ", ".join(f"{name} {value:.1%}" for name, value in noise.items()))
    for learned, foretold in dict.fromkeys((row["learned"], row["foretold"]) for row in rows):
        own = [row for row in rows if (row["learned"], row["foretold"]) == (learned, foretold)]
        print(f"\nlearned from {learned}, foretold {foretold}: mean relative error of the slowdown (bias)\n")
        print(f"| | {' | '.join(FRAMEWORKS)} |\n" + "|---" * (1 + len(FRAMEWORKS)) + "|")
        for way in dict.fromkeys(row["way"] for row in own):
            cells = [f"{row['mape']:.0%} ({row['bias']:+.0%})" for row in own if row["way"] == way]
            print(f"| {way} | {' | '.join(cells)} |")
    print(f"\nraw results in {path}")


if __name__ == "__main__":
    main()
