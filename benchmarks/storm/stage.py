"""What a storm rages over: a stack of real processes, two devices, a small disk, and clocks that can be stepped.

executor-0 is this host's CPU and shares memory with the frontend; executor-1 is an emulated GPU of "another host": its
monotonic clock is its own, and tensors travel to it in a stream.
"""

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.request import urlopen

import stepped
from links import Links, Namespaces, Proxies

from cotenant.cli.stack import Service, Stack, StackOptions, services

DISK_BYTES = 24 * 2**20
LARGE_ELEMENTS = 150_528  # FP32[3, 224, 224], 602 KB
_CONFIG = """
backend: "identity"
max_batch_size: 8
input [{{ name: "INPUT0" data_type: TYPE_FP32 dims: [ {elements} ] }}]
output [{{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ {elements} ] }}]
dynamic_batching {{}}
parameters {{ key: "execute_delay_ms" value {{ string_value: "{delay_ms}" }} }}
parameters {{ key: "slo_ms" value {{ string_value: "{slo_ms}" }} }}
parameters {{ key: "personality" value {{ string_value: "mobilenet_v2" }} }}
"""
MODELS = {  # elements, delay on the CPU, SLO
    "quick": (16, 4, 2000),
    "slow": (16, 30, 3000),
    "tight": (
        16,
        10,
        60,
    ),  # nearly every fault makes it late: it shows whether what was learned then is forgotten again
    "large": (LARGE_ELEMENTS, 2, 3000),
}
QUIET = {"scheduler": ("--explain-requests=2000", "--record-cap-mib=4"), "executor": (), "frontend": ()}


