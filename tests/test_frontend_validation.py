"""What is wrong with a request, and what the service does not have: Triton's codes and, in essence, its words."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from cotenant.inference import inference_pb2 as pb
from frontend_requests import put_parameters
from frontend_stack import RawClient, error_info, infer_request, raw_client, vector, write_many
from stacks import StackThread

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
UNIMPLEMENTED, INTERNAL = grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackThread]:
    folder = tmp_path_factory.mktemp("validation")
    write_many(folder / "models")
    made = StackThread(folder, folder / "models")
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(stack: StackThread) -> Iterator[RawClient]:
    with raw_client(stack) as made:
        yield made


def refused(call: Callable[..., Any], request: Any, **more: Any) -> tuple[grpc.StatusCode, str]:
    """Status and message of a call that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=20, **more)
    return caught.value.code(), str(caught.value.details())


def identity(**changes: Any) -> pb.ModelInferRequest:
    """A request that is well formed, but for fields set to something else."""
    request = infer_request("identity", INPUT0=vector())
    for field, value in changes.items():
        setattr(request, field, value)
    return request


# ---- which model


@pytest.mark.parametrize(
    ("name", "version", "code", "message"),
    [
        ("nope", "", NOT_FOUND, "Request for unknown model: 'nope' is not found"),
        ("", "", NOT_FOUND, "Request for unknown model: '' is not found"),
        ("identity", "9", NOT_FOUND, "Request for unknown model: 'identity' version 9 is not found"),
        ("identity", "0", NOT_FOUND, "Request for unknown model: 'identity' version 0 is not found"),
        ("identity", "abc", INVALID, "failed to get model version from specified version string 'abc'"),
        ("identity", "1.0", INVALID, "failed to get model version from specified version string '1.0'"),
        ("identity", "9" * 30, INVALID, "failed to get model version from specified version string '999"),
        ("identity", "-1", INVALID, "invalid model version specified '-1'"),
    ],
)
def test_unknown_models_and_versions(client: RawClient, name: str, version: str, code: Any, message: str) -> None:
    found = refused(client.ModelInfer, identity(model_name=name, model_version=version))
    assert found[0] == code
    assert found[1].startswith(message)
    assert refused(client.ModelMetadata, pb.ModelMetadataRequest(name=name, version=version)) == found
    assert refused(client.ModelConfig, pb.ModelConfigRequest(name=name, version=version)) == found


def test_a_version_is_a_number(client: RawClient) -> None:
    assert client.ModelInfer(identity(model_version="01")).model_version == "1"


def test_readiness_of_what_is_not_there(client: RawClient) -> None:
    assert not client.ModelReady(pb.ModelReadyRequest(name="nope")).ready
    assert not client.ModelReady(pb.ModelReadyRequest(name="identity", version="9")).ready
    assert refused(client.ModelReady, pb.ModelReadyRequest(name="identity", version="abc"))[0] == INVALID


def test_statistics_of_what_is_not_there(client: RawClient) -> None:
    code, message = refused(client.ModelStatistics, pb.ModelStatisticsRequest(name="nope"))
    assert (code, message) == (INVALID, "requested model 'nope' is not available")
    code, message = refused(client.ModelStatistics, pb.ModelStatisticsRequest(name="identity", version="9"))
    assert (code, message) == (INVALID, "requested model version is not available for model 'identity'")


# ---- tensors


def two(*names: str) -> pb.ModelInferRequest:
    """A request for the model of INT32[2,2] and BYTES[2], with the inputs named."""
    tensors = {"IN0": np.ones((2, 2), np.int32), "IN1": np.array([b"a", b"b"], dtype=object)}
    request = pb.ModelInferRequest(model_name="unbatched")
    for name in names:
        whole = infer_request("unbatched", **{name: tensors.get(name, tensors["IN0"])})
        request.inputs.extend(whole.inputs)
        request.raw_input_contents.extend(whole.raw_input_contents)
    return request


def changed(
    change: Callable[[pb.ModelInferRequest], Any], base: pb.ModelInferRequest | None = None
) -> pb.ModelInferRequest:
    request = base or identity()
    change(request)
    return request


