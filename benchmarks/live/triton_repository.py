"""Makes of a repository of ours one for Triton's Python backend: the same ONNX files, batched and bounded its way.

What an operator of Triton can tell it about SLOs is a queue timeout for each model. It is set to what the SLO leaves
once the model itself is paid for, so that a request that can no longer be in time is not run: more than that Triton
does not know. Texts of different lengths may share a batch (`allow_ragged_batch`), as the model pads them itself.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from mixes import Mix

from cotenant.inference import inference_pb2 as pb

MODEL = Path(__file__).with_name("triton_model.py")
OURS = ("slo_ms", "profile_batch_sizes")  # parameters that say nothing to the Python model


@dataclass(frozen=True)
class Tuning:
    """What a sweep varies: instances of each model."""

    instances: int

    def __str__(self) -> str:
        return f"{self.instances} instance{'s' if self.instances > 1 else ''}"


def write(mix: Mix, repository: Path, target: Path, tuning: Tuning, threads: int) -> Path:
    """Writes the repository `target` for a mix. Raises OSError where a model is not in `repository`."""
    shutil.rmtree(target, ignore_errors=True)
    for loaded in mix.models:
        source, folder = repository / loaded.model, target / loaded.model
        (folder / "1").mkdir(parents=True)
        (folder / "1" / "model.onnx").symlink_to((source / "1" / "model.onnx").resolve())
        shutil.copy(MODEL, folder / "1" / "model.py")
        config = text_format.Parse((source / "config.pbtxt").read_text(encoding="utf-8"), pb.ModelConfig())
        left_ms = loaded.slo_ms - loaded.solo_ms
        text = text_format.MessageToString(configured(config, tuning, left_ms, threads))
        (folder / "config.pbtxt").write_text(text, encoding="utf-8")
    return target


def configured(config: pb.ModelConfig, tuning: Tuning, queue_ms: float, threads: int) -> pb.ModelConfig:
    """A model's configuration for Triton, `queue_ms` being how long a request may wait."""
    config.backend = "python"
    config.instance_group.add(count=tuning.instances, kind=pb.ModelInstanceGroup.KIND_CPU)
    for name in OURS:
        config.parameters.pop(name, None)
    config.parameters["threads"].string_value = str(threads)
    for tensor in config.input:
        tensor.allow_ragged_batch = -1 in tensor.dims
    config.dynamic_batching.SetInParent()
    policy = config.dynamic_batching.default_queue_policy
    policy.timeout_action = pb.ModelQueuePolicy.REJECT
    policy.default_timeout_microseconds = round(queue_ms * 1000)
    return config
