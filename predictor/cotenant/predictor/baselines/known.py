"""What every baseline knows of classes: their solo measurement, and how it is told and kept.

A class without a solo measurement of its own gets one drawn between the measured batch sizes of its model, as gpulets
does between powers of two; failing that, its solo time is the shortest that it took. So no baseline loses for want of
a measurement.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec

from cotenant.predictor.learner import BASIS_OBSERVED, BASIS_PRIOR, BASIS_PROFILE
from cotenant.predictor.observations import Observation, Profile
from cotenant.runtime.estimates import BatchClass, ClassEstimate

Demand = tuple[float, ...]


class ClassFacts(msgspec.Struct):
    """What is known of one class, and kept."""

    work_ns: float = 0.0  # measured alone; 0 if it was not
    demand: Demand = ()
    shortest_ns: float = 0.0
    samples: int = 0


class _KeptDevice(msgspec.Struct):
    learner: str
    resources: int
    state: bytes


@dataclass(frozen=True, slots=True)
class _Measured:
    work_ns: float
    demand: Demand


class KnownClasses:
    """The part of `Learner` that baselines share; they add the slowdowns, and what `dump` keeps of a device."""

    def __init__(self, name: str, resources: int) -> None:
        self.name, self.resources = name, resources
        self.facts: dict[BatchClass, ClassFacts] = {}
        self._sizes: dict[tuple[str, str, str], dict[int, _Measured]] = {}  # measured alone, by size
        self._drawn: dict[BatchClass, _Measured | None] = {}  # memo of classes heard of, until the next measurement
        self._dirty: dict[BatchClass, None] = {}

    @property
    def classes(self) -> Collection[BatchClass]:
        """See `Learner.classes`."""
        return self.facts.keys()

    def learn_profile(self, profile: Profile) -> None:
        """See `Learner.learn_profile`."""
        facts = self.facts.setdefault(profile.batch_class, ClassFacts())
        facts.work_ns = float(profile.work_ns)
        facts.demand = (*profile.demand, *([0.0] * self.resources))[: self.resources] if profile.demand else ()
        self._measure(profile.batch_class, facts)
        self._dirty[profile.batch_class] = None

    def see(self, seen: Observation) -> ClassFacts:
        """Counts a finished batch."""
        facts = self.facts.setdefault(seen.batch_class, ClassFacts())
        facts.samples += 1
        facts.shortest_ns = min(facts.shortest_ns or seen.duration_ns, float(seen.duration_ns))
        self._dirty[seen.batch_class] = None
        return facts

    def _measure(self, known: BatchClass, facts: ClassFacts) -> None:
        sizes = self._sizes.setdefault((known.model, known.version, known.shape_bucket), {})
        sizes[known.batch_size] = _Measured(facts.work_ns, facts.demand)
        self._drawn.clear()

    def forget(self, batch_class: BatchClass) -> None:
        """See `Learner.forget`."""
        self.facts.pop(batch_class, None)
        self._dirty.pop(batch_class, None)
        key = (batch_class.model, batch_class.version, batch_class.shape_bucket)
        if key in self._sizes:
            self._sizes[key].pop(batch_class.batch_size, None)
            if not self._sizes[key]:
                del self._sizes[key]
        self._drawn.clear()

    # ---- solo time and demand

    def work_ns(self, batch_class: BatchClass) -> float:
        """See `Learner.work_ns`."""
        measured = self._measured(batch_class)
        if measured is not None:
            return measured.work_ns
        facts = self.facts.get(batch_class)
        return facts.shortest_ns if facts else 0.0

    def demand(self, batch_class: BatchClass, otherwise: float) -> Demand:
        """Share of each resource that a class keeps busy; `otherwise` of each where nothing tells."""
        measured = self._measured(batch_class)
        return measured.demand if measured is not None and measured.demand else (otherwise,) * self.resources

    def _measured(self, batch_class: BatchClass) -> _Measured | None:
        if batch_class in self._drawn:
            return self._drawn[batch_class]
        sizes = self._sizes.get((batch_class.model, batch_class.version, batch_class.shape_bucket))
        found = _between(sizes, batch_class.batch_size) if sizes else None
        if batch_class in self.facts:
            self._drawn[batch_class] = found
        return found

    # ---- telling

    def sensitivity(self) -> tuple[float, ...]:
        """The weights of `ClassEstimate`; empty where its formula does not fit."""
        return ()

    def estimate(self, batch_class: BatchClass) -> ClassEstimate:
        """See `Learner.estimate`."""
        facts = self.facts[batch_class]
        return ClassEstimate(
            batch_class,
            round(self.work_ns(batch_class)),
            tuple(round(d, 4) for d in self.demand(batch_class, 0.5)),
            self.sensitivity(),
            sample_count=facts.samples,
            basis=BASIS_OBSERVED if facts.samples else BASIS_PROFILE if facts.work_ns else BASIS_PRIOR,
        )

    def changed(self) -> list[BatchClass]:
        """See `Learner.changed`."""
        changed = list(self._dirty)
        self._dirty.clear()
        return changed

    # ---- keeping

    def dump_state(self) -> bytes:
        """What a learner keeps besides its classes."""
        return b""

    def restore_state(self, state: bytes) -> None:
        """Becomes what `dump_state` gave. Raises ValueError (msgspec's included) if that was of another learner."""

    def dump(self) -> bytes:
        """See `Learner.dump`."""
        return msgspec.msgpack.encode(_KeptDevice(self.name, self.resources, self.dump_state()))

    def dump_class(self, batch_class: BatchClass) -> bytes:
        """See `Learner.dump_class`."""
        return msgspec.msgpack.encode(self.facts[batch_class])

    def restore(self, device: bytes, classes: Mapping[BatchClass, bytes]) -> None:
        """See `Learner.restore`."""
        kept = msgspec.msgpack.decode(device, type=_KeptDevice)
        if (kept.learner, kept.resources) != (self.name, self.resources):
            raise ValueError(
                f"kept state is of the learner '{kept.learner}' with {kept.resources} resources, "
                f"'{self.name}' with {self.resources} is expected"
            )
        self.restore_state(kept.state)
        for batch_class, blob in classes.items():
            facts = self.facts[batch_class] = msgspec.msgpack.decode(blob, type=ClassFacts)
            if facts.work_ns:
                self._measure(batch_class, facts)
        self._drawn.clear()


def _between(sizes: Mapping[int, _Measured], size: int) -> _Measured:
    """Linear between the nearest measured sizes; beyond them, the demand of the nearest and work in proportion."""
    below = max((s for s in sizes if s <= size), default=0)
    above = min((s for s in sizes if s >= size), default=0)
    if not (below and above):
        nearest = below or above
        return _Measured(sizes[nearest].work_ns * max(1.0, size / nearest), sizes[nearest].demand)
    if below == above:
        return sizes[below]
    low, high, part = sizes[below], sizes[above], (size - below) / (above - below)
    demand = tuple(a + (b - a) * part for a, b in zip(low.demand, high.demand, strict=False))
    return _Measured(low.work_ns + (high.work_ns - low.work_ns) * part, demand)
