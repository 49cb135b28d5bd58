"""The simulated shell round the core: a heap for a clock, devices of any kind, no waiting.

The core, the emulated device and the predictor's model are the very objects that the services run; only what lies
between them is simulated: the time an order takes to an executor, a report to the scheduler, and an answer to a client.
The same seed gives the same run, event for event, and `record` writes it as a log like any other.

Arrivals are drawn when their time comes, and requests are forgotten when they were answered, so what a simulation
keeps does not grow with its length but for its latencies (8 bytes for each answered request).
"""

from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from pathlib import Path
from time import thread_time_ns
from typing import TypeAlias

from cotenant.executor.emulated_gpu import EmulatedGpu, Kernel
from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler import events as ev
from cotenant.scheduler.core import Core, CoreConfig
from cotenant.scheduler.policies import POLICIES
from cotenant.scheduler.record import Recorder
from cotenant.scheduler.settings import FAIR_TURN_NS, TenantSettings
from cotenant.scheduler.simulation.arrivals import Poisson, Stream, merged
from cotenant.scheduler.simulation.beliefs import SOLO, TRUE, Beliefs
from cotenant.scheduler.simulation.clients import Clients
from cotenant.scheduler.simulation.devices import KernelDevice, PhasedDevice, SimulatedDevice
from cotenant.scheduler.simulation.emulated_law import EmulatedLaw
from cotenant.scheduler.simulation.executors import RESOURCES, SimulatedExecutor, spec
from cotenant.scheduler.simulation.laws import Law
from cotenant.scheduler.simulation.models import SimulatedModel, solo_runs, solo_times
from cotenant.scheduler.simulation.observed_delays import AnyDelays
from cotenant.scheduler.simulation.outcome import ModelOutcome, SimulationOutcome
from cotenant.scheduler.simulation.tenant_outcomes import TenantOutcomes
from cotenant.scheduler.simulation.timing import FOREVER_NS, MEASURED_DELAYS, PUSH_NS, RETRY_NS, START_NS, TELL_NS
from cotenant.scheduler.simulation.true_rates import TrueRates

TIMED_EVERY = 11  # calls of the core: reading the clock of a thread costs some us
KERNELS, PHASES = "kernels", "phases"

