"""Models that run on the emulated GPU: kernels of a personality, and outputs that prove whose inputs they came from.

`parameters` of the configuration: `personality` (resnet50, resnet101, mobilenet_v2, efficientnet, bert, retinanet,
transformer_xl), `time_scale` (durations are multiplied by it; default 1). Every element of an item's outputs is the
sum of the bytes of that item's inputs, modulo 251: wrong routing, padding or splitting shows.
"""

from pathlib import Path

import numpy as np

from cotenant.executor.backend import Backend, Kernel, Model, Placement, Tensors
from cotenant.executor.emulated_gpu import Kernel as EmulatedKernel
from cotenant.executor.emulated_gpu import personalities
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.datatypes import NUMPY, Array, join_bytes


class EmulatedModel:
    """Kernels for the device, checksums for the client. The executor's emulated device takes the time."""

    signature = None
    inline = False
    timed_anytime = True
    memory_bytes = 256 * 2**20  # the models the personalities were measured on are of this order

    def __init__(self, config: pb.ModelConfig, personality: str, time_scale: float) -> None:
        self._personality = personalities()[personality]
        self._time_scale = time_scale
        self._batched = config.max_batch_size > 0
        self._outputs = [
            (tensor.name, pb.DataType.Name(tensor.data_type).removeprefix("TYPE_"), list(tensor.dims))
            for tensor in config.output
        ]

    def kernels(self, batch_size: int) -> list[EmulatedKernel]:
        """What a batch runs on the device."""
        return [k._replace(duration_ns=k.duration_ns * self._time_scale) for k in self._personality.kernels(batch_size)]

    def run(self, inputs: Tensors) -> Tensors:
        """See `Model.run`; takes no emulated time."""
        items = len(next(iter(inputs.values()))) if self._batched else 1
        sums = [0] * items
        for array in inputs.values():
            for i in range(items):
                sums[i] = (sums[i] + _byte_sum(array[i] if self._batched else array)) % 251
        return {name: self._fill(sums, datatype, dims) for name, datatype, dims in self._outputs}

    def _fill(self, sums: list[int], datatype: str, dims: list[int]) -> Array:
        shape = [1 if d < 0 else d for d in dims]
        kind = NUMPY["BYTES" if datatype == "STRING" else datatype]
        rows = [np.full(shape, str(s).encode() if kind == np.object_ else s, dtype=kind) for s in sums]
        return np.stack(rows) if self._batched else rows[0]

    def prepare_timed(self, inputs: Tensors) -> None:
        """See `Model.prepare_timed`: nothing is needed."""
        del inputs

    def run_timed(self, inputs: Tensors) -> tuple[Tensors, list[Kernel]]:
        """See `Model.run_timed`; the device adds the timings."""
        return self.run(inputs), []

    def counted(self) -> None:
        """See `Model.counted`: nothing to count."""

    def close(self) -> None:
        """Nothing to free."""


def _byte_sum(array: Array) -> int:
    data = join_bytes(np.ravel(array)) if array.dtype == np.object_ else np.ascontiguousarray(array).tobytes()
    return int(np.frombuffer(data, dtype=np.uint8).sum(dtype=np.int64))


class EmulatedBackend:
    """See the module's text."""

    def load(self, folder: Path, config: pb.ModelConfig, placement: Placement) -> Model:
        """See `Backend.load`. Raises ValueError for a personality that does not exist, or another device."""
        del folder
        if placement.kind != "emulated":
            raise ValueError(f"model '{config.name}': backend 'emulated' runs only on an emulated device")
        if not config.input or not config.output:
            raise ValueError(f"model '{config.name}': backend 'emulated' needs inputs and outputs in config.pbtxt")
        name = config.parameters["personality"].string_value
        if name not in personalities():
            known = ", ".join(sorted(personalities()))
            raise ValueError(f"model '{config.name}': parameter 'personality' is {name!r}, expected one of {known}")
        scale = config.parameters["time_scale"].string_value if "time_scale" in config.parameters else "1"
        try:
            time_scale = float(scale)
        except ValueError:
            time_scale = 0.0
        if not 0 < time_scale < 1e6:
            raise ValueError(f"model '{config.name}': parameter 'time_scale' is {scale!r}, expected a positive number")
        return EmulatedModel(config, name, time_scale)


def make() -> Backend:
    """The backend."""
    return EmulatedBackend()
