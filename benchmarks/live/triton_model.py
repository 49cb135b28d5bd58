"""The model that Triton's Python backend runs: an ONNX model through onnxruntime, with our executor's session options.

It is copied into a model repository as `MODEL/1/model.py`, beside `model.onnx`. What it must know stands in the
parameters of `config.pbtxt`: `threads`, and for models of variable length `shape_buckets` and `pad_values`, as we have
them. Requests of one batch are joined, padded to the smallest bucket that holds them all, run as one, and taken apart.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as backend


class TritonPythonModel:
    """One instance, a process of its own."""

    def initialize(self, told):
        """Opens the session; `told` is what the server says of the instance."""
        config = json.loads(told["model_config"])
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters["threads"])
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = Path(told["model_repository"]) / told["model_version"] / "model.onnx"
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = [entry["name"] for entry in config["input"]]
        self.outputs = [entry["name"] for entry in config["output"]]
        self.variable = {e["name"]: [i + 1 for i, d in enumerate(e["dims"]) if int(d) < 0] for e in config["output"]}
        self.buckets = [int(length) for length in parameters.get("shape_buckets", "").split(",") if length]
        pairs = [pair.partition("=") for pair in parameters.get("pad_values", "").split(",") if pair]
        self.pad_values = {name: float(number) for name, _, number in pairs}

    def execute(self, requests):
        """Answers all requests of a batch."""
        parts = {
            name: [backend.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
            for name in self.inputs
        }
        lengths = [part.shape[1] for part in parts[self.inputs[0]]] if self.buckets else []
        joined = {name: self.join(name, arrays, lengths) for name, arrays in parts.items()}
        found = dict(zip(self.outputs, self.session.run(self.outputs, joined), strict=True))
        responses, row = [], 0
        for index, first in enumerate(parts[self.inputs[0]]):
            end = row + len(first)
            tensors = [backend.Tensor(name, self.part(found[name], name, row, end, lengths, index)) for name in found]
            responses.append(backend.InferenceResponse(tensors))
            row = end
        return responses

    def join(self, name, arrays, lengths):
        """One array of all requests."""
        if not lengths:
            return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        longest = max(lengths)
        width = next((bucket for bucket in self.buckets if bucket >= longest), longest)
        joined = np.full((sum(map(len, arrays)), width), self.pad_values.get(name, 0), arrays[0].dtype)
        row = 0
        for array in arrays:
            joined[row : row + len(array), : array.shape[1]] = array
            row += len(array)
        return joined

    def part(self, output, name, row, end, lengths, index):
        """What of an output belongs to one request."""
        array = output[row:end]
        return np.ascontiguousarray(array[:, : lengths[index]]) if lengths and self.variable[name] else array
