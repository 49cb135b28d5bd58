"""Models that answer sequences, and ensembles, for tests: made of ONNX files of a few nodes."""

from pathlib import Path
from typing import Any

from frontend_stack import tensor
from stacks import write_model

RUNNING_SUM = f"""
max_batch_size: 4
input [{tensor("INPUT", "FP32", [1])}] output [{tensor("OUTPUT", "FP32", [1])}, {tensor("WHO", "INT64", [1])}]
sequence_batching {{
  max_sequence_idle_microseconds: 60000000
  oldest {{ max_candidate_sequences: 4 }}
  control_input [
    {{ name: "START" control [{{ kind: CONTROL_SEQUENCE_START fp32_false_true: [0, 1] }}] }},
    {{ name: "END" control [{{ kind: CONTROL_SEQUENCE_END int32_false_true: [0, 1] }}] }},
    {{ name: "READY" control [{{ kind: CONTROL_SEQUENCE_READY bool_false_true: [false, true] }}] }},
    {{ name: "CORRID" control [{{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_INT64 }}] }}
  ]
  STATE
}}
"""
STATE = 'state [{ input_name: "STATE_IN" output_name: "STATE_OUT" data_type: TYPE_FP32 dims: [1] }]'

# DOUBLED = SUM = X + X, and then DIFF = SUM - X = X.
ENSEMBLE = f"""
platform: "ensemble" max_batch_size: 8
input [{tensor("X", "INT32", [16])}]
output [{tensor("DOUBLED", "INT32", [16])}, {tensor("SAME", "INT32", [16])}]
ensemble_scheduling {{
  step [
    {{ model_name: "add_sub" model_version: -1
       input_map [{{ key: "INPUT0" value: "DOUBLED" }}, {{ key: "INPUT1" value: "X" }}]
       output_map [{{ key: "OUTPUT1" value: "SAME" }}] }},
    {{ model_name: "add_sub" model_version: -1
       input_map [{{ key: "INPUT0" value: "X" }}, {{ key: "INPUT1" value: "X" }}]
       output_map [{{ key: "OUTPUT0" value: "DOUBLED" }}] }}
  ]
}}
"""
ADD_SUB = f"""
max_batch_size: 8 dynamic_batching {{}}
input [{tensor("INPUT0", "INT32", [16])}, {tensor("INPUT1", "INT32", [16])}]
output [{tensor("OUTPUT0", "INT32", [16])}, {tensor("OUTPUT1", "INT32", [16])}]
"""


def running_sum() -> bytes:
    """OUTPUT = INPUT + STATE_IN, without the state where START; WHO = CORRID, negative where END, 0 where not READY."""
    from onnx import TensorProto, helper

    def value(name: str, kind: int) -> Any:
        return helper.make_tensor_value_info(name, kind, ["N", 1])

    node = helper.make_node
    nodes = [
        node("Mul", ["STATE_IN", "START"], ["dropped"]),
        node("Sub", ["STATE_IN", "dropped"], ["kept"]),
        node("Add", ["INPUT", "kept"], ["OUTPUT"]),
        node("Identity", ["OUTPUT"], ["STATE_OUT"]),
        node("Cast", ["END"], ["ended"], to=TensorProto.INT64),
        node("Cast", ["READY"], ["ready"], to=TensorProto.INT64),
        node("Add", ["ended", "ended"], ["twice"]),
        node("Sub", ["ready", "twice"], ["sign"]),
        node("Mul", ["CORRID", "sign"], ["WHO"]),
    ]
    inputs = [
        value("INPUT", TensorProto.FLOAT),
        value("START", TensorProto.FLOAT),
        value("END", TensorProto.INT32),
        value("READY", TensorProto.BOOL),
        value("CORRID", TensorProto.INT64),
        value("STATE_IN", TensorProto.FLOAT),
    ]
    outputs = [
        value("OUTPUT", TensorProto.FLOAT),
        value("WHO", TensorProto.INT64),
        value("STATE_OUT", TensorProto.FLOAT),
    ]
    graph = helper.make_graph(nodes, "running_sum", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def add_sub() -> bytes:
    """OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1, of INT32[N, 16]."""
    from onnx import TensorProto, helper

    def values(*names: str) -> list[Any]:
        return [helper.make_tensor_value_info(name, TensorProto.INT32, ["N", 16]) for name in names]

    inputs = ["INPUT0", "INPUT1"]
    nodes = [helper.make_node("Add", inputs, ["OUTPUT0"]), helper.make_node("Sub", inputs, ["OUTPUT1"])]
    graph = helper.make_graph(nodes, "add_sub", values(*inputs), values("OUTPUT0", "OUTPUT1"))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def write_stateful(repository: Path) -> None:
    """`running_sum`, `add_sub`, and the ensemble `doubling`, which needs the latter."""
    backend = 'backend: "onnxruntime" '
    config = backend + RUNNING_SUM.replace("STATE\n", f"{STATE}\n")
    write_model(repository, "running_sum", config, files={"model.onnx": running_sum()})
    write_model(repository, "add_sub", backend + ADD_SUB, files={"model.onnx": add_sub()})
    write_model(repository, "doubling", ENSEMBLE)
