"""Cuts a batch's kernels, in the order in which they run, into a few phases in which it asks the same of the device.

Neighbouring kernels are merged as long as that loses least (Ward's criterion on what they demand and how long they
are), so phases are many where a model changes on its way and one where it does not.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from cotenant.runtime.estimates import Phase

MAX_PHASES = 8
# Phases whose merging adds less than this to the squared error of demands are one: 3 % of a resource.
ALIKE = 0.03**2
_CELLS = 64  # that kernels are gathered into first, by time
_GRAIN = 0.1  # how much of a resource a kernel of twice the duration is taken to differ by


class Piece(NamedTuple):
    """A kernel or operator, with what passes until the next one begins."""

    duration_ns: float
    kernel_ns: float  # of which it ran; 0 if it is no kernel of a device
    shares: tuple[float, ...]  # of each resource, mean over `duration_ns`


class Cut(NamedTuple):
    """A batch as its phases tell it: means, and the phases where there is more than one."""

    demand: tuple[float, ...]
    kernel_ns: float
    phases: tuple[Phase, ...]

    def scaled(self, demand: tuple[float, ...], longer: float) -> "Cut":
        """The same course at another demand, with kernels that are so many times as long."""
        scales = [mean / own if own else 1.0 for mean, own in zip(demand, self.demand, strict=True)]
        phases = [
            Phase(
                phase.end,
                tuple([min(1.0, share * scale) for share, scale in zip(phase.demand, scales, strict=True)]),
                phase.kernel_ns * longer,
            )
            for phase in self.phases
        ]
        return Cut(demand, self.kernel_ns * longer, tuple(phases))


class _Segment(NamedTuple):
    duration_ns: float
    kernels: float
    kernel_ns: float  # of all of them
    busy_ns: tuple[float, ...]  # by resource

    def joined(self, other: "_Segment") -> "_Segment":
        busy_ns = tuple([a + b for a, b in zip(self.busy_ns, other.busy_ns, strict=True)])
        return _Segment(
            self.duration_ns + other.duration_ns,
            self.kernels + other.kernels,
            self.kernel_ns + other.kernel_ns,
            busy_ns,
        )

    @property
    def shares(self) -> tuple[float, ...]:
        return tuple([busy / self.duration_ns for busy in self.busy_ns])

    @property
    def mean_ns(self) -> float:
        return self.kernel_ns / self.kernels if self.kernels else 0.0

    def apart(self, other: "_Segment") -> float:
        """What merging the two adds to the squared error, times time."""
        weight = self.duration_ns * other.duration_ns / (self.duration_ns + other.duration_ns)
        squared = sum((a - b) ** 2 for a, b in zip(self.shares, other.shares, strict=True))
        if self.mean_ns and other.mean_ns:
            squared += (_GRAIN * math.log2(self.mean_ns / other.mean_ns)) ** 2
        return weight * squared


def cut(pieces: Sequence[Piece]) -> Cut:
    """Phases of a batch whose kernels are these. Raises ValueError if they take no time."""
    total_ns = sum(piece.duration_ns for piece in pieces)
    if total_ns <= 0.0:
        raise ValueError("kernels that take no time have no phases")
    segments = _cells(pieces, total_ns)
    while len(segments) > 1:
        losses = [segments[i].apart(segments[i + 1]) for i in range(len(segments) - 1)]
        i = min(range(len(losses)), key=losses.__getitem__)
        if len(segments) <= MAX_PHASES and losses[i] > ALIKE * total_ns:
            break
        segments[i : i + 2] = [segments[i].joined(segments[i + 1])]
    whole = segments[0]
    for segment in segments[1:]:
        whole = whole.joined(segment)
    return Cut(whole.shares, whole.mean_ns, _phases(segments, total_ns) if len(segments) > 1 else ())


def _cells(pieces: Sequence[Piece], total_ns: float) -> list[_Segment]:
    """Runs of kernels that begin within the same 64th of the time."""
    cells: list[_Segment] = []
    last, passed_ns = -1, 0.0
    for piece in pieces:
        if piece.duration_ns <= 0.0:
            continue
        busy_ns = tuple([share * piece.duration_ns for share in piece.shares])
        own = _Segment(piece.duration_ns, 1.0 if piece.kernel_ns else 0.0, piece.kernel_ns, busy_ns)
        number = int(_CELLS * passed_ns / total_ns)
        if number == last:
            cells[-1] = cells[-1].joined(own)
        else:
            cells.append(own)
        last, passed_ns = number, passed_ns + piece.duration_ns
    return cells


def _phases(segments: Sequence[_Segment], total_ns: float) -> tuple[Phase, ...]:
    phases: list[Phase] = []
    passed_ns = 0.0
    for segment in segments:
        passed_ns += segment.duration_ns
        end = 1.0 if segment is segments[-1] else passed_ns / total_ns
        phases.append(Phase(end, segment.shares, segment.mean_ns))
    return tuple(phases)
