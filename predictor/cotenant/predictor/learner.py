"""What learns of one device how its batches slow each other: the interface of ours, of the published ones, of yours.

A learner is told of solo measurements (`learn_profile`) and of batches that ran (`learn_batch`), and is asked for
slowdowns in three ways:

- `explain`: of a batch whose neighbours are known for its whole life. Nothing about the future is needed, so what is
  left of the error is the learner's, or noise.
- `forecast`: of a batch about to start beside others, as a scheduler must. Who comes later is unknown.
- `slowdown`: while a given set runs, which is what the contract's estimates tell.

Bounds are not a learner's: `bounds` puts them round whatever was forecast. Learners have no clock, no I/O and no
randomness but what they are seeded with, and survive whatever `intake` lets through.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from cotenant.predictor.observations import Observation, Profile, Running, Slice
from cotenant.runtime.estimates import BatchClass, ClassEstimate

BASIS_PRIOR, BASIS_PROFILE, BASIS_OBSERVED = 1, 2, 3  # `Basis` of the contract


class Learner(Protocol):
    """See the module's text. All slowdowns are at least 1, and 1 for a class never heard of."""

    @property
    def classes(self) -> Collection[BatchClass]:
        """Every class heard of and not forgotten."""
        ...

    def learn_profile(self, profile: Profile) -> None:
        """Takes a solo measurement; it replaces what was believed of the solo time."""
        ...

    def learn_batch(self, seen: Observation) -> None:
        """Takes a finished batch."""
        ...

    def work_ns(self, batch_class: BatchClass) -> float:
        """Solo time believed; 0 if unknown."""
        ...

    def explain(self, batch_class: BatchClass, slices: Sequence[Slice]) -> float:
        """Slowdown, over its whole life, of a batch that met these slices."""
        ...

    def forecast(self, batch_class: BatchClass, running: Sequence[Running]) -> float:
        """Slowdown, over its whole life, of a batch that starts now beside `running`, if nobody comes later."""
        ...

    def slowdown(self, batch_class: BatchClass, co_runners: Sequence[BatchClass]) -> float:
        """Slowdown while exactly these run beside it."""
        ...

    def estimate(self, batch_class: BatchClass) -> ClassEstimate:
        """The contract's estimate, without quantiles. Raises KeyError for a class never heard of.

        An empty `sensitivity` says that the contract's formula does not fit this learner: sets are told then.
        """
        ...

    def changed(self) -> list[BatchClass]:
        """Classes whose `estimate` differs from what it was at the last call, in no particular order."""
        ...

    def forget(self, batch_class: BatchClass) -> None:
        """Drops what is known of a class alone."""
        ...

    def dump(self) -> bytes:
        """State that no single class owns."""
        ...

    def dump_class(self, batch_class: BatchClass) -> bytes:
        """State of one class. Raises KeyError for a class never heard of."""
        ...

    def restore(self, device: bytes, classes: Mapping[BatchClass, bytes]) -> None:
        """Becomes what was dumped. Raises ValueError if that was of another learner or number of resources."""
        ...


# Makes a learner for a device of so many resources.
Factory = Callable[[int], Learner]
