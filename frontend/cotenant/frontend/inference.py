"""One request from its message to its response: checked, traced, submitted, awaited, counted. Decides nothing."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any, NamedTuple

from cotenant.frontend import decoupled, ensembles, errors, response, sequences
from cotenant.frontend.catalogue import Catalogue, ModelView
from cotenant.frontend.checking import Checked, check
from cotenant.frontend.dispatch import Answered, Dispatcher, Pending
from cotenant.frontend.errors import RequestError
from cotenant.frontend.regions import Regions, in_use
from cotenant.frontend.response_cache import ResponseCache
from cotenant.frontend.sequences import Sequences
from cotenant.frontend.statistics import Statistics
from cotenant.frontend.tracing import Span, Tracing
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.clock import now_ns
from cotenant.v1 import executor_pb2, types_pb2

Metadata = Iterable[tuple[str, Any]] | None


class Call(NamedTuple):
    """What is known of a request beside its message."""

    span: Span
    arrival_ns: int
    remaining_s: float | None  # of the call's deadline
    tenant: str


class Inference:
    """What `ModelInfer` and `ModelStreamInfer` share."""

    def __init__(
        self,
        catalogue: Catalogue,
        dispatcher: Dispatcher,
        statistics: Statistics,
        tracing: Tracing,
        regions: Regions | None = None,
        cache: ResponseCache | None = None,
    ) -> None:
        self._catalogue, self._dispatcher = catalogue, dispatcher
        self._regions = regions or Regions(allowed=False)
        self._sequences, self._cache = Sequences(), cache or ResponseCache(0)
        self._statistics, self._tracing = statistics, tracing
        dispatcher.on_batch = statistics.ran
        self.draining = False
        self.open_requests = 0

    async def infer(
        self, request: pb.ModelInferRequest, rpc: str, metadata: Metadata, remaining_s: float | None, tenant: str = ""
    ) -> pb.ModelInferResponse:
        """Has a request of a tenant run. `remaining_s` is what is left of the call's deadline. Raises RequestError."""
        arrival_ns = now_ns()
        if self.draining:
            raise errors.draining()
        span = self._tracing.start(metadata, rpc, request.model_name, arrival_ns)
        self.open_requests += 1
        try:
            return await self._run_latest(request, Call(span, arrival_ns, remaining_s, tenant))
        except RequestError as error:
            span.failed(error)
            raise
        finally:
            self.open_requests -= 1
            span.end()

    def decoupled(self, request: pb.ModelInferRequest) -> bool:
        """Whether a request is for a model that may answer it any number of times."""
        try:
            return self._catalogue.find(request.model_name, request.model_version).decoupled
        except RequestError:
            return False  # what is wrong is told as for any other

    async def respond(
        self, request: pb.ModelInferRequest, rpc: str, metadata: Metadata, remaining_s: float | None, tenant: str = ""
    ) -> AsyncGenerator[pb.ModelStreamInferResponse, None]:
        """Has a decoupled model answer a request: its responses as they come, none or many. Raises RequestError."""
        arrival_ns = now_ns()
        if self.draining:
            raise errors.draining()
        model = self._catalogue.find(request.model_name, request.model_version)
        span = self._tracing.start(metadata, rpc, request.model_name, arrival_ns)
        call = Call(span, arrival_ns, remaining_s, tenant)
        self.open_requests += 1
        try:
            async with aclosing(self._respond(request, model, call)) as responses:
                async for one in responses:
                    yield one
        except RequestError as error:
            self._failed(model, error, call)
            span.failed(error)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            gone = errors.refused(types_pb2.REJECT_REASON_CANCELLED, "cancelled by the client")
            self._failed(model, gone, call)
            span.failed(gone)
            raise
        finally:
            self.open_requests -= 1
            span.end()

    async def _respond(
        self, request: pb.ModelInferRequest, model: ModelView, call: Call
    ) -> AsyncGenerator[pb.ModelStreamInferResponse, None]:
        checked = check(request, model, call.remaining_s, traced=call.span.sampled, regions=self._regions)
        stats = self._statistics.of(model)
        with in_use(checked.deliveries):
            pending = self._dispatcher.submit(checked, model, call.arrival_ns, call.span.traceparent, call.tenant)
            told = decoupled.Responses(request, pending, stats.responses)
            stats.pending += 1
            try:
                while (found := await pending.response()) is not None:
                    yield told.one(found)
                answered = await pending.done
            except BaseException as error:
                told.ended_badly(cancelled=not isinstance(error, RequestError))
                self._dispatcher.abandon(pending)
                pending.done.cancel()  # nobody will look at it
                raise
            finally:
                stats.pending -= 1
            call.span.answered(pending, answered)
            last = told.last(answered)
        self._succeeded(pending, answered)
        if last is not None:
            yield last

    async def _run_latest(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        """Runs a request on the version it names; without one on the latest, also if that changes in the meantime."""
        model = self._catalogue.find(request.model_name, request.model_version)
        try:
            return await self._run(request, model, call)
        except RequestError as error:
            if request.model_version or error.refusal != types_pb2.REJECT_REASON_MODEL_UNAVAILABLE:
                raise
            newer = self._catalogue.find(request.model_name, "")
            if newer.version == model.version:
                raise
        return await self._run(request, newer, call)

    async def _run(self, request: pb.ModelInferRequest, model: ModelView, call: Call) -> pb.ModelInferResponse:
        try:
            return await self._execute(request, model, call)
        except RequestError as error:
            self._failed(model, error, call)
            raise
        except asyncio.CancelledError:
            gone = errors.refused(types_pb2.REJECT_REASON_CANCELLED, "cancelled by the client")
            self._failed(model, gone, call)
            call.span.failed(gone)
            raise

    async def _execute(self, request: pb.ModelInferRequest, model: ModelView, call: Call) -> pb.ModelInferResponse:
        if model.ensemble:
            return await self._execute_ensemble(request, model, call)
        if model.decoupled:
            raise errors.unsupported("ModelInfer RPC doesn't support models with decoupled transaction policy")
        checked = check(request, model, call.remaining_s, traced=call.span.sampled, regions=self._regions)
        if not model.stateful:
            return await self._cached(request, checked, model, call)
        sequence = self._sequences.join(model, checked.asked, call.tenant)
        with self._sequences.using(sequence):
            async with sequence.turn:
                sequences.extend(checked, model, sequence, checked.asked)
                result, answered = await self._submit(request, checked, model, call)
                sequences.keep(model, sequence, answered)
        return result

    async def _cached(
        self, request: pb.ModelInferRequest, checked: Checked, model: ModelView, call: Call
    ) -> pb.ModelInferResponse:
        """Answers from the cache, or has the request run and keeps the answer, where the model has a cache."""
        asked_ns = now_ns()
        key = self._cache.key(model, checked)
        if key is None:
            return (await self._submit(request, checked, model, call))[0]
        kept = self._cache.find(key)
        looked_ns = now_ns() - asked_ns
        if kept is not None:
            with in_use(checked.deliveries):
                result = response.of_tensors(request, model, checked.deliveries, kept.tensors, kept.contents)
            self._statistics.cached(model, total_ns=now_ns() - call.arrival_ns, lookup_ns=looked_ns)
            self._statistics.tenants.succeeded(call.tenant, late=False)
            return result
        result, answered = await self._submit(request, checked, model, call)
        kept_ns = now_ns()
        self._cache.keep(key, answered.answer.outputs.tensors, answered.outputs)
        self._statistics.of(model).cache_miss.add(looked_ns + now_ns() - kept_ns)
        return result

    async def _submit(
        self, request: pb.ModelInferRequest, checked: Checked, model: ModelView, call: Call
    ) -> tuple[pb.ModelInferResponse, Answered]:
        """Has a request run that was found well; its response, and what that was made of."""
        stats = self._statistics.of(model)
        with in_use(checked.deliveries):
            pending = self._dispatcher.submit(checked, model, call.arrival_ns, call.span.traceparent, call.tenant)
            stats.pending += 1
            try:
                answered = await self._answer(pending)
            finally:
                stats.pending -= 1
            call.span.answered(pending, answered)
            result = response.build(request, pending, answered)
        self._succeeded(pending, answered)
        return result, answered

    async def _execute_ensemble(
        self, request: pb.ModelInferRequest, model: ModelView, call: Call
    ) -> pb.ModelInferResponse:
        """Runs an ensemble's steps within the one budget."""
        stats = self._statistics.of(model)
        checked = check(request, model, call.remaining_s, regions=self._regions)
        tensors = types_pb2.TensorSet.FromString(checked.header).tensors
        inputs = {
            tensor.name: ensembles.Value(tensor.datatype, tuple(tensor.shape), bytes(buffer))
            for tensor, buffer in zip(tensors, checked.buffers, strict=True)
        }

        async def ask(step: pb.ModelInferRequest) -> pb.ModelInferResponse:
            left_s = (call.arrival_ns + checked.budget_ns - now_ns()) / 1e9 if checked.budget_ns else None
            arrival_ns, parent = now_ns(), (("traceparent", call.span.traceparent),)
            span = self._tracing.start(parent, f"ensemble {model.name}", step.model_name, arrival_ns)
            try:
                return await self._run_latest(step, Call(span, arrival_ns, left_s, call.tenant))
            except RequestError as error:
                span.failed(error)
                raise
            finally:
                span.end()

        stats.pending += 1
        with in_use(checked.deliveries):
            try:
                asked = [output.name for output in request.outputs]
                values = await ensembles.run(request, model, inputs, asked, self._catalogue, ask)
            finally:
                stats.pending -= 1
            names = asked or list(model.outputs)
            outputs = [types_pb2.Tensor(name=n, datatype=values[n].datatype, shape=values[n].shape) for n in names]
            contents = [values[name].content for name in names]
            result = response.of_tensors(request, model, checked.deliveries, outputs, contents)
        self._unbatched(model, checked, call)
        return result

    def _unbatched(self, model: ModelView, checked: Checked, call: Call) -> None:
        """Counts an answer that no batch of this model made."""
        stats, total_ns = self._statistics.of(model), now_ns() - call.arrival_ns
        late = 0 < checked.budget_ns < total_ns
        stats.execution_count += 1
        self._statistics.succeeded(
            model,
            executor_pb2.Execution(),
            items=checked.batch_size,
            queue_ns=0,
            total_ns=total_ns,
            late=late,
            measured=False,
        )

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
        late = 0 < pending.checked.budget_ns < total_ns
        self._statistics.succeeded(
            pending.model,
            answered.answer.execution,
            items=pending.checked.batch_size,
            queue_ns=response.queue_ns(pending, answered),
            total_ns=total_ns,
            late=late,
        )
        self._statistics.tenants.succeeded(pending.tenant, late=late)

    def _failed(self, model: ModelView, error: RequestError, call: Call) -> None:
        self._statistics.failed(model, error, now_ns() - call.arrival_ns)
        self._statistics.tenants.failed(call.tenant, error)
