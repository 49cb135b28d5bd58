"""What a model's folder was made of, kept in it: whether it is up to date can be told without making it again."""

import contextlib
import dataclasses
import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from cotenant.executor.zoo import minilm
from cotenant.executor.zoo.recipes import recipe

FILE = ".cotenant-zoo.json"
_LIBRARIES = ("torch", "onnx", "onnxscript", "numpy", "safetensors", "tokenizers", minilm.PACKAGE)


class Stamp(msgspec.Struct, frozen=True):
    """What a model was made of, and what was seen while it was made."""

    made_of: str
    slo_scale: float  # may change without the model being made again
    parameters: int  # weights that training would change
    export_s: float  # time to build and export it, its samples included


def stamp(folder: Path) -> Stamp | None:
    """A folder's stamp; None if there is no folder. Raises ValueError if the folder is not the zoo's."""
    if not folder.exists():
        return None
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Stamp)
    except (OSError, msgspec.MsgspecError) as error:
        raise ValueError(f"{folder} was not written by the zoo; remove it or choose another repository") from error


def made_of(name: str, kind: str) -> str:
    """Differs if the recipe, the code of this package, or a library differs. Raises ValueError for an unknown model."""
    wanted = recipe(name)
    network = f"{wanted.network.__module__}.{wanted.network.__qualname__}"
    values = [repr(getattr(wanted, field.name)) for field in dataclasses.fields(wanted) if field.name != "network"]
    digest = hashlib.blake2b("\n".join([name, kind, network, *values]).encode(), digest_size=12)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    for library in _LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            digest.update(f"{library}={version(library)}".encode())
    return digest.hexdigest()
