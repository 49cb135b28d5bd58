"""Builds the project's images and runs compose.yaml's services in containers, with podman alone."""

import ast
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from composefile import ROOT, Compose, Service, Volume


def podman(*arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs podman. Raises RuntimeError with what it said where it fails."""
    done = subprocess.run(["podman", *arguments], text=True, capture_output=True, check=False, **options)
    if check and done.returncode:
        raise RuntimeError(f"podman {shlex.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done


def pip_settings() -> dict[str, str]:
    """This machine's settings of pip: indexes, folders of wheels, certificates."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    lines = subprocess.run(command, text=True, capture_output=True, check=True).stdout.splitlines()
    pairs = (line.split("=", 1) for line in lines)
    return {name.rpartition(".")[2]: str(ast.literal_eval(value)) for name, value in pairs}


def pip_flags(folder: Path) -> list[str]:
    """Flags of `podman build` that make pip behave in there as it does here."""
    settings = pip_settings()
    path = folder / "pip.conf"
    path.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()), encoding="utf-8")
    named = {part.removeprefix("file://") for value in settings.values() for part in value.split()}
    local = sorted(name for name in named if name.startswith("/") and Path(name).exists())
    # Indexes are named by their folder of pages, beside which the files may lie.
    mounts = {str(Path(name).parent if Path(name).name == "simple" else name) for name in local}
    return [f"--secret=id=pip.conf,src={path}", *(f"--volume={mount}:{mount}:ro" for mount in sorted(mounts))]


def build(service: Service, base: str, flags: Sequence[str]) -> str:
    """Builds a service's image; returns its name."""
    section, name = service.spec["build"], f"localhost/{service.spec['image']}"
    arguments = {"BASE_IMAGE": base, **section.get("args", {})}
    started = time.monotonic()
    podman(
        *("build", "--isolation=chroot", "--format=docker", "--pull=never", "--target", section["target"]),
        *(f"--build-arg={key}={value}" for key, value in arguments.items()),
        *flags,
        *("--tag", name, str(ROOT / section["context"])),
    )
    size = int(inspect(name)["Size"])
    print(f"\n{name}: {size / 1e6:.0f} MB, built in {time.monotonic() - started:.0f} s", flush=True)  # noqa: T201
    return name


def inspect(name: str) -> dict[str, Any]:
    """What podman knows of an image or a container."""
    (found,) = json.loads(podman("inspect", name).stdout)
    return dict(found)


class ContainerStack:
    """Services of compose.yaml in containers, on a network and with volumes of their own.

    `with` starts everything in order. Clients connect through ports that podman publishes on loopback.
    """

    def __init__(self, models: Path, profile: str, *, private: Sequence[str] = ()) -> None:
        self.compose = Compose({"COTENANT_MODELS": str(models)})
        self.services = {service.name: service for service in self.compose.active(profile)}
        self._prefix = f"cotenant-check-{os.getpid()}"
        self._private = private
        self._volumes: set[str] = set()

    def container(self, name: str) -> str:
        """The container's name."""
        return f"{self._prefix}-{name}"

    def volume(self, service: Service, volume: Volume) -> str:
        """The flag for a volume, which is made if need be; `private` ones are each service's own."""
        mode = ":ro" if volume.read_only else ""
        if volume.source.startswith("/"):
            return f"--volume={volume.source}:{volume.target}{mode}"
        name = f"{self._prefix}-{volume.source}" + (f"-{service.name}" if volume.source in self._private else "")
        if name not in self._volumes:
            self._volumes.add(name)
            options = dict((self.compose.spec["volumes"][volume.source] or {}).get("driver_opts", {}))
            if "o" in options:  # podman takes a size for a quota of its own, and refuses
                options["o"] = ",".join(o for o in options["o"].split(",") if not o.startswith("size="))
            podman("volume", "create", *(f"--opt={key}={value}" for key, value in options.items()), name)
        return f"--volume={name}:{volume.target}{mode}"

    def start(self, name: str) -> None:
        """Starts a service with all that compose.yaml says of it."""
        service = self.services[name]
        spec = service.spec
        podman(
            *("run", "--detach", "--pull=never", "--name", self.container(name)),
            *("--network", self._prefix, "--network-alias", name, "--user", spec["user"]),
            *(["--read-only", "--read-only-tmpfs=false"] if spec["read_only"] else []),
            *(["--init"] if spec["init"] else []),
            *(f"--tmpfs={entry}" for entry in spec["tmpfs"]),
            *(f"--cap-drop={capability}" for capability in spec["cap_drop"]),
            *(f"--security-opt={option.partition(':')[0]}" for option in spec["security_opt"]),
            *(f"--env={key}={value}" for key, value in spec.get("environment", {}).items()),
            *(f"--publish=127.0.0.1::{entry.rpartition(':')[2]}" for entry in spec.get("ports", ())),
            *(self.volume(service, volume) for volume in service.volumes),
            f"localhost/{spec['image']}",
        )

    def execute(self, name: str, *command: str) -> tuple[int, str]:
        """Exit status and output of a command in a service's container."""
        done = podman("exec", self.container(name), *command, check=False)
        return done.returncode, (done.stdout + done.stderr).strip()

    def await_healthy(self, name: str) -> None:
        """Waits for a service's health check to succeed."""
        deadline = time.monotonic() + 60
        while (found := self.execute(name, *self.services[name].health))[0] != 0:
            assert time.monotonic() < deadline, f"{name} stays unhealthy ({found}): {self.log(name)}"

    def address(self, name: str, port: int) -> str:
        """Where a published port of a service is on this host."""
        return podman("port", self.container(name), str(port)).stdout.strip()

    def log(self, name: str) -> str:
        """What a service has said."""
        done = podman("logs", self.container(name))
        return done.stdout + done.stderr

    def stop(self, name: str) -> tuple[int, float]:
        """Stops a service as compose does; returns its exit status and how long it took, in s."""
        started = time.monotonic()
        podman("stop", f"--time={self.services[name].stop_grace_s:.0f}", self.container(name))
        return int(inspect(self.container(name))["State"]["ExitCode"]), time.monotonic() - started

    def __enter__(self) -> "ContainerStack":
        podman("network", "create", self._prefix)
        try:
            for name in self.services:
                self.start(name)
                self.await_healthy(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(self.services):
            podman("rm", "--force", "--time=0", self.container(name), check=False)
        for volume in self._volumes:
            podman("volume", "rm", "--force", volume, check=False)
        podman("network", "rm", "--force", self._prefix, check=False)
