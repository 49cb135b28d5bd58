"""The simulated shell round the core: a heap for a clock, emulated GPUs for devices, no waiting.

The core, the emulated device and the predictor's model are the very objects that the services run; only what lies
between them is simulated: the time an order takes to an executor, and an answer to a client. This module is the one
place where they are wired together. The same seed gives the same run, event for event, and `record` writes it as a
log like any other.
"""

import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path

from msgspec.structs import astuple

from cotenant.executor.emulated_gpu import EmulatedGpu, Kernel, Personality, personalities, profiled
from cotenant.executor.timeline import Timeline
from cotenant.predictor.device_model import DeviceModel
from cotenant.predictor.observations import Observation, Profile, timed_slices
from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler import events as ev
from cotenant.scheduler.core import Core, CoreConfig
from cotenant.scheduler.policies import POLICIES
from cotenant.scheduler.record import Recorder

# What lies between the services on one host, as measured there (docs/data-path.md); durations.
ORDER_NS = 400_000  # from a decision to the start of a batch
REPORT_NS = 300_000  # from the end of a batch to the scheduler knowing it
ANSWER_NS = 500_000  # from the end of a batch to the answer at the client
PUSH_NS = 100_000_000  # between two pushes of estimates
SOLO_RUNS = 5
START_NS = 1_000_000_000  # instants must not be 0, which stands for none
RESOURCES = ("sm", "l2", "dram")


@dataclass(frozen=True)
class SimulatedModel:
    """A model and its load: requests of one item each, Poisson at `rate_per_s`."""

    name: str
    personality: str
    rate_per_s: float
    slo_ns: int
    max_batch_size: int = 8
    time_scale: float = 1.0


@dataclass
class ModelOutcome:
    """What clients of a model saw."""

    offered: int = 0
    in_time: int = 0
    late: int = 0
    refused: int = 0
    latencies_ns: list[int] = field(default_factory=list)

    @property
    def slo_attainment(self) -> float:
        """Share of offered requests answered in time; a refusal is a miss. 1 if nothing was offered."""
        return self.in_time / self.offered if self.offered else 1.0


@dataclass
class SimulationOutcome:
    """What a simulation found. Prediction errors are |forecast - actual| / actual of batches."""

    models: dict[str, ModelOutcome]
    duration_ns: int
    batches: int = 0
    errors: list[float] = field(default_factory=list)
    covered: int = 0
    co_runner_ns: int = 0
    busy_ns: int = 0

    @property
    def slo_attainment(self) -> float:
        """Over all models."""
        offered = sum(m.offered for m in self.models.values())
        return sum(m.in_time for m in self.models.values()) / offered if offered else 1.0

    @property
    def goodput_per_s(self) -> float:
        """Requests answered in time per second."""
        return sum(m.in_time for m in self.models.values()) / (self.duration_ns / 1e9)


class _SimulatedDevice:
    """An executor with its emulated GPU."""

    def __init__(self, spec: ev.DeviceSpec, seed: int, law: str) -> None:
        self.spec = spec
        self.gpu = EmulatedGpu(seed, law=law)
        self.timeline = Timeline()
        self.orders: dict[int, ev.Batch] = {}
        self.started_ns: dict[int, int] = {}
        self.watched_ns = 0  # when it will be looked at next


