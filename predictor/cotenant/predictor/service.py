"""`cotenant.v1.PredictorService`: events in, estimates out."""

import asyncio
import math
import sqlite3
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import structlog

from cotenant.predictor.device_model import DeviceModel
from cotenant.predictor.intake import Intake
from cotenant.predictor.store import Changes, Store
from cotenant.runtime.estimates import BatchClass, ClassEstimate, EstimateTable, factor_at
from cotenant.v1 import executor_pb2, predictor_pb2_grpc, types_pb2
from cotenant.v1 import predictor_pb2 as pb

_log = structlog.get_logger()
Context = grpc.aio.ServicerContext[Any, Any]

STORE_S = 0.5  # how often what was learned is written; acknowledgements follow the write
PUSH_S = 0.1  # least time between two pushes, unless a subscriber asks otherwise
DEFAULT_LEVELS = (0.5, 0.9, 0.95, 0.99)
MAX_CLASSES = 65536  # per device; beyond it, new classes are not learned, and counted


class _Watcher:
    """One subscriber: which classes it has not been told of yet."""

    def __init__(self, levels: tuple[float, ...]) -> None:
        self.levels = levels
        self.pending: dict[tuple[str, BatchClass], None] = {}
        self.wake = asyncio.Event()


class PredictorService(predictor_pb2_grpc.PredictorServiceServicer):
    """See the module's text."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.devices, self.seen = store.read()
        self.intake = Intake()
        self.events = 0
        self.gaps = 0
        self._version = 0
        self._watchers: list[_Watcher] = []
        self._unsaved: dict[str, dict[BatchClass, None]] = {}  # by device: classes that changed since the last write
        self._moved: dict[tuple[str, int], None] = {}  # sources whose sequence moved since the last write
        self._waiting_for_save: set[asyncio.Event] = set()
        self._stored: dict[tuple[str, int], int] = dict(self.seen)

    # ---- learning

    async def Observe(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.ObserveRequest], context: Context
    ) -> AsyncIterator[pb.ObserveResponse]:
        """Events of one executor in, acknowledgements of what is safely stored out."""
        first = await anext(request_iterator, None)
        if first is None or not first.hello.device.device_id:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first frame must carry a hello with a device_id")
        assert first is not None
        device, source = first.hello.device, (first.hello.device.device_id, first.hello.incarnation)
        model = self._device(device)

        async def read() -> None:
            self._learn_frame(model, source, first)
            async for frame in request_iterator:
                self._learn_frame(model, source, frame)

        reading = asyncio.create_task(read())
        wake = asyncio.Event()
        reading.add_done_callback(lambda _: wake.set())
        self._waiting_for_save.add(wake)
        told = 0
        try:
            while not reading.done():
                if (stored := self._stored.get(source, 0)) > told:
                    told = stored
                    yield pb.ObserveResponse(acknowledged_sequence=told)
                await wake.wait()
                wake.clear()
        finally:
            reading.cancel()
            self._waiting_for_save.discard(wake)

    def _device(self, device: types_pb2.Device) -> DeviceModel:
        model = self.devices.get(device.device_id)
        if model is None or model.resources != len(device.resources):
            model = self.devices[device.device_id] = DeviceModel(device.device_id, len(device.resources))
            self._unsaved[device.device_id] = {}
        return model

    def _learn_frame(self, model: DeviceModel, source: tuple[str, int], frame: pb.ObserveRequest) -> None:
        for event in frame.events:
            last = self.seen.get(source, 0)
            if event.sequence <= last:
                continue  # sent again after a broken stream
            if last and event.sequence > last + 1:
                self.gaps += event.sequence - last - 1
            self.seen[source] = event.sequence
            self._moved[source] = None
            self.events += 1
            self._learn(model, event)
        for batch_class in model.changed():
            self._unsaved.setdefault(model.device_id, {})[batch_class] = None
            for watcher in self._watchers:
                watcher.pending[model.device_id, batch_class] = None
                watcher.wake.set()

    def _learn(self, model: DeviceModel, event: executor_pb2.ExecutorEvent) -> None:
        kind = event.WhichOneof("event")
        if kind == "class_profiled":
            profile = self.intake.profile(event.class_profiled)
            if profile and self._room_for(model, profile.batch_class):
                model.learn_profile(profile)
        elif kind == "batch_finished":
            seen = self.intake.finished(event.batch_finished)
            if seen and self._room_for(model, seen.batch_class):
                model.learn_batch(seen)

    def _room_for(self, model: DeviceModel, batch_class: BatchClass) -> bool:
        if batch_class in model.classes or len(model.classes) < MAX_CLASSES:
            return True
        self.intake.rejected["too many classes"] += 1
        return False

    # ---- keeping

    async def keep(self) -> None:
        """Writes what changed every half second, until cancelled; then once more."""
        try:
            while True:
                await asyncio.sleep(STORE_S)
                await self.save()
        finally:
            self._write(self._take_changes())

    async def save(self) -> None:
        """Writes what changed, and lets acknowledgements go out. A disk that is full is told and tried again."""
        changes = self._take_changes()
        if not (changes.seen or changes.classes or changes.devices):
            return
        if await asyncio.to_thread(self._write, changes):
            self._stored.update({(d, i): s for d, i, s in changes.seen})
            for wake in self._waiting_for_save:
                wake.set()

    def _take_changes(self) -> Changes:
        changes = Changes()
        for device_id, classes in self._unsaved.items():
            model = self.devices[device_id]
            changes.devices.append((device_id, model.dump()))
            for c in classes:
                row = (device_id, c.model, c.version, c.batch_size, c.shape_bucket, model.dump_class(c))
                changes.classes.append(row)
        changes.seen = [(d, i, self.seen[d, i]) for d, i in self._moved]
        self._unsaved, self._moved = {}, {}
        return changes

    def _write(self, changes: Changes) -> bool:
        try:
            self.store.write(changes)
        except sqlite3.Error as error:
            _log.error("state not written, trying again", error=str(error))
            for device_id, name, version, size, bucket, _ in changes.classes:
                self._unsaved.setdefault(device_id, {})[BatchClass(name, version, size, bucket)] = None
            self._moved.update({(d, i): None for d, i, _ in changes.seen})
            return False
        return True

    # ---- telling

    async def WatchEstimates(  # noqa: N802
        self, request: pb.WatchEstimatesRequest, context: Context
    ) -> AsyncIterator[pb.WatchEstimatesResponse]:
        """All estimates first, then what changes, at most every so often."""
        if any(not 0.0 < level < 1.0 for level in request.levels):
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"levels must be in (0, 1), got {list(request.levels)}"
            )
        watcher = _Watcher(tuple(sorted(set(request.levels))) or DEFAULT_LEVELS)
        watcher.pending = {(d, c): None for d, model in self.devices.items() for c in model.classes}
        self._watchers.append(watcher)
        interval_s = request.min_interval_ns / 1e9 or PUSH_S
        try:
            yield self._push(watcher, complete=True)
            while True:
                await watcher.wake.wait()
                watcher.wake.clear()
                yield self._push(watcher, complete=False)
                await asyncio.sleep(interval_s)
        finally:
            self._watchers.remove(watcher)

    def _push(self, watcher: _Watcher, *, complete: bool) -> pb.WatchEstimatesResponse:
        pending, watcher.pending = watcher.pending, {}
        self._version += 1
        push = pb.WatchEstimatesResponse(version=self._version, complete=complete)
        for device_id, batch_class in pending:
            if (model := self.devices.get(device_id)) and batch_class in model.classes:
                put_estimate(push.classes.add(), device_id, model.estimate(batch_class, watcher.levels))
        for (device_id, incarnation), sequence in self.seen.items():
            push.learned_through.add(device_id=device_id, incarnation=incarnation, sequence=sequence)
        return push

    async def EstimateColocation(  # noqa: N802
        self, request: pb.EstimateColocationRequest, context: Context
    ) -> pb.EstimateColocationResponse:
        """What sharing a device would cost each of a set."""
        level = request.level or 0.99
        model = self.devices.get(request.colocation.device_id)
        if not 0.0 < level < 1.0 or math.isnan(level):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"level must be in (0, 1), got {level}")
        if model is None:
            known = ", ".join(f"'{d}'" for d in self.devices) or "none"
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"device '{request.colocation.device_id}' is not known; known are {known}"
            )
        assert model is not None
        batches = [BatchClass(c.model, c.version, c.batch_size, c.shape_bucket) for c in request.colocation.batches]
        for batch_class in batches:
            if batch_class not in model.classes:
                await context.abort(grpc.StatusCode.NOT_FOUND, f"class '{batch_class}' was never seen")
        return colocation(model, batches, level)


def colocation(model: DeviceModel, batches: list[BatchClass], level: float) -> pb.EstimateColocationResponse:
    """Evaluates a set as the scheduler would, while all of it runs."""
    table = EstimateTable()
    table.update([model.estimate(c, (level,)) for c in set(batches)], [], complete=True)
    rates = table.set_rates(tuple(batches))
    response = pb.EstimateColocationResponse(throughput_gain=sum(rates))
    for batch_class, rate in zip(batches, rates, strict=True):
        estimate = table.classes[batch_class]
        factor = factor_at(estimate.quantiles, level, len(batches) - 1, default=2.0)
        member = response.members.add(
            work_ns=estimate.work_ns,
            slowdown=1.0 / rate,
            slowdown_bound=factor / rate,
            sample_count=estimate.sample_count,
            basis=cast("pb.Basis", estimate.basis),
        )
        _put_class(member.batch_class, batch_class)
    response.explanation = _explain(table, batches)
    return response


def _explain(table: EstimateTable, batches: list[BatchClass]) -> str:
    """Which resource is asked for most, and by how much more than there is."""
    demands = [table.classes[c].demand for c in batches]
    if not demands or not demands[0]:
        return "no resource profile is known"
    totals = [sum(d[k] for d in demands) for k in range(len(demands[0]))]
    k = max(range(len(totals)), key=totals.__getitem__)
    if totals[k] <= 1.0:
        return f"no resource is oversubscribed; resource {k} is used most, {totals[k]:.0%} of it"
    return f"resource {k} is oversubscribed: {totals[k]:.0%} of it is asked for"


def put_estimate(message: pb.ClassEstimate, device_id: str, estimate: ClassEstimate) -> None:
    """Writes an estimate."""
    message.device_id = device_id
    _put_class(message.batch_class, estimate.batch_class)
    message.work_ns = estimate.work_ns
    message.demand.extend(estimate.demand)
    message.sensitivity.extend(estimate.sensitivity)
    for q in estimate.quantiles:
        message.quantiles.add(level=q.level, factor=q.factor, co_runner_count=q.co_runner_count)
    message.sample_count = estimate.sample_count
    message.basis = cast("pb.Basis", estimate.basis)


def _put_class(message: types_pb2.BatchClass, known: BatchClass) -> None:
    message.model, message.version = known.model, known.version
    message.batch_size, message.shape_bucket = known.batch_size, known.shape_bucket
