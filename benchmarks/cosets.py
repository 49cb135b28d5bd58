"""What it costs to evaluate a set of four batches, the first time it is met, when candidates beside three are compared.

    python benchmarks/cosets.py

Classes have estimates as the predictor tells them, with three resources and durations of kernels, without corrections
for pairs and with 8 each. As when a scheduler looks for who may start beside three that run, 20 candidates are tried
beside the same three; each time the rates of all four are asked for, and nothing of it was remembered. CPU time per
set, and its ratio to a bare numpy RLS update of 16 features (`cotenant evaluate` has the same reference).
"""

import random
import statistics
from time import thread_time_ns
from typing import Any

from cotenant.cli.evaluate_cost import reference_update_ns
from cotenant.runtime.estimates import BatchClass, ClassEstimate, EstimateTable, PairCorrection
from cotenant.runtime.sharing import feature_count

RESOURCES = 3
MODELS, SIZES = 10, (1, 2, 4, 8)
RUNNING, CANDIDATES = 3, 20
BATCHES, REPEATS = 60, 8  # of candidates; the quickest of so many medians counts, as other work only adds to it


def table(noise: random.Random, pairs: int) -> EstimateTable:
    """Made-up estimates; each class has so many corrections."""
    classes = [BatchClass(f"model-{i}", "1", size) for i in range(MODELS) for size in SIZES]
    made = EstimateTable()
    made.update(
        [
            ClassEstimate(
                known,
                10_000_000,
                tuple(noise.random() for _ in range(RESOURCES)),
                tuple(noise.random() for _ in range(feature_count(RESOURCES))),
                tuple(PairCorrection(other, 0.01) for other in noise.sample(classes, pairs)),
                kernel_ns=noise.uniform(2e4, 2e6),
            )
            for known in classes
        ],
        (),
        complete=True,
    )
    return made


def set_ns(noise: random.Random, made: EstimateTable) -> float:
    """Median CPU time per set over batches of candidates."""
    classes, spent = list(made.classes), []
    for _ in range(BATCHES):
        running = tuple(made.stages(known)[0] for known in noise.sample(classes, RUNNING))
        sets = [(*running, made.stages(known)[0]) for known in noise.sample(classes, CANDIDATES)]
        made.update((), (), complete=False)  # forgets the rates it remembers
        began = thread_time_ns()
        for each in sets:
            made.rates(each)
        spent.append((thread_time_ns() - began) / CANDIDATES)
    return statistics.median(spent)


def main() -> None:
    from common import save

    noise = random.Random(0)
    rows: list[dict[str, Any]] = []
    for pairs in (0, 8):
        made = table(noise, pairs)
        reference_ns = reference_update_ns()
        quickest = min(set_ns(noise, made) for _ in range(REPEATS))
        reference_ns = min(reference_ns, reference_update_ns())
        rows.append({"pairs": pairs, "set_us": quickest / 1e3, "reference_us": reference_ns / 1e3})
        rows[-1]["ratio"] = quickest / reference_ns
        print({key: round(value, 2) for key, value in rows[-1].items()})
    print(save("cosets", rows))


if __name__ == "__main__":
    main()
