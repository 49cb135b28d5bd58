"""What a frontend tells the scheduler of what its clients saw."""

from types import SimpleNamespace
from typing import Any, cast

from cotenant.frontend.statistics import Statistics
from cotenant.v1 import executor_pb2, scheduler_pb2

MS = 1_000_000


def reported(statistics: Statistics) -> list[scheduler_pb2.FrontendStatistics]:
    frame = scheduler_pb2.ConnectFrontendRequest()
    statistics.report(frame)
    return list(frame.statistics)


def answer(statistics: Statistics, count: int, overhead_ms: int) -> None:
    model = cast("Any", SimpleNamespace(name="m", version="1"))
    execution = executor_pb2.Execution(input_ns=MS, infer_ns=8 * MS)
    for _ in range(count):
        total_ns = (1 + 9 + overhead_ms) * MS
        statistics.succeeded(model, execution, items=1, queue_ns=MS, total_ns=total_ns, late=False)


def test_what_answers_take_is_told_once_and_of_enough_of_them() -> None:
    statistics = Statistics()
    answer(statistics, 19, overhead_ms=200)
    (few,) = reported(statistics)
    assert (few.in_time, few.answer_overhead_ns) == (19, 0)
    answer(statistics, 1, overhead_ms=200)
    assert reported(statistics)[0].answer_overhead_ns == 200 * MS
    answer(statistics, 20, overhead_ms=2)  # the overload has passed, and what was measured then with it
    assert reported(statistics)[0].answer_overhead_ns == 2 * MS
    assert reported(statistics) == []
