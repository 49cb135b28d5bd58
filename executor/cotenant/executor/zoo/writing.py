"""Models into a repository in Triton's layout, each in one move, so that an interrupted run leaves no half model.

What bears the right stamp is left alone; a folder without a stamp is not ours, and is never touched.
"""

import contextlib
import fcntl
import functools
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cotenant.executor.zoo import sampling, stamps
from cotenant.executor.zoo.building import build
from cotenant.executor.zoo.configuration import configuration
from cotenant.executor.zoo.exporting import to_onnx, to_program
from cotenant.executor.zoo.layers import Module
from cotenant.executor.zoo.recipes import Recipe, recipe
from cotenant.executor.zoo.stamps import Stamp, stamp

FORMATS = ("onnx", "torch", "both")
_LOCK = ".cotenant-zoo.lock"


@dataclass(frozen=True, slots=True)
class _Kind:
    """A format: the backend that runs it, its file, what writes it, and how many times the table's SLO it gets."""

    backend: str
    file: str
    export: Callable[[Module, Recipe, Path], None]
    slo_factor: float


_KINDS = {
    "onnx": _Kind("onnxruntime", "model.onnx", to_onnx, 1),
    "torch": _Kind("pytorch", "model.pt2", to_program, 3),  # on a CPU it takes about 2 to 5 times as long: docs/zoo.md
}


@dataclass(frozen=True, slots=True)
class _Target:
    """A folder of the repository, and what belongs there."""

    folder: Path
    model: str
    kind: str
    made_of: str
    slo_scale: float

    def fits(self, found: Stamp | None) -> bool:
        """Whether a folder with this stamp is up to date."""
        return found is not None and (found.made_of, found.slo_scale) == (self.made_of, self.slo_scale)


def write(
    repository: Path, names: Sequence[str], *, form: str = "onnx", slo_scale: float = 1.0, tell: Callable[[str], None]
) -> None:
    """Writes what is missing or out of date, and tells a line of each model.

    With the format "both", `NAME` is the ONNX model and `NAME_torch` the exported program.

    Raises:
        ValueError: if there is no such model or format, a folder of that name is not from the zoo, or files that a
            model is made of are not installed.
        OSError: if the repository cannot be written.
    """
    if form not in FORMATS:
        raise ValueError(f"format '{form}' is not known; there are {', '.join(FORMATS)}")
    if not 0 < slo_scale < math.inf:
        raise ValueError(f"the scale of SLOs is {slo_scale}, expected a number above 0")
    targets = [
        _Target(repository / folder, name, kind, stamps.made_of(name, kind), slo_scale)
        for name in names
        for folder, kind in ([(name, "onnx"), (f"{name}_torch", "torch")] if form == "both" else [(name, form)])
    ]
    repository.mkdir(parents=True, exist_ok=True)
    network_of = functools.lru_cache(maxsize=1)(build)  # a model's two formats follow each other
    for target in targets:
        tell(f"{target.folder.name}: {_bring_up_to_date(target, network_of)}")


def _bring_up_to_date(target: _Target, network_of: Callable[[str], Module]) -> str:
    """Does what there is to do, and tells what it was."""
    if target.fits(stamp(target.folder)):
        return "up to date"
    with _alone(target.folder.parent):
        found = stamp(target.folder)  # another process may have been here
        if target.fits(found):
            return "up to date"
        if found and found.made_of == target.made_of:
            _configure(target.folder, target, msgspec.structs.replace(found, slo_scale=target.slo_scale))
            return f"SLO scaled by {target.slo_scale:g}"
        return _make(target, network_of)


def _make(target: _Target, network_of: Callable[[str], Module]) -> str:
    started = time.monotonic()
    kind = _KINDS[target.kind]
    draft = _hidden(target.folder, "part")
    shutil.rmtree(draft, ignore_errors=True)  # of an interrupted run
    try:
        (draft / "1").mkdir(parents=True)
        path = draft / "1" / kind.file
        with _one_thread():
            network, wanted = network_of(target.model), recipe(target.model)
            kind.export(network, wanted, path)
        sampling.write(wanted, draft / "samples.npz")
        parameters = sum(parameter.numel() for parameter in network.parameters())
        made = Stamp(target.made_of, target.slo_scale, parameters, round(time.monotonic() - started, 2))
        _configure(draft, target, made)
        size = path.stat().st_size
        _move(draft, target.folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return f"{parameters / 1e6:.2f} M parameters, {kind.file} {size / 1e6:.1f} MB, {made.export_s:.1f} s"


def _configure(folder: Path, target: _Target, made: Stamp) -> None:
    """Writes the configuration, and when it is there the stamp."""
    kind = _KINDS[target.kind]
    scale = kind.slo_factor * target.slo_scale
    text = configuration(target.folder.name, recipe(target.model), kind.backend, scale)
    for name, content in (("config.pbtxt", text.encode()), (stamps.FILE, msgspec.json.encode(made))):
        draft = folder / f".{name}.part"
        draft.write_bytes(content)
        draft.replace(folder / name)


def _move(draft: Path, folder: Path) -> None:
    """Puts a finished folder into its place."""
    old = _hidden(folder, "old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _hidden(folder: Path, suffix: str) -> Path:
    """A folder beside `folder` that no reader of the repository takes for a model."""
    return folder.parent / f".{folder.name}.{suffix}"


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Exporters run a network a few times on tiny batches; on a busy host, threads would only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _alone(repository: Path) -> Iterator[None]:
    """Waits until no other process writes models here, and keeps others waiting meanwhile."""
    with (repository / _LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
