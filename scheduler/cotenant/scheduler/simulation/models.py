"""Models as they are simulated: their load, and what a solo measurement of them would tell."""

import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cotenant.executor.emulated_gpu import EmulatedGpu, Kernel, profiled, told
from cotenant.executor.phases import Cut
from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler import events as ev
from cotenant.scheduler.simulation.emulated_law import Recipe
from cotenant.scheduler.simulation.laws import Law, work_ns

SOLO_RUNS = 5
TOLD_ERROR = 0.04  # of a resource profile, relative standard deviation


@dataclass(frozen=True)
class SimulatedModel:
    """A model and its load: requests of one item each, Poisson at `rate_per_s` if nothing else is said.

    `devices` names those that have it loaded, by number; empty: all. `priority` counts as that of a request does.
    """

    name: str
    personality: str
    rate_per_s: float
    slo_ns: int
    max_batch_size: int = 8
    time_scale: float = 1.0
    priority: int = 0
    devices: tuple[int, ...] = ()
    clients: int = 0  # of a closed loop: each sends its next request when its last was answered
    tenants: tuple[tuple[str, float], ...] = ()  # whose requests they are, and their shares; empty: nobody's
    instances: int = 0  # batches of it that a device may run at once; 0: not limited

    @property
    def recipe(self) -> Recipe:
        """What it is made of on an emulated device."""
        return Recipe(self.personality, self.time_scale)

    def kernels(self, batch_size: int) -> list[Kernel]:
        """Its kernels on an emulated device."""
        return self.recipe.kernels(batch_size)

    def spec(self) -> ev.ModelSpec:
        """As a scheduler is told of it."""
        batching = self.max_batch_size > 1
        return ev.ModelSpec(
            self.name,
            "1",
            self.max_batch_size,
            batching=batching,
            slo_ns=self.slo_ns,
            max_instances=self.instances,
        )

    def classes(self) -> list[BatchClass]:
        """Every batch class it can have."""
        return [BatchClass(self.name, "1", size) for size in range(1, self.max_batch_size + 1)]


def measured_sizes(max_batch_size: int) -> list[int]:
    """Batch sizes that an executor measures: powers of two."""
    return [2**exponent for exponent in range(max_batch_size.bit_length())]


def solo_runs(model: SimulatedModel, seed: int) -> Iterator[ev.Profile]:
    """Solo runs on an idle device, and demands as a profiler would tell them, with some percent of error."""
    noise = random.Random(f"{seed} {model.name}")  # noqa: S311
    for size in measured_sizes(model.max_batch_size):
        gpu = EmulatedGpu(noise.randrange(2**31))
        durations = []
        for run in range(SOLO_RUNS):
            start_ns = 10**12 * (run + 1)
            gpu.start(start_ns, run, model.kernels(size))
            end_ns = gpu.next_finish_ns()
            assert end_ns is not None
            durations.append(end_ns - start_ns)
            gpu.finished(end_ns)
        profile = profiled(model.kernels(size), lambda: noise.gauss(1.0, TOLD_ERROR))
        yield _measured(BatchClass(model.name, "1", size), durations, profile)


def solo_times(model: SimulatedModel, law: Law, seed: int) -> Iterator[ev.Profile]:
    """The same by a law, at a fraction of the cost: thousands of models are measured in a second."""
    noise = random.Random(f"{seed} {model.name}")  # noqa: S311
    for size in measured_sizes(model.max_batch_size):
        known = BatchClass(model.name, "1", size)
        if measured := law.measured(known):
            yield measured
            continue
        sigma = law.noise(known)
        runs = [work_ns(law, known) * noise.lognormvariate(0.0, sigma) for _ in range(SOLO_RUNS)]
        yield _measured(known, runs, told(law.profile(known), lambda: noise.gauss(1.0, TOLD_ERROR)))


def _measured(known: BatchClass, runs_ns: Sequence[float], profile: Cut) -> ev.Profile:
    median_ns = int(statistics.median(runs_ns))
    return ev.Profile(known, median_ns, SOLO_RUNS, profile.demand, kernel_ns=profile.kernel_ns, phases=profile.phases)
