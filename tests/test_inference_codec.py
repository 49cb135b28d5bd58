"""Typed and raw tensors of every datatype, and garbage: nothing but a refusal ever comes of a request."""

import struct
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from cotenant.frontend.catalogue import Catalogue
from cotenant.frontend.checking import Checked, check
from cotenant.frontend.errors import MESSAGE_BYTES, RequestError
from cotenant.frontend.tensors import CONTENTS
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.datatypes import NUMPY, from_raw, join_bytes, split_bytes, to_raw
from cotenant.v1 import types_pb2
from frontend_requests import DATATYPES, one_input, put_parameters, request, state, view

FIXED = [datatype for datatype in DATATYPES if datatype != "BYTES"]
TYPED = [datatype for datatype in FIXED if datatype in CONTENTS]
SHAPES = npst.array_shapes(min_dims=1, max_dims=3, max_side=4)


def arrays(datatype: str) -> st.SearchStrategy[Any]:
    return npst.arrays(NUMPY[datatype], SHAPES)


# ---- raw bytes


@pytest.mark.parametrize("datatype", FIXED)
@given(data=st.data())
@settings(max_examples=25)
def test_raw_bytes_and_arrays_stand_for_each_other(datatype: str, data: st.DataObject) -> None:
    array = data.draw(arrays(datatype))
    raw = bytes(to_raw(array, datatype))
    assert raw == array.tobytes()
    back = from_raw(raw, datatype, array.shape)
    assert back.dtype == NUMPY[datatype]
    assert back.tobytes() == raw


@given(st.lists(st.binary(max_size=20), max_size=12))
def test_elements_of_a_bytes_tensor_survive(elements: list[bytes]) -> None:
    raw = join_bytes(elements)
    assert raw == b"".join(struct.pack("<I", len(e)) + e for e in elements)
    assert split_bytes(raw) == elements
    array = from_raw(raw, "BYTES", (len(elements),))
    assert array.tolist() == elements
    assert bytes(to_raw(array, "BYTES")) == raw


@given(st.binary(max_size=40))
def test_bytes_that_are_no_bytes_tensor_are_told_apart(raw: bytes) -> None:
    try:
        elements = split_bytes(raw)
    except ValueError:
        elements = None
    if elements is not None:
        assert join_bytes(elements) == raw
    counts = range(12)
    model = view(one_input("BYTES", [-1]))
    accepted = [n for n in counts if not _error(request(datatype="BYTES", shape=[n], raw=raw), model)]
    assert accepted == ([] if elements is None else [len(elements)])


def _outcome(message: pb.ModelInferRequest, model: Any, remaining_s: float | None = None) -> Checked | RequestError:
    try:
        return check(message, model, remaining_s)
    except RequestError as error:
        return error


def _error(message: pb.ModelInferRequest, model: Any) -> str:
    outcome = _outcome(message, model)
    return outcome.message if isinstance(outcome, RequestError) else ""


def test_text_is_encoded_as_utf8() -> None:
    assert (
        bytes(to_raw(np.array(["grüß", b"\xff"], dtype=object), "BYTES"))
        == b"\x06\0\0\0gr\xc3\xbc\xc3\x9f\x01\0\0\0\xff"
    )


# ---- typed contents


@pytest.mark.parametrize("datatype", TYPED)
@given(data=st.data())
@settings(max_examples=25)
def test_typed_contents_become_the_raw_bytes(datatype: str, data: st.DataObject) -> None:
    array = data.draw(arrays(datatype))
    model = view(one_input(datatype, [-1] * array.ndim))
    typed = request(datatype=datatype, shape=array.shape, contents={CONTENTS[datatype]: array.ravel().tolist()})
    raw = request(datatype=datatype, shape=array.shape, raw=array.tobytes())
    (from_typed,), (from_bytes,) = check(typed, model, None).buffers, check(raw, model, None).buffers
    if array.dtype.kind == "f":  # a NaN's payload is nobody's
        np.testing.assert_array_equal(from_raw(from_typed, datatype, array.shape), array)
    else:
        assert bytes(from_typed) == array.tobytes()
    assert bytes(from_bytes) == array.tobytes()


