"""When requests arrive: processes drawn from a seed, one draw at a time, so that a day of them needs no memory.

A process yields instants in s from 0 on, ascending, without end or until its trace ends. Each stream has a generator of
random numbers of its own, named after its model, so that adding a model leaves the arrivals of the others as they were.
"""

import heapq
import random
from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple, Protocol


class Process(Protocol):
    """Arrivals at a mean rate."""

    def instants_s(self, rng: random.Random, rate_per_s: float) -> Iterator[float]:
        """Instants in s. The rate is above 0."""
        ...


@dataclass(frozen=True)
class Poisson:
    """Gaps that are exponential."""

    def instants_s(self, rng: random.Random, rate_per_s: float) -> Iterator[float]:
        """See `Process.instants_s`."""
        at_s, draw = 0.0, rng.expovariate
        while True:
            at_s += draw(rate_per_s)
            yield at_s


@dataclass(frozen=True)
class Bursty:
    """Gaps from a Gamma distribution of this coefficient of variation: 1 is Poisson, above it comes in bursts."""

    cv: float

    def instants_s(self, rng: random.Random, rate_per_s: float) -> Iterator[float]:
        """See `Process.instants_s`."""
        shape, scale = 1.0 / self.cv**2, self.cv**2 / rate_per_s
        # It begins long before 0, else a bursty process would have too many arrivals at its start.
        at_s, draw = -10.0 * max(1.0, self.cv**2) / rate_per_s, rng.gammavariate
        while True:
            at_s += draw(shape, scale)
            if at_s >= 0.0:
                yield at_s


@dataclass(frozen=True)
class Periodic:
    """Gaps that are equal; the first arrival is anywhere in the first of them."""

    def instants_s(self, rng: random.Random, rate_per_s: float) -> Iterator[float]:
        """See `Process.instants_s`."""
        at_s = rng.random() / rate_per_s
        while True:
            yield at_s
            at_s += 1.0 / rate_per_s


@dataclass(frozen=True)
class Diurnal:
    """Poisson at a rate that follows a curve: values at even distances over one period, and lines between them.

    Only ratios of the values count: over a period the mean rate is the model's.
    """

    curve: tuple[float, ...]
    period_s: float

    def instants_s(self, rng: random.Random, rate_per_s: float) -> Iterator[float]:
        """See `Process.instants_s`. Draws at the highest rate, and keeps an arrival with the chance the curve says."""
        closed = (*self.curve, self.curve[0])
        mean = sum(a + b for a, b in pairwise(closed)) / 2.0 / len(self.curve)
        highest = max(closed)
        at_s = 0.0
        while True:
            at_s += rng.expovariate(rate_per_s * highest / mean)
            place = at_s / self.period_s % 1.0 * len(self.curve)
            i = min(int(place), len(self.curve) - 1)
            if rng.random() * highest < closed[i] + (closed[i + 1] - closed[i]) * (place - i):
                yield at_s


@dataclass(frozen=True)
class Recorded:
    """Instants of a trace, in s from its first arrival.

    At `speed` 0 the trace is stretched to the model's rate: its shape counts, not its time.
    """

    at_s: Sequence[float]
    speed: float = 0.0

    def instants_s(self, rng: random.Random, rate_per_s: float) -> Iterator[float]:  # noqa: ARG002
        """See `Process.instants_s`."""
        yield from (at_s / self.pace(rate_per_s) for at_s in self.at_s)

    def pace(self, rate_per_s: float) -> float:
        """How many times as fast as it was taken the trace is played. Raises ValueError where it lasts no time."""
        if self.speed:
            return self.speed
        if len(self.at_s) < 2 or self.at_s[-1] <= 0.0:
            raise ValueError("a trace of fewer than two instants has no rate; give its speed")
        return rate_per_s * self.at_s[-1] / (len(self.at_s) - 1)


class Stream(NamedTuple):
    """Arrivals of one process for some models, who get them by chance in proportion to their rates."""

    process: Process
    rates_per_s: Mapping[str, float]  # by model


Arrival = tuple[float, str]  # s, model


def merged(streams: Iterable[Stream], seed: int) -> Iterator[Arrival]:
    """Arrivals of all streams in order."""
    return heapq.merge(*(_arrivals(stream, seed) for stream in streams))


def _arrivals(stream: Stream, seed: int) -> Iterator[Arrival]:
    rates = {model: rate for model, rate in stream.rates_per_s.items() if rate > 0.0}
    if not rates:
        return
    models = list(rates)
    rng = random.Random(f"{seed} arrivals {' '.join(models)}")  # noqa: S311
    total = sum(rates.values())
    if len(models) == 1:
        model = models[0]
        for at_s in stream.process.instants_s(rng, total):
            yield at_s, model
        return
    shares = list(accumulate(rates.values()))
    dealt = random.Random(f"{seed} dealt {' '.join(models)}")  # noqa: S311
    for at_s in stream.process.instants_s(rng, total):
        yield at_s, models[min(bisect(shares, dealt.random() * total), len(models) - 1)]
