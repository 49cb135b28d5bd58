"""What simulations found, for people: means over seeds, one line for each policy and point."""

from collections.abc import Callable, Sequence
from statistics import fmean

from rich.console import Console
from rich.table import Table

from cotenant.scheduler.simulation.search import Found
from cotenant.scheduler.simulation.study import Row

_PIPE = 200  # columns where nobody looks at a screen

Key = tuple[str, float, float | None, float, int]


def grouped(rows: Sequence[Row]) -> dict[Key, list[Row]]:
    """Rows that differ in their seed only."""
    found: dict[Key, list[Row]] = {}
    for row in rows:
        found.setdefault((label(row), row.rate, row.cv, row.slo, row.devices), []).append(row)
    return found


def label(row: Row) -> str:
    """A policy with its predictor."""
    return f"{row.policy}:{row.predictor}" if row.predictor else row.policy


def mean(rows: Sequence[Row], value: Callable[[Row], float | None]) -> float | None:
    """Over seeds; None where a figure is missing."""
    told = [value(row) for row in rows]
    known = [one for one in told if one is not None]
    return fmean(known) if len(known) == len(told) else None


def show(console: Console, rows: Sequence[Row]) -> None:
    """Prints the table and what is to be said of it."""
    console = console if console.is_terminal else Console(width=_PIPE)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for i, head in enumerate(_HEADS):
        table.add_column(head, justify="right" if i else "left", no_wrap=True)
    groups = grouped(rows)
    for key, group in groups.items():
        table.add_row(*_cells(key, group))
    console.print(table)
    if any(row.tenants for row in rows):
        console.print(_tenants(groups))
    seeds = max(len(group) for group in groups.values())
    told = f"means of {seeds} seeds; a refusal is a miss" if seeds > 1 else "a refusal is a miss"
    console.print(f"{told}; real-time are requests with an SLO", highlight=False)


_HEADS = (
    "policy\n",
    "rate\n",
    "CV\n",
    "SLO\nscale",
    "devices\n",
    "offered\n/s",
    "in time\n",
    "of seeds\nleast, most",
    "goodput\n/s",
    "late\n",
    "refused\n",
    "real-time\nms",
    "above\nalone",
    "answered\n/s",
    "co-\nrunners",
    "error\nmedian",
    "within\nbound",
    "requests/\nCPU s",
)


def _cells(key: Key, rows: Sequence[Row]) -> list[str]:
    policy, rate, cv, slo, devices = key
    shares = [row.attainment for row in rows]
    seconds = mean(rows, lambda r: r.in_time / r.goodput_per_s if r.goodput_per_s else None)
    offered = mean(rows, lambda r: r.offered / seconds if seconds else None)
    spread = f"{_share(min(shares))}, {_share(max(shares))}" if len(rows) > 1 else "-"
    return [
        policy,
        f"{rate:g}",
        "-" if cv is None else f"{cv:g}",
        f"{slo:g}",
        str(devices),
        _number(offered),
        _share(fmean(shares)),
        spread,
        _number(mean(rows, lambda r: r.goodput_per_s)),
        _number(mean(rows, lambda r: r.late)),
        _number(mean(rows, lambda r: r.refused)),
        _number(mean(rows, lambda r: r.realtime_ms)),
        _share(mean(rows, lambda r: r.realtime_increase)),
        _number(mean(rows, lambda r: r.throughput_per_s)),
        _number(mean(rows, lambda r: r.co_runners), "{:.2f}"),
        _share(mean(rows, lambda r: r.forecast_error)),
        _share(mean(rows, lambda r: r.within_bound)),
        _number(mean(rows, lambda r: r.offered / r.cpu_s if r.cpu_s else None)),
    ]


def _tenants(groups: dict[Key, list[Row]]) -> Table:
    """A line for each tenant of each policy and point."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    heads = ("policy", "rate", "tenant", "weight", "offered", "in time", "late", "refused", "over quota", "work")
    for head in (*heads, "p50 ms", "p99 ms"):
        table.add_column(head, justify="left" if head in ("policy", "tenant") else "right", no_wrap=True)
    for (policy, rate, *_), rows in groups.items():
        for name in sorted({tenant.tenant for row in rows for tenant in row.tenants}):
            told = [tenant for row in rows for tenant in row.tenants if tenant.tenant == name]
            offered = sum(tenant.offered for tenant in told)
            table.add_row(
                policy,
                f"{rate:g}",
                name,
                f"{told[0].weight:g}",
                _number(offered / len(rows)),
                _share(sum(tenant.in_time for tenant in told) / offered if offered else None),
                *(
                    _number(fmean(getattr(tenant, what) for tenant in told))
                    for what in ("late", "refused", "over_quota")
                ),
                _share(_known_mean([tenant.work_share for tenant in told])),
                _number(_known_mean([tenant.p50_ms for tenant in told])),
                _number(_known_mean([tenant.p99_ms for tenant in told])),
            )
    return table


def _known_mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _number(value: float | None, form: str = "") -> str:
    if value is None:
        return "-"
    return form.format(value) if form else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def show_found(console: Console, found: Sequence[Found], what: str) -> None:
    """Prints where each policy reaches the target."""
    console = console if console.is_terminal else Console(width=_PIPE)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for i, head in enumerate(("policy", what, "requests/s", "in time")):
        table.add_column(head, justify="right" if i else "left", no_wrap=True)
    for one in found:
        value = f"{one.value:.4g}" if one.value else "not reached"
        table.add_row(one.policy, value, _number(one.requests_per_s or None), _share(one.attainment))
    console.print(table)
