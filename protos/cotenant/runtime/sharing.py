"""How batches that share a device delay each other: phi, the features of the contract's formula.

`predictor.proto` states the formula (`ClassEstimate`). What is here is pure, and uses only + - * / and comparisons on
floats in a fixed order, so two machines get the same bits.
"""

from collections.abc import Sequence

ENOUGH = float("inf")  # level of a resource that suffices for all
# Of the processors it needs, that a kernel may lack: demands are known within some percent, and where all is lacking
# waits are as long as others' kernels.
MOST_LACKING = 0.85
# Demand of the others on the processors from which on all may be lacking, and where nobody doubts that it is.
FULL, TWICE_FULL = 1.3, 1.8


def fair_weights(resources: int) -> tuple[float, ...]:
    """Weights of phi before anything is seen: a little for others' mere presence, and fair shares of what is short.

    Where several resources are short at once, nobody is delayed by all of them one after another: each counts for its
    part.
    """
    parts = ((0.01, 1), (0.02, resources), (1.0 / max(1, resources), resources), (0.05, resources), (0.0, 2))
    return tuple([value for value, count in parts for _ in range(count)])


def feature_count(resources: int) -> int:
    """Values of phi for so many resources."""
    return 3 + 3 * resources


def features(
    demand: Sequence[float], others: Sequence[Sequence[float]], kernel_ns: float = 0.0, ahead_ns: float = 0.0
) -> list[float]:
    """Phi of a batch of `demand` beside `others`, each of K values; phi has 3 + 3K.

    Presence of others; their pressure, the sum of what they demand of each resource; by how much a batch that needs one
    resource alone is slowed when it is shared fairly; pressure once more, times the batch's own demand, for it is felt
    in proportion to how much of its own time a batch needs the resource; `waits`; `blocks`. `ahead_ns` is the sum of
    what co-runners demand of the first resource, each times the mean duration of its kernels.
    """
    pressure = [sum([other[k] for other in others]) for k in range(len(demand))]
    short = [
        max(0.0, own / fair_level([own, *[other[k] for other in others]]) - 1.0) if own + pressed > 1.0 else 0.0
        for k, (own, pressed) in enumerate(zip(demand, pressure, strict=True))
    ]
    felt = [own * pressed for own, pressed in zip(demand, pressure, strict=True)]
    waiting = waits(demand[0], pressure[0], kernel_ns, ahead_ns) if demand else 0.0
    blocked = blocks(demand[0], pressure[0], kernel_ns, ahead_ns) if demand else 0.0
    return [1.0 if others else 0.0, *pressure, *short, *felt, waiting, blocked]


def fair_level(demands: Sequence[float]) -> float:
    """Water level of max-min fairness on one unit: who demands less gets all of it, the others get the level each.

    `ENOUGH` where there is enough for all.
    """
    left, count = 1.0, len(demands)
    if sum(demands) <= left:
        return ENOUGH
    for demand in sorted(demands):
        if demand * count > left:
            break
        left -= demand
        count -= 1
    return left / count if count else ENOUGH  # the sum was above one by rounding alone


def waits(own: float, others: float, kernel_ns: float, ahead_ns: float, most: float = MOST_LACKING) -> float:
    """How long kernels wait where those that began earlier keep the processors, over their own duration.

    A kernel that needs `own` of the processors while others hold `others` lacks the part `lacking` of it, at most
    `most`. It goes on slowly until it has ended, or until the others' kernels have: per own kernel of duration s beside
    others of duration r s the delay is lacking r / (1 + (1 - lacking) r), which is lacking / (1 - lacking) beside
    kernels that never end, and r where it gets nothing until they do. 0 where durations are not known.
    """
    if kernel_ns <= 0.0 or own <= 0.0 or own + others <= 1.0:
        return 0.0
    lacking = min(most, (own + others - 1.0) / own)
    ratio = ahead_ns / kernel_ns
    return lacking * ratio / (1.0 + (1.0 - lacking) * ratio)


def blocks(own: float, others: float, kernel_ns: float, ahead_ns: float) -> float:
    """How much longer kernels wait where others demand so much that nobody doubts that all is lacking.

    One of two gets what the other leaves, however little; where two others hold everything by turns, a third waits for
    the kernels of both. That is `waits` with more that may be lacking, beyond what it says anyway.
    """
    if others <= FULL or kernel_ns <= 0.0 or own <= 0.0:
        return 0.0
    most = MOST_LACKING + (1.0 - MOST_LACKING) * min(1.0, (others - FULL) / (TWICE_FULL - FULL))
    return waits(own, others, kernel_ns, ahead_ns, most) - waits(own, others, kernel_ns, ahead_ns)
