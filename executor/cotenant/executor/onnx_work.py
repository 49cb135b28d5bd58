"""What the operators of an ONNX model do, counted from the trace of onnxruntime's profiler.

The trace tells each operator's name, duration, and the shapes of its inputs and outputs, but neither attributes nor
weights that a kernel has packed for itself; both follow from the other shapes.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cotenant.executor.backend import Operator

Shape = list[int]

# In bytes. What is not here (strings, sequences) counts as nothing.
_SIZES = {
    **dict.fromkeys(("float", "int32", "uint32"), 4),
    **dict.fromkeys(("double", "int64", "uint64"), 8),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2),
    **dict.fromkeys(("bool", "int8", "uint8"), 1),
}
_VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Shape", "Size"}
_PICKS = {"Gather", "GatherElements", "GatherND", "Slice"}  # read as much as they write
_BRANCHES = {"If", "Loop", "Scan"}  # their bodies' operators stand in the trace too


def operators(trace: list[dict[str, Any]]) -> list[list[Operator]]:
    """The operators of each run in a trace (Chrome's format, times in us). Raises ValueError, see `CountedModel`."""
    nodes = [e for e in trace if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    nodes = sorted((e for e in nodes if e["args"].get("op_name") not in _BRANCHES), key=lambda e: int(e["ts"]))
    runs = sorted((e["ts"], e["ts"] + e["dur"]) for e in trace if e.get("name") == "model_run")
    return [[_operator(node) for node in nodes if begin <= node["ts"] <= end] for begin, end in runs]


def _operator(node: Mapping[str, Any]) -> Operator:
    arguments = node["args"]
    name = str(arguments.get("op_name", node["name"]))
    try:
        inputs, outputs = list(_tensors(arguments["input_type_shape"])), list(_tensors(arguments["output_type_shape"]))
        flops, packed = _products(name, [s for s, _ in inputs], [s for s, _ in outputs])
        weights, read = int(arguments.get("parameter_size", 0)), int(arguments.get("activation_size", 0))
        element = inputs[0][1] if inputs else 0
        weights += packed * element
    except (KeyError, IndexError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"operator {node['name']} ({name}) cannot be counted from its shapes") from error
    written = sum(math.prod(shape) * size for shape, size in outputs)
    if name in _VIEWS:
        weights = read = written = 0
    elif name in _PICKS:
        weights, read = min(weights, written), min(read, written)
    elif name == "EmbedLayerNormalization":
        weights = min(weights, 3 * written)  # a row each of words, positions and kinds
    return Operator(name[:128], flops, weights, read + written, element, int(node["dur"]) * 1000)


def _tensors(told: list[dict[str, Shape]]) -> Iterator[tuple[Shape, int]]:
    """Shapes, and bytes of an element."""
    for tensor in told:
        for kind, shape in tensor.items():
            yield shape, _SIZES.get(kind, 0)


def _products(name: str, inputs: list[Shape], outputs: list[Shape]) -> tuple[int, int]:
    """Floating-point operations, and elements of weights that the shapes do not show."""
    if "Einsum" in name:
        raise TypeError  # its equation is not in the trace
    for part, count in _FORMULAS.items():
        if part in name:
            return count(name, inputs, outputs)
    return 0, 0


def _matmul(name: str, inputs: list[Shape], outputs: list[Shape]) -> tuple[int, int]:
    """Either operand may be transposed: the output tells which dimension is summed over."""
    left, out = inputs[0], outputs[0]
    if len(left) == 1:
        depth, columns = left[0], out[-1] if out else 1
    elif len(out) < len(left):  # by a vector
        return 2 * math.prod(left), 0 if left[-1:] in inputs[1:] else left[-1]
    else:
        depth, columns = math.prod(left[-2:]) // out[-2], out[-1]
    right = any(sorted(shape[-2:]) == sorted((depth, columns)) for shape in inputs[1:])
    quantized = "Integer" in name or "NBits" in name or "Quantize" in name
    return 2 * math.prod(out) * depth, 0 if right or quantized else depth * columns


def _convolution(name: str, inputs: list[Shape], outputs: list[Shape]) -> tuple[int, int]:
    """The kernel is the first other input of as many dimensions: [output channels, channels of a group, window...]."""
    kernel = next((shape for shape in inputs[1:] if len(shape) == len(inputs[0])), None)
    if kernel is None:
        raise IndexError
    per_place = inputs[0] if name.endswith("Transpose") else outputs[0]
    return 2 * math.prod(per_place) * math.prod(kernel[1:]), 0


def _attention(name: str, inputs: list[Shape], outputs: list[Shape]) -> tuple[int, int]:
    """Fused attention: of a projection too (`Attention`), or of queries, keys and values."""
    batch, length, width = outputs[0][0], outputs[0][-2], outputs[0][-1]
    if len(inputs[0]) == 4:  # [batch, heads, length, size of a head]
        batch *= outputs[0][1]
    if name == "Attention" and len(inputs[1]) <= 2:
        source = inputs[0][-1]
        packed = 0 if len(inputs[1]) == 2 else source * 3 * width  # else only the bias is told
        return 2 * batch * length * source * 3 * width + 4 * batch * length * length * width, packed
    keys = inputs[1][-2] if len(inputs) > 1 and len(inputs[1]) == len(inputs[0]) else length
    return 4 * batch * length * keys * width, 0


def _recurrent(name: str, inputs: list[Shape], outputs: list[Shape]) -> tuple[int, int]:
    """Of [steps, batch, features] to [steps, directions, batch, hidden]; weights may be packed."""
    steps, directions, batch, hidden = outputs[0]
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[name.removeprefix("DynamicQuantize")]
    weights = directions * gates * hidden * (inputs[0][-1] + hidden)
    shown = sum(math.prod(shape) for shape in inputs[1:3] if len(shape) == 3)
    return 2 * steps * batch * weights, max(0, weights - shown)


# By a part of the operator's name, so that fused and quantized kinds are found; the first that fits counts.
_FORMULAS: Mapping[str, Callable[[str, list[Shape], list[Shape]], tuple[int, int]]] = {
    "Attention": _attention,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "MatMul": _matmul,
    "Gemm": _matmul,
    "Conv": _convolution,
}
