"""Installs what pyproject.toml lists into an image's environment: `install.py [EXTRA,EXTRA...]`.

Images ship without pip: one is made for the occasion.
`TORCH` says which torch is wanted, `cpu` or `cuda`. Indexes and folders of wheels offer both under one version, and the
CUDA build brings gigabytes of libraries, so each is asked for by name and what was installed is checked.
"""

import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

HERE = Path(__file__).parent
PYTHON = "/opt/cotenant/bin/python"


def pip(*arguments: str) -> None:
    """Runs `pip install` for the image's environment. Exits where it fails, after pip has said why."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        command = [f"{folder}/bin/pip", "--disable-pip-version-check", "--python", PYTHON, "install", *arguments]
        if status := subprocess.run(command, check=False).returncode:  # noqa: S603
            raise SystemExit(status)


def constraints(torch: str) -> str:
    """The project's constraints, made to accept one build of torch: CPU builds are called `VERSION+cpu` everywhere."""
    lines = []
    for line in (HERE / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, _, version = line.partition("==")
        if name == "torch":
            line = f"torch=={version}+cpu" if torch == "cpu" else f"torch=={version},!={version}+cpu"  # noqa: PLW2901
        lines.append(line)
    return "\n".join(lines)


def install(extras: list[str]) -> None:
    """Installs the project's dependencies and those of `extras`. Exits if an extra or the wanted torch is not there."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    if unknown := [extra for extra in extras if extra not in optional]:
        raise SystemExit(f"pyproject.toml has no extra {', '.join(unknown)}; it has {', '.join(sorted(optional))}")
    torch, index = os.environ.get("TORCH", "cpu"), os.environ.get("TORCH_INDEX", "")
    if torch not in {"cpu", "cuda"}:
        raise SystemExit(f"TORCH is {torch!r}, expected cpu or cuda")
    constrained = Path("/tmp/constraints.txt")
    constrained.write_text(constraints(torch), encoding="utf-8")
    wanted = [*project["dependencies"], *(name for extra in extras for name in optional[extra])]
    with_torch = "torch" in extras
    pip("--constraint", str(constrained), *(["--extra-index-url", index] if with_torch and index else []), *wanted)
    constrained.unlink()
    if with_torch:
        check_torch(torch)


def check_torch(wanted: str) -> None:
    """Exits unless the torch that was installed is the wanted one."""
    code = "import torch; print(torch.__version__, torch.version.cuda)"
    asked = subprocess.run([PYTHON, "-c", code], check=True, capture_output=True, text=True)  # noqa: S603
    version, cuda = asked.stdout.split()
    if (cuda == "None") != (wanted == "cpu"):
        raise SystemExit(f"TORCH={wanted} was asked for, and torch {version} (CUDA {cuda}) was installed")


if __name__ == "__main__":
    install([extra for argument in sys.argv[1:] for extra in argument.split(",") if extra])
