"""Requests on their way: submitted to the scheduler, staged for executors, answered exactly once.

A request is *pending* from submission until its one terminal message: an answer from an executor, or a refusal from
the scheduler. Its block of shared memory lives exactly as long, whether or not its client still waits, because an
executor may be reading it. Whoever lost its stream to the scheduler submits again what is pending; the scheduler
ignores what it already has. What gets no terminal message at all (all services involved died) is given up by the
reaper, long after its deadline.
"""

import asyncio
import secrets
from dataclasses import dataclass

import structlog

from cotenant.frontend.catalogue import ModelView
from cotenant.frontend.checking import Checked
from cotenant.frontend.errors import RequestError, refused
from cotenant.frontend.staging_area import StagingArea
from cotenant.runtime.clock import PeerClock, now_ns
from cotenant.runtime.outbox import Outbox
from cotenant.v1 import executor_pb2, scheduler_pb2, types_pb2

_log = structlog.get_logger()

COUNTER_BITS = 33  # request id = frontend id << 33 | counter, 53 bits in all: exact in JSON and in doubles
FRONTEND_BITS = 20
# Long after its deadline a request without a terminal message is given up; its block may be reused then.
REAP_AFTER_NS = 30_000_000_000
# Tensors for which there is no shared memory wait in ours; more than this is refused.
UNSTAGED_LIMIT_BYTES = 512 * 2**20


@dataclass(slots=True)
class Answered:
    """An executor's answer, with its outputs where they lie until `release` is called."""

    answer: executor_pb2.Answer
    data: memoryview
    received_ns: int
    execution_started_ns: int  # on our clock


@dataclass(slots=True)
class Pending:
    """A request that has no terminal message yet."""

    request_id: int
    attempt: int
    model: ModelView
    checked: Checked
    arrival_ns: int
    deadline_ns: int
    traceparent: str
    block: types_pb2.StagedTensors | None
    done: "asyncio.Future[Answered]"
    abandoned: bool = False


