"""The contract's formula for estimates, by hand-computed values and by what must hold for any values."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotenant.runtime.estimates import (
    MIN_RATE,
    BatchClass,
    ClassEstimate,
    EstimateTable,
    PairCorrection,
    Phase,
    QuantileFactor,
    SetEstimate,
    factor_at,
    sound_phases,
)
from cotenant.runtime.sharing import blocks, fair_level, features, waits

A, B, C = (BatchClass(name, "1", 1) for name in "abc")


def together(known: EstimateTable, *classes: BatchClass) -> tuple[float, ...]:
    """Rates while all run, each in its first phase."""
    return known.rates(tuple(known.stages(c)[0] for c in classes))


def table(*classes: ClassEstimate, sets: tuple[SetEstimate, ...] = ()) -> EstimateTable:
    made = EstimateTable()
    made.update(classes, sets, complete=True)
    return made


def test_the_formula_by_hand() -> None:
    a = ClassEstimate(A, 1000, (0.6, 0.2), (0.01, 0.1, 0.0, 0.5, 1.0, 0.3, 0.7, 0.2, 0.9))
    b = ClassEstimate(B, 1000, (0.8, 0.1), (0.0,))
    # Of the first resource each gets a half. phi = [1,  .8, .1,  .6/.5 - 1, 0,  .6*.8, .2*.1,  0, 0]
    delay = 0.01 + 0.1 * 0.8 + 0.5 * 0.2 + 0.3 * 0.48 + 0.7 * 0.02
    assert table(a, b).progress_rate(A, (B,)) == pytest.approx(1 / (1 + delay))
    assert table(a, b).progress_rate(B, (A,)) == 1.0  # a vector that is too short goes on with zeros
    absurd = ClassEstimate(A, 1000, (0.6, 0.2), (1e9,))
    assert table(absurd, b).progress_rate(A, (B,)) == pytest.approx(1 / 50)


def test_a_correction_counts_as_often_as_the_pair_occurs() -> None:
    a = ClassEstimate(A, 1000, (0.1,), (0.0, 0.0, 0.0), (PairCorrection(B, 0.1),))
    b = ClassEstimate(B, 1000, (0.1,), ())
    assert table(a, b).progress_rate(A, (B, B)) == pytest.approx(1 / 1.2)


def test_alone_there_is_no_delay() -> None:
    assert table().progress_rate(A, ()) == 1.0
    a = ClassEstimate(A, 1000, (1.0,), (0.9, 0.9, 0.9))
    assert table(a).progress_rate(A, ()) == 1.0


def test_an_explicit_set_wins_in_any_order_and_pairs_multiply() -> None:
    known = table(
        ClassEstimate(A, 1000, (0.1,), (0.0, 0.0, 0.0)),
        sets=(SetEstimate(A, (C, B), 2.5), SetEstimate(B, (A,), 1.5), SetEstimate(B, (C,), 2.0)),
    )
    assert known.progress_rate(A, (B, C)) == pytest.approx(1 / 2.5)
    assert known.progress_rate(B, (A, C)) == pytest.approx(1 / 3.0)  # only pairs known: the safe side
    assert known.progress_rate(C, (A,)) == pytest.approx(0.5)  # nothing known: they take turns


def test_an_unknown_co_runner_is_taken_to_want_everything() -> None:
    a = ClassEstimate(A, 1000, (0.75,), (0.0, 0.0, 1.0))
    assert table(a).progress_rate(A, (B,)) == pytest.approx(1 / 1.5)


def test_a_batch_size_that_is_not_known_is_like_the_nearest_that_is() -> None:
    sizes = {n: BatchClass("m", "1", n) for n in (2, 3, 4, 8, 64)}
    known = table(
        ClassEstimate(sizes[2], 1000, (0.5,), (0.1,)),
        ClassEstimate(sizes[4], 1000, (0.5,), (0.4,)),
        ClassEstimate(B, 1000, (0.5,), (0.0, 1.0)),
    )
    assert known.progress_rate(sizes[3], (B,)) == pytest.approx(1 / 1.4)  # of two as near, the larger
    assert known.progress_rate(sizes[64], (B,)) == pytest.approx(1 / 1.4)
    assert known.progress_rate(B, (sizes[8],)) == pytest.approx(1 / 1.5)  # as a neighbour, too
    known.update([ClassEstimate(sizes[3], 1000, (0.5,), (0.2,))], [], complete=False)
    assert known.progress_rate(sizes[3], (B,)) == pytest.approx(1 / 1.2)
    assert known.progress_rate(BatchClass("m", "2", 3), (B,)) == 0.5  # another version is another model


def test_a_co_runner_without_a_profile_is_taken_to_want_everything() -> None:
    a = ClassEstimate(A, 1000, (0.75,), (0.0, 0.0, 1.0))
    assert table(a, ClassEstimate(B, 1000)).progress_rate(A, (B,)) == pytest.approx(1 / 1.5)


shares = st.lists(st.floats(0, 1), min_size=3, max_size=3).map(tuple)
durations = st.one_of(st.just(0.0), st.floats(1e3, 1e8))


@given(
    shares,
    durations,
    st.lists(st.floats(-3, 3), min_size=1, max_size=14).map(tuple),
    st.lists(st.tuples(shares, durations), min_size=1, max_size=4),
)
def test_what_is_evaluated_in_one_go_is_the_formula(
    own: tuple[float, ...],
    kernel_ns: float,
    weights: tuple[float, ...],
    others: list[tuple[tuple[float, ...], float]],
) -> None:
    classes = [ClassEstimate(BatchClass(f"o{i}", "1", 1), 1000, d, kernel_ns=k) for i, (d, k) in enumerate(others)]
    phi = features(own, [d for d, _ in others], kernel_ns, sum(d[0] * k for d, k in others))
    delay = sum(w * x for w, x in zip(weights, phi, strict=False))
    victim = ClassEstimate(A, 1000, own, weights, kernel_ns=kernel_ns)
    rate = table(victim, *classes).progress_rate(A, [c.batch_class for c in classes])
    assert rate == pytest.approx(1 / min(50, max(1, 1 + delay)), abs=1e-6)


def test_kernels_wait_for_those_that_hold_the_processors() -> None:
    assert waits(0.5, 0.4, 1e4, 1e6) == 0.0  # there is room for both
    assert waits(0.5, 0.9, 0.0, 1e6) == 0.0  # of unknown duration
    # Two that need 0.8 each: one lacks 0.75 of that, and as long as the other's kernel lasts.
    assert waits(0.8, 0.8, 1e5, 0.8e5) == pytest.approx(0.75 * 0.8 / (1 + 0.25 * 0.8))
    short, long = waits(0.8, 0.8, 1e5, 1e4), waits(0.8, 0.8, 1e5, 1e9)
    assert short < 0.1
    assert long == pytest.approx(3.0, rel=0.01)
    # Beside those that leave nothing it gets a little all the same.
    assert waits(0.8, 1.9, 1e5, 1e12) == pytest.approx(0.85 / 0.15)


def test_a_third_is_blocked_where_two_hold_the_processors_by_turns() -> None:
    assert blocks(0.8, 1.0, 1e5, 1e12) == 0.0  # one other leaves something now and then
    assert blocks(0.8, 1.9, 0.0, 1e12) == 0.0  # of unknown duration
    # All is lacking: it waits for all of their kernels, a hundred times its own.
    assert waits(0.8, 1.9, 1e5, 1e7) + blocks(0.8, 1.9, 1e5, 1e7) == pytest.approx(100.0)
    assert 0.0 < blocks(0.8, 1.5, 1e5, 1e7) < blocks(0.8, 1.7, 1e5, 1e7)


def test_who_asks_for_less_than_the_fair_share_is_not_delayed() -> None:
    assert fair_level((0.5, 0.5)) == math.inf
    assert fair_level((0.2, 0.9, 0.9)) == pytest.approx(0.4)
    short = slice(2, 3)
    assert features((0.2,), [(0.9,), (0.9,)])[short] == [0.0]
    assert features((0.9,), [(0.2,), (0.9,)])[short] == pytest.approx([0.9 / 0.4 - 1.0])


def test_the_wait_for_kernels_is_weighed_like_any_feature() -> None:
    known = table(
        ClassEstimate(A, 1000, (0.8,), (0.0, 0.0, 0.0, 0.0, 2.0), kernel_ns=1e5),
        ClassEstimate(B, 1000, (0.8,), kernel_ns=1e5),
    )
    expected = 1 + 2 * waits(0.8, 0.8, 1e5, 0.8e5)
    assert 1 / known.progress_rate(A, [B]) == pytest.approx(expected)
    assert 1 / together(known, A, B)[0] == pytest.approx(expected)


def test_a_class_with_phases_is_evaluated_in_each_and_on_average() -> None:
    """Its neighbour suffers what it does now, and whoever does not follow phases reads the mean."""
    light, heavy = Phase(0.25, (0.2,)), Phase(1.0, (0.8,))
    known = table(
        ClassEstimate(A, 1000, (0.65,), (0.0, 0.0), phases=(light, heavy)),
        ClassEstimate(B, 1000, (0.5,), (0.0, 1.0)),
    )
    (b,) = known.stages(B)
    slowdowns = [1 / known.rates((b, stage))[0] for stage in known.stages(A)]
    assert slowdowns == pytest.approx([1.2, 1.8])
    assert 1 / known.progress_rate(B, [A]) == pytest.approx(1.65)


@pytest.mark.parametrize(
    ("phases", "resources"),
    [
        ((Phase(0.5, (0.1,)),), 1),  # ends before the work does
        ((Phase(0.7, (0.1,)), Phase(0.7, (0.1,)), Phase(1.0, (0.1,))), 1),
        ((Phase(1.0, (0.1,)),), 2),
        ((Phase(1.0, (math.nan,)),), 1),
        ((Phase(1.0, (0.1,), -1.0),), 1),
        ((Phase(math.nan, (0.1,)), Phase(1.0, (0.1,))), 1),
    ],
)
def test_phases_that_cannot_be(phases: tuple[Phase, ...], resources: int) -> None:
    assert not sound_phases(phases, resources)
    assert sound_phases((Phase(0.5, (0.1,) * resources), Phase(1.0, (0.2,) * resources, 1e5)), resources)


def test_a_change_is_seen_at_once() -> None:
    known = table(ClassEstimate(A, 1000, (0.5,), (0.2, 0.0, 0.0)), ClassEstimate(B, 1000, (0.5,), (0.0,)))
    assert together(known, A, B)[0] == pytest.approx(1 / 1.2)
    known.update([ClassEstimate(A, 1000, (0.5,), (0.4, 0.0, 0.0))], [], complete=False)
    assert together(known, A, B)[0] == pytest.approx(1 / 1.4)
    known.update([], [], complete=True)
    assert known.progress_rate(A, (B,)) == 0.5


numbers = st.floats(-5, 5)
demands = st.lists(st.floats(0, 1), min_size=3, max_size=3).map(tuple)


@given(st.lists(st.tuples(demands, st.lists(numbers, max_size=9).map(tuple)), min_size=1, max_size=5))
def test_rates_are_always_usable(rows: list[tuple[tuple[float, ...], tuple[float, ...]]]) -> None:
    classes = [ClassEstimate(BatchClass(f"m{i}", "1", 1), 1000, d, s) for i, (d, s) in enumerate(rows)]
    rates = together(table(*classes), *(c.batch_class for c in classes))
    assert all(MIN_RATE <= rate <= 1.0 and math.isfinite(rate) for rate in rates)


@given(demands, st.lists(st.floats(0, 1), min_size=7, max_size=7).map(tuple), st.lists(demands, max_size=4))
def test_one_more_neighbour_never_helps_where_weights_are_positive(
    own: tuple[float, ...], weights: tuple[float, ...], others: list[tuple[float, ...]]
) -> None:
    classes = [ClassEstimate(BatchClass(f"o{i}", "1", 1), 1000, d) for i, d in enumerate(others)]
    known = table(ClassEstimate(A, 1000, own, weights), *classes)
    beside = [c.batch_class for c in classes]
    rates = [known.progress_rate(A, beside[:n]) for n in range(len(beside) + 1)]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(rates))


def test_factors_by_level_and_number_of_co_runners() -> None:
    quantiles = (QuantileFactor(0.9, 1.1), QuantileFactor(0.99, 1.3), QuantileFactor(0.9, 1.5, 2))
    assert factor_at(quantiles, 0.9, 0, default=9) == 1.1
    assert factor_at(quantiles, 0.95, 1, default=9) == 1.3
    assert factor_at(quantiles, 0.9, 3, default=9) == 1.5
    assert factor_at(quantiles, 0.999, 0, default=9) == 9
