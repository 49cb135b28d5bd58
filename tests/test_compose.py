"""compose.yaml: its rules, and each service's very command, environment and health check as processes of this host."""

import dataclasses
import re
import shutil
import subprocess
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from composefile import ROOT, Compose, Service, interpolate
from cotenant.cli.stack import ENVIRONMENT
from echoes import LARGE, SMALL, await_ready, check_echo, write_repository
from localstack import ENFORCES_READ_ONLY, LocalStack
from stacks import write_model

COMPOSE = Compose({})
OURS = [service for service in COMPOSE.services.values() if service.image]
EMULATED = """
backend: "emulated"
max_batch_size: 4
input [{ name: "INPUT0" data_type: TYPE_FP32 dims: [ 16 ] }]
output [{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 16 ] }]
parameters { key: "personality" value { string_value: "resnet50" } }
parameters { key: "profile_batch_sizes" value { string_value: "1" } }
"""

ids = [service.name for service in OURS]


# ---- rules


@pytest.mark.parametrize("service", COMPOSE.services.values(), ids=list(COMPOSE.services))
def test_no_service_may_more_than_it_needs(service: Service) -> None:
    uid, gid = (int(part) for part in service.spec["user"].split(":"))
    assert uid > 0
    assert gid > 0
    assert service.spec["read_only"]
    assert service.spec["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service.spec["security_opt"]
    assert not {"privileged", "cap_add", "pid", "network_mode"} & set(service.spec)
    assert service.health


def settings_of(service: Service) -> dict[str, object]:
    """A service's variables and their defaults."""
    name = service.command[2].rpartition(".")[2]
    module = import_module(f"cotenant.{name}.__main__")
    settings = getattr(module, f"{name.capitalize()}Settings")
    return {f"COTENANT_{name.upper()}_{field.name.upper()}": field.default for field in dataclasses.fields(settings)}


@pytest.mark.parametrize("service", OURS, ids=ids)
def test_a_service_may_drain_before_it_is_killed(service: Service) -> None:
    ((_, drain_s),) = ((key, value) for key, value in settings_of(service).items() if key.endswith("_DRAIN_S"))
    assert not any(key.endswith("_DRAIN_S") for key in service.environment)
    assert service.stop_grace_s >= float(str(drain_s)) + 2.0  # after draining, streams have another second to end
    assert service.spec["init"]


@pytest.mark.parametrize("service", OURS, ids=ids)
def test_compose_and_the_image_agree(service: Service) -> None:
    assert service.image
    assert tuple(service.health) == service.image.health
    assert service.spec["user"] == service.image.user
    assert service.image.stop_signal == "SIGTERM"
    shared = {key: value for key, value in ENVIRONMENT.items() if not key.startswith("COTENANT_")}
    assert shared.items() <= service.environment.items()


@pytest.mark.parametrize("service", OURS, ids=ids)
def test_every_variable_is_a_setting(service: Service) -> None:
    variables = {key for key in service.environment if key.startswith("COTENANT_")}
    assert variables <= set(settings_of(service))


def test_one_executor_runs_by_default_and_one_in_each_profile() -> None:
    default = dict(line.split("=", 1) for line in (ROOT / ".env").read_text().splitlines() if "=" in line)
    assert default["COMPOSE_PROFILES"] == "cpu"
    for profile, executor in (("cpu", "executor"), ("gpu", "executor-gpu"), ("emulated", "executor-emulated")):
        names = [service.name for service in COMPOSE.active(profile)]
        assert names == ["predictor", "scheduler", executor, "frontend"]  # frontends start last, and stop first
    assert COMPOSE.services["executor-gpu"].spec["deploy"]["resources"]["reservations"]["devices"]


def test_executors_are_found_under_the_names_they_tell() -> None:
    for service in OURS:
        if "COTENANT_EXECUTOR_ADVERTISE" in service.environment:
            port = service.environment["COTENANT_EXECUTOR_LISTEN"].rpartition(":")[2]
            assert service.environment["COTENANT_EXECUTOR_ADVERTISE"] == f"{service.name}:{port}"


def test_only_the_gpu_image_gets_the_cuda_build_of_torch() -> None:
    wanted = {s.name: s.spec["build"].get("args", {}).get("TORCH", "cpu") for s in OURS}
    assert {name for name, build in wanted.items() if build != "cpu"} == {"executor-gpu"}
    assert Compose({"TORCH_CPU_INDEX": ""}).services["executor"].spec["build"]["args"]["TORCH_INDEX"] == ""


def test_the_images_hold_every_package_of_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    roots = {package.partition("/")[0] for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = set(re.findall(r"^COPY (\w+) \1$", text, re.MULTILINE))
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == roots
    assert roots <= sent
    assert all((ROOT / name).exists() for name in sent)


def test_prometheus_scrapes_every_service_where_it_listens() -> None:
    jobs = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())["scrape_configs"]
    scraped = {target for job in jobs for entry in job.get("static_configs", ()) for target in entry["targets"]}
    found = [entry for job in jobs for entry in job.get("dns_sd_configs", ())]
    scraped |= {f"{name}:{entry['port']}" for entry in found for name in entry["names"]}
    listening = {
        f"{service.name}:{value.rpartition(':')[2]}"
        for service in OURS
        for key, value in service.environment.items()
        if key.endswith("_METRICS")
    }
    assert scraped == listening


def test_interpolation_follows_compose() -> None:
    assert interpolate("${A-x} ${B-x} ${B:-x} ${C}", {"B": "", "C": "c"}) == "x  x c"


def docker_compose(*arguments: str) -> int:
    """Exit status of docker's own compose; -1 where there is no docker."""
    command = ["docker", "compose", "--project-directory", str(ROOT), *arguments]
    return subprocess.run(command, check=False, capture_output=True).returncode if shutil.which("docker") else -1


@pytest.mark.skipif(docker_compose("version") != 0, reason="there is no docker with compose")
def test_docker_compose_accepts_the_file() -> None:
    assert docker_compose("--profile", "*", "config", "--quiet") == 0


# ---- each service as a process


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "models"
    write_repository(folder)
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)


