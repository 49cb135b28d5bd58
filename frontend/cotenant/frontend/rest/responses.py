"""Writes the body of an inference response: JSON, and behind it the outputs that were wanted as binary data."""

from typing import Any

import msgspec

from cotenant.frontend.rest import contents
from cotenant.frontend.rest.requests import Asked
from cotenant.inference import inference_pb2 as pb


def write(answer: pb.ModelInferResponse, asked: Asked) -> tuple[bytes, int | None]:
    """The body, and how much of it is JSON; None if all is. Raises RequestError for an output JSON cannot carry."""
    regions = {output.name for output in asked.message.outputs if "shared_memory_region" in output.parameters}
    shown: dict[str, Any] = {"id": answer.id} if answer.id else {}
    shown |= {"model_name": answer.model_name, "model_version": answer.model_version}
    if answer.parameters:
        shown["parameters"] = {key: _value(parameter) for key, parameter in answer.parameters.items()}
    binary: list[bytes] = []
    shown["outputs"] = outputs = []
    for output, content in zip(answer.outputs, answer.raw_output_contents, strict=True):
        row: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        if output.name in regions:
            pass  # its client knows where it lies
        elif asked.as_binary(output.name):
            row["parameters"] = {"binary_data_size": len(content)}
            binary.append(content)
        else:
            row["data"] = contents.write(content, output.datatype, output.name)
        outputs.append(row)
    head = msgspec.json.encode(shown)
    return (b"".join((head, *binary)), len(head)) if binary else (head, None)


def _value(parameter: pb.InferParameter) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None