def typed(
    datatype: str, shape: list[int], field: str, values: list[Any], model: str = "identity"
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model)
    name = "INPUT0" if model == "identity" else "IN0"
    getattr(request.inputs.add(name=name, datatype=datatype, shape=shape).contents, field).extend(values)
    return request


def words(raw: bytes, count: int = 2) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="text")
    request.inputs.add(name="IN0", datatype="BYTES", shape=[count])
    request.raw_input_contents.append(raw)
    return request


def shaped(*shape: int) -> pb.ModelInferRequest:
    return changed(lambda r: r.inputs[0].shape.__setitem__(slice(None), shape))


BAD_TENSORS = {
    "missing input": (
        two("IN0"),
        "expected 2 inputs but got 1 inputs for model 'unbatched'. Got input(s) ['IN0'], but missing required input(s) "
        "['IN1']. Please provide all required input(s).",
    ),
    "no input": (two(), "expected 2 inputs but got 0 inputs for model 'unbatched'. Got input(s) [], but missing"),
    "missing where some are optional": (
        pb.ModelInferRequest(model_name="optional"),
        "expected number of inputs between 1 and 2 but got 0 inputs for model 'optional'",
    ),
    "extra input": (two("IN0", "IN1", "FOO"), "unexpected inference input 'FOO' for model 'unbatched'"),
    "duplicate input": (two("IN0", "IN1", "IN0"), "input 'IN0' already exists in request"),
    "unknown output": (
        changed(lambda r: r.outputs.add(name="X")),
        "unexpected inference output 'X' for model 'identity'",
    ),
    "duplicate output": (
        changed(lambda r: (r.outputs.add(name="OUTPUT0"), r.outputs.add(name="OUTPUT0"))),
        "output 'OUTPUT0' already exists in request",
    ),
    "datatype": (
        changed(lambda r: setattr(r.inputs[0], "datatype", "INT32")),
        "inference input 'INPUT0' data-type is 'INT32', but model 'identity' expects 'FP32'",
    ),
    "no datatype": (
        changed(lambda r: setattr(r.inputs[0], "datatype", "")),
        "data-type is '<invalid>', but model 'identity' expects",
    ),
    "shape": (
        shaped(1, 8),
        "unexpected shape for input 'INPUT0' for model 'identity'. Expected [-1,16], got [1,8]. NOTE: Setting a "
        "non-zero max_batch_size in the model config requires a batch dimension to be prepended to each input shape.",
    ),
    "rank": (shaped(16), "Expected [-1,16], got [16]"),
    "no shape": (shaped(), "input 'INPUT0' has no shape but model requires batch dimension for 'identity'"),
    "variable shape": (
        shaped(-1, 16),
        "All input dimensions should be specified for input 'INPUT0' for model 'identity'",
    ),
    "variable length": (
        changed(lambda r: r.inputs[0].shape.__setitem__(1, -1), infer_request("ragged", IN0=np.ones((1, 1), np.int32))),
        "All input dimensions should be specified for input 'IN0' for model 'ragged', got [1,-1]",
    ),
    "shape without batch": (
        changed(lambda r: r.inputs[0].shape.append(2), two("IN0", "IN1")),
        "Expected [2,2], got [2,2,2].",
    ),
    "huge shape": (shaped(2**62, 16), "inference request batch-size must be <= 64 for 'identity'"),
    "batch too large": (
        infer_request("identity", INPUT0=vector(items=65)),
        "inference request batch-size must be <= 64 for 'identity'",
    ),
    "empty batch": (infer_request("identity", INPUT0=vector(items=0)), "inference request batch-size must be >= 1"),
    "batches of two sizes": (
        infer_request("optional", IN0=np.ones((1, 2), np.float32), IN1=np.ones((2, 2), np.float32)),
        "input 'IN1' batch size does not match other inputs for 'optional'",
    ),
    "too few bytes": (
        changed(lambda r: r.raw_input_contents.__setitem__(0, b"\0" * 10)),
        "input byte size mismatch for input 'INPUT0' for model 'identity'. Expected 64, got 10",
    ),
    "too few values": (typed("FP32", [1, 16], "fp32_contents", [1.0]), "Expected 64, got 4"),
    "longer than every bucket": (
        infer_request("ragged", IN0=np.ones((1, 17), np.int32)),
        "a variable dimension is 17, but model 'ragged' declares buckets up to 16",
    ),
    "length indicator cut off": (
        words(b"\1\0\0\0a\1\0"),
        "incomplete string length indicator for inference input 'IN0' for model 'text', expecting 4 bytes",
    ),
    "string cut off": (
        words(b"\1\0\0\0a\5\0\0\0ab"),
        "incomplete string data for inference input 'IN0' for model 'text', expecting string of length 5",
    ),
    "too few strings": (
        words(b"\1\0\0\0a"),
        "expected 2 string elements for inference input 'IN0' for model 'text', got 1",
    ),
    "too many strings": (
        words(b"\1\0\0\0a" * 3),
        "unexpected number of string elements 3 for inference input 'IN0' for model 'text', expecting 2",
    ),
    "string of four gigabytes": (words(b"\xff\xff\xff\xff"), "got 1"),
    "the last string of four gigabytes": (words(b"\0\0\0\0\xff\xff\xff\xff"), "incomplete string data"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensors_that_do_not_fit_the_model(client: RawClient, case: str) -> None:
    request, expected = BAD_TENSORS[case]
    code, message = refused(client.ModelInfer, request)
    assert code == INVALID
    assert expected in message
    if not expected.startswith("unexpected inference"):
        assert message.startswith("[request id: <id_unknown>] ")
        request.id = "r-7"
        assert refused(client.ModelInfer, request)[1].startswith("[request id: r-7] ")


BAD_DATA = {
    "raw and typed mixed": (
        changed(lambda r: r.inputs[0].contents.fp32_contents.append(1.0)),
        "contents field must not be specified when using raw_input_contents for 'INPUT0' for model 'identity'",
    ),
    "too few raw tensors": (
        changed(lambda r: r.raw_input_contents.pop(), two("IN0", "IN1")),
        "unable to find data for input tensor 'IN1' for model 'unbatched' in request.",
    ),
    "no data at all": (
        changed(lambda r: r.ClearField("raw_input_contents")),
        "unable to find data for input tensor 'INPUT0' for model 'identity' in request.",
    ),
    "typed in the wrong field": (
        typed("FP32", [1, 16], "fp64_contents", [0.0] * 16),
        "unexpected explicit tensor data for input tensor 'INPUT0' for model 'identity' of type 'FP64', "
        "expected datatype 'FP32'",
    ),
    "typed in two fields": (
        changed(
            lambda r: r.inputs[0].contents.int64_contents.append(1), typed("FP32", [1, 16], "fp32_contents", [0.0] * 16)
        ),
        "of type 'INT64', expected datatype 'FP32'",
    ),
    "unbatched strings in a field of numbers": (
        typed("BYTES", [1], "int_contents", [1], model="text"),
        "of type 'INT32', expected datatype 'BYTES'",
    ),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_data_that_contradicts_the_protocol(client: RawClient, case: str) -> None:
    request, expected = BAD_DATA[case]
    code, message = refused(client.ModelInfer, request)
    assert code == INVALID
    assert expected in message


def test_surplus_raw_tensors_are_ignored(client: RawClient) -> None:
    request = identity()
    request.raw_input_contents.append(b"more")
    assert client.ModelInfer(request).raw_output_contents[0] == request.raw_input_contents[0]


# ---- parameters


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"priority": -1}, "invalid value for 'priority', expected value >= 0."),
        ({"priority": "1"}, "invalid value type for 'priority' parameter, expected int64_param or uint64_param."),
        ({"timeout": "1"}, "invalid value type for 'timeout' parameter, expected int64_param."),
        ({"timeout": np.uint64(1)}, "invalid value type for 'timeout' parameter, expected int64_param."),
        ({"timeout": -1}, "invalid value for 'timeout', expected value >= 0."),
        ({"sequence_id": 1.5}, "invalid value type for 'sequence_id' parameter, expected int64_param or string_param."),
        ({"sequence_start": 1}, "invalid value type for 'sequence_start' parameter, expected bool_param."),
        ({"sequence_end": "x"}, "invalid value type for 'sequence_end' parameter, expected bool_param."),
        ({"triton_x": 1}, "parameter keys starting with 'triton_' are reserved for Triton usage."),
        ({"triton_enable_empty_final_response": 1}, "parameter, expected bool_param."),
        ({"cotenant_explain": 1}, "invalid value type for 'cotenant_explain' parameter, expected bool_param."),
        ({"mine": None}, "invalid value type for 'mine' parameter, expected int64_param, bool_param, or string_param."),
    ],
)
def test_parameters_of_wrong_type_or_value(client: RawClient, parameters: dict[str, Any], message: str) -> None:
    request = identity()
    put_parameters(request, parameters)
    code, told = refused(client.ModelInfer, request)
    assert code == INVALID
    assert message in told