@dataclass(frozen=True)
class Disk:
    """A folder that can be full: a small tmpfs where one may be mounted, else by limits on each process's files."""

    folder: Path
    mounted: bool

    @classmethod
    def make(cls, folder: Path) -> "Disk":
        """Mounts what may be mounted."""
        folder.mkdir(parents=True, exist_ok=True)
        order = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "storm", str(folder)]
        try:
            done = subprocess.run(order, capture_output=True, check=False)
        except OSError:
            return cls(folder, mounted=False)
        return cls(folder, mounted=done.returncode == 0)

    def fill(self, processes: list[int]) -> None:
        """Leaves no room: for all if it is a disk of its own, else for these processes."""
        if not self.mounted:
            self._limit(processes, 0)
            return
        with (self.folder / "filler").open("wb", buffering=0) as filler:
            block = bytes(1 << 16)
            while block:
                try:
                    filler.write(block)
                except OSError:
                    block = block[: len(block) // 2]

    def clear(self, processes: list[int]) -> None:
        """Makes room again."""
        (self.folder / "filler").unlink(missing_ok=True)
        if not self.mounted:
            self._limit(processes, resource.RLIM_INFINITY)

    @staticmethod
    def _limit(processes: list[int], size: int) -> None:
        for pid in processes:
            try:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            except ProcessLookupError:
                continue

    def close(self) -> None:
        """Unmounts."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], capture_output=True, check=False)


class Stage(Stack):
    """See the module's text. Use as `async with`."""

    def __init__(self, folder: Path, *, namespaces: bool, devices: tuple[str, ...] = ("cpu", "emulated:0")) -> None:
        """In `folder` lies all that it makes; with `namespaces` it must have a network namespace to itself."""
        self.folder = folder
        self.shared = folder / "shared"  # memory that frontend and executors share
        self.shared.mkdir(parents=True)
        write_models(folder / "models")
        self.disk = Disk.make(folder / "disk")
        self.state, self.record = self.disk.folder / "state.db", self.disk.folder / "record.log"
        options = StackOptions(
            folder / "models",
            folder / "run",
            devices=devices,
            sockets=True,
            metrics=False,
            state=str(self.state),
            record=str(self.record),
        )
        super().__init__(options)
        self.starts: list[tuple[str, float]] = []  # of processes, those that died and were started again included
        names = [service.name for service in services(options)]
        self.links: Links = Namespaces(names) if namespaces else Proxies(options.run_dir, names, _free_ports(names))
        self.services = {name: self._rewired(service) for name, service in self.services.items()}
        self.clocks = {name: folder / f"{name}.clock" for name in names}
        for path in self.clocks.values():
            stepped.write(path, wall_ns=0, monotonic_ns=0)

    @property
    def is_elsewhere(self) -> str:
        """The executor of "another host"; empty if there is none."""
        return "executor-1" if "executor-1" in self.services else ""

    def _rewired(self, service: Service) -> Service:
        """The same service, over links that can be cut."""
        name, links = service.name, self.links
        flags = []
        for flag in service.flags:
            key, _, told = flag.partition("=")
            if key in ("--scheduler", "--predictor"):
                told = links.via(name, key.removeprefix("--"))
            elif key == "--listen":
                told = links.listens(name)
            elif key == "--metrics":
                told = links.metrics(name)
            flags.append(f"{key}={told}" if told or "=" in flag else key)
        if name.startswith("executor"):
            shared = "" if name == "executor-1" else str(self.shared)
            flags += [f"--advertise={links.via('frontend', name)}", f"--profile-cache={self.folder / 'profiles'}"]
            flags += [f"--staging-dir={shared}", f"--device-id={name}"]
        if name == "frontend":
            flags += [f"--staging-dir={self.shared}"]
        flags += QUIET.get(name.partition("-")[0], ())
        return replace(service, flags=tuple(flags), address=links.listens(name))

    def command(self, service: Service) -> list[str]:
        """See `Stack`: through the namespace and the clocks of the service."""
        host = "elsewhere" if service.name == self.is_elsewhere else "-"
        clocks = [str(Path(stepped.__file__)), str(self.clocks[service.name]), host]
        return [*self.links.enter(service.name), sys.executable, *clocks, service.module, *service.flags]

    def log(self, name: str) -> Path:
        """See `Stack`: on the disk that can be full."""
        return self.disk.folder / f"{name}.log"

    def spawn(self, name: str) -> None:
        """See `Stack`."""
        super().spawn(name)
        self.starts.append((name, time.monotonic()))

    async def start(self) -> None:
        """See `Stack`."""
        await self.links.open()
        await super().start()

    async def stop(self, grace_s: float = 15.0) -> None:
        """See `Stack`."""
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
        await super().stop(grace_s)
        await self.links.close()

    def pids(self) -> list[int]:
        """Of the processes there are now."""
        return [process.pid for process in self.processes.values()]

    def gauge(self, name: str, metric: str) -> float:
        """Sum of what a service tells under a metric, of all labels if it names none. Raises OSError without answer."""
        with urlopen(f"http://{self.links.metrics(name)}", timeout=5) as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{metric} ", f"{metric}{{")))

    def remove(self) -> None:
        """Takes everything from the disk."""
        self.disk.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def write_models(repository: Path) -> None:
    """A repository of `MODELS`."""
    for name, (elements, delay_ms, slo_ms) in MODELS.items():
        (repository / name / "1").mkdir(parents=True)
        config = _CONFIG.format(elements=elements, delay_ms=delay_ms, slo_ms=slo_ms)
        (repository / name / "config.pbtxt").write_text(config)


def _free_ports(names: list[str]) -> dict[str, int]:
    ports = {}
    taken = []
    for name in ("frontend", *(f"{name}-metrics" for name in names)):
        probe = socket.socket()
        probe.bind(("127.0.0.1", 0))
        taken.append(probe)
        ports[name] = probe.getsockname()[1]
    for probe in taken:
        probe.close()
    return ports


def may_isolate() -> bool:
    """Whether this process may have network and mount namespaces of its own."""
    try:
        return subprocess.run([*ISOLATED, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


# Namespaces of users (which makes us root inside), networks and mounts; names of network namespaces lie in memory.
ISOLATED = ["unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-c"]
ISOLATED += ['mount -t tmpfs tmpfs /run && mkdir /run/netns && exec "$@"', "sh"]
INSIDE = "COTENANT_STORM_ISOLATED"


def isolate() -> None:
    """Runs this command again in namespaces of its own. Does not return."""
    os.environ[INSIDE] = "1"
    os.execvp(ISOLATED[0], [*ISOLATED, sys.executable, *sys.argv])
