"""One storm: load, blows, and what came of them."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from typing import NamedTuple

from faults import Fault, Striker
from stage import MODELS, Stage
from traffic import OK, Ledger, Traffic
from watching import Watch

WEDGED_S = 30.0  # whoever does not serve so long after a blow is over, never will
HANGING_S = 25.0  # a request that is open for so long while nothing is wrong any more will not be answered
ASK_EVERY_S = 0.1
CALM_S = (0.5, 1.0)  # between blows, once requests are served again


REAPED_S = 45.0  # the frontend gives up a request 30 s after its deadline, and its shared memory with it
MOST_WAITING = 50  # events of a few seconds at rest that may still be on their way


class Blow(NamedTuple):
    """Faults that struck together, and how long it took until requests of every model were served again."""

    faults: list[Fault]
    began_s: float
    recovery_s: float  # from the end of the last of them; WEDGED_S if it never came
    silence_s: float  # longest time without an answered request meanwhile, of any model


@dataclass
class Storm:
    """What happened."""

    ledger: Ledger
    watch: Watch
    blows: list[Blow] = field(default_factory=list)
    seconds: float = 0.0
    leftovers: list[str] = field(default_factory=list)  # what was not given back when all had ended
    memory_at_rest: dict[str, list[float]] = field(default_factory=dict)  # by service, MiB: before and after
    descriptors_at_rest: dict[str, list[int]] = field(default_factory=dict)


class _Service:
    """Looks for requests that are served; to see it soon, it sends some of its own."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic, self._ledger = traffic, traffic.ledger

    async def back(self, after_s: float, within_s: float) -> float | None:
        """When requests sent after an instant had been answered with outputs, of every model; None if never."""
        first: dict[str, float] = {}
        seen, asked_s = len(self._ledger.answers), 0.0
        while time.monotonic() < after_s + within_s:
            if time.monotonic() - asked_s > ASK_EVERY_S:
                asked_s = time.monotonic()
                for model in MODELS.keys() - first:
                    self._traffic.send(model)
            answers = self._ledger.answers
            for answer in answers[seen:]:
                if answer.status == OK and answer.sent_s >= after_s:
                    first.setdefault(answer.model, answer.answered_s)
            seen = len(answers)
            if len(first) == len(MODELS):
                return max(first.values())
            await asyncio.sleep(0.01)
        return None

    def silence_s(self, since_s: float, until_s: float) -> float:
        """The longest time between two instants at which a request was answered with outputs."""
        answers = takewhile(lambda a: a.answered_s >= since_s, reversed(self._ledger.answers))
        served = [a.answered_s for a in answers if a.status == OK and a.answered_s <= until_s]
        return max(late - early for early, late in pairwise(sorted([since_s, *served, until_s])))


async def rage(
    stage: Stage,
    script: Iterator[list[Fault]],
    *,
    requests: int,
    rate_per_s: float,
    seed: int,
    tell: Callable[[str], None],
    rest_s: float = 5.0,
) -> Storm:
    """Loads a stage that stands until so many requests were sent, with blow after blow; then waits for calm."""
    traffic = Traffic(stage.url, rate_per_s=rate_per_s, seed=seed)
    storm = Storm(traffic.ledger, Watch(stage))
    service, striker = _Service(traffic), Striker(stage, traffic.ledger, seed)
    began_s = time.monotonic()
    watching = asyncio.create_task(storm.watch.run())
    sending = asyncio.create_task(traffic.run())
    if await service.back(began_s, WEDGED_S) is None:
        raise RuntimeError("the stack does not serve before anything has struck")
    await asyncio.sleep(rest_s)
    _at_rest(storm)
    for number, faults in enumerate(script):
        if traffic.ledger.offered >= requests:
            break
        blow = await _blow(faults, service, striker, storm)
        told = f"recovered in {blow.recovery_s:.2f} s, silent for {blow.silence_s:.2f} s at most"
        tell(f"{number + 1}. {' and '.join(map(str, faults))}: {told}; {len(traffic.ledger.answers)} answers")
        if blow.recovery_s >= WEDGED_S:
            break
        await asyncio.sleep(CALM_S[number % 2])
    traffic.stop()
    await sending
    await traffic.settle(HANGING_S)
    storm.seconds = time.monotonic() - began_s
    await asyncio.sleep(rest_s)
    _at_rest(storm)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    storm.leftovers = await _leftovers(stage)
    await traffic.close()
    return storm


async def _blow(faults: list[Fault], service: _Service, striker: Striker, storm: Storm) -> Blow:
    began_s = time.monotonic()
    ended_s = max(await asyncio.gather(*map(striker.strike, faults)))
    back_s = await service.back(ended_s, WEDGED_S)
    recovery_s = WEDGED_S if back_s is None else back_s - ended_s
    blow = Blow(faults, began_s, recovery_s, service.silence_s(began_s, back_s or time.monotonic()))
    storm.blows.append(blow)
    return blow


def _at_rest(storm: Storm) -> None:
    """Memory and descriptors of each service now."""
    storm.watch.processes()
    for (name, _), samples in storm.watch.samples.items():
        if samples[-1].at_s > time.monotonic() - 1.0:
            storm.memory_at_rest.setdefault(name, []).append(samples[-1].resident_bytes / 2**20)
            storm.descriptors_at_rest.setdefault(name, []).append(samples[-1].descriptors)


async def _leftovers(stage: Stage) -> list[str]:
    """What was not given back; blocks of requests that nobody answered come back after half a minute."""
    until_s = time.monotonic() + REAPED_S
    while (found := await asyncio.to_thread(_taken, stage)) and time.monotonic() < until_s:
        await asyncio.sleep(1.0)
    return found


def _taken(stage: Stage) -> list[str]:
    """Memory and places that are still taken though nothing runs any more."""
    gauges = [("frontend", 'cotenant_staging_bytes{state="used"}'), ("frontend", "nv_inference_pending_request_count")]
    executors = [name for name in stage.services if name.startswith("executor")]
    kept = ("cotenant_output_bytes_used", "cotenant_executor_running_batches")
    gauges += [(name, metric) for name in executors for metric in kept]
    found = [f"{name}: {metric} is {value:.0f}" for name, metric in gauges if (value := stage.gauge(name, metric))]
    for name in executors:  # what the predictor does not acknowledge, it does not keep
        waiting = stage.gauge(name, 'cotenant_events_waiting{to="predictor"}')
        if waiting > MOST_WAITING:
            found.append(f"{name}: {waiting:.0f} events that the predictor has not kept")
    owners = 2  # the frontend, and the executor of this host
    segments = sorted(path.name for path in stage.shared.iterdir())
    if len(segments) != owners:
        found.append(f"{len(segments)} segments of shared memory instead of {owners}: {', '.join(segments)}")
    return found
