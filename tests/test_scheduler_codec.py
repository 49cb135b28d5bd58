"""Between the wire and the core: nothing is lost, and nothing senseless gets in."""

import math

import msgspec
import pytest
from google.protobuf import text_format

from cotenant.inference import inference_pb2
from cotenant.runtime.estimates import BatchClass, Phase
from cotenant.scheduler import codec, snapshot
from cotenant.scheduler import events as ev
from cotenant.v1 import executor_pb2, predictor_pb2, scheduler_pb2, types_pb2
from worlds import World, device_spec


def config(text: str) -> bytes:
    return text_format.Parse(text, inference_pb2.ModelConfig()).SerializeToString()


def test_a_models_configuration_becomes_what_the_core_needs() -> None:
    spec = codec.model_spec(
        config("""
            name: "m" max_batch_size: 8
            dynamic_batching {
              preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 500 priority_levels: 3
              default_priority_level: 2 default_queue_policy { max_queue_size: 9 }
            }
            instance_group [{ count: 2 }]
            parameters { key: "slo_ms" value { string_value: "12.5" } }
            parameters { key: "idempotent" value { string_value: "false" } }
        """),
        "3",
    )
    assert spec == ev.ModelSpec("m", "3", 8, True, (4, 8), 500_000, 9, 3, 2, 2, 12_500_000, False)


def test_a_model_that_does_not_batch() -> None:
    spec = codec.model_spec(config('name: "m" dynamic_batching {}'), "1")
    assert (spec.max_batch_size, spec.batching, spec.max_instances) == (1, False, 0)
    assert not codec.model_spec(config('name: "m" max_batch_size: 8'), "1").batching


def test_a_profile_tells_what_its_demand_rests_on() -> None:
    known = types_pb2.BatchClass(model="m", version="1", batch_size=2)
    told = executor_pb2.ClassProfiled(batch_class=known, work_ns=7, samples=3, demand=[0.1, 0.2], spread=0.5)
    assert codec.profile(told) == ev.Profile(BatchClass("m", "1", 2), 7, 3, (0.1, 0.2), 0.5, "")
    told.basis = executor_pb2.PROFILE_BASIS_OPERATORS
    assert codec.profile(told).basis == "OPERATORS"
    newer = executor_pb2.ClassProfiled.FromString(told.SerializeToString().replace(b"\x30\x02", b"\x30\x63"))
    assert newer.basis == 99
    assert codec.profile(newer).basis == ""  # that of a newer executor


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("slo_ms", "soon", "'m'.*'slo_ms'.*'soon'"),
        ("idempotent", "maybe", "true or false"),
        ("shape_buckets", "8,4", "ascending"),
    ],
)
def test_senseless_parameters_name_model_and_key(key: str, value: str, message: str) -> None:
    text = f'name: "m" parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
    with pytest.raises(ValueError, match=message):
        codec.model_spec(config(text), "1")


def test_bytes_that_are_no_configuration() -> None:
    with pytest.raises(ValueError, match="not a serialised ModelConfig"):
        codec.model_spec(b"\xff\xff\xff", "1")


def test_a_launch_comes_back_as_it_was_ordered() -> None:
    requests = (
        ev.Request(7, 2, "m", "1", 3, 0, 99, shape_bucket="64", tensors=ev.Tensors("seg", 64, 128), traceparent="t"),
    )
    batch = ev.Batch(5, BatchClass("m", "1", 3, "64"), requests, ev.Forecast(1, 2, 3, 0.95, 4, 1), 50, 99)
    launch = scheduler_pb2.Launch()
    codec.put_launch(launch, batch)
    hello = scheduler_pb2.ExecutorHello(held=[scheduler_pb2.HeldBatch(launch=launch, started_ns=8)])
    assert codec.joined(hello).held == (batch,)


def test_estimates_by_device_and_a_complete_push_clears_the_others() -> None:
    push = predictor_pb2.WatchEstimatesResponse(version=4, complete=True)
    c = push.classes.add(device_id="gpu-0", work_ns=10, demand=[0.5], sensitivity=[0.1], sample_count=3, basis=3)
    c.batch_class.model = "m"
    s = push.sets.add(device_id="gpu-0", slowdown=1.5)
    s.batch_class.model = "m"
    events = {e.device_id: e for e in codec.estimates(push, ["gpu-0", "gpu-1"])}
    assert [e.work_ns for e in events["gpu-0"].classes] == [10]
    assert [e.slowdown for e in events["gpu-0"].sets] == [1.5]
    assert events["gpu-1"] == ev.EstimatesPushed("gpu-1", 4, True)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e9])
