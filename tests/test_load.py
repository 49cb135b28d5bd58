"""The load generator: when it sends, what it sends, and what it says became of it."""

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import msgspec
import numpy as np
import pytest

from cotenant.cli import load, load_arrivals, load_inputs, load_options, load_result
from cotenant.cli.load_client import Answer, Outcome
from cotenant.cli.load_run import Plan, Run
from cotenant.cli.load_table import attainment_text
from cotenant.inference import inference_pb2 as pb
from stacks import IDENTITY, StackThread, delayed, write_model

TYPED = """
backend: "identity"
max_batch_size: 4
input [
  %s
]
output [
  %s
]
parameters { key: "shape_buckets" value { string_value: "4,8" } }
"""
TYPES = (
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "BF16",
    "FP32",
    "FP64",
)


# ---- when ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 3.0])
def test_arrivals_have_the_rate_and_the_variation_asked_for(cv: float) -> None:
    at_s = load_arrivals.renewal_s(load_arrivals.generator(1, "x"), 200.0, cv, 500.0)
    assert len(at_s) == pytest.approx(100_000, rel=0.03)
    gaps = np.diff(at_s)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05, abs=1e-6)
    assert (gaps >= 0).all()
    assert at_s[0] >= 0
    assert at_s[-1] < 500.0


def test_a_bursty_process_has_as_many_arrivals_at_its_start_as_later() -> None:
    counts = np.zeros(2)
    for seed in range(400):
        at_s = load_arrivals.renewal_s(load_arrivals.generator(seed, "x"), 20.0, 4.0, 2.0)
        counts += [(at_s < 1.0).sum(), (at_s >= 1.0).sum()]
    assert counts[0] == pytest.approx(counts[1], rel=0.1)


def test_a_seed_gives_the_same_arrivals_again_and_another_seed_others() -> None:
    one = load_arrivals.drawn(["a", "b"], [50.0, 20.0], 2.0, 10.0, seed=7)
    again = load_arrivals.drawn(["a", "b"], [50.0, 20.0], 2.0, 10.0, seed=7)
    other = load_arrivals.drawn(["a", "b"], [50.0, 20.0], 2.0, 10.0, seed=8)
    assert one.at_ns.tolist() == again.at_ns.tolist()
    assert one.model.tolist() == again.model.tolist()
    assert one.at_ns.tolist() != other.at_ns.tolist()
    assert one.at_ns.tolist() == sorted(one.at_ns.tolist())


def test_another_model_leaves_the_arrivals_of_the_first_alone() -> None:
    alone = load_arrivals.drawn(["a"], [50.0], 1.0, 10.0, seed=7)
    both = load_arrivals.drawn(["b", "a"], [80.0, 50.0], 1.0, 10.0, seed=7)
    assert both.at_ns[both.model == 1].tolist() == alone.at_ns.tolist()


@pytest.mark.parametrize(
    "text",
    [
        "10.0,a\n10.5,b\n\n12,a\n",
        "seconds,model\n10.0,a\n# a remark\n10.5,b\n12,a\n",
        '{"seconds": 10.0, "model": "a"}\n{"seconds": 10.5, "model": "b"}\n{"model": "a", "seconds": 12}\n',
        "12,a\n10.5,b\n10.0,a",  # in any order
    ],
)
def test_a_trace_may_be_csv_or_json_lines(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace"
    path.write_text(text, encoding="utf-8")
    found = load_arrivals.traced(path, ["a", "b"], speed=2.0)
    assert found.at_ns.tolist() == [0, 250_000_000, 1_000_000_000]
    assert found.model.tolist() == [0, 1, 0]


def test_a_trace_of_one_model_needs_no_names(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text("0.5\n0.75\n", encoding="utf-8")
    assert load_arrivals.traced(path, ["a"]).at_ns.tolist() == [0, 250_000_000]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1.0,a\nsoon,a\n", "line 2: 'soon,a' is no arrival, expected seconds"),
        ("1.0,c\n", "line 1: model 'c' is not loaded, expected a, b"),
        ("1.0\n", "line 1: it names no model, and there are several: a, b"),
        ('{"at": 1}\n', "line 1: '{\"at\": 1}' is no arrival"),
        ("inf,a\n", "line 1: inf is no instant"),
        ("seconds,model\n", "there is no arrival in it"),
    ],
)
def test_a_bad_trace_is_told_by_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "trace"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(complaint)):
        load_arrivals.traced(path, ["a", "b"])


