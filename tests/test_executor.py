"""The executor from inside: repository, loading, measuring, and running what it is told to."""

import asyncio
import dataclasses
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from cotenant.executor import repository
from cotenant.executor.device import BATCH_NICE, ThreadedDevice, open_device
from cotenant.executor.exchange import Exchange, FrontendPeer
from cotenant.executor.models import Models
from cotenant.executor.profile import Profiler, alone
from cotenant.executor.reports import Reports, Unacknowledged
from cotenant.executor.runner import Runner
from cotenant.runtime.clock import now_ns
from cotenant.runtime.staging import Segment, aligned, write_block
from cotenant.v1 import executor_pb2 as pb
from cotenant.v1 import scheduler_pb2, types_pb2
from stacks import IDENTITY, delayed, write_model

BUCKETED = """
backend: "identity"
max_batch_size: 4
input [{ name: "ids" data_type: TYPE_INT64 dims: [ -1 ] }, { name: "mask" data_type: TYPE_INT64 dims: [ -1 ] }]
output [{ name: "ids2" data_type: TYPE_INT64 dims: [ -1 ] }, { name: "mask2" data_type: TYPE_INT64 dims: [ -1 ] }]
dynamic_batching {}
parameters { key: "shape_buckets" value { string_value: "4,8" } }
parameters { key: "pad_values" value { string_value: "ids=7" } }
"""


class Bench:
    """An executor without its streams: what it would have told is kept in lists."""

    def __init__(self, folder: Path) -> None:
        self.repository = folder / "models"
        self.repository.mkdir(exist_ok=True)
        self.device = open_device("cpu", 0, concurrency=2, threads=1, seed=0)
        assert isinstance(self.device, ThreadedDevice)
        self.reports = Reports(limit=1000)
        self.events: list[pb.ExecutorEvent] = []
        self.reports.listeners.append(self.events.append)
        self.profiler = Profiler(self.device, alone, cache=folder / "cache")
        self.models = Models(self.repository, self.device, self.reports, self.profiler, default_max_batch_size=8)
        self.exchange = Exchange(folder, 2**20)
        self.runner = Runner(self.device, self.models, self.exchange, self.reports, sample_every=0)
        self.peer = self.exchange.connect(pb.ExchangeHello(frontend_id=3))
        self._next = 0

    def told(self, kind: str) -> list[Any]:
        return [getattr(event, kind) for event in self.events if event.WhichOneof("event") == kind]

    def stage(self, *arrays: tuple[str, np.ndarray], wanted: tuple[str, ...] = (), explain: bool = False) -> int:
        """Sends a request's tensors; returns its id."""
        self._next += 1
        request_id = 3 << 33 | self._next
        stage = pb.Stage(request_id=request_id, attempt=1)
        stage.tensors.requested_outputs.extend(wanted)
        stage.tensors.explain = explain
        data = b""
        for name, array in arrays:
            kind = {"f": "FP32", "i": "INT64"}[array.dtype.kind]
            raw = array.tobytes()
            stage.tensors.tensors.add(name=name, datatype=kind, shape=array.shape, offset=len(data), byte_size=len(raw))
            data += raw + bytes(aligned(len(raw)) - len(raw))
        stage.data = data
        self.exchange.take(self.peer, pb.ExchangeRequest(stages=[stage]))
        return request_id

    def order(
        self, batch_id: int, model: str, requests: list[int], *, bucket: str = "", **more: Any
    ) -> scheduler_pb2.Launch:
        known = types_pb2.BatchClass(model=model, version="1", batch_size=len(requests), shape_bucket=bucket)
        order = scheduler_pb2.Launch(batch_id=batch_id, batch_class=known, **more)
        for request_id in requests:
            order.requests.add(request_id=request_id, attempt=1, batch_size=1)
        return order

    async def answers(self, count: int) -> list[pb.Answer]:
        async with asyncio.timeout(10):
            while len(self.peer.outbox.frame.answers) < count:
                await asyncio.sleep(0.002)
        return list(self.peer.outbox.frame.answers)


def with_bench(folder: Path, play: Callable[[Bench], Awaitable[None]]) -> None:
    async def run() -> None:
        bench = Bench(folder)
        try:
            await play(bench)
        finally:
            bench.exchange.close()

    asyncio.run(run())


