"""Results as Markdown: for random splits the mean over the seeds, else a row for each case."""

from collections.abc import Iterator
from statistics import mean, median
from typing import Any

COLUMNS = ("mape", "median", "p95", "p99", "max", "bias")


def markdown(kind: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of the table of one split."""
    if kind in {"row", "configuration"}:
        yield from _by_method(rows)
    else:
        yield from _by_case(rows)


def _by_method(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| method | MAPE | median | p95 | p99 | max | bias | 95 %: covered, width | 99 %: covered, width |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for method in dict.fromkeys(row["method"] for row in rows):
        cell = [row for row in rows if row["method"] == method]
        values = " | ".join(f"{mean(row[column] for row in cell):.2%}" for column in COLUMNS)
        yield f"| {method} | {values} | {_bound(cell, '95%')} | {_bound(cell, '99%')} |"


def _bound(cell: list[dict[str, Any]], level: str) -> str:
    told = [row["bounds"][level] for row in cell if "bounds" in row]
    return f"{mean(t['coverage'] for t in told):.1%}, +{mean(t['width'] for t in told):.1%}" if told else ""


def _by_case(rows: list[dict[str, Any]]) -> Iterator[str]:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    yield f"| case | groups | noise | {' | '.join(methods)} | ours, median | 95 %: covered, width |"
    yield "|---" * (len(methods) + 5) + "|"
    for case in dict.fromkeys(row["case"] for row in rows):
        cell = {row["method"]: row for row in rows if row["case"] == case}
        values = " | ".join(f"{cell[method]['mape']:.2%}" if method in cell else "" for method in methods)
        told = cell.get("ours", next(iter(cell.values())))
        yield (
            f"| {case} | {told['rows']} | {told['noise_median']:.1%} | {values} "
            f"| {told['median']:.2%} | {_bound([told], '95%')} |"
        )
    for name, pick in (("median", median), ("worst", max)):
        found = [[row["mape"] for row in rows if row["method"] == method] for method in methods]
        yield f"| {name} | | | {' | '.join(f'{pick(values):.2%}' for values in found)} | | |"
