"""The model repository on disk, in Triton's layout: `MODEL/config.pbtxt`, `MODEL/VERSION/model.onnx`, ...

Reads and checks; loads nothing. Errors are ValueError with a text for people that names model and file.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from google.protobuf import json_format, text_format
from google.protobuf.message import Message

from cotenant.executor.backend import BACKENDS, FILE_BACKENDS, PLATFORMS
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime import sequences

_NAME_BYTES = 255  # of a file, as file systems have it


def scan(root: Path) -> dict[str, list[str]]:
    """Models in the repository with the versions their folders hold, ascending. An unreadable root holds none."""
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))
    except OSError:
        return {}
    return {folder.name: versions(folder) for folder in folders}


def versions(folder: Path) -> list[str]:
    """Version folders of a model: decimal integers above 0, ascending."""
    try:
        names = [path.name for path in folder.iterdir() if path.is_dir()]
    except OSError:
        return []
    return sorted((n for n in names if n.isascii() and n.isdigit() and n[0] != "0"), key=int)


def fingerprint(folder: Path) -> str:
    """Differs after a change of a model's files: names, sizes, times. What we keep beside them does not count."""
    digest = hashlib.sha256()
    try:
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            if path.is_file() and not any(part.startswith(".") for part in inside.parts):
                found = path.stat()
                digest.update(f"{inside}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
    except OSError:  # it changes just now, and will be seen again
        return ""
    return digest.hexdigest()[:16]


def labels(folder: Path, config: pb.ModelConfig) -> dict[str, list[str]]:
    """Labels of outputs that have a file of them, one a line. Raises ValueError where it cannot be read."""
    found: dict[str, list[str]] = {}
    for output in config.output:
        if output.label_filename:
            try:
                text = (folder / output.label_filename).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"model '{config.name}': {output.label_filename} cannot be read: {error}") from error
            found[output.name] = [line.strip() for line in text.splitlines()]
    return found


def read_config(folder: Path, override_json: str = "") -> pb.ModelConfig:
    """A model's `config.pbtxt`, or an empty configuration where there is none; or what takes its place."""
    path = folder / "config.pbtxt"
    config = pb.ModelConfig()
    if override_json:
        try:
            json_format.Parse(override_json, config)
        except (ValueError, json_format.ParseError) as error:
            raise ValueError(
                f"model '{folder.name}': parameter 'config' is no configuration in JSON: {error}"
            ) from error
    elif path.exists():
        try:
            text_format.Parse(path.read_text(encoding="utf-8"), config)
        except (ValueError, text_format.ParseError, OSError) as error:  # ValueError: a number beyond its field's bits
            raise ValueError(f"model '{folder.name}': {path.name} cannot be read: {error}") from error
    if unknown := next(_unknown_values(config), ""):
        raise ValueError(f"model '{folder.name}': {unknown}, which stands for nothing here")
    if config.name not in ("", folder.name):
        raise ValueError(f"model '{folder.name}': config.pbtxt is of a model called '{config.name}'")
    config.name = folder.name
    for file in (config.default_model_filename, *(output.label_filename for output in config.output)):
        parts = PurePosixPath(file)
        too_long = any(len(part.encode()) > _NAME_BYTES for part in parts.parts)
        outside = parts.is_absolute() or ".." in parts.parts
        if outside or too_long or "\0" in file:  # loads may bring a configuration of anybody's
            raise ValueError(f"model '{folder.name}': file '{file[:_NAME_BYTES]}' does not lie in the model's folder")
    if config.max_batch_size < 0:
        raise ValueError(f"model '{folder.name}': max_batch_size is {config.max_batch_size}, expected 0 or more")
    if config.model_transaction_policy.decoupled and config.HasField("sequence_batching"):
        raise ValueError(f"model '{folder.name}': a decoupled model cannot answer sequences here")
    if config.HasField("sequence_batching"):
        sequences.check(config)
    return config


def _unknown_values(message: Message) -> Iterator[str]:
    """Numbers of enums that have no name in this version, with the fields that hold them."""
    for field, value in message.ListFields():
        values = list(value) if field.is_repeated else [value]
        if field.enum_type:
            names = field.enum_type.values_by_number
            yield from (f"{field.name} is {number}" for number in values if number not in names)
        elif field.message_type:
            is_map = field.message_type.GetOptions().map_entry
            for inner in value.values() if is_map else values:
                if isinstance(inner, Message):
                    yield from _unknown_values(inner)


def wanted_versions(config: pb.ModelConfig, available: list[str]) -> list[str]:
    """The versions that the model's policy says to serve, ascending; by default the latest."""
    policy = config.version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            chosen = available
        case "specific":
            chosen = [v for v in available if int(v) in policy.specific.versions]
        case _:
            chosen = available[-max(1, policy.latest.num_versions) :]
    if not chosen:
        what = "no version folder" if not available else f"none of the versions {', '.join(available)} fits its policy"
        raise ValueError(f"model '{config.name}': {what}")
    return chosen


def backend_name(config: pb.ModelConfig, folder: Path) -> str:
    """The backend a version needs: as configured, else by the file that lies in its folder."""
    if config.HasField("ensemble_scheduling"):
        return "ensemble"
    name = config.backend or PLATFORMS.get(config.platform, config.platform)
    if name:
        return name
    file = config.default_model_filename
    for known, backend in FILE_BACKENDS.items():
        if (folder / (file or known)).exists() and (not file or file.endswith(Path(known).suffix)):
            return backend
    known_names = ", ".join(sorted(BACKENDS))
    raise ValueError(
        f"model '{config.name}': no backend is configured and {folder} holds none of {', '.join(FILE_BACKENDS)} "
        f"(backends: {known_names})"
    )
