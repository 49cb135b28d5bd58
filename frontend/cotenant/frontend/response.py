"""Makes the protocol's response of an executor's answer."""

from collections.abc import Iterable, Mapping

import grpc

from cotenant.frontend import classification
from cotenant.frontend.catalogue import ModelView
from cotenant.frontend.dispatch import Answered, Pending
from cotenant.frontend.errors import RequestError
from cotenant.frontend.regions import Place
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.clock import now_ns
from cotenant.v1 import executor_pb2, types_pb2


def build(request: pb.ModelInferRequest, pending: Pending, answered: Answered) -> pb.ModelInferResponse:
    """The response to a request that ran. Raises RequestError like `of_tensors`."""
    model = pending.model
    pairs = zip(answered.answer.outputs.tensors, answered.outputs, strict=True)
    shown = [(tensor, content) for tensor, content in pairs if tensor.name not in model.states]
    result = of_tensors(request, model, pending.checked.deliveries, [t for t, _ in shown], [c for _, c in shown])
    if pending.checked.explain:
        _explain(result, pending, answered)
    return result


def of_tensors(
    request: pb.ModelInferRequest,
    model: ModelView,
    deliveries: Mapping[str, Place | int],
    tensors: Iterable[types_pb2.Tensor],
    contents: Iterable[bytes],
) -> pb.ModelInferResponse:
    """The response; outputs are always raw, as Triton's are, or lie in a region or are classes where that was asked.

    Raises RequestError for an output that cannot be handed out as it was asked for.
    """
    result = pb.ModelInferResponse(model_name=model.name, model_version=model.version, id=request.id)
    if not deliveries:
        result.raw_output_contents.extend(contents)
        for tensor in tensors:
            result.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        return result
    for tensor, content in zip(tensors, contents, strict=True):
        shown = result.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        delivered = _delivered(shown, tensor, content, deliveries.get(tensor.name), model)
        result.raw_output_contents.append(delivered)
    return result


def _delivered(
    shown: pb.ModelInferResponse.InferOutputTensor,
    tensor: types_pb2.Tensor,
    content: bytes,
    wanted: Place | int | None,
    model: ModelView,
) -> bytes:
    """What of an output goes into the message, having put it where it is wanted; changes `shown` for classes."""
    if wanted is None:
        return content
    if isinstance(wanted, Place):
        if len(content) > wanted.byte_size:
            raise RequestError(
                grpc.StatusCode.INTERNAL,
                f"shared memory size specified with the request for output '{tensor.name}' ({wanted.byte_size} bytes) "
                f"should be at least {len(content)} bytes to hold the results",
            )
        wanted.write(content)
        return b""
    batched, labels = model.max_batch_size > 0, model.outputs[tensor.name].labels
    shape, told = classification.classes(tensor, content, wanted, batched=batched, labels=labels)
    shown.datatype = "BYTES"
    shown.shape[:] = shape
    return told


def queue_ns(pending: Pending, answered: Answered) -> int:
    """From arrival until its batch began to gather its inputs, a duration."""
    return max(0, answered.started_ns - pending.arrival_ns - answered.answer.execution.input_ns)


def co_runners(execution: executor_pb2.Execution) -> dict[str, int]:
    """The classes that ran beside a batch, and for how long each, in ns; one that ran twice counts twice."""
    beside: dict[str, int] = {}
    for part in execution.slices:
        for c in part.co_runners:
            bucket = f"@{c.shape_bucket}" if c.shape_bucket else ""
            name = f"{c.model}:{c.version}{bucket} x{c.batch_size}"
            beside[name] = beside.get(name, 0) + part.duration_ns
    return beside


def mean_co_runners(execution: executor_pb2.Execution) -> float:
    """Batches that ran beside it, on average over its time."""
    return sum(co_runners(execution).values()) / execution.infer_ns if execution.infer_ns else 0.0


def _explain(result: pb.ModelInferResponse, pending: Pending, answered: Answered) -> None:
    """Where it ran, times in ns, what was predicted, and who ran beside for how long (docs/protocol.md)."""
    execution = answered.answer.execution
    numbers = {
        "cotenant_request_id": pending.request_id,
        "cotenant_queue_ns": queue_ns(pending, answered),
        "cotenant_input_ns": execution.input_ns,
        "cotenant_execution_ns": execution.infer_ns,
        "cotenant_output_ns": execution.output_ns,
        "cotenant_total_ns": now_ns() - pending.arrival_ns,
        "cotenant_budget_ns": pending.checked.budget_ns,
        "cotenant_predicted_execution_ns": execution.forecast.duration_ns,
        "cotenant_predicted_bound_ns": execution.forecast.bound_ns,
        "cotenant_work_ns": execution.forecast.work_ns,
        "cotenant_batch_id": execution.batch_id,
        "cotenant_batch_size": execution.batch_size,
        "cotenant_predicted_co_runners": execution.forecast.co_runner_count,
    }
    for key, number in numbers.items():
        result.parameters[key].int64_param = number
    beside = "; ".join(f"{name} for {ns} ns" for name, ns in co_runners(execution).items())
    result.parameters["cotenant_co_runners"].string_param = beside
    result.parameters["cotenant_mean_co_runners"].double_param = mean_co_runners(execution)
    result.parameters["cotenant_bound_level"].double_param = execution.forecast.level
    result.parameters["cotenant_device"].string_param = answered.device_id
