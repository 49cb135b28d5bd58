"""A request on its way, from its submission until its one terminal message."""

import asyncio
from dataclasses import dataclass, field

from cotenant.frontend.catalogue import ModelView
from cotenant.frontend.checking import Checked
from cotenant.frontend.errors import refused
from cotenant.v1 import executor_pb2, types_pb2


@dataclass(frozen=True, slots=True)
class Answered:
    """An executor's answer, with its outputs copied out of shared memory."""

    answer: executor_pb2.Answer
    outputs: list[bytes]  # one per tensor of the answer
    started_ns: int  # when the batch started, on our clock
    device_id: str = ""  # where it ran


@dataclass(slots=True)
class Pending:
    """A request that has no terminal message yet."""

    request_id: int
    model: ModelView
    checked: Checked
    arrival_ns: int
    deadline_ns: int  # 0 if there is none
    traceparent: str
    block: types_pb2.StagedTensors | None
    done: "asyncio.Future[Answered]"
    tenant: str = ""
    attempt: int = 1
    abandoned: bool = False  # its client has gone, or was told that nothing will come
    staged_at: dict[str, int] = field(default_factory=dict)  # devices that are sent its tensors, for which attempt
    asked_ns: int = 0  # when it was submitted again because its answer was overdue
    kept_back: bool = False  # the scheduler was being stopped; the next one gets it
    responses: "asyncio.Queue[Answered | None] | None" = None  # of a decoupled model; None after the last
    unread_bytes: int = 0  # of responses that wait
    next_response: int = 0  # its index: one that was lost on its way must not go unnoticed
    doubted_ns: int = 0  # since when its answer may have been lost, where it must not be run again

    @property
    def facts(self) -> dict[str, str]:
        """What a refusal tells of the request."""
        facts = {"model": self.model.name, "version": self.model.version, "request_id": str(self.request_id)}
        if self.deadline_ns:
            facts["budget_ms"] = f"{self.checked.budget_ns / 1e6:.3f}"
        return facts

    def listen(self) -> None:
        """Responses come before the answer."""
        responses: asyncio.Queue[Answered | None] = asyncio.Queue()
        self.responses = responses
        self.done.add_done_callback(lambda _: responses.put_nowait(None))

    async def response(self) -> "Answered | None":
        """The next response of a decoupled model; None when the answer is there."""
        assert self.responses is not None
        found = await self.responses.get()
        self.unread_bytes -= sum(map(len, found.outputs)) if found else 0
        return found

    def fail(self, reason: types_pb2.RejectReason, message: str, **more: str) -> None:
        """Answers with a refusal, if nothing was answered yet."""
        if not self.done.done():
            self.done.set_exception(refused(reason, message, self.facts | more))
