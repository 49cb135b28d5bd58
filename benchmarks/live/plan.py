"""In which order servers are started and loaded, how long that takes, and what is left to do.

A *visit* starts one server, sends it loads, and stops it. First every mix is prepared: Triton is tuned in a sweep, and
our predictor learns for as long. Then come passes in order of importance: the contenders at every load, the same again
in reverse order with other arrivals (A B C, then C B A), and the other policies near and beyond saturation, one policy
after the other. What was measured before is not measured again, so that a run that was cut off goes on where it was.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from mixes import Mix
from points import WARMUP_S, Point
from sides import TRITON
from triton_repository import Tuning

CONTENDERS = ("goodput", TRITON, "exclusive-fifo")
OTHERS = ("edf", "triton", "edf-fixed", "clockwork", "orion", "gpulets", "seed-paper")
SWEEP = (Tuning(1), Tuning(2), Tuning(4))
SWEEP_S = 3.0
# What a server takes to start and stop, and a point beyond its load and warm-up, where nothing tells better: seconds
# on 2 cores of an AMD EPYC.
OURS_S, TRITON_S, POINT_S = 5.0, 7.5, 1.3

Has = Callable[[str], bool]  # whether something of this key is known already


@dataclass(frozen=True)
class Visit:
    """See the module's text. Without points it tunes Triton, or has our predictor learn."""

    mix: Mix
    side: str
    points: tuple[Point, ...] = ()

    @property
    def key(self) -> str:
        """Of a preparation, among what is kept."""
        return f"{self.mix.name}/{'tuning' if self.side == TRITON else 'learned'}"

    def seconds(self, point_s: float) -> float:
        """How long it takes, about, where one point is loaded for so long."""
        start_s = TRITON_S if self.side == TRITON else OURS_S
        if self.points:
            return start_s + len(self.points) * (point_s + WARMUP_S + POINT_S)
        loads = len(SWEEP)
        starts = loads if self.side == TRITON else 4  # models are measured alone at our first start
        return starts * start_s + loads * (SWEEP_S + WARMUP_S + POINT_S)


def visits(mixes: Sequence[Mix], policies: Collection[str], seeds: Sequence[int]) -> Iterator[Visit]:
    """All visits, the most important first. `policies` are ours that take part; tritonserver always does."""
    main = [side for side in CONTENDERS if side == TRITON or side in policies]
    for mix in mixes:
        yield Visit(mix, TRITON)
        yield Visit(mix, "goodput")
    for number, seed in enumerate(seeds):
        backwards = number % 2 == 1
        for mix in reversed(mixes) if backwards else mixes:
            for side in reversed(main) if backwards else main:
                scales = reversed(mix.scales) if backwards else mix.scales
                yield Visit(mix, side, tuple(Point(mix.name, side, scale, seed) for scale in scales))
    for side in OTHERS:
        for mix in mixes:
            if side in policies:
                yield Visit(mix, side, tuple(Point(mix.name, side, scale, seeds[0]) for scale in mix.scales[-2:]))


def remaining(planned: Sequence[Visit], has: Has) -> list[Visit]:
    """What of a plan is still to be done; a visit keeps the points that are not known."""
    left: list[Visit] = []
    for visit in planned:
        if not visit.points:
            if not has(visit.key):
                left.append(visit)
        elif points := tuple(point for point in visit.points if not has(point.key)):
            left.append(Visit(visit.mix, visit.side, points))
    return left


def within(left: Sequence[Visit], point_s: float, budget_s: float) -> list[Visit]:
    """As much of it, from the front, as fits; one visit at least, if there is any."""
    taken: list[Visit] = []
    spent_s = 0.0
    for visit in left:
        spent_s += visit.seconds(point_s)
        if taken and spent_s > budget_s:
            break
        taken.append(visit)
    return taken


def estimate(left: Sequence[Visit], point_s: float) -> float:
    """Seconds that these visits take, about."""
    return sum(visit.seconds(point_s) for visit in left)