@pytest.mark.parametrize(
    ("flag", "complaint"),
    [
        ("a:rat=3", "model 'a': there is no key 'rat', expected version, rate"),
        ("a:rate=fast", "model 'a': rate is 'fast', expected a number"),
        ("a:batch=0", "model 'a': batch is 0, which is out of range"),
        (":rate=1", "':rate=1' has no name"),
    ],
)
def test_a_bad_model_flag_names_the_key(capsys: pytest.CaptureFixture[str], flag: str, complaint: str) -> None:
    with pytest.raises(SystemExit) as ended:
        load_options.options(["--model", flag])
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_models_of_a_repository_are_loaded_unless_named(tmp_path: Path) -> None:
    write_model(tmp_path, "one", IDENTITY)
    write_model(tmp_path, "two", IDENTITY)
    (tmp_path / "notes").mkdir()
    found = load_options.options(["--models-from", str(tmp_path), "--model", "two:rate=3", "--rate", "7"])
    assert [(m.name, m.rate) for m in found.models] == [("two", 3.0), ("one", None)]
    assert found.samples == tmp_path


# ---- the open loop -------------------------------------------------------------------------------------------------


class Instant:
    """A client that answers at once, and once keeps the whole event loop busy for so long."""

    def __init__(self, block_at: int, block_s: float) -> None:
        self.block_at, self.block_s = block_at, block_s
        self.sent_ns: list[int] = []

    async def infer(self, prepared: Any, deadline_s: float | None) -> Answer:
        self.sent_ns.append(time.monotonic_ns())
        if prepared == self.block_at:
            time.sleep(self.block_s)  # noqa: ASYNC251 (the very point: a sender that cannot keep up)
        return Answer()

    async def describe(self, load: Any) -> Any: ...
    async def ready(self, load: Any) -> bool:
        return True

    def prepare(self, load: Any, model: Any, tensors: Any, *, explain: bool) -> Any: ...
    async def close(self) -> None: ...


def test_a_sender_that_was_late_neither_skips_nor_shifts_what_follows() -> None:
    at_ns = [i * 5_000_000 for i in range(200)]  # one each 5 ms for a second
    client = Instant(block_at=40, block_s=0.3)
    plan = Plan(at_ns, [0] * 200, list(range(200)), [100_000_000], [0], 0)
    run = Run(plan, client)
    asyncio.run(run.carry_out(1.0))
    assert len(client.sent_ns) == 200
    lags = np.array(run.lag_ns) / 1e6
    # Those meant to go out while the loop was blocked went late by what remained of it, and say so.
    for i in range(42, 98):
        assert lags[i] >= 300 - 5 * (i - 40) - 5
    assert np.median(lags[120:]) < 50  # the others were not moved
    latencies = np.array(run.latency_ns) / 1e6
    assert (latencies >= lags).all()
    assert run.outcome[60] == Outcome.LATE  # by the sender, yet counted: it was meant to go out earlier


class StallingServer:
    """Speaks enough of the protocol to be loaded; from `stall()` on it holds all answers until `resume()`."""

    def __init__(self) -> None:
        self.received_ns: list[int] = []
        self.free = threading.Event()
        self.free.set()
        config = pb.ModelConfigResponse()
        config.config.name, config.config.max_batch_size = "m", 8
        config.config.input.add(name="x", data_type=pb.TYPE_FP32, dims=[2])
        answers: dict[str, Any] = {
            "ModelReady": pb.ModelReadyResponse(ready=True),
            "ModelConfig": config,
            "ModelInfer": pb.ModelInferResponse(model_name="m"),
        }
        self._server = grpc.server(futures.ThreadPoolExecutor(200))
        handlers = {name: self._handler(name, message.SerializeToString()) for name, message in answers.items()}
        generic = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)
        self._server.add_generic_rpc_handlers((generic,))
        self.url = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _handler(self, name: str, answer: bytes) -> Any:
        def behaviour(request: bytes, context: Any) -> bytes:
            if name == "ModelInfer":
                self.received_ns.append(time.monotonic_ns())
                if len(self.received_ns) == 50:
                    self.free.clear()
                    threading.Timer(0.5, self.free.set).start()
                self.free.wait()
            return answer

        return grpc.unary_unary_rpc_method_handler(behaviour)

    def close(self) -> None:
        self._server.stop(None)


