"""The responses of a decoupled model as they travel in a stream: outputs, errors, and the end where it is wanted."""

from cotenant.frontend import response
from cotenant.frontend.dispatch import Answered, Pending
from cotenant.frontend.errors import RequestError, refused
from cotenant.frontend.response_statistics import Responses as ResponseStatistics
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.clock import now_ns

FINAL, WANTS_EMPTY = "triton_final_response", "triton_enable_empty_final_response"


class Responses:
    """Those to one request, in their order."""

    def __init__(self, request: pb.ModelInferRequest, pending: Pending, statistics: ResponseStatistics) -> None:
        self._request, self._pending, self._statistics = request, pending, statistics
        self._count = 0
        self._spent_ns = 0  # of the run, by the responses so far
        self._since_ns = now_ns()

    def one(self, found: Answered) -> pb.ModelStreamInferResponse:
        """A response that is not the last. Raises RequestError if its outputs cannot be handed out as asked for."""
        self._since_ns = now_ns()
        if found.answer.reason:
            self._count_one(found, failed=True)
            error = refused(found.answer.reason, found.answer.message)
            return failure(error, self._request.id, self._request.model_name, final=False)
        shown = self._outputs(found, final=False)
        self._count_one(found, failed=False)
        return shown

    def last(self, answered: Answered) -> pb.ModelStreamInferResponse | None:
        """What ends the request: its last response, an empty one where that was asked for, or nothing."""
        infer_ns = max(0, answered.answer.execution.infer_ns - self._spent_ns)
        row = self._statistics.of(self._count)
        row.infer.add(infer_ns)
        if answered.answer.outputs.tensors:
            shown = self._outputs(answered, final=True)
            row.output.add(answered.answer.execution.output_ns)
            row.success.add(infer_ns + answered.answer.execution.output_ns)
            return shown
        row.empty.add(infer_ns)
        asked = self._request.parameters
        if WANTS_EMPTY not in asked or not asked[WANTS_EMPTY].bool_param:
            return None
        empty = pb.ModelInferResponse(model_name=self._request.model_name, id=self._request.id)
        empty.parameters[FINAL].bool_param = True
        return pb.ModelStreamInferResponse(infer_response=empty)

    def ended_badly(self, *, cancelled: bool) -> None:
        """Counts that no more came."""
        row = self._statistics.of(self._count)
        (row.cancel if cancelled else row.fail).add(now_ns() - self._since_ns)

    def _outputs(self, found: Answered, *, final: bool) -> pb.ModelStreamInferResponse:
        if final:
            result = response.build(self._request, self._pending, found)
        else:
            model, deliveries = self._pending.model, self._pending.checked.deliveries
            tensors = found.answer.outputs.tensors
            result = response.of_tensors(self._request, model, deliveries, tensors, found.outputs)
        result.parameters[FINAL].bool_param = final
        return pb.ModelStreamInferResponse(infer_response=result)

    def _count_one(self, found: Answered, *, failed: bool) -> None:
        execution, row = found.answer.execution, self._statistics.of(self._count)
        self._count += 1
        self._spent_ns += execution.infer_ns + execution.output_ns
        row.infer.add(execution.infer_ns)
        row.output.add(execution.output_ns)
        (row.fail if failed else row.success).add(execution.infer_ns + execution.output_ns)


def failure(
    error: RequestError, request_id: str, model: str = "", *, final: bool = True
) -> pb.ModelStreamInferResponse:
    """An error as it travels in a stream; status and facts, which have no field of their own, are parameters.

    With a `model`, which is decoupled, it says as well whether more follows.
    """
    message = pb.ModelStreamInferResponse(error_message=error.message)
    message.infer_response.id = request_id
    parameters = message.infer_response.parameters
    parameters["cotenant_status"].string_param = error.code.name
    parameters["cotenant_reason"].string_param = error.reason
    for key, fact in error.facts.items():
        parameters[f"cotenant_{key}"].string_param = fact
    if model:
        message.infer_response.model_name = model
        parameters[FINAL].bool_param = final
    return message
