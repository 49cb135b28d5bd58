"""What runs: models in a repository, loaded on a device as an executor loads them, and batches of them one at a time.

Everything goes through the executor's own backends and devices, so what is measured is what serves.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from script import BUILD, Options

from cotenant.executor import completion, kernel_timing, repository
from cotenant.executor.backend import Kernel, Model, PreparedModel, Tensors, find_backend
from cotenant.executor.device import Device, Ran, open_device
from cotenant.executor.emulated_gpu import personalities
from cotenant.executor.profile import classes
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.estimates import BatchClass

PAPER = ("resnet50", "yolov8n", "roberta_base", "vit_b16", "vgg19", "convnext_base")  # the seed paper's six
SMALL = ("resnet_small", "yolov8_small", "roberta_small", "vit_small", "vgg_small", "convnext_small")
SIZES = (1, 2, 4, 8)
TOKENS = 128  # of text, where a script takes one length only
EMULATED = """\
backend: "emulated"
max_batch_size: 8
input [{{ name: "INPUT0" data_type: TYPE_FP32 dims: [ 16 ] }}]
output [{{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 1 ] }}]
dynamic_batching {{}}
parameters {{ key: "personality" value {{ string_value: "{name}" }} }}
"""


def models_of(kind: str) -> tuple[str, ...]:
    """The models to measure on a kind of device."""
    if kind == "emulated":
        return tuple(personalities())
    return PAPER if kind == "cuda" else SMALL


def prepare(options: Options, *, form: str = "torch") -> tuple[Path, tuple[str, ...]]:
    """A repository that holds the models, made where they are not there, and their names.

    Raises ValueError if a repository that was given lacks one.
    """
    names = options.models or (models_of(options.kind) if options.repository is None else ())
    if options.repository is not None:
        there = repository.scan(options.repository)
        if missing := [name for name in names if name not in there]:
            raise ValueError(f"--repository {options.repository} has no model {', '.join(missing)}")
        return options.repository, names or tuple(there)
    root = BUILD / "models" / (options.kind if options.kind == "emulated" else form)
    if options.kind == "emulated":
        for name in names:
            (root / name / "1").mkdir(parents=True, exist_ok=True)
            (root / name / "config.pbtxt").write_text(EMULATED.format(name=name), encoding="utf-8")
    else:
        from cotenant.executor.zoo import write

        write(root, names, form=form, tell=lambda line: print(line, flush=True))
    return root, names


def open_(options: Options, *, concurrency: int) -> Device:
    """The device to measure on, as an executor opens it. Raises ValueError if it is not there."""
    cache = BUILD / "cache"
    return open_device(options.kind, options.index, concurrency=concurrency, threads=1, seed=0, cache=cache)


@dataclass
class Loaded:
    """A model on the device."""

    config: pb.ModelConfig
    model: Model
    load_ns: int
    inputs: dict[BatchClass, Tensors] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the model."""
        return str(self.config.name)

    def chosen(self, sizes: Iterable[int] = SIZES, *, tokens: int = 0) -> list[BatchClass]:
        """Classes of these batch sizes; of text only the bucket of `tokens`, or the largest if it is not there."""
        known = [one for one in self.inputs if one.batch_size in set(sizes)]
        if not tokens:
            return known
        buckets = {one.shape_bucket for one in known}
        wanted = str(tokens) if str(tokens) in buckets else max(buckets, key=lambda b: int(b or 0), default="")
        return [one for one in known if one.shape_bucket == wanted]


def load(device: Device, root: Path, name: str) -> Loaded:
    """Loads a model's first version, as an executor does. Raises what goes wrong."""
    started_ns = time.monotonic_ns()
    config = repository.read_config(root / name)
    config.backend = repository.backend_name(config, root / name / "1")
    model = find_backend(config.backend).load(root / name / "1", config, device.placement)
    completion.complete(config, model.signature, 8)
    inputs = dict(classes(config, "1"))
    if isinstance(model, PreparedModel):
        model.prepare(inputs.values())
    return Loaded(config, model, time.monotonic_ns() - started_ns, inputs)


def label(known: BatchClass) -> str:
    """A class in results: model:batch size, and :tokens for text."""
    bucket = f":{known.shape_bucket}" if known.shape_bucket else ""
    return f"{known.model}:{known.batch_size}{bucket}"


class Batch:
    """A job that is measured instead of answered."""

    _ids: Iterator[int] = iter(range(1, 2**62))

    def __init__(self, known: BatchClass, model: Model, inputs: Tensors, *, timed: bool = False) -> None:
        self.batch_id, self.batch_class, self.model, self.timed = next(Batch._ids), known, model, timed
        self._inputs = inputs
        self._ran: Ran | None = None

    def gather(self) -> Tensors:
        """See `Job.gather`."""
        return self._inputs

    def started(self, at_ns: int) -> None:
        """Nobody waits for it."""

    def scatter(self, outputs: Tensors, ran: Ran) -> None:
        """Keeps the measurement."""
        del outputs
        self._ran = ran

    @property
    def ran(self) -> Ran:
        """How it ran."""
        assert self._ran is not None
        return self._ran


def events_only(device: Device) -> None:
    """From now on, timing inside a batch means CUDA events around it: kernel by kernel it would cost more than that."""
    if device.placement.kind == "cuda":
        kernel_timing.of_process.on = False


def takes_events(device: Device, model: Model) -> bool:
    """Whether a batch is to be timed by CUDA events as well."""
    return device.placement.kind == "cuda" and model.timed_anytime and not kernel_timing.of_process.on


def events_ns(kernels: Sequence[Kernel]) -> list[int]:
    """Durations between CUDA events: copies to the device, execution, copies back; empty for any other timings."""
    told = len(kernels) == 3 and kernels[0].name == "copy inputs"
    return [kernel.duration_ns for kernel in kernels] if told else []


async def run(device: Device, loaded: Loaded, known: BatchClass, *, timed: bool = False) -> Ran:
    """One batch, beside whatever else runs."""
    batch = Batch(known, loaded.model, loaded.inputs[known], timed=timed)
    await device.execute(batch)
    return batch.ran


async def run_alone(device: Device, loaded: Loaded, known: BatchClass, times: int, *, timed: bool = False) -> list[Ran]:
    """Batches that follow each other."""
    return [await run(device, loaded, known, timed=timed) for _ in range(times)]