def test_a_server_that_stalls_is_charged_for_everyone_who_came_meanwhile(tmp_path: Path) -> None:
    server = StallingServer()
    try:
        flags = ["--url", server.url, "--model", "m:rate=100,slo_ms=100", "--cv", "0", "--duration-s", "2"]
        result = asyncio.run(load.carry_out(load_options.options([*flags, "--warmup-s", "0"])))
    finally:
        server.close()
    rows = result.requests
    assert len(server.received_ns) == len(rows.at_us) == 200
    latency_ms, at_ms = np.array(rows.latency_us) / 1e3, np.array(rows.at_us) / 1e3
    stall_ms = (sorted(server.received_ns)[49] - result.started_monotonic_ns) / 1e6
    received_ms = (np.array(server.received_ns) - result.started_monotonic_ns) / 1e6
    assert ((received_ms > stall_ms + 5) & (received_ms < stall_ms + 480)).sum() > 35  # sent while nobody was answered
    during = (at_ms > stall_ms + 5) & (at_ms < stall_ms + 380)
    assert during.sum() > 30
    # Each that was meant to be sent in the stall took at least what was left of its 500 ms.
    assert (latency_ms[during] >= 500 - (at_ms[during] - stall_ms) - 5).all()
    assert result.total.late >= during.sum()


# ---- a real stack --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackThread]:
    folder = tmp_path_factory.mktemp("load")
    repository = folder / "models"
    write_model(repository, "identity", IDENTITY)
    write_model(repository, "slow", delayed(20, slo_ms=200))
    tensors = [f'{{ name: "%s_{t}" data_type: TYPE_{t} dims: [ 3, -1 ] }}' for t in (*TYPES, "STRING")]
    typed = TYPED % (",\n  ".join(t % "IN" for t in tensors), ",\n  ".join(t % "OUT" for t in tensors))
    write_model(repository, "typed", typed)
    running = StackThread(folder, repository)
    yield running
    running.close()


def loaded(stack: StackThread, *flags: str, path: Path) -> dict[str, Any]:
    """Runs the command and reads what it wrote."""
    output = path / "load.json"
    assert load.main(["--url", stack.url, "--json", str(output), "--no-table", "--warmup-s", "0.2", *flags]) == 0
    found: dict[str, Any] = json.loads(output.read_bytes())
    return found


def save(folder: Path, arrays: dict[str, Any]) -> None:
    np.savez(folder / "samples.npz", **arrays)


CLIENTS = pytest.mark.parametrize("client", ["grpc", "tritonclient"])


@CLIENTS
def test_outcomes_are_told_apart(stack: StackThread, tmp_path: Path, client: str) -> None:
    """Too little time is a refusal with its reason; an SLO only the client knows of makes answers late."""
    short = ("--client", client, "--duration-s", "0.6", "--rate", "20", "--cv", "0")
    fine = loaded(stack, *short, "--model", "slow", path=tmp_path)["total"]
    assert fine["in_time"] + fine["late"] == fine["offered"] > 5
    assert fine["in_time"] > fine["late"]
    refused = loaded(stack, *short, "--model", "slow:slo_ms=5", path=tmp_path)["total"]
    assert refused["refused"] == refused["offered"]
    assert refused["reasons"] == {"PREDICTED_MISS": refused["offered"]}
    late = loaded(stack, *short, "--model", "slow:slo_ms=5,timeout_ms=0", path=tmp_path)["total"]
    assert late["late"] == late["offered"]
    assert late["latency"]["p50_ms"] > 20


