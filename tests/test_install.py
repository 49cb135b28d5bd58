"""What goes into the images: deploy/install.py."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as it lies in an image, with `asked` instead of pip and a torch that was built for `cuda`."""
    for name in ("deploy/install.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    spec = importlib.util.spec_from_file_location("install", tmp_path / "install.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.asked = []  # type: ignore[attr-defined]

    def pip(*arguments: str) -> None:
        module.asked.append((Path(arguments[1]).read_text(), list(arguments[2:])))

    monkeypatch.setattr(module, "pip", pip)
    monkeypatch.setattr(module, "check_torch", module.asked.append)
    monkeypatch.delenv("TORCH", raising=False)
    monkeypatch.delenv("TORCH_INDEX", raising=False)
    return module


def version_of_torch() -> str:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith("torch=="))


def test_the_cpu_image_accepts_no_other_torch(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_INDEX", "https://example.org/cpu")
    install.install(["executor", "torch"])
    (constraints, arguments), checked = install.asked
    assert f"torch=={version_of_torch()}+cpu" in constraints.splitlines()
    assert arguments[:2] == ["--extra-index-url", "https://example.org/cpu"]
    assert "torch>=2.11" in arguments
    assert checked == "cpu"


def test_the_cuda_image_does_not_take_the_cpu_build(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH", "cuda")
    install.install(["executor", "torch"])
    (constraints, arguments), checked = install.asked
    version = version_of_torch()
    assert f"torch=={version},!={version}+cpu" in constraints.splitlines()
    assert "--extra-index-url" not in arguments
    assert checked == "cuda"


def test_other_images_ask_for_their_extras_alone(install: ModuleType) -> None:
    install.install(["frontend"])
    ((_, arguments),) = install.asked
    assert any(argument.startswith("grpcio-reflection") for argument in arguments)
    assert not any(argument.startswith(("torch", "onnx", "psutil")) for argument in arguments)


def test_mistakes_end_the_build(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="no extra fronted"):
        install.install(["fronted"])
    monkeypatch.setenv("TORCH", "rocm")
    with pytest.raises(SystemExit, match="expected cpu or cuda"):
        install.install(["executor", "torch"])