class Simulation:
    """See the module's text."""

    def __init__(
        self,
        models: Sequence[SimulatedModel],
        *,
        devices: int = 1,
        concurrency: int = 4,
        policy: str = "edf",
        level: float = 0.95,
        learn: bool = True,
        seed: int = 0,
        record: Path | None = None,
        law: str = "fair",
    ) -> None:
        self.models = {model.name: model for model in models}
        self.core = Core(CoreConfig(policy=policy, level=level, answer_overhead_ns=ANSWER_NS), POLICIES[policy](level))
        self._level, self._learn, self._seed = level, learn, seed
        self._heap: list[tuple[int, int, ev.Event | None, str]] = []
        self._order = 0
        self._pending: dict[int, ev.Request] = {}
        self._wakes: set[int] = set()
        self._version = 0
        self._pushed_ns = 0
        self._ended: list[tuple[ev.Batch, ev.BatchFinished]] = []
        specs = [
            ev.DeviceSpec(f"emulated-{i}", "emulated", "simulated", 16 * 2**30, concurrency, RESOURCES)
            for i in range(devices)
        ]
        self._devices = {s.device_id: _SimulatedDevice(s, seed * 1000 + i, law) for i, s in enumerate(specs)}
        self._learners = {device_id: DeviceModel(device_id, len(RESOURCES)) for device_id in self._devices}
        self._recorder = Recorder(record, 2**30, epoch=seed, software="simulation") if record else None

    # ---- the clock

    def run(self, duration_ns: int) -> SimulationOutcome:
        """Simulates arrivals for so long, and then until everything has been answered."""
        outcome = SimulationOutcome({name: ModelOutcome() for name in self.models}, duration_ns)
        if self._recorder:
            self._recorder.start(self.core)
        for event in self._prologue():
            self._at(START_NS, event)
        for arrival in self._arrivals(START_NS + 1, duration_ns):
            self._at(arrival.request.arrival_ns, arrival)
        while self._heap:
            now_ns = self._heap[0][0]
            events: list[ev.Event] = []
            while self._heap and self._heap[0][0] == now_ns:
                _, _, happened, device_id = heappop(self._heap)
                if happened is not None:
                    events.append(happened)
                elif device_id and self._devices[device_id].watched_ns == now_ns:
                    self._collect(self._devices[device_id], now_ns, outcome)
            self._handle(now_ns, events, outcome)
        if self._recorder:
            self._recorder.close()
        return outcome

    def _at(self, at_ns: int, event: ev.Event | None, device_id: str = "") -> None:
        self._order += 1
        heappush(self._heap, (at_ns, self._order, event, device_id))

    def _handle(self, now_ns: int, events: list[ev.Event], outcome: SimulationOutcome) -> None:
        for event in events:
            self._note(event, outcome)
        if self._learn and now_ns >= self._pushed_ns + PUSH_NS:
            self._pushed_ns = now_ns
            events += self._push()
        actions = self.core.handle(now_ns, events)
        if self._recorder:
            self._recorder.write(self.core, now_ns, events, actions)
        for action in actions:
            match action:
                case ev.Launch():
                    self._devices[action.device_id].orders[action.batch.batch_id] = action.batch
                    self._start(self._devices[action.device_id], action.batch, now_ns + ORDER_NS)
                case ev.Refuse():
                    request = self._pending.pop(action.request_id)
                    outcome.models[request.model].refused += 1
                case ev.WakeAt() if action.at_ns not in self._wakes:
                    self._wakes.add(action.at_ns)
                    self._at(max(action.at_ns, now_ns + 1), None)

    # ---- what happens

    def _prologue(self) -> Iterator[ev.Event]:
        """Devices join with all models loaded and measured."""
        for device in self._devices.values():
            yield ev.DeviceJoined(device.spec, 1)
            for model in self.models.values():
                for profile in self._profiles(model):
                    self._learners[device.spec.device_id].learn_profile(as_learned(profile))
                    yield ev.ClassProfiled(device.spec.device_id, profile)
                spec = ev.ModelSpec(
                    model.name, "1", model.max_batch_size, batching=model.max_batch_size > 1, slo_ns=model.slo_ns
                )
                yield ev.ModelLoaded(device.spec.device_id, spec)

    def _profiles(self, model: SimulatedModel) -> Iterator[ev.Profile]:
        """Solo runs on an idle device, and demands as a profiler would tell them, with some percent of error."""
        personality = personalities()[model.personality]
        noise = random.Random(f"{self._seed} {model.name}")  # noqa: S311
        for exponent in range(model.max_batch_size.bit_length()):
            size = 2**exponent
            gpu = EmulatedGpu(noise.randrange(2**31))
            durations = []
            for run in range(SOLO_RUNS):
                start_ns = 10**12 * (run + 1)
                gpu.start(start_ns, run, _kernels(personality, model, size))
                end_ns = gpu.next_finish_ns()
                assert end_ns is not None
                durations.append(end_ns - start_ns)
                gpu.finished(end_ns)
            told = profiled(_kernels(personality, model, size), lambda: noise.gauss(1.0, 0.04))
            work_ns = int(statistics.median(durations))
            known = BatchClass(model.name, "1", size)
            yield ev.Profile(known, work_ns, SOLO_RUNS, told.demand, kernel_ns=told.kernel_ns, phases=told.phases)

    def _arrivals(self, start_ns: int, duration_ns: int) -> Iterator[ev.RequestArrived]:
        number = 0
        for model in self.models.values():
            gaps = random.Random(f"{self._seed} arrivals {model.name}")  # noqa: S311
            at_ns = start_ns
            while model.rate_per_s > 0:
                at_ns += max(1, round(gaps.expovariate(model.rate_per_s) * 1e9))
                if at_ns >= start_ns + duration_ns:
                    break
                number += 1
                deadline_ns = at_ns + model.slo_ns if model.slo_ns else 0
                yield ev.RequestArrived(ev.Request(number, 1, model.name, "1", 1, at_ns, deadline_ns))

    def _note(self, event: ev.Event, outcome: SimulationOutcome) -> None:
        """Keeps what clients and the predictor see of an event."""
        if isinstance(event, ev.RequestArrived):
            self._pending[event.request.request_id] = event.request
            outcome.models[event.request.model].offered += 1
        elif isinstance(event, ev.BatchFinished) and event.forecast:
            outcome.batches += 1
            outcome.errors.append(abs(event.forecast.duration_ns - event.duration_ns) / event.duration_ns)
            outcome.covered += event.duration_ns <= event.forecast.bound_ns
            outcome.busy_ns += event.duration_ns
            outcome.co_runner_ns += sum(s.duration_ns * len(s.co_runners) for s in event.slices)
            forecast = event.forecast
            self._learners[event.device_id].learn_batch(
                Observation(
                    event.batch_class,
                    event.duration_ns,
                    timed_slices(event.started_ns, map(astuple, event.slices)),
                    forecast.duration_ns,
                    forecast.work_ns,
                    forecast.co_runner_count,
                )
            )

    def _push(self) -> Iterator[ev.EstimatesPushed]:
        for device_id, learner in self._learners.items():
            if changed := learner.changed():
                self._version += 1
                classes = tuple(learner.estimate(c, (self._level,)) for c in changed)
                yield ev.EstimatesPushed(device_id, self._version, classes=classes)

    # ---- devices

    def _start(self, device: _SimulatedDevice, batch: ev.Batch, at_ns: int) -> None:
        """Starts a batch; orders are performed in order, so the device's clock never goes back."""
        model = self.models[batch.batch_class.model]
        kernels = _kernels(personalities()[model.personality], model, batch.batch_class.batch_size)
        self._end_until(device, at_ns)
        device.started_ns[batch.batch_id] = device.timeline.begin(batch.batch_id, batch.batch_class, at_ns)
        device.gpu.start(at_ns, batch.batch_id, kernels)
        self._at(at_ns + REPORT_NS, ev.BatchStarted(device.spec.device_id, batch.batch_id, at_ns))
        self._watch(device)

    def _watch(self, device: _SimulatedDevice) -> None:
        next_ns = device.gpu.next_finish_ns()
        if next_ns is not None and next_ns != device.watched_ns:
            device.watched_ns = next_ns
            self._at(next_ns, None, device.spec.device_id)

    def _collect(self, device: _SimulatedDevice, now_ns: int, outcome: SimulationOutcome) -> None:
        """Ends what has ended on a device, answers its clients, and watches for the next."""
        self._end_until(device, now_ns)
        for batch, finished in self._ended:
            for request in batch.requests:
                latency_ns = finished.at_ns + ANSWER_NS - request.arrival_ns
                model = outcome.models[request.model]
                model.latencies_ns.append(latency_ns)
                late = 0 < request.deadline_ns < finished.at_ns + ANSWER_NS
                model.late += late
                model.in_time += not late
                self._pending.pop(request.request_id, None)
            self._at(max(now_ns, finished.at_ns + REPORT_NS), finished)
        self._ended.clear()
        self._watch(device)

    def _end_until(self, device: _SimulatedDevice, at_ns: int) -> None:
        for stream in device.gpu.finished(at_ns):
            ended_ns, slices = device.timeline.end(stream.key, round(stream.finished_ns))
            batch = device.orders.pop(stream.key)
            started_ns = device.started_ns.pop(stream.key)
            finished = ev.BatchFinished(
                device.spec.device_id,
                batch.batch_id,
                ended_ns,
                started_ns,
                ended_ns - started_ns,
                batch.batch_class,
                tuple(ev.Slice(s.duration_ns, s.co_runners, s.elapsed_ns) for s in slices),
                forecast=batch.forecast,
            )
            self._ended.append((batch, finished))


def as_learned(profile: ev.Profile) -> Profile:
    """A solo measurement as the predictor takes it."""
    known = profile.batch_class
    return Profile(known, profile.work_ns, profile.demand, profile.samples, profile.kernel_ns, profile.phases)


def _kernels(personality: Personality, model: SimulatedModel, size: int) -> list[Kernel]:
    return [k._replace(duration_ns=k.duration_ns * model.time_scale) for k in personality.kernels(size)]
