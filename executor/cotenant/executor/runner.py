"""Runs what it is told to: gathers inputs, has the device execute, scatters outputs, tells how it went.

It reorders and delays nothing. A launch waits only for tensors that are still on their way and for its earliest
start; when its latest start has passed, it is dropped and reported.
"""

import asyncio

import structlog

from cotenant.executor.batch import Batch, put_slices
from cotenant.executor.device import Device, Ran
from cotenant.executor.exchange import Exchange
from cotenant.executor.models import LoadedVersion, Models
from cotenant.executor.reports import Reports
from cotenant.executor.streamed import StreamedBatch
from cotenant.runtime.clock import PeerClock, now_ns
from cotenant.runtime.estimates import BatchClass
from cotenant.v1 import executor_pb2 as pb
from cotenant.v1 import scheduler_pb2, types_pb2

_log = structlog.get_logger()

INPUT_PATIENCE_NS = 5_000_000_000  # a launch without a latest start waits so long for its tensors


class Runner:
    """All launches of one device. For the event loop's thread, but for `report_start`."""

    def __init__(
        self, device: Device, models: Models, exchange: Exchange, reports: Reports, *, sample_every: int
    ) -> None:
        self._device, self._models, self._exchange, self._reports = device, models, exchange, reports
        self._sample_every = sample_every
        self._loop = asyncio.get_running_loop()
        self.clock = PeerClock(shared=True)  # the scheduler's; answers tell instants on it
        self.held: dict[int, tuple[scheduler_pb2.Launch, int]] = {}  # by batch id; with its start, 0 if it waits
        self._tasks: set[asyncio.Task[None]] = set()
        self._arrivals: set[asyncio.Event] = set()  # of launches that wait for tensors
        self._counts: dict[BatchClass, int] = {}
        self._streaming: dict[int, StreamedBatch] = {}  # by request
        exchange.on_inputs, exchange.on_cancel = self._on_inputs, self._on_cancel

    @property
    def busy(self) -> bool:
        """Whether any launch is held."""
        return bool(self.held)

    def launch(self, order: scheduler_pb2.Launch) -> None:
        """Takes an order; instants in it are on this host's clock. One that is held already is ignored."""
        if order.batch_id in self.held:
            return
        self.held[order.batch_id] = (order, 0)
        version = self._models.table.get((order.batch_class.model, order.batch_class.version))
        if version is None:
            self._fail(order, "the model is not loaded here")
            return
        if version.decoupled:
            batch: Batch = self._streamed(order, version)
        else:
            batch = Batch(order, version, self._exchange, self, timed=self._sampled(order, version))
        ready = all(map(self._exchange.has_inputs, order.requests)) and order.earliest_start_ns <= now_ns()
        if ready and version.model.inline and not self._late(order):
            self._run_inline(batch)
            return
        task = asyncio.create_task(self._run(batch, ready=ready))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _streamed(self, order: scheduler_pb2.Launch, version: LoadedVersion) -> StreamedBatch:
        batch = StreamedBatch(order, version, self._exchange, self, self._loop)
        for request in order.requests:
            self._streaming[request.request_id] = batch
        return batch

    def _on_cancel(self, request_id: int) -> None:
        if batch := self._streaming.get(request_id):
            batch.cancel(request_id)

    def _sampled(self, order: scheduler_pb2.Launch, version: LoadedVersion) -> bool:
        """Every so many batches of a class, timings inside it are taken."""
        if not self._sample_every or not version.model.timed_anytime or version.model.inline:
            return False
        known = order.batch_class
        key = BatchClass(known.model, known.version, known.batch_size, known.shape_bucket)
        count = self._counts[key] = self._counts.get(key, 0) + 1
        return count % self._sample_every == 0

    def _run_inline(self, batch: Batch) -> None:
        batch.version.use()
        try:
            self._device.execute_inline(batch)
        except Exception as error:  # whatever a model raises is its batch's failure
            self._failed(batch, error)
        else:
            self._finished(batch)
        finally:
            batch.version.release()

    async def _run(self, batch: Batch, *, ready: bool) -> None:
        order = batch.order
        if not ready and not await self._wait_until_ready(order):
            return
        if self._late(order):
            self._drop(order, types_pb2.REJECT_REASON_WINDOW_PASSED, [])
            return
        batch.version.use()
        try:
            await self._device.execute(batch)
        except Exception as error:
            self._failed(batch, error)
        else:
            self._finished(batch)
        finally:
            batch.version.release()

    # ---- waiting

    async def _wait_until_ready(self, order: scheduler_pb2.Launch) -> bool:
        """Waits for the earliest start and for tensors; drops the launch and returns False if they do not come."""
        if (wait_ns := order.earliest_start_ns - now_ns()) > 0:
            await asyncio.sleep(wait_ns / 1e9)
        until_ns = order.latest_start_ns or now_ns() + INPUT_PATIENCE_NS
        while missing := [r.request_id for r in order.requests if not self._exchange.has_inputs(r)]:
            arrived = asyncio.Event()
            self._arrivals.add(arrived)
            try:
                await asyncio.wait_for(arrived.wait(), timeout=max(0.0, (until_ns - now_ns()) / 1e9))
            except TimeoutError:
                self._drop(order, types_pb2.REJECT_REASON_INPUTS_MISSING, missing)
                return False
            finally:
                self._arrivals.discard(arrived)
        return True

    def _on_inputs(self) -> None:
        for arrived in self._arrivals:
            arrived.set()

    def _late(self, order: scheduler_pb2.Launch) -> bool:
        return 0 < order.latest_start_ns < now_ns()

    def _drop(self, order: scheduler_pb2.Launch, reason: types_pb2.RejectReason, missing: list[int]) -> None:
        del self.held[order.batch_id]
        for request in order.requests:
            self._streaming.pop(request.request_id, None)
        event = self._reports.event()
        dropped = event.batch_dropped
        dropped.batch_id, dropped.reason = order.batch_id, reason
        dropped.missing_request_ids.extend(missing)
        self._reports.tell(event)

    # ---- telling

    def report_start(self, batch: Batch) -> None:
        """Tells that a batch runs. Safe for threads."""
        self._loop.call_soon_threadsafe(self._started, batch)

    def _started(self, batch: Batch) -> None:
        if batch.batch_id not in self.held or batch.ran is not None:
            return
        self.held[batch.batch_id] = (batch.order, batch.started_ns)
        event = self._reports.event(batch.started_ns)
        event.batch_started.batch_id = batch.batch_id
        event.batch_started.batch_class.CopyFrom(batch.order.batch_class)
        event.batch_started.forecast.CopyFrom(batch.order.forecast)
        self._reports.tell(event)

    def _finished(self, batch: Batch) -> None:
        ran = batch.ran
        assert ran is not None
        self._exchange.send(batch.answers)
        for request in batch.order.requests:
            self._forget(request.request_id)
        del self.held[batch.batch_id]
        event = self._reports.event(ran.started_ns + ran.duration_ns)
        finished = event.batch_finished
        finished.batch_id = batch.batch_id
        finished.batch_class.CopyFrom(batch.order.batch_class)
        finished.forecast.CopyFrom(batch.order.forecast)
        finished.started_ns, finished.duration_ns = ran.started_ns, max(0, ran.duration_ns)
        finished.input_ns = max(0, ran.started_ns - batch.gathering_ns)
        finished.output_ns = max(0, batch.finished_ns - ran.started_ns - ran.duration_ns)
        finished.timed, finished.failed = batch.timed, batch.failed
        put_slices(finished.slices, ran)
        self._reports.tell(event)
        if ran.kernels:
            self.tell_kernels(batch.batch_class, ran, batch.batch_id)

    def tell_kernels(self, batch_class: BatchClass, ran: Ran, batch_id: int) -> None:
        """Tells timings taken inside a batch."""
        event = self._reports.event()
        timings = event.kernel_timings
        timings.batch_id = batch_id
        timings.kind = "operator" if self._device.placement.kind == "cpu" else "kernel"
        known = timings.batch_class
        known.model, known.version = batch_class.model, batch_class.version
        known.batch_size, known.shape_bucket = batch_class.batch_size, batch_class.shape_bucket
        for kernel in ran.kernels:
            timings.kernels.add(
                name=kernel.name, offset_ns=max(0, kernel.offset_ns), duration_ns=max(0, kernel.duration_ns)
            )
        self._reports.tell(event)

    def _failed(self, batch: Batch, error: Exception) -> None:
        """The model, or what it was fed, is broken.

        Of a batch of several requests one may have spoiled it: the scheduler gets it back, and runs each alone.
        """
        name = batch.order.batch_class.model
        _log.warning("batch failed", model=name, batch_id=batch.batch_id, error=f"{type(error).__name__}: {error}")
        if len(batch.order.requests) > 1:
            self._drop(batch.order, types_pb2.REJECT_REASON_EXECUTION_FAILED, [])
            return
        self._fail(batch.order, f"Failed to process the request(s) for model '{name}', message: {error}", batch)

    def _fail(self, order: scheduler_pb2.Launch, message: str, batch: Batch | None = None) -> None:
        answers = [
            pb.Answer(
                request_id=request.request_id,
                attempt=request.attempt,
                reason=types_pb2.REJECT_REASON_EXECUTION_FAILED,
                message=message[:4096],
            )
            for request in order.requests
        ]
        for request in order.requests:
            self._forget(request.request_id)
        self._exchange.send(answers)
        del self.held[order.batch_id]
        event = self._reports.event()
        finished = event.batch_finished
        finished.batch_id, finished.failed = order.batch_id, True
        finished.batch_class.CopyFrom(order.batch_class)
        finished.started_ns = batch.started_ns if batch and batch.started_ns else now_ns()
        self._reports.tell(event)

    def _forget(self, request_id: int) -> None:
        self._exchange.forget(request_id)
        self._streaming.pop(request_id, None)

    async def drain(self) -> None:
        """Waits until nothing is held."""
        while self.held:
            await asyncio.sleep(0.005)


__all__ = ["Batch", "Runner", "put_slices"]
