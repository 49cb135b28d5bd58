"""The model repository on disk, in Triton's layout: `MODEL/config.pbtxt`, `MODEL/VERSION/model.onnx`, ...

Reads and checks; loads nothing. Errors are ValueError with a text for people that names model and file.
"""

from pathlib import Path

from google.protobuf import text_format

from cotenant.executor.backend import BACKENDS, FILE_BACKENDS, PLATFORMS
from cotenant.inference import inference_pb2 as pb


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


def read_config(folder: Path) -> pb.ModelConfig:
    """A model's `config.pbtxt`, or an empty configuration where there is none."""
    path = folder / "config.pbtxt"
    config = pb.ModelConfig()
    if path.exists():
        try:
            text_format.Parse(path.read_text(encoding="utf-8"), config)
        except (text_format.ParseError, UnicodeDecodeError, OSError) as error:
            raise ValueError(f"model '{folder.name}': {path.name} cannot be read: {error}") from error
    if config.name not in ("", folder.name):
        raise ValueError(f"model '{folder.name}': config.pbtxt is of a model called '{config.name}'")
    config.name = folder.name
    if config.max_batch_size < 0:
        raise ValueError(f"model '{folder.name}': max_batch_size is {config.max_batch_size}, expected 0 or more")
    for unsupported in ("sequence_batching", "ensemble_scheduling"):
        if config.HasField(unsupported):
            raise ValueError(f"model '{folder.name}': {unsupported} is not supported by this version")
    if config.model_transaction_policy.decoupled:
        raise ValueError(f"model '{folder.name}': decoupled models are not supported by this version")
    return config


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
