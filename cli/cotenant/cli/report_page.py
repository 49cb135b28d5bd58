"""The report's page: sections of HTML with numbers in words and tables, and the figures' numbers for its script.

The page is one file that needs nothing else: styles, script and numbers are in it.
"""

import html
import string
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import msgspec

from cotenant.cli import load_table
from cotenant.cli.load_result import ModelResult

_SCRIPTS = ("draw.js", "timeline.js", "figures.js")


@dataclass(frozen=True, slots=True)
class Tile:
    """A number that matters, its unit, what it is, and what to compare it with."""

    value: str
    unit: str
    name: str
    remark: str


def page(
    title: str, subtitle: str, date: datetime, shown: Sequence[Tile], sections: Sequence[str], numbers: dict[str, Any]
) -> str:
    """The whole page."""
    folder = files("cotenant.cli") / "report_assets"
    template = string.Template(folder.joinpath("page.html").read_text(encoding="utf-8"))
    embedded = msgspec.json.encode(numbers).decode().replace("<", "\\u003c")  # no text may end the script
    return template.substitute(
        title=html.escape(title),
        subtitle=html.escape(subtitle),
        date=date.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=folder.joinpath("report.css").read_text(encoding="utf-8"),
        tiles=tiles(shown),
        sections="\n".join(sections),
        footer="Drawn from the recorded log and the load's result by cotenant report. "
        "Times are as measured; where points were sampled, the figure says so.",
        numbers=embedded,
        script="\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in _SCRIPTS),
    )


def section(name: str, heading: str, lead: str, body: str, note: str = "") -> str:
    """A part of the page with an explanation."""
    remark = f'\n<p class="note">{html.escape(note)}</p>' if note else ""
    return (
        f'<section id="section-{name}">\n<h2>{html.escape(heading)}</h2>\n<p class="lead">{html.escape(lead)}</p>\n'
        f"{body}{remark}\n</section>"
    )


def figure(name: str, heading: str, lead: str, note: str = "", *, grid: bool = False) -> str:
    """A part with a figure that the page's script draws."""
    kind = ' class="panels"' if grid else ""
    return section(name, heading, lead, f'<div id="{name}"{kind}></div>', note)


def tiles(shown: Sequence[Tile]) -> str:
    """The numbers that matter, side by side."""
    cells = "\n".join(
        f'<div class="tile"><span>{html.escape(t.name)}</span><b>{html.escape(t.value)}'
        f"<small>{html.escape(t.unit)}</small></b><i>{html.escape(t.remark)}</i></div>"
        for t in shown
    )
    return f'<div class="tiles">\n{cells}\n</div>'


def table(models: Sequence[ModelResult], total: ModelResult) -> str:
    """The load's table."""
    cancelled = total.cancelled > 0
    heads = load_table.heads(cancelled=cancelled)
    head = "".join(f"<th>{html.escape(text.strip()).replace(chr(10), '<br>')}</th>" for text in heads)
    rows = [_row(m, cancelled=cancelled, last=False) for m in models]
    rows += [_row(total, cancelled=cancelled, last=True)] if len(models) > 1 else []
    return (
        f'<div class="scroll"><table class="numbers">\n<thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + "\n</tbody></table></div>"
    )


def _row(model: ModelResult, *, cancelled: bool, last: bool) -> str:
    cells = load_table.cells(model, cancelled=cancelled, times=not last)
    made: list[str] = []
    for i, text in enumerate(cells):
        zero = ' class="zero"' if text in ("0", "-") else ""
        bar = ""
        if i == 4 and model.attainment is not None:
            bar = f'<span class="bar"><i style="width:{model.attainment:.1%}"></i></span>'
        made.append(f"<td{zero}>{html.escape(text)}{bar}</td>")
    return f"<tr{' class=' + chr(34) + 'total' + chr(34) if last else ''}>{''.join(made)}</tr>"


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values."""
    cells = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in rows)
    return f'<dl class="facts">{cells}</dl>'


TIMELINE_CONTROLS = (
    '<div class="controls"><button id="timeline-in" title="zoom in">+</button>'
    '<button id="timeline-out" title="zoom out">&minus;</button><button id="timeline-all">whole run</button>'
    '<output id="timeline-span"></output></div>\n<div id="timeline"></div>'
)
