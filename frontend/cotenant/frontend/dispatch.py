"""Requests on their way: submitted to the scheduler, staged for executors, answered exactly once.

A request is *pending* from submission until its one terminal message: an answer from an executor, or a refusal from
the scheduler. The first that comes is the client's, whatever attempt it is of; later ones find nobody and are dropped.
Its block of shared memory lives exactly as long, whether or not its client still waits, because an executor may be
reading it. After a break the other side may have lost something, so what is pending is submitted again; the scheduler
ignores what it still has. What gets no terminal message at all (all services involved died) is given up by `sweep`,
long after its deadline.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable

import structlog

from cotenant.frontend.catalogue import ModelView
from cotenant.frontend.checking import Checked
from cotenant.frontend.errors import RequestError, named, refused
from cotenant.frontend.pending import Answered, Pending
from cotenant.frontend.staging_area import StagingArea
from cotenant.runtime import tenant_names
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
# Responses of one request to a decoupled model that its client has not read; with more the request ends.
UNREAD_LIMIT_BYTES = 64 * 2**20
_GAP = "responses were lost with the stream to the executor"
# A scheduler that has said nothing for so long, though it is asked four times a second, stands still or is cut off.
SILENCE_NS = 2_500_000_000
# What is so long after its deadline without an answer is submitted again: whoever was to answer may have died.
OVERDUE_NS = 2_000_000_000
ASLEEP_NS = 500_000_000  # a sweep that comes so late says that it was us who stood still


class Dispatcher:
    """See the module's text. For the event loop's thread only."""

    def __init__(self, staging: StagingArea, *, max_pending: int, patience_ns: int) -> None:
        self.frontend_id = 0
        self.staging = staging
        self.pending: dict[int, Pending] = {}
        self.clock = PeerClock(shared=True)
        self.unstaged_bytes = 0
        self._scheduler: Outbox[scheduler_pb2.ConnectFrontendRequest] | None = None
        self._disconnected_ns = self._heard_ns = self._swept_ns = now_ns()
        self._max_pending = max_pending
        self._patience_ns = patience_ns
        self._counter = 0
        # Told of a device that need not keep a request's tensors.
        self.on_forget: Callable[[str, int], None] = lambda *_: None
        # Told of each batch that ran, once, whether or not anybody waited for it.
        self.on_batch: Callable[[ModelView, executor_pb2.Execution], None] = lambda *_: None
        # Told of a request of a decoupled model that nobody waits for any more.
        self.on_stop: Callable[[int], None] = lambda _: None
        self.new_id()

    def new_id(self) -> None:
        """Takes another prefix for request ids; only while nothing is pending under the old one."""
        self.frontend_id = secrets.randbelow(2**FRONTEND_BITS - 1) + 1

    # ---- from clients

    def submit(
        self, checked: Checked, model: ModelView, arrival_ns: int, traceparent: str, tenant: str = ""
    ) -> Pending:
        """Stages and submits a request. Raises RequestError if there is no room for it."""
        if len(self.pending) >= self._max_pending:
            told = f"{named(checked.client_request_id)}Exceeds maximum queue size"
            raise refused(types_pb2.REJECT_REASON_QUEUE_FULL, told)
        if self._scheduler_lost(now_ns()):
            raise refused(types_pb2.REJECT_REASON_SCHEDULER_LOST, "the scheduler cannot be reached")
        block = self._stage(checked)
        self._counter = (self._counter + 1) % 2**COUNTER_BITS
        pending = Pending(
            request_id=self.frontend_id << COUNTER_BITS | self._counter,
            model=model,
            checked=checked,
            arrival_ns=arrival_ns,
            deadline_ns=arrival_ns + checked.budget_ns if checked.budget_ns else 0,
            traceparent=traceparent,
            block=block,
            done=asyncio.get_running_loop().create_future(),
            tenant=tenant,
        )
        if model.decoupled:
            pending.listen()
        self.pending[pending.request_id] = pending
        self._send(pending)
        return pending

    def _stage(self, checked: Checked) -> types_pb2.StagedTensors | None:
        """Puts tensors into shared memory; where there is no room or no sharing, they stay where they are."""
        block = self.staging.put(checked)
        if block is not None:
            checked.buffers = []
            return block
        if self.unstaged_bytes + checked.data_bytes > UNSTAGED_LIMIT_BYTES:
            raise refused(types_pb2.REJECT_REASON_STAGING_FULL, "no staging memory is left for the tensors")
        self.unstaged_bytes += checked.data_bytes
        return None

    def _send(self, pending: Pending) -> None:
        if self._scheduler is None:
            return  # it is sent with all others once the stream stands again
        checked, to_peer = pending.checked, self.clock.to_peer
        self._scheduler.frame.submits.add(
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
            client_request_id=checked.client_request_id,
            tenant=pending.tenant,
        )
        self._scheduler.touch()

    def abandon(self, pending: Pending) -> None:
        """The client has gone. If the request still waits, the scheduler drops it and says so."""
        pending.abandoned = True
        if pending.request_id in self.pending:
            self._cancel(pending)
            if pending.model.decoupled:
                self.on_stop(pending.request_id)

    def _cancel(self, pending: Pending) -> None:
        if self._scheduler is not None:
            self._scheduler.frame.cancels.add(request_id=pending.request_id)
            self._scheduler.touch()

    # ---- breaks

    def heard(self) -> None:
        """The scheduler said something."""
        self._heard_ns = now_ns()

    def connected(self, outbox: Outbox[scheduler_pb2.ConnectFrontendRequest]) -> None:
        """The stream to the scheduler stands; what is pending is submitted (again)."""
        self._scheduler = outbox
        self._resubmit(self.pending.values())

    def disconnected(self) -> None:
        """The stream to the scheduler broke."""
        if self._scheduler is not None:
            self._scheduler, self._disconnected_ns = None, now_ns()

    def answers_lost(self) -> None:
        """The stream to an executor broke and stands again; answers may have been lost with it.

        What ran there must run again, if it may: the scheduler, to which it has ended, takes it as new.
        """
        self._resubmit(p for p in self.pending.values() if p.model.options.idempotent)
        for pending in self.pending.values():
            if not pending.model.options.idempotent:
                pending.doubted_ns = pending.doubted_ns or now_ns()

    def _resubmit(self, requests: Iterable[Pending]) -> None:
        """Submits again. What nobody waits for is cancelled in the same breath: it runs, or its block is free now."""
        for pending in requests:
            pending.kept_back = False
            pending.attempt += 1
            self._send(pending)
            if pending.abandoned:
                self._cancel(pending)

    # ---- from the scheduler

    def refuse(self, refusal: scheduler_pb2.Refusal) -> None:
        """A request will not run; one that a scheduler that is being stopped does not take waits for the next."""
        if refusal.reason == types_pb2.REJECT_REASON_SHUTTING_DOWN and (kept := self.pending.get(refusal.request_id)):
            kept.kept_back = True
            return
        pending = self._take(refusal.request_id)
        if pending is None:
            return
        times = {  # told as time since the request arrived
            "predicted_finish_ms": refusal.predicted_finish_ns,
            "earliest_possible_ms": refusal.earliest_possible_ns,
        }
        since = {
            key: f"{(self.clock.from_peer(at_ns) - pending.arrival_ns) / 1e6:.3f}"
            for key, at_ns in times.items()
            if at_ns
        }
        if refusal.quota:
            since |= {"quota": refusal.quota, "tenant": tenant_names.shown(pending.tenant)}
        if refusal.retry_after_ns:
            since["retry_after_ms"] = f"{refusal.retry_after_ns / 1e6:.3f}"
        full = refusal.reason == types_pb2.REJECT_REASON_QUEUE_FULL
        known = named(pending.checked.client_request_id) if full else ""  # as Triton tells it
        pending.fail(refusal.reason, known + refusal.message, **since)

    # ---- from executors

    def answered(self, answer: executor_pb2.Answer, data: memoryview | None, device_id: str = "") -> None:
        """Takes a device's answer whose outputs lie in `data`; they are copied. None if they cannot be read here."""
        if answer.more:
            self._responded(answer, data, device_id)
            return
        pending = self._take(answer.request_id, device_id)
        if pending is None:
            return
        if answer.execution.first_of_batch:
            self.on_batch(pending.model, answer.execution)
        if pending.attempt > 1:  # another attempt may still wait for its turn
            self._cancel(pending)
        if answer.reason:
            pending.fail(answer.reason, answer.message)
        elif data is None:
            pending.fail(types_pb2.REJECT_REASON_EXECUTOR_LOST, "the outputs are in memory that is no longer shared")
        elif pending.responses is not None and answer.response_index != pending.next_response:
            pending.fail(types_pb2.REJECT_REASON_EXECUTOR_LOST, _GAP)
        elif not pending.done.done():
            outputs = [bytes(data[t.offset : t.offset + t.byte_size]) for t in answer.outputs.tensors]
            started_ns = self.clock.from_peer(answer.execution.started_ns)
            pending.done.set_result(Answered(answer, outputs, started_ns, device_id))

    def _responded(self, answer: executor_pb2.Answer, data: memoryview | None, device_id: str) -> None:
        """Takes a response of a decoupled model, whose answer is still to come."""
        pending = self.pending.get(answer.request_id)
        if pending is None or pending.responses is None or pending.done.done():
            return
        if data is None:
            pending.fail(types_pb2.REJECT_REASON_EXECUTOR_LOST, "the outputs are in memory that is no longer shared")
            return
        if answer.response_index != pending.next_response:
            pending.fail(types_pb2.REJECT_REASON_EXECUTOR_LOST, _GAP)
            self.abandon(pending)
            return
        pending.next_response += 1
        outputs = [bytes(data[t.offset : t.offset + t.byte_size]) for t in answer.outputs.tensors]
        pending.unread_bytes += sum(map(len, outputs))
        pending.responses.put_nowait(Answered(answer, outputs, 0, device_id))
        if pending.unread_bytes > UNREAD_LIMIT_BYTES:
            pending.fail(types_pb2.REJECT_REASON_STAGING_FULL, "the client does not read the responses it asked for")
            self.abandon(pending)

    def _take(self, request_id: int, answered_by: str = "") -> Pending | None:
        """Ends a request's pending; frees its block, and has devices drop its tensors but the one that answered."""
        pending = self.pending.pop(request_id, None)
        if pending is None:
            return None
        if pending.block is not None:
            self.staging.free(pending.block)
        else:
            self.unstaged_bytes -= pending.checked.data_bytes
        for device_id in pending.staged_at.keys() - {answered_by}:
            self.on_forget(device_id, request_id)
        return pending

    # ---- time

    def _scheduler_lost(self, now: int) -> bool:
        return self._scheduler is None and now - self._disconnected_ns > self._patience_ns

    def sweep(self) -> None:
        """Gives up what can no longer be answered. Called a few times a second."""
        now = now_ns()
        if now - self._swept_ns > ASLEEP_NS:
            self._heard_ns = now  # what it said meanwhile is still to be read
        self._swept_ns = now
        lost = self._scheduler_lost(now)
        away = self._scheduler is None or now - self._heard_ns > SILENCE_NS
        for pending in list(self.pending.values()):
            late = 0 < pending.deadline_ns < now
            if lost or (late and (away or pending.kept_back)):
                # Its block stays: an executor may hold it. The client is told now.
                message = "the scheduler was lost, and did not return within the request's budget"
                pending.fail(types_pb2.REJECT_REASON_SCHEDULER_LOST, message)
                pending.abandoned = True
            elif late and self._overdue(pending, now):
                pending.asked_ns = now
                self._resubmit([pending])
            since_ns = max(pending.doubted_ns, pending.deadline_ns, pending.arrival_ns)
            if now - since_ns > REAP_AFTER_NS and (pending.abandoned or late or pending.doubted_ns):
                self._cancel(pending)
                self._take(pending.request_id)
                pending.fail(types_pb2.REJECT_REASON_EXECUTOR_LOST, "no service answered, long after it should have")
                told = _log.debug if pending.abandoned else _log.error  # nobody waited any more
                told("request given up", request_id=pending.request_id, model=pending.model.name)

    def _overdue(self, pending: Pending, now: int) -> bool:
        """Whether to submit a request again, which the scheduler ignores if it still has it."""
        idempotent = pending.model.options.idempotent or pending.abandoned
        return idempotent and now - max(pending.deadline_ns, pending.asked_ns) > OVERDUE_NS

    # ---- executors that share no memory with us

    def tensors(self, pending: Pending) -> tuple[types_pb2.TensorSet, bytes]:
        """A request's tensors: what they are, and their data."""
        header = types_pb2.TensorSet.FromString(pending.checked.header)
        size = pending.checked.data_bytes
        if pending.block is not None and self.staging.segment is not None:
            start = pending.block.offset + pending.block.byte_size - size
            return header, bytes(self.staging.segment.view[start : start + size])
        data = bytearray(size)
        for tensor, buffer in zip(header.tensors, pending.checked.buffers, strict=True):
            data[tensor.offset : tensor.offset + tensor.byte_size] = buffer
        return header, bytes(data)


__all__ = ["Answered", "Dispatcher", "Pending", "RequestError"]