@given(st.lists(st.binary(max_size=20), max_size=12))
def test_typed_bytes_become_a_raw_bytes_tensor(elements: list[bytes]) -> None:
    model = view(one_input("BYTES", [-1]))
    typed = request(datatype="BYTES", shape=[len(elements)], contents={"bytes_contents": elements})
    assert bytes(check(typed, model, None).buffers[0]) == join_bytes(elements)


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("field", sorted(set(CONTENTS.values())))
def test_contents_in_a_field_of_another_type_are_refused(datatype: str, field: str) -> None:
    values: list[Any] = [b"a", b"b"] if field == "bytes_contents" else [1, 0]
    error = _error(request(datatype=datatype, contents={field: values}), view(one_input(datatype, [2])))
    if CONTENTS.get(datatype) == field:
        assert error == ""
    else:
        assert error.startswith("unexpected explicit tensor data for input tensor 'X' for model 'm' of type ")
        assert error.endswith(f"expected datatype '{datatype}'")


@pytest.mark.parametrize(
    ("datatype", "value"), [("INT8", 128), ("INT8", -129), ("UINT8", 256), ("INT16", 2**15), ("UINT16", 2**16)]
)
def test_typed_values_that_do_not_fit_are_refused(datatype: str, value: int) -> None:
    message = request(datatype=datatype, shape=[1], contents={CONTENTS[datatype]: [value]})
    assert f"holds a value that {datatype} cannot" in _error(message, view(one_input(datatype, [1])))


@pytest.mark.parametrize("datatype", FIXED)
@given(size=st.integers(0, 40))
@settings(max_examples=20)
def test_only_the_right_number_of_bytes_is_taken(datatype: str, size: int) -> None:
    error = _error(request(datatype=datatype, shape=[3], raw=bytes(size)), view(one_input(datatype, [3])))
    right = 3 * NUMPY[datatype].itemsize
    assert (error == "") == (size == right)
    if size != right:
        assert f"input byte size mismatch for input 'X' for model 'm'. Expected {right}, got {size}" in error


# ---- what travels inside


@given(st.integers(1, 4), st.integers(1, 16), st.integers(1, 16))
def test_the_header_describes_what_lies_in_the_block(items: int, left: int, right: int) -> None:
    model = view(
        """
        max_batch_size: 4
        input [{ name: "A" data_type: TYPE_INT16 dims: [ -1 ] }, { name: "B" data_type: TYPE_FP64 dims: [ -1 ] }]
        output [{ name: "C" data_type: TYPE_FP32 dims: [ 1 ] }, { name: "D" data_type: TYPE_FP32 dims: [ 1 ] }]
        """
    )
    message = pb.ModelInferRequest(model_name="m")
    message.inputs.add(name="B", datatype="FP64", shape=[items, right])
    message.inputs.add(name="A", datatype="INT16", shape=[items, left])
    message.raw_input_contents.extend([bytes(8 * items * right), bytes(2 * items * left)])
    message.outputs.add(name="D")
    checked = check(message, model, None)
    header = types_pb2.TensorSet.FromString(checked.header)
    assert [(t.name, t.datatype, list(t.shape), t.byte_size) for t in header.tensors] == [
        ("B", "FP64", [items, right], 8 * items * right),
        ("A", "INT16", [items, left], 2 * items * left),
    ]
    assert [t.offset % 64 for t in header.tensors] == [0, 0]
    assert header.tensors[0].offset + header.tensors[0].byte_size <= header.tensors[1].offset
    assert header.tensors[1].offset + header.tensors[1].byte_size <= checked.data_bytes
    assert list(header.requested_outputs) == ["D"]
    assert checked.batch_size == items
    assert checked.shape_bucket == f"{right},{left}"


# ---- garbage

WORDS = st.sampled_from(["", "X", "Y", "m", "FP32", "INT8", "BYTES", "é", "x" * 5000, "timeout", "priority"])
NUMBERS = st.sampled_from([0, 1, 2, 3, -1, 2**31, 2**63 - 1, -(2**63)])
VALUES = st.one_of(NUMBERS, st.booleans(), WORDS, st.floats(), st.none(), st.just(np.uint64(2**64 - 1)))
KEYS = st.one_of(
    WORDS,
    st.sampled_from(
        ["cotenant_explain", "sequence_id", "sequence_end", "triton_x", "triton_enable_empty_final_response"]
    ),
)


