"""Bytes on real connections to a real frontend, in front of a real stack: HTTP/2, and messages in it."""

import asyncio
import contextlib
import struct
import tempfile
from pathlib import Path
from random import Random
from typing import Any, ClassVar, NamedTuple

import grpc
import numpy as np
from fuzz import corpus, mutators
from fuzz.services import CANARY, INFERENCE, FindingError, write
from fuzz.target import OURS, Target, occupied
from fuzz.wire import expected, others

from cotenant.cli.stack import Stack, StackOptions
from cotenant.inference import inference_pb2 as pb

AT_ONCE = 32  # inputs on their way together
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, WINDOW = 0, 1, 3, 4, 6, 8
END_STREAM, END_HEADERS = 1, 4
LISTEN_S = 0.02  # for what a frontend says to bytes


class Sent(NamedTuple):
    """Bytes of a connection, or of a message for a method."""

    method: str  # empty for a connection
    data: bytes


def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    """A frame of HTTP/2 (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(content))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + content


def literal(name: bytes, value: bytes) -> bytes:
    """A header that is not indexed (RFC 7541, section 6.2.2)."""
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


def conversation(message: bytes) -> list[bytes]:
    """What a client sends that asks for one inference."""
    headers = (
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", f"{INFERENCE}ModelInfer".encode()),
        (b":authority", b"x"), (b"te", b"trailers"), (b"content-type", b"application/grpc"), (b"grpc-timeout", b"1S"),
    )  # fmt: skip
    block = b"".join(literal(*header) for header in headers)
    body = b"\0" + struct.pack(">I", len(message)) + message
    return [
        PREFACE,
        frame(SETTINGS, 0, 0, b""),
        frame(SETTINGS, 1, 0, b""),
        frame(HEADERS, END_HEADERS, 1, block),
        frame(DATA, END_STREAM, 1, body),
        frame(PING, 0, 0, b"12345678"),
        frame(WINDOW, 0, 0, struct.pack(">I", 1000)),
        frame(RESET, 0, 1, struct.pack(">I", 8)),
    ]


def unread(data: bytes) -> bytes:
    return data


class Connections(Target):
    """See the module's text."""

    name = "connections"
    canary_every: ClassVar[int] = 50
    look_every: ClassVar[int] = 500

    def __init__(self) -> None:
        self._infer, self._others = corpus.requests(), others()
        self._others = [row for row in self._others if not row[0].startswith("RepositoryModel")]

    async def open(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="cotenant-fuzz-")
        folder = Path(self._folder.name)
        write(folder / "models", {"canary": CANARY, **corpus.MODELS})
        flags = {"executor": (f"--profile-cache={folder}/profiles",)}
        self._stack = Stack(
            StackOptions(folder / "models", folder / "run", port=_free_port(), metrics=False, sockets=True, extra=flags)
        )
        await self._stack.start()
        await self._stack.models_settled(60)
        self._processes = {name: process.pid for name, process in self._stack.processes.items()}
        self._channel = grpc.aio.insecure_channel(self._stack.url)
        self._value, self._under_way = 0, set[asyncio.Task[str]]()
        self._problems: list[str] = []

    async def close(self) -> None:
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._channel.close()
        await self._stack.stop()
        self._folder.cleanup()

    def resources(self) -> tuple[int, int]:
        found = [occupied(pid) for pid in self._processes.values()]
        return sum(row[0] for row in found), sum(row[1] for row in found)

    def make(self, rng: Random) -> Sent:
        if rng.random() < 0.3:
            return Sent("", self._bytes(rng))
        if rng.random() < 0.8:
            return Sent("ModelInfer", mutators.message(rng.choice(self._infer), rng))
        method, good = rng.choice(self._others)
        return Sent(method, mutators.message(good, rng))

    def _bytes(self, rng: Random) -> bytes:
        frames = conversation(mutators.message(rng.choice(self._infer), rng))
        for _ in range(rng.choice((0, 1, 2, 4))):
            place = rng.randrange(len(frames))
            match rng.randrange(4):
                case 0:
                    del frames[place]
                case 1:
                    frames[place] = mutators.raw(frames[place], rng)
                case 2:
                    frames[place:place] = [frames[place]] * rng.choice((1, 10))
                case _:
                    stray = frame(
                        rng.randrange(12), rng.randrange(256), rng.choice((0, 1, 2, 3, 2**31 - 1)), rng.randbytes(9)
                    )
                    frames.insert(place, stray)
            frames = frames or [b""]
        return b"".join(frames)

    async def take(self, made: Sent) -> str:
        """Inputs overlap: a connection waits more than it works. What was wrong with one is told with a later one."""
        task = asyncio.create_task(self._connected(made.data) if not made.method else self._called(made))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        if len(self._under_way) >= AT_ONCE:
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        return "message" if made.method else "bytes"

    async def _connected(self, data: bytes) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._stack.options.port)
        except OSError as error:
            self._problems.append(f"no connection: {error}")
            return
        with contextlib.suppress(OSError, TimeoutError):
            writer.write(data)
            await writer.drain()
            await asyncio.wait_for(reader.read(4096), LISTEN_S)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def _called(self, made: Sent) -> None:
        call = self._channel.unary_unary(
            INFERENCE + made.method, request_serializer=unread, response_deserializer=unread
        )
        try:
            await call(made.data, timeout=30)
        except grpc.aio.AioRpcError as error:
            code, details = error.code().name, error.details() or ""
            if (code in OURS or code == "CANCELLED" or not details) and not expected(code, details):
                self._problems.append(f"{made.method} was answered {code}: {details}")

    def complaints(self) -> list[str]:
        found, self._problems = self._problems, []
        return found

    async def canary(self) -> None:
        """Every process lives, and a good request is answered rightly."""
        for name, process in self._stack.processes.items():
            if process.pid != self._processes[name]:
                raise FindingError(f"{name} died: {self._stack.log(name).read_text()[-500:]}")
        self._value = (self._value + 1) % 1000
        x = np.full((1, 16), self._value, np.float32)
        call: Any = self._channel.unary_unary(
            INFERENCE + "ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        answer = await call(corpus.infer("canary", INPUT0=x), timeout=30)
        if list(answer.raw_output_contents) != [x.tobytes()]:
            raise FindingError("the canary got another answer than its own")


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
