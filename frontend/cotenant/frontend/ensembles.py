"""An ensemble, run here: each step is a request like any other, sent as soon as what it needs is there.

Steps share the one deadline of the ensemble's request, its id, its priority and its tenant. The first that fails ends
the others. A step's outputs are copied here and sent on; the scheduler knows steps only as requests.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from cotenant.frontend.catalogue import Catalogue, ModelView
from cotenant.frontend.errors import RequestError, invalid
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime import ensembles

# Parameters that belong to the ensemble's request and not to those of its steps.
_OWN = {"timeout", "cotenant_explain", "sequence_id", "sequence_start", "sequence_end"}

Ask = Callable[[pb.ModelInferRequest], Awaitable[pb.ModelInferResponse]]


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor of an ensemble."""

    datatype: str
    shape: tuple[int, ...]
    content: bytes


async def run(
    request: pb.ModelInferRequest,
    model: ModelView,
    inputs: Mapping[str, Value],
    outputs: Sequence[str],
    catalogue: Catalogue,
    ask: Ask,
) -> dict[str, Value]:
    """The tensors of an ensemble once every step that `outputs` need has run; all outputs where none is named.

    Raises RequestError of the step that failed.
    """
    values = dict(inputs)
    steps = model.config.ensemble_scheduling.step
    waiting = ensembles.needed(model.config, outputs)
    running: dict[asyncio.Task[pb.ModelInferResponse], int] = {}
    try:
        while waiting or running:
            for index in [i for i in waiting if values.keys() >= set(steps[i].input_map.values())]:
                waiting.remove(index)
                made = _request(request, model, steps[index], values, catalogue)
                running[asyncio.ensure_future(ask(made))] = index
            if not running:  # a step was unloaded and is another model now, without the output that was promised
                raise invalid("unexpected deadlock, at least one output is not set while no more steps can be made")
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                _take(task.result(), steps[running.pop(task)], model, values, catalogue)
    except RequestError as error:
        message = f"in ensemble '{model.name}', {error.message}"
        raise RequestError(error.code, message, refusal=error.refusal, facts=error.facts) from error
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return values


def _request(
    request: pb.ModelInferRequest,
    model: ModelView,
    step: ensembles.Step,
    values: Mapping[str, Value],
    catalogue: Catalogue,
) -> pb.ModelInferRequest:
    version = "" if step.model_version < 0 else str(step.model_version)
    view = catalogue.find(step.model_name, version)
    made = pb.ModelInferRequest(model_name=step.model_name, model_version=version, id=request.id)
    for key, parameter in request.parameters.items():
        if key not in _OWN:
            made.parameters[key].CopyFrom(parameter)
    for name, tensor in step.input_map.items():
        value = values[tensor]
        shape = _reshaped(value.shape, model.max_batch_size > 0, view.max_batch_size > 0, tensor)
        made.inputs.add(name=name, datatype=value.datatype, shape=shape)
        made.raw_input_contents.append(value.content)
    for name in step.output_map:
        made.outputs.add(name=name)
    return made


def _take(
    answer: pb.ModelInferResponse,
    step: ensembles.Step,
    model: ModelView,
    values: dict[str, Value],
    catalogue: Catalogue,
) -> None:
    """Adds a step's outputs to the ensemble's tensors."""
    batches = catalogue.find(answer.model_name, answer.model_version).max_batch_size > 0
    for output, content in zip(answer.outputs, answer.raw_output_contents, strict=True):
        if tensor := step.output_map.get(output.name):
            shape = _reshaped(tuple(output.shape), batches, model.max_batch_size > 0, tensor)
            values[tensor] = Value(output.datatype, shape, content)


def _reshaped(shape: tuple[int, ...], batched: bool, wanted: bool, tensor: str) -> tuple[int, ...]:
    """A shape with the batch in front, or without, as the model it goes to has it."""
    if batched == wanted:
        return shape
    if wanted:
        return (1, *shape)
    if not shape or shape[0] != 1:
        raise invalid(f"tensor '{tensor}' is a batch of {shape[0] if shape else 0} for a model that does not batch")
    return shape[1:]
