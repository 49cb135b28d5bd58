"""Reads what Nsight Compute measured of a model's kernels: `ncu --csv`, its "raw" and its "details" page.

Files lie in a version's folder, `ncu-b4.csv` for batches of four and `ncu-b4-s128.csv` for four of shape bucket 128.
Each holds the kernels of one batch. Where they took longer than a batch does without the profiler, as with lower clocks
or with several batches in a file, no gaps between kernels are taken to be there.
"""

import csv
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import structlog

from cotenant.executor.phases import Cut, Piece, cut

_log = structlog.get_logger()

_FILE = re.compile(r"ncu-b([1-9][0-9]{0,5})(?:-s([0-9]+))?\.csv")
_NUMBER = re.compile(r"-?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?|-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NS = {"ns": 1, "nsecond": 1, "us": 1e3, "usecond": 1e3, "ms": 1e6, "msecond": 1e6, "s": 1e9, "second": 1e9}
_SM, _L2, _DRAM, _TIME = range(4)
_NAMED = ("SM throughput", "L2 throughput", "DRAM throughput", "duration")
# By metric, and as the sections of the details page call them.
_METRICS = {
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": _SM,
    "Compute (SM) Throughput": _SM,
    "SM Throughput": _SM,
    "lts__throughput.avg.pct_of_peak_sustained_elapsed": _L2,
    "L2 Cache Throughput": _L2,
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": _DRAM,
    "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed": _DRAM,
    "DRAM Throughput": _DRAM,
    "gpu__time_duration.sum": _TIME,
    "Duration": _TIME,
}


class KernelMeans(NamedTuple):
    """Kernels of one batch: means of SM, L2 and DRAM throughput weighted by duration, in [0, 1], and their sum."""

    throughputs: tuple[float, float, float]
    total_ns: float
    kernels: tuple[Piece, ...] = ()  # in their order, without the gaps between them


class KernelProfiles:
    """What was measured of the classes of one version of a model."""

    def __init__(self, means: Mapping[tuple[str, int], KernelMeans]) -> None:
        self._means: dict[str, dict[int, KernelMeans]] = defaultdict(dict)
        for (bucket, size), found in sorted(means.items()):
            self._means[bucket][size] = found

    def demand(self, batch_size: int, shape_bucket: str, work_ns: int) -> Cut | None:
        """Shares of SM, L2 and DRAM over a batch's solo time, in which the gaps between kernels count as idle.

        Between two sizes that were measured, kernels' means and sum are interpolated, and phases are those of the
        nearer one. None beyond them, and for a bucket that was not measured.
        """
        known = self._means.get(shape_bucket, {})
        below = max((size for size in known if size <= batch_size), default=0)
        above = min((size for size in known if size >= batch_size), default=0)
        if not below or not above:
            return None
        part = (batch_size - below) / (above - below) if above > below else 0.0
        first, last = known[below], known[above]
        total_ns = _between(first.total_ns, last.total_ns, part)
        busy = min(1.0, total_ns / max(1, work_ns))
        shares = tuple(busy * _between(a, b, part) for a, b in zip(first.throughputs, last.throughputs, strict=True))
        nearer = first if part < 0.5 else last
        if not nearer.kernels:
            return Cut(shares, 0.0, ())
        longer = total_ns / nearer.total_ns
        found = cut(
            [Piece(k.duration_ns / busy, k.kernel_ns, tuple(busy * s for s in k.shares)) for k in nearer.kernels]
        )
        return found.scaled(shares, longer)


def _between(first: float, last: float, part: float) -> float:
    return first + (last - first) * part


def read(folder: Path) -> KernelProfiles | None:
    """What lies in a version's folder; None if nothing does. A file that cannot be read is told in the log."""
    means: dict[tuple[str, int], KernelMeans] = {}
    for path in sorted(folder.glob("ncu-*.csv")):
        try:
            if (named := _FILE.fullmatch(path.name)) is None:
                raise ValueError("its name is not ncu-bSIZE.csv or ncu-bSIZE-sBUCKET.csv")
            with path.open(encoding="utf-8", newline="") as lines:
                means[named[2] or "", int(named[1])] = kernel_means(lines)
        except (OSError, ValueError, csv.Error) as error:
            _log.warning("Nsight profile cannot be used", path=str(path), error=str(error))
    return KernelProfiles(means) if means else None


def kernel_means(lines: Iterable[str]) -> KernelMeans:
    """Means of what `ncu --csv` printed, on either page. Raises ValueError that names the line."""
    reader = csv.reader(lines)
    rows = ((reader.line_num, row) for row in reader)
    header = next((row for _, row in rows if "ID" in row and "Kernel Name" in row), None)
    if header is None:
        raise ValueError("no line is the header of a table (with ID and Kernel Name): was it printed with --csv?")
    cells = _detailed(_full(rows, header), header) if "Metric Name" in header else _raw(_full(rows, header), header)
    kernels: dict[str, dict[int, float]] = {}
    for line, kernel, metric, value, unit in cells:
        kernels.setdefault(kernel, {})[metric] = _number(value, unit, metric, line)
    if not kernels:
        raise ValueError(f"line {reader.line_num}: the table ends here and has no kernel")
    for kernel, found in kernels.items():
        if missing := [_NAMED[metric] for metric in range(4) if metric not in found]:
            raise ValueError(f"kernel {kernel} has no {', '.join(missing)}")
    total_ns = sum(found[_TIME] for found in kernels.values())
    if total_ns <= 0:
        raise ValueError("its kernels took no time")
    sm, l2, dram = (sum(found[m] * found[_TIME] for found in kernels.values()) / total_ns for m in (_SM, _L2, _DRAM))
    pieces = [Piece(k[_TIME], k[_TIME], (k[_SM], k[_L2], k[_DRAM])) for k in kernels.values() if k[_TIME]]
    return KernelMeans((sm, l2, dram), total_ns, tuple(pieces))


_Rows = Iterator[tuple[int, list[str]]]  # with the numbers of their lines
_Cells = Iterator[tuple[int, str, int, str, str]]  # line, kernel, metric, value, unit


def _raw(rows: _Rows, header: Sequence[str]) -> _Cells:
    """A column for each metric; the line below the header tells their units."""
    columns = {i: _METRICS[name] for i, name in enumerate(header) if name in _METRICS}
    kernel = header.index("ID")
    _, units = next(rows, (0, header))
    for line, row in rows:
        if units[kernel]:
            raise ValueError(f"line {line - 1}: expected the units of the columns, below their names")
        for i, metric in columns.items():
            yield line, row[kernel], metric, row[i], units[i]


def _detailed(rows: _Rows, header: Sequence[str]) -> _Cells:
    """A line for each metric of a kernel."""
    if missing := [name for name in ("Metric Unit", "Metric Value") if name not in header]:
        raise ValueError(f"the header of the table has no {' and no '.join(missing)}")
    kernel, name, unit, value = (header.index(c) for c in ("ID", "Metric Name", "Metric Unit", "Metric Value"))
    for line, row in rows:
        if (metric := _METRICS.get(row[name])) is not None:
            yield line, row[kernel], metric, row[value], row[unit]


def _full(rows: _Rows, header: Sequence[str]) -> _Rows:
    """Rows of the table, without what ncu says of itself in between."""
    for line, row in rows:
        if not row or row[0].startswith("=="):
            continue
        if len(row) != len(header):
            raise ValueError(f"line {line}: {len(row)} columns, expected {len(header)}")
        yield line, row


def _number(text: str, unit: str, metric: int, line: int) -> float:
    """A share in [0, 1], or a duration in ns. Raises ValueError."""
    if not _NUMBER.fullmatch(text.strip()):
        raise ValueError(f"line {line}: {_NAMED[metric]} is {text!r}, expected a number like 1,234.5")
    value = float(text.strip().replace(",", ""))
    if value < 0 or not math.isfinite(value):
        raise ValueError(f"line {line}: {_NAMED[metric]} is {text}, expected 0 or more")
    if metric == _TIME:
        if unit not in _NS:
            raise ValueError(f"line {line}: duration is in {unit!r}, expected one of {', '.join(_NS)}")
        return value * _NS[unit]
    if unit != "%":
        raise ValueError(f"line {line}: {_NAMED[metric]} is in {unit!r}, expected %")
    return min(1.0, value / 100)
