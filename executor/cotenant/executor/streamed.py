"""A launch of a decoupled model: each response goes out as the model gives it, and one answer ends each request.

Requests of one batch run one after the other, since each has responses of its own. One that fails says so in its
answer and spoils no other. Whose client has gone, or whose frontend has, is stopped at its next response.
"""

import asyncio
import threading
from typing import TYPE_CHECKING

from cotenant.executor.backend import DecoupledModel, Kernel, Model, Tensors
from cotenant.executor.batch import Batch
from cotenant.executor.completion import type_name
from cotenant.executor.device import Ran
from cotenant.executor.exchange import Exchange
from cotenant.executor.models import LoadedVersion
from cotenant.runtime.clock import now_ns
from cotenant.runtime.datatypes import Buffer, from_raw, to_raw
from cotenant.v1 import executor_pb2 as pb
from cotenant.v1 import scheduler_pb2, types_pb2

if TYPE_CHECKING:
    from cotenant.executor.runner import Runner


class Sender:
    """The responses to one request; a `backend.Responses`."""

    def __init__(self, batch: "StreamedBatch", index: int) -> None:
        self._batch, self._index = batch, index
        self._request = batch.order.requests[index]
        wanted = {spec.name: type_name(spec.data_type) for spec in batch.version.config.output}
        self.requested = tuple(batch.sets[index].requested_outputs or wanted)
        self._datatypes = wanted
        self._lock = threading.Lock()
        self._sent = 0
        self._since_ns = now_ns()
        self._last: pb.Answer | None = None
        self._ended = False

    @property
    def cancelled(self) -> bool:
        """See `Responses.cancelled`."""
        return self._batch.is_cancelled(self._request.request_id)

    def send(self, outputs: Tensors, *, final: bool = False) -> None:
        """See `Responses.send`."""
        answer, at_ns = self._answer(), now_ns()
        buffers: list[Buffer] = []
        offset = 0
        for name in self.requested:
            if name not in outputs:
                continue  # a response may have some of the outputs
            buffer = to_raw(outputs[name], self._datatypes[name])
            shape = outputs[name].shape
            answer.outputs.tensors.add(
                name=name, datatype=self._datatypes[name], shape=shape, offset=offset, byte_size=len(buffer)
            )
            offset += -(-len(buffer) // 64) * 64
            buffers.append(buffer)
        if unknown := outputs.keys() - self._datatypes.keys():
            raise ValueError(f"the model gave '{min(unknown)}', which its configuration has not among its outputs")
        if final or not self.cancelled:
            self._batch.exchange.put_outputs(answer, buffers)
        self._send(answer, at_ns, final=final)

    def send_error(self, message: str) -> None:
        """See `Responses.send_error`."""
        answer, at_ns = self._answer(), now_ns()
        answer.reason, answer.message = types_pb2.REJECT_REASON_EXECUTION_FAILED, message[:4096]
        self._send(answer, at_ns, final=False)

    def _answer(self) -> pb.Answer:
        return pb.Answer(request_id=self._request.request_id, attempt=self._request.attempt)

    def _send(self, answer: pb.Answer, at_ns: int, *, final: bool) -> None:
        with self._lock:
            if self._ended:
                raise ValueError("a response was sent after the last one")
            answer.response_index, self._sent = self._sent, self._sent + 1
            answer.execution.infer_ns, self._since_ns = max(0, at_ns - self._since_ns), now_ns()
            answer.execution.output_ns = max(0, self._since_ns - at_ns)
            if final:  # it is the answer, which goes out with what the run took
                self._ended, self._last = True, answer
            elif not self.cancelled:
                answer.more = True
                self._batch.post(answer)

    def answer(self, error: Exception | None) -> pb.Answer:
        """What ends the request: its last response, a failure, or nothing more to say."""
        with self._lock:
            self._ended = True
            last = self._last or self._answer()
            last.response_index = max(0, self._sent - 1) if self._last else self._sent
        if self.cancelled:
            last = self._answer()
            last.reason, last.message = types_pb2.REJECT_REASON_CANCELLED, "cancelled by the client"
        elif error is not None:
            name = self._batch.version.config.name
            last = self._answer()
            last.reason = types_pb2.REJECT_REASON_EXECUTION_FAILED
            last.message = f"Failed to process the request(s) for model '{name}', message: {error}"[:4096]
        return last


class _Run:
    """What the device takes for a model: one run that streams."""

    signature = None
    memory_bytes = 0
    inline = timed_anytime = False

    def __init__(self, batch: "StreamedBatch") -> None:
        self._batch = batch

    def run(self, inputs: Tensors) -> Tensors:
        """Answers all requests; there are no outputs of the batch as a whole."""
        self._batch.stream()
        return inputs

    def prepare_timed(self, inputs: Tensors) -> None:
        """Nothing is timed inside."""

    def run_timed(self, inputs: Tensors) -> tuple[Tensors, list[Kernel]]:
        """See `run`."""
        return self.run(inputs), []

    def counted(self) -> None:
        """Nothing is counted."""

    def close(self) -> None:
        """Nothing to free."""


class StreamedBatch(Batch):
    """See the module's text."""

    def __init__(
        self,
        order: scheduler_pb2.Launch,
        version: LoadedVersion,
        exchange: Exchange,
        runner: "Runner",
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(order, version, exchange, runner, timed=False)
        self.model: Model = _Run(self)
        self.exchange, self._loop = exchange, loop
        self.sets: list[types_pb2.TensorSet] = []
        self._inputs: list[Tensors] = []
        self._cancelled: set[int] = set()

    def cancel(self, request_id: int) -> None:
        """Nobody waits for a request any more."""
        self._cancelled.add(request_id)

    def is_cancelled(self, request_id: int) -> bool:
        """Whether anybody waits for a request; nobody does once its frontend has gone. Safe for threads."""
        return request_id in self._cancelled or self.exchange.peer_of(request_id) is None

    def post(self, answer: pb.Answer) -> None:
        """Sends a response. Safe for threads; the order is kept."""
        self._loop.call_soon_threadsafe(self.exchange.send, [answer])

    def gather(self) -> Tensors:
        """See `Job.gather`: what each request brings, apart."""
        self.gathering_ns = now_ns()
        for request in self.order.requests:
            tensors, data = self.exchange.inputs(request)
            self.sets.append(tensors)
            self._inputs.append(
                {
                    t.name: from_raw(data[t.offset : t.offset + t.byte_size], t.datatype, tuple(t.shape))
                    for t in tensors.tensors
                }
            )
        return {}

    def stream(self) -> None:
        """Has the model answer one request after the other."""
        model = self.version.model
        assert isinstance(model, DecoupledModel)
        for index, inputs in enumerate(self._inputs):
            sender, error = Sender(self, index), None
            if not sender.cancelled:
                try:
                    model.stream(inputs, sender)
                except Exception as raised:  # whatever a model raises is its request's failure
                    error = raised
            answer = sender.answer(error)
            self.failed = self.failed or bool(answer.reason)
            self.answers.append(answer)

    def scatter(self, outputs: Tensors, ran: Ran) -> None:
        """See `Job.scatter`: the answers are there, and are told how they ran."""
        del outputs
        self.ran = ran
        self.finished_ns = now_ns()
        for index, answer in enumerate(self.answers):
            if not answer.reason:
                self._describe(answer, self.sets[index].explain, first=index == 0)