@pytest.mark.parametrize("profile", ["cpu", "emulated"])
def test_the_services_serve_and_stop_as_composed(tmp_path: Path, models: Path, profile: str) -> None:
    if profile == "emulated":
        write_model(models, "resnet", EMULATED)
    before = sorted(models.rglob("*"))
    with LocalStack(tmp_path, models, profile) as stack:
        url = stack.address("frontend", "8001")
        await_ready(url, *(folder.name for folder in models.iterdir()))
        for elements, model in ((SMALL, "small"), (LARGE, "large")):
            check_echo(url, model, elements)
        assert '"shared_memory": true' in stack.log("frontend")
        with urllib.request.urlopen(f"http://{stack.address('frontend', '8002')}/metrics") as metrics:
            assert "nv_inference_request_success" in metrics.read().decode()

        staging = stack.volume(stack.services["frontend"], "staging")
        assert len(list(staging.iterdir())) == 2  # the frontend's segment and the executor's
        for name in reversed(stack.services):
            assert stack.stop(name) == 0, stack.log(name)
        assert not list(staging.iterdir())
    assert (tmp_path / "predictor-state" / "predictor.sqlite").stat().st_size > 0
    if ENFORCES_READ_ONLY:
        assert sorted(models.rglob("*")) == before
        assert list((tmp_path / "profiles").glob(".cotenant-profile-*.json"))


def test_what_was_accepted_is_answered_before_the_frontend_stops(tmp_path: Path, models: Path) -> None:
    with LocalStack(tmp_path, models, "cpu") as stack, ThreadPoolExecutor(1) as pool:
        await_ready(url := stack.address("frontend", "8001"), "slow")
        answer = pool.submit(check_echo, url, "slow", SMALL)
        time.sleep(0.1)
        assert [stack.stop(name) for name in reversed(stack.services)] == [0, 0, 0, 0]
        answer.result()


def test_without_shared_memory_tensors_are_streamed(tmp_path: Path, models: Path) -> None:
    with LocalStack(tmp_path, models, "cpu", private=["staging"]) as stack:
        url = stack.address("frontend", "8001")
        await_ready(url, "small", "large")
        for seed in range(3):
            check_echo(url, "small", SMALL, seed=seed)
            check_echo(url, "large", LARGE, seed=seed)
        assert '"shared_memory": false' in stack.log("frontend")


def test_a_frontend_is_unhealthy_until_it_has_a_scheduler(tmp_path: Path, models: Path) -> None:
    with LocalStack(tmp_path, models, "cpu", only=["frontend"]) as stack:
        deadline = time.monotonic() + 30
        while (found := stack.health("frontend")) != (1, "NOT_SERVING"):
            assert found[0] == 1
            assert time.monotonic() < deadline, stack.log("frontend")
        stack.start("scheduler")
        stack.await_healthy("frontend")
        stack.stop("scheduler")
        while stack.health("frontend")[0] == 0:
            assert time.monotonic() < deadline, stack.log("frontend")
