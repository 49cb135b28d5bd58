"""The same models for both servers: Triton's Python backend there, ours here, with the same configurations."""

from dataclasses import dataclass
from pathlib import Path

from frontend_stack import identity_of, option, tensor
from python_models import REPEAT, REPEAT_CONFIG
from stacks import write_model
from stateful_models import ADD_SUB, ENSEMBLE, RUNNING_SUM, STATE, add_sub, running_sum

# What Triton's Python backend can hand out as numpy arrays: all but BF16.
_UNSIGNED, _SIGNED = ("UINT8", "UINT16", "UINT32", "UINT64"), ("INT8", "INT16", "INT32", "INT64")
KINDS = ("BOOL", *_UNSIGNED, *_SIGNED, "FP16", "FP32", "FP64", "STRING")

ECHO = """\
import json, time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.pairs = [(i["name"], o["name"]) for i, o in zip(config["input"], config["output"])]
        delay = config["parameters"].get("execute_delay_ms", {"string_value": "0"})
        self.delay_s = float(delay["string_value"]) / 1000

    def execute(self, requests):
        time.sleep(self.delay_s)
        return [self.answer(request) for request in requests]

    def answer(self, request):
        wanted = request.requested_output_names()
        outputs = []
        for source, target in self.pairs:
            tensor = pb_utils.get_input_tensor_by_name(request, source)
            if tensor is not None and target in wanted:
                outputs.append(pb_utils.Tensor(target, tensor.as_numpy()))
        return pb_utils.InferenceResponse(outputs)
"""

_ADD_SUB = """\
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            a, b = (pb_utils.get_input_tensor_by_name(request, f"INPUT{i}").as_numpy() for i in (0, 1))
            both = {"OUTPUT0": a + b, "OUTPUT1": a - b}
            answers.append(pb_utils.InferenceResponse(
                [pb_utils.Tensor(n, both[n]) for n in ("OUTPUT0", "OUTPUT1") if n in request.requested_output_names()]))
        return answers
"""


@dataclass(frozen=True)
class Served:
    """One model: its configuration without a backend, the program that serves it there, and what serves it here."""

    name: str
    config: str
    program: str = ECHO
    backend: str = "identity"
    files: tuple[tuple[str, bytes], ...] = ()  # of ours
    ours: str = ""  # our configuration, where it is another


# Keeps its state by itself, as a Python backend must; ours has it in the configuration.
_RUNNING_SUM = """\
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        x, start, end, ready, who = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in ("INPUT", "START", "END", "READY", "CORRID")
        )
        key = int(who.ravel()[0])
        total = x + (0 if start.ravel()[0] else self.sums.get(key, 0))
        self.sums[key] = total
        sign = int(ready.ravel()[0]) - 2 * int(end.ravel()[0])
        wanted = request.requested_output_names()
        outputs = {"OUTPUT": total.astype(np.float32), "WHO": (who * sign).astype(np.int64).reshape(x.shape)}
        return pb_utils.InferenceResponse([pb_utils.Tensor(n, a) for n, a in outputs.items() if n in wanted])
"""

_IDENTITY = f"""
max_batch_size: 8 dynamic_batching {{}}
input [{tensor("INPUT0", "FP32", [16])}] output [{tensor("OUTPUT0", "FP32", [16])}]
"""
_OPTIONAL = f"""
max_batch_size: 4 dynamic_batching {{}}
input [{tensor("IN0", "FP32", [2])}, {tensor("IN1", "FP32", [2], "optional: true")}]
output [{tensor("OUT0", "FP32", [2])}, {tensor("OUT1", "FP32", [2])}]
"""


def _identity(pairs: list[tuple[str, list[int]]], max_batch_size: int, more: str = "") -> str:
    return identity_of(pairs, max_batch_size=max_batch_size, more=more).removeprefix('backend: "identity"')


def models() -> list[Served]:
    """All of them."""
    return [
        Served("identity", _IDENTITY),
        Served("types", _identity([(kind, [3]) for kind in KINDS], 4)),
        Served("unbatched", _identity([("INT32", [2, 2]), ("STRING", [2])], 0)),
        Served("text", _identity([("STRING", [-1])], 0)),
        Served("words", _identity([("STRING", [2])], 4)),
        Served("variable", _identity([("FP32", [-1])], 4)),
        Served("matrix", _identity([("INT64", [-1, 3])], 0)),
        Served("optional", _OPTIONAL),
        Served("slow", _identity([("FP32", [1])], 1, option("execute_delay_ms", "300"))),
        Served("add_sub", ADD_SUB, _ADD_SUB, "onnxruntime", (("model.onnx", add_sub()),)),
        Served(
            "running_sum",
            RUNNING_SUM.replace("  STATE\n", ""),
            _RUNNING_SUM,
            "onnxruntime",
            (("model.onnx", running_sum()),),
            ours=RUNNING_SUM.replace("STATE\n", f"{STATE}\n"),
        ),
        Served("doubling", ENSEMBLE, "", ""),
        Served(
            "repeat",
            REPEAT_CONFIG.replace('backend: "python"', ""),
            REPEAT,
            "python",
            (("model.py", REPEAT.encode()),),
        ),
    ]


def write(folder: Path, theirs: Path) -> None:
    """Our repository and theirs."""
    for model in models():
        backend, python = (
            f'backend: "{name}" ' if name else "" for name in (model.backend, model.program and "python")
        )
        write_model(folder, model.name, backend + (model.ours or model.config), files=dict(model.files))
        program = {"model.py": model.program.encode()} if model.program else {}
        write_model(theirs, model.name, python + model.config, files=program)
