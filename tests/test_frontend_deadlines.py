"""Budgets, refusals, priorities and explanations, from client to executor and back."""

import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from cotenant.frontend.checking import check
from cotenant.inference import inference_pb2 as pb
from frontend_requests import one_input, put_parameters, view
from frontend_requests import request as shaped_request
from frontend_stack import (
    RawClient,
    error_info,
    eventually,
    infer_request,
    lane,
    model_status,
    option,
    raw_client,
    running,
    vector,
)
from stacks import IDENTITY, StackThread, write_model

LONG_MS = 400
LATE = grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackThread]:
    folder = tmp_path_factory.mktemp("deadlines")
    repository = folder / "models"
    write_model(repository, "identity", IDENTITY)
    write_model(repository, "long", lane(LONG_MS))
    write_model(repository, "promised", lane(LONG_MS, option("slo_ms", "100")))
    write_model(repository, "lane", lane(60))
    made = StackThread(folder, repository)
    yield made
    made.close()


@pytest.fixture
def client(stack: StackThread) -> Iterator[RawClient]:
    with raw_client(stack) as made:
        yield made


def request(model: str, **parameters: Any) -> pb.ModelInferRequest:
    name = "INPUT0" if model == "identity" else "IN0"
    made = infer_request(model, **{name: vector()})
    put_parameters(made, parameters)
    return made


def refusal(client: RawClient, message: pb.ModelInferRequest, **more: Any) -> tuple[grpc.RpcError, float]:
    """The error of a request that is refused, and how long it took to come, in ms."""
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        client.ModelInfer(message, **more)
    return caught.value, (time.monotonic() - began) * 1e3


def test_a_timeout_that_cannot_be_kept_is_refused_at_once(client: RawClient) -> None:
    before = client.executions("long")
    error, took_ms = refusal(client, request("long", timeout=100_000))
    assert error.code() == LATE
    assert took_ms < LONG_MS / 2
    info = error_info(error)
    assert info.reason == "PREDICTED_MISS"
    assert info.metadata["model"] == "long"
    assert info.metadata["version"] == "1"
    assert int(info.metadata["request_id"]) > 0
    assert float(info.metadata["budget_ms"]) == 100
    assert LONG_MS <= float(info.metadata["predicted_finish_ms"]) < 3 * LONG_MS
    assert float(info.metadata["earliest_possible_ms"]) <= float(info.metadata["predicted_finish_ms"])
    assert "predicted to finish" in str(error.details())
    assert client.executions("long") == before


def test_a_grpc_deadline_is_a_budget(client: RawClient) -> None:
    error, took_ms = refusal(client, request("long"), timeout=0.3)
    assert error.code() == LATE
    info = error_info(error)  # the server's word, not the client's own at the end of the 300 ms
    assert info.reason == "PREDICTED_MISS"
    assert 0 < float(info.metadata["budget_ms"]) <= 300
    assert took_ms < 300


def test_the_models_slo_is_a_budget(client: RawClient) -> None:
    for more in ({}, {"timeout": 10_000_000}):  # asking for more than the SLO gains nothing
        error, _ = refusal(client, request("promised", **more), timeout=30)
        info = error_info(error)
        assert info.reason == "PREDICTED_MISS"
        assert float(info.metadata["budget_ms"]) == 100
    error, _ = refusal(client, request("promised", timeout=50_000), timeout=30)
    assert float(error_info(error).metadata["budget_ms"]) == 50


def test_what_has_time_is_answered(client: RawClient) -> None:
    answer = client.ModelInfer(request("long", timeout=20_000_000), timeout=30)
    assert answer.raw_output_contents[0] == vector().tobytes()


def test_what_cannot_be_done_in_time_behind_others_never_runs(client: RawClient) -> None:
    before = client.executions("lane")
    sent = [client.ModelInfer.future(request("lane", timeout=250_000), timeout=30) for _ in range(12)]
    errors = [error for call in sent if (error := call.exception())]
    answered = len(sent) - len(errors)
    assert 1 <= answered <= 4  # 60 ms each, one after another
    for error in errors:
        assert error.code() == LATE
        assert error_info(error).reason in ("PREDICTED_MISS", "EXPIRED_IN_QUEUE", "WINDOW_PASSED")
    assert client.executions("lane") - before == answered


def test_what_became_late_in_the_queue_is_told_so_and_never_runs(stack: StackThread, client: RawClient) -> None:
    before = client.executions("long")
    blocker = client.ModelInfer.future(request("long"), timeout=30)
    eventually(lambda: running(stack) == 1, "the blocker runs")
    hopeful = client.ModelInfer.future(request("long", timeout=1_500_000), timeout=30)  # could end after 800 ms
    eventually(lambda: model_status(stack, "long").queued == 1, "it waits")
    # Without deadlines of their own: with one, they would be refused for making an admitted request late.
    overtaking = [client.ModelInfer.future(request("long", priority=1)) for _ in range(3)]
    error = hopeful.exception()
    assert error.code() == LATE
    info = error_info(error)
    assert info.reason == "EXPIRED_IN_QUEUE"
    assert float(info.metadata["predicted_finish_ms"]) > 1500
    for call in (blocker, *overtaking):
        assert call.result().raw_output_contents
    assert client.executions("long") - before == 4


