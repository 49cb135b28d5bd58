"""What models written for Triton's Python backend import as `triton_python_backend_utils`: the part that is served.

Names and behaviour are Triton's, so that the same `model.py` runs on both. Tensors are numpy arrays on the CPU.
"""

import logging
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from cotenant.executor.backend import Responses, Tensors
from cotenant.runtime.datatypes import NUMPY, Array

NAME = "triton_python_backend_utils"
TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
_MODEL_LOG = logging.getLogger(NAME)


class TritonError:
    """Why a request failed."""

    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self._message, self._code = str(message), code

    def message(self) -> str:
        """The text."""
        return self._message

    def code(self) -> int:
        """One of the codes above."""
        return self._code

    def __str__(self) -> str:
        return self._message


class TritonModelException(Exception):  # noqa: N818 (Triton's name)
    """What a model may raise."""


class Tensor:
    """A named array. Text is told as bytes or as str."""

    def __init__(self, name: str, array: Array) -> None:
        self._name, self._array = name, np.asarray(array)

    def name(self) -> str:
        """Its name."""
        return self._name

    def as_numpy(self) -> Array:
        """Its values; elements of BYTES are bytes."""
        return self._array

    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self._array.shape

    def is_cpu(self) -> bool:
        """All of them are."""
        return True


class InferenceResponse:
    """Outputs, or an error."""

    def __init__(self, output_tensors: Iterable[Tensor] = (), error: TritonError | None = None) -> None:
        self._outputs, self._error = list(output_tensors or ()), error

    def output_tensors(self) -> list[Tensor]:
        """The outputs."""
        return self._outputs

    def has_error(self) -> bool:
        """Whether it is an error."""
        return self._error is not None

    def error(self) -> TritonError | None:
        """The error."""
        return self._error


class ResponseSender:
    """Where a decoupled model puts its responses to a request, from any thread."""

    def __init__(self, responses: Responses) -> None:
        self._responses = responses
        self.closed = threading.Event()

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        """One response, the end (`flags` is TRITONSERVER_RESPONSE_COMPLETE_FINAL), or both."""
        if self.closed.is_set():
            raise TritonModelException("Unable to send response. Response sender has been closed.")
        final = flags == TRITONSERVER_RESPONSE_COMPLETE_FINAL
        if response is None and not final:
            raise TritonModelException("Inference Response object must be provided when the response flags is set to 0")
        error = response.error() if response else None
        if error is not None:
            self._responses.send_error(error.message())
        elif response is not None:
            self._responses.send(arrays(response.output_tensors()), final=final)
        if final:
            self.closed.set()

    def is_cancelled(self) -> bool:
        """Whether nobody waits any more."""
        return self._responses.cancelled


class InferenceRequest:
    """The inputs that a model gets: of one request, or of several that run as one batch."""

    def __init__(self, inputs: Tensors, requested: Sequence[str], responses: Responses | None) -> None:
        self._inputs, self._requested, self._responses = inputs, list(requested), responses
        self.sender = ResponseSender(responses) if responses is not None else None

    def inputs(self) -> list[Tensor]:
        """All inputs."""
        return [Tensor(name, array) for name, array in self._inputs.items()]

    def requested_output_names(self) -> list[str]:
        """Names of the outputs that are wanted."""
        return self._requested

    def get_response_sender(self) -> ResponseSender:
        """Where responses go. Raises TritonModelException where the model is not decoupled."""
        if self.sender is None:
            raise TritonModelException("'get_response_sender' function can be called only when the model is decoupled")
        return self.sender

    def is_cancelled(self) -> bool:
        """Whether nobody waits any more; a request that shares a batch runs out."""
        return self._responses.cancelled if self._responses else False

    def request_id(self) -> str:
        """Not told to executors."""
        return ""

    def correlation_id(self) -> int:
        """Sequences are served by inputs and state (docs/protocol.md)."""
        return 0

    def parameters(self) -> str:
        """Parameters of clients are not told to executors; as JSON."""
        return "{}"


class Logger:
    """Lines in the executor's log."""

    @staticmethod
    def log(message: str, level: int = logging.INFO) -> None:
        """A line."""
        _MODEL_LOG.log(level, message)

    log_info = staticmethod(_MODEL_LOG.info)
    log_warn = staticmethod(_MODEL_LOG.warning)
    log_error = staticmethod(_MODEL_LOG.error)
    log_verbose = staticmethod(_MODEL_LOG.debug)


def arrays(tensors: Iterable[Tensor]) -> Tensors:
    """Tensors as the executor has them. Text, which numpy may hold in several ways, becomes objects."""
    found = {tensor.name(): tensor.as_numpy() for tensor in tensors}
    return {name: array.astype(np.object_) if array.dtype.kind in "SU" else array for name, array in found.items()}


def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None:
    """An input; None if the request has it not."""
    return next((tensor for tensor in request.inputs() if tensor.name() == name), None)


def get_output_tensor_by_name(response: InferenceResponse, name: str) -> Tensor | None:
    """An output; None if the response has it not."""
    return next((tensor for tensor in response.output_tensors() if tensor.name() == name), None)


def get_input_config_by_name(config: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """What a model's configuration says of an input."""
    return next((one for one in config.get("input", ()) if one["name"] == name), None)


def get_output_config_by_name(config: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """What a model's configuration says of an output."""
    return next((one for one in config.get("output", ()) if one["name"] == name), None)


def using_decoupled_model_transaction_policy(config: Mapping[str, Any]) -> bool:
    """Whether a model may answer a request more than once."""
    return bool(config.get("model_transaction_policy", {}).get("decoupled", False))


def triton_string_to_numpy(data_type: str) -> Any:
    """What numpy has for "TYPE_FP32" and the like; None for one that numpy has not."""
    name = data_type.removeprefix("TYPE_")
    if name in ("BF16", "INVALID"):
        return None
    return NUMPY["BYTES" if name == "STRING" else name].type


def install() -> None:
    """Lets models import it by Triton's name."""
    if NAME not in sys.modules:
        module = ModuleType(NAME, __doc__)
        module.__dict__.update({key: value for key, value in globals().items() if not key.startswith("_")})
        sys.modules[NAME] = module
