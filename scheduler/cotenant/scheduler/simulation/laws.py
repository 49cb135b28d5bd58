"""Laws for devices that are simulated phase by phase: of what parts a batch is made, and how parts slow each other.

A law numbers the parts of all classes. A set of batches is then a tuple of numbers in ascending order, and its rates
are looked up: sets come again and again, and a look-up costs less than anything that could be computed.

`spent` is for bounds (`clairvoyant.py`): what a batch takes of budgets of which a device has one unit per ns, whoever
runs beside it. The first budget of every law is progress itself, in units of the most that a device ever makes.
"""

import random
from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol

from cotenant.executor.phases import Cut
from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler.events import Profile

MEMO_LIMIT = 2**20  # sets; bounds memory to some hundred MB


class Part(NamedTuple):
    """A stretch of a batch in which it asks for the same, and the solo time it takes."""

    number: int
    work_ns: float


class Law(Protocol):
    """See the module's text."""

    def parts(self, batch_class: BatchClass) -> tuple[Part, ...]:
        """The parts of a class in order; at least one. Raises ValueError for a class the law knows nothing of."""
        ...

    def rates(self, numbers: tuple[int, ...]) -> tuple[float, ...]:
        """Progress rate in (0, 1] of each of the parts that run together; numbers ascend."""
        ...

    def noise(self, batch_class: BatchClass) -> float:
        """Relative standard deviation of the work of a batch of this class."""
        ...

    def scale(self, batch_class: BatchClass, now_ns: int, rng: random.Random) -> float:
        """What the work of a batch that begins now is multiplied with."""
        ...

    def measured(self, batch_class: BatchClass) -> Profile | None:
        """The solo measurement of a class, where one was recorded."""
        ...

    def profile(self, batch_class: BatchClass) -> Cut:
        """What a profiler would tell of a class if it did not err; without demands where nothing tells them."""
        ...

    def spent(self, batch_class: BatchClass) -> tuple[float, ...]:
        """What a batch takes of each budget at least, in ns."""
        ...


class Unrecorded(ABC):
    """What is the same for all laws that no log was recorded of."""

    @abstractmethod
    def noise(self, batch_class: BatchClass) -> float:
        """See `Law.noise`."""

    def scale(self, batch_class: BatchClass, now_ns: int, rng: random.Random) -> float:  # noqa: ARG002
        """See `Law.scale`: log-normal, whenever it begins."""
        noise = self.noise(batch_class)
        return rng.lognormvariate(0.0, noise) if noise else 1.0

    def measured(self, batch_class: BatchClass) -> Profile | None:  # noqa: ARG002
        """See `Law.measured`."""
        return None


def work_ns(law: Law, batch_class: BatchClass) -> float:
    """Solo time of a batch of this class, without noise."""
    return sum(part.work_ns for part in law.parts(batch_class))


class Memo:
    """Rates of sets that were met."""

    def __init__(self) -> None:
        self._rates: dict[tuple[int, ...], tuple[float, ...]] = {}

    def get(self, numbers: tuple[int, ...]) -> tuple[float, ...] | None:
        """The rates of a set, if it was met."""
        return self._rates.get(numbers)

    def keep(self, numbers: tuple[int, ...], rates: tuple[float, ...]) -> tuple[float, ...]:
        """Remembers and returns them."""
        if len(self._rates) >= MEMO_LIMIT:
            self._rates.clear()
        self._rates[numbers] = rates
        return rates
