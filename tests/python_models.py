"""Models for Triton's Python backend, which run there and here."""

from pathlib import Path

from stacks import write_model

# Answers each number with itself and its index; HOW says what else happens.
REPEAT = """\
import time
import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            self.answer(request)

    def answer(self, request):
        sender = request.get_response_sender()
        values = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
        how = pb_utils.get_input_tensor_by_name(request, "HOW")
        how = how.as_numpy()[0].decode() if how is not None else ""
        for index, value in enumerate(values):
            if value < 0:
                sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(f"negative: {value}")))
                continue
            outputs = [
                pb_utils.Tensor("OUT", np.array([value], np.int32)),
                pb_utils.Tensor("INDEX", np.array([index], np.uint32)),
            ]
            outputs = [tensor for tensor in outputs if tensor.name() in request.requested_output_names()]
            last = how == "flagged" and index == len(values) - 1
            sender.send(pb_utils.InferenceResponse(outputs), flags=FINAL if last else 0)
        if how == "raises":
            raise ValueError("as asked")
        if how != "flagged" or not len(values):
            sender.send(flags=FINAL)
"""
REPEAT_CONFIG = """
backend: "python" model_transaction_policy { decoupled: true }
input [{ name: "IN" data_type: TYPE_INT32 dims: [ -1 ] },
        { name: "HOW" data_type: TYPE_STRING dims: [ 1 ] optional: true }]
output [{ name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] }, { name: "INDEX" data_type: TYPE_UINT32 dims: [ 1 ] }]
"""

# Sends an array of SIZE numbers every few milliseconds from a thread of its own until nobody waits, COUNT at most.
TICKING = """\
import json
import threading
import time
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        assert pb_utils.using_decoupled_model_transaction_policy(config)
        self.dtype = pb_utils.triton_string_to_numpy(pb_utils.get_output_config_by_name(config, "OUT")["data_type"])
        self.delay_s = float(config["parameters"]["delay_ms"]["string_value"]) / 1000
        self.threads = []

    def execute(self, requests):
        for request in requests:
            thread = threading.Thread(target=self.tick, args=(request,))
            self.threads.append(thread)
            thread.start()

    def tick(self, request):
        sender = request.get_response_sender()
        size, count = pb_utils.get_input_tensor_by_name(request, "HOW").as_numpy().tolist()
        for index in range(count):
            if sender.is_cancelled():
                break
            tensor = pb_utils.Tensor("OUT", np.full((size,), index, self.dtype))
            sender.send(pb_utils.InferenceResponse([tensor]))
            time.sleep(self.delay_s)
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self):
        for thread in self.threads:
            thread.join()
"""
TICKING_CONFIG = """
backend: "python" model_transaction_policy {{ decoupled: true }}
input [{{ name: "HOW" data_type: TYPE_INT32 dims: [ 2 ] }}] output [{{ name: "OUT" data_type: TYPE_FP32 dims: [ -1 ] }}]
parameters {{ key: "delay_ms" value {{ string_value: "{delay_ms}" }} }}
"""


def write_repeat(repository: Path) -> None:
    """The model `repeat`."""
    write_model(repository, "repeat", REPEAT_CONFIG, files={"model.py": REPEAT.encode()})


def write_ticking(repository: Path, name: str, delay_ms: float) -> None:
    """A model that goes on until it is told to stop."""
    config = TICKING_CONFIG.format(delay_ms=delay_ms)
    write_model(repository, name, config, files={"model.py": TICKING.encode()})
