"""One launch, from order to answers: joins the requests' inputs, pads them, and gives each its part of the outputs."""

from typing import TYPE_CHECKING

import numpy as np

from cotenant.executor.backend import Model, Tensors
from cotenant.executor.completion import type_name
from cotenant.executor.device import Ran
from cotenant.executor.exchange import Exchange
from cotenant.executor.models import LoadedVersion
from cotenant.runtime.clock import now_ns
from cotenant.runtime.datatypes import NUMPY, Array, Buffer, from_raw, to_raw
from cotenant.runtime.estimates import BatchClass
from cotenant.v1 import executor_pb2 as pb
from cotenant.v1 import scheduler_pb2, types_pb2

if TYPE_CHECKING:
    from cotenant.executor.runner import Runner

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
        self.failed = False  # what it took says nothing about others
        self.answers: list[pb.Answer] = []
        self.ran: Ran | None = None
        self.started_ns = 0
        self.gathering_ns = 0
        self.finished_ns = 0
        self._exchange, self._runner = exchange, runner
        self._sets: list[types_pb2.TensorSet] = []
        self._lengths: list[int] = []  # of each request's longest variable dimension, before padding
        declared, _, _ = known.shape_bucket.partition("-")  # absent optional inputs are named behind it
        self._padded_to = next((size for size in version.options.shape_buckets if str(size) == declared), 0)

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
            self._check_items(request, arrays[-1])
        return {
            spec.name: self._join(spec.name, type_name(spec.data_type), list(spec.dims), [a[spec.name] for a in arrays])
            for spec in self.version.config.input
            if spec.name in arrays[0]
        }

    def _check_items(self, request: scheduler_pb2.LaunchedRequest, arrays: Tensors) -> None:
        """A launch that outlived its request finds another's tensors there, which must not move those beside it."""
        if self.version.config.max_batch_size > 0 and any(len(part) != request.batch_size for part in arrays.values()):
            found = {name: len(part) for name, part in arrays.items()}
            raise ValueError(f"request {request.request_id} of {request.batch_size} items has tensors of {found}")

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
            answer.execution.output_ns = max(0, self.finished_ns - ran.started_ns - ran.duration_ns)

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
        execution.input_ns = max(0, self.ran.started_ns - self.gathering_ns)
        execution.infer_ns = max(0, self.ran.duration_ns)
        if explain:
            execution.forecast.CopyFrom(self.order.forecast)
            put_slices(execution.slices, self.ran)


def put_slices(target: object, ran: Ran) -> None:
    """Writes slices into a repeated field of `Slice`. A clock that was set back leaves durations below 0: told as 0."""
    for part in ran.slices:
        elapsed_ns = [max(0, ns) for ns in part.elapsed_ns]
        message = target.add(duration_ns=max(0, part.duration_ns), co_runner_elapsed_ns=elapsed_ns)  # type: ignore[attr-defined]
        for c in part.co_runners:
            message.co_runners.add(
                model=c.model, version=c.version, batch_size=c.batch_size, shape_bucket=c.shape_bucket
            )
