"""Models written in Python for Triton's Python backend: `VERSION/model.py` with a class `TritonPythonModel`.

They run in this process, on the thread of their batch: numpy and most libraries let others run meanwhile, a loop in
Python does not. A batch of several requests reaches `execute` as one request with the inputs joined. Calls of one
instance follow each other; there are as many instances as `instance_group` says, one without. A decoupled model sends
its responses as it likes, from `execute` or from threads that it starts. What is served of the interface is in
`python_api`.
"""

import importlib.util
import json
import queue
import sys
import threading
from pathlib import Path
from typing import Any

from cotenant.executor import python_api
from cotenant.executor.backend import Backend, Kernel, Model, Placement, Responses, Tensors
from cotenant.executor.python_api import InferenceRequest, InferenceResponse
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.clock import now_ns
from cotenant.runtime.plain import plain

FILE = "model.py"
_CANCEL_POLL_S = 0.05  # how often a model whose threads are to send more is asked about


class PythonModel:
    """See the module's text."""

    signature = None
    memory_bytes = 0
    inline = timed_anytime = False

    def __init__(self, instances: list[Any], outputs: list[str], *, decoupled: bool) -> None:
        self._instances = instances
        self._outputs = outputs
        self._decoupled = decoupled
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for instance in instances:
            self._free.put(instance)

    def run(self, inputs: Tensors) -> Tensors:
        """See `Model.run`."""
        if self._decoupled:
            last = _Last(self._outputs)
            self.stream(inputs, last)
            return last.outputs
        request = InferenceRequest(inputs, self._outputs, None)
        told = self._execute(request)
        if not isinstance(told, list | tuple) or len(told) != 1 or not isinstance(told[0], InferenceResponse):
            raise TypeError("expected 'execute' to return a list with one InferenceResponse for each request")
        if (error := told[0].error()) is not None:
            raise RuntimeError(error.message())
        return python_api.arrays(told[0].output_tensors())

    def stream(self, inputs: Tensors, responses: Responses) -> None:
        """See `DecoupledModel.stream`: ends when the model has said that a response was the last."""
        request = InferenceRequest(inputs, responses.requested, responses)
        told = self._execute(request)
        if told is not None:
            raise TypeError("expected 'execute' of a decoupled model to return None: responses go to its sender")
        sender = request.get_response_sender()
        while not sender.closed.wait(_CANCEL_POLL_S):
            if responses.cancelled:
                return

    def _execute(self, request: InferenceRequest) -> Any:
        instance = self._free.get()
        try:
            return instance.execute([request])
        finally:
            self._free.put(instance)

    def prepare_timed(self, inputs: Tensors) -> None:
        """See `Model.prepare_timed`: nothing is needed."""

    def run_timed(self, inputs: Tensors) -> tuple[Tensors, list[Kernel]]:
        """See `Model.run_timed`: what happens inside is the model's own, and counts as one."""
        started_ns = now_ns()
        outputs = self.run(inputs)
        return outputs, [Kernel("execute", 0, now_ns() - started_ns)]

    def counted(self) -> None:
        """See `Model.counted`: nothing can be counted."""

    def close(self) -> None:
        """Has each instance clean up."""
        for instance in self._instances:
            if hasattr(instance, "finalize"):
                instance.finalize()


class _Last:
    """Keeps the last response, for measurements."""

    cancelled = False

    def __init__(self, requested: list[str]) -> None:
        self.requested = tuple(requested)
        self.outputs: Tensors = {}

    def send(self, outputs: Tensors, *, final: bool = False) -> None:
        """See `Responses.send`."""
        del final
        self.outputs = outputs

    def send_error(self, message: str) -> None:
        """See `Responses.send_error`: what is measured has no other use."""


class PythonBackend:
    """See the module's text."""

    def load(self, folder: Path, config: pb.ModelConfig, placement: Placement) -> Model:
        """See `Backend.load`. Raises ValueError for a file without the class, and what its `initialize` raises."""
        if not config.input or not config.output:
            raise ValueError(f"model '{config.name}': a model in Python needs inputs and outputs in its configuration")
        kind = _class_of(folder / (config.default_model_filename or FILE), config.name)
        decoupled = config.model_transaction_policy.decoupled
        count = sum(max(1, group.count) for group in config.instance_group) or 1
        if not config.instance_group and not decoupled:
            config.instance_group.add(count=1)  # more could only wait for the one there is
        instances = [_made(kind, config, folder, placement, index) for index in range(count)]
        return PythonModel(instances, [spec.name for spec in config.output], decoupled=decoupled)


_importing = threading.Lock()  # each file is imported under a name of its own


def _class_of(file: Path, name: str) -> Any:
    python_api.install()
    unique = f"cotenant_model_{abs(hash(file.resolve()))}"
    with _importing:
        spec = importlib.util.spec_from_file_location(unique, file)
        if spec is None or spec.loader is None or not file.is_file():
            raise ValueError(f"model '{name}': there is no {file.name} in its version's folder")
        module = importlib.util.module_from_spec(spec)
        sys.modules[unique] = module
        spec.loader.exec_module(module)
    kind = getattr(module, "TritonPythonModel", None)
    if not callable(getattr(kind, "execute", None)):
        raise ValueError(f"model '{name}': {file.name} has no class TritonPythonModel with a method execute")
    return kind


def _made(kind: Any, config: pb.ModelConfig, folder: Path, placement: Placement, index: int) -> Any:
    """One instance, initialised with what Triton tells it: texts, the configuration as JSON."""
    instance = kind()
    if hasattr(instance, "initialize"):
        instance.initialize(
            {
                "model_config": json.dumps(plain(config)),
                "model_instance_kind": "GPU" if placement.kind == "cuda" else "CPU",
                "model_instance_name": f"{config.name}_{index}",
                "model_instance_device_id": str(placement.index),
                "model_repository": str(folder.parent),
                "model_version": folder.name,
                "model_name": config.name,
            }
        )
    return instance


def make() -> Backend:
    """The backend."""
    return PythonBackend()