class Dispatcher:
    """See the module's text. For the event loop's thread only."""

    def __init__(self, staging: StagingArea, *, max_pending: int, patience_ns: int) -> None:
        self.frontend_id = 0
        self.staging = staging
        self.pending: dict[int, Pending] = {}
        self.scheduler: Outbox[scheduler_pb2.ConnectFrontendRequest] | None = None
        self.clock = PeerClock(shared=True)
        self.unstaged_bytes = 0
        self._max_pending = max_pending
        self._patience_ns = patience_ns
        self._counter = 0
        self.disconnected_ns = now_ns()
        self.new_id()

    def new_id(self) -> None:
        """Takes another prefix for request ids; only while nothing is pending under the old one."""
        self.frontend_id = secrets.randbelow(2**FRONTEND_BITS - 1) + 1

    # ---- from clients

    def submit(self, checked: Checked, model: ModelView, arrival_ns: int, traceparent: str) -> Pending:
        """Stages and submits a request. Raises RequestError if there is no room for it."""
        if len(self.pending) >= self._max_pending:
            raise refused(types_pb2.REJECT_REASON_QUEUE_FULL, "Exceeds maximum queue size", {})
        if self.scheduler is None and now_ns() - self.disconnected_ns > self._patience_ns:
            raise refused(types_pb2.REJECT_REASON_SCHEDULER_LOST, "the scheduler cannot be reached", {})
        block = self.staging.put(checked)
        if block is None:
            if self.unstaged_bytes + checked.data_bytes > UNSTAGED_LIMIT_BYTES:
                raise refused(types_pb2.REJECT_REASON_STAGING_FULL, "no staging memory is left for the tensors", {})
            self.unstaged_bytes += checked.data_bytes
        else:
            checked.buffers = []
        self._counter = (self._counter + 1) % 2**COUNTER_BITS
        deadline_ns = arrival_ns + checked.budget_ns if checked.budget_ns else 0
        pending = Pending(
            self.frontend_id << COUNTER_BITS | self._counter,
            1,
            model,
            checked,
            arrival_ns,
            deadline_ns,
            traceparent,
            block,
            asyncio.get_running_loop().create_future(),
        )
        self.pending[pending.request_id] = pending
        self._send(pending)
        return pending

    def _send(self, pending: Pending) -> None:
        if self.scheduler is None:
            return  # it is sent with all others once the stream stands again
        checked, to_peer = pending.checked, self.clock.to_peer
        self.scheduler.frame.submits.add(
            request_id=pending.request_id,
            attempt=pending.attempt,
            model=pending.model.name,
            version=pending.model.version,
            batch_size=checked.batch_size,
            shape_bucket=checked.shape_bucket,
            arrival_ns=to_peer(pending.arrival_ns),
            deadline_ns=to_peer(pending.deadline_ns),
            priority=checked.priority,
            tensors=pending.block,
            traceparent=pending.traceparent,
        )
        self.scheduler.touch()

    def abandon(self, pending: Pending) -> None:
        """The client has gone. If the request still waits, the scheduler drops it and says so."""
        pending.abandoned = True
        if self.scheduler is not None and pending.request_id in self.pending:
            self.scheduler.frame.cancels.add(request_id=pending.request_id)
            self.scheduler.touch()

    # ---- from the scheduler

    def connected(self, outbox: Outbox[scheduler_pb2.ConnectFrontendRequest], clock: PeerClock) -> None:
        """The stream to the scheduler stands: what is pending is submitted (again)."""
        self.scheduler, self.clock = outbox, clock
        for pending in list(self.pending.values()):
            if pending.abandoned:
                continue
            pending.attempt += 1
            self._send(pending)

    def disconnected(self) -> None:
        """The stream to the scheduler broke."""
        if self.scheduler is not None:
            self.scheduler, self.disconnected_ns = None, now_ns()

    def refuse(self, refusal: scheduler_pb2.Refusal) -> None:
        """A request will not run."""
        pending = self._take(refusal.request_id)
        if pending is None or pending.done.done():
            return
        facts = {"model": pending.model.name, "version": pending.model.version}
        if pending.deadline_ns:
            facts["budget_ms"] = f"{pending.checked.budget_ns / 1e6:.3f}"
        for key, instant in (
            ("predicted_finish_ms", refusal.predicted_finish_ns),
            ("earliest_possible_ms", refusal.earliest_possible_ns),
        ):
            if instant:  # told as time since the request arrived
                facts[key] = f"{(self.clock.from_peer(instant) - pending.arrival_ns) / 1e6:.3f}"
        pending.done.set_exception(refused(refusal.reason, refusal.message, facts))

    # ---- from executors

    def answered(self, answer: executor_pb2.Answer, data: memoryview) -> bool:
        """Takes an answer; false if nobody waits for it, and its outputs can be released at once."""
        pending = self.pending.get(answer.request_id)
        if pending is None:
            return False
        if answer.reason:
            self._take(answer.request_id)
            if not pending.done.done():
                facts = {"model": pending.model.name, "version": pending.model.version}
                pending.done.set_exception(refused(answer.reason, answer.message, facts))
            return False
        self._take(answer.request_id)
        if pending.done.done() or pending.abandoned:
            return False
        started_ns = self.clock.from_peer(answer.execution.started_ns)
        pending.done.set_result(Answered(answer, data, now_ns(), started_ns))
        return True

    def _take(self, request_id: int) -> Pending | None:
        """Ends a request's pending; frees its block."""
        pending = self.pending.pop(request_id, None)
        if pending is None:
            return None
        if pending.block is not None:
            self.staging.free(pending.block)
        else:
            self.unstaged_bytes -= pending.checked.data_bytes
        return pending

    # ---- time

    def sweep(self) -> None:
        """Gives up what can no longer be answered. Called a few times a second."""
        now = now_ns()
        lost = self.scheduler is None and now - self.disconnected_ns > self._patience_ns
        for pending in list(self.pending.values()):
            late = pending.deadline_ns and now > pending.deadline_ns
            if self.scheduler is None and not pending.done.done() and (late or lost):
                # The block stays: an executor may hold the request. The client is told now.
                facts = {"model": pending.model.name}
                message = "the scheduler was lost, and did not return within the request's budget"
                pending.done.set_exception(refused(types_pb2.REJECT_REASON_SCHEDULER_LOST, message, facts))
                pending.abandoned = True
            if now - max(pending.deadline_ns, pending.arrival_ns) > REAP_AFTER_NS and (pending.abandoned or late):
                self._take(pending.request_id)
                if not pending.done.done():
                    message = "no service answered, long after the deadline"
                    pending.done.set_exception(refused(types_pb2.REJECT_REASON_EXECUTOR_LOST, message, {}))
                _log.error("request given up", request_id=pending.request_id, model=pending.model.name)

    def tensors(self, pending: Pending) -> tuple[types_pb2.TensorSet, bytes]:
        """A request's tensors, for an executor that does not share our memory."""
        header = types_pb2.TensorSet.FromString(pending.checked.header)
        if pending.block is not None and self.staging.segment is not None:
            start = pending.block.offset + pending.block.byte_size - pending.checked.data_bytes
            return header, bytes(self.staging.segment.view[start : start + pending.checked.data_bytes])
        data = bytearray(pending.checked.data_bytes)
        for tensor, buffer in zip(header.tensors, pending.checked.buffers, strict=True):
            data[tensor.offset : tensor.offset + tensor.byte_size] = buffer
        return header, bytes(data)


__all__ = ["Answered", "Dispatcher", "Pending", "RequestError"]
