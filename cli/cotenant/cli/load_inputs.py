"""What is sent: real samples that lie beside a model, or contents made up from its configuration.

`NAME/samples.npz` in a repository holds one array per input and sample, under `<input>.<i>` for i from 0, without the
batch dimension. Requests are made before the load begins, and used over and over: making them costs no time between
arrivals.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from cotenant.cli.load_arrivals import generator
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime import model_options
from cotenant.runtime.datatypes import NUMPY, Array

POOL_BYTES = 64 * 2**20  # of requests kept for one model: larger inputs get fewer different ones
POOL_REQUESTS = 256
MADE_UP_LENGTH = 16  # of a variable dimension whose model declares no buckets

Tensors: TypeAlias = Mapping[str, Array]  # by input; with the batch dimension where the model batches


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a model."""

    name: str
    datatype: str
    dims: tuple[int, ...]  # without the batch, -1 where variable
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """What must be known of a model to send it requests."""

    name: str
    inputs: tuple[Input, ...]
    batches: bool  # shapes start with the number of items
    max_batch_size: int
    slo_ms: float  # 0 if it has none
    buckets: tuple[int, ...] = ()

    @classmethod
    def of_config(cls, config: pb.ModelConfig) -> "Model":
        """Reads a configuration. Raises ValueError where our parameters in it make no sense."""
        options = model_options.read(config)
        inputs = tuple(Input(t.name, _datatype(t.data_type), tuple(t.dims), t.optional) for t in config.input)
        size = config.max_batch_size
        return cls(config.name, inputs, size > 0, max(1, size), options.slo_ns / 1e6, options.shape_buckets)

    @classmethod
    def of_metadata(cls, metadata: pb.ModelMetadataResponse) -> "Model":
        """Reads what a server tells that has no configurations: a leading -1 of all inputs is taken for the batch."""
        batches = bool(metadata.inputs) and all(t.shape and t.shape[0] == -1 for t in metadata.inputs)
        inputs = tuple(Input(t.name, t.datatype, tuple(t.shape[1 if batches else 0 :])) for t in metadata.inputs)
        return cls(metadata.name, inputs, batches, 2**31 if batches else 1, 0.0)


def _datatype(number: int) -> str:
    name = pb.DataType.Name(pb.DataType.ValueType(number)).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def requests(model: Model, batch: int, samples: Path | None, seed: int) -> list[Tensors]:
    """The inputs of the requests that are sent over and over.

    Raises:
        ValueError: Where the model cannot take so many items, or its samples are not what it takes.
    """
    if batch > model.max_batch_size:
        raise ValueError(f"model '{model.name}': batch is {batch}, but it takes up to {model.max_batch_size}")
    rng = generator(seed, f"inputs of {model.name}")
    items = read_samples(model, samples) if samples else []
    pool = _of_samples(items, batch, rng) if items else _made_up(model, batch, rng)
    chosen: list[Tensors] = []
    total = 0
    for item in pool:
        chosen.append(item if model.batches else {name: array[0] for name, array in item.items()})
        total += sum(array.nbytes for array in item.values())
        if total >= POOL_BYTES or len(chosen) >= POOL_REQUESTS:
            break
    return chosen


def read_samples(model: Model, repository: Path) -> list[Tensors]:
    """The samples of a model, none if there is no such file. Raises ValueError that names file and array."""
    path = repository / model.name / "samples.npz"
    if not path.exists():
        return []
    required = {t.name for t in model.inputs if not t.optional}
    kinds = {t.name: NUMPY[t.datatype] for t in model.inputs}
    found: dict[int, dict[str, Array]] = {}
    with np.load(path, allow_pickle=False) as file:
        for key in file.files:
            name, _, number = key.rpartition(".")
            if name not in kinds:
                continue
            array = file[key]
            if kinds[name] != np.object_ and array.dtype != kinds[name]:
                raise ValueError(f"{path}: {key} is {array.dtype}, but model '{model.name}' takes {kinds[name]}")
            found.setdefault(int(number), {})[name] = array.astype(kinds[name], copy=False)
    for number, tensors in found.items():
        if missing := required - set(tensors):
            raise ValueError(f"{path}: sample {number} lacks {', '.join(sorted(missing))}")
    if not found:
        raise ValueError(f"{path}: there is no array named <input>.<number> with one of {', '.join(sorted(kinds))}")
    return [found[number] for number in sorted(found)]


def _of_samples(items: list[Tensors], batch: int, rng: np.random.Generator) -> Iterator[Tensors]:
    """Every sample once as the first of a batch, filled up with others of the same shapes."""
    alike: dict[tuple[tuple[int, ...], ...], list[Tensors]] = {}
    for item in items:
        alike.setdefault(tuple(array.shape for array in item.values()), []).append(item)
    for item in (items[i] for i in rng.permutation(len(items))):
        others = alike[tuple(array.shape for array in item.values())]
        group = [item, *(others[i] for i in rng.integers(len(others), size=batch - 1))]
        yield {name: np.stack([member[name] for member in group]) for name in item}


def _made_up(model: Model, batch: int, rng: np.random.Generator) -> Iterator[Tensors]:
    """Noise for floats; ones for integers, which are a valid token and a mask that is set. Buckets take turns."""
    lengths = model.buckets or (MADE_UP_LENGTH,)
    for i in range(POOL_REQUESTS):
        length = lengths[i % len(lengths)]
        yield {
            t.name: _contents(t.datatype, (batch, *(length if d < 0 else d for d in t.dims)), rng)
            for t in model.inputs
            if not t.optional
        }


def _contents(datatype: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    kind = NUMPY[datatype]
    if datatype == "BYTES":
        texts = np.empty(math.prod(shape), dtype=np.object_)
        texts[:] = [rng.bytes(8).hex().encode() for _ in range(len(texts))]
        return texts.reshape(shape)
    if datatype == "BOOL":
        return rng.integers(0, 2, shape).astype(kind)
    if datatype == "BF16":  # the upper half of FP32
        return (rng.standard_normal(shape, dtype=np.float32).view(np.uint32) >> 16).astype(kind)
    if kind.kind == "f":
        return rng.standard_normal(shape, dtype=np.float32).astype(kind)
    return np.ones(shape, dtype=kind)
