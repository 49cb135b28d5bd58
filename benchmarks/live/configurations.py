"""The configurations whose live runs are simulated: devices, models, load, burstiness, policy.

Loads lie around where each policy stops keeping all SLOs on the machine of docs/experiments/fidelity.md, so that there
is something to get wrong. Real models run on this machine's CPU; the emulated GPU is a law in an executor of its own,
four times as slow as the GPU it was measured on, so that what the services cost does not decide.
"""

from dataclasses import dataclass
from pathlib import Path

from mixes import Loaded, promise, write_models

CPU, EMULATED = "cpu", "emulated"
TIME_SCALE = 4.0

EMULATED_MODEL = """\
backend: "emulated"
max_batch_size: 8
input [{{ name: "INPUT0" data_type: TYPE_FP32 dims: [ 16 ] }}]
output [{{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 1 ] }}]
dynamic_batching {{}}
parameters {{ key: "personality" value {{ string_value: "{name}" }} }}
parameters {{ key: "time_scale" value {{ string_value: "{scale}" }} }}
parameters {{ key: "slo_ms" value {{ string_value: "{slo_ms}" }} }}
"""

GPU_MODELS = (  # model, requests/s at scale 1, SLO in ms
    Loaded("resnet50", 10, 160, 0),
    Loaded("mobilenet_v2", 20, 80, 0),
    Loaded("bert", 1, 1200, 0),
    Loaded("transformer_xl", 2.5, 360, 0),
)
ONNX_MODELS = (
    Loaded("resnet_small", 50, 50, 2.9),
    Loaded("yolov8_small", 40, 60, 3.4),
    Loaded("vit_small", 35, 70, 3.9),
)
ONNX_LARGE = (
    Loaded("resnet50", 6, 400, 41.9),
    Loaded("yolov8n", 5, 500, 46.8),
    Loaded("resnet_small", 40, 60, 2.9),
)
TORCH_MODELS = (
    Loaded("resnet_small_torch", 15, 120, 15.9),
    Loaded("vit_small_torch", 20, 105, 8.9),
    Loaded("convnext_small_torch", 20, 100, 8.6),
)


@dataclass(frozen=True)
class Configuration:
    """One live run to be simulated; `scale` multiplies the rates of `models`."""

    device: str
    models: tuple[Loaded, ...]
    policy: str
    scale: float
    cv: float = 1.0

    @property
    def name(self) -> str:
        """What tells it from the others."""
        kind = {GPU_MODELS: "emulated GPU", ONNX_MODELS: "onnx", ONNX_LARGE: "onnx, large", TORCH_MODELS: "torch"}
        burst = f", CV {self.cv:g}" if self.cv != 1.0 else ""
        return f"{kind[self.models]}, {self.policy} x{self.scale:g}{burst}"

    @property
    def rates(self) -> dict[str, float]:
        """Requests per s, by model."""
        return {loaded.model: loaded.rate * self.scale for loaded in self.models}


CONFIGURATIONS = (
    Configuration(EMULATED, GPU_MODELS, "goodput", 6),
    Configuration(EMULATED, GPU_MODELS, "goodput", 9),
    Configuration(EMULATED, GPU_MODELS, "goodput", 5, cv=4),
    Configuration(EMULATED, GPU_MODELS, "edf", 6),
    Configuration(EMULATED, GPU_MODELS, "exclusive-fifo", 2),
    Configuration(EMULATED, GPU_MODELS, "clockwork", 3),
    Configuration(EMULATED, GPU_MODELS, "triton", 7),
    Configuration(EMULATED, GPU_MODELS, "edf-fixed", 5, cv=2),
    Configuration(CPU, ONNX_MODELS, "goodput", 2.5),
    Configuration(CPU, ONNX_MODELS, "exclusive-fifo", 1.6),
    Configuration(CPU, ONNX_MODELS, "edf-fixed", 2.2, cv=3),
    Configuration(CPU, ONNX_LARGE, "goodput", 2),
    Configuration(CPU, TORCH_MODELS, "goodput", 1.6),
    Configuration(CPU, TORCH_MODELS, "exclusive-fifo", 1, cv=2),
)


def repository(configuration: Configuration, folder: Path) -> Path:
    """A folder with the configuration's models, made where they are not there."""
    if configuration.device == CPU:
        names = [loaded.model.removesuffix("_torch") for loaded in configuration.models]
        write_models(folder / "models", names, "both" if configuration.models is TORCH_MODELS else "onnx")
        promise(folder / "models", configuration.models)
        return folder / "models"
    root = folder / "emulated"
    for loaded in configuration.models:
        (root / loaded.model / "1").mkdir(parents=True, exist_ok=True)
        text = EMULATED_MODEL.format(name=loaded.model, scale=TIME_SCALE, slo_ms=loaded.slo_ms)
        (root / loaded.model / "config.pbtxt").write_text(text, encoding="utf-8")
    return root
