"""Requests of the KServe v2 protocol and models to check them against, for tests inside one process."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf import text_format

from cotenant.frontend.catalogue import Catalogue, ModelView
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.datatypes import NUMPY
from cotenant.v1 import scheduler_pb2

DATATYPES = tuple(NUMPY)


def state(
    config: str,
    name: str = "m",
    version: str = "1",
    availability: Any = scheduler_pb2.MODEL_AVAILABILITY_READY,
) -> scheduler_pb2.ModelState:
    """What a scheduler pushes of a model."""
    parsed = text_format.Parse(config, pb.ModelConfig())
    parsed.name = name
    return scheduler_pb2.ModelState(
        model=name, version=version, availability=availability, model_config=parsed.SerializeToString()
    )


def view(config: str, name: str = "m") -> ModelView:
    """A model as the frontend sees it."""
    catalogue = Catalogue()
    catalogue.apply(state(config, name))
    return catalogue.find(name, "")


def one_input(datatype: str, dims: Sequence[int], *, max_batch_size: int = 0, more: str = "") -> str:
    """Configuration of a model with one input X of a datatype, and one output Y."""
    kind = "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
    tensor = f"data_type: {kind} dims: {list(dims)}"
    return f'max_batch_size: {max_batch_size} input {{ name: "X" {tensor} }} output {{ name: "Y" {tensor} }} {more}'


def request(
    name: str = "X",
    datatype: str = "FP32",
    shape: Sequence[int] = (2,),
    *,
    raw: bytes | None = None,
    parameters: Mapping[str, Any] | None = None,
    contents: Mapping[str, Any] | None = None,
) -> pb.ModelInferRequest:
    """A request with one input: raw, or typed, as in `contents={"fp32_contents": [1.0, 2.0]}`."""
    made = pb.ModelInferRequest(model_name="m")
    made.inputs.add(name=name, datatype=datatype, shape=shape)
    if raw is not None:
        made.raw_input_contents.append(raw)
    for field, values in (contents or {}).items():
        getattr(made.inputs[0].contents, field).extend(values)
    put_parameters(made, parameters or {})
    return made


def put_parameters(message: pb.ModelInferRequest, parameters: Mapping[str, Any]) -> None:
    """Adds parameters, each in the field of its Python type; numpy's uint64 in `uint64_param`."""
    for key, value in parameters.items():
        field = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}.get(
            type(value), "uint64_param" if isinstance(value, np.uint64) else ""
        )
        if field:
            setattr(message.parameters[key], field, int(value) if isinstance(value, np.uint64) else value)
        else:
            message.parameters[key].SetInParent()  # a parameter without a value
