"""Sequences and ensembles, live: state goes from request to request, tensors from step to step, one deadline holds."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

from cotenant.inference import inference_pb2 as pb
from frontend_requests import put_parameters
from frontend_stack import RawClient, error_info, infer_request, lane, raw_client, tensor
from stacks import StackThread, write_model
from stateful_models import write_stateful


def _lane_step(version: int, source: str, target: str) -> str:
    maps = f'input_map [{{ key: "IN0" value: "{source}" }}] output_map [{{ key: "OUT0" value: "{target}" }}]'
    return f'{{ model_name: "lane" model_version: {version} {maps} }}'


SLOW_PAIR = f"""
platform: "ensemble" max_batch_size: 1
input [{tensor("X", "FP32", [16])}] output [{tensor("Y", "FP32", [16])}]
ensemble_scheduling {{ step [{_lane_step(-1, "X", "M")}, {_lane_step(1, "M", "Y")}] }}
"""
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackThread]:
    folder = tmp_path_factory.mktemp("stateful")
    write_stateful(folder / "models")
    write_model(folder / "models", "lane", lane(100))
    write_model(folder / "models", "slow_pair", SLOW_PAIR)
    for name, old, new in (
        ("circle", _lane_step(-1, "X", "M"), _lane_step(-1, "Y", "M")),
        ("nothing_makes", _lane_step(1, "M", "Y"), _lane_step(1, "Z", "Y")),
    ):
        write_model(folder / "models", name, SLOW_PAIR.replace(old, new))
    made = StackThread(folder, folder / "models")
    yield made
    made.close()


@pytest.fixture
def raw(stack: StackThread) -> Iterator[RawClient]:
    with raw_client(stack) as made:
        yield made


def part(value: float, sequence: int | str, **flags: bool) -> pb.ModelInferRequest:
    """A request of a sequence."""
    request = infer_request("running_sum", INPUT=np.full((1, 1), value, np.float32))
    put_parameters(request, {"sequence_id": sequence, **{f"sequence_{key}": flag for key, flag in flags.items()}})
    return request


def told(answer: pb.ModelInferResponse) -> dict[str, float]:
    kinds = {"FP32": np.float32, "INT64": np.int64}
    pairs = zip(answer.outputs, answer.raw_output_contents, strict=True)
    return {o.name: float(np.frombuffer(content, kinds[o.datatype])[0]) for o, content in pairs}


def refusal(call: Any, *arguments: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, timeout=20)
    return caught.value.code(), str(caught.value.details())


# ---- sequences


def test_state_and_controls_go_from_request_to_request(raw: RawClient) -> None:
    assert told(raw.ModelInfer(part(1, 7, start=True))) == {"OUTPUT": 1, "WHO": 7}
    assert told(raw.ModelInfer(part(10, 8, start=True))) == {"OUTPUT": 10, "WHO": 8}
    assert told(raw.ModelInfer(part(2, 7))) == {"OUTPUT": 3, "WHO": 7}
    assert told(raw.ModelInfer(part(20, 8))) == {"OUTPUT": 30, "WHO": 8}
    assert told(raw.ModelInfer(part(3, 7, end=True))) == {"OUTPUT": 6, "WHO": -7}
    assert told(raw.ModelInfer(part(5, 7, start=True, end=True))) == {"OUTPUT": 5, "WHO": -7}
    assert told(raw.ModelInfer(part(30, 8, end=True))) == {"OUTPUT": 60, "WHO": -8}


def test_tenants_with_the_same_correlation_id_do_not_meet(raw: RawClient) -> None:
    ours, theirs = (("cotenant-tenant", "ours"),), (("cotenant-tenant", "theirs"),)
    assert told(raw.ModelInfer(part(1, 70, start=True), metadata=ours))["OUTPUT"] == 1
    status, _ = refusal(lambda *a, **k: raw.ModelInfer(*a, metadata=theirs, **k), part(2, 70))
    assert status == grpc.StatusCode.INVALID_ARGUMENT
    assert told(raw.ModelInfer(part(5, 70, start=True), metadata=theirs))["OUTPUT"] == 5
    assert told(raw.ModelInfer(part(2, 70, end=True), metadata=ours))["OUTPUT"] == 3


def test_what_clients_see_of_a_stateful_model(raw: RawClient) -> None:
    metadata = raw.ModelMetadata(pb.ModelMetadataRequest(name="running_sum"))
    assert [t.name for t in metadata.inputs] == ["INPUT"]
    assert [t.name for t in metadata.outputs] == ["OUTPUT", "WHO"]
    config = raw.ModelConfig(pb.ModelConfigRequest(name="running_sum")).config
    assert [t.name for t in (*config.input, *config.output)] == ["INPUT", "OUTPUT", "WHO"]
    asked = part(4, 9, start=True, end=True)
    asked.outputs.add(name="OUTPUT")
    assert told(raw.ModelInfer(asked)) == {"OUTPUT": 4}
    asked.outputs.add(name="STATE_OUT")
    assert refusal(raw.ModelInfer, asked)[1] == "unexpected inference output 'STATE_OUT' for model 'running_sum'"


def test_requests_that_belong_to_no_sequence(raw: RawClient) -> None:
    head, model = "inference request", "to model 'running_sum' must specify"
    no_id = (INVALID, f"{head} {model} a non-zero or non-empty correlation ID")
    for nothing in (0, ""):
        assert refusal(raw.ModelInfer, part(1, nothing, start=True)) == no_id
    no_start = f"{head} for sequence 77 {model} the START flag on the first request of the sequence"
    assert refusal(raw.ModelInfer, part(1, 77)) == (INVALID, no_start)
    raw.ModelInfer(part(1, 77, start=True, end=True))
    assert refusal(raw.ModelInfer, part(1, 77)) == (INVALID, no_start)
    both = infer_request("running_sum", INPUT=np.ones((2, 1), np.float32))
    put_parameters(both, {"sequence_id": 5, "sequence_start": True})
    assert "batch-size 1 due to requirements of sequence batcher" in refusal(raw.ModelInfer, both)[1]
    assert "does not fit the model's type INT64" in refusal(raw.ModelInfer, part(1, "word", start=True))[1]


def test_many_sequences_at_once_keep_their_order_and_share_batches(stack: StackThread, raw: RawClient) -> None:
    before = raw.executions("running_sum")

    async def run() -> None:
        async with triton_aio.InferenceServerClient(stack.url) as client:

            async def parts(number: int) -> AsyncIterator[dict[str, Any]]:
                for i in range(10):  # all at once: their order is that of the stream
                    x = triton_aio.InferInput("INPUT", [1, 1], "FP32")
                    x.set_data_from_numpy(np.full((1, 1), number + i, np.float32))
                    flags = {"sequence_id": number, "sequence_start": i == 0, "sequence_end": i == 9}
                    yield {"model_name": "running_sum", "inputs": [x], **flags}

            async def one(number: int) -> None:
                total = 0
                answers = client.stream_infer(parts(number))
                for i in range(10):
                    result, error = await anext(answers)
                    assert error is None
                    total += number + i
                    assert float(result.as_numpy("OUTPUT")[0, 0]) == total

            await asyncio.gather(*(one(number) for number in range(1, 17)))

    asyncio.run(run())
    assert raw.executions("running_sum") - before < 160


# ---- ensembles


def test_an_ensemble_hands_tensors_from_step_to_step(stack: StackThread, raw: RawClient) -> None:
    x = np.arange(48, dtype=np.int32).reshape(3, 16)
    with triton.InferenceServerClient(stack.url) as client:
        tensor_in = triton.InferInput("X", [3, 16], "INT32")
        tensor_in.set_data_from_numpy(x)
        result = client.infer("doubling", [tensor_in], request_id="e")
        np.testing.assert_array_equal(result.as_numpy("DOUBLED"), x + x)
        np.testing.assert_array_equal(result.as_numpy("SAME"), x)
        assert result.get_response().id == "e"
        top = client.infer("doubling", [tensor_in], outputs=[triton.InferRequestedOutput("DOUBLED", class_count=1)])
        assert [str(text) for text in top.as_numpy("DOUBLED").ravel()] == ["b'30:15'", "b'62:15'", "b'94:15'"]
        assert client.get_model_metadata("doubling").platform == "ensemble"
    (row,) = raw.ModelStatistics(pb.ModelStatisticsRequest(name="doubling")).model_stats
    assert (row.inference_stats.success.count, row.inference_count, row.execution_count) == (2, 6, 2)


def test_only_the_steps_that_are_needed_run(raw: RawClient) -> None:
    before = raw.inferences("add_sub")
    request = infer_request("doubling", X=np.ones((1, 16), np.int32))
    request.outputs.add(name="DOUBLED")
    raw.ModelInfer(request, timeout=20)
    assert raw.inferences("add_sub") - before == 1


def test_one_deadline_holds_for_all_steps(raw: RawClient) -> None:
    x = np.ones((1, 16), np.float32)
    raw.ModelInfer(infer_request("slow_pair", X=x), timeout=20)  # twice 100 ms
    late = infer_request("slow_pair", X=x)
    put_parameters(late, {"timeout": 150_000})
    with pytest.raises(grpc.RpcError) as caught:
        raw.ModelInfer(late, timeout=20)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert str(caught.value.details()).startswith("in ensemble 'slow_pair', ")
    assert error_info(caught.value).metadata["model"] == "lane"


def test_errors_of_an_ensemble(raw: RawClient) -> None:
    wrong = infer_request("doubling", X=np.ones((1, 15), np.int32))
    assert refusal(raw.ModelInfer, wrong)[0] == INVALID
    assert raw.ModelReady(pb.ModelReadyRequest(name="doubling")).ready
    raw.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="add_sub"), timeout=20)
    assert not raw.ModelReady(pb.ModelReadyRequest(name="doubling")).ready
    gone = refusal(raw.ModelInfer, infer_request("doubling", X=np.ones((1, 16), np.int32)))
    assert gone == (NOT_FOUND, "in ensemble 'doubling', Request for unknown model: 'add_sub' has no available versions")
    raw.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="add_sub"), timeout=60)
    raw.ModelInfer(infer_request("doubling", X=np.ones((1, 16), np.int32)), timeout=20)


@pytest.mark.parametrize(
    ("name", "why"),
    [("circle", "steps wait for each other in a circle"), ("nothing_makes", "nothing makes tensor 'Z'")],
)
def test_ensembles_that_make_no_sense_are_refused_at_load(raw: RawClient, name: str, why: str) -> None:
    code, message = refusal(raw.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name=name))
    assert code == INVALID
    assert why in message
