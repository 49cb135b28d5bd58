"""`cotenant.v1.PredictorService`: events in, estimates out."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, NoReturn

import grpc
import structlog

from cotenant.predictor import learners
from cotenant.predictor.codec import read_class
from cotenant.predictor.colocation import answer
from cotenant.predictor.device_model import DeviceModel
from cotenant.predictor.keeping import Keeper, load
from cotenant.predictor.knowledge import MAX_CLASSES, Knowledge
from cotenant.predictor.known_device import DeviceSpec, KnownDevice, read_spec, solo_times
from cotenant.predictor.publishing import MAX_TOGETHER, Watcher, check_levels, read_interests
from cotenant.predictor.store import Store
from cotenant.runtime.estimates import BatchClass
from cotenant.v1 import predictor_pb2 as pb
from cotenant.v1 import predictor_pb2_grpc

_log = structlog.get_logger()
Context = grpc.aio.ServicerContext[Any, Any]

PUSH_S = 0.1  # least time between two pushes, unless a subscriber asks otherwise
EVENTS_AT_ONCE = 100  # learned before others get a turn: an executor that comes back sends all it has kept
MAX_WATCHERS = 256


def _versions() -> Iterator[int]:
    """Ascending, and the time of day in us at which each is told, so that people can read how old estimates are.

    Larger than before a restart, with or without a file of state, and below 2^53, which every language can hold.
    """
    last = 0
    while True:
        last = max(last + 1, time.time_ns() // 1000)
        yield last


class PredictorService(predictor_pb2_grpc.PredictorServiceServicer):
    """See the module's text."""

    def __init__(self, store: Store, *, learner: str = learners.DEFAULT, max_classes: int = MAX_CLASSES) -> None:
        """Raises ValueError for a learner that is not known."""
        self.knowledge = Knowledge(learner, max_classes)
        load(store, self.knowledge)
        self.keeper = Keeper(store, self.knowledge)
        self.watchers: list[Watcher] = []
        self.pushed_bytes = 0
        self._versions = _versions()
        self._news: dict[str, None] = {}  # devices that learned since subscribers' books were brought up to date

    # ---- learning

    async def Observe(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.ObserveRequest], context: Context
    ) -> AsyncIterator[pb.ObserveResponse]:
        """Events of one executor in, acknowledgements of what is safely stored out."""
        wake = asyncio.Event()
        told = 0
        try:
            first = await anext(request_iterator, pb.ObserveRequest())
            spec, incarnation = read_spec(first.hello.device), first.hello.incarnation
            known = self.knowledge.device(spec, await self._copy_of_elder(spec))
        except ValueError as error:
            await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        known.streams += 1
        reading = asyncio.create_task(self._read(known, incarnation, first, request_iterator))
        reading.add_done_callback(lambda _: wake.set())
        self.keeper.wait_with(wake)
        try:
            while not (reading.done() and told >= known.sources.get(incarnation, 0)):
                stored = self.keeper.stored.get((spec.device_id, incarnation), 0)
                if stored > told:
                    told = stored
                    yield pb.ObserveResponse(acknowledged_sequence=told)
                elif reading.done() and reading.exception():
                    break
                else:
                    await wake.wait()
                    wake.clear()
            if broken := reading.exception():
                self.knowledge.intake.reject("frame", f"'{spec.device_id}': {broken}")
                await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, f"a frame is no ObserveRequest: {broken}")
        finally:
            known.streams -= 1
            known.left_s = time.monotonic()
            reading.cancel()
            self.keeper.wait_no_more(wake)

    async def _copy_of_elder(self, spec: DeviceSpec) -> DeviceModel | None:
        """What a device never seen starts from. Copying tens of thousands of classes takes seconds: others go on."""
        elder = self.knowledge.elder(spec)
        if elder is None:
            return None
        blobs: dict[BatchClass, bytes] = {}
        try:
            for i, batch_class in enumerate(self.knowledge.classes_of(elder)):
                if i % EVENTS_AT_ONCE == 0:
                    await asyncio.sleep(0)
                if batch_class in elder.model.classes:
                    blobs[batch_class] = elder.model.dump_class(batch_class)
            return await asyncio.to_thread(DeviceModel.restored, spec.device_id, elder.model.dump(), blobs)
        except Exception as error:  # a learner may be anybody's
            _log.warning("sibling not copied, starting from its solo times", device=spec.device_id, error=str(error))
            model = DeviceModel(spec.device_id, len(spec.resources), self.knowledge.learner)
            for profile in solo_times(elder.model):
                model.learn_profile(profile)
            return model

    async def _read(
        self, known: KnownDevice, incarnation: int, first: pb.ObserveRequest, frames: AsyncIterator[pb.ObserveRequest]
    ) -> None:
        self._moved(known)
        profiles = first.hello.profiles
        for start in range(0, len(profiles), EVENTS_AT_ONCE):
            self.knowledge.introduce(known, profiles[start : start + EVENTS_AT_ONCE])
            self._moved(known)
            await asyncio.sleep(0)
        opening = True
        frame: pb.ObserveRequest | None = first
        while frame is not None:
            for start in range(0, len(frame.events), EVENTS_AT_ONCE):
                self.knowledge.learn(known, incarnation, frame.events[start : start + EVENTS_AT_ONCE], opening=opening)
                opening = False
                self._moved(known)
                await asyncio.sleep(0)
            frame = await anext(frames, None)

    def _moved(self, known: KnownDevice) -> None:
        self._news[known.spec.device_id] = None
        for watcher in self.watchers:
            watcher.wake.set()

    def _spread(self) -> None:
        """Tells all subscribers' books what changed: once for a push, however many frames of events there were."""
        news, self._news = self._news, {}
        for device_id in news:
            if known := self.knowledge.devices.get(device_id):
                changed, ran = known.news()
                for watcher in self.watchers:
                    watcher.news(known, changed, ran)

    # ---- telling

    async def WatchEstimates(  # noqa: N802
        self, request: pb.WatchEstimatesRequest, context: Context
    ) -> AsyncIterator[pb.WatchEstimatesResponse]:
        """All estimates first, then what changes, at most every so often."""
        try:
            watcher = Watcher(self.knowledge, check_levels(request.levels), read_interests(request.interests))
        except ValueError as error:
            await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if len(self.watchers) >= MAX_WATCHERS:
            await _refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, f"there are {MAX_WATCHERS} subscribers already")
        self.watchers.append(watcher)
        interval_s = min(request.min_interval_ns / 1e9, 3600.0) or PUSH_S
        try:
            while True:
                self._spread()
                watcher.wake.clear()
                for frame in watcher.frames(self._versions):
                    self.pushed_bytes += frame.ByteSize()
                    yield frame
                await asyncio.sleep(interval_s)
                await watcher.wake.wait()
        finally:
            self.watchers.remove(watcher)

    async def EstimateColocation(  # noqa: N802
        self, request: pb.EstimateColocationRequest, context: Context
    ) -> pb.EstimateColocationResponse:
        """What sharing a device would cost each of a set."""
        asked = request.colocation
        try:
            (level,) = check_levels([request.level or 0.99])
        except ValueError:
            await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, f"level must be in (0, 1), got {request.level}")
        if not 1 <= len(asked.batches) <= MAX_TOGETHER:
            message = f"colocation.batches must be 1 to {MAX_TOGETHER} classes, got {len(asked.batches)}"
            await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, message)
        known = self.knowledge.devices.get(asked.device_id)
        if known is None:
            names = ", ".join(f"'{d}'" for d in itertools.islice(self.knowledge.devices, 20)) or "none"
            message = f"device '{asked.device_id}' is not known; known are {names}"
            await _refuse(context, grpc.StatusCode.NOT_FOUND, message)
        batches = [read_class(c) for c in asked.batches]
        for batch_class in batches:
            if batch_class not in known.model.classes:
                message = f"class '{batch_class}' was never seen on device '{asked.device_id}'"
                await _refuse(context, grpc.StatusCode.NOT_FOUND, message)
        return answer(known, batches, level)


async def _refuse(context: Context, code: grpc.StatusCode, message: str) -> NoReturn:
    await context.abort(code, message)
    raise AssertionError  # abort has raised; this is for the type checker