@CLIENTS
def test_failures_and_cancellations_are_told_apart(stack: StackThread, tmp_path: Path, client: str) -> None:
    samples = tmp_path / "samples" / "identity"
    samples.mkdir(parents=True)
    save(samples, {"INPUT0.0": np.zeros(5, np.float32)})  # the model takes 16
    flags = ("--client", client, "--duration-s", "0.5", "--rate", "20", "--cv", "0")
    failed = loaded(stack, *flags, "--model", "identity", "--samples", str(samples.parent), path=tmp_path)["total"]
    assert failed["statuses"] == {"INVALID_ARGUMENT": failed["offered"]}
    assert failed["failed"] == failed["offered"] > 5
    cancelled = loaded(stack, *flags, "--model", "slow:rate=60", "--drain-s", "0", path=tmp_path)["total"]
    assert cancelled["cancelled"] >= 1
    assert cancelled["cancelled"] + cancelled["in_time"] + cancelled["late"] == cancelled["offered"]


@CLIENTS
def test_explanations_come_back_for_the_share_asked_for(stack: StackThread, tmp_path: Path, client: str) -> None:
    flags = ("--client", client, "--duration-s", "1", "--model", "slow:rate=60")
    found = loaded(stack, *flags, "--explain", "0.5", path=tmp_path)
    told, answered = found["requests"]["explained"], found["total"]["in_time"] + found["total"]["late"]
    assert 0.2 * answered < len(told["index"]) < 0.8 * answered
    assert min(told["execution_us"]) > 19_000
    assert max(told["work_us"]) < 40_000
    assert min(told["request_id"]) > 0
    assert len(set(told["request_id"])) == len(told["index"])
    forecasts = found["total"]["forecasts"]
    assert forecasts["requests"] == len(told["index"])
    assert forecasts["measured_ms"] == pytest.approx(float(np.median(told["execution_us"])) / 1e3)
    assert loaded(stack, *flags, path=tmp_path)["total"]["forecasts"] is None


@CLIENTS
def test_contents_are_made_up_for_every_datatype(stack: StackThread, tmp_path: Path, client: str) -> None:
    found = loaded(stack, "--client", client, "--duration-s", "0.5", "--model", "typed:rate=20,batch=3", path=tmp_path)
    assert found["total"]["in_time"] == found["total"]["offered"] > 3, found["total"]
    assert found["configuration"]["models"][0]["inputs"] == "256 different requests made up"


def test_both_clients_give_a_result_of_the_same_shape(stack: StackThread, tmp_path: Path) -> None:
    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shape(v) for key, v in value.items() if key not in ("reasons", "statuses", "environment")}
        return type(value).__name__

    flags = ("--duration-s", "0.5", "--model", "slow:rate=30", "--explain", "1", "--seed", "4")
    one, other = (loaded(stack, *flags, "--client", c, path=tmp_path) for c in ("grpc", "tritonclient"))
    assert shape(one) == shape(other)
    assert one["requests"]["at_us"] == other["requests"]["at_us"]


def test_the_result_is_consistent_with_its_rows(stack: StackThread, tmp_path: Path) -> None:
    flags = ("--model", "identity:rate=80,slo_ms=50", "--model", "slow:rate=60,slo_ms=45", "--explain", "1")
    loaded(stack, *flags, "--duration-s", "1.5", path=tmp_path)
    result = load_result.read(tmp_path / "load.json")
    rows = result.requests
    columns = (rows.model, rows.at_us, rows.lag_us, rows.latency_us, rows.outcome, rows.detail)
    assert {len(column) for column in columns} == {result.total.offered}
    assert rows.at_us == sorted(rows.at_us)
    assert rows.at_us[0] >= 0
    assert rows.at_us[-1] < 1_500_000
    for number, model in enumerate(result.models):
        own = [i for i, m in enumerate(rows.model) if m == number]
        counts = [sum(rows.outcome[i] == outcome for i in own) for outcome in range(5)]
        assert counts == [model.in_time, model.late, model.refused, model.failed, model.cancelled]
        answered = [rows.latency_us[i] / 1e3 for i in own if rows.outcome[i] <= Outcome.LATE]
        assert model.latency is not None
        assert model.latency.p99_ms == pytest.approx(np.percentile(answered, 99), rel=1e-4)
        assert model.attainment == model.in_time / len(own)
        assert model.goodput == model.in_time / 1.5
        in_time = [rows.latency_us[i] / 1e3 for i in own if rows.outcome[i] == Outcome.IN_TIME]
        assert max(in_time, default=0.0) <= model.slo_ms  # a busy machine may miss all of them
    for i, m in enumerate(rows.outcome):
        assert (rows.latency_us[i] >= 0) == (m <= Outcome.LATE)


