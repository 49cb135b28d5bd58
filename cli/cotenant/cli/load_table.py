"""The load's table for people, and its progress while it runs."""

import asyncio
import math
import sys
from collections.abc import Sequence
from time import monotonic_ns

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cotenant.cli.load_client import Outcome
from cotenant.cli.load_result import LoadResult, ModelResult
from cotenant.cli.load_run import Run

_COUNTED = (
    (Outcome.IN_TIME, "in time", "green"),
    (Outcome.LATE, "late", "yellow"),
    (Outcome.REFUSED, "refused", "magenta"),
    (Outcome.FAILED, "failed", "red"),
)


WIDE = 112  # columns that the whole table takes with names of usual length
_PIPE = 140  # columns where nobody looks at a screen


def show(console: Console, result: LoadResult) -> None:
    """Prints the table and what is to be said of it; on a narrow terminal it leaves out what matters less."""
    console = console if console.is_terminal else Console(width=_PIPE)
    console.print(table(result, narrow=console.width < WIDE))
    for remark in remarks(result):
        console.print(remark, highlight=False, soft_wrap=True)


def table(result: LoadResult, *, narrow: bool = False) -> Table:
    """One row per model, and one for all."""
    cancelled = result.total.cancelled > 0
    found = Table(box=None, pad_edge=False, padding=(0, 1 if narrow else 2, 0, 0), header_style="bold")
    kept = [i for i, head in enumerate(heads(cancelled=cancelled)) if not (narrow and head in _SPARED)]
    for i in kept:
        head = heads(cancelled=cancelled)[i]
        head = _SHORT.get(head, head) if narrow else head
        found.add_column(head, justify="right" if i else "left", no_wrap=True, max_width=15 if narrow else None)
    rows = list(result.models) + ([result.total] if len(result.models) > 1 else [])
    for model in rows:
        last = model is result.total
        row = cells(model, cancelled=cancelled, times=not last)
        found.add_row(*(row[i] for i in kept), style="bold" if last else "")
    return found


_SPARED = {"SLO\nms", "error\np95"}
_SHORT = {
    "offered\n": "of-\nfered",
    "in time\n": "in\ntime",
    "refused\n": "re-\nfused",
    "failed\n": "fai-\nled",
    "cancelled\n": "can-\ncelled",
    "co-\nrunners": "co-\nrun",
    "predicted\nms": "pred.\nms",
    "measured\nms": "meas.\nms",
    "error\nmedian": "er-\nror",
}


def heads(*, cancelled: bool) -> list[str]:
    """What the columns are, over two lines each."""
    found = ["model\n", "SLO\nms", "offered\n", "in time\n", "\n", "late\n", "refused\n", "failed\n"]
    found += ["cancelled\n"] if cancelled else []
    return [
        *found,
        "p50\nms",
        "p99\nms",
        "co-\nrunners",
        "predicted\nms",
        "measured\nms",
        "error\nmedian",
        "error\np95",
    ]


def cells(m: ModelResult, *, cancelled: bool, times: bool) -> list[str]:
    """A row of the table. `times` is false where percentiles would mix models of different speeds."""
    slo = f"{m.slo_ms:.0f}" if m.slo_ms else "-"
    found = [m.model, slo, str(m.offered), str(m.in_time), attainment_text(m.attainment)]
    found += [str(m.late), str(m.refused), str(m.failed), *([str(m.cancelled)] if cancelled else [])]
    found += [_ms(m.latency.p50_ms), _ms(m.latency.p99_ms)] if m.latency and times else ["-", "-"]
    if (f := m.forecasts) is None:
        return [*found, "-", "-", "-", "-", "-"]
    medians = [_ms(f.predicted_ms), _ms(f.measured_ms)] if times else ["-", "-"]
    return [*found, f"{f.co_runners:.2f}", *medians, _share(f.error_median), _share(f.error_p95)]


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def attainment_text(share: float | None) -> str:
    """A share as people read it: 100% only where nothing was missed."""
    return "-" if share is None else "100%" if share >= 1 else f"{math.floor(share * 1000) / 10:.1f}%"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def remarks(result: LoadResult) -> list[str]:
    """What the table does not show: why requests were refused or failed, and whether the sender kept up."""
    total, lag = result.total, result.lag
    told: list[str] = []
    if total.reasons:
        told.append("refused: " + ", ".join(f"{count} {reason}" for reason, count in total.reasons.items()))
    if total.statuses:
        told.append("failed: " + ", ".join(f"{count} {status}" for status, count in total.statuses.items()))
    told.append(f"sent late by {lag.p99_ms:.2f} ms at the 99th percentile, {lag.max_ms:.1f} ms at most")
    if not lag.small:
        told.append(
            "warning: the sender did not keep up with its schedule, and latencies contain that delay; "
            "lower the rate or run it on a machine of its own"
        )
    return told


class Display:
    """Live counts: a bar on a terminal, else a line every few seconds. Draws in between sends, briefly."""

    def __init__(self, run: Run, names: Sequence[str], total_s: float, console: Console) -> None:
        self._run, self._names, self._total_s, self._console = run, names, total_s, console

    async def show(self) -> None:
        """Until it is cancelled."""
        if self._console.is_terminal:
            await self._bar()
        else:
            await self._lines()

    async def _bar(self) -> None:
        columns = (TextColumn("load"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[counts]}"))
        with Progress(*columns, console=self._console, auto_refresh=False, transient=True) as progress:
            task = progress.add_task("load", total=self._total_s, counts="")
            while True:
                progress.update(task, completed=self._elapsed_s(), counts=self._counts(colour=True), refresh=True)
                await asyncio.sleep(0.25)

    async def _lines(self) -> None:
        while True:
            await asyncio.sleep(5.0)
            print(f"load: {self._elapsed_s():.0f} of {self._total_s:.0f} s, {self._counts()}", file=sys.stderr)

    def _elapsed_s(self) -> float:
        return min(self._total_s, max(0.0, (monotonic_ns() - self._run.started_ns) / 1e9))

    def _counts(self, *, colour: bool = False) -> str:
        sums = [sum(column) for column in zip(*self._run.counts, strict=True)]
        parts = [
            f"[{shade}]{sums[outcome]} {text}[/]" if colour else f"{sums[outcome]} {text}"
            for outcome, text, shade in _COUNTED
        ]
        return ", ".join(parts) if sum(sums) else "warming up"
