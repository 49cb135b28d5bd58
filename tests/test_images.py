"""The images, and stacks of containers made of them. Run by scripts/check-images, which prepares a base image."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import images
from composefile import Compose, Service
from echoes import LARGE, SMALL, await_ready, check_echo, check_libraries, write_library_models, write_repository
from images import ContainerStack, podman

BASE = os.environ.get("COTENANT_BASE_IMAGE", "")
PROFILES = ("cpu", "gpu", "emulated") if os.environ.get("COTENANT_GPU_IMAGE") else ("cpu", "emulated")
COMPOSE = Compose(os.environ)
BUILT = {service.name: service for profile in PROFILES for service in COMPOSE.active(profile)}

pytestmark = [pytest.mark.long, pytest.mark.skipif(not BASE, reason="scripts/check-images runs these")]


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """Builds every image once."""
    flags = images.pip_flags(Path(os.environ["COTENANT_IMAGES_FOLDER"]))
    for service in BUILT.values():
        images.build(service, BASE, flags)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A repository that the containers' user can read."""
    folder = tmp_path / "models"
    write_repository(folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        path.chmod(path.stat().st_mode | 0o055)
    return folder


@pytest.mark.parametrize("service", BUILT.values(), ids=list(BUILT))
def test_an_image_is_what_its_file_says(service: Service) -> None:
    found = images.inspect(f"localhost/{service.spec['image']}")
    assert service.image
    assert found["Config"]["Entrypoint"] == list(service.image.entrypoint)
    assert found["Healthcheck"]["Test"] == ["CMD", *service.image.health]
    assert found["User"] == service.image.user
    assert found["Config"]["StopSignal"] == service.image.stop_signal
    environment = dict(pair.split("=", 1) for pair in found["Config"]["Env"])
    assert environment.pop("PATH").startswith("/opt/cotenant/bin:")
    assert environment == {key: value for key, value in service.image.environment.items() if key != "PATH"}


@pytest.mark.parametrize("service", BUILT.values(), ids=list(BUILT))
def test_only_executors_hold_inference_libraries(service: Service) -> None:
    code = "from importlib.util import find_spec; print(*(n for n in ('onnxruntime', 'pip', 'torch') if find_spec(n)))"
    run = ("run", "--rm", "--pull=never", "--network=none", "--entrypoint=python", f"localhost/{service.spec['image']}")
    wanted = "onnxruntime torch" if service.name in {"executor", "executor-gpu"} else ""
    assert podman(*run, "-c", code).stdout.strip() == wanted
    if service.name in {"executor", "executor-gpu"}:
        code = "import torch, onnxruntime as o; print(bool(torch.version.cuda), o.get_available_providers())"
        found = podman(*run, "-c", code).stdout
        assert ("True" in found, "CUDAExecutionProvider" in found) == (service.name == "executor-gpu",) * 2, found


@pytest.mark.parametrize("profile", ["cpu", "emulated"])
def test_a_stack_of_containers_serves_and_stops(models: Path, profile: str) -> None:
    if profile == "cpu":
        write_library_models(models)
    before = sorted(models.rglob("*"))
    with ContainerStack(models, profile) as stack, ThreadPoolExecutor(1) as pool:
        executor = list(stack.services)[2]
        url = stack.address("frontend", 8001)
        await_ready(url, *(folder.name for folder in models.iterdir()))
        check_echo(url, "small", SMALL)
        check_echo(url, "large", LARGE)
        if profile == "cpu":
            check_libraries(url)
        assert '"shared_memory": true' in stack.log("frontend")
        for name in stack.services:
            assert stack.execute(name, "id", "-u") == (0, "10001")
            assert stack.execute(name, "touch", "/x")[0] != 0
            assert "python" not in stack.execute(name, "cat", "/proc/1/comm")[1]  # an init runs it
        status, names = stack.execute(executor, "ls", "-A", "/var/cache/cotenant")
        assert status == 0
        assert ".cotenant-profile-" in names

        answer = pool.submit(check_echo, url, "slow", SMALL)
        time.sleep(0.1)
        for name in reversed(stack.services):
            status, took_s = stack.stop(name)
            assert status == 0, stack.log(name)
            assert took_s < stack.services[name].stop_grace_s
        answer.result()
    assert sorted(models.rglob("*")) == before


def test_containers_without_shared_memory_stream_tensors(models: Path) -> None:
    with ContainerStack(models, "cpu", private=["staging"]) as stack:
        url = stack.address("frontend", 8001)
        await_ready(url, "small", "large")
        check_echo(url, "small", SMALL)
        check_echo(url, "large", LARGE)
        assert '"shared_memory": false' in stack.log("frontend")
