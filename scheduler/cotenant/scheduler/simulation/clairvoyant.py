"""How many requests any policy could answer in time: an upper bound by somebody who knows all arrivals.

*What is relaxed.* The problem itself (which batches, when, beside whom) is hard; three things are given away.

1. Work is divisible and costs what it costs in the batch that is cheapest for it. A law tells for each class what a
   batch takes of the device's budgets (`Law.spent`), of which there is one unit per ns: progress (a device that runs at
   most c batches at once makes at most c units), SMs, DRAM. For prices p >= 0 that sum to 1, the batch takes at least
   p . spent(batch) of a budget of 1 per ns, since the law keeps each budget. So a request needs at least
   cost = min over batch sizes b of p . spent(b) / b, whoever it is batched with. Every p gives a bound; some are tried,
   and the least counts.
2. The devices are one that is so many times as fast, and every model is on it.
3. A request can be answered in part, and a part counts as that part.

What is kept: its cost is paid between its arrival (and the time an order takes) and its deadline (less the time an
answer takes), and there must be room in between for the fastest batch that it could be in.

*Why it bounds.* Take any run of any policy. Give each request that was answered in time the share 1/b of what its
batch spent, when it spent it. These shares lie in its window, are at least its cost, and sum to at most the budget at
every instant. So the run is a feasible point of the relaxed problem, whose optimum is at least as large. Noise is left
out: works are those of the law, and a run in which batches were lucky may exceed the bound by as little as they were.

*How it is solved.* Which amounts of work can be done in their windows on one machine is a polymatroid, so the greedy
is optimal: serve the cheapest requests first, as much as can be done, then add the next, and so on. The most that can
be done for a set of windows is what preemptive earliest-deadline-first does, which drops what is not done at its
deadline (Glover's rule for matchings of intervals). So there is one such pass over the requests for each distinct
cost; costs are rounded down to a few levels, which only raises the bound.
"""

import heapq
import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from cotenant.scheduler.events import Request
from cotenant.scheduler.simulation.laws import Law, work_ns
from cotenant.scheduler.simulation.models import SimulatedModel
from cotenant.scheduler.simulation.timing import Delays

GRID = 8  # prices are multiples of one over this
TRIED = 3  # of the prices, those at which all requests together cost most
LEVELS = 12  # of costs; neighbours differ by a constant factor


class Bound(NamedTuple):
    """At most `in_time` of the requests offered could be answered in time."""

    offered: int
    in_time: int


class Window(NamedTuple):
    """From when to when a request can be worked on, and whose it is."""

    begin_ns: int
    end_ns: int
    model: int


def bound(
    requests: Iterable[Request], models: Sequence[SimulatedModel], law: Law, devices: int, delays: Delays
) -> Bound:
    """See the module's text. Requests are in the order of their arrival, of one item each."""
    index = {model.name: i for i, model in enumerate(models)}
    fastest = [min(work_ns(law, known) for known in model.classes()) for model in models]
    offered = free = 0
    windows: list[Window] = []
    for request in requests:
        offered += 1
        model = index[request.model]
        begin_ns, end_ns = request.arrival_ns + delays.order_ns, request.deadline_ns - delays.answer_ns
        if not request.deadline_ns:
            free += 1  # it can wait for ever
        elif begin_ns + fastest[model] <= end_ns:
            windows.append(Window(begin_ns, end_ns, model))
    counts = [0] * len(models)
    for window in windows:
        counts[window.model] += 1
    options = [[law.spent(known) for known in model.classes()] for model in models]
    found = float(len(windows))
    for costs in _dearest(options, counts):
        found = min(found, _served(windows, costs, devices))
    return Bound(offered, free + int(found + 1e-6))


def _dearest(options: Sequence[Sequence[tuple[float, ...]]], counts: Sequence[int]) -> list[list[float]]:
    """Costs of each model's requests at the prices at which all requests together cost most."""
    budgets = len(options[0][0])
    ranked = sorted(
        ([_cost(batches, prices) for batches in options] for prices in _prices(budgets)),
        key=lambda costs: -sum(count * cost for count, cost in zip(counts, costs, strict=True)),
    )
    return ranked[:TRIED]


def _prices(budgets: int) -> Iterator[tuple[float, ...]]:
    for parts in itertools.product(range(GRID + 1), repeat=budgets):
        if sum(parts) == GRID:
            yield tuple([part / GRID for part in parts])


def _cost(batches: Sequence[tuple[float, ...]], prices: Sequence[float]) -> float:
    """What a request takes at least, in ns of one device."""
    return min(
        sum(price * spent for price, spent in zip(prices, batch, strict=True)) / size
        for size, batch in enumerate(batches, 1)
    )


def _served(windows: Sequence[Window], costs: Sequence[float], devices: int) -> float:
    """Requests that can be served in their windows by so many devices, parts counted as parts."""
    rounded = _levels([cost / devices for cost in costs])
    levels = sorted(set(rounded))
    served = before = 0.0
    for level in levels:
        done = most_done([w for w in windows if rounded[w.model] <= level], rounded)
        served += (done - before) / level
        before = done
    return served


def _levels(costs: Sequence[float]) -> list[float]:
    """Costs rounded down to at most LEVELS values."""
    if len(set(costs)) <= LEVELS:
        return list(costs)
    least, most = min(costs), max(costs)
    factor = (most / least) ** (1.0 / LEVELS)
    edges = [least * factor**i for i in range(LEVELS)]
    return [max(edge for edge in edges if edge <= cost * (1.0 + 1e-12)) for cost in costs]


def most_done(windows: Sequence[Window], costs: Sequence[float]) -> float:
    """The most work, in ns, that one machine can do on these requests, each up to its cost and within its window.

    Windows are in the order of their begins.
    """
    waiting: list[tuple[int, int]] = []  # (end, number), the next to end first
    left = array("d", [costs[window.model] for window in windows])
    done, now_ns = 0.0, 0.0
    upcoming = 0
    while waiting or upcoming < len(windows):
        if not waiting:
            now_ns = max(now_ns, float(windows[upcoming].begin_ns))
        while upcoming < len(windows) and windows[upcoming].begin_ns <= now_ns:
            heapq.heappush(waiting, (windows[upcoming].end_ns, upcoming))
            upcoming += 1
        until_ns = float(windows[upcoming].begin_ns) if upcoming < len(windows) else float("inf")
        while waiting and now_ns < until_ns:
            end_ns, number = waiting[0]
            step = min(left[number], end_ns - now_ns, until_ns - now_ns)
            if step > 0.0:
                done += step
                now_ns += step
                left[number] -= step
            if left[number] <= 0.0 or now_ns >= end_ns:
                heapq.heappop(waiting)
    return done
