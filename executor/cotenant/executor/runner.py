"""Runs what it is told to: gathers inputs, has the device execute, scatters outputs, tells how it went.

It reorders and delays nothing. A launch waits only for tensors that are still on their way and for its earliest
start; when its latest start has passed, it is dropped and reported.
"""

import asyncio

import numpy as np
import structlog

from cotenant.executor.backend import Model, Tensors
from cotenant.executor.completion import type_name
from cotenant.executor.device import Device, Ran
from cotenant.executor.exchange import Exchange
from cotenant.executor.models import LoadedVersion, Models
from cotenant.executor.reports import Reports
from cotenant.runtime.clock import PeerClock, now_ns
from cotenant.runtime.datatypes import NUMPY, Array, Buffer, from_raw, to_raw
from cotenant.runtime.estimates import BatchClass
from cotenant.v1 import executor_pb2 as pb
from cotenant.v1 import scheduler_pb2, types_pb2

_log = structlog.get_logger()

INPUT_PATIENCE_NS = 5_000_000_000  # a launch without a latest start waits so long for its tensors
# Below this expected duration the start is not reported by itself: the end follows before it would matter.
REPORT_START_NS = 2_000_000


class Batch:
    """One launch, from order to answers; the device's `Job`."""

    def __init__(
        self, order: scheduler_pb2.Launch, version: LoadedVersion, exchange: Exchange, runner: "Runner", *, timed: bool
    ) -> None:
        self.order = order
        self.version = version
        self.model: Model = version.model
        self.batch_id = order.batch_id
        known = order.batch_class
        self.batch_class = BatchClass(known.model, known.version, known.batch_size, known.shape_bucket)
        self.timed = timed
        self.answers: list[pb.Answer] = []
        self.ran: Ran | None = None
        self.started_ns = 0
        self.gathering_ns = 0
        self.finished_ns = 0
        self._exchange, self._runner = exchange, runner
        self._sets: list[types_pb2.TensorSet] = []
        self._lengths: list[int] = []  # of each request's longest variable dimension, before padding
        declared, _, _ = known.shape_bucket.partition("-")  # absent optional inputs are named behind it
        self._padded_to = int(declared) if version.options.shape_buckets and declared.isdigit() else 0

    # ---- inputs

    def gather(self) -> Tensors:
        """See `Job.gather`. Raises ValueError where a request's tensors make no sense."""
        self.gathering_ns = now_ns()
        arrays: list[Tensors] = []
        for request in self.order.requests:
            tensors, data = self._exchange.inputs(request)
            self._sets.append(tensors)
            arrays.append(
                {
                    t.name: from_raw(data[t.offset : t.offset + t.byte_size], t.datatype, tuple(t.shape))
                    for t in tensors.tensors
                }
            )
        return {
            spec.name: self._join(spec.name, type_name(spec.data_type), list(spec.dims), [a[spec.name] for a in arrays])
            for spec in self.version.config.input
            if spec.name in arrays[0]
        }

    def _join(self, name: str, datatype: str, dims: list[int], parts: list[Array]) -> Array:
        """One array of all requests, padded to the bucket where lengths vary."""
        batched = self.version.config.max_batch_size > 0
        padded = bool(self._padded_to) and -1 in dims
        if len(parts) == 1 and not padded:
            return parts[0]
        if not padded:
            return np.concatenate(parts)
        first = 1 if batched else 0
        variable = [axis + first for axis, d in enumerate(dims) if d == -1]
        lengths = [max(part.shape[axis] for axis in variable) for part in parts]
        self._lengths = list(map(max, lengths, self._lengths or lengths))
        shape = list(parts[0].shape)
        for axis in variable:
            shape[axis] = self._padded_to
        if batched:
            shape[0] = sum(len(part) for part in parts)
        fill = b"" if datatype == "BYTES" else self.version.options.pad_values.get(name, 0)
        joined = np.full(shape, fill, dtype=NUMPY[datatype])
        row = 0
        for part in parts:
            region = tuple(slice(0, size) for size in part.shape)
            if batched:
                region = (slice(row, row + len(part)), *region[1:])
                row += len(part)
            joined[region] = part
        return joined

    # ---- the run

    def started(self, at_ns: int) -> None:
        """See `Job.started`."""
        self.started_ns = at_ns
        if self.order.forecast.duration_ns >= REPORT_START_NS:
            self._runner.report_start(self)

    def scatter(self, outputs: Tensors, ran: Ran) -> None:
        """See `Job.scatter`. Raises ValueError if the model's outputs are not what its configuration says."""
        self.ran = ran
        row = 0
        wanted = {spec.name: (type_name(spec.data_type), list(spec.dims)) for spec in self.version.config.output}
        for index, request in enumerate(self.order.requests):
            tensors = self._sets[index]
            answer = pb.Answer(request_id=request.request_id, attempt=request.attempt)
            buffers: list[Buffer] = []
            offset = 0
            for name in tensors.requested_outputs or wanted:
                if name not in outputs:
                    raise ValueError(f"the model gave no output '{name}', but {', '.join(map(repr, outputs))}")
                datatype, dims = wanted[name]
                array = self._part(outputs[name], dims, row, request.batch_size, index)
                buffer = to_raw(array, datatype)
                answer.outputs.tensors.add(
                    name=name, datatype=datatype, shape=array.shape, offset=offset, byte_size=len(buffer)
                )
                offset += -(-len(buffer) // 64) * 64
                buffers.append(buffer)
            row += request.batch_size
            self._exchange.put_outputs(answer, buffers)
            self._describe(answer, tensors.explain, first=index == 0)
            self.answers.append(answer)
        self.finished_ns = now_ns()
        for answer in self.answers:
            answer.execution.output_ns = self.finished_ns - ran.started_ns - ran.duration_ns

    def _part(self, array: Array, dims: list[int], row: int, items: int, index: int) -> Array:
        """What of an output belongs to one request: its rows, without the padding."""
        if self.version.config.max_batch_size > 0:
            array = array[row : row + items]
        if self._lengths and -1 in dims:
            first = 1 if self.version.config.max_batch_size > 0 else 0
            padded = [d == -1 and array.shape[axis + first] == self._padded_to for axis, d in enumerate(dims)]
            cut = [slice(None)] * first + [slice(0, self._lengths[index]) if p else slice(None) for p in padded]
            array = array[tuple(cut)]
        return array

    def _describe(self, answer: pb.Answer, explain: bool, *, first: bool) -> None:
        assert self.ran is not None
        execution = answer.execution
        execution.batch_id, execution.batch_size = self.batch_id, self.batch_class.batch_size
        execution.first_of_batch = first
        execution.started_ns = self._runner.clock.to_peer(self.ran.started_ns)
        execution.input_ns = self.ran.started_ns - self.gathering_ns
        execution.infer_ns = self.ran.duration_ns
        if explain:
            execution.forecast.CopyFrom(self.order.forecast)
            put_slices(execution.slices, self.ran)


def put_slices(target: object, ran: Ran) -> None:
    """Writes slices into a repeated field of `Slice`."""
    for part in ran.slices:
        message = target.add(duration_ns=part.duration_ns, co_runner_elapsed_ns=part.elapsed_ns)  # type: ignore[attr-defined]
        for c in part.co_runners:
            message.co_runners.add(
                model=c.model, version=c.version, batch_size=c.batch_size, shape_bucket=c.shape_bucket
            )


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
        self._arrivals: dict[int, asyncio.Event] = {}  # launches that wait for a request's tensors
        self._counts: dict[BatchClass, int] = {}
        exchange.on_stage = self._on_stage

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
        batch = Batch(order, version, self._exchange, self, timed=self._sampled(order, version))
        ready = all(map(self._exchange.has_inputs, order.requests)) and order.earliest_start_ns <= now_ns()
        if ready and version.model.inline and not self._late(order):
            self._run_inline(batch)
            return
        task = asyncio.create_task(self._run(batch, ready=ready))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
            arrived = self._arrivals.setdefault(missing[0], asyncio.Event())
            try:
                await asyncio.wait_for(arrived.wait(), timeout=max(0.0, (until_ns - now_ns()) / 1e9))
            except TimeoutError:
                self._drop(order, types_pb2.REJECT_REASON_INPUTS_MISSING, missing)
                return False
            finally:
                self._arrivals.pop(missing[0], None)
        return True

    def _on_stage(self, request_id: int) -> None:
        if arrived := self._arrivals.get(request_id):
            arrived.set()

    def _late(self, order: scheduler_pb2.Launch) -> bool:
        return 0 < order.latest_start_ns < now_ns()

    def _drop(self, order: scheduler_pb2.Launch, reason: types_pb2.RejectReason, missing: list[int]) -> None:
        del self.held[order.batch_id]
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
            self._exchange.forget(request.request_id)
        del self.held[batch.batch_id]
        event = self._reports.event(ran.started_ns + ran.duration_ns)
        finished = event.batch_finished
        finished.batch_id = batch.batch_id
        finished.batch_class.CopyFrom(batch.order.batch_class)
        finished.forecast.CopyFrom(batch.order.forecast)
        finished.started_ns, finished.duration_ns = ran.started_ns, ran.duration_ns
        finished.input_ns = max(0, ran.started_ns - batch.gathering_ns)
        finished.output_ns = max(0, batch.finished_ns - ran.started_ns - ran.duration_ns)
        finished.timed = batch.timed
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
            self._exchange.forget(request.request_id)
        self._exchange.send(answers)
        del self.held[order.batch_id]
        event = self._reports.event()
        finished = event.batch_finished
        finished.batch_id, finished.failed = order.batch_id, True
        finished.batch_class.CopyFrom(order.batch_class)
        finished.started_ns = batch.started_ns if batch and batch.started_ns else now_ns()
        self._reports.tell(event)

    async def drain(self) -> None:
        """Waits until nothing is held."""
        while self.held:
            await asyncio.sleep(0.005)
