"""Who ran beside whom: slices are complete, consistent between batches, and exact."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotenant.executor.timeline import Slice, Timeline
from cotenant.runtime.estimates import BatchClass

A, B, C = (BatchClass(name, "1", 1) for name in "abc")


def test_the_seed_papers_figure_4() -> None:
    timeline = Timeline()
    timeline.begin(1, A, 100)
    timeline.begin(2, B, 150)
    assert timeline.end(1, 170) == (170, [Slice(50, ()), Slice(20, (B,), (0,))])
    timeline.begin(3, C, 180)
    assert timeline.end(2, 300)[1] == [Slice(20, (A,), (50,)), Slice(10, ()), Slice(120, (C,), (0,))]
    assert timeline.end(3, 310)[1] == [Slice(120, (B,), (30,)), Slice(10, ())]
    assert timeline.running == 0


def test_a_class_beside_itself_counts_as_often_as_it_runs() -> None:
    timeline = Timeline()
    for key in (1, 2, 3):
        timeline.begin(key, A, 10)
    assert timeline.end(1, 20)[1] == [Slice(10, (A, A), (0, 0))]


def test_one_that_takes_the_place_of_another_of_its_class_is_another() -> None:
    """How far a neighbour is in its work is read from how long it has run: one slice cannot hold two of them."""
    timeline = Timeline()
    timeline.begin(1, A, 0)
    timeline.begin(2, B, 10)
    timeline.end(2, 40)
    timeline.begin(3, B, 40)
    assert timeline.end(1, 60)[1] == [Slice(10, ()), Slice(30, (B,), (0,)), Slice(20, (B,), (0,))]


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 500), st.sampled_from([A, B, C])), max_size=12))
def test_slices_sum_to_the_life_and_agree_between_batches(lives: list[tuple[int, int, BatchClass]]) -> None:
    timeline = Timeline()
    moments = sorted(
        [(start, 1, i) for i, (start, _, _) in enumerate(lives)]
        + [(start + length, 0, i) for i, (start, length, _) in enumerate(lives)]
    )
    slices: dict[int, list[Slice]] = {}
    for at, begins, i in moments:
        if begins:
            timeline.begin(i, lives[i][2], at)
        else:
            slices[i] = timeline.end(i, at)[1]
    beside: dict[tuple[str, str], int] = {}
    for i, parts in slices.items():
        assert sum(part.duration_ns for part in parts) == lives[i][1]
        for part in parts:
            assert part.duration_ns > 0
            for other in part.co_runners:
                pair = (lives[i][2].model, other.model)
                beside[pair] = beside.get(pair, 0) + part.duration_ns
    for (a, b), duration in beside.items():
        assert beside[b, a] == duration  # as long as a ran beside b, b ran beside a


def test_threads_see_one_order_of_time() -> None:
    timeline = Timeline()
    wrong: list[int] = []

    def live(key: int) -> None:
        for i in range(50):
            began = timeline.begin(key * 1000 + i, A)
            time.sleep(0.0002)
            ended, parts = timeline.end(key * 1000 + i)
            if sum(p.duration_ns for p in parts) != ended - began:
                wrong.append(key)

    threads = [threading.Thread(target=live, args=(key,)) for key in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_ending_what_did_not_begin_raises() -> None:
    with pytest.raises(KeyError):
        Timeline().end(1, 5)
