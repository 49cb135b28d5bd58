"""Instants and durations that all of a simulation shares."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

START_NS = 1_000_000_000  # instants must not be 0, which stands for none
FOREVER_NS = 2**62
PUSH_NS = 100_000_000  # between two pushes of estimates
RETRY_NS = 1_000_000  # a client of a closed loop that was refused sends its next request so much later
TELL_NS = 10_000_000  # between two reports of how far a simulation has come


class Delays(NamedTuple):
    """What lies between the services on one host, as measured there (docs/data-path.md); durations."""

    order_ns: int = 400_000  # from a decision to the start of a batch
    report_ns: int = 300_000  # from the end of a batch to the scheduler knowing it
    answer_ns: int = 500_000  # from the end of a batch to the answer at the client

    @property
    def least(self) -> "Delays":
        """What passes at least."""
        return self

    def sampler(self, seed: int) -> "Sampler":
        """They are the same at all times."""
        del seed
        return _Constant(self)


class Sampler(Protocol):
    """Says how long what sets out now is on its way, in ns; `now_ns` may go back a little."""

    guess_ns: int  # what the scheduler takes an answer to need before it is told

    def arrive(self, now_ns: int) -> int:
        """A request from its frontend to the scheduler."""
        ...

    def order(self, now_ns: int) -> int:
        """A launch to its start."""
        ...

    def report(self, now_ns: int) -> int:
        """The end of a batch to the scheduler knowing it."""
        ...

    def answer(self, now_ns: int) -> int:
        """The end of a batch to a client having its answer."""
        ...

    def told(self, now_ns: int) -> int:
        """What frontends have just told the scheduler that an answer needs, or 0 if they have told nothing new."""
        ...


class _Constant:
    """See `Delays.sampler`."""

    def __init__(self, delays: Delays) -> None:
        order_ns, report_ns, self.guess_ns = delays
        self.order: Callable[[int], int] = lambda _: order_ns
        self.report: Callable[[int], int] = lambda _: report_ns
        self.answer: Callable[[int], int] = lambda _: self.guess_ns
        self.arrive: Callable[[int], int] = lambda _: 0
        self.told: Callable[[int], int] = lambda _: 0


MEASURED_DELAYS = Delays()
