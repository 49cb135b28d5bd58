"""Makes the protocol's response of an executor's answer."""

from cotenant.frontend.catalogue import ModelView
from cotenant.frontend.dispatch import Answered, Pending
from cotenant.inference import inference_pb2 as pb


def build(
    request: pb.ModelInferRequest, model: ModelView, pending: Pending, answered: Answered
) -> pb.ModelInferResponse:
    """The response; outputs are always raw, as Triton's are. Copies the outputs."""
    answer = answered.answer
    result = pb.ModelInferResponse(model_name=model.name, model_version=model.version, id=request.id)
    data = answered.data
    for tensor in answer.outputs.tensors:
        result.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        result.raw_output_contents.append(bytes(data[tensor.offset : tensor.offset + tensor.byte_size]))
    if pending.checked.explain:
        _explain(result, pending, answered)
    return result


def _explain(result: pb.ModelInferResponse, pending: Pending, answered: Answered) -> None:
    """Times in ns, what was predicted, and who ran beside for how long."""
    execution = answered.answer.execution
    numbers = {
        "cotenant_queue_ns": max(0, answered.execution_started_ns - pending.arrival_ns - execution.input_ns),
        "cotenant_input_ns": execution.input_ns,
        "cotenant_execution_ns": execution.infer_ns,
        "cotenant_output_ns": execution.output_ns,
        "cotenant_predicted_execution_ns": execution.forecast.duration_ns,
        "cotenant_predicted_bound_ns": execution.forecast.bound_ns,
        "cotenant_work_ns": execution.forecast.work_ns,
        "cotenant_batch_id": execution.batch_id,
        "cotenant_batch_size": execution.batch_size,
    }
    for key, number in numbers.items():
        result.parameters[key].int64_param = number
    beside: dict[str, int] = {}
    for part in execution.slices:
        for c in part.co_runners:
            bucket = f"@{c.shape_bucket}" if c.shape_bucket else ""
            name = f"{c.model}:{c.version}{bucket} x{c.batch_size}"
            beside[name] = beside.get(name, 0) + part.duration_ns
    result.parameters["cotenant_co_runners"].string_param = "; ".join(f"{n} for {ns} ns" for n, ns in beside.items())
    mean = sum(beside.values()) / execution.infer_ns if execution.infer_ns else 0.0
    result.parameters["cotenant_mean_co_runners"].double_param = mean
