"""Runs compose.yaml's services as processes of this host: the very commands, environments and health checks.

Names become ports on loopback, and volumes become folders, read-only ones mounted so; users and limits are ignored.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from composefile import Compose, Service, seconds
from stacks import free_port


class LocalStack:
    """See the module's text. `with` starts all in order, or `only` some at once, and ends what still runs."""

    def __init__(
        self, folder: Path, models: Path, profile: str, *, private: Sequence[str] = (), only: Sequence[str] = ()
    ) -> None:
        self.compose = Compose({"COTENANT_MODELS": str(models)})
        self.services = {service.name: service for service in self.compose.active(profile)}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._folder, self._private, self._only = folder, private, only
        self._memory = tempfile.TemporaryDirectory(dir="/dev/shm", prefix="cotenant-test-compose-")
        self._ports: dict[tuple[str, str], int] = {}

    def address(self, name: str, port: str) -> str:
        """Where a port of a service is on this host."""
        return f"127.0.0.1:{self._ports.setdefault((name, port), free_port())}"

    def volume(self, service: Service, source: str) -> Path:
        """Where a volume is on this host; `private` ones are each service's own."""
        if source.startswith("/"):
            return Path(source)
        tmpfs = (self.compose.spec["volumes"][source] or {}).get("driver_opts", {}).get("type") == "tmpfs"
        path = (Path(self._memory.name) if tmpfs else self._folder) / source
        path = path / service.name if source in self._private else path
        path.mkdir(parents=True, exist_ok=True)
        return path

    def translate(self, service: Service, text: str) -> str:
        """A value or argument with this host's addresses and folders."""
        here = {"0.0.0.0", "127.0.0.1", "localhost"}
        if (match := re.fullmatch(r"([\w.-]+):(\d+)", text)) and match[1] in here | set(self.services):
            return self.address(service.name if match[1] in here else match[1], match[2])
        for volume in service.volumes:
            if text == volume.target or text.startswith(volume.target + "/"):
                return str(self.volume(service, volume.source)) + text.removeprefix(volume.target)
        return text

    def environment(self, service: Service) -> dict[str, str]:
        """A service's environment, and what a process of this host needs beside it."""
        translated = {key: self.translate(service, value) for key, value in service.environment.items()}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**translated, "PATH": path, "HOME": str(self._folder), "COTENANT_DIE_WITH_PARENT": "1"}

    def log(self, name: str) -> str:
        """What a service has said."""
        return (self._folder / f"{name}.log").read_text(encoding="utf-8")

    def start(self, name: str) -> None:
        """Starts a service."""
        service = self.services[name]
        command = [self.translate(service, argument) for argument in service.command]
        for volume in service.volumes:
            if volume.read_only:
                command = read_only(self.volume(service, volume.source), command)
        with (self._folder / f"{name}.log").open("wb") as log:
            environment = self.environment(service)
            self.processes[name] = subprocess.Popen(command, env=environment, cwd="/", stdout=log, stderr=log)

    def health(self, name: str) -> tuple[int, str]:
        """Exit status and output of a service's health check."""
        service = self.services[name]
        command = [self.translate(service, argument) for argument in service.health]
        timeout_s = seconds(service.spec["healthcheck"]["timeout"])
        done = subprocess.run(
            command,
            env=self.environment(service),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return done.returncode, done.stdout.strip()

    def await_healthy(self, name: str) -> None:
        """Waits for a service's health, as long as compose would."""
        started = time.monotonic()
        while (found := self.health(name))[0] != 0:
            assert self.processes[name].poll() is None, f"{name} ended: {self.log(name)}"
            assert time.monotonic() - started < 60, f"{name} stays unhealthy ({found}): {self.log(name)}"

    def stop(self, name: str) -> int:
        """Stops a service; returns its exit status. Raises TimeoutExpired where an engine would kill it."""
        process = self.processes.pop(name)
        process.terminate()
        return process.wait(self.services[name].stop_grace_s)

    def __enter__(self) -> "LocalStack":
        try:
            for name in self._only or self.services:
                self.start(name)
                if not self._only:
                    self.await_healthy(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        self._memory.cleanup()


def can_mount() -> bool:
    """Whether this process may mount: containers often have a root that may not."""
    return subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode == 0


# Permissions do not stop root; a mount of its own does.
ENFORCES_READ_ONLY = os.geteuid() != 0 or can_mount()


def read_only(folder: Path, command: list[str]) -> list[str]:
    """A command that sees `folder` read-only, as far as this host can enforce it."""
    if os.geteuid() != 0:
        for path in (folder, *folder.rglob("*")):
            path.chmod(path.stat().st_mode & ~0o222)
        return command
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(folder), *command] if ENFORCES_READ_ONLY else command
