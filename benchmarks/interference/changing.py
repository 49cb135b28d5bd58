"""Emulated runs in which something changes: a model arrives, the load, the clocks, a neighbour nobody tells of.

The scheduler, the device's law and the predictor in the loop are the simulator's; this module says what changes when,
and asks a forecaster that knows the law, but not who arrives later, what it would have forecast: the floor of every
forecast at launch. Where a neighbour is not reported, it also asks one that knows all of that but where in its life the
neighbour is: the floor of whoever is told of reported batches alone. Time is virtual, and each run is written as a log.
"""

import random
from collections import deque
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import msgspec
from recordings import PATIENCE, solo_ns

from cotenant.executor.emulated_gpu import EmulatedGpu, Kernel, Stream, personalities
from cotenant.scheduler import events as ev
from cotenant.scheduler.simulate import START_NS, SimulatedModel, Simulation, SimulationOutcome

MODELS = ("resnet50", "transformer_xl", "bert")
NEW = UNREPORTED = "retinanet"
NEW_SCALE = 0.25  # of its times: it would take a long run to see enough of its batches
MAX_BATCH_SIZE, CONCURRENCY = 2, 3
LOAD = 0.9  # offered work over time, in units of one device that runs one batch at a time
SLOWER = 1.25
HIDDEN = -1  # key of the unreported stream
FLOOR_EVERY = 4  # of so many batches one is forecast by the law
# Places in its life where the unreported neighbour was found of late, how many are needed, and how many are tried.
PLACES, LEAST_PLACES, TRIED = 200, 20, 9


@dataclass(frozen=True)
class Change:
    """What is different in the second of two or three phases; in the third, if there is one, it is as before."""

    name: str
    phases: int = 3
    load: tuple[float, float] = (LOAD, LOAD)  # otherwise, and while it lasts
    clock: float = 1.0  # factor on the durations of kernels; launch gaps stay
    unreported: str = ""  # model of a neighbour that runs without pause and is in no slice
    deployed: str = ""  # model that is loaded at the change
    profiled: bool = True  # whether its demands are known


CHANGES = (
    Change("deployed", phases=2, deployed=NEW),
    Change("deployed-unprofiled", phases=2, deployed=NEW, profiled=False),
    Change("load", load=(0.5, 1.3)),
    Change("clocks", clock=SLOWER),
    Change("neighbour", unreported=UNREPORTED),
)


class ChangingGpu(EmulatedGpu):
    """An emulated GPU with a neighbour of its own during a span of time, that nobody is told of."""

    def __init__(self, seed: int, hidden: list[Kernel], span_ns: tuple[int, int]) -> None:
        super().__init__(seed)
        self._hidden, self._span_ns = hidden, span_ns
        self._exact = False
        self._places: deque[Stream] = deque(maxlen=PLACES)
        self._drawn = random.Random(seed)
        self.floors_ns: dict[int, int] = {}  # by batch: its duration as the law forecasts it
        self.blind_ns: dict[int, int] = {}  # the same of whoever does not know where the unreported neighbour is

    def start(self, now_ns: int, key: int, kernels: list[Kernel]) -> None:
        """A batch begins; some are first forecast by the law."""
        if key >= 0 and key % FLOOR_EVERY == 0 and not self._exact:
            self._run_to(float(now_ns))
            self.floors_ns[key] = self._foretold_ns(now_ns, key, kernels)
            for hidden in [stream for stream in self._streams if stream.key == HIDDEN]:
                if len(self._places) >= LEAST_PLACES:
                    tried = self._drawn.sample(self._places, TRIED)
                    self.blind_ns[key] = median([self._foretold_ns(now_ns, key, kernels, place) for place in tried])
                self._places.append(hidden.copy())
        super().start(now_ns, key, kernels)

    def finished(self, now_ns: int) -> list[Stream]:
        """Batches that have ended by now; the unreported neighbour begins its next."""
        done = super().finished(now_ns)
        idle = all(stream.key != HIDDEN for stream in self._streams)
        if self._hidden and idle and self._span_ns[0] <= now_ns < self._span_ns[1]:
            super().start(now_ns, HIDDEN, self._hidden)
        return [stream for stream in done if stream.key != HIDDEN]

    def _foretold_ns(self, now_ns: int, key: int, kernels: list[Kernel], place: Stream | None = None) -> int:
        """Runs a copy of the device until a batch without noise has ended, as if nobody came later.

        The unreported neighbour is taken to be at that `place`, if one is given.
        """
        other = copy(self)
        other.isolate(place)
        other.start(now_ns, key, kernels)
        while (end_ns := other.next_finish_ns()) is not None:
            if any(stream.key == key for stream in other.finished(end_ns)):
                return end_ns - now_ns
        raise AssertionError("a batch that began has ended")

    def isolate(self, place: Stream | None) -> None:
        """Shares nothing that changes with its original any more, and draws no noise."""
        self._streams = [(place if place and stream.key == HIDDEN else stream).copy() for stream in self._streams]
        self._done, self._ahead, self._exact = [], None, True

    def _noisy(self, kernels: list[Kernel]) -> list[Kernel]:
        return kernels if self._exact else super()._noisy(kernels)


