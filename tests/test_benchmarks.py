"""What benchmarks make of their measurements."""

import sys
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def push(classes: int, make_ms: float) -> dict[str, Any]:
    return {"push": "", "classes": classes, "make_ms": make_ms}


@pytest.mark.parametrize(
    ("classes", "rows"),
    [
        ([3, 400, 10, 500, 7], [("change after 10 batches", 3), ("the same while all classes are told again", 2)]),
        ([400, 500], [("the same while all classes are told again", 2)]),
        ([3, 4], [("change after 10 batches", 2)]),
        ([], []),
    ],
)
def test_the_push_benchmark_has_a_row_for_each_kind_of_push_that_occurred(
    classes: list[int], rows: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    benchmark: Any = import_module("predictor_push")
    monkeypatch.delitem(sys.modules, "predictor_push")
    found = benchmark.typical([push(count, float(count)) for count in classes], 10)
    assert len(found) == len(rows)
    for row, (kind, pushes) in zip(found, rows, strict=True):
        assert row["push"].startswith(kind)
        assert row["pushes"] == pushes
        told = [count for count in classes if (count <= 10) == kind.startswith("change")]
        assert row["make_ms"] == median(told)