def test_priority_one_overtakes_what_waits(stack: StackThread, client: RawClient) -> None:
    blocker = client.ModelInfer.future(request("lane", cotenant_explain=True), timeout=30)
    eventually(lambda: running(stack) == 1, "the blocker runs")
    patient = [client.ModelInfer.future(request("lane", cotenant_explain=True), timeout=30) for _ in range(5)]
    urgent = client.ModelInfer.future(request("lane", priority=1, cotenant_explain=True), timeout=30)
    eventually(lambda: urgent.done() or model_status(stack, "lane").queued, "they wait")
    order = {name: batch_of(call) for name, call in {"urgent": urgent, "blocker": blocker}.items()}
    after = [batch_of(call) for call in patient]
    assert order["blocker"] < order["urgent"]
    assert sum(batch < order["urgent"] for batch in after) <= 1  # at most one had been launched before it came


def batch_of(call: Any) -> int:
    number: int = call.result().parameters["cotenant_batch_id"].int64_param
    return number


def test_an_explanation_accounts_for_the_time(client: RawClient) -> None:
    began = time.monotonic_ns()
    answer = client.ModelInfer(request("lane", cotenant_explain=True, timeout=5_000_000), timeout=30)
    took_ns = time.monotonic_ns() - began
    told = {key: p.int64_param for key, p in answer.parameters.items() if p.HasField("int64_param")}
    steps = sum(told[f"cotenant_{step}_ns"] for step in ("queue", "input", "execution", "output"))
    assert 0 < steps <= told["cotenant_total_ns"] <= took_ns
    assert told["cotenant_execution_ns"] >= 60e6
    assert told["cotenant_work_ns"] >= 60e6
    assert told["cotenant_predicted_execution_ns"] >= told["cotenant_work_ns"]
    assert told["cotenant_predicted_bound_ns"] >= told["cotenant_predicted_execution_ns"]
    assert told["cotenant_budget_ns"] == 5_000_000_000
    assert told["cotenant_batch_size"] == 1
    assert answer.parameters["cotenant_co_runners"].string_param == ""
    assert answer.parameters["cotenant_mean_co_runners"].double_param == 0


def test_an_explanation_names_the_co_runners(stack: StackThread, client: RawClient) -> None:
    beside = client.ModelInfer.future(request("long"), timeout=30)
    eventually(lambda: running(stack) == 1, "the other runs")
    answer = client.ModelInfer(request("lane", cotenant_explain=True), timeout=30)
    told = answer.parameters["cotenant_co_runners"].string_param
    mean = answer.parameters["cotenant_mean_co_runners"].double_param
    beside.result()
    assert told.startswith("long:1 x1 for ")
    assert 0 < mean <= 1
    for_ns = int(told.split()[-2])
    assert 0 < for_ns <= answer.parameters["cotenant_execution_ns"].int64_param


def test_nothing_is_explained_unasked(client: RawClient) -> None:
    assert not client.ModelInfer(request("identity"), timeout=30).parameters
    assert not client.ModelInfer(request("identity", cotenant_explain=False), timeout=30).parameters


def test_observe_only_lets_through_and_records(tmp_path: Any) -> None:
    write_model(tmp_path / "models", "promised", lane(150, option("slo_ms", "50")))
    made = StackThread(tmp_path, tmp_path / "models", observe_only=True)
    try:
        with raw_client(made) as client:
            for _ in range(3):
                assert client.ModelInfer(request("promised"), timeout=30).raw_output_contents
            assert client.ModelInfer(request("promised", timeout=1000), timeout=30).raw_output_contents
            assert client.executions("promised") == 4
        eventually(lambda: model_status(made, "promised").late == 4, "four late answers are reported")
        row = model_status(made, "promised")
        assert (row.would_refuse, row.refused, row.in_time) == (4, 0, 0)
    finally:
        made.close()


# ---- queue policies


@pytest.mark.parametrize(
    ("asked", "budget_ms"),
    [
        ({}, 40),
        ({"priority": 1}, 10),
        ({"priority": 2}, 0),  # delays, and refuses nothing
        ({"priority": 3}, 40),
        ({"timeout": 7000}, 7),
        ({"timeout": 70_000, "priority": 1}, 70),
        ({"timeout": 0}, 40),
    ],
)
def test_a_queue_policys_timeout_is_the_budget_of_who_names_none(asked: dict[str, int], budget_ms: int) -> None:
    policies = """
    dynamic_batching {
      priority_levels: 3 default_priority_level: 3
      default_queue_policy { default_timeout_microseconds: 40000 }
      priority_queue_policy { key: 1 value { default_timeout_microseconds: 10000 } }
      priority_queue_policy { key: 2 value { timeout_action: DELAY default_timeout_microseconds: 10000 } }
    }"""
    model = view(one_input("FP32", [2], max_batch_size=4, more=policies))
    assert (
        check(shaped_request(shape=(1, 2), raw=bytes(8), parameters=asked), model, None).budget_ns == budget_ms * 10**6
    )
