"""What is kept of bounds: a restart changes nothing that is told, damage is noticed, and few ratios cost few bytes."""

import math
import random
import tracemalloc

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotenant.predictor.bounds import MAX_LEVELS, WINDOW, Bounds

LEVELS = (0.3, 0.9, 0.95, 0.99)


def kept(bounds: Bounds) -> list[list[float]]:
    """What is read from disk."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(bounds.dump()), type=list[list[float]])


def restored(bounds: Bounds) -> Bounds:
    again = Bounds()
    again.restore(kept(bounds))
    return again


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 3 * WINDOW), st.floats(0.8, 1.6), st.floats(0.01, 0.3))
def test_a_restart_changes_no_bound_now_nor_later(seed: int, count: int, change: float, spread: float) -> None:
    noise = random.Random(seed)
    own, pooled = Bounds(), Bounds()

    def live(times: int, *every: Bounds) -> None:
        for _ in range(times):
            ratio, others = change * noise.lognormvariate(0.0, spread), noise.choice((0, 1, 1, 2, 7))
            for bounds in every:
                bounds.learn(ratio, others)

    live(30, own, pooled)
    own.factors(LEVELS, pooled)  # from here on levels are followed
    live(count, own, pooled)
    own_again, pooled_again = restored(own), restored(pooled)
    assert own_again.factors(LEVELS, pooled_again) == own.factors(LEVELS, pooled)
    live(50, own, pooled, own_again, pooled_again)
    assert own_again.factors(LEVELS, pooled_again) == own.factors(LEVELS, pooled)
    assert own_again.dump() == own.dump()


def test_a_level_that_coverage_has_raised_stays_raised() -> None:
    """The ratios alone would not tell: who learns them anew aims at 5 % misses again."""
    bounds, anew, noise = Bounds(), Bounds(), random.Random(1)
    for i in range(600):
        bounds.learn(1.6 + i / 1000 if i % 10 == 0 else noise.uniform(0.9, 1.1), 0)
        bounds.factors((0.95,), bounds)
    for ratio in bounds.kinds[0].recent():
        anew.learn(ratio, 0)
    told, again, forgotten = (every.factors((0.95,), every)[0].factor for every in (bounds, restored(bounds), anew))
    assert again == told > forgotten


def test_a_burst_of_misses_is_still_one_after_a_restart() -> None:
    bounds = Bounds()
    for _ in range(100):
        bounds.learn(1.0, 1)
    bounds.factors((0.9,), bounds)
    for ratio in (2.0, 2.5, 2.2, 2.1):
        bounds.learn(ratio, 1)
    lifted = {q.co_runner_count: q.factor for q in bounds.factors((0.9,), bounds)}
    assert lifted[1] == 2.5
    assert restored(bounds).factors((0.9,), bounds) == bounds.factors((0.9,), bounds)


@pytest.mark.parametrize(
    ("place", "numbers"),
    [
        (0, [1.0, math.nan, 1.0]),
        (0, [1.0, math.inf]),
        (0, [1.0, -1.0]),
        (0, [1.0] * (WINDOW + 1)),
        (5, [0.0, 0.9]),
        (5, [0.0, 1.5, 0.1]),
        (5, [0.0, 0.9, math.nan]),
        (5, [-1.0, 0.9, 0.1]),
        (5, [0.0, *(0.5 + i / 1000 for i in range(2 * MAX_LEVELS + 2))]),
    ],
)
def test_damaged_bounds_are_refused(place: int, numbers: list[float]) -> None:
    bounds = Bounds()
    for _ in range(30):
        bounds.learn(1.1, 0)
    damaged = kept(bounds)
    damaged[place] = numbers
    with pytest.raises(ValueError, match="kept ratios"):
        Bounds().restore(damaged)
    with pytest.raises(ValueError, match="kept bounds are 1 lists"):
        Bounds().restore(damaged[:1])


def test_a_level_next_to_nothing_is_answered() -> None:
    bounds = Bounds()
    assert bounds.factors((1e-17,), bounds)
    bounds.learn(1.2, 0)
    assert all(q.factor >= 1.0 for q in bounds.factors((1e-17,), bounds))


def test_few_ratios_cost_few_bytes() -> None:
    """Most of tens of thousands of classes were only measured, or ran a few times."""

    def bytes_of(ratios: int, classes: int = 40) -> float:
        tracemalloc.start()
        made = [Bounds() for _ in range(classes)]
        for bounds in made:
            for _ in range(ratios):
                bounds.learn(1.0 + random.random(), 1)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return size / classes

    assert bytes_of(0) < 250
    assert bytes_of(3) < 1000
    assert bytes_of(WINDOW) < 2 * WINDOW * 2 * 8 * 1.2 + 1000  # of its kind and beside others, by arrival and sorted
