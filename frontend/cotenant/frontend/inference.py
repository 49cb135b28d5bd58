"""One request from its message to its response: checked, traced, submitted, awaited, counted. Decides nothing."""

import asyncio
from collections.abc import Iterable
from typing import Any

from cotenant.frontend import errors, response
from cotenant.frontend.catalogue import Catalogue, ModelView
from cotenant.frontend.checking import check
from cotenant.frontend.dispatch import Answered, Dispatcher, Pending
from cotenant.frontend.errors import RequestError
from cotenant.frontend.statistics import Statistics
from cotenant.frontend.tracing import Span, Tracing
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.clock import now_ns
from cotenant.v1 import types_pb2

Metadata = Iterable[tuple[str, Any]] | None


class Inference:
    """What `ModelInfer` and `ModelStreamInfer` share."""

    def __init__(self, catalogue: Catalogue, dispatcher: Dispatcher, statistics: Statistics, tracing: Tracing) -> None:
        self._catalogue, self._dispatcher = catalogue, dispatcher
        self._statistics, self._tracing = statistics, tracing
        dispatcher.on_batch = statistics.ran
        self.draining = False
        self.open_requests = 0

    async def infer(
        self, request: pb.ModelInferRequest, rpc: str, metadata: Metadata, remaining_s: float | None
    ) -> pb.ModelInferResponse:
        """Has a request run. `remaining_s` is what is left of the call's deadline. Raises RequestError."""
        arrival_ns = now_ns()
        if self.draining:
            raise errors.draining()
        span = self._tracing.start(metadata, rpc, request.model_name, arrival_ns)
        self.open_requests += 1
        try:
            return await self._run_latest(request, span, arrival_ns, remaining_s)
        except RequestError as error:
            span.failed(error)
            raise
        finally:
            self.open_requests -= 1
            span.end()

    async def _run_latest(
        self, request: pb.ModelInferRequest, span: Span, arrival_ns: int, remaining_s: float | None
    ) -> pb.ModelInferResponse:
        """Runs a request on the version it names; without one on the latest, also if that changes in the meantime."""
        model = self._catalogue.find(request.model_name, request.model_version)
        try:
            return await self._run(request, model, span, arrival_ns, remaining_s)
        except RequestError as error:
            if request.model_version or error.refusal != types_pb2.REJECT_REASON_MODEL_UNAVAILABLE:
                raise
            newer = self._catalogue.find(request.model_name, "")
            if newer.version == model.version:
                raise
        return await self._run(request, newer, span, arrival_ns, remaining_s)

    async def _run(
        self, request: pb.ModelInferRequest, model: ModelView, span: Span, arrival_ns: int, remaining_s: float | None
    ) -> pb.ModelInferResponse:
        stats = self._statistics.of(model)
        try:
            checked = check(request, model, remaining_s, traced=span.sampled)
            pending = self._dispatcher.submit(checked, model, arrival_ns, span.traceparent)
            stats.pending += 1
            try:
                answered = await self._answer(pending)
            finally:
                stats.pending -= 1
        except RequestError as error:
            self._statistics.failed(model, error, now_ns() - arrival_ns)
            raise
        except asyncio.CancelledError:
            gone = errors.refused(types_pb2.REJECT_REASON_CANCELLED, "cancelled by the client")
            self._statistics.failed(model, gone, now_ns() - arrival_ns)
            span.failed(gone)
            raise
        span.answered(pending, answered)
        result = response.build(request, pending, answered)
        self._succeeded(pending, answered)
        return result

    async def _answer(self, pending: Pending) -> Answered:
        try:
            return await pending.done
        except asyncio.CancelledError:
            self._dispatcher.abandon(pending)
            if not pending.done.cancelled():
                pending.done.exception()  # it came at the same moment; nobody will look at it
            raise

    def _succeeded(self, pending: Pending, answered: Answered) -> None:
        total_ns = now_ns() - pending.arrival_ns
        self._statistics.succeeded(
            pending.model,
            answered.answer.execution,
            items=pending.checked.batch_size,
            queue_ns=response.queue_ns(pending, answered),
            total_ns=total_ns,
            late=0 < pending.checked.budget_ns < total_ns,
        )
