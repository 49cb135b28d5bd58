"""What tests of a running frontend share: a raw client without generated stubs, and models of many kinds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from cotenant.frontend.service import SERVICE
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.datatypes import NUMPY, to_raw
from cotenant.v1 import scheduler_pb2, scheduler_pb2_grpc
from stacks import IDENTITY, StackThread, delayed, write_model

UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class RawClient:
    """The service's methods by name, over a channel of its own: `client.ModelReady(pb.ModelReadyRequest(name="x"))`."""

    def __init__(self, url: str) -> None:
        self.channel = grpc.insecure_channel(url, options=[*UNLIMITED, ("grpc.use_local_subchannel_pool", 1)])
        for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
            make = self.channel.stream_stream if method.client_streaming else self.channel.unary_unary
            call = make(
                f"/{SERVICE}/{method.name}",
                request_serializer=getattr(pb, method.input_type.name).SerializeToString,
                response_deserializer=getattr(pb, method.output_type.name).FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)  # for type checkers: methods are set above

    def close(self) -> None:
        """Ends the channel."""
        self.channel.close()

    def executions(self, model: str) -> int:
        """Batches of a model that were run, by Triton's statistics."""
        rows = self.ModelStatistics(pb.ModelStatisticsRequest(name=model), timeout=10).model_stats
        return sum(row.execution_count for row in rows)

    def inferences(self, model: str) -> int:
        """Items of a model that were answered with outputs, by Triton's statistics."""
        rows = self.ModelStatistics(pb.ModelStatisticsRequest(name=model), timeout=10).model_stats
        return sum(row.inference_count for row in rows)


@contextmanager
def raw_client(stack: StackThread) -> Iterator[RawClient]:
    """A raw client for a while."""
    client = RawClient(stack.url)
    try:
        yield client
    finally:
        client.close()


def infer_request(model: str, **arrays: Any) -> pb.ModelInferRequest:
    """A request with raw inputs, whose datatypes are those of the arrays."""
    request = pb.ModelInferRequest(model_name=model)
    for name, array in arrays.items():
        datatype = "BYTES" if array.dtype == object else next(d for d, t in NUMPY.items() if t == array.dtype)
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(bytes(to_raw(array, datatype)))
    return request


def vector(value: float = 1.0, items: int = 1) -> Any:
    """An input of the identity models: FP32[items, 16]."""
    return np.full((items, 16), value, np.float32)


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    """The typed details of a refusal."""
    status = rpc_status.from_call(error)
    assert status is not None, "the error carries no details"
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "cotenant"
    return info


def scheduler_status(stack: StackThread) -> scheduler_pb2.GetStatusResponse:
    """The scheduler's view of everything."""
    with grpc.insecure_channel(stack.stack.scheduler) as channel:
        answer: scheduler_pb2.GetStatusResponse = scheduler_pb2_grpc.SchedulerServiceStub(channel).GetStatus(
            scheduler_pb2.GetStatusRequest(), timeout=10
        )
        return answer


def model_status(stack: StackThread, name: str) -> scheduler_pb2.ModelStatus:
    """The scheduler's view of one model, which has one version."""
    (row,) = (row for row in scheduler_status(stack).models if row.model == name)
    return row


def eventually(holds: Callable[[], Any], what: str, timeout_s: float = 15.0) -> None:
    """Waits until something holds; fails if it does not come to pass."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.01)


def running(stack: StackThread) -> int:
    """Batches that run now."""
    return sum(len(device.running) for device in scheduler_status(stack).devices)


def lane(delay_ms: float, more: str = "") -> str:
    """Configuration of an identity model that runs one request at a time and takes its time for it."""
    return identity_of(
        [("FP32", [16])],
        max_batch_size=1,
        more=" ".join(
            (option("execute_delay_ms", str(delay_ms)), "instance_group [{ count: 1 kind: KIND_CPU }]", more)
        ),
    )


def tensor(name: str, kind: str, dims: list[int], more: str = "") -> str:
    """An input or output in a configuration."""
    return f'{{ name: "{name}" data_type: TYPE_{kind} dims: {dims} {more} }}'


def identity_of(pairs: list[tuple[str, list[int]]], *, max_batch_size: int = 4, more: str = "") -> str:
    """Configuration of an identity model with inputs IN0, IN1, ... of (kind, dims), and outputs OUT0, OUT1, ..."""
    inputs = ", ".join(tensor(f"IN{i}", kind, dims) for i, (kind, dims) in enumerate(pairs))
    outputs = ", ".join(tensor(f"OUT{i}", kind, dims) for i, (kind, dims) in enumerate(pairs))
    return f'backend: "identity" max_batch_size: {max_batch_size} input [{inputs}] output [{outputs}] {more}'


def option(key: str, value: str) -> str:
    """A parameter of ours in a configuration."""
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'


OPTIONAL = f"""
backend: "identity" max_batch_size: 4 dynamic_batching {{}}
input [{tensor("IN0", "FP32", [2])}, {tensor("IN1", "FP32", [2], "optional: true")}]
output [{tensor("OUT0", "FP32", [2])}, {tensor("OUT1", "FP32", [2])}]
"""
# Two variable inputs, the second optional, padded together.
PAIR = f"""
backend: "identity" max_batch_size: 4 dynamic_batching {{}} {option("shape_buckets", "4,8")}
input [{tensor("IN0", "INT32", [-1])}, {tensor("IN1", "INT32", [-1], "optional: true")}]
output [{tensor("OUT0", "INT32", [-1])}, {tensor("OUT1", "INT32", [-1])}]
"""
KINDS = [datatype if datatype != "BYTES" else "STRING" for datatype in NUMPY]


def write_many(repository: Path) -> None:
    """Models of many kinds."""
    write_model(repository, "identity", IDENTITY)
    write_model(repository, "types", identity_of([(kind, [3]) for kind in KINDS]))
    write_model(repository, "unbatched", identity_of([("INT32", [2, 2]), ("STRING", [2])], max_batch_size=0))
    write_model(repository, "text", identity_of([("STRING", [-1])], max_batch_size=0))
    write_model(
        repository,
        "ragged",
        identity_of([("INT32", [-1])], more=option("shape_buckets", "4,8,16") + " dynamic_batching {}"),
    )
    write_model(repository, "optional", OPTIONAL)
    write_model(repository, "pair", PAIR)
    write_model(repository, "large", identity_of([("FP32", [65536])], max_batch_size=2))
    write_model(repository, "slow", delayed(20, slo_ms=5000, max_batch_size=2))
