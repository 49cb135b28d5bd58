"""Imports everything that the services, the command line and these scripts are made of, and names what is missing.

environment.sh runs it, so that a lease on a GPU does not begin with a service that cannot start. Status 1 if anything
that is needed cannot be imported; what only some scripts need is named and does no harm.
"""

import importlib
import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ROOMS = ("protos", "frontend", "scheduler", "executor", "predictor", "cli")
# Modules of libraries that are optional, by what they are for.
OPTIONAL = {
    "tensorrt": "the tensorrt backend",
    "tritonclient": "`cotenant load --client tritonclient`",
    "cupti": "timings of kernels from CUPTI",
    "onnxruntime": "the onnxruntime backend",
    "onnx": "models in ONNX",
    "cuda": "green contexts",
}
NEEDED = ("torch", "numpy", "tokenizers", "safetensors", "psutil", "rich")
_SKIPPED = ("load_tritonclient", "__main__")


def modules() -> list[str]:
    """Every module of the project but the ones that run when imported, or that need an optional library at once."""
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if path.stem in _SKIPPED:
                continue
            parts = path.relative_to(ROOT / room).with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def failures(names: list[str]) -> dict[str, str]:
    """Why modules cannot be imported, by module."""
    found = {}
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a library raises at import
            found[name] = f"{type(error).__name__}: {error}"
    return found


def main() -> int:
    """Entry point."""
    failed = failures([*NEEDED, *modules()])
    try:
        version("cotenant")
    except PackageNotFoundError:
        failed["cotenant"] = "its version is not known: neither installed, nor marked by environment.sh"
    for name, reason in failed.items():
        print(f"missing: {name}: {reason}", file=sys.stderr)
    absent = [f"{name} ({use})" for name, use in OPTIONAL.items() if importlib.util.find_spec(name) is None]
    if absent:
        print(f"not here, and not needed by most: {', '.join(absent)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