def test_the_same_seed_sends_the_same_load(stack: StackThread, tmp_path: Path) -> None:
    flags = ("--model", "identity:rate=100", "--cv", "2", "--duration-s", "0.5", "--seed", "11")
    one, again = (loaded(stack, *flags, path=tmp_path)["requests"]["at_us"] for _ in range(2))
    assert one == again


def test_a_trace_is_replayed_whole(stack: StackThread, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("seconds,model\n" + "".join(f"{i / 20},identity\n" for i in range(12)) + "0.3,slow\n")
    models = ("--model", "identity", "--model", "slow")
    found = loaded(stack, *models, "--trace", str(trace), "--warmup-s", "0", path=tmp_path)
    assert [m["offered"] for m in found["models"]] == [12, 1]


def test_what_cannot_be_loaded_is_told_in_words(stack: StackThread, capsys: pytest.CaptureFixture[str]) -> None:
    assert load.main(["--url", stack.url, "--wait-s", "0.2", "--model", "nobody"]) == 1
    assert "does not serve 'nobody'" in capsys.readouterr().err
    assert load.main(["--url", stack.url, "--model", "slow:batch=99"]) == 1
    assert "model 'slow': batch is 99, but it takes up to 8" in capsys.readouterr().err


def test_samples_that_do_not_fit_are_told_by_array(tmp_path: Path) -> None:
    model = load_inputs.Model("m", (load_inputs.Input("x", "FP32", (2,)),), True, 8, 0.0)
    folder = tmp_path / "m"
    folder.mkdir()
    save(folder, {"x.0": np.zeros(2)})
    with pytest.raises(ValueError, match=r"x\.0 is float64, but model 'm' takes float32"):
        load_inputs.read_samples(model, tmp_path)
    save(folder, {"y.0": np.zeros(2)})
    with pytest.raises(ValueError, match=r"there is no array named <input>\.<number>"):
        load_inputs.read_samples(model, tmp_path)


def test_samples_of_one_shape_are_batched_together(tmp_path: Path) -> None:
    model = load_inputs.Model("m", (load_inputs.Input("x", "INT64", (-1,)),), True, 8, 0.0, (4, 8))
    folder = tmp_path / "m"
    folder.mkdir()
    save(folder, {f"x.{i}": np.full(3 + i % 2, i) for i in range(6)} | {"group.0": np.array(1)})
    found = load_inputs.requests(model, 4, tmp_path, seed=0)
    assert sorted(r["x"].shape for r in found) == [(4, 3)] * 3 + [(4, 4)] * 3
    assert sorted(int(r["x"][0, 0]) for r in found) == list(range(6))  # each leads a batch once


def test_every_field_of_the_result_is_documented() -> None:
    text = (Path(__file__).parent.parent / "docs" / "load.md").read_text(encoding="utf-8")
    types = [v for v in vars(load_result).values() if isinstance(v, type) and issubclass(v, msgspec.Struct)]
    fields = {f.name for t in types if t is not msgspec.Struct for f in msgspec.structs.fields(t)}
    assert len(fields) > 50
    assert not [name for name in sorted(fields) if f"`{name}`" not in text]


@pytest.mark.parametrize(
    ("share", "text"),
    [(None, "-"), (1.0, "100%"), (0.99997, "99.9%"), (0.5, "50.0%"), (0.0, "0.0%")],
)
def test_attainment_is_never_told_better_than_it_was(share: float | None, text: str) -> None:
    assert attainment_text(share) == text
