"""Estimates that know the device's own law: what a predictor that never errs about slowdowns would tell.

The core evaluates estimates through an `EstimateTable`. A law cannot be put into the contract's vectors, so here the
table itself asks the law. Phases of a class are the law's own parts. What nobody can know stays unknown: the noise of
a batch, and who will be launched beside it later; bounds round the forecasts cover both, learned as always.
"""

from collections.abc import Iterable, Sequence

from cotenant.predictor.baselines.simple import Ignore
from cotenant.runtime.estimates import BatchClass, ClassEstimate, EstimateTable, Phase, SetEstimate, Stage
from cotenant.scheduler.simulation.laws import Law, Part, work_ns

ALIGNMENTS = 8  # of the phases of co-runners, that a mean over all phases is taken from
_GOLDEN = 0.6180339887498949


class TrueRates:
    """A law, asked about classes and their phases; one for all devices of a simulation, since it remembers."""

    def __init__(self, law: Law) -> None:
        self.law = law
        self._numbers: dict[tuple[BatchClass, float], int] = {}
        self._means: dict[tuple[int, ...], float] = {}

    def of_stages(self, stages: Sequence[Stage]) -> tuple[float, ...]:
        """Rates of classes in the phases that end at these shares of their work."""
        return self._asked([self._number(stage.batch_class, stage.end) for stage in stages])

    def mean(self, victim: BatchClass, co_runners: Sequence[BatchClass]) -> float:
        """Over all phases of the victim, at some alignments of the others."""
        courses = [self.law.parts(known) for known in (victim, *co_runners)]
        key = (courses[0][0].number, *sorted([course[0].number for course in courses[1:]]))
        found = self._means.get(key)
        if found is None:
            courses[1:] = sorted(courses[1:], key=lambda course: course[0].number)
            found = self._means[key] = self._mean(*courses)
        return found

    def _mean(self, own: Sequence[Part], *others: Sequence[Part]) -> float:
        took_ns = work = 0.0
        for part in own:
            for k in range(ALIGNMENTS):
                beside = [_at(other, (k + 0.5) / ALIGNMENTS + i * _GOLDEN) for i, other in enumerate(others)]
                work += part.work_ns
                took_ns += part.work_ns / self._asked([part.number, *beside])[0]
        return work / took_ns

    def _number(self, batch_class: BatchClass, end: float) -> int:
        if (batch_class, end) not in self._numbers:
            parts = zip(phases(self.law, batch_class), self.law.parts(batch_class), strict=True)
            self._numbers.update({(batch_class, phase.end): part.number for phase, part in parts})
        return self._numbers[batch_class, end]

    def _asked(self, numbers: Sequence[int]) -> tuple[float, ...]:
        """The law's rates, in the order of `numbers`."""
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        told = dict(zip(order, self.law.rates(tuple([numbers[i] for i in order])), strict=True))
        return tuple([told[i] for i in range(len(numbers))])


def _at(parts: Sequence[Part], share: float) -> int:
    """The number of the part a class is in when so much of its work is done (modulo one)."""
    left = share % 1.0 * sum(part.work_ns for part in parts)
    for part in parts:
        if (left := left - part.work_ns) <= 0.0:
            return part.number
    return parts[-1].number


class TrueTable(EstimateTable):
    """See the module's text."""

    def __init__(self, truth: TrueRates) -> None:
        super().__init__()
        self._truth = truth
        self._by_stages: dict[tuple[Stage, ...], tuple[float, ...]] = {}
        self._by_classes: dict[tuple[BatchClass, tuple[BatchClass, ...]], float] = {}

    def update(self, classes: Iterable[ClassEstimate], sets: Iterable[SetEstimate], *, complete: bool) -> None:
        """See `EstimateTable.update`; it makes stages anew."""
        self._by_stages.clear()
        super().update(classes, sets, complete=complete)

    def rates(self, stages: tuple[Stage, ...]) -> tuple[float, ...]:
        """See `EstimateTable.rates`."""
        found = self._by_stages.get(stages)
        if found is None:
            found = self._by_stages[stages] = self._truth.of_stages(stages)
        return found

    def rate(self, own: Stage, others: tuple[Stage, ...]) -> float:
        """See `EstimateTable.rate`."""
        return self.rates((own, *others))[0]

    def progress_rate(self, victim: BatchClass, co_runners: Sequence[BatchClass]) -> float:
        """See `EstimateTable.progress_rate`."""
        if not co_runners:
            return 1.0
        key = (victim, tuple(co_runners))
        found = self._by_classes.get(key)
        if found is None:
            found = self._by_classes[key] = self._truth.mean(*key)
        return found


def phases(law: Law, batch_class: BatchClass) -> tuple[Phase, ...]:
    """A law's parts as phases, which tell their ends and no demand."""
    total_ns, passed_ns = work_ns(law, batch_class), 0.0
    found: list[Phase] = []
    parts = law.parts(batch_class)
    for part in parts:
        passed_ns += part.work_ns
        found.append(Phase(1.0 if len(found) == len(parts) - 1 else passed_ns / total_ns, ()))
    return tuple(found)


class TrueTimes(Ignore):
    """A learner that knows the solo time and the phases of every class, and has nothing to learn."""

    def __init__(self, law: Law, classes: Iterable[BatchClass]) -> None:
        super().__init__("true", 3)
        self._law = law
        for batch_class in classes:
            self._dirty[batch_class] = None
        self._told = {known: self._truth(known) for known in self._dirty}

    def _truth(self, batch_class: BatchClass) -> ClassEstimate:
        return ClassEstimate(
            batch_class, round(work_ns(self._law, batch_class)), phases=phases(self._law, batch_class), sample_count=1
        )

    def estimate(self, batch_class: BatchClass) -> ClassEstimate:
        """See `Learner.estimate`."""
        return self._told[batch_class]
