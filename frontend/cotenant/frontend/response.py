"""Makes the protocol's response of an executor's answer."""

from cotenant.frontend.dispatch import Answered, Pending
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.clock import now_ns
from cotenant.v1 import executor_pb2


def build(request: pb.ModelInferRequest, pending: Pending, answered: Answered) -> pb.ModelInferResponse:
    """The response; outputs are always raw, as Triton's are."""
    model = pending.model
    result = pb.ModelInferResponse(
        model_name=model.name, model_version=model.version, id=request.id, raw_output_contents=answered.outputs
    )
    for tensor in answered.answer.outputs.tensors:
        result.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    if pending.checked.explain:
        _explain(result, pending, answered)
    return result


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
    """Times in ns, what was predicted, and who ran beside for how long (docs/protocol.md)."""
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
    }
    for key, number in numbers.items():
        result.parameters[key].int64_param = number
    beside = "; ".join(f"{name} for {ns} ns" for name, ns in co_runners(execution).items())
    result.parameters["cotenant_co_runners"].string_param = beside
    result.parameters["cotenant_mean_co_runners"].double_param = mean_co_runners(execution)
