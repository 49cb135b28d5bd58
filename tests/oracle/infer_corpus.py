"""Inference requests that both servers must answer alike, written by hand."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.datatypes import NUMPY
from frontend_requests import put_parameters
from frontend_stack import infer_request, vector

Request = pb.ModelInferRequest
WRONG_VERSIONS = ("1", "9", "01", "abc", "-1", "0", "1.5", " 1", "99999999999999999999", "--")


def wrong() -> Iterator[tuple[str, Request]]:
    """What is wrong in one way, with what is right but close to it."""
    for some in (names, shapes, contents, requested, parameters):
        yield from some()


def put_region(tensor: Any, region: str, size: int, offset: int | None = None) -> None:
    """Says that a tensor lies in a region."""
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_byte_size"].int64_param = size
    if offset is not None:
        tensor.parameters["shared_memory_offset"].int64_param = offset


def put(tensor: Any, parameters: dict[str, Any]) -> None:
    """Parameters of an input or output, by their Python type."""
    for key, value in parameters.items():
        setattr(tensor.parameters[key], "string_param" if isinstance(value, str) else "int64_param", value)


def versioned(request: Request, version: str) -> Request:
    """A request for a version."""
    request.model_version = version
    return request


def changed(change: Callable[[Request], Any], model: str = "identity", **arrays: Any) -> Request:
    """A request of one input to which something is done."""
    request = infer_request(model, **(arrays or {"INPUT0": vector(2.5)}))
    change(request)
    return request


def _sample(datatype: str) -> Any:
    if datatype == "BYTES":
        return np.array([[b"", b"\x00\xff", "grüß".encode()]], dtype=object)
    return np.arange(3).reshape(1, 3).astype(NUMPY[datatype])


def well() -> Iterator[tuple[str, Request]]:
    """What is right."""
    ints = np.arange(16, dtype=np.int32)
    for items in (1, 3, 8):
        yield f"identity of {items}", infer_request("identity", INPUT0=vector(items=items))
        both = np.tile(ints, (items, 1))
        yield f"add_sub of {items}", infer_request("add_sub", INPUT0=both, INPUT1=both * 2)
    yield "with an id", changed(partial(_set, "id", "my id"))
    yield "with a version", changed(partial(_set, "model_version", "1"))
    kinds = [kind for kind in NUMPY if kind != "BF16"]
    order = ["BOOL", *(k for k in kinds if k.startswith("UINT")), *(k for k in kinds if k.startswith("INT"))]
    order += ["FP16", "FP32", "FP64", "BYTES"]
    yield "all types", infer_request("types", **{f"IN{i}": _sample(kind) for i, kind in enumerate(order)})
    words = np.array([b"a", b""], dtype=object)
    yield "unbatched", infer_request("unbatched", IN0=np.array([[1, 2], [3, 4]], np.int32), IN1=words)
    yield "text", infer_request("text", IN0=np.array([b"some", b"words", b""], dtype=object))
    yield "no words", infer_request("text", IN0=np.array([], dtype=object))
    yield "words", infer_request("words", IN0=np.array([[b"a", b"bc"], [b"", b"d"]], dtype=object))
    for length in (1, 5, 0):
        yield f"length {length}", infer_request("variable", IN0=np.ones((2, length), np.float32))
    yield "matrix", infer_request("matrix", IN0=np.arange(12, dtype=np.int64).reshape(4, 3))
    x = np.ones((1, 2), np.float32)
    yield "both inputs", infer_request("optional", IN0=x, IN1=x * 2)
    yield "without the optional input", changed(lambda r: r.outputs.add(name="OUT0"), "optional", IN0=x)


def names() -> Iterator[tuple[str, Request]]:
    """Models, versions and inputs by names, known and unknown."""
    x, ints = vector(), np.arange(16, dtype=np.int32)[None]
    yield "unknown model", infer_request("nope", INPUT0=x)
    yield "no model", infer_request("", INPUT0=x)
    for version in WRONG_VERSIONS:
        yield f"version {version!r}", changed(partial(_set, "model_version", version))
    yield "version of an unknown model", versioned(infer_request("nope", INPUT0=x), "1")
    yield "unknown input", infer_request("identity", FOO=x)
    yield "unknown input beside", infer_request("identity", INPUT0=x, FOO=x)
    yield "no input", pb.ModelInferRequest(model_name="identity")
    yield "no input, with an id", pb.ModelInferRequest(model_name="identity", id="abc")
    yield "one of two", infer_request("add_sub", INPUT0=ints)
    yield "the other of two", infer_request("add_sub", INPUT1=ints)
    yield "none of two", pb.ModelInferRequest(model_name="add_sub")
    yield "three for two", infer_request("add_sub", INPUT0=ints, INPUT1=ints, INPUT2=ints)
    yield "the optional one alone", infer_request("optional", IN1=np.ones((1, 2), np.float32))

    def twice(request: Request) -> None:
        request.inputs.add().CopyFrom(request.inputs[0])
        request.raw_input_contents.append(request.raw_input_contents[0])

    yield "an input twice", changed(twice)
    yield "inputs in another order", infer_request("add_sub", INPUT1=ints, INPUT0=ints * 3)


def shapes() -> Iterator[tuple[str, Request]]:
    """Shapes, batches and datatypes."""
    for shape in ([1, 8], [16], [1, 1, 16], [], [1, 17], [0, 16], [9, 16], [-1, 16], [1, -16], [2, 8]):
        yield f"shape {shape}", _shaped("identity", "INPUT0", "FP32", shape, 4)
    for shape in ([2], [2, 3], [4, 1], [2, 2, 1], [1, 4], []):
        yield (
            f"unbatched shape {shape}",
            changed(
                partial(_reshape, shape),
                "unbatched",
                IN0=np.array([[1, 2], [3, 4]], np.int32),
                IN1=np.array([b"a", b"b"], dtype=object),
            ),
        )
    for shape in ([4, 2], [3], [0, 3], [2, 0], [2, 3, 1]):
        yield f"matrix shape {shape}", _shaped("matrix", "IN0", "INT64", shape, 8)
    ints = np.zeros((2, 16), np.int32)
    yield "batches that differ", infer_request("add_sub", INPUT0=ints, INPUT1=ints[:1])
    yield "batches beyond the limit", infer_request("add_sub", INPUT0=np.zeros((9, 16), np.int32), INPUT1=ints)
    yield "empty batch of variable length", _shaped("variable", "IN0", "FP32", [0, 0], 4)
    for datatype in ("INT32", "fp32", "", "BYTES", "FP64", "NOPE"):
        yield f"datatype {datatype!r}", changed(partial(_retype, datatype))


def _set(field: str, value: str, request: Request) -> None:
    setattr(request, field, value)


def _set_raw(data: bytes, request: Request) -> None:
    request.raw_input_contents[0] = data


def _retype(datatype: str, request: Request) -> None:
    request.inputs[0].datatype = datatype


def with_parameter(key: str, value: Any, request: Request) -> None:
    """Adds a parameter."""
    put_parameters(request, {key: value})


def _reshape(shape: list[int], request: Request) -> None:
    del request.inputs[0].shape[:]
    request.inputs[0].shape.extend(shape)


def _shaped(model: str, name: str, datatype: str, shape: list[int], size: int) -> Request:
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    elements = 1
    for length in shape:
        elements *= abs(length)
    request.raw_input_contents.append(bytes(elements * size))
    return request


def contents() -> Iterator[tuple[str, Request]]:
    """Data: raw, typed, too much and too little."""
    for size in (0, 10, 63, 65, 128):
        yield f"{size} raw bytes", changed(partial(_set_raw, bytes(size)))
    yield "no data", changed(lambda r: r.ClearField("raw_input_contents"))
    yield "surplus raw data", changed(lambda r: r.raw_input_contents.append(b"more"))
    yield "typed", _typed("identity", "INPUT0", "FP32", [1, 16], fp32_contents=[1.5] * 16)
    for count in (0, 1, 15, 17):
        yield f"{count} typed", _typed("identity", "INPUT0", "FP32", [1, 16], fp32_contents=[1.5] * count)
    for field, values in (("int_contents", [1] * 16), ("bytes_contents", [b"x"] * 16), ("fp64_contents", [1.0] * 16)):
        yield f"typed in {field}", _typed("identity", "INPUT0", "FP32", [1, 16], **{field: values})
    both = _typed("identity", "INPUT0", "FP32", [1, 16], fp32_contents=[1.5] * 16, int_contents=[1])
    yield "typed in two fields", both
    yield "typed and raw", changed(lambda r: r.inputs[0].contents.fp32_contents.extend([1.0] * 16))
    yield "empty contents and raw", changed(lambda r: r.inputs[0].contents.SetInParent())
    mixed = infer_request("add_sub", INPUT0=np.zeros((1, 16), np.int32))
    mixed.inputs.add(name="INPUT1", datatype="INT32", shape=[1, 16]).contents.int_contents.extend([1] * 16)
    yield "one raw, one typed", mixed
    yield "typed ints", _typed("matrix", "IN0", "INT64", [1, 3], int64_contents=[1, -2, 3])
    yield "typed words", _typed("words", "IN0", "BYTES", [1, 2], bytes_contents=[b"a", b"bc"])
    yield "too few typed words", _typed("words", "IN0", "BYTES", [1, 2], bytes_contents=[b"a"])
    yield "too many typed words", _typed("words", "IN0", "BYTES", [1, 2], bytes_contents=[b"a", b"b", b"c"])
    whole = b"\1\0\0\0a\2\0\0\0bc"
    cuts = {"a length cut off": whole[:7], "a word cut off": whole[:-1], "one word": whole[:5], "no bytes": b""}
    cuts |= {"three words": whole + bytes(4), "a stray byte": whole + b"x", "a huge length": b"\xff" * 4 + whole}
    for name, data in cuts.items():
        request = _shaped("words", "IN0", "BYTES", [1, 2], 0)
        request.raw_input_contents[0] = data
        yield f"words: {name}", request


def _typed(model: str, name: str, datatype: str, shape: list[int], **contents: Any) -> Request:
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    for field, values in contents.items():
        getattr(request.inputs[0].contents, field).extend(values)
    return request


def requested() -> Iterator[tuple[str, Request]]:
    """Outputs asked for, and how."""
    ints = np.arange(16, dtype=np.int32)[None]

    def asking(*names: str, **parameters: Any) -> Request:
        request = infer_request("add_sub", INPUT0=ints, INPUT1=ints[:, ::-1].copy())
        for name in names:
            put(request.outputs.add(name=name), parameters)
        return request

    yield "one output", asking("OUTPUT1")
    yield "outputs turned round", asking("OUTPUT1", "OUTPUT0")
    yield "an unknown output", asking("OUTPUT9")
    yield "an output without a name", asking("")
    yield "an output twice", asking("OUTPUT0", "OUTPUT0")
    for count in (1, 3, 16, 100, 0, -1):
        yield f"classification {count}", asking("OUTPUT1", classification=count)
    yield "classification of a wrong type", asking("OUTPUT1", classification="3")
    yield "an unknown parameter of an output", asking("OUTPUT1", foo=3)
    yield "http's parameter of an output", asking("OUTPUT1", binary_data=1)
    three = infer_request("identity", INPUT0=np.linspace(0, 1, 48, dtype=np.float32).reshape(3, 16))
    three.outputs.add(name="OUTPUT0").parameters["classification"].int64_param = 2
    yield "classification of a batch", three
    whole = infer_request("unbatched", IN0=np.array([[1, 2], [4, 3]], np.int32), IN1=np.array([b"a", b"b"], object))
    whole.outputs.add(name="OUT0").parameters["classification"].int64_param = 3
    yield "classification without a batch", whole
    words = infer_request("words", IN0=np.array([[b"a", b"bc"]], dtype=object))
    words.outputs.add(name="OUT0").parameters["classification"].int64_param = 1
    yield "classification of words", words


def parameters() -> Iterator[tuple[str, Request]]:
    """Parameters of requests, of every type."""
    values: dict[str, tuple[Any, ...]] = {
        "timeout": (30_000_000, 0, "1", 1.5, True, np.uint64(5)),
        "priority": (0, 1, 7, -1, np.uint64(3), "1", True, 1.5),
        "sequence_id": (0, 5, "abc", "", True, np.uint64(5), 1.5),
        "sequence_start": (True, False, 1, "x"),
        "sequence_end": (True, False, 1, "x"),
        "triton_enable_empty_final_response": (True, False, 1, "x"),
        "triton_final_response": (True,),
        "triton_": (1,),
        "custom": (True, 1, "x", 1.5, np.uint64(5), None),
        "binary_data_output": (True,),
        "headers": ("x",),
        "": (1,),
    }
    for key, some in values.items():
        for value in some:
            yield f"{key} {value!r}", changed(partial(with_parameter, key, value))


def part(value: float, sequence: Any, model: str = "running_sum", **flags: bool) -> Request:
    """A request of a sequence."""
    request = infer_request(model, INPUT=np.full((1, 1), value, np.float32))
    put_parameters(request, {"sequence_id": sequence, **{f"sequence_{key}": flag for key, flag in flags.items()}})
    return request


def sequences() -> Iterator[tuple[str, Request]]:
    """Sequences that begin, go on and end, or do not."""
    yield "begins", part(1, 7, start=True)
    yield "another", part(10, 8, start=True)
    yield "goes on", part(2, 7)
    yield "ends", part(3, 7, end=True)
    yield "after its end", part(3, 7)
    yield "begins again", part(5, 7, start=True)
    yield "begins without having ended", part(6, 7, start=True)
    yield "and ends", part(7, 7, end=True)
    yield "one alone", part(9, 9, start=True, end=True)
    yield "the other ends", part(30, 8, end=True)
    yield "never began", part(1, 77)
    yield "never began, ends", part(1, 77, end=True)
    yield "no id", part(1, 0, start=True)
    yield "empty id", part(1, "", start=True)
    yield "no sequence at all", infer_request("running_sum", INPUT=np.ones((1, 1), np.float32))
    two = infer_request("running_sum", INPUT=np.ones((2, 1), np.float32))
    put_parameters(two, {"sequence_id": 5, "sequence_start": True})
    yield "a batch", two


def ensembles() -> Iterator[tuple[str, Request]]:
    """Ensembles."""
    x = np.arange(32, dtype=np.int32).reshape(2, 16)
    yield "ensemble", infer_request("doubling", X=x)
    yield "without input", pb.ModelInferRequest(model_name="doubling")
    yield "ensemble, wrong shape", infer_request("doubling", X=x[:, :3])
    yield "ensemble, too large a batch", infer_request("doubling", X=np.zeros((9, 16), np.int32))
    yield "ensemble, wrong type", infer_request("doubling", X=x.astype(np.float32))
    for name in ("DOUBLED", "SAME", "X"):
        asked = infer_request("doubling", X=x)
        asked.outputs.add(name=name)
        yield f"ensemble, output {name}", asked
