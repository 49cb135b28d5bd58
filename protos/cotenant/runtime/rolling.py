"""Rolls batches that run together forward in time, by the rates of their sets: the contract's rule put to use.

Theory. A batch needs `work_ns` of solo time. While a set of batches shares the device, each progresses at a rate <= 1
that depends on who they are and in which phase of its work each is; it ends when the integral of its rate reaches its
work. Between two changes of the set, or of a phase, all rates are constant, so finish times follow by stepping from
change to change. Pure, and shared by whoever decides and whoever judges decisions.
"""

from collections.abc import Callable, Sequence
from operator import truediv

from cotenant.runtime.estimates import Stage

# Rates of batches that run together, each in its phase, in their order.
Rates = Callable[[tuple[Stage, ...]], tuple[float, ...]]

ROUNDING_NS = 1.0  # less work than this is none


def finish_offsets(
    rates: Rates,
    stages: Sequence[tuple[Stage, ...]],
    work_ns: Sequence[float],
    remaining_ns: Sequence[float],
) -> list[float]:
    """Time from now until each batch ends, in ns, if nothing is added: departures speed up those that stay.

    All arguments but the first have one entry per batch.
    """
    if max(map(len, stages), default=1) == 1:
        return _flat_offsets(rates, [one[0] for one in stages], remaining_ns)
    offsets = [0.0] * len(remaining_ns)
    ats, gaps = _placed(stages, work_ns, remaining_ns)
    here = [i for i, gap in enumerate(gaps) if gap]
    gaps, current = [gaps[i] for i in here], [stages[i][ats[i]] for i in here]
    elapsed = 0.0
    while len(current) > 1:
        speeds = rates(tuple(current))
        step = min(map(truediv, gaps, speeds))
        elapsed += step
        gaps = [gap - step * speed for gap, speed in zip(gaps, speeds, strict=True)]
        for k in range(len(gaps) - 1, -1, -1):
            if gaps[k] <= ROUNDING_NS:
                i = here[k]
                ats[i], gap = _entered(stages[i], work_ns[i], ats[i], gaps[k])
                if gap:
                    current[k], gaps[k] = stages[i][ats[i]], gap
                else:
                    offsets[i] = elapsed
                    del here[k], current[k], gaps[k]
    if current:  # the last runs alone, at full speed
        offsets[here[0]] = elapsed + (gaps[0] + work_ns[here[0]] * current[0].rest)
    return offsets


def _flat_offsets(rates: Rates, current: list[Stage], remaining_ns: Sequence[float]) -> list[float]:
    """The same where nobody has phases."""
    offsets = [0.0] * len(remaining_ns)
    here, gaps = list(range(len(remaining_ns))), list(remaining_ns)
    elapsed = 0.0
    while True:
        for at in range(len(gaps) - 1, -1, -1):
            if gaps[at] <= ROUNDING_NS:
                offsets[here[at]] = elapsed
                del here[at], current[at], gaps[at]
        if len(current) < 2:
            break
        speeds = rates(tuple(current))
        step = min(map(truediv, gaps, speeds))
        elapsed += step
        gaps = [gap - step * speed for gap, speed in zip(gaps, speeds, strict=True)]
    if current:  # the last runs alone, at full speed
        offsets[here[0]] = elapsed + gaps[0]
    return offsets


def advance(
    rates: Rates,
    stages: Sequence[tuple[Stage, ...]],
    work_ns: Sequence[float],
    remaining_ns: Sequence[float],
    duration_ns: float,
) -> list[float]:
    """Remaining solo work of each batch after all have run together for so long; never below zero.

    One that should have ended meanwhile has not, or somebody would have said so: it stays where it is.
    """
    if max(map(len, stages), default=1) == 1:  # nobody has phases, so the rates stay as they are
        speeds = rates(tuple([one[0] for one in stages]))
        left_ns = [left - duration_ns * speed for left, speed in zip(remaining_ns, speeds, strict=True)]
        return [left if left > ROUNDING_NS else 0.0 for left in left_ns]
    ats, gaps = _placed(stages, work_ns, remaining_ns)
    current = [own[at] for own, at in zip(stages, ats, strict=True)]
    while duration_ns > 0.0:
        speeds = rates(tuple(current))
        step = min([gap / speed for gap, speed in zip(gaps, speeds, strict=True) if gap], default=duration_ns)
        step = min(duration_ns, step)
        duration_ns -= step
        for i, speed in enumerate(speeds):
            if gaps[i]:
                gap = gaps[i] - step * speed
                if gap <= ROUNDING_NS:
                    ats[i], gap = _entered(stages[i], work_ns[i], ats[i], gap)
                    current[i] = stages[i][ats[i]]
                gaps[i] = gap
    return [gap + work * one.rest for gap, work, one in zip(gaps, work_ns, current, strict=True)]


def _placed(
    stages: Sequence[tuple[Stage, ...]], work_ns: Sequence[float], remaining_ns: Sequence[float]
) -> tuple[list[int], list[float]]:
    """In which phase each batch is, and how much work is left of that; 0 of what has ended."""
    ats: list[int] = []
    gaps: list[float] = []
    for own, work, left in zip(stages, work_ns, remaining_ns, strict=True):
        at, gap = 0, left - work * own[0].rest
        if gap <= ROUNDING_NS:
            at, gap = _entered(own, work, 0, gap)
        ats.append(at)
        gaps.append(gap)
    return ats, gaps


def _entered(own: tuple[Stage, ...], work: float, at: int, gap: float) -> tuple[int, float]:
    """The next phase of which something is left, and how much; 0 if the batch has ended."""
    last = len(own) - 1
    while gap <= ROUNDING_NS:
        if at == last:
            return at, 0.0
        at += 1
        gap += work * (own[at].end - own[at - 1].end)
    return at, gap
