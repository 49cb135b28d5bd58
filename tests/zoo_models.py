"""Models of the zoo for tests: written once, loaded as an executor loads them, with their samples."""

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cotenant.executor import completion, repository
from cotenant.executor.backend import Model, Placement, Tensors, find_backend
from cotenant.executor.zoo import MODELS, build, write
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime import model_options
from cotenant.runtime.datatypes import Array


@pytest.fixture(scope="session")
def zoo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for repositories that tests share; parallel test processes share one."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "zoo"


def made(root: Path, name: str, form: str) -> Path:
    """The folder of a model in that format, written if it is not there."""
    write(root / form, [name], form=form, tell=lambda _: None)
    return root / form / name


def loaded(folder: Path) -> tuple[pb.ModelConfig, Model]:
    """A model as an executor loads it."""
    config = repository.read_config(folder)
    backend = find_backend(repository.backend_name(config, folder / "1"))
    model = backend.load(folder / "1", config, Placement("cpu", 0, 1, 0))
    completion.complete(config, model.signature, 8)
    return config, model


def samples(folder: Path) -> list[Tensors]:
    """The requests that lie beside a model, without the batch."""
    with np.load(folder / "samples.npz", allow_pickle=False) as file:
        names = [key.removesuffix(".0") for key in file.files if key.endswith(".0")]
        return [{name: file[f"{name}.{i}"] for name in names} for i in range(len(file.files) // len(names))]


def batch_of(config: pb.ModelConfig, requests: list[Tensors]) -> Tensors:
    """Requests of one batch, padded to the longest as the executor pads them."""
    padding = model_options.read(config).pad_values
    batch: Tensors = {}
    for spec in config.input:
        arrays = [request[spec.name] for request in requests]
        shape = np.max([array.shape for array in arrays], axis=0)
        batch[spec.name] = np.full((len(arrays), *shape), padding.get(spec.name, 0), dtype=arrays[0].dtype)
        for row, array in zip(batch[spec.name], arrays, strict=True):
            row[tuple(slice(n) for n in array.shape)] = array
    return batch


@functools.lru_cache(maxsize=2)
def network(name: str) -> Any:
    return build(name)


def answer(name: str, batch: Tensors) -> Array:
    """What the torch module itself says."""
    import torch

    with torch.inference_mode():
        output: Array = network(name)(*(torch.from_numpy(batch[spec.name]) for spec in MODELS[name].inputs)).numpy()
    return output
