"""Plots of simulations as SVG files: attainment against rate, burstiness, SLO and devices, and DISB's three metrics."""

from collections.abc import Callable, Sequence
from pathlib import Path

from cotenant.cli.evaluate_plots import Axis, Line, draw
from cotenant.cli.simulate_table import grouped, mean
from cotenant.scheduler.simulation.study import Row

Value = Callable[[Row], float | None]

_AXES: dict[str, tuple[str, Value]] = {
    "rate": ("multiple of the world's rates", lambda row: row.rate),
    "burstiness": ("coefficient of variation of the gaps between arrivals", lambda row: row.cv),
    "slo": ("multiple of the world's SLOs", lambda row: row.slo),
    "devices": ("devices", lambda row: float(row.devices)),
}
_OVER_RATE: dict[str, tuple[str, str, Value]] = {
    "goodput-rate": ("Requests answered in time", "per second", lambda row: row.goodput_per_s),
    "realtime-latency-rate": ("Latency of requests with an SLO", "mean, ms", lambda row: row.realtime_ms),
    "realtime-increase-rate": (
        "Latency of requests with an SLO above what they take alone",
        "mean increase",
        lambda row: row.realtime_increase,
    ),
    "throughput-rate": ("Requests answered", "per second", lambda row: row.throughput_per_s),
}


def write(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Writes a plot for everything that was varied; returns their files."""
    folder.mkdir(parents=True, exist_ok=True)
    plots: dict[str, str] = {}
    for name, (title, value) in _AXES.items():
        own = _varied(rows, name)
        if own:
            share = Axis("SLO attainment", 0.0, 1.0, percent=True)
            heading = f"Share of requests answered in time, over the {'SLO scale' if name == 'slo' else name}"
            plots[f"attainment-{name}"] = _plot(heading, title, share, own, value, lambda row: row.attainment)
    if over_rate := _varied(rows, "rate"):
        for name, (heading, unit, value) in _OVER_RATE.items():
            highest = max((value(row) or 0.0 for row in over_rate), default=0.0)
            along = Axis(unit, 0.0, highest * 1.05 or 1.0, percent="increase" in name)
            plots[name] = _plot(heading, _AXES["rate"][0], along, over_rate, _AXES["rate"][1], value)
    written: list[Path] = []
    for name, text in plots.items():
        if text:
            path = folder / f"{name}.svg"
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written


def _varied(rows: Sequence[Row], axis: str) -> list[Row]:
    """Rows that differ in one thing alone, if they do; the others are as the world has them."""
    devices = min((row.devices for row in rows if (row.rate, row.cv, row.slo) != (1.0, None, 1.0)), default=0)
    base = {"rate": 1.0, "burstiness": None, "slo": 1.0, "devices": devices}
    own: list[Row] = []
    for row in rows:
        found = {"rate": row.rate, "burstiness": row.cv, "slo": row.slo, "devices": row.devices}
        others = (key for key in base if key != axis and (key != "devices" or devices))
        if all(found[key] == base[key] for key in others):
            own.append(row)
    values = {_AXES[axis][1](row) for row in own} - {None}
    return [row for row in own if _AXES[axis][1](row) is not None] if len(values) > 1 else []


def _plot(heading: str, title: str, up: Axis, rows: Sequence[Row], across: Value, value: Value) -> str:
    lines: dict[str, list[tuple[float, float]]] = {}
    for (policy, *_), group in grouped(rows).items():
        x, y = across(group[0]), mean(group, value)
        if x is not None and y is not None:
            lines.setdefault(policy, []).append((x, y))
    xs = [x for points in lines.values() for x, _ in points]
    if not xs:
        return ""
    low = min(xs)
    along = Axis(title, low, max(xs) if max(xs) > low else low + 1.0)
    return draw(heading, along, up, [Line(name, sorted(points)) for name, points in lines.items()], dots=True)
