"""What fuzzers found, each fed once more (benchmarks/fuzz, docs/experiments/fuzzing.md)."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cotenant.cli import evaluate_protocol, explain, report_log
from cotenant.executor import overrides, repository
from cotenant.executor.batch import Batch
from cotenant.frontend.catalogue import Catalogue
from cotenant.frontend.errors import RequestError
from cotenant.frontend.metadata import _place
from cotenant.frontend.trace_settings import TraceSettings
from cotenant.inference import inference_pb2
from cotenant.runtime.estimates import BatchClass
from cotenant.runtime.staging import Segment
from cotenant.scheduler import codec, record
from cotenant.scheduler import events as ev
from cotenant.scheduler.ledger import Ledger
from cotenant.v1 import executor_pb2, scheduler_pb2, types_pb2
from evaluation_logs import five
from stacks import IDENTITY, write_model
from test_scheduler_service import play
from worlds import World, device_spec, model_spec

MOST = 2**64 - 1


def config(name: str = "m", **more: Any) -> bytes:
    return inference_pb2.ModelConfig(name=name, backend="identity", **more).SerializeToString()


# ---- loads


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b"])
def test_a_model_whose_name_no_file_system_takes_fails_to_load(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="failed to poll from model repository"):
        overrides.source(tmp_path, name, types_pb2.ModelOverride())


@pytest.mark.parametrize(
    "text",
    [
        "max_batch_size: 4294967296",
        "input { dims: 999999999999999999999 }",
        "input { data_type: 99 }",
        "instance_group { kind: -5 }",
        f'default_model_filename: "{"a" * 5000}"',
        'parameters { key: "k" } sequence_batching { control_input { control { kind: 77 } } }',
    ],
)
def test_numbers_that_a_configuration_cannot_hold_are_told_with_the_model(tmp_path: Path, text: str) -> None:
    write_model(tmp_path, "m", text)
    with pytest.raises(ValueError, match="model 'm'"):
        repository.read_config(tmp_path / "m")


def test_a_configuration_as_json_is_checked_alike(tmp_path: Path) -> None:
    write_model(tmp_path, "m", IDENTITY)
    with pytest.raises(ValueError, match="model 'm'"):
        repository.read_config(tmp_path / "m", '{"instanceGroup": [{"kind": 99}]}')


@pytest.mark.parametrize("version", ["", "x", "1,2,3", "²", "-1", "9" * 5000])
def test_versions_that_are_no_numbers_are_refused_where_they_enter(version: str) -> None:
    with pytest.raises(ValueError, match="version of model 'm' must be a decimal number"):
        codec.model_spec(config(), version)


@pytest.mark.parametrize("version", ["x", "1,2,3"])
def test_a_version_that_is_no_number_leaves_a_catalogue_as_it_was(version: str) -> None:
    catalogue = Catalogue()
    ready = scheduler_pb2.MODEL_AVAILABILITY_READY
    for told in ("1", version):
        state = scheduler_pb2.ModelState(model="m", version=told, availability=ready, model_config=config())
        catalogue.apply(state)
    assert catalogue.find("m", "").version == "1"
    assert catalogue.versions_of("m") == ["1"]


def test_a_setting_with_thousands_of_digits_is_out_of_range() -> None:
    with pytest.raises(RequestError, match="out of range"):
        TraceSettings("opentelemetry").update("", {"trace_rate": ["1" + "9" * 5000]})


# ---- the scheduler


def test_counts_of_frontends_never_exceed_what_can_be_told() -> None:
    ledger, response = Ledger(), scheduler_pb2.GetStatusResponse()
    for _ in range(3):
        told = scheduler_pb2.FrontendStatistics(model="m", in_time=MOST, late=MOST, refused=MOST, failed=MOST)
        ledger.reported(told, ["1"])
        ledger.tenant_reported(scheduler_pb2.TenantStatistics(tenant="t", in_time=MOST))
    model, tenant = ledger.of("m", "1"), ledger.tenant("t")
    response.models.add(in_time=model.in_time, late=model.late, refused=model.refused, failed=model.failed)
    response.tenants.add(in_time=tenant.in_time)


ABSURD = [{"batch_size": 2**32 - 1}, {"attempt": 2**32 - 1}, {"arrival_ns": -(2**63)}, {"deadline_ns": 2**63 - 1}]


@pytest.mark.parametrize("absurd", ABSURD)
def test_requests_with_absurd_numbers_are_refused_where_they_enter(absurd: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"request 7 has (4294967295|instants)"):
        codec.request(scheduler_pb2.Submit(request_id=7, model="m", version="1", **absurd))  # type: ignore[arg-type]


def test_absurd_solo_times_still_make_forecasts_that_can_be_told() -> None:
    profile = codec.profile(executor_pb2.ClassProfiled(work_ns=MOST))
    assert profile.work_ns < 2**53
    codec.put_forecast(types_pb2.Forecast(), ev.Forecast(MOST * 2, MOST * 3, MOST * 9, 0.95, 1, 0))


def test_a_measured_batch_of_nothing_tells_nothing_about_others() -> None:
    world = World()
    world.join(device="gpu-0")
    nothing = ev.Profile(BatchClass("m", "1", 0), 1000, 5, (0.5, 0.3, 0.3))
    world.step(ev.ClassProfiled("gpu-0", nothing), ev.ModelLoaded("gpu-0", model_spec("m"), 1000))
    assert world.core.devices["gpu-0"].profiled_ns(BatchClass("m", "1", 1)) == 0
    world.arrive("m", slo_ms=0)
    assert len(world.ran) == 1  # as a model that was never measured


@pytest.mark.parametrize("device_id", ["gpu-" + "9" * 5000, "gpu-" + "9" * 21, "gpu-\u00b2", "gpu", ""])
def test_the_name_of_a_device_is_no_number_that_statistics_rest_on(device_id: str) -> None:
    assert _place(device_id) == ("GPU", 0)
    assert _place("cpu-3") == ("CPU", 3)


def test_executors_that_name_the_same_request_do_not_end_the_core() -> None:
    """A batch that was given up and launched elsewhere, held by an executor that comes back; then both go."""
    world = World()
    world.join("m", device="gpu-0")
    world.join("m", device="gpu-1")
    world.arrive("m", slo_ms=0)
    ((_, launch),) = world.ran.items()
    other = next(name for name in ("gpu-0", "gpu-1") if name != launch.device_id)
    core, (request,) = world.core, launch.batch.requests
    held = (launch.batch, ev.Batch(999, launch.batch.batch_class, (request, request), launch.batch.forecast, 0, 0))
    specs = tuple(core.devices[other].models.values())
    core.handle(
        world.now_ns,
        [ev.DeviceJoined(device_spec(other), 2, specs, (1,) * len(specs), (), ("m",), held, (0, 0))],
    )
    for name in (launch.device_id, other):
        core.handle(world.now_ns, [ev.DeviceLost(name, core.devices[name].incarnation)])
    assert not core.waiting
    assert not core.places


def test_a_frontend_cannot_submit_or_cancel_requests_of_another(tmp_path: Path) -> None:
    async def scenario(stub: Any) -> None:
        for spoiled in ("submits", "cancels"):
            frame = scheduler_pb2.ConnectFrontendRequest()
            frame.hello.frontend_id = 5
            getattr(frame, spoiled).add(request_id=6 << 33 | 1)

            async def sent(frame: Any = frame) -> Any:
                yield frame
                await asyncio.sleep(20)

            with pytest.raises(Exception, match="is not of frontend 5"):
                async for _ in stub.ConnectFrontend(sent()):
                    pass

    play(tmp_path, scenario)


# ---- the executor


@pytest.mark.parametrize("bucket", ["²", "9" * 5000, "5"])
def test_a_bucket_that_was_not_declared_pads_nothing(bucket: str) -> None:
    version: Any = SimpleNamespace(model=None, options=SimpleNamespace(shape_buckets=(4,)))
    order = scheduler_pb2.Launch(batch_class=types_pb2.BatchClass(model="m", version="1", shape_bucket=bucket))
    batch = Batch(order, version, SimpleNamespace(), SimpleNamespace(), timed=False)  # type: ignore[arg-type]
    assert batch.batch_class.shape_bucket == bucket


@pytest.mark.parametrize("name", ["cotenant-\0", "cotenant-" + "a" * 5000])
def test_a_segment_whose_name_no_file_system_takes_is_one_that_is_not_seen(tmp_path: Path, name: str) -> None:
    assert Segment.attach(tmp_path, name, b"n" * 16) is None


# ---- logs


def read_report(log: Path) -> None:
    report_log.read(log)


def read_explain(log: Path) -> None:
    explain.explain(log, "1", replay=False)


def read_evaluate(log: Path) -> None:
    evaluate_protocol.evaluate(evaluate_protocol.Plan((log,), ("ignore",)))


def read_replay(log: Path) -> None:
    list(record.read(log))


READERS = [read_report, read_explain, read_evaluate, read_replay]
GROUP = b'{"type":"Group","now_ns":1,"events":[%s],"actions":[]}\n'
ARRIVED = b'{"type":"RequestArrived","request":{"request_id":1,"model":"\xc3("}}'


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("line", [GROUP % b"1.5", GROUP % b"[]", GROUP % ARRIVED, b'{"type":"\x80"}\n', b"\xff\n"])
def test_lines_that_are_no_records_are_passed_over_or_named(
    tmp_path: Path, reader: Callable[[Path], None], line: bytes
) -> None:
    log = five(tmp_path)
    log.write_bytes(log.read_bytes() + line)
    told = str(log)
    try:
        reader(log)
    except ValueError as error:
        told = str(error)
    assert str(log) in told, "tells nobody where it comes from"
