"""Searches for the highest rate, or the fewest devices, at which a share of the requests is answered in time.

Both take attainment to fall with the rate and to rise with the devices, which holds up to noise: bisection finds one
place where it passes the target. All seeds count together. A simulation is given up as soon as more requests missed
than the target allows, so what is hopeless costs little.
"""

from collections.abc import Callable
from dataclasses import replace

import msgspec

from cotenant.scheduler.simulation.building import Setting
from cotenant.scheduler.simulation.study import Study

TOLERANCE = 1.03  # a rate is found to so large a factor
FURTHEST = 2.0**12  # rates beyond this factor of the world's, either way, are not tried
MOST_DEVICES = 4096

Tried = Callable[[float, float], None]  # a rate or a number of devices, and the attainment found, at most


class Found(msgspec.Struct, frozen=True):
    """Where a policy reaches the target; `value` is 0 where it does nowhere that was tried."""

    policy: str
    target: float
    value: float
    attainment: float
    requests_per_s: float


def attained(study: Study, entry: str, setting: Setting, seeds: int, target: float) -> float:
    """The attainment over all seeds, or, once it is sure to be below `target`, something below it."""
    drawn = [study.offered(setting, seed) for seed in range(seeds)]
    offered = sum(drawn)
    if not offered:
        return 1.0
    allowed = offered * (1.0 - target)
    missed = 0
    for seed in range(seeds):
        missed += study.missed(entry, setting, seed, allowed - missed)
        if missed > allowed:
            break
    return 1.0 - missed / offered


def highest_rate(study: Study, entry: str, target: float, seeds: int, base: Setting, tried: Tried) -> Found:
    """The highest multiple of the world's rates at which a policy answers `target` of all requests in time."""
    known: dict[float, float] = {}

    def reaches(rate: float) -> bool:
        known[rate] = attained(study, entry, replace(base, rate=rate), seeds, target)
        tried(rate, known[rate])
        return known[rate] >= target

    low, high = 0.0, 1.0
    while reaches(high) and high < FURTHEST:
        low, high = high, high * 2.0
    if not low:
        low, high = 0.5, 1.0
        while not reaches(low):
            low, high = low / 2.0, low
            if low < 1.0 / FURTHEST:
                return Found(entry, target, 0.0, known[high], 0.0)
    while high / low > TOLERANCE:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if reaches(middle) else (low, middle)
    offered = sum(study.offered(replace(base, rate=low), seed) for seed in range(seeds))
    return Found(entry, target, low, known[low], offered / seeds / study.world.seconds)


def fewest_devices(study: Study, entry: str, target: float, seeds: int, base: Setting, tried: Tried) -> Found:
    """The fewest devices on which a policy answers `target` of all requests in time."""
    known: dict[int, float] = {}

    def reaches(devices: int) -> bool:
        known[devices] = attained(study, entry, replace(base, devices=devices), seeds, target)
        tried(devices, known[devices])
        return known[devices] >= target

    low, high = 0, 1
    while not reaches(high):
        low, high = high, high * 2
        if high > MOST_DEVICES or _settled(known):
            return Found(entry, target, 0, known[low], 0.0)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    offered = sum(study.offered(base, seed) for seed in range(seeds))
    return Found(entry, target, high, known[high], offered / seeds / study.world.seconds)


def _settled(known: dict[int, float]) -> bool:
    """Whether three doublings brought nothing: what is missed then, no number of devices would answer."""
    last = list(known.values())[-4:]
    return len(last) == 4 and max(last) - last[0] < 1e-4