def output(answer: pb.Answer, index: int = 0, dtype: Any = np.float32) -> np.ndarray:
    tensor = answer.outputs.tensors[index]
    return np.frombuffer(answer.inline, dtype, offset=tensor.offset, count=tensor.byte_size // np.dtype(dtype).itemsize)


# ---- the repository


def test_versions_are_numbers_and_what_is_hidden_or_no_version_is_not_seen(tmp_path: Path) -> None:
    for name in ("1", "10", "2", "0", "01", "latest", ".hidden"):
        (tmp_path / "m" / name).mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    (tmp_path / "file").touch()
    assert repository.scan(tmp_path) == {"m": ["1", "2", "10"]}
    assert repository.scan(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    ("policy", "chosen"),
    [
        ("", ["10"]),
        ("version_policy { latest { num_versions: 2 } }", ["2", "10"]),
        ("version_policy { all {} }", ["1", "2", "10"]),
        ("version_policy { specific { versions: [ 1, 10, 11 ] } }", ["1", "10"]),
    ],
)
def test_version_policies(tmp_path: Path, policy: str, chosen: list[str]) -> None:
    folder = write_model(tmp_path, "m", policy)
    for version in ("2", "10"):
        (folder / version).mkdir()
    assert repository.wanted_versions(repository.read_config(folder), repository.versions(folder)) == chosen


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("max_batch_size: many", "config.pbtxt cannot be read.*1:17"),
        ('name: "other"', "of a model called 'other'"),
        ("max_batch_size: -1", "max_batch_size is -1"),
        ("sequence_batching {}", "sequence_batching has neither state nor control_input"),
        ("model_transaction_policy { decoupled: true } sequence_batching { state { } }", "decoupled"),
        ("version_policy { specific { versions: [ 7 ] } }", "none of the versions 1"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_told(tmp_path: Path, config: str, message: str) -> None:
    folder = write_model(tmp_path, "m", config)
    with pytest.raises(ValueError, match=f"'m'.*{message}"):
        repository.wanted_versions(repository.read_config(folder), repository.versions(folder))


# ---- loading


def test_a_model_is_measured_before_it_serves_and_the_measurement_is_kept(tmp_path: Path) -> None:
    async def play(bench: Bench) -> None:
        folder = write_model(bench.repository, "m", delayed(4, max_batch_size=2))
        await bench.models.load("m")
        kinds = [event.WhichOneof("event") for event in bench.events]
        assert kinds[-4:] == ["class_profiled", "class_profiled", "model_loaded", "model_load_ended"]
        sizes = [(p.batch_class.batch_size, p.samples) for p in bench.told("class_profiled")]
        assert [size for size, _ in sizes] == [1, 2]
        assert all(samples >= 3 for _, samples in sizes)
        assert all(4e6 <= p.work_ns < 12e6 for p in bench.told("class_profiled"))
        (kept,) = (folder / "1").glob(".cotenant-profile-*.json")
        rows = json.loads(kept.read_text())
        rows[0]["work_ns"] = 123456789
        kept.write_text(json.dumps(rows))
        bench.events.clear()
        await bench.models.load("m")
        assert bench.told("class_profiled")[0].work_ns == 123456789  # read, not measured again
        (folder / "config.pbtxt").write_text(delayed(5, max_batch_size=2))
        bench.events.clear()
        await bench.models.load("m")
        assert bench.told("class_profiled")[0].work_ns < 20e6  # another configuration: measured anew

    with_bench(tmp_path, play)


def test_measuring_keeps_those_who_serve_waiting_for_a_quarter_of_their_slo_at_most(tmp_path: Path) -> None:
    async def play(bench: Bench) -> None:
        asked: list[tuple[str, int]] = []

        async def acquire(duration_ns: int, model: str) -> tuple[Callable[[], None], int]:
            asked.append((model, duration_ns))
            return await alone(duration_ns, model)

        bench.profiler._acquire = acquire
        write_model(bench.repository, "first", delayed(1, max_batch_size=1))
        write_model(bench.repository, "tight", delayed(1, slo_ms=100, max_batch_size=1))
        write_model(bench.repository, "second", delayed(1, max_batch_size=1))
        write_model(bench.repository, "long", delayed(30, max_batch_size=1))
        for model in ("first", "tight", "second", "long"):
            await bench.models.load(model)
        windows = {model: [ns for name, ns in asked if name == model][1:-1] for model, _ in asked}
        assert max(windows["first"]) > 100e6 / 4  # nobody serves
        assert max(windows["second"]) <= 100e6 / 4
        assert min(windows["long"]) >= 30e6  # one run must fit

    with_bench(tmp_path, play)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_repository_is_fine(tmp_path: Path) -> None:
    async def play(bench: Bench) -> None:
        folder = write_model(bench.repository, "m", delayed(1, max_batch_size=1))
        (folder / "1").chmod(0o500)
        await bench.models.load("m")
        assert bench.told("model_loaded")
        assert list((tmp_path / "cache").glob(".cotenant-profile-*.json"))

    with_bench(tmp_path, play)


def test_a_broken_profile_is_measured_again(tmp_path: Path) -> None:
    async def play(bench: Bench) -> None:
        folder = write_model(bench.repository, "m", delayed(1, max_batch_size=1))
        await bench.models.load("m")
        (kept,) = (folder / "1").glob(".cotenant-profile-*.json")
        kept.write_text('[{"batch_size": "none"')
        bench.events.clear()
        await bench.models.load("m")
        assert bench.told("class_profiled")[0].work_ns > 0

    with_bench(tmp_path, play)


def bases(bench: Bench) -> dict[int, int]:
    """What the demand of each batch size rests on."""
    return {p.batch_class.batch_size: p.basis for p in bench.told("class_profiled")}


def test_a_profile_tells_what_it_rests_on_and_keeps_it(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make = onnx.helper
    shapes = [make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["b", 64]) for name in "xy"]
    weights = [onnx.numpy_helper.from_array(np.ones((64, 64), np.float32), "w")]
    graph = make.make_graph([make.make_node("MatMul", ["x", "w"], ["y"])], "g", shapes[:1], shapes[1:], weights)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9)

    async def play(bench: Bench) -> None:
        write_model(bench.repository, "m", "max_batch_size: 2", files={"model.onnx": model.SerializeToString()})
        counted = dict.fromkeys((1, 2), pb.PROFILE_BASIS_OPERATORS)
        with capture_logs() as logs:
            await bench.models.load("m")
        assert bases(bench) == counted
        assert logs[-1]["demand_from"] == "counted per operator"
        assert all(len(p.demand) == 3 and 0 < p.demand[0] <= 1 for p in bench.told("class_profiled"))
        bench.events.clear()
        await bench.models.load("m")
        assert bases(bench) == counted  # as it was kept

    with_bench(tmp_path, play)


def test_work_that_cannot_be_counted_is_estimated_from_outside(tmp_path: Path) -> None:
    async def play(bench: Bench) -> None:
        write_model(bench.repository, "m", delayed(1, max_batch_size=1))
        await bench.models.load("m")
        assert bases(bench) == {1: pb.PROFILE_BASIS_OUTSIDE}  # nothing to count
        closed: list[str] = []

        class Uncounted:
            def run(self, inputs: Any) -> Any:
                return inputs

            def operators(self) -> Any:
                raise ValueError("operator fold cannot be counted")

            def close(self) -> None:
                closed.append("m")

        original = bench.models._read

        def read(*args: Any) -> Any:
            loaded = original(*args)
            setattr(loaded.model, "counted", Uncounted)
            return loaded

        setattr(bench.models, "_read", read)
        bench.profiler._remeasure = True
        bench.events.clear()
        with capture_logs() as logs:
            await bench.models.load("m")
        assert bases(bench) == {1: pb.PROFILE_BASIS_OUTSIDE}
        assert [entry["error"] for entry in logs if "cannot be counted" in entry["event"]] == [
            "operator fold cannot be counted"
        ]
        assert logs[-1]["demand_from"] == "estimated from outside"
        assert closed == ["m"]

    with_bench(tmp_path, play)


@pytest.mark.parametrize("change", [{"basis": "STARS"}, {"basis": None}])
def test_a_profile_that_rests_on_something_unknown_is_measured_again(tmp_path: Path, change: dict[str, Any]) -> None:
    async def play(bench: Bench) -> None:
        folder = write_model(bench.repository, "m", delayed(1, max_batch_size=1))
        await bench.models.load("m")
        (kept,) = (folder / "1").glob(".cotenant-profile-*.json")
        rows = json.loads(kept.read_text())
        assert rows[0]["basis"] == "OUTSIDE"
        rows[0] |= change | {"work_ns": 123456789}
        if rows[0]["basis"] is None:
            del rows[0]["basis"]  # as older versions kept it
        kept.write_text(json.dumps(rows))
        bench.events.clear()
        await bench.models.load("m")
        assert bench.told("class_profiled")[0].work_ns != 123456789
        assert bases(bench) == {1: pb.PROFILE_BASIS_OUTSIDE}

    with_bench(tmp_path, play)


def test_what_nsight_measured_counts_on_a_gpu_only(tmp_path: Path) -> None:
    throughput = "throughput.avg.pct_of_peak_sustained_elapsed"
    columns = ["ID", "Kernel Name", f"sm__{throughput}", f"lts__{throughput}", f"dram__{throughput}"]
    rows = [[*columns, "gpu__time_duration.sum"], ["", "", "%", "%", "%", "s"], ["0", "gemm", "80", "40", "20", "100"]]
    text = "\n".join(",".join(f'"{cell}"' for cell in row) for row in rows).encode()

    async def play(bench: Bench) -> None:
        files = {"ncu-b1.csv": text, "ncu-b2.csv": text.replace(b"80", b"eighty")}
        write_model(bench.repository, "m", delayed(1, max_batch_size=2), files=files)
        await bench.models.load("m")
        assert bases(bench) == {1: pb.PROFILE_BASIS_OUTSIDE, 2: pb.PROFILE_BASIS_OUTSIDE}
        bench.device.placement = dataclasses.replace(bench.device.placement, kind="cuda")
        bench.events.clear()
        with capture_logs() as logs:
            await bench.models.load("m")
        assert bases(bench) == {1: pb.PROFILE_BASIS_NSIGHT, 2: pb.PROFILE_BASIS_OUTSIDE}
        assert list(bench.told("class_profiled")[0].demand) == pytest.approx([0.8, 0.4, 0.2])
        (warning,) = (entry for entry in logs if "Nsight" in entry["event"])
        assert "line 3: SM throughput is 'eighty'" in warning["error"]
        assert logs[-1]["demand_from"] == "measured by Nsight Compute, estimated from outside"

    with_bench(tmp_path, play)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("nope", None, "failed to poll"),
        ("../m", None, "failed to poll"),
        ("m", "max_batch_size: x", "cannot be read"),
        ("m", 'backend: "magic"', "'magic' is not known"),
        ("m", 'backend: "onnxruntime"', "model.onnx"),
        ("m", 'backend: "identity"', "as many outputs as inputs"),
        ("m", "instance_group [{ kind: KIND_GPU }]", "asks for a GPU"),
        ("m", "", "holds none of model.onnx"),
        ("m", delayed(1) + 'parameters { key: "shape_buckets" value { string_value: "x" } }', "shape_buckets"),
    ],
)
def test_a_load_that_fails_tells_why_and_the_next_one_works(
    tmp_path: Path, name: str, config: str | None, message: str
) -> None:
    async def play(bench: Bench) -> None:
        if config is not None:
            write_model(bench.repository, "m", config)
        await bench.models.load(name)
        (failed,) = bench.told("model_load_failed")
        assert message in failed.message
        assert len(bench.told("model_load_ended")) == 1
        write_model(bench.repository, "good", IDENTITY)
        await bench.models.load("good")
        assert bench.told("model_loaded")[0].model == "good"

    with_bench(tmp_path, play)