# What is due at an instant: an event for the core, an order that reaches its device, or a look (at a device or not).
_Due: TypeAlias = ev.Event | ev.Batch | None


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
        kind: str = KERNELS,
        custom_law: Law | None = None,
        predictor: str = "fluid",
        learn_ns: int = FOREVER_NS,
        streams: Sequence[Stream] | None = None,
        noise: float | None = None,
        timed: bool = False,
        delays: AnyDelays = MEASURED_DELAYS,
        warmup_ns: int = 0,
        observer: Callable[[ev.BatchFinished], None] | None = None,
        tenants: tuple[TenantSettings, ...] = (),
        fair_turn_ns: int = FAIR_TURN_NS,
    ) -> None:
        """`kind` is `kernels`, or `phases`, by `custom_law` or the emulated GPU's `law`. `learn_ns` ends learning.

        What arrives in the first `warmup_ns` is served, and not counted. `streams` are the arrivals; without, each
        model's are Poisson. `timed` measures the core's share of CPU time.
        Raises ValueError for what there is none of.
        """
        if record and predictor == TRUE:
            raise ValueError(
                "a simulation by true rates leaves no log: they are not estimates that a replay could read"
            )
        self.models = {model.name: model for model in models}
        self.delays, self._drawn, self.core_ns, self._timed = delays.least, delays.sampler(seed), 0, timed
        config = CoreConfig(
            policy=policy,
            level=level,
            answer_overhead_ns=self._drawn.guess_ns,
            tenants=tenants,
            fair_turn_ns=fair_turn_ns,
        )
        told_apart = tenants or any(model.tenants for model in models)
        self._tenants = TenantOutcomes() if told_apart else None
        self.core = Core(config, POLICIES[policy](level))
        self.law = custom_law or EmulatedLaw({m.name: m.recipe for m in models}, concurrency, law)
        self._kind, self._seed = kind, seed
        self._streams = streams
        self._observer = observer
        self._heap: list[tuple[int, int, _Due, str]] = []
        self._order = self._calls = 0
        self._clients = Clients(seed)
        self._warmup_ns, self._counted_from_ns = warmup_ns, START_NS + warmup_ns
        self._uncounted: set[int] = set()  # ids of requests that came before
        self._wakes: set[int] = set()
        self._version = 0
        self._pushed_ns = 0
        self._models_of: dict[int, str] = {}  # requests that wait or run, by id
        predictor = predictor if learn else SOLO
        self._devices: dict[str, SimulatedExecutor] = {}
        for i in range(devices):
            executor = SimulatedExecutor(spec(i, concurrency), self._device(seed * 1000 + i, law, noise))
            self._devices[executor.spec.device_id] = executor
        self._beliefs = {
            d: Beliefs(d, len(RESOURCES), predictor, level, min(FOREVER_NS, START_NS + learn_ns)) for d in self._devices
        }
        if predictor == TRUE:
            truth = TrueRates(self.law)
            for number, (device_id, beliefs) in enumerate(self._beliefs.items()):
                classes = [known for model in self._loaded(number) for known in model.classes()]
                self.core.tables[device_id] = beliefs.know(truth, classes)
        self._recorder = Recorder(record, 2**30, epoch=seed, software="simulation") if record else None

    def _device(self, seed: int, law: str, noise: float | None) -> SimulatedDevice:
        if self._kind == PHASES:
            return PhasedDevice(self.law, seed, noise)
        return KernelDevice(EmulatedGpu(seed, law=law), self._kernels)

    def _kernels(self, batch_class: BatchClass) -> list[Kernel]:
        return self.models[batch_class.model].kernels(batch_class.batch_size)

    def _loaded(self, number: int) -> list[SimulatedModel]:
        """The models that a device has."""
        return [model for model in self.models.values() if not model.devices or number in model.devices]

    # ---- the clock

    def run(self, duration_ns: int) -> SimulationOutcome:
        """Simulates arrivals for so long, and then until everything has been answered."""
        for _ in self.steps(duration_ns):
            pass
        return self.outcome

    def steps(self, duration_ns: int) -> Iterator[int]:
        """Runs, and yields how far it has come, in ns from the beginning, now and then; `outcome` fills meanwhile."""
        self.outcome = outcome = SimulationOutcome(
            {name: ModelOutcome() for name in self.models}, duration_ns - self._warmup_ns, tenants=self._tenants
        )
        if self._recorder:
            self._recorder.start(self.core)
        self._clients.end_ns = START_NS + duration_ns
        for event in self._prologue():
            self._at(START_NS, event)
        for opening in self._clients.opening(self.models.values()):
            self._at(opening.request.arrival_ns, opening)
        arrivals = self._arrivals(START_NS + 1, duration_ns)
        arrival, heap = next(arrivals, None), self._heap
        told_ns = 0
        while heap or arrival is not None:
            now_ns = heap[0][0] if heap else FOREVER_NS
            events: list[ev.Event] = []
            while arrival is not None and (at_ns := arrival.request.arrival_ns) <= now_ns:
                now_ns = at_ns
                if delay_ns := self._drawn.arrive(at_ns):
                    self._at(at_ns + delay_ns, arrival)
                else:
                    events.append(arrival)
                arrival = next(arrivals, None)
            if self._happen(now_ns, events, outcome) or events:
                self._handle(now_ns, events, outcome)
            if now_ns >= told_ns:
                told_ns = now_ns + TELL_NS
                yield now_ns - START_NS
        self._close(outcome)

    def _happen(self, now_ns: int, events: list[ev.Event], outcome: SimulationOutcome) -> bool:
        """Lets everything happen that is due, and adds what the core is to hear; returns whether it is to be called."""
        heap, call = self._heap, False
        while heap and heap[0][0] == now_ns:
            _, _, due, device_id = heappop(heap)
            if isinstance(due, ev.Batch):
                self._start(self._devices[device_id], due, now_ns)
            elif due is not None:
                events.append(due)
            elif not device_id:
                self._wakes.discard(now_ns)
                call = True
            elif self._devices[device_id].watched_ns == now_ns:
                self._collect(self._devices[device_id], now_ns, outcome)
        return call

    def _at(self, at_ns: int, due: _Due, device_id: str = "") -> None:
        self._order += 1
        heappush(self._heap, (at_ns, self._order, due, device_id))

    def _handle(self, now_ns: int, events: list[ev.Event], outcome: SimulationOutcome) -> None:
        for event in events:
            self._note(event, outcome)
        if now_ns >= self._pushed_ns + PUSH_NS:
            self._pushed_ns = now_ns
            events += self._push()
        if overhead_ns := self._drawn.told(now_ns):
            events.append(ev.AnswerOverheadMeasured(overhead_ns))
        self._calls += 1
        if self._timed and self._calls % TIMED_EVERY == 0:
            began_ns = thread_time_ns()
            actions = self.core.handle(now_ns, events)
            self.core_ns += TIMED_EVERY * (thread_time_ns() - began_ns)
        else:
            actions = self.core.handle(now_ns, events)
        if self._recorder:
            self._recorder.write(self.core, now_ns, events, actions)
        for action in actions:
            match action:
                case ev.Launch():
                    if self._tenants:
                        self._tenants.launched(action.batch)
                    self._at(now_ns + self._drawn.order(now_ns), action.batch, action.device_id)
                case ev.Refuse():
                    model = self._models_of.pop(action.request_id)
                    outcome.models[model].refused += action.request_id not in self._uncounted
                    if self._tenants:
                        self._tenants.refused(action)
                    self._answered(model, now_ns + RETRY_NS)
                case ev.WakeAt() if action.at_ns not in self._wakes:
                    self._wakes.add(action.at_ns)
                    self._at(max(action.at_ns, now_ns + 1), None)

    def _close(self, outcome: SimulationOutcome) -> None:
        outcome.busy_ns = sum(executor.busy_ns for executor in self._devices.values())
        outcome.co_runner_ns = sum(executor.co_runner_ns for executor in self._devices.values())
        outcome.core_ns = self.core_ns
        if self._recorder:
            self._recorder.close()

    # ---- what happens

    def _prologue(self) -> Iterator[ev.Event]:
        """Devices join with all their models loaded and measured."""
        measured = {name: tuple(self._profiles(model)) for name, model in self.models.items()}
        for number, (device_id, executor) in enumerate(self._devices.items()):
            yield ev.DeviceJoined(executor.spec, 1)
            beliefs = self._beliefs[device_id]
            for model in self._loaded(number):
                for profile in measured[model.name]:
                    beliefs.learn_profile(profile)
                    yield ev.ClassProfiled(device_id, profile)
                yield ev.ModelLoaded(device_id, model.spec())

    def _profiles(self, model: SimulatedModel) -> Iterator[ev.Profile]:
        return solo_runs(model, self._seed) if self._kind == KERNELS else solo_times(model, self.law, self._seed)

    def _arrivals(self, start_ns: int, duration_ns: int) -> Iterator[ev.RequestArrived]:
        streams = self._streams
        if streams is None:
            streams = [Stream(Poisson(), {m.name: m.rate_per_s}) for m in self.models.values() if not m.clients]
        for at_s, model in merged(streams, self._seed):
            at_ns = start_ns + int(at_s * 1e9)
            if at_ns >= start_ns + duration_ns:
                break
            yield self._clients.arrival(self.models[model], at_ns)

    def requests(self, duration_ns: int) -> Iterator[ev.Request]:
        """The requests that would arrive, without closed loops; for who wants to know them beforehand."""
        return (arrival.request for arrival in self._arrivals(START_NS + 1, duration_ns))

    def _answered(self, name: str, at_ns: int) -> None:
        if arrival := self._clients.next_of_loop(self.models[name], at_ns):
            self._at(at_ns, arrival)

    def _note(self, event: ev.Event, outcome: SimulationOutcome) -> None:
        """Keeps what clients and the predictor see of an event."""
        if isinstance(event, ev.RequestArrived):
            self._models_of[event.request.request_id] = event.request.model
            if event.request.arrival_ns < self._counted_from_ns:
                self._uncounted.add(event.request.request_id)
            else:
                outcome.models[event.request.model].offered += 1
            if self._tenants:
                self._tenants.offered(event.request)
        elif isinstance(event, ev.BatchFinished) and event.forecast:
            outcome.batches += 1
            outcome.errors.append(abs(event.forecast.duration_ns - event.duration_ns) / event.duration_ns)
            outcome.covered += event.duration_ns <= event.forecast.bound_ns
            self._beliefs[event.device_id].learn_batch(event)
            if self._observer:
                self._observer(event)
        elif isinstance(event, ev.BatchDropped):
            outcome.dropped += 1

    def _push(self) -> Iterator[ev.EstimatesPushed]:
        for beliefs in self._beliefs.values():
            if beliefs.fresh and (pushed := beliefs.news(self._version + 1)):
                self._version += 1
                yield pushed

    # ---- devices

    def _start(self, executor: SimulatedExecutor, batch: ev.Batch, now_ns: int) -> None:
        """An order reaches its executor."""
        if told := executor.start(batch, now_ns):
            self._at(now_ns + self._drawn.report(now_ns), told)
        self._watch(executor, now_ns)

    def _watch(self, executor: SimulatedExecutor, now_ns: int) -> None:
        next_ns = executor.device.next_ns()
        if next_ns and next_ns != executor.watched_ns:
            executor.watched_ns = max(next_ns, now_ns)
            self._at(executor.watched_ns, None, executor.spec.device_id)

    def _collect(self, executor: SimulatedExecutor, now_ns: int, outcome: SimulationOutcome) -> None:
        """Ends what has ended on a device, answers its clients, and watches for the next."""
        for batch, finished in executor.ended(now_ns):
            answered_ns = finished.at_ns + self._drawn.answer(now_ns)
            for request in batch.requests:
                late = 0 < request.deadline_ns < answered_ns
                if request.request_id not in self._uncounted:
                    outcome.models[request.model].answered(answered_ns - request.arrival_ns, late=late)
                if self._tenants:
                    self._tenants.answered(request, answered_ns - request.arrival_ns, late=late)
                self._models_of.pop(request.request_id, None)
                self._answered(request.model, answered_ns)
            self._at(finished.at_ns + self._drawn.report(now_ns), finished)
        executor.watched_ns = 0
        self._watch(executor, now_ns)
