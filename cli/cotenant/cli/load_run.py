"""The open loop: every request goes out at its intended instant, whatever became of the others.

A late sender sends late, and neither skips nor moves what follows; latency counts from the intended instant all the
same, so a server that stalls is charged for everyone who would have come meanwhile. How far the sender itself fell
behind is kept for each request.
"""

import asyncio
import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic_ns
from typing import Any

from cotenant.cli.load_alarm import Alarm
from cotenant.cli.load_client import Answer, Client, Explained, Outcome

_HEAD_START_NS = 50_000_000  # from being ready to the first instant of the run


@dataclass(frozen=True, slots=True)
class Plan:
    """What is sent and when; the columns have one entry per request, in order of time."""

    at_ns: Sequence[int]  # intended, from the first instant of the run
    model: Sequence[int]
    prepared: Sequence[Any]
    slo_ns: Sequence[int]  # by model; 0 for none
    deadline_ns: Sequence[int]  # by model; 0 for none
    warmup_ns: int  # requests intended before this do not count

    @property
    def first_counted(self) -> int:
        """Index of the first request that counts."""
        return sum(1 for at_ns in self.at_ns if at_ns < self.warmup_ns)


@dataclass(slots=True)
class Run:
    """A plan being carried out; the columns have one entry per request."""

    plan: Plan
    client: Client
    started_ns: int = 0
    sent: int = 0
    lag_ns: list[int] = field(default_factory=list)
    latency_ns: list[int] = field(default_factory=list)
    outcome: list[Outcome] = field(default_factory=list)
    detail: list[str] = field(default_factory=list)
    explained: dict[int, Explained] = field(default_factory=dict)
    counts: list[list[int]] = field(default_factory=list)  # by model and outcome, of those that count
    _first_counted: int = 0
    _sender: asyncio.Task[None] | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _error: BaseException | None = None

    def __post_init__(self) -> None:
        total = len(self.plan.at_ns)
        self.lag_ns, self.latency_ns = [0] * total, [0] * total
        self.outcome, self.detail = [Outcome.PENDING] * total, [""] * total
        self.counts = [[0] * len(Outcome) for _ in self.plan.slo_ns]
        self._first_counted = self.plan.first_counted

    async def carry_out(self, drain_s: float) -> None:
        """Sends everything, then waits for answers, `drain_s` at most; what is open then is cancelled."""
        gc.collect()
        gc.freeze()  # what was prepared lives to the end: collections need not look at it
        self.started_ns = monotonic_ns() + _HEAD_START_NS
        self._sender = asyncio.create_task(self._send_all())
        await asyncio.gather(self._sender, return_exceptions=True)
        if not self._sender.cancelled() and (error := self._sender.exception()):
            raise error
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=drain_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        gc.unfreeze()
        if self._error:
            raise self._error

    def stop(self) -> None:
        """Sends no more. What was sent counts, the rest was never offered."""
        if self._sender:
            self._sender.cancel()

    async def _send_all(self) -> None:
        alarm = Alarm()
        try:
            for index, at_ns in enumerate(self.plan.at_ns):
                await alarm.until(self.started_ns + at_ns)
                self._count(index, Outcome.PENDING, 1)
                task = asyncio.create_task(self._send(index, self.started_ns + at_ns))
                self._tasks.add(task)
                task.add_done_callback(self._ended)
                self.sent = index + 1
        finally:
            alarm.close()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._error = error
            self.stop()

    async def _send(self, index: int, intended_ns: int) -> None:
        plan = self.plan
        model = plan.model[index]
        lag_ns = self.lag_ns[index] = monotonic_ns() - intended_ns
        deadline_s = max(1, plan.deadline_ns[model] - lag_ns) / 1e9 if plan.deadline_ns[model] else None
        try:
            answer = await self.client.infer(plan.prepared[index], deadline_s)
        except asyncio.CancelledError:
            answer = Answer(Outcome.CANCELLED, "no answer")
        self.latency_ns[index] = monotonic_ns() - intended_ns
        late = 0 < plan.slo_ns[model] < self.latency_ns[index]
        outcome = (Outcome.LATE if late else Outcome.IN_TIME) if answer.failure is None else answer.failure
        self.outcome[index], self.detail[index] = outcome, answer.detail
        if answer.explained:
            self.explained[index] = answer.explained
        self._count(index, Outcome.PENDING, -1)
        self._count(index, outcome, 1)

    def _count(self, index: int, outcome: Outcome, change: int) -> None:
        if index >= self._first_counted:
            self.counts[self.plan.model[index]][outcome] += change
