"""Requests that hypothesis makes: mostly right, with a few things wrong at once."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.datatypes import NUMPY
from frontend_requests import put_parameters
from oracle.repository import KINDS

Shape = tuple[int, ...]
# Inputs by model: datatype and shape without the batch, and whether there is one.
MODELS: dict[str, tuple[bool, dict[str, tuple[str, Shape]], tuple[str, ...]]] = {
    "identity": (True, {"INPUT0": ("FP32", (16,))}, ("OUTPUT0",)),
    "add_sub": (True, {"INPUT0": ("INT32", (16,)), "INPUT1": ("INT32", (16,))}, ("OUTPUT0", "OUTPUT1")),
    "words": (True, {"IN0": ("BYTES", (2,))}, ("OUT0",)),
    "variable": (True, {"IN0": ("FP32", (-1,))}, ("OUT0",)),
    "matrix": (False, {"IN0": ("INT64", (-1, 3))}, ("OUT0",)),
    "text": (False, {"IN0": ("BYTES", (-1,))}, ("OUT0",)),
    "unbatched": (False, {"IN0": ("INT32", (2, 2)), "IN1": ("BYTES", (2,))}, ("OUT0", "OUT1")),
}
_DATATYPES = [*NUMPY, "NOPE", ""]
_CONTENTS = {"FP32": "fp32_contents", "INT32": "int_contents", "INT64": "int64_contents", "BYTES": "bytes_contents"}
assert "BF16" not in KINDS


@st.composite
def requests(draw: st.DrawFn) -> pb.ModelInferRequest:
    """A request for one of the models."""
    model = draw(st.sampled_from(sorted(MODELS)))
    batched, inputs, outputs = MODELS[model]
    request = pb.ModelInferRequest(model_name=model, id=draw(st.sampled_from(["", "an id", "ä"])))
    request.model_version = draw(_mostly("", st.sampled_from(["1", "2", "x", "-3"])))
    # The other server never answers an empty batch of variable length.
    items = draw(st.sampled_from([1, 1, 2, 3, 8, 9, 0] if model != "variable" else [1, 1, 2, 3, 8, 9]))
    raw = draw(_mostly(True, st.just(False)))
    for name, (datatype, shape) in draw(st.permutations(sorted(inputs.items()))):
        _put_input(draw, request, name, datatype, _shape(draw, shape, items if batched else None), raw=raw)
    _disturb(draw, request)
    for name in draw(st.lists(st.sampled_from([*outputs, *outputs, "NOPE"]), max_size=2, unique=True)):
        output = request.outputs.add(name=name)
        if draw(_mostly(False, st.just(True))) and datatype_of(model, name) != "BYTES":  # which ends the other server
            output.parameters["classification"].int64_param = draw(st.integers(-1, 20))
    put_parameters(request, draw(st.dictionaries(_keys, _values, max_size=2)))
    return request


def datatype_of(model: str, output: str) -> str:
    """The datatype of an output, which is that of the input in its place."""
    _, inputs, outputs = MODELS[model]
    return list(inputs.values())[outputs.index(output)][0] if output in outputs else "BYTES"


_keys = st.sampled_from(["priority", "sequence_id", "sequence_start", "triton_x", "custom", "headers"])
_values = st.one_of(st.booleans(), st.integers(-5, 5), st.text(max_size=3), st.floats(-1, 1))


def _mostly(usual: Any, rarely: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 7).flatmap(lambda n: st.just(usual) if n else rarely)


def _shape(draw: st.DrawFn, shape: Shape, items: int | None) -> list[int]:
    whole = [] if items is None else [items]
    whole += [draw(st.integers(0, 5)) if size < 0 else size for size in shape]
    if draw(_mostly(False, st.just(True))):
        whole = draw(st.lists(st.integers(-2, 17), max_size=3))
        if len(whole) == 2 and whole[0] == 0 and -1 in shape:
            whole[0] = 1
    return whole


def _put_input(
    draw: st.DrawFn, request: pb.ModelInferRequest, name: str, datatype: str, shape: list[int], *, raw: bool
) -> None:
    told = draw(_mostly(datatype, st.sampled_from(_DATATYPES)))
    tensor = request.inputs.add(name=name, datatype=told, shape=shape)
    elements = int(np.prod([max(0, size) for size in shape], dtype=np.int64))
    elements = draw(_mostly(elements, st.integers(0, 40)))
    if not raw:
        field = draw(_mostly(_CONTENTS[datatype], st.sampled_from(sorted(set(_CONTENTS.values())))))
        value: Any = b"ab" if field == "bytes_contents" else 1
        getattr(tensor.contents, field).extend([value] * elements)
    elif datatype == "BYTES":
        request.raw_input_contents.append(b"\2\0\0\0ab" * elements)
    else:
        values = np.arange(elements) + draw(st.integers(0, 9))
        request.raw_input_contents.append(values.astype(NUMPY[datatype]).tobytes())


def _disturb(draw: st.DrawFn, request: pb.ModelInferRequest) -> None:
    """Breaks something, now and then."""
    match draw(_mostly("", st.sampled_from(["drop", "rename", "twice", "cut", "more", "contents"]))):
        case "drop":
            del request.inputs[-1]
            del request.raw_input_contents[len(request.inputs) :]
        case "rename":
            request.inputs[0].name = draw(st.sampled_from(["X", "", "IN9"]))
        case "twice":
            request.inputs.add().CopyFrom(request.inputs[0])
            request.raw_input_contents.extend(request.raw_input_contents[:1])
        case "cut" if request.raw_input_contents:
            request.raw_input_contents[0] = request.raw_input_contents[0][: draw(st.integers(0, 30))]
        case "more":
            request.raw_input_contents.append(b"xyz")
        case "contents":
            request.inputs[0].contents.fp32_contents.append(1.0)
