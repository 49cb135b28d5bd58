"""The links between services, and how they are cut.

`Proxies` need no privileges: each link runs over a proxy of ours that can stop passing bytes (both sides believe that
the other is slow), or close every connection and take no new ones. `Namespaces` put each service into a network
namespace of its own on one bridge; a cut link loses every packet without a word, as a broken switch does. They need
`unshare --net` (as root, or in a user namespace).
"""

import asyncio
import contextlib
import subprocess
from pathlib import Path
from typing import Protocol

LINKS = {"frontend": ("scheduler", "executor"), "scheduler": ("predictor",), "executor": ("scheduler", "predictor")}
BLOCK_BYTES = 1 << 16


def connected(names: list[str]) -> list[tuple[str, str]]:
    """The links of a stack of services: who connects, to whom."""
    return [
        (one, other)
        for one in names
        for other in names
        if other.partition("-")[0] in LINKS.get(one.partition("-")[0], ())
    ]


class Links(Protocol):
    """How services reach each other."""

    kinds: tuple[str, ...]  # ways to cut a link

    def listens(self, name: str) -> str:
        """Where a service listens."""
        ...

    def metrics(self, name: str) -> str:
        """Where its metrics are, host:port."""
        ...

    def via(self, name: str, other: str) -> str:
        """Where `name` finds `other`."""
        ...

    def enter(self, name: str) -> list[str]:
        """What a service's command begins with."""
        ...

    async def open(self) -> None:
        """Makes the links; before any service starts."""
        ...

    async def cut(self, name: str, other: str, kind: str) -> None:
        """Cuts a link."""
        ...

    async def heal(self, name: str, other: str) -> None:
        """Makes it whole again."""
        ...

    async def close(self) -> None:
        """Takes everything down."""
        ...


class _Proxy:
    """One link over a Unix socket."""

    def __init__(self, listens: Path, target: Path) -> None:
        self._listens, self._target = listens, target
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._closed = False
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._accepted, self._listens)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closed:
            writer.transport.abort()
            return
        try:
            there, here = await asyncio.open_unix_connection(self._target)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, here}
        await asyncio.gather(self._pass(reader, here), self._pass(there, writer))
        self._open -= {writer, here}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while block := await reader.read(BLOCK_BYTES):
                await self._flowing.wait()
                writer.write(block)
                await writer.drain()
        writer.transport.abort()

    def cut(self, kind: str) -> None:
        if kind == "stalled":
            self._flowing.clear()
            return
        self._closed = True
        for writer in list(self._open):
            writer.transport.abort()

    def heal(self) -> None:
        self._closed = False
        self._flowing.set()

    async def close(self) -> None:
        self.cut("closed")
        self.heal()
        if self._server:
            self._server.close()
        await asyncio.sleep(0)


class Proxies:
    """See the module's text."""

    kinds = ("stalled", "closed")

    def __init__(self, folder: Path, names: list[str], ports: dict[str, int]) -> None:
        """`ports` are free TCP ports: "frontend" for clients, and NAME-metrics for each service."""
        self._folder, self._ports = folder, ports
        self._proxies = {
            (one, other): _Proxy(folder / f"{one}-{other}.sock", folder / f"{other}.sock")
            for one, other in connected(names)
        }

    def listens(self, name: str) -> str:
        """See `Links`."""
        return f"127.0.0.1:{self._ports['frontend']}" if name == "frontend" else f"unix:{self._folder / name}.sock"

    def metrics(self, name: str) -> str:
        """See `Links`."""
        return f"127.0.0.1:{self._ports[f'{name}-metrics']}"

    def via(self, name: str, other: str) -> str:
        """See `Links`."""
        return f"unix:{self._folder}/{name}-{other}.sock"

    def enter(self, name: str) -> list[str]:
        """See `Links`."""
        del name
        return []

    async def open(self) -> None:
        """See `Links`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for proxy in self._proxies.values():
            await proxy.start()

    async def cut(self, name: str, other: str, kind: str) -> None:
        """See `Links`."""
        self._proxies[name, other].cut(kind)

    async def heal(self, name: str, other: str) -> None:
        """See `Links`."""
        self._proxies[name, other].heal()

    async def close(self) -> None:
        """See `Links`."""
        for proxy in self._proxies.values():
            await proxy.close()


class Namespaces:
    """See the module's text. For a process in a network and mount namespace of its own: all vanishes with it."""

    kinds = ("silent",)
    NOBODY = "02:00:00:00:00:fe"  # an address of the second layer that nobody has

    def __init__(self, names: list[str]) -> None:
        self._address = {name: f"10.79.0.{10 + i}" for i, name in enumerate(names)}

    def listens(self, name: str) -> str:
        """See `Links`."""
        return f"{self._address[name]}:8001"

    def metrics(self, name: str) -> str:
        """See `Links`."""
        return f"{self._address[name]}:8002"

    def via(self, name: str, other: str) -> str:
        """See `Links`."""
        del name
        return self.listens(other)

    def enter(self, name: str) -> list[str]:
        """See `Links`."""
        return ["nsenter", f"--net=/run/netns/{name}"]

    async def open(self) -> None:
        """See `Links`."""
        await _ip("link set lo up", "link add storm0 type bridge", "addr add 10.79.0.1/24 dev storm0")
        await _ip("link set storm0 up")
        for i, (name, address) in enumerate(self._address.items()):
            await _ip(f"netns add {name}", f"link add storm{i + 1} type veth peer name eth0 netns {name}")
            await _ip(f"link set storm{i + 1} master storm0 up")
            await _ip(*(f"-n {name} {order}" for order in (f"addr add {address}/24 dev eth0", "link set eth0 up")))
            await _ip(f"-n {name} link set lo up")

    async def cut(self, name: str, other: str, kind: str) -> None:
        """See `Links`."""
        del kind
        for one, peer in ((name, other), (other, name)):
            address = self._address[peer]
            await _ip(f"-n {one} neigh replace {address} lladdr {self.NOBODY} dev eth0 nud permanent")

    async def heal(self, name: str, other: str) -> None:
        """See `Links`."""
        for one, peer in ((name, other), (other, name)):
            await _ip(f"-n {one} neigh del {self._address[peer]} dev eth0")

    async def close(self) -> None:
        """See `Links`."""


async def _ip(*orders: str) -> None:
    for order in orders:
        process = await asyncio.create_subprocess_exec("ip", *order.split(), stderr=subprocess.PIPE)
        _, error = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"ip {order}: {error.decode().strip()}")
