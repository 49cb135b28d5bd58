"""Instants and durations that all of a simulation shares."""

from typing import NamedTuple

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


MEASURED_DELAYS = Delays()
