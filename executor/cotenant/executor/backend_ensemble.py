"""Ensembles are loaded like models, so that they are known, and run by frontends, step by step; never here."""

from pathlib import Path

from cotenant.executor.backend import Backend, Kernel, Model, Placement, Tensors
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime import ensembles


class EnsembleModel:
    """A configuration that makes sense, and nothing to run."""

    signature = None
    memory_bytes = 0
    inline = True
    timed_anytime = True

    def run(self, inputs: Tensors) -> Tensors:
        """Raises RuntimeError: a frontend that knows of ensembles does not ask for this."""
        del inputs
        raise RuntimeError("an ensemble is run by the frontend, which is older than this executor")

    def prepare_timed(self, inputs: Tensors) -> None:
        """See `Model.prepare_timed`: nothing is needed."""
        del inputs

    def run_timed(self, inputs: Tensors) -> tuple[Tensors, list[Kernel]]:
        """See `run`."""
        return self.run(inputs), []

    def counted(self) -> None:
        """See `Model.counted`: nothing to count."""

    def close(self) -> None:
        """Nothing to free."""


class EnsembleBackend:
    """See the module's text."""

    def load(self, folder: Path, config: pb.ModelConfig, placement: Placement) -> Model:
        """See `Backend.load`. Raises ValueError where the steps make no sense."""
        del folder, placement
        ensembles.check(config)
        config.platform = "ensemble"
        return EnsembleModel()


def make() -> Backend:
    """The backend."""
    return EnsembleBackend()