def test_a_model_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    async def play(bench: Bench) -> None:
        write_model(bench.repository, "m", IDENTITY)
        bench.device.describe().memory_bytes = 1000
        original = bench.models._read

        def heavy(*args: Any) -> Any:
            loaded = original(*args)
            setattr(loaded.model, "memory_bytes", 2**30)
            return loaded

        setattr(bench.models, "_read", heavy)
        await bench.models.load("m")
        assert "needs 1024 MiB" in bench.told("model_load_failed")[0].message

    with_bench(tmp_path, play)


def test_a_replaced_model_is_closed_when_its_last_batch_has_ended(tmp_path: Path) -> None:
    async def play(bench: Bench) -> None:
        write_model(bench.repository, "m", delayed(60, max_batch_size=1))
        await bench.models.load("m")
        closed: list[str] = []
        old = bench.models.table["m", "1"]
        setattr(old.model, "close", lambda: closed.append("old"))
        request = bench.stage(("INPUT0", np.ones((1, 16), np.float32)))
        bench.runner.launch(bench.order(1, "m", [request]))
        await asyncio.sleep(0.02)
        bench.models.unload("m", "1")
        assert closed == []
        (answer,) = await bench.answers(1)
        assert not answer.reason
        assert closed == ["old"]

    with_bench(tmp_path, play)


