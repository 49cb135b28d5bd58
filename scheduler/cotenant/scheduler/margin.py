"""What answers take beyond execution, as the core believes it.

Frontends report the 95th percentile of what was seen since their last report. Two figures follow from the last few
reports. The *usual* one, their median, is in every forecast: a hiccup of the host is one report, and does not move it.
The *least*, their minimum, is all that a refusal may count on: what is refused is refused for being certain to be late,
and who believes a hiccup for seconds shuts out every model whose SLO is shorter than it.

Where everything is refused for being late there is nothing to measure: without answers it fades to what was configured.
"""

from collections.abc import Sequence

from cotenant.scheduler.state import State

# After so long without an answer, half is forgotten of what answers were measured to take beyond the setting.
PATIENCE_NS = 2_000_000_000
REPORTS = 9  # that count


class Margin:
    """See the module's text."""

    def __init__(self, state: State) -> None:
        self.told_ns = 0  # when there was an answer, or it was last changed
        self.reports: tuple[int, ...] = ()  # the last ones, oldest first
        self._state = state
        self._configured_ns = state.config.answer_overhead_ns

    @property
    def overhead_ns(self) -> int:
        """What answers usually take."""
        return sorted(self.reports)[len(self.reports) // 2] if self.reports else self._configured_ns

    @property
    def least_ns(self) -> int:
        """What answers take at least."""
        return min(self.reports, default=self._configured_ns)

    def fade(self) -> None:
        """Forgets some of it if it is time to."""
        if self._state.now_ns - self.told_ns > PATIENCE_NS and self.overhead_ns > self._configured_ns:
            self._believe([min(told, (told + self._configured_ns) // 2) for told in self.reports])

    def configure(self, overhead_ns: int) -> None:
        """Another margin holds from now on, until answers are measured again."""
        self._configured_ns = overhead_ns
        self._believe(())

    def measured(self, overhead_ns: int) -> None:
        """Answers were measured to take so long."""
        self._believe([*self.reports[1 - REPORTS :], overhead_ns])

    def _believe(self, reports: Sequence[int]) -> None:
        self.reports, self.told_ns = tuple(reports), self._state.now_ns
        for device in self._state.devices.values():
            device.believe_overhead(self.overhead_ns, self.least_ns)