@pytest.mark.parametrize(
    "parameters",
    [
        {"priority": 0},
        {"priority": np.uint64(2**64 - 1)},
        {"timeout": 0},
        {"timeout": 2**63 - 1},  # more than the instants inside can hold
        {"sequence_id": 0, "sequence_start": True, "sequence_end": True},
        {"sequence_id": "abc"},  # no model here is stateful: as in Triton, it changes nothing
        {"triton_enable_empty_final_response": True},
        {"mine": 1, "yours": "x", "theirs": 1.5, "ours": True},
    ],
)
def test_parameters_that_are_taken(client: RawClient, parameters: dict[str, Any]) -> None:
    request = identity(id="p")
    put_parameters(request, parameters)
    response = client.ModelInfer(request)
    assert response.id == "p"
    assert not response.parameters


# ---- extensions that are not served


def in_region(tensors: Any) -> None:
    tensors[0].parameters["shared_memory_region"].string_param = "r"
    tensors[0].parameters["shared_memory_byte_size"].int64_param = 64


def test_shared_memory_is_not_there(client: RawClient) -> None:
    request = identity()
    in_region(request.inputs)
    assert refused(client.ModelInfer, request) == (NOT_FOUND, "Unable to find shared memory region: 'r'")
    request = identity()
    request.outputs.add(name="OUTPUT0")
    in_region(request.outputs)
    assert refused(client.ModelInfer, request) == (NOT_FOUND, "Unable to find shared memory region: 'r'")
    found = refused(client.SystemSharedMemoryStatus, pb.SystemSharedMemoryStatusRequest(name="r"))
    assert found == (NOT_FOUND, "Unable to find system shared memory region: 'r'")
    found = refused(client.CudaSharedMemoryStatus, pb.CudaSharedMemoryStatusRequest(name="r"))
    assert found == (NOT_FOUND, "Unable to find cuda shared memory region: 'r'")
    for call, message in (
        (client.SystemSharedMemoryRegister, pb.SystemSharedMemoryRegisterRequest(name="r", key="/k", byte_size=64)),
        (client.CudaSharedMemoryRegister, pb.CudaSharedMemoryRegisterRequest(name="r", byte_size=64)),
    ):
        assert refused(call, message)[0] == UNIMPLEMENTED


