"""Rolling batches forward: by hand, and what must hold for any set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotenant.runtime.estimates import BatchClass, ClassEstimate, EstimateTable, Phase, SetEstimate
from cotenant.scheduler.contention import advance, finish_offsets

A, B, C = (BatchClass(name, "1", 1) for name in "abc")


def halving() -> EstimateTable:
    """Any two batches run at half speed, any three at a third."""
    table = EstimateTable()
    pairs = [SetEstimate(x, (y,), 2.0) for x in (A, B, C) for y in (A, B, C)]
    triples = [SetEstimate(x, (y, z), 3.0) for x in (A, B, C) for y in (A, B, C) for z in (A, B, C)]
    table.update([], [*pairs, *triples], complete=True)
    return table


def test_departures_speed_up_those_that_stay() -> None:
    # 10, 20 and 30 of work at a third each: the first ends at 30; then at a half: 10 more take 20; then alone.
    assert finish_offsets(halving(), [A, B, C], [10.0, 20.0, 30.0], [10.0, 20.0, 30.0]) == [30, 50, 60]
    assert finish_offsets(halving(), [C, A, B], [30.0, 10.0, 20.0], [30.0, 10.0, 20.0]) == [60, 30, 50]
    assert finish_offsets(halving(), [A, A], [10.0, 10.0], [10.0, 10.0]) == [20, 20]
    assert finish_offsets(halving(), [], [], []) == []


def test_what_has_nothing_left_ends_now() -> None:
    assert finish_offsets(halving(), [A, B], [10.0, 0.0], [10.0, 0.0]) == [10, 0]
    assert finish_offsets(passing(), [A, B], [0.0, 100.0], [0.0, 0.5]) == [0, 0]
    assert advance(halving(), [A, B], [10.0, 0.0], [10.0, 0.0], 8) == [6.0, 0.0]


def test_progress_while_nothing_changes() -> None:
    assert advance(halving(), [A, B], [10.0, 3.0], [10.0, 3.0], 8) == [6.0, 0.0]


COURSE = (Phase(0.25, (0.0,)), Phase(0.5, (1.0,)), Phase(1.0, (0.2,)))


def passing() -> EstimateTable:
    """A suffers as much as B demands, which is nothing, all, and a fifth."""
    table = EstimateTable()
    a = ClassEstimate(A, 100, (0.0,), (0.0, 1.0))
    b = ClassEstimate(B, 100, (0.35,), (0.0, 0.0), phases=COURSE)
    table.update([a, b], [], complete=True)
    return table


def test_rates_change_when_a_neighbour_passes_to_another_phase() -> None:
    # 25 of B's work at full speed, 25 at a half (12.5 done), then 62.5 at 1 / 1.2, of which 50 are beside B.
    done_beside = 25 + 12.5 + 50 / 1.2
    ends = [round(100 + (100 - done_beside)), 100]
    assert finish_offsets(passing(), [A, B], [100.0, 100.0], [100.0, 100.0]) == ends
    assert finish_offsets(passing(), [B, A], [100.0, 100.0], [100.0, 100.0]) == ends[::-1]
    # B has done 40 of its 100: 10 more of the second phase, then the third.
    assert finish_offsets(passing(), [A, B], [20.0, 100.0], [20.0, 60.0]) == [10 + 18, 60]
    assert advance(passing(), [A, B], [100.0, 100.0], [100.0, 100.0], 40) == pytest.approx([100 - 25 - 7.5, 60.0])


losses = st.floats(0, 0.9)
bodies = st.lists(st.tuples(st.sampled_from([A, B, C]), st.floats(2.0, 1e9)), min_size=1, max_size=6)


@given(bodies, losses, losses, losses)
def test_work_is_conserved_and_nobody_ends_before_its_solo_time(
    work: list[tuple[BatchClass, float]], a: float, b: float, c: float
) -> None:
    table = EstimateTable()
    table.update(
        [
            ClassEstimate(x, 1, (0.3,), (loss, 0.0, 0.0), phases=COURSE if x == B else ())
            for x, loss in zip((A, B, C), (a, b, c), strict=True)
        ],
        [],
        complete=True,
    )
    classes, remaining = [x for x, _ in work], [left for _, left in work]
    offsets = finish_offsets(table, classes, remaining, remaining)
    for left, offset in zip(remaining, offsets, strict=True):
        assert left - 2 <= offset <= left / (1 - max(a, b, c)) + 2
    # Rolling to the first end and then on gives the same ends.
    first = min(offsets)
    left_after = advance(table, classes, remaining, remaining, first)
    rest = [i for i, offset in enumerate(offsets) if offset > first]
    works = [remaining[i] for i in rest]
    again = finish_offsets(table, [classes[i] for i in rest], works, [left_after[i] for i in rest])
    for i, offset in zip(rest, again, strict=True):
        assert first + offset == pytest.approx(offsets[i], rel=1e-6, abs=40)
