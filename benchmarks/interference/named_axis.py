"""An axis along which things stand that have names, at 0, 1, 2 and so on."""

from collections.abc import Sequence
from dataclasses import dataclass

from cotenant.cli.evaluate_plots import Axis


@dataclass(frozen=True, slots=True)
class NamedAxis(Axis):
    """See the module's text; made by `named`."""

    names: tuple[str, ...] = ()

    def ticks(self) -> list[float]:
        return [float(i) for i in range(len(self.names))]

    def text(self, value: float) -> str:
        return self.names[round(value)]


def named(title: str, names: Sequence[str]) -> NamedAxis:
    """With half a place of room on both sides."""
    return NamedAxis(title, -0.5, len(names) - 0.5, names=tuple(names))