def test_what_must_be_allowed_first(client: RawClient) -> None:
    region = pb.SystemSharedMemoryRegisterRequest(name="r", key="/k", byte_size=64)
    code, message = refused(client.SystemSharedMemoryRegister, region)
    assert code == UNIMPLEMENTED
    assert "--allow-client-shm" in message


# ---- models that fail


def test_a_model_that_fails_is_told_and_its_batch_mates_are_answered(client: RawClient) -> None:
    # Of two outputs, this model gives one where an input is left out: whoever wants both spoils the batch.
    spoiled = infer_request("optional", IN0=np.ones((1, 2), np.float32))
    modest = infer_request("optional", IN0=np.ones((1, 2), np.float32))
    modest.outputs.add(name="OUT0")
    before = (
        client.ModelStatistics(pb.ModelStatisticsRequest(name="optional")).model_stats[0].inference_stats.fail.count
    )
    calls = [client.ModelInfer.future(request, timeout=20) for request in (spoiled, modest) * 10]
    for bad, good in zip(calls[::2], calls[1::2], strict=True):
        assert bad.exception().code() == INTERNAL
        assert bad.exception().details().startswith("Failed to process the request(s) for model 'optional', message: ")
        assert error_info(bad.exception()).reason == "EXECUTION_FAILED"
        assert [output.name for output in good.result().outputs] == ["OUT0"]
    after = client.ModelStatistics(pb.ModelStatisticsRequest(name="optional")).model_stats[0].inference_stats.fail.count
    assert after - before == 10