@st.composite
def messages(draw: st.DrawFn) -> pb.ModelInferRequest:
    """Requests that are nearly right, and ones that are not at all."""
    made = pb.ModelInferRequest(model_name="m", id=draw(WORDS))
    put_parameters(made, draw(st.dictionaries(KEYS, VALUES, max_size=3)))
    for _ in range(draw(st.integers(0, 3))):
        tensor = made.inputs.add(name=draw(WORDS), datatype=draw(WORDS), shape=draw(st.lists(NUMBERS, max_size=3)))
        if draw(st.booleans()):
            field = draw(st.sampled_from(sorted(set(CONTENTS.values()))))
            values: list[Any] = [b"a", b""] if field == "bytes_contents" else [1, 0]
            getattr(tensor.contents, field).extend(draw(st.lists(st.sampled_from(values), max_size=3)))
        if draw(st.booleans()):
            tensor.parameters["shared_memory_region"].string_param = draw(WORDS)
    for _ in range(draw(st.integers(0, 2))):
        output = made.outputs.add(name=draw(WORDS))
        output.parameters["classification"].int64_param = draw(NUMBERS)
    made.raw_input_contents.extend(draw(st.lists(st.binary(max_size=16), max_size=3)))
    return made


MODELS = [
    view(one_input("FP32", [2])),
    view(one_input("INT8", [-1, -1], max_batch_size=2)),
    view(one_input("BYTES", [-1], max_batch_size=3)),
    view(one_input("FP32", [-1], more='parameters { key: "shape_buckets" value { string_value: "2,3" } }')),
]


@given(messages(), st.sampled_from(MODELS), st.one_of(st.none(), st.floats(0, 1e30)))
@example(request(raw=bytes(8)), MODELS[0], 1e30)
@settings(max_examples=500)
def test_garbage_is_refused_and_nothing_worse(
    message: pb.ModelInferRequest, model: Any, remaining_s: float | None
) -> None:
    checked = _outcome(message, model, remaining_s)
    if isinstance(checked, RequestError):
        assert 0 < len(checked.message.encode()) <= MESSAGE_BYTES
        return
    header = types_pb2.TensorSet.FromString(checked.header)
    assert [len(buffer) for buffer in checked.buffers] == [tensor.byte_size for tensor in header.tensors]
    assert 0 <= checked.budget_ns < 2**62
    assert 0 <= checked.priority < 2**32
    assert 1 <= checked.batch_size <= max(1, model.max_batch_size)


WELL_FORMED = request(
    shape=[2], contents={"fp32_contents": [1.0, 2.0]}, parameters={"timeout": 5, "priority": 1}
).SerializeToString()


@given(st.lists(st.tuples(st.integers(0, len(WELL_FORMED) - 1), st.integers(0, 255)), max_size=6), st.integers(0, 80))
@settings(max_examples=300)
def test_bytes_that_changed_on_their_way_are_refused_or_taken(changes: list[tuple[int, int]], lost: int) -> None:
    catalogue = Catalogue()
    catalogue.executors_connected = True
    catalogue.apply(state(one_input("FP32", [2])))
    data = bytearray(WELL_FORMED)
    for position, value in changes:
        data[position] = value
    try:
        message = pb.ModelInferRequest.FromString(bytes(data[: len(data) - lost]))
        check(message, catalogue.find(message.model_name, message.model_version), None)
    except (DecodeError, RequestError):
        return


@given(st.text(max_size=30))
@example("9" * 5000)
@example("+-1")
@example("\u0661")
def test_any_version_is_looked_up_or_refused(version: str) -> None:
    catalogue = Catalogue()
    catalogue.executors_connected = True
    catalogue.apply(state(one_input("FP32", [2])))
    try:
        found = catalogue.find("m", version)
    except RequestError:
        return
    assert not version or int(version) == int(found.version)