# ---- running


def test_requests_of_a_batch_get_their_own_rows(tmp_path: Path) -> None:
    async def play(bench: Bench) -> None:
        write_model(bench.repository, "m", delayed(5))
        await bench.models.load("m")
        inputs = [np.full((1, 16), i, np.float32) for i in range(3)]
        requests = [bench.stage(("INPUT0", x), explain=i == 0) for i, x in enumerate(inputs)]
        bench.runner.launch(bench.order(9, "m", requests))
        answers = await bench.answers(3)
        for answer, x in zip(answers, inputs, strict=True):
            np.testing.assert_array_equal(output(answer), x[0])
        assert [a.execution.first_of_batch for a in answers] == [True, False, False]
        assert all(a.execution.batch_size == 3 and a.execution.batch_id == 9 for a in answers)
        assert len(answers[0].execution.slices) == 1
        assert not answers[1].execution.slices  # only who asks is told
        (finished,) = bench.told("batch_finished")
        assert finished.duration_ns >= 5e6
        assert sum(part.duration_ns for part in finished.slices) == finished.duration_ns

    with_bench(tmp_path, play)


def test_lengths_are_padded_to_their_bucket_and_cut_back(tmp_path: Path) -> None:
    async def play(bench: Bench) -> None:
        write_model(bench.repository, "m", BUCKETED)
        await bench.models.load("m")
        assert {p.batch_class.shape_bucket for p in bench.told("class_profiled")} == {"4", "8"}
        seen: list[dict[str, np.ndarray]] = []
        version = bench.models.table["m", "1"]
        run = version.model.run

        def watched(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            seen.append(inputs)
            return run(inputs)

        setattr(version.model, "run", watched)
        requests = []
        for length in (3, 8):
            ids, mask = np.arange(length)[None], np.ones((1, length), np.int64)
            requests.append(bench.stage(("ids", ids), ("mask", mask)))
        bench.runner.launch(bench.order(1, "m", requests, bucket="8"))
        answers = await bench.answers(2)
        assert seen[0]["ids"].tolist() == [[0, 1, 2, 7, 7, 7, 7, 7], list(range(8))]
        assert seen[0]["mask"].tolist() == [[1, 1, 1, 0, 0, 0, 0, 0], [1] * 8]
        assert [list(t.shape) for t in answers[0].outputs.tensors] == [[1, 3], [1, 3]]
        assert output(answers[0], 0, np.int64).tolist() == [0, 1, 2]
        assert output(answers[1], 0, np.int64).tolist() == list(range(8))

    with_bench(tmp_path, play)


def test_only_the_outputs_asked_for_are_sent(tmp_path: Path) -> None:
    async def play(bench: Bench) -> None:
        write_model(bench.repository, "m", BUCKETED)
        await bench.models.load("m")
        ids = np.arange(4)[None]
        request = bench.stage(("ids", ids), ("mask", ids), wanted=("mask2",))
        bench.runner.launch(bench.order(1, "m", [request], bucket="4"))
        (answer,) = await bench.answers(1)
        assert [t.name for t in answer.outputs.tensors] == ["mask2"]

    with_bench(tmp_path, play)


def test_a_launch_waits_for_memory_that_is_not_mapped_yet(tmp_path: Path) -> None:
    """An executor that was away is launched on as soon as it is back; its frontends may come a moment later."""

    async def play(bench: Bench) -> None:
        write_model(bench.repository, "m", IDENTITY)
        await bench.models.load("m")
        array = np.arange(16, dtype=np.float32)[None]
        header = types_pb2.TensorSet()
        header.tensors.add(name="INPUT0", datatype="FP32", shape=array.shape, byte_size=array.nbytes)
        head = header.SerializeToString()
        with Segment.create(tmp_path, 2**20) as segment:
            write_block(segment.view, 64, head, [array.tobytes()])
            order = bench.order(1, "m", [4 << 33 | 1], latest_start_ns=now_ns() + 10**10)
            tensors = order.requests[0].tensors
            tensors.segment, tensors.offset = segment.name, 64
            tensors.byte_size = aligned(4 + len(head)) + array.nbytes
            bench.runner.launch(order)
            await asyncio.sleep(0.02)
            assert bench.runner.busy
            bench.peer = bench.exchange.connect(
                pb.ExchangeHello(frontend_id=4, segment=segment.name, nonce=segment.nonce)
            )
            (answer,) = await bench.answers(1)
            assert output(answer).tolist() == array[0].tolist()

    with_bench(tmp_path, play)


def test_a_launch_waits_for_its_tensors_and_is_dropped_if_they_do_not_come(tmp_path: Path) -> None:
    async def play(bench: Bench) -> None:
        write_model(bench.repository, "m", IDENTITY)
        await bench.models.load("m")
        late = bench.order(1, "m", [3 << 33 | 1])
        bench.runner.launch(late)
        await asyncio.sleep(0.02)
        assert bench.stage(("INPUT0", np.ones((1, 16), np.float32))) == 3 << 33 | 1
        assert len(await bench.answers(1)) == 1
        never = bench.order(2, "m", [3 << 33 | 99], latest_start_ns=now_ns() + 30_000_000)
        bench.runner.launch(never)
        await asyncio.sleep(0.1)
        (dropped,) = bench.told("batch_dropped")
        assert dropped.reason == types_pb2.REJECT_REASON_INPUTS_MISSING
        assert list(dropped.missing_request_ids) == [3 << 33 | 99]
        assert not bench.runner.busy

    with_bench(tmp_path, play)


def test_a_launch_after_its_latest_start_is_dropped_and_one_before_its_earliest_waits(tmp_path: Path) -> None:
    async def play(bench: Bench) -> None:
        write_model(bench.repository, "m", IDENTITY)
        await bench.models.load("m")
        request = bench.stage(("INPUT0", np.ones((1, 16), np.float32)))
        bench.runner.launch(bench.order(1, "m", [request], latest_start_ns=now_ns() - 1))
        await asyncio.sleep(0.01)
        assert bench.told("batch_dropped")[0].reason == types_pb2.REJECT_REASON_WINDOW_PASSED
        earliest = now_ns() + 40_000_000
        bench.runner.launch(bench.order(2, "m", [request], earliest_start_ns=earliest))
        (answer,) = await bench.answers(1)
        assert answer.execution.started_ns >= earliest

    with_bench(tmp_path, play)


def test_the_same_order_twice_runs_once(tmp_path: Path) -> None:
    async def play(bench: Bench) -> None:
        write_model(bench.repository, "m", delayed(20))
        await bench.models.load("m")
        order = bench.order(1, "m", [bench.stage(("INPUT0", np.ones((1, 16), np.float32)))])
        bench.runner.launch(order)
        bench.runner.launch(order)
        await bench.answers(1)
        await asyncio.sleep(0.05)
        assert len(bench.told("batch_finished")) == 1

    with_bench(tmp_path, play)


def test_a_failing_batch_is_given_back_and_a_failing_request_is_answered(tmp_path: Path) -> None:
    async def play(bench: Bench) -> None:
        write_model(bench.repository, "m", delayed(1))
        await bench.models.load("m")

        def fail(inputs: Any) -> Any:
            raise RuntimeError("boom")

        setattr(bench.models.table["m", "1"].model, "run", fail)
        requests = [bench.stage(("INPUT0", np.ones((1, 16), np.float32))) for _ in range(2)]
        bench.runner.launch(bench.order(1, "m", requests))
        await asyncio.sleep(0.05)
        (dropped,) = bench.told("batch_dropped")
        assert dropped.reason == types_pb2.REJECT_REASON_EXECUTION_FAILED
        bench.runner.launch(bench.order(2, "m", requests[:1]))
        (answer,) = await bench.answers(1)
        assert answer.reason == types_pb2.REJECT_REASON_EXECUTION_FAILED
        assert answer.message == "Failed to process the request(s) for model 'm', message: boom"
        assert bench.told("batch_finished")[0].failed
        assert bench.device.timeline.running == 0

    with_bench(tmp_path, play)


def test_an_unknown_model_is_answered(tmp_path: Path) -> None:
    async def play(bench: Bench) -> None:
        request = bench.stage(("INPUT0", np.ones((1, 16), np.float32)))
        bench.runner.launch(bench.order(1, "ghost", [request]))
        (answer,) = await bench.answers(1)
        assert "not loaded" in answer.message

    with_bench(tmp_path, play)


# ---- memory and events


def test_outputs_in_shared_memory_are_freed_when_read_or_when_their_frontend_goes(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path, 2**20)
    frontend = Exchange(tmp_path, 2**20)  # only for its segment: a frontend's looks the same
    assert frontend.segment is not None
    hello = pb.ExchangeHello(frontend_id=3, segment=frontend.segment.name, nonce=frontend.segment.nonce)
    peer = exchange.connect(hello)
    answers = [pb.Answer(request_id=3 << 33 | i) for i in range(3)]
    for answer in answers:
        exchange.put_outputs(answer, [bytes(100_000)])
    assert all(answer.HasField("staged") for answer in answers)
    assert exchange.used_bytes == 3 * aligned(100_000)
    exchange.take(peer, pb.ExchangeRequest(releases=[pb.Release(offset=answers[0].staged.offset)] * 2))
    assert exchange.used_bytes == 2 * aligned(100_000)
    small = pb.Answer(request_id=3 << 33)
    exchange.put_outputs(small, [b"abc"])
    assert small.inline[:3] == b"abc"
    huge = pb.Answer(request_id=3 << 33)
    exchange.put_outputs(huge, [bytes(2 * 2**20)])
    assert len(huge.inline) == 2 * 2**20  # no room: it travels in the answer
    exchange.disconnect(peer)
    assert exchange.used_bytes == 0
    exchange.close()
    frontend.close()


def test_a_frontend_that_comes_back_replaces_its_older_stream(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path, 0)
    first: FrontendPeer = exchange.connect(pb.ExchangeHello(frontend_id=3))
    second = exchange.connect(pb.ExchangeHello(frontend_id=3))
    exchange.disconnect(first)
    assert exchange.peers == {3: second}
    exchange.close()


def test_events_are_kept_until_acknowledged_and_overflow_is_counted() -> None:
    buffer = Unacknowledged(limit=3)
    for sequence in range(1, 6):
        buffer.add(pb.ExecutorEvent(sequence=sequence))
    assert [event.sequence for event in buffer.all()] == [3, 4, 5]
    assert buffer.lost == 2
    buffer.acknowledge(4)
    assert [event.sequence for event in buffer.all()] == [5]
    buffer.acknowledge(99)
    assert len(buffer) == 0


def test_the_cpu_describes_itself() -> None:
    device = open_device("cpu", 0, concurrency=0, threads=1, seed=0)
    told = device.describe()
    assert told.kind == "cpu"
    assert told.max_concurrency >= 2
    assert told.memory_bytes > 2**28
    assert list(told.resources) == ["sm", "l2", "dram"]
    with pytest.raises(ValueError, match="there are cpu, cuda, emulated"):
        open_device("tpu", 0, concurrency=0, threads=1, seed=0)


def test_batches_on_a_cpu_wait_for_the_services_of_their_host(tmp_path: Path) -> None:
    device = open_device("cpu", 0, concurrency=1, threads=1, seed=0, cache=tmp_path)
    assert isinstance(device, ThreadedDevice)
    niceness = device._pool.submit(os.getpriority, os.PRIO_PROCESS, 0).result()
    # On Linux "0" is the calling thread.
    assert niceness == min(19, os.getpriority(os.PRIO_PROCESS, os.getpid()) + BATCH_NICE)