# ---- garbage


def test_messages_that_are_none(stack: StackThread, client: RawClient) -> None:
    call: Any = client.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    generator = random.Random(7)
    whole = identity().SerializeToString()
    seen = set()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(generator.randrange(1, 8)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        try:
            call(bytes(data[: generator.randrange(len(data))]), timeout=20)
        except grpc.RpcError as error:
            seen.add(error.code())
    assert {INTERNAL, INVALID} <= seen <= {INTERNAL, INVALID, NOT_FOUND, UNIMPLEMENTED}
    code, message = refused(client.channel.unary_unary("/inference.GRPCInferenceService/ModelConfig"), b"\xff\xff")
    assert code == INTERNAL
    assert message == "Unable to parse request: it is not a serialised inference.ModelConfigRequest"
    assert refused(client.channel.unary_unary("/inference.GRPCInferenceService/Nope"), b"")[0] == UNIMPLEMENTED
    assert client.ModelInfer(identity()).outputs[0].name == "OUTPUT0"
    log = stack.stack.log("frontend").read_text()
    assert "Traceback" not in log
    assert "failed here" not in log


def test_garbage_in_a_stream_is_answered_and_costs_the_others_nothing(client: RawClient) -> None:
    call: Any = client.channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )
    parts = [identity(id="a").SerializeToString(), b"\xff\xff\xff", identity(id="b").SerializeToString()]
    first, second, third = call(iter(parts), timeout=20)
    assert first.infer_response.id == "a"
    assert second.error_message.startswith("Unable to parse request")
    assert third.infer_response.id == "b"
    assert not third.error_message


def test_a_refusal_fits_into_a_status_whatever_was_sent(client: RawClient) -> None:
    for request in (
        identity(model_name="x" * 100_000),
        identity(model_name="é" * 50_000),
        identity(model_name="identity", model_version="1" * 100_000),
        shaped(*[1] * 100_000),
        changed(lambda r: setattr(r.inputs[0], "name", "n" * 100_000)),
    ):
        code, message = refused(client.ModelInfer, request)
        assert code in (NOT_FOUND, INVALID)
        assert message.endswith("...")


def test_errors_in_a_stream_tell_status_and_reason(client: RawClient) -> None:
    late = infer_request("slow", INPUT0=vector())
    late.id = "late"
    put_parameters(late, {"timeout": 1000})
    requests = [identity(model_name="nope"), late, identity(id="well")]
    unknown, refusal, well = client.ModelStreamInfer(iter(requests), timeout=20)
    assert unknown.error_message == "Request for unknown model: 'nope' is not found"
    assert unknown.infer_response.parameters["cotenant_status"].string_param == "NOT_FOUND"
    assert refusal.infer_response.id == "late"
    told = {key: value.string_param for key, value in refusal.infer_response.parameters.items()}
    assert told["cotenant_status"] == "DEADLINE_EXCEEDED"
    assert told["cotenant_reason"] == "PREDICTED_MISS"
    assert float(told["cotenant_predicted_finish_ms"]) > 1
    assert well.infer_response.id == "well"


def test_a_stream_that_asks_for_it_ends_with_the_status(client: RawClient) -> None:
    late = infer_request("slow", INPUT0=vector())
    put_parameters(late, {"timeout": 1000})
    metadata = (("triton_grpc_error", "true"),)
    answers = client.ModelStreamInfer(iter([identity(model_name="nope"), late]), timeout=20, metadata=metadata)
    assert next(answers).error_message.startswith("Request for unknown model")  # what is wrong in itself: in the stream
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
