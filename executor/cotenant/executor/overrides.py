"""What loads bring instead of what the repository holds: another configuration, and files in the place of a folder.

Files lie in a temporary folder for as long as a version that was loaded from it is there.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cotenant.v1 import types_pb2


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model is loaded from."""

    folder: Path
    config_json: str = ""  # takes the place of config.pbtxt
    held: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no file system takes
        return False


def source(root: Path, name: str, override: types_pb2.ModelOverride) -> Source:
    """The source of a load. Raises ValueError where there is no such model, or files could lie outside its folder."""
    if not name or "/" in name or name.startswith("."):
        raise ValueError(f"failed to load '{name}', failed to poll from model repository")
    if not override.files:
        if not _is_folder(root / name):
            raise ValueError(f"failed to load '{name}', failed to poll from model repository")
        return Source(root / name, override.config_json)
    if not override.config_json:
        raise ValueError(f"model '{name}': files were sent without the parameter 'config'")
    held = tempfile.TemporaryDirectory(prefix="cotenant-model-")
    folder = Path(held.name) / name
    for path, content in override.files.items():
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or "\0" in path:
            held.cleanup()
            raise ValueError(f"model '{name}': 'file:{path}' is no path in the model's folder")
        target = folder.joinpath(*parts)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        except OSError as error:
            held.cleanup()
            raise ValueError(f"model '{name}': 'file:{path}' cannot be written: {error.strerror}") from error
    return Source(folder, override.config_json, held)