def test_numbers_that_are_none_are_left_out(bad: float) -> None:
    push = predictor_pb2.WatchEstimatesResponse(version=1)
    for field in ("demand", "sensitivity"):
        getattr(push.classes.add(device_id="d"), field).append(bad)
    push.classes.add(device_id="d").quantiles.add(level=0.9, factor=bad)
    push.classes.add(device_id="d").quantiles.add(level=bad, factor=1.0)
    push.sets.add(device_id="d", slowdown=bad)
    push.sets.add(device_id="d", slowdown=-1.0)
    sound = push.classes.add(device_id="d", work_ns=5)
    sound.batch_class.model = "sound"
    (event,) = codec.estimates(push, [])
    assert [c.batch_class.model for c in event.classes] == ["sound"]
    assert event.sets == ()


def test_phases_are_read_where_they_can_be_and_the_means_stay_where_not() -> None:
    push = predictor_pb2.WatchEstimatesResponse(version=1)
    for last in (1.0, 0.5):
        c = push.classes.add(device_id="d", demand=[0.5], kernel_ns=2e5)
        c.batch_class.model = f"ends at {last}"
        c.phases.add(end=0.25, demand=[0.25], kernel_ns=1e5)
        c.phases.add(end=last, demand=[0.75])
    (event,) = codec.estimates(push, [])
    sound, unsound = event.classes
    assert sound.phases == (Phase(0.25, (0.25,), 1e5), Phase(1.0, (0.75,)))
    assert (unsound.phases, unsound.demand, unsound.kernel_ns) == ((), (0.5,), 2e5)


def test_an_event_of_a_later_version_is_ignored() -> None:
    assert codec.executor_event("d", executor_pb2.ExecutorEvent(sequence=1)) is None


def test_every_reason_has_a_number_and_every_number_a_status() -> None:
    from cotenant.runtime import status

    for reason in (ev.QUEUE_FULL, ev.EXPIRED_IN_QUEUE, ev.PREDICTED_MISS, ev.MODEL_UNAVAILABLE, ev.EXECUTOR_LOST):
        refusal = scheduler_pb2.Refusal()
        codec.put_refusal(refusal, ev.Refuse(1, 1, reason, "why"))
        assert status.reason_name(refusal.reason) == reason
    for number in types_pb2.RejectReason.values()[1:]:
        assert number in status._CODES


def test_the_state_of_a_device_is_recorded_as_its_driver_told_it() -> None:
    event = executor_pb2.ExecutorEvent(sequence=1, at_ns=7)
    event.device_state.CopyFrom(
        executor_pb2.DeviceState(
            sm_clock_mhz=1200, power_w=350.5, temperature_c=-3, mig_enabled=False, throttle_reasons_known=True,
            throttle_reasons=[executor_pb2.THROTTLE_REASON_POWER_CAP],
        )
    )  # fmt: skip
    readings = ev.Readings(
        sm_clock_mhz=1200, power_w=350.5, temperature_c=-3, mig_enabled=False, throttle_reasons=("POWER_CAP",)
    )
    assert codec.executor_event("gpu-0", event) == ev.DeviceState("gpu-0", 7, readings)
    event.device_state.throttle_reasons_known = False
    assert codec.readings(event.device_state).throttle_reasons is None


def test_readings_that_are_none_are_left_out() -> None:
    told = executor_pb2.DeviceState(
        power_w=math.nan, utilisation=math.inf, memory_used_bytes=2**64 - 1, sm_clock_mhz=1200,
        throttle_reasons_known=True,
    )  # fmt: skip
    newer = executor_pb2.DeviceState.FromString(told.SerializeToString() + b"\x42\x01\x63")  # reason 99
    assert codec.readings(newer) == ev.Readings(sm_clock_mhz=1200, throttle_reasons=("UNSPECIFIED",))


def test_the_core_takes_a_devices_state_and_does_nothing() -> None:
    world = World()
    world.step(ev.DeviceJoined(device_spec(), 1))
    before = snapshot.take(world.core)
    actions = world.step(ev.DeviceState("gpu-0", world.now_ns, ev.Readings(sm_clock_mhz=1200)))
    assert [action for action in actions if not isinstance(action, ev.WakeAt)] == []
    assert msgspec.structs.replace(snapshot.take(world.core), now_ns=before.now_ns).devices == before.devices
