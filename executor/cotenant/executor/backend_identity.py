"""Outputs are the inputs, of any datatype and shape; `execute_delay_ms` makes it take as long as a model would."""

import time
from pathlib import Path

from cotenant.executor.backend import Backend, Kernel, Model, Placement, Tensors
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime import model_options


class IdentityModel:
    """Input i becomes output i."""

    signature = None
    memory_bytes = 0
    timed_anytime = True

    def __init__(self, pairs: list[tuple[str, str]], delay_ns: int) -> None:
        self.inline = delay_ns == 0
        self._pairs = pairs
        self._delay_s = delay_ns / 1e9

    def run(self, inputs: Tensors) -> Tensors:
        """See `Model.run`."""
        if self._delay_s:
            time.sleep(self._delay_s)
        return {target: inputs[source] for source, target in self._pairs if source in inputs}

    def prepare_timed(self, inputs: Tensors) -> None:
        """See `Model.prepare_timed`: nothing is needed."""
        del inputs

    def run_timed(self, inputs: Tensors) -> tuple[Tensors, list[Kernel]]:
        """See `Model.run_timed`."""
        started = time.monotonic_ns()
        outputs = self.run(inputs)
        return outputs, [Kernel("identity", 0, time.monotonic_ns() - started)]

    def counted(self) -> None:
        """See `Model.counted`: nothing to count."""

    def close(self) -> None:
        """Nothing to free."""


class IdentityBackend:
    """See the module's text."""

    def load(self, folder: Path, config: pb.ModelConfig, placement: Placement) -> Model:
        """See `Backend.load`. Raises ValueError if inputs and outputs do not pair up."""
        del folder, placement
        if len(config.input) != len(config.output) or not config.input:
            raise ValueError(f"model '{config.name}': identity needs as many outputs as inputs, and at least one")
        pairs = list(zip(config.input, config.output, strict=True))
        for source, target in pairs:
            if source.data_type != target.data_type or list(source.dims) != list(target.dims):
                raise ValueError(f"model '{config.name}': '{target.name}' must have type and dims of '{source.name}'")
        delay_ns = model_options.read(config).execute_delay_ns
        return IdentityModel([(source.name, target.name) for source, target in pairs], delay_ns)


def make() -> Backend:
    """The backend."""
    return IdentityBackend()
