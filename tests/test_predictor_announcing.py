"""What a driver tells of a GPU's clocks, from the event to the pace that is opened for it."""

import math
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from cotenant.predictor.announcing import Announcement, Announcing
from cotenant.predictor.contract.peer import RESOURCES, finished, profiled
from cotenant.predictor.device_model import DeviceModel
from cotenant.predictor.intake import STATES
from cotenant.predictor.knowledge import Knowledge
from cotenant.predictor.known_device import DeviceSpec, KnownDevice
from cotenant.predictor.learners import LEARNERS, FollowsPace
from cotenant.predictor.observations import Clocks
from cotenant.runtime.estimates import BatchClass
from cotenant.v1 import executor_pb2

POWER, THERMAL, IDLE = 3, 7, 1  # of `ThrottleReason`


def clocks(mhz: int, *reasons: int) -> Clocks:
    return Clocks(mhz, frozenset(reasons))


def test_a_clock_that_falls_or_rises_announces_by_how_much() -> None:
    told = Announcing()
    assert told.learn(clocks(2000)) is None  # nothing to compare it with
    assert told.learn(clocks(1920)) is None
    assert told.learn(clocks(1600)) == Announcement(1.25)
    assert told.learn(clocks(1600)) is None
    assert told.learn(clocks(2000)) == Announcement(0.8)


def test_slow_steps_add_up() -> None:
    told = Announcing()
    steps = [told.learn(clocks(2000 - 60 * i)) for i in range(4)]
    assert steps == [None, None, Announcement(2000 / 1880), None]


def test_a_reason_that_comes_or_goes_is_announced_and_one_that_stays_is_not() -> None:
    told = Announcing()
    told.learn(clocks(2000))
    assert told.learn(clocks(2000, POWER)) == Announcement(1.0)
    assert told.learn(clocks(2000, POWER)) is None
    assert told.learn(clocks(2000, POWER, THERMAL)) == Announcement(1.0)
    assert told.learn(clocks(2000)) == Announcement(1.0)


def test_an_idle_gpu_announces_nothing() -> None:
    told = Announcing()
    told.learn(clocks(2000))
    assert told.learn(clocks(345, IDLE)) is None
    assert told.learn(clocks(2000)) is None
    assert told.learn(clocks(1600)) == Announcement(1.25)  # against when it worked last


def test_what_is_not_told_is_neither_begin_nor_end() -> None:
    told = Announcing()
    told.learn(Clocks(0, frozenset({POWER})))
    assert told.learn(Clocks(0, None)) is None
    assert told.learn(Clocks(0, frozenset())) == Announcement(None)  # of a size nobody knows
    assert told.learn(Clocks(0, None)) is None
    assert told.learn(Clocks(0, frozenset())) is None
    assert told.learn(Clocks(2000, None)) is None
    assert told.learn(Clocks(1600, None)) == Announcement(1.25)


class Stream:
    """Events of one executor whose two models run 1.5 times as long beside each other."""

    def __init__(self) -> None:
        self.knowledge = Knowledge()
        self.device: KnownDevice = self.knowledge.device(DeviceSpec("gpu-0", "cuda", "made-up GPU", RESOURCES))
        self.sequence = 0
        for model in "ab":
            self.sequence += 1
            self.tell(profiled(self.sequence, model))
        self.batches(200)

    def tell(self, event: executor_pb2.ExecutorEvent) -> None:
        self.knowledge.learn(self.device, 1, [event], opening=self.sequence == 1)

    def batches(self, count: int, pace: float = 1.0) -> None:
        for i in range(count):
            self.sequence += 1
            noise = 1.0 + 0.03 * math.sin(1.7 * self.sequence)
            self.tell(finished(self.sequence, "ab"[i % 2], 15.0 * pace * noise, "ba"[i % 2]))

    def state(self, **told: Any) -> None:
        self.sequence += 1
        event = executor_pb2.ExecutorEvent(sequence=self.sequence, at_ns=1)
        event.device_state.CopyFrom(executor_pb2.DeviceState(**told))
        self.tell(event)

    @property
    def work_ns(self) -> float:
        return self.device.model.learner.work_ns(BatchClass("a", "1", 1))


def test_throttling_that_the_driver_tells_is_learned_at_once() -> None:
    heard, deaf = Stream(), Stream()
    before_ns = heard.work_ns
    heard.state(sm_clock_mhz=2000, throttle_reasons_known=True)
    heard.state(sm_clock_mhz=1600, throttle_reasons_known=True, throttle_reasons=[POWER])
    assert heard.work_ns == before_ns  # that is for batches to tell
    for stream in (heard, deaf):
        stream.batches(2, pace=1.25)
    assert heard.work_ns == pytest.approx(1.25 * before_ns, rel=0.05)
    assert deaf.work_ns < 1.15 * before_ns


