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
    QuantileFactor,
    SetEstimate,
    factor_at,
)

A, B, C = (BatchClass(name, "1", 1) for name in "abc")


def table(*classes: ClassEstimate, sets: tuple[SetEstimate, ...] = ()) -> EstimateTable:
    made = EstimateTable()
    made.update(classes, sets, complete=True)
    return made


def test_the_formula_by_hand() -> None:
    a = ClassEstimate(A, 1000, (0.6, 0.2), (0.01, 0.1, 0.0, 0.5, 1.0))
    b = ClassEstimate(B, 1000, (0.8, 0.1), (0.0,))
    # phi = [1, .8, .1, 1 - 1/1.4, 1 - 1/max(1, .3)]
    loss = 0.01 + 0.1 * 0.8 + 0.5 * (1 - 1 / 1.4)
    assert table(a, b).progress_rate(A, (B,)) == pytest.approx(1 - loss)


def test_a_correction_counts_as_often_as_the_pair_occurs() -> None:
    a = ClassEstimate(A, 1000, (0.1,), (0.0, 0.0, 0.0), (PairCorrection(B, 0.1),))
    b = ClassEstimate(B, 1000, (0.1,), ())
    assert table(a, b).progress_rate(A, (B, B)) == pytest.approx(0.8)


def test_alone_there_is_no_loss() -> None:
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
    a = ClassEstimate(A, 1000, (0.5,), (0.0, 0.0, 1.0))
    assert table(a).progress_rate(A, (B,)) == pytest.approx(1 / 1.5)


def test_a_change_is_seen_at_once() -> None:
    known = table(ClassEstimate(A, 1000, (0.5,), (0.2, 0.0, 0.0)), ClassEstimate(B, 1000, (0.5,), (0.0,)))
    assert known.set_rates((A, B))[0] == pytest.approx(0.8)
    known.update([ClassEstimate(A, 1000, (0.5,), (0.4, 0.0, 0.0))], [], complete=False)
    assert known.set_rates((A, B))[0] == pytest.approx(0.6)
    known.update([], [], complete=True)
    assert known.progress_rate(A, (B,)) == 0.5


numbers = st.floats(-5, 5)
demands = st.lists(st.floats(0, 1), min_size=3, max_size=3).map(tuple)


@given(st.lists(st.tuples(demands, st.lists(numbers, max_size=9).map(tuple)), min_size=1, max_size=5))
def test_rates_are_always_usable(rows: list[tuple[tuple[float, ...], tuple[float, ...]]]) -> None:
    classes = [ClassEstimate(BatchClass(f"m{i}", "1", 1), 1000, d, s) for i, (d, s) in enumerate(rows)]
    rates = table(*classes).set_rates(tuple(c.batch_class for c in classes))
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
