"""When both segments of a group are done: an event-driven roll-out, differentiable, for many groups at once.

Theory. Executing a model takes two hands. The *host* issues its operators one after the other, which takes launch
time whatever the GPU does; the *GPU* serves what has been issued. Issued work that waits is the segment's queue.

    a segment without a queue progresses as fast as it is issued: the host is its bottleneck;
    a segment with one progresses as fast as the GPU serves it, 1 alone and `rate(own phase, other's phase) < 1`
    beside another that keeps the GPU busy; the host runs ahead meanwhile.

Beside a segment that is busy only a share b of the time, capacity is 1 - b (1 - rate). Within a phase all speeds are
constant, so time jumps from event to event: a phase issued, a phase served, a queue drained. The makespan is the sum
of the jumps until both segments are done. Without launch times (`launch=None`) all work is in the queue from the
start, which is the plain fluid model.

Tensors stack the two sides: [2, rows] or [2, rows, phases]; times in us of solo execution.
"""

from dataclasses import dataclass

import torch


@dataclass
class Segments:
    """What two sides have to do by phase: zero outside [first, last). A side with no work has first == last."""

    launch: torch.Tensor | None  # [2, rows, phases + 1] host time
    work: torch.Tensor  # [2, rows, phases + 1] GPU time
    first: torch.Tensor  # [2, rows]
    last: torch.Tensor  # [2, rows]


def take(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """table[side, row, index[side, row]]."""
    return table.gather(2, index.unsqueeze(2)).squeeze(2)


def makespan(segments: Segments, rate: torch.Tensor, launch_rate: torch.Tensor) -> torch.Tensor:
    """Time until both sides are done, [rows].

    Args:
        segments: what there is to do.
        rate: [2, rows, phases, phases], GPU progress in (0, 1] by own and other's phase while both keep the GPU busy.
        launch_rate: scalar in (0, 1], speed of a host's issuing while the other host issues too.
    """
    first, last, work = segments.first, segments.last, segments.work
    phases = rate.shape[2]
    rate = rate.flatten(2)
    zero, one = torch.zeros_like(work[..., 0]), torch.ones_like(work[..., 0])
    never = torch.full_like(zero, torch.inf)
    if segments.launch is None:
        density, launch = work, work  # of no consequence: nothing is left to issue
        issued, queued = last, first < last
    else:
        launch = segments.launch
        density = work / (launch + 1e-3)  # GPU work that one us of issuing brings
        issued, queued = first, torch.zeros_like(first, dtype=torch.bool)
    serving, done = first, first >= last
    to_issue, to_serve, queue = take(launch, issued), take(work, serving), zero
    elapsed = zero[0]
    for _ in range(6 * phases):
        if bool(done.all()):
            break
        at = serving.clamp(max=phases - 1)
        beside_busy = take(rate, at * phases + at.flip(0))
        issuing = issued < last
        pace = torch.where(issuing.all(0), launch_rate, one)
        arrival = torch.where(issuing, pace * take(density, issued), zero)
        busy = torch.where(done, zero, torch.where(queued, one, (arrival / beside_busy).clamp(max=1.0)))
        capacity = 1.0 - busy.flip(0) * (1.0 - beside_busy)
        overrun = ~queued & ~done & (arrival > capacity)
        to_serve = torch.where(overrun, to_issue * take(density, issued), to_serve)
        queued = queued | overrun
        served = torch.where(queued, capacity, arrival)
        draining = queued & ~overrun & issuing & (capacity > arrival)

        until_issued = torch.where(issuing, to_issue / pace, never)
        until_served = torch.where(queued & (serving < issued), to_serve / capacity, never)
        until_drained = torch.where(draining, queue / torch.where(draining, capacity - arrival, one), never)
        step = torch.minimum(torch.minimum(until_issued, until_served), until_drained).amin(0)
        step = torch.where(torch.isinf(step), zero[0], step)
        elapsed = elapsed + step

        was_issued = until_issued <= step
        was_served = (until_served <= step) & ~was_issued
        was_drained = (until_drained <= step) & ~was_issued
        queue = torch.where(queued & ~was_drained, (queue + (arrival - served) * step).clamp(min=0.0), zero)
        issued = issued + was_issued
        to_issue = torch.where(was_issued, take(launch, issued), (to_issue - step * pace).clamp(min=0.0))
        serving = torch.where(queued, serving + was_served, issued)
        to_serve = torch.where(was_served, take(work, serving), (to_serve - served * step).clamp(min=0.0))
        queued = queued & ~was_drained
        done = done | (serving >= last)
    return elapsed