MOST = {32: 2**32 - 1, 64: 2**64 - 1}  # that the wire carries
HOSTILE = (
    ("memory_used_bytes", MOST[64]), ("memory_total_bytes", MOST[64]), ("memory_total_bytes", 0),
    ("sm_clock_mhz", MOST[32]), ("sm_clock_mhz", 0), ("sm_clock_max_mhz", MOST[32]), ("sm_clock_max_mhz", 0),
    ("memory_clock_mhz", MOST[32]), ("memory_clock_max_mhz", MOST[32]),
    ("power_w", math.nan), ("power_w", math.inf), ("power_w", -1.0), ("power_limit_w", math.nan),
    ("temperature_c", 2**31 - 1), ("temperature_c", -(2**31)),
    ("utilisation", math.nan), ("utilisation", -0.1), ("utilisation", 1e300),
    ("mps_active_thread_percentage", -math.inf), ("mps_active_thread_percentage", 101.0),
)  # fmt: skip


@pytest.mark.parametrize(("field", "value"), HOSTILE)
def test_a_state_that_cannot_be_is_counted_and_announces_nothing(field: str, value: float) -> None:
    stream, quiet = Stream(), Stream()
    for each in (stream, quiet):
        each.state(sm_clock_mhz=2000)
    stream.state(**{"sm_clock_mhz": 1000, field: value})
    quiet.sequence += 1
    assert stream.knowledge.intake.rejected == {"device state": 1}
    assert field in stream.knowledge.intake.examples["device state"]
    for each in (stream, quiet):
        each.batches(3, pace=1.25)
    assert stream.work_ns == quiet.work_ns


def test_every_number_of_a_state_is_checked() -> None:
    numbers = {f.name for f in executor_pb2.DeviceState.DESCRIPTOR.fields if f.type not in (f.TYPE_BOOL, f.TYPE_ENUM)}
    assert numbers - {"mig_gpu_instance_id", "mig_compute_instance_id"} == set(STATES)  # names, not quantities
    assert {field for field, _ in HOSTILE} == set(STATES)


def test_learners_without_a_pace_hear_nothing_of_it() -> None:
    for name in ("clockwork", "ewma12-rls", "ignore"):
        model = DeviceModel("gpu-0", 3, name)
        before = model.dump()
        model.expect_pace(1.25)
        assert model.dump() == before
    assert isinstance(LEARNERS["fluid"](3), FollowsPace)


def test_a_peer_of_before_sees_an_event_without_content_and_counts_it() -> None:
    """The contract as it was, without the field: its number reaches such a peer as one it does not know."""
    pool, types = descriptor_pool.DescriptorPool(), descriptor_pb2.FileDescriptorProto()
    old = descriptor_pb2.FileDescriptorProto()
    executor_pb2.DESCRIPTOR.CopyToProto(old)
    executor_pb2.DESCRIPTOR.dependencies[0].CopyToProto(types)
    told = next(message for message in old.message_type if message.name == "ExecutorEvent")
    del told.field[next(i for i, field in enumerate(told.field) if field.name == "device_state")]
    pool.Add(types)
    pool.Add(old)
    peer = message_factory.GetMessageClass(pool.FindMessageTypeByName("cotenant.v1.ExecutorEvent"))
    event = executor_pb2.ExecutorEvent(sequence=7, at_ns=8)
    event.device_state.sm_clock_mhz = 1600
    seen: Any = peer.FromString(event.SerializeToString())
    assert (seen.sequence, seen.at_ns, seen.WhichOneof("event")) == (7, 8, None)


def test_an_event_of_a_later_version_is_counted_and_teaches_nothing() -> None:
    stream = Stream()
    kept, before = stream.device.model.dump(), stream.knowledge.events
    known = executor_pb2.ExecutorEvent(sequence=stream.sequence + 1, at_ns=5).SerializeToString()
    event = executor_pb2.ExecutorEvent.FromString(known + b"\xea\x01\x02\x08\x01")  # and number 29
    stream.knowledge.learn(stream.device, 1, [event], opening=False)
    assert stream.knowledge.events == before + 1
    assert not stream.knowledge.intake.rejected
    assert stream.device.model.dump() == kept
