"""What `fluid` knows of one class of batches."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from cotenant.predictor.drift import Drift
from cotenant.predictor.gaussian import Belief, Vector
from cotenant.runtime.estimates import BatchClass, Phase, Stage

NOISE = 0.05**2  # of log(elapsed), as a variance: where it starts


class KeptClass(msgspec.Struct):
    """A class as it is kept."""

    work_ns: float
    demand: tuple[float, ...]
    unsure: list[float]
    mean: list[float]
    covariance: list[list[float]]
    pairs: list[tuple[BatchClass, float, float]]
    noise: list[float]
    samples: int
    solo_samples: int
    profiled: bool
    kernel_ns: float = 0.0
    phases: tuple[Phase, ...] = ()


@dataclass(slots=True)
class ClassState:
    """What is known of one class."""

    work_ns: float  # without the device's pace; 0 if unknown
    mean: Stage
    stages: tuple[Stage, ...]  # the mean alone where it is the same all along
    unsure: Vector | None  # variances of the demand; None where it was measured
    belief: Belief  # deviation of the weights, and kappa at the end, which is folded into `work_ns` at once
    pairs: dict[BatchClass, tuple[float, float]] = field(default_factory=dict)  # mean and variance, last met last
    noise: list[float] = field(default_factory=lambda: [NOISE, NOISE])  # alone, beside others
    drift: Drift = field(default_factory=Drift)
    samples: int = 0  # batches that met others
    solo_samples: int = 0
    profiled: bool = False

    @property
    def demand(self) -> tuple[float, ...]:
        """Mean share of each resource that it asks for."""
        return self.mean.demand

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Empty where it is the same all along."""
        if len(self.stages) == 1:
            return ()
        return tuple(Phase(stage.end, stage.demand, stage.kernel_ns) for stage in self.stages)

    def tell(self, demand: tuple[float, ...], kernel_ns: float = 0.0, phases: Sequence[Phase] = ()) -> None:
        """What it asks for is this."""
        known = self.mean.batch_class
        self.mean = Stage(known, Phase(1.0, demand, kernel_ns), None)
        self.stages = tuple([Stage(known, phase, None) for phase in phases]) or (self.mean,)

    def like(self, demand: tuple[float, ...], work_ns: float) -> tuple[float, tuple[Phase, ...]]:
        """Duration of kernels, and phases, of a class of this demand and work that is otherwise like this one."""
        longer = work_ns / self.work_ns
        scales = [mine / own if own else 1.0 for mine, own in zip(demand, self.demand, strict=True)]
        phases = tuple(
            Phase(p.end, tuple([min(1.0, d * s) for d, s in zip(p.demand, scales, strict=True)]), p.kernel_ns * longer)
            for p in self.phases
        )
        return self.mean.kernel_ns * longer, phases

    def keep(self) -> KeptClass:
        """What outlives a restart."""
        return KeptClass(
            self.work_ns,
            self.demand,
            [] if self.unsure is None else self.unsure.tolist(),
            self.belief.mean.tolist(),
            self.belief.covariance.tolist(),
            [(other, mean, variance) for other, (mean, variance) in self.pairs.items()],
            self.noise,
            self.samples,
            self.solo_samples,
            self.profiled,
            self.mean.kernel_ns,
            self.phases,
        )