class ChangingSimulation(Simulation):
    """A simulation with a change in it. `requests` are those of one model that are expected in a phase."""

    def __init__(self, change: Change, seed: int, requests: int, log: Path | None) -> None:
        names = [*MODELS, *([change.deployed] if change.deployed else [])]
        scales = {name: NEW_SCALE if name == change.deployed else 1.0 for name in names}
        mean_ns = sum(solo_ns(name) * scale for name, scale in scales.items()) / len(names)
        models = [
            SimulatedModel(
                name, name, 1e9 / mean_ns / len(names), round(PATIENCE * solo_ns(name)), MAX_BATCH_SIZE, scale
            )
            for name, scale in scales.items()
        ]
        super().__init__(models, concurrency=CONCURRENCY, seed=seed, record=log)
        self.change, self.phase_ns = change, round(requests * len(names) * mean_ns / LOAD)
        hidden = personalities()[change.unreported].kernels(1) if change.unreported else []
        span_ns = (START_NS + self.phase_ns, START_NS + 2 * self.phase_ns)
        self._gpus = [ChangingGpu(seed * 1000 + i, hidden, span_ns) for i in range(len(self._devices))]
        for executor, gpu in zip(self._devices.values(), self._gpus, strict=True):
            executor.device.gpu = gpu

    def simulate(self) -> dict[str, dict[int, int]]:
        """Runs all phases; returns what the law forecast of some batches, in ns by their id: `floor`, and `blind`."""
        self.run(self.change.phases * self.phase_ns)
        floors = {key: value for gpu in self._gpus for key, value in gpu.floors_ns.items()}
        return {"floor": floors, "blind": {key: value for gpu in self._gpus for key, value in gpu.blind_ns.items()}}

    def _phase(self, now_ns: int) -> int:
        return min(self.change.phases - 1, max(0, now_ns - START_NS) // self.phase_ns)

    def _prologue(self) -> Iterator[ev.Event]:
        """All but a model that is deployed later."""
        late = self.models.pop(self.change.deployed, None)
        yield from super()._prologue()
        if late:
            self.models[late.name] = late
            for event in self._deployment(late):
                self._at(START_NS + self.phase_ns, event)

    def _deployment(self, model: SimulatedModel) -> Iterator[ev.Event]:
        for device_id in self._devices:
            for profile in self._profiles(model):
                yield ev.ClassProfiled(device_id, profile if self.change.profiled else without_demand(profile))
            yield ev.ModelLoaded(
                device_id, ev.ModelSpec(model.name, "1", model.max_batch_size, batching=True, slo_ns=model.slo_ns)
            )

    def _note(self, event: ev.Event, outcome: SimulationOutcome) -> None:
        if isinstance(event, ev.ClassProfiled) and event.profile.batch_class.model == self.change.deployed:
            self._beliefs[event.device_id].learn_profile(event.profile)
        super()._note(event, outcome)

    def _arrivals(self, start_ns: int, duration_ns: int) -> Iterator[ev.RequestArrived]:
        """Poisson arrivals, at a rate of its own in each phase."""
        everything = dict(self.models)
        number = 0
        for phase in range(self.change.phases):
            load = self.change.load[phase == 1]
            begin_ns = start_ns + phase * self.phase_ns + 1
            present = {n: m for n, m in everything.items() if phase or n != self.change.deployed}
            self.models = {name: replace(m, rate_per_s=m.rate_per_s * load) for name, m in present.items()}
            seed, self._seed = self._seed, self._seed * 10 + phase
            for arrival in super()._arrivals(begin_ns, duration_ns // self.change.phases - 1):
                number += 1
                yield ev.RequestArrived(msgspec.structs.replace(arrival.request, request_id=number))
            self._seed = seed
        self.models = everything

    def _handle(self, now_ns: int, events: list[ev.Event], outcome: SimulationOutcome) -> None:
        if self.change.clock != 1.0:
            scale = self.change.clock if self._phase(now_ns) == 1 else 1.0
            if any(model.time_scale != scale for model in self.models.values()):
                self.models = {name: replace(model, time_scale=scale) for name, model in self.models.items()}
        super()._handle(now_ns, events, outcome)


def without_demand(profile: ev.Profile) -> ev.Profile:
    """A measurement without resource profile."""
    return msgspec.structs.replace(profile, demand=(), kernel_ns=0.0, phases=())
