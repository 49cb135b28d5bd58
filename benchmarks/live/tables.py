"""What rows of a head to head come to: lines, a table, plots."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixes import MIXES
from plan import CONTENDERS, OTHERS

from cotenant.cli.evaluate_plots import Axis, Line, draw

Row = dict[str, Any]
OTHER_LOAD = 0.15  # cores; more than this beside a point is worth a remark


def line(row: Row) -> str:
    """One point in words."""
    other = f", {row['other_cores']:.2f} cores of other load" if row["other_cores"] > OTHER_LOAD else ""
    return (
        f"{row['mix']} x{row['scale']:g}, {row['side']}: {row['attainment']:.1%} of {row['offered']} in time, "
        f"goodput {row['goodput']:.0f}/s, p99 {told(row['p99_ms'])} ms, {row['cpu_us_per_request']:.0f} us of CPU "
        f"a request{other}"
    )


def told(value: float | None) -> str:
    """A figure of three digits, or a dash."""
    return "-" if value is None else f"{value:.3g}"


def best(tried: Sequence[Row]) -> Row:
    """The one with the highest attainment; of equals that with the shortest 99th percentile."""
    return max(tried, key=lambda row: (row["attainment"], -(row["p99_ms"] or math.inf)))


def cells(rows: Sequence[Row]) -> dict[tuple[str, float, str], list[Row]]:
    """Rows of the same point with different arrivals, by mix, scale and side, in the order of the table."""
    found: dict[tuple[str, float, str], list[Row]] = {}
    order = (*CONTENDERS, *OTHERS)
    names = list(MIXES)
    for row in sorted(rows, key=lambda r: (names.index(r["mix"]), r["scale"], order.index(r["side"]), r["seed"])):
        found.setdefault((row["mix"], row["scale"], row["side"]), []).append(row)
    return found


def mean(cell: Sequence[Row], name: str) -> float | None:
    """Mean of what was measured; None of nothing."""
    values = [row[name] for row in cell if row[name] is not None]
    return statistics.fmean(values) if values else None


def table(rows: Sequence[Row]) -> str:
    """Means over arrivals, as Markdown; the best attainment of a point is bold."""
    titles = "mix, offered/s, server, in time, lowest to highest, goodput/s, late, refused, p99 ms, CPU us/request"
    head = titles.split(", ")
    text = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    found = cells(rows)
    for (mix, scale, side), cell in found.items():
        shares = [row["attainment"] for row in cell]
        rivals = [mean(c, "attainment") for (m, s, _), c in found.items() if (m, s) == (mix, scale)]
        share = f"{statistics.fmean(shares):.1%}"
        share = f"**{share}**" if statistics.fmean(shares) == max(rivals, key=lambda r: r or 0.0) else share
        rate = sum(row["offered"] / row["seconds"] for row in cell) / len(cell)
        lost = [row["refused"] + row["failed"] + row["cancelled"] for row in cell]
        late, goodput, p99, cpu = (mean(cell, key) for key in ("late", "goodput", "p99_ms", "cpu_us_per_request"))
        text.append(
            f"| {mix} | {rate:.0f} | {side} | {share} | {min(shares):.1%} to {max(shares):.1%} | {goodput:.0f} "
            f"| {late:.0f} | {statistics.fmean(lost):.0f} | {told(p99)} | {cpu:.0f} |"
        )
    return "\n".join(text)


def about(rows: Sequence[Row], prepared: Mapping[str, Any]) -> str:
    """What Triton was tuned to, and how much else ran meanwhile, in words."""
    told = []
    for mix in dict.fromkeys(row["mix"] for row in rows):
        if tuned := prepared.get(f"{mix}/tuning"):
            tried = ", ".join(f"{one['instances']}: {one['attainment']:.1%}" for one in tuned["tried"])
            told.append(f"{mix} {tuned['best']['instances']} (in time at the sweep's load with {tried})")
    other = [row["other_cores"] for row in rows]
    lag = max(row["sent_late_p99_ms"] for row in rows)
    return (
        f"Instances of each model in Triton: {'; '.join(told) or 'not tuned'}. Other load beside the points: median "
        f"{statistics.median(other):.2f} cores, at most {max(other):.2f}. Requests were sent at most {lag:.1f} ms late "
        "at the 99th percentile."
    )


def plots(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Attainment and goodput over load, one picture for each mix; returns their files."""
    written: list[Path] = []
    for mix in dict.fromkeys(row["mix"] for row in rows):
        for name, title, percent in (("attainment", "SLO attainment", True), ("goodput", "goodput, requests/s", False)):
            lines: dict[str, list[tuple[float, float]]] = {}
            for (of, scale, side), cell in cells(rows).items():
                if of == mix:
                    lines.setdefault(side, []).append((scale * MIXES[mix].rate, mean(cell, name) or 0.0))
            points = [point for some in lines.values() for point in some]
            across = Axis("offered, requests/s", 0.0, max(x for x, _ in points) * 1.02)
            up = Axis(title, 0.0, 1.0 if percent else max(1.0, *(y for _, y in points)) * 1.05, percent=percent)
            path = folder / f"head-to-head-{mix}-{name}.svg"
            drawn = [Line(side, some) for side, some in lines.items()]
            path.write_text(draw(f"{mix}: {title}", across, up, drawn, dots=True), encoding="utf-8")
            written.append(path)
    return written
