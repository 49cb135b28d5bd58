"""A stretch of a simulation as a picture: for each device, which batches ran beside which."""

import html
from pathlib import Path

from cotenant.cli.evaluate_plots import Axis
from cotenant.scheduler import events as ev
from cotenant.scheduler.simulation.timing import START_NS

_WIDTH, _LEFT, _RIGHT, _TOP, _LANE = 1200, 110, 20, 56, 20
# Okabe and Ito's colours, which people of all kinds of sight can tell apart, lightened for text to stand on.
_COLOURS = ("#7fb8d8", "#f0a66b", "#7fcfb8", "#e0b2cc", "#f3cf7f", "#b3dcf4", "#b8b8b8", "#d8d27f")
_MOST = 5000  # batches of a picture that can still be opened


class Spans:
    """Batches that ran in a stretch, in s from the beginning."""

    def __init__(self, begin_s: float, end_s: float) -> None:
        self._begin_ns, self._end_ns = START_NS + round(begin_s * 1e9), START_NS + round(end_s * 1e9)
        self._found: list[ev.BatchFinished] = []

    def add(self, finished: ev.BatchFinished) -> None:
        """Takes a batch that has run, if it ran in the stretch. Raises ValueError where there are too many."""
        if finished.started_ns < self._end_ns and finished.at_ns > self._begin_ns:
            self._found.append(finished)
            if len(self._found) > _MOST:
                raise ValueError(f"--timeline: more than {_MOST} batches ran in it; choose a shorter stretch")

    def write(self, path: Path) -> None:
        """Draws them."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.draw(), encoding="utf-8")

    def draw(self) -> str:
        """The picture: a row for each batch that a device may run at once, a bar for each batch."""
        lanes = self._lanes()
        devices = sorted({batch.device_id for batch, _ in lanes}, key=lambda name: (len(name), name))
        height_of = {d: 1 + max(lane for batch, lane in lanes if batch.device_id == d) for d in devices}
        tops: dict[str, int] = {}
        down = _TOP
        for device in devices:
            tops[device] = down
            down += height_of[device] * _LANE + 10
        models = sorted({batch.batch_class.model for batch, _ in lanes})
        legend = _TOP + 10 if not devices else down + 30
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {legend + 20 + 18 * (len(models) // 6)}" '
            'font-family="sans-serif" font-size="11" role="img">',
            '<rect width="100%" height="100%" fill="#fff"/>',
            f'<text x="{_LEFT}" y="22" font-size="14" font-weight="bold">Who ran beside whom</text>',
            *self._scale(down),
        ]
        parts += [f'<text x="8" y="{tops[d] + 14}">{html.escape(d)}</text>' for d in devices]
        parts += [self._bar(batch, tops[batch.device_id] + lane * _LANE, models) for batch, lane in lanes]
        for i, model in enumerate(models):
            across, row = _LEFT + i % 6 * 170, legend + i // 6 * 18
            parts.append(f'<rect x="{across}" y="{row - 10}" width="14" height="12" fill="{_colour(i)}"/>')
            parts.append(f'<text x="{across + 20}" y="{row}">{html.escape(model)}</text>')
        return "\n".join([*parts, "</svg>", ""])

    def _lanes(self) -> list[tuple[ev.BatchFinished, int]]:
        """Each batch with the lowest row of its device that is free when it begins."""
        free: dict[str, list[int]] = {}  # by device: until when each row is taken
        found: list[tuple[ev.BatchFinished, int]] = []
        for batch in sorted(self._found, key=lambda b: (b.started_ns, b.batch_id)):
            rows = free.setdefault(batch.device_id, [])
            lane = next((i for i, until_ns in enumerate(rows) if until_ns <= batch.started_ns), len(rows))
            rows[lane : lane + 1] = [batch.at_ns]
            found.append((batch, lane))
        return found

    def _along(self, at_ns: int) -> float:
        share = (at_ns - self._begin_ns) / (self._end_ns - self._begin_ns)
        return _LEFT + min(1.0, max(0.0, share)) * (_WIDTH - _LEFT - _RIGHT)

    def _bar(self, batch: ev.BatchFinished, top: int, models: list[str]) -> str:
        begin, end = self._along(batch.started_ns), self._along(batch.at_ns)
        told = f"{batch.batch_class}, {batch.duration_ns / 1e6:.2f} ms"
        if batch.forecast:
            told += f", forecast {batch.forecast.duration_ns / 1e6:.2f} ms"
        colour = _colour(models.index(batch.batch_class.model))
        inside = f'<text x="{begin + 3:.1f}" y="{top + 13}">x{batch.batch_class.batch_size}</text>'
        return (
            f'<g><title>{html.escape(told)}</title><rect x="{begin:.1f}" y="{top}" width="{max(0.5, end - begin):.1f}" '
            f'height="{_LANE - 3}" fill="{colour}" stroke="#555" stroke-width="0.5"/>'
            f"{inside if end - begin > 26 else ''}</g>"
        )

    def _scale(self, down: int) -> list[str]:
        """Marks of time, in ms from the beginning of the simulation."""
        axis = Axis("", (self._begin_ns - START_NS) / 1e6, (self._end_ns - START_NS) / 1e6)
        parts: list[str] = []
        for value in axis.ticks():
            at = self._along(START_NS + round(value * 1e6))
            parts.append(f'<path d="M{at:.1f} {_TOP - 6}V{down}" stroke="#ddd"/>')
            parts.append(f'<text x="{at:.1f}" y="{_TOP - 10}" text-anchor="middle">{value:,.6g} ms</text>')
        return parts


def _colour(i: int) -> str:
    return _COLOURS[i % len(_COLOURS)]
