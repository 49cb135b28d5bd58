"""Delays between the services as a recorded live run had them: whatever sets out takes as long as something did then.

A log tells of every request how long it was on its way to the scheduler, of every batch how long its launch took to
start and its end to be known, and what the frontends said an answer needs. What a client saw only its load generator
knows: with the document of `cotenant load --explain 1 --json`, an answer takes from the end of its batch until the
client has it, and what passed between the client's sending and the frontend's clock on top; without it, what the
frontends said, which is the 95th percentile of each half second and so too long for most.

Delays are long together, when a host is busy. So each is drawn from those that were observed about as long after the
first arrival; and what the frontends said is said again when they said it.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec

from cotenant.scheduler import events as ev
from cotenant.scheduler import record
from cotenant.scheduler.simulation.near import Near, Seen
from cotenant.scheduler.simulation.timing import START_NS, Delays, Sampler
from cotenant.scheduler.snapshot import Snapshot


class ObservedDelays(msgspec.Struct, frozen=True):
    """All that were observed, by instant; see `timing.Sampler` for what they are. `told` is what frontends said."""

    arrive: tuple[Seen[int], ...]
    order: tuple[Seen[int], ...]
    report: tuple[Seen[int], ...]
    answer: tuple[Seen[int], ...]
    told: tuple[Seen[int], ...]
    guess_ns: int

    @property
    def least(self) -> Delays:
        """What passes at least."""
        order, report, answer = (min(one.value for one in some) for some in (self.order, self.report, self.answer))
        return Delays(order, report, answer)

    def sampler(self, seed: int) -> Sampler:
        """Draws one after another."""
        return _Drawn(self, random.Random(f"{seed} delays"))  # noqa: S311


AnyDelays: TypeAlias = Delays | ObservedDelays


class _Drawn:
    """See `ObservedDelays.sampler`."""

    def __init__(self, observed: ObservedDelays, rng: random.Random) -> None:
        self.guess_ns = observed.guess_ns
        self.arrive, self.order, self.report, self.answer = (
            _drawing(Near(seen), rng) for seen in (observed.arrive, observed.order, observed.report, observed.answer)
        )
        self._untold = list(reversed(observed.told))

    def told(self, now_ns: int) -> int:
        """See `Sampler.told`."""
        found = 0
        while self._untold and self._untold[-1].at_ns <= now_ns - START_NS:
            found = self._untold.pop().value
        return found


def _drawing(near: Near[int], rng: random.Random) -> Callable[[int], int]:
    return lambda now_ns: near.draw(now_ns, rng.random)


# ---- from a log


class _Explained(msgspec.Struct):
    """Columns of a load's document about requests that were explained."""

    index: list[int]
    request_id: list[int]


class _Requests(msgspec.Struct):
    """Columns of a load's document, one entry per request; -1 where there was no answer."""

    at_us: list[int]
    latency_us: list[int]
    explained: _Explained


class _Load(msgspec.Struct):
    """What is read of a load's document (docs/load.md)."""

    started_monotonic_ns: int
    requests: _Requests


class _Reader:
    """Collects delays; instants on the log's clock."""

    def __init__(self, sent: dict[int, tuple[int, int]]) -> None:
        self._sent = sent
        self.first_ns = 0
        self.guess_ns = Delays().answer_ns
        self.arrive, self.order, self.report, self.answer, self.told = (list[Seen[int]]() for _ in range(5))
        self._launched: dict[int, tuple[int, ev.Batch]] = {}

    def take(self, group: record.Group) -> None:
        """One call of the core."""
        for event in group.events:
            match event:
                case ev.RequestArrived():
                    at_ns = event.request.arrival_ns
                    self.first_ns = self.first_ns or at_ns
                    self.arrive.append(Seen(at_ns, max(0, group.now_ns - at_ns)))
                case ev.AnswerOverheadMeasured():
                    self.told.append(Seen(group.now_ns, event.overhead_ns))
                case ev.BatchFinished() if event.batch_id in self._launched and not event.failed:
                    self._finished(group.now_ns, event, *self._launched.pop(event.batch_id))
                case _:
                    pass
        for action in group.actions:
            if isinstance(action, ev.Launch):
                self._launched[action.batch.batch_id] = group.now_ns, action.batch

    def _finished(self, now_ns: int, event: ev.BatchFinished, launched_ns: int, batch: ev.Batch) -> None:
        ended_ns = event.started_ns + event.duration_ns
        self.order.append(Seen(launched_ns, max(0, event.started_ns - launched_ns)))
        self.report.append(Seen(ended_ns, max(0, now_ns - ended_ns)))
        for request in batch.requests:
            if told := self._sent.get(request.request_id):
                sent_ns, answered_ns = told
                self.answer.append(Seen(ended_ns, max(0, answered_ns - ended_ns + request.arrival_ns - sent_ns)))

    def since_first(self, seen: list[Seen[int]]) -> tuple[Seen[int], ...]:
        """By instant, counted from the first arrival."""
        return tuple(sorted([Seen(at_ns - self.first_ns, delay_ns) for at_ns, delay_ns in seen]))


def read(log: Path, load: Path | None = None) -> ObservedDelays:
    """The delays of a log, and of the document of the load that it records.

    Raises:
        ValueError: For a log in which no batch ran, or a document that is none or is of another run.
        OSError: Where a file cannot be read.
    """
    reader = _Reader(_answers(load) if load else {})
    for entry in _entries(log):
        if isinstance(entry, record.Group):
            reader.take(entry)
        elif isinstance(entry, Snapshot) and not reader.first_ns:
            told = sorted(entry.overheads_ns) or [entry.config.answer_overhead_ns]
            reader.guess_ns = told[len(told) // 2]
    if load and reader.order and not reader.answer:
        raise ValueError(f"{load}: no request of {log} is explained in it; was it sent with --explain 1?")
    answer = reader.answer or reader.told
    if not reader.order or not answer:
        raise ValueError(f"{log}: no batch was answered in it, so that it tells no delays")
    return ObservedDelays(
        arrive=reader.since_first(reader.arrive),
        order=reader.since_first(reader.order),
        report=reader.since_first(reader.report),
        answer=reader.since_first(answer),
        told=reader.since_first(reader.told),
        guess_ns=reader.guess_ns,
    )


def _entries(log: Path) -> Iterator[record.Record]:
    files = [file for _, file in record.parts(log)]
    if not files:
        raise ValueError(f"there is no log at {log}")
    for file in files:
        yield from record.read(file)


def _answers(load: Path) -> dict[int, tuple[int, int]]:
    """When each request was meant to be sent, and when its client had the answer, by its id inside the stack."""
    try:
        found = msgspec.json.decode(load.read_bytes(), type=_Load)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{load}: not a result of `cotenant load --json`: {error}") from error
    requests = found.requests
    told: dict[int, tuple[int, int]] = {}
    for index, request_id in zip(requests.explained.index, requests.explained.request_id, strict=True):
        sent_ns = found.started_monotonic_ns + requests.at_us[index] * 1000
        told[request_id] = sent_ns, sent_ns + requests.latency_us[index] * 1000
    return told
