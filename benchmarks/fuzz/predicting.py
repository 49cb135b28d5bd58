"""Frames of executors and questions of schedulers, at a predictor."""

from random import Random
from typing import Any, ClassVar, NamedTuple

from fuzz import mutators
from fuzz.loopback import AbortedError, Context
from fuzz.scheduling import ALL_EVENTS, batch_class, profiled
from fuzz.services import FindingError
from fuzz.streams import Stream
from fuzz.target import StackTarget, turns, verdict

from cotenant.v1 import predictor_pb2, types_pb2

PREDICTOR = "/cotenant.v1.PredictorService/"
RESOURCES = ("a", "b")


class Asked(NamedTuple):
    """A message for a method."""

    method: str
    data: bytes


def hello(device_id: str, incarnation: int) -> predictor_pb2.ObserveRequest:
    made = predictor_pb2.ObserveRequest()
    device = types_pb2.Device(device_id=device_id, kind="emulated", name="x", memory_bytes=2**30, resources=RESOURCES)
    made.hello.device.CopyFrom(device)
    made.hello.incarnation = incarnation
    made.hello.profiles.extend([profiled(1), profiled(2)])
    return made


def questions() -> list[Asked]:
    """Good questions."""
    asked = predictor_pb2.EstimateColocationRequest(level=0.9)
    asked.colocation.device_id = "fuzz-0"
    asked.colocation.batches.extend([batch_class(1), batch_class(2)])
    watch = predictor_pb2.WatchEstimatesRequest(levels=[0.9, 0.99], min_interval_ns=1, interests=[asked.colocation])
    return [Asked("EstimateColocation", asked.SerializeToString()), Asked("WatchEstimates", watch.SerializeToString())]


class Observed(StackTarget):
    """See the module's text. The canary is another device, of which the predictor must know what it knew."""

    name = "observed"
    only: ClassVar[tuple[str, ...]] = ("predictor",)
    canary_every: ClassVar[int] = 100

    async def open(self) -> None:
        await super().open()
        self.incarnation, self.sequence = 0, 0
        self.stream: Stream | None = None
        self._calm = Stream(self._handler("Observe"), lambda _: None)
        first = hello("calm-0", 1)
        self._calm.send(first)
        await self.join()
        self._expected = await self._calm_answer()

    async def close(self) -> None:
        for stream in (self._calm, self.stream):
            if stream:
                await stream.close()
        await super().close()

    def _handler(self, method: str) -> Any:
        return self.services.handler(PREDICTOR + method)

    async def join(self) -> None:
        if self.stream:
            await self.stream.close()
        self.incarnation += 1
        self.sequence = 0
        self.stream = Stream(self._handler("Observe"), lambda _: None)
        self.stream.send(hello("fuzz-0", self.incarnation))
        await turns(6)

    async def _calm_answer(self) -> bytes:
        asked = predictor_pb2.EstimateColocationRequest()
        asked.colocation.device_id = "calm-0"
        asked.colocation.batches.extend([batch_class(1), batch_class(2)])
        return await self.services.call(PREDICTOR + "EstimateColocation", asked.SerializeToString())

    async def canary(self) -> None:
        self.services.alive()
        if await self._calm_answer() != self._expected:
            raise FindingError("what is known of another device has changed")
        async for push in self._handler("WatchEstimates").unary_stream(
            predictor_pb2.WatchEstimatesRequest(), Context()
        ):
            _finite(push)
            break

    def make(self, rng: Random) -> Asked:
        chance = rng.random()
        if chance < 0.1:
            return rng.choice(QUESTIONS)._replace(data=b"") if chance < 0.01 else _bad(rng.choice(QUESTIONS), rng)
        if chance < 0.13:
            return Asked("hello", mutators.message(hello("fuzz-1", 1), rng))
        frame = predictor_pb2.ObserveRequest()
        frame.events.extend(rng.choice(ALL_EVENTS) for _ in range(rng.choice((1, 1, 2, 8))))
        return Asked("Observe", mutators.message(frame, rng))

    async def take(self, made: Asked) -> str:
        if made.method == "EstimateColocation":
            return await self._colocation(made.data)
        if made.method == "WatchEstimates":
            return await self._watched(made.data)
        frame = mutators.parsed(predictor_pb2.ObserveRequest, made.data)
        if frame is None:
            return "no message"
        if made.method == "hello":
            stream = Stream(self._handler("Observe"), lambda _: None)
            if frame.hello.device.device_id == "calm-0":
                frame.hello.device.device_id = "calm-1"
        else:
            assert self.stream
            stream = self.stream
        for event in frame.events:
            self.sequence += event.sequence == 0 and self.sequence < 2**50
            event.sequence = event.sequence or self.sequence
        stream.send(frame)
        await turns(6)
        became = "taken"
        if stream.task.done():
            if stream.raised:
                raise stream.raised
            became = verdict(stream.error) if stream.error else "ended"
        if stream is not self.stream:
            await stream.close()
        elif became != "taken":
            await self.join()
        return became

    async def _colocation(self, data: bytes) -> str:
        if mutators.parsed(predictor_pb2.EstimateColocationRequest, data) is None:
            return "no message"
        try:
            answer = await self.services.call(PREDICTOR + "EstimateColocation", data)
        except AbortedError as error:
            return verdict(error)
        _finite(predictor_pb2.EstimateColocationResponse.FromString(answer))
        return "OK"

    async def _watched(self, data: bytes) -> str:
        request = mutators.parsed(predictor_pb2.WatchEstimatesRequest, data)
        if request is None:
            return "no message"
        pushes = self._handler("WatchEstimates").unary_stream(request, Context())
        try:
            async for push in pushes:
                _finite(push)
                break
        except AbortedError as error:
            return verdict(error)
        finally:
            await pushes.aclose()
        return "OK"


def _bad(good: Asked, rng: Random) -> Asked:
    kind = {
        "EstimateColocation": predictor_pb2.EstimateColocationRequest,
        "WatchEstimates": predictor_pb2.WatchEstimatesRequest,
    }
    return good._replace(data=mutators.message(kind[good.method].FromString(good.data), rng))


def _finite(message: Any) -> None:
    """Raises FindingError where a number in a message is none."""
    if any(word in str(message).split() for word in ("nan", "inf", "-inf")):
        raise FindingError(f"numbers that are none: {str(message)[:300]}")


QUESTIONS = questions()
