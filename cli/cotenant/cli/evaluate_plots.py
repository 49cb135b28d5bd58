"""Plots of an evaluation as SVG files that need nothing else: error CDF, error over time, coverage over time."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cotenant.cli.evaluate_result import EvaluationResult, PredictorResult

_WIDTH, _HEIGHT = 760, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 190, 40, 44
_LEGEND = 24  # characters there is room for
# Okabe and Ito's colours, which people of all kinds of sight can tell apart; then the same, dashed.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
_DASHES = ("", "6 3", "2 2")

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Line:
    """A named line of a plot."""

    name: str
    points: Points


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: what it is, and how its values look."""

    title: str
    low: float
    high: float
    log: bool = False
    percent: bool = False

    def at(self, value: float) -> float:
        """Where a value lies, 0 to 1."""
        if self.log:
            value = max(value, self.low)
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Values to mark."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [m * 10.0**d for d in decades for m in (1, 3)]
            return [v for v in found if self.low <= v <= self.high]
        step = _step(self.high - self.low)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def text(self, value: float) -> str:
        """How a value is written."""
        return f"{value * 100:.4g}%" if self.percent else f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}"


def _step(span: float) -> float:
    rough = span / 6
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough)


def write(result: EvaluationResult, folder: Path) -> list[Path]:
    """Writes the plots there are numbers for; returns their files."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = result.predictors
    drawn = {
        "error-cdf-launch": _cdf("Forecast at launch: relative error", rows, launch=True),
        "error-cdf-explained": _cdf("Explained afterwards: relative error", rows, launch=False),
        "error-over-time-launch": _over_time("Forecast at launch: rolling median error", result, launch=True),
        "error-over-time-explained": _over_time("Explained afterwards: rolling median error", result, launch=False),
    }
    for i, level in enumerate(result.levels):
        drawn[f"coverage-over-time-{level:g}"] = _coverage(result, i, level)
    written: list[Path] = []
    for name, text in drawn.items():
        if text:
            path = folder / f"{name}.svg"
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written


def _cdf(title: str, rows: Sequence[PredictorResult], *, launch: bool) -> str:
    lines: list[Line] = []
    for row in rows:
        values = row.series.launch_percentiles if launch else row.series.explained_percentiles
        lines.append(Line(row.name, [(value, i / 100) for i, value in enumerate(values)]))
    across = Axis("relative error of the duration", 0.001, 2.0, log=True, percent=True)
    return draw(title, across, Axis("share of batches", 0.0, 1.0, percent=True), lines)


def _over_time(title: str, result: EvaluationResult, *, launch: bool) -> str:
    lines = [Line(r.name, r.series.launch if launch else r.series.explained) for r in result.predictors]
    highest = max((y for line in lines for _, y in line.points), default=0.1)
    along = Axis("batches", 0, max(2, result.batches))
    return draw(title, along, Axis("relative error", 0.0, max(0.01, highest), percent=True), lines)


def _coverage(result: EvaluationResult, index: int, level: float) -> str:
    lines = [Line(row.name, row.series.coverage[index]) for row in result.predictors]
    lowest = min((y for line in lines for _, y in line.points), default=level)
    along = Axis("batches", 0, max(2, result.batches))
    share = Axis("share within the bound", min(lowest, level - (1 - level)), 1.0, percent=True)
    return draw(f"Share of 501 neighbouring batches within the {level:.4g} bound", along, share, lines, mark=level)


def draw(title: str, x: Axis, y: Axis, lines: Sequence[Line], *, mark: float | None = None, dots: bool = False) -> str:
    """A plot with one line per predictor and a legend; "" if no line has points.

    `mark` is a level to compare with; `dots` shows each point.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    height = max(_HEIGHT, _TOP + _BOTTOM + 16 * len(lines))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        'font-size="11" role="img">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="22" font-size="14" font-weight="bold">{html.escape(title)}</text>',
        *_axes(x, y, height),
    ]
    if mark is not None:
        at = _down(y, mark, height)
        parts.append(f'<path d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}" stroke="#000" stroke-dasharray="3 3"/>')
    for i, line in enumerate(lines):
        colour, dash = _COLOURS[i % len(_COLOURS)], _DASHES[i // len(_COLOURS) % len(_DASHES)]
        style = f'fill="none" stroke="{colour}" stroke-width="1.6" stroke-dasharray="{dash}"'
        places = [(_along(x, a), _down(y, b, height)) for a, b in line.points]
        path = " ".join(f"{across:.1f},{down:.1f}" for across, down in places)
        row = _TOP + 8 + 16 * i
        parts += [
            f'<polyline points="{path}" {style}/>',
            f'<path d="M{_WIDTH - _RIGHT + 12} {row}h22" {style}/>',
            f'<text x="{_WIDTH - _RIGHT + 40}" y="{row + 4}">{html.escape(_short(line.name))}</text>',
        ]
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in places if dots]
    return "\n".join([*parts, "</svg>", ""])


def _short(name: str) -> str:
    return name if len(name) <= _LEGEND else "..." + name[3 - _LEGEND :]


def _along(x: Axis, value: float) -> float:
    return _LEFT + x.at(value) * (_WIDTH - _LEFT - _RIGHT)


def _down(y: Axis, value: float, height: int) -> float:
    return height - _BOTTOM - y.at(value) * (height - _TOP - _BOTTOM)


def _axes(x: Axis, y: Axis, height: int) -> list[str]:
    bottom, middle = height - _BOTTOM, (_LEFT + _WIDTH - _RIGHT) / 2
    parts = [f'<text x="{middle:.0f}" y="{height - 8}" text-anchor="middle">{html.escape(x.title)}</text>']
    parts.append(
        f'<text transform="translate(14 {(_TOP + bottom) / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{html.escape(y.title)}</text>"
    )
    for value in y.ticks():
        at = _down(y, value, height)
        parts.append(f'<path d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{y.text(value)}</text>')
    for value in x.ticks():
        at = _along(x, value)
        parts.append(f'<path d="M{at:.1f} {bottom}v4" stroke="#888"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{x.text(value)}</text>')
    parts.append(f'<path d="M{_LEFT} {_TOP}V{bottom}H{_WIDTH - _RIGHT}" fill="none" stroke="#888"/>')
    return parts
