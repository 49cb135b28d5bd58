"""Good models and requests, from which bad ones are made."""

from typing import Any

import numpy as np

from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.datatypes import NUMPY, to_raw


def tensors(pairs: list[tuple[str, str]], optional: bool = False) -> str:
    """Inputs IN0, IN1, ... and outputs OUT0, ... of (kind, dims); the last input is optional, if one is to be."""

    def row(side: str, index: int, kind: str, dims: str) -> str:
        more = "optional: true" if optional and side == "IN" and index == len(pairs) - 1 else ""
        return f'{{ name: "{side}{index}" data_type: TYPE_{kind} dims: [ {dims} ] {more} }}'

    inputs, outputs = ([row(s, i, *pair) for i, pair in enumerate(pairs)] for s in ("IN", "OUT"))
    return f"input [ {', '.join(inputs)} ] output [ {', '.join(outputs)} ]"


KINDS = ["STRING" if kind == "BYTES" else kind for kind in NUMPY]
BUCKETS = 'parameters { key: "shape_buckets" value { string_value: "4,8,16" } }'
QUEUE = (
    "dynamic_batching { preferred_batch_size: [ 2, 4 ] max_queue_delay_microseconds: 100 priority_levels: 3 "
    "default_priority_level: 2 default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 2000000 "
    "allow_timeout_override: true max_queue_size: 16 } }"
)
MODELS = {
    "types": f'backend: "identity" max_batch_size: 4 {tensors([(kind, "3") for kind in KINDS])}',
    "unbatched": f'backend: "identity" max_batch_size: 0 {tensors([("INT32", "2, 2"), ("STRING", "2")])}',
    "text": f'backend: "identity" max_batch_size: 0 {tensors([("STRING", "-1")])} response_cache {{ enable: true }}',
    "ragged": f'backend: "identity" max_batch_size: 4 dynamic_batching {{}} {BUCKETS} {tensors([("INT32", "-1")])}',
    "pair": (
        f'backend: "identity" max_batch_size: 4 dynamic_batching {{}} {BUCKETS} '
        f"{tensors([('INT32', '-1'), ('INT32', '-1')], optional=True)}"
    ),
    "queue": (
        f'backend: "identity" max_batch_size: 8 {QUEUE} {tensors([("FP32", "16")])} instance_group [ {{ count: 1 kind: '
        'KIND_CPU } ] parameters { key: "slo_ms" value { string_value: "5000" } }'
    ),
    "chain": (
        'platform: "ensemble" max_batch_size: 8 input [ { name: "A" data_type: TYPE_FP32 dims: [ 16 ] } ] '
        'output [ { name: "B" data_type: TYPE_FP32 dims: [ 16 ] } ] ensemble_scheduling { step [ '
        '{ model_name: "queue" model_version: -1 input_map { key: "IN0" value: "A" } '
        'output_map { key: "OUT0" value: "x" } }, '
        '{ model_name: "queue" model_version: -1 input_map { key: "IN0" value: "x" } '
        'output_map { key: "OUT0" value: "B" } } '
        "] }"
    ),
}
MODELS["stateful"] = (
    'backend: "identity" max_batch_size: 4 input [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] } ] '
    'output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] } ] '
    "sequence_batching { max_sequence_idle_microseconds: 1000000 oldest { max_candidate_sequences: 4 } control_input [ "
    '{ name: "START" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } ] }, '
    '{ name: "CORRID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_INT64 } ] } ] }'
)


# As a load may bring it with a file.
BROUGHT = """
{"backend": "identity", "max_batch_size": 2, "input": [{"name": "A", "data_type": "TYPE_FP32", "dims": [2]}],
 "output": [{"name": "B", "data_type": "TYPE_FP32", "dims": [2]}]}
"""


def infer(model: str, **arrays: Any) -> pb.ModelInferRequest:
    """A request with raw inputs, whose datatypes are those of the arrays."""
    request = pb.ModelInferRequest(model_name=model, id="1")
    for name, array in arrays.items():
        datatype = "BYTES" if array.dtype == object else next(d for d, t in NUMPY.items() if t == array.dtype)
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(bytes(to_raw(array, datatype)))
    return request


def typed() -> pb.ModelInferRequest:
    """A request with typed inputs."""
    request = pb.ModelInferRequest(model_name="unbatched", model_version="1")
    first = request.inputs.add(name="IN0", datatype="INT32", shape=[2, 2])
    first.contents.int_contents.extend([1, 2, 3, 4])
    second = request.inputs.add(name="IN1", datatype="BYTES", shape=[2])
    second.contents.bytes_contents.extend([b"ab", b""])
    return request


def requests() -> list[pb.ModelInferRequest]:
    """A good request of every kind."""
    strings = np.array([b"one", b"", b"three"], object)
    arrays = {f"IN{i}": np.ones((2, 3), NUMPY["BYTES" if k == "STRING" else k]) for i, k in enumerate(KINDS)}
    for name, array in arrays.items():
        if array.dtype == object:
            arrays[name] = np.array([strings, strings], object)
    vector = np.ones((2, 16), np.float32)
    made = [
        infer("types", **arrays),
        infer("unbatched", IN0=np.ones((2, 2), np.int32), IN1=strings[:2]),
        typed(),
        infer("text", IN0=strings),
        infer("ragged", IN0=np.ones((2, 5), np.int32)),
        infer("pair", IN0=np.ones((1, 3), np.int32)),
        infer("pair", IN0=np.ones((1, 3), np.int32), IN1=np.ones((1, 7), np.int32)),
        infer("queue", IN0=vector),
        infer("chain", A=vector),
        infer("stateful", X=np.ones((1, 2), np.float32)),
    ]
    asked = infer("queue", IN0=vector)
    asked.parameters["timeout"].int64_param = 1_000_000
    asked.parameters["priority"].uint64_param = 1
    asked.parameters["cotenant_explain"].bool_param = True
    asked.outputs.add(name="OUT0").parameters["classification"].int64_param = 3
    sequence = infer("stateful", X=np.ones((1, 2), np.float32))
    sequence.parameters["sequence_id"].int64_param = 7
    sequence.parameters["sequence_start"].bool_param = True
    sequence.parameters["sequence_end"].bool_param = True
    shared = pb.ModelInferRequest(model_name="queue")
    place = shared.inputs.add(name="IN0", datatype="FP32", shape=[1, 16])
    place.parameters["shared_memory_region"].string_param = "region"
    place.parameters["shared_memory_byte_size"].int64_param = 64
    target = shared.outputs.add(name="OUT0")
    target.parameters["shared_memory_region"].string_param = "region"
    target.parameters["shared_memory_byte_size"].int64_param = 64
    target.parameters["shared_memory_offset"].int64_param = 64
    return [*made, asked, sequence, shared]
