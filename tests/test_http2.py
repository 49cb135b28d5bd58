"""Our own HTTP/2 beneath gRPC: whole messages through any windows, both ways beside gRPC's own, and hostile peers."""

import asyncio
import contextlib
import socket
import struct
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from unittest import mock

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotenant.runtime.http2 import Channel, Server, connection, fields, frames, server, stream
from cotenant.runtime.http2.channel import ClientConnection

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
METADATA = (("plain", "some text"), ("raw-bin", bytes(range(256))))


def _failing(data: bytes) -> bytes:
    raise ValueError("not this")


class Peer(grpc.GenericRpcHandler):
    """Methods of all four kinds, and ways to fail."""

    def __init__(self) -> None:
        self.running = self.most_running = 0
        self.cancelled = asyncio.Event()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        name = handler_call_details.method.removeprefix("/peer/")
        kinds = {
            "one_one": grpc.unary_unary_rpc_method_handler,
            "one_many": grpc.unary_stream_rpc_method_handler,
            "many_one": grpc.stream_unary_rpc_method_handler,
            "many_many": grpc.stream_stream_rpc_method_handler,
        }
        behaviour = getattr(self, name, None)
        if name == "unreadable":
            return kinds["one_one"](self.one_one, request_deserializer=_failing)
        if name == "unwritable":
            return kinds["one_one"](self.one_one, response_serializer=_failing)
        if name == "stuck":
            return kinds["many_one"](self.stuck)
        return kinds.get(name, kinds["one_one"])(behaviour) if behaviour else None

    async def one_one(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata([(k, v) for k, v in context.invocation_metadata() if k in dict(METADATA)])
        await context.send_initial_metadata((("first", "yes"),))
        return request

    async def one_many(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        del context
        for i in range(len(request)):
            yield request[i:]

    async def many_one(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        del context
        return b"".join([request async for request in requests])

    async def many_many(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        del context
        async for request in requests:
            yield request

    async def abort(self, request: bytes, context: Any) -> bytes:
        return await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: 50 % „größer“\n", METADATA)  # type: ignore[no-any-return]

    async def slow(self, request: bytes, context: Any) -> bytes:
        self.running += 1
        await asyncio.sleep(0.3)
        self.running -= 1
        return request

    async def broken(self, request: bytes, context: Any) -> bytes:
        raise RuntimeError("by mistake")

    async def stuck(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        del requests, context
        await asyncio.sleep(60)
        return b""

    async def reluctant(self, request: bytes, context: Any) -> bytes:
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(1)
            self.running -= 1
        return request

    async def forever(self, request: bytes, context: Any) -> bytes:
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            await asyncio.sleep(60)
        finally:
            self.running -= 1
            self.cancelled.set()
        return request


@contextlib.asynccontextmanager
async def serving(own: bool, peer: Peer, options: list[tuple[str, int]]) -> AsyncIterator[str]:
    made: grpc.aio.Server = Server(options=options) if own else grpc.aio.server(options=options)
    made.add_generic_rpc_handlers((peer,))
    port = made.add_insecure_port("127.0.0.1:0")
    await made.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await made.stop(None)


# An address may have been another test's, of which gRPC would remember that nobody answered there.
_ALONE = [("grpc.use_local_subchannel_pool", 1)]


def opened(own: bool, address: str) -> Any:
    return Channel(address, UNLIMITED) if own else grpc.aio.insecure_channel(address, options=[*UNLIMITED, *_ALONE])


Scenario = Callable[[Any, Peer], Coroutine[Any, Any, None]]


def converse(sides: tuple[bool, bool], scenario: Scenario, options: list[tuple[str, int]] | None = None) -> None:
    async def main() -> None:
        peer = Peer()
        async with serving(sides[1], peer, options or UNLIMITED) as address, opened(sides[0], address) as channel:
            await asyncio.wait_for(scenario(channel, peer), 60)

    asyncio.run(main())


# Who calls whom. gRPC's own to itself shows that the test expects what gRPC does.
SIDES = pytest.mark.parametrize(
    "sides", [(True, True), (True, False), (False, True), (False, False)], ids=["both", "client", "server", "neither"]
)


@SIDES
def test_calls_of_all_kinds_carry_messages_of_all_sizes(sides: tuple[bool, bool]) -> None:
    async def scenario(channel: Any, peer: Peer) -> None:
        del peer
        for size in (0, 1, 16_379, 16_380, 65_535, 65_536, 5_000_000):
            message = (b"0123456789" * (size // 10 + 1))[:size]
            assert await channel.unary_unary("/peer/one_one")(message) == message
        assert [x async for x in channel.unary_stream("/peer/one_many")(b"abc")] == [b"abc", b"bc", b"c"]

        async def pieces() -> AsyncIterator[bytes]:
            for i in range(40):
                yield bytes([i]) * (i * 997)

        whole = b"".join([piece async for piece in pieces()])
        assert await channel.stream_unary("/peer/many_one")(pieces()) == whole
        assert b"".join([x async for x in channel.stream_stream("/peer/many_many")(pieces())]) == whole
        call: Any = channel.stream_stream("/peer/many_many")()
        for _ in range(3):
            await call.write(b"ping")
            assert await call.read() == b"ping"
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        one = channel.unary_unary("/peer/one_one")
        messages = [bytes([i % 256]) * 3000 for i in range(500)]
        assert await asyncio.gather(*(one(message) for message in messages)) == messages

    converse(sides, scenario)


@SIDES
def test_metadata_and_statuses_arrive_as_they_were_sent(sides: tuple[bool, bool]) -> None:
    async def scenario(channel: Any, peer: Peer) -> None:
        del peer
        call: Any = channel.unary_unary("/peer/one_one")(b"", metadata=METADATA)
        assert await call == b""
        assert tuple((k, v) for k, v in await call.trailing_metadata() if k in dict(METADATA)) == METADATA
        assert ("first", "yes") in [tuple(entry) for entry in await call.initial_metadata()]
        assert await call.details() == ""
        for method, code, details in (
            ("abort", grpc.StatusCode.NOT_FOUND, "no such thing: 50 % „größer“\n"),
            ("broken", grpc.StatusCode.UNKNOWN, "Unexpected <class 'RuntimeError'>: by mistake"),
            ("unreadable", grpc.StatusCode.UNKNOWN, "Unexpected <class 'ValueError'>: not this"),
            ("unwritable", grpc.StatusCode.UNKNOWN, "Unexpected <class 'ValueError'>: not this"),
            ("absent", grpc.StatusCode.UNIMPLEMENTED, "Method not found!"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(f"/peer/{method}")(b"")
            assert (caught.value.code(), caught.value.details()) == (code, details)
            if method == "abort":
                assert tuple(tuple(entry) for entry in caught.value.trailing_metadata()) == METADATA

    converse(sides, scenario)


@SIDES
def test_a_deadline_and_a_cancellation_end_the_handler(sides: tuple[bool, bool]) -> None:
    async def scenario(channel: Any, peer: Peer) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/peer/forever")(b"", timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(peer.cancelled.wait(), 5)
        peer.cancelled.clear()
        call = channel.unary_unary("/peer/forever")(b"")
        while not peer.running:
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await call.code() is grpc.StatusCode.CANCELLED
        await asyncio.wait_for(peer.cancelled.wait(), 5)

    converse(sides, scenario)


@SIDES
def test_a_message_above_the_limit_is_refused_with_both_sizes(sides: tuple[bool, bool]) -> None:
    async def scenario(channel: Any, peer: Peer) -> None:
        del peer
        with pytest.raises(
            grpc.aio.AioRpcError, match=r"eceived message larger than max \(2000000 vs. 1000\)"
        ) as caught:
            await channel.unary_unary("/peer/one_one")(bytes(2_000_000))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await channel.unary_unary("/peer/one_one")(bytes(1000)) == bytes(1000)

    converse(sides, scenario, [("grpc.max_receive_message_length", 1000)])


def test_compressed_requests_are_read_and_a_bomb_is_not_unpacked() -> None:
    async def scenario(channel: Any, peer: Peer) -> None:
        del peer
        one = channel.unary_unary("/peer/one_one")
        for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            assert await one(bytes(90_000), compression=compression) == bytes(90_000)
            with pytest.raises(grpc.aio.AioRpcError, match="larger than max") as caught:
                await one(bytes(50_000_000), compression=compression)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    converse((False, True), scenario, [("grpc.max_receive_message_length", 100_000)])


def test_a_channel_connects_again_and_says_what_it_tried() -> None:
    async def main() -> None:
        peer = Peer()
        options = [*UNLIMITED, ("grpc.initial_reconnect_backoff_ms", 10), ("grpc.max_reconnect_backoff_ms", 20)]
        async with serving(True, peer, UNLIMITED) as address:
            channel: Any = Channel(address, options)
            one = channel.unary_unary("/peer/one_one")
            assert await one(b"x") == b"x"
            waiting = channel.unary_unary("/peer/forever")(b"")
            while not peer.running:
                await asyncio.sleep(0.01)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await waiting
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.aio.AioRpcError, match=f"failed to connect to {address}"):
            await one(b"x")
        later = one(b"y", wait_for_ready=True)
        again = Server(options=UNLIMITED)
        again.add_generic_rpc_handlers((peer,))
        again.add_insecure_port(address)
        await again.start()
        assert await asyncio.wait_for(later, 10) == b"y"
        await channel.close()
        await again.stop(None)

    asyncio.run(main())


def test_what_was_sent_before_a_server_stops_is_answered() -> None:
    async def main() -> None:
        peer = Peer()
        stopping = Server(options=UNLIMITED)
        stopping.add_generic_rpc_handlers((peer,))
        port = stopping.add_insecure_port("127.0.0.1:0")
        await stopping.start()
        for own in (True, False):
            assert await opened(own, f"127.0.0.1:{port}").unary_unary("/peer/one_one")(b"x") == b"x"
        channels = [opened(own, f"127.0.0.1:{port}") for own in (True, False)]
        for channel in channels:
            await channel.channel_ready()
        ours, grpcs = channels
        calls = [grpcs.unary_unary("/peer/slow")(bytes(9000)) for _ in range(50)]
        while peer.running < 50:  # gRPC writes when it pleases
            await asyncio.sleep(0.001)
        calls += [ours.unary_unary("/peer/one_one")(bytes(9000)) for _ in range(50)]
        await asyncio.sleep(0)  # they are written, and not read
        await stopping.stop(5)
        assert await asyncio.gather(*calls) == [bytes(9000)] * 100

    asyncio.run(main())


# ---- windows


class Pipe(asyncio.Transport):
    """Carries bytes to the other end in pieces of given lengths."""

    def __init__(self, lengths: list[int]) -> None:
        super().__init__()
        self.lengths, self.turn, self.waiting = lengths, 0, bytearray()
        self.other: Any = None
        self.scheduled = False

    def can_write_eof(self) -> bool:
        return False

    def write(self, data: Any) -> None:
        self.waiting += data
        if not self.scheduled:
            self.scheduled = True
            asyncio.get_running_loop().call_soon(self._carry)

    def _carry(self) -> None:
        self.scheduled = False
        length = self.lengths[self.turn % len(self.lengths)]
        self.turn += 1
        piece, self.waiting = bytes(self.waiting[:length]), self.waiting[length:]
        if piece:
            self.other.data_received(piece)
        if self.waiting:
            self.write(b"")

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        del high, low

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        del name
        return default

    def close(self) -> None:
        pass

    abort = close


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 3000) | st.sampled_from([16_379, 65_537, 150_000]), min_size=1, max_size=6),
    up=st.lists(st.integers(1, 70_000), min_size=1, max_size=5),
    down=st.lists(st.integers(1, 70_000), min_size=1, max_size=5),
    window=st.sampled_from([1000, 65_535, 300_000]),
    largest_frame=st.sampled_from([16_384, 100_000]),
    held=st.sampled_from([1, 50_000, 10**7]),
)
def test_messages_pass_whole_through_any_windows_and_cuts(
    sizes: list[int], up: list[int], down: list[int], window: int, largest_frame: int, held: int
) -> None:
    async def main() -> None:
        made = Server(options=UNLIMITED)
        made.add_generic_rpc_handlers((Peer(),))
        channel = Channel("nowhere:1", UNLIMITED)
        there, back = Pipe([length + sum(sizes) // 200 for length in up]), Pipe(down)
        client, serves = ClientConnection(3600, 60), server.ServerConnection(made)
        there.other, back.other = serves, client
        client.connection_made(there)
        serves.connection_made(back)
        channel._connection = client
        messages = [i.to_bytes(4, "big")[: size % 5] + bytes(size) for i, size in enumerate(sizes)]

        async def requests() -> AsyncIterator[bytes]:
            for message in messages:
                yield message

        await client.ready  # from now on no window is larger than told, and both ends see to it
        while serves.stream_window != window:
            await asyncio.sleep(0)
        streams = [channel.stream_stream("/peer/many_many")(requests()) for _ in range(2)]
        for one in streams:
            assert [answer async for answer in one] == messages
        assert not client.streams
        assert not serves.streams
        assert not client.blocked
        client._timer.cancel()  # type: ignore[union-attr]
        serves._timer.cancel()  # type: ignore[union-attr]

    with (
        mock.patch.object(connection, "OWN_WINDOW", window),
        mock.patch.object(connection.Connection, "stream_credit", max(1, window // 2)),
        mock.patch.object(connection, "OWN_MAX_FRAME", largest_frame),
        mock.patch.object(connection, "OWN_CONNECTION_WINDOW", 65_536),
        mock.patch.object(stream, "HELD_BYTES", held),
    ):
        asyncio.run(asyncio.wait_for(main(), 60))


# ---- peers that are no friends


def block(path: str = "/peer/one_one", *more: tuple[bytes, bytes]) -> bytes:
    kinds = ((b"content-type", b"application/grpc"), (b"te", b"trailers"))
    return fields.block([(b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()), *kinds, *more])


GREETING = frames.PREFACE + frames.settings({})
MESSAGE = b"\0\0\0\0\x01x"


def asking(stream_id: int) -> bytes:
    """A whole call."""
    data = frames.frame(frames.DATA, frames.END_STREAM, stream_id, MESSAGE)
    return frames.headers(stream_id, block(), end_stream=False) + data


CALL = asking(1)


class Raw:
    """A connection that sends whatever a test wants."""

    def __init__(self, address: str) -> None:
        host, port = address.split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=10)

    def read(self, until: Callable[[list[tuple[int, int, int, bytes]]], bool]) -> list[tuple[int, int, int, bytes]]:
        """Frames (kind, flags, stream, payload) until they are enough, or the server closed."""
        data, found = b"", list[tuple[int, int, int, bytes]]()
        while not until(found):
            got = self.socket.recv(65_536)
            if not got:
                break
            data += got
            while len(data) >= 9:
                high, low, kind, flags, stream_id = frames.unpack_head(data, 0)
                length = high << 8 | low
                if len(data) < 9 + length:
                    break
                found.append((kind, flags, stream_id, data[9 : 9 + length]))
                data = data[9 + length :]
        return found


def hostile(talk: Callable[[Raw], Any], options: list[tuple[str, int]] | None = None) -> tuple[Any, Peer]:
    """What `talk` returns; a well-behaved client of the same server must be served beside and after it."""

    async def main() -> tuple[Any, Peer]:
        peer = Peer()
        async with serving(True, peer, [*UNLIMITED, *(options or [])]) as address, opened(False, address) as channel:
            one = channel.unary_unary("/peer/one_one")
            assert await one(b"before") == b"before"
            talking = asyncio.get_running_loop().run_in_executor(None, lambda: talk(Raw(address)))
            while not talking.done():
                assert await one(b"beside") == b"beside"
                await asyncio.sleep(0.01)
            assert await one(b"after") == b"after"
            return await talking, peer

    return asyncio.run(main())


def ended(found: list[tuple[int, int, int, bytes]]) -> bool:
    return any(kind == frames.GOAWAY for kind, *_ in found)


def statuses(found: list[tuple[int, int, int, bytes]]) -> list[bytes]:
    """The last fields of calls, in the order in which they ended."""
    return [payload for kind, flags, _, payload in found if kind == frames.HEADERS and flags & frames.END_STREAM]


def answered(found: list[tuple[int, int, int, bytes]]) -> bool:
    return any(kind == frames.HEADERS and flags & frames.END_STREAM for kind, flags, *_ in found)


HALF = frames.headers(1, block(), end_stream=False)
BROKEN = {
    "HTTP/1.1": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", frames.PROTOCOL_ERROR),
    "a huge frame": (frames.head(frames.DATA, 0, 1, 2**24 - 1), frames.FRAME_SIZE_ERROR),
    "huge fields": (frames.head(frames.HEADERS, 0, 1, 2**19), frames.FRAME_SIZE_ERROR),
    "too much credit": (frames.window_update(0, 2**31 - 1), frames.FLOW_CONTROL_ERROR),
    "credit of nothing": (frames.window_update(0, 0), frames.FLOW_CONTROL_ERROR),
    "gone in the middle": (CALL[: len(CALL) // 2], None),
    "an even stream": (frames.headers(2, block(), end_stream=True), frames.PROTOCOL_ERROR),
    "no fields": (frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff" * 6), frames.COMPRESSION_ERROR),
    "an interrupted block": (
        frames.frame(frames.HEADERS, 0, 1, block()) + frames.frame(frames.PING, 0, 0, bytes(8)),
        frames.PROTOCOL_ERROR,
    ),
    "a continuation of nothing": (frames.frame(frames.CONTINUATION, 0, 1, b""), frames.PROTOCOL_ERROR),
    "a short ping": (frames.frame(frames.PING, 0, 0, b"short"), frames.FRAME_SIZE_ERROR),
    "a frame size of 1": (frames.settings({frames.MAX_FRAME_SIZE: 1}), frames.PROTOCOL_ERROR),
    "a window of 2 GiB": (frames.settings({frames.INITIAL_WINDOW_SIZE: 2**31}), frames.FLOW_CONTROL_ERROR),
    "a push": (frames.frame(frames.PUSH_PROMISE, 0, 1, bytes(4)), frames.PROTOCOL_ERROR),
    "fields without end": (
        frames.frame(frames.HEADERS, 0, 1) + frames.frame(frames.CONTINUATION, 0, 1, bytes(1000)) * 5,
        frames.ENHANCE_YOUR_CALM,
    ),
    "more than the window": (
        frames.headers(1, block("/peer/stuck"), end_stream=False)
        + frames.frame(frames.DATA, 0, 1, b"\0\0\x01\0\0" + bytes(65_536)) * 200,
        frames.FLOW_CONTROL_ERROR,
    ),
    "data of no stream": (frames.frame(frames.DATA, 0, 0, b"x"), frames.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("what", BROKEN)
def test_who_breaks_the_protocol_is_told_how_and_nobody_else_notices(what: str) -> None:
    sent, code = BROKEN[what]

    def talk(raw: Raw) -> Any:
        raw.socket.sendall(sent if what == "HTTP/1.1" else GREETING + sent)
        if code is None:
            raw.socket.close()
            return None
        found = raw.read(ended)
        return next(payload for kind, _, _, payload in found if kind == frames.GOAWAY)

    with mock.patch.object(connection, "LARGEST_BLOCK", 4096):
        told, _ = hostile(talk)
    if code is not None:
        assert struct.unpack(">L", told[4:8])[0] == code, told


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"\x07xxxx", b"a message begins with 7"),
        (b"\0\0\0\0\x09half", b"the stream ended within a message"),
        (b"\x01\0\0\0\x01x", b"a compressed message with grpc-encoding identity"),
    ],
)
def test_a_message_that_is_none_ends_its_call_alone(data: bytes, wanted: bytes) -> None:
    def talk(raw: Raw) -> Any:
        raw.socket.sendall(GREETING + HALF + frames.frame(frames.DATA, frames.END_STREAM, 1, data) + asking(3))
        return raw.read(lambda found: len(statuses(found)) == 2)

    first, second = statuses(hostile(talk)[0])
    assert b"grpc-status\x0213" in first
    assert wanted in first
    assert b"grpc-status\x010" in second


def test_windows_that_change_while_a_call_waits_are_kept_to_the_byte() -> None:
    def talk(raw: Raw) -> Any:
        raw.socket.sendall(frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 2}) + CALL)
        got = [raw.read(lambda found: any(kind == frames.DATA for kind, *_ in found))]
        raw.socket.sendall(frames.settings({frames.INITIAL_WINDOW_SIZE: 3}))
        got.append(raw.read(lambda found: any(kind == frames.DATA for kind, *_ in found)))
        raw.socket.sendall(frames.window_update(1, 1))
        got.append(raw.read(lambda found: any(kind == frames.DATA for kind, *_ in found)))
        raw.socket.sendall(frames.window_update(1, 100))
        got.append(raw.read(answered))
        return got

    got, _ = hostile(talk)
    sent = [b"".join(payload for kind, _, _, payload in found if kind == frames.DATA) for found in got]
    assert sent == [MESSAGE[:2], MESSAGE[2:3], MESSAGE[3:4], MESSAGE[4:]]


def test_a_server_keeps_deadlines_of_its_own() -> None:
    def talk(raw: Raw) -> Any:
        late = frames.headers(1, block("/peer/forever", (b"grpc-timeout", b"50m")), end_stream=False)
        raw.socket.sendall(GREETING + late + frames.frame(frames.DATA, frames.END_STREAM, 1, MESSAGE))
        return raw.read(answered)

    found, peer = hostile(talk)
    assert b"grpc-status\x014" in statuses(found)[0]
    assert peer.cancelled.is_set()


def test_a_bomb_takes_no_memory() -> None:
    bomb = zlib.compress(bytes(300_000_000), 9, 31)
    fields_of_it = block("/peer/one_one", (b"grpc-encoding", b"gzip"))
    body = b"\x01" + len(bomb).to_bytes(4, "big") + bomb
    pieces = [body[i : i + 16_000] for i in range(0, len(body), 16_000)]
    sent = GREETING + frames.headers(1, fields_of_it, end_stream=False)
    sent += b"".join(frames.frame(frames.DATA, 0, 1, piece) for piece in pieces)
    tracemalloc.start()

    def talk(raw: Raw) -> Any:
        raw.socket.sendall(sent)
        return raw.read(answered)

    found, _ = hostile(talk, [("grpc.max_receive_message_length", 2_000_000)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert b"larger than max" in statuses(found)[0]
    assert peak < 30_000_000


def test_padding_priority_and_continuations_are_read_as_the_protocol_has_them() -> None:
    first, rest = block()[:20], block()[20:]
    padded = b"\x03" + bytes(5) + first + b"\0\0\0"
    flags = frames.PADDED | frames.WITH_PRIORITY
    sent = (
        frames.frame(frames.HEADERS, flags, 1, padded)
        + frames.frame(frames.CONTINUATION, 0, 1, rest[:5])
        + frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, rest[5:])
        + frames.frame(frames.PRIORITY, 0, 1, bytes(5))
        + frames.frame(0xAA, 0, 0, b"unknown kinds are ignored")
        + frames.frame(frames.DATA, frames.PADDED, 1, b"\x02" + MESSAGE[:3] + b"\0\0")
        + frames.frame(frames.DATA, frames.PADDED | frames.END_STREAM, 1, b"\x01" + MESSAGE[3:] + b"\0")
    )

    def talk(raw: Raw) -> Any:
        for i in range(0, len(GREETING + sent), 7):  # in small pieces
            raw.socket.sendall((GREETING + sent)[i : i + 7])
        return raw.read(answered)

    found, _ = hostile(talk)
    assert [payload for kind, _, _, payload in found if kind == frames.DATA] == [MESSAGE]


def test_a_handler_that_takes_long_to_end_keeps_its_place() -> None:
    def talk(raw: Raw) -> Any:
        raw.socket.sendall(GREETING)
        for i in range(3):
            ids = range(40 * i + 1, 40 * i + 41, 2)
            for stream_id in ids:
                head = frames.headers(stream_id, block("/peer/reluctant"), end_stream=False)
                raw.socket.sendall(head + frames.frame(frames.DATA, frames.END_STREAM, stream_id, MESSAGE))
            time.sleep(0.1)  # they run
            raw.socket.sendall(b"".join(frames.reset(stream_id, frames.CANCEL) for stream_id in ids))

    _, peer = hostile(talk, [("grpc.max_concurrent_streams", 20)])
    assert 0 < peer.most_running <= 20


def test_calls_opened_and_reset_in_a_hurry_stay_within_the_limit() -> None:
    def talk(raw: Raw) -> Any:
        raw.socket.sendall(GREETING)
        for i in range(5000):
            stream_id = 2 * i + 1
            raw.socket.sendall(
                frames.headers(stream_id, block("/peer/forever"), end_stream=False)
                + frames.frame(frames.DATA, frames.END_STREAM, stream_id, MESSAGE)
                + frames.reset(stream_id, frames.CANCEL)
            )
        time.sleep(0.2)
        raw.socket.sendall(asking(10_001))  # all have ended, and there is room again
        assert raw.read(answered)

    _, peer = hostile(talk, [("grpc.max_concurrent_streams", 20)])
    assert peer.most_running <= 20
    assert peer.running == 0


@pytest.mark.parametrize(
    "asked", [frames.settings({}), frames.frame(frames.PING, 0, 0, bytes(8))], ids=["settings", "ping"]
)
def test_who_asks_and_does_not_listen_is_cut_off(asked: bytes) -> None:
    def talk(raw: Raw) -> Any:
        raw.socket.settimeout(30)  # the system holds much before anybody notices
        raw.socket.sendall(GREETING)
        try:
            for _ in range(10_000):
                raw.socket.sendall(asked * 1000)
        except (ConnectionResetError, BrokenPipeError):
            return True
        return False

    with mock.patch.object(connection, "WRITTEN_AHEAD", 65_536), mock.patch.object(connection, "ANSWERS_WAITING", 500):
        cut_off, _ = hostile(talk, [("grpc.http2.min_ping_interval_without_data_ms", 0)])
    assert cut_off


def test_who_breaks_the_protocol_and_talks_on_is_told_all_the_same() -> None:
    """Data that nobody reads would be answered by a reset, which overtakes what was said before it."""

    def talk(raw: Raw) -> Any:
        raw.socket.sendall(GREETING + frames.window_update(0, 0))
        time.sleep(0.2)
        for _ in range(10):
            raw.socket.sendall(bytes(10_000))
            time.sleep(0.01)
        return raw.read(ended)

    assert ended(hostile(talk)[0])


def test_connections_beyond_the_limit_are_closed_at_once() -> None:
    def talk(raw: Raw) -> Any:
        more = [socket.create_connection(raw.socket.getpeername(), timeout=10) for _ in range(3)]
        return more[-1].recv(1000), more[0].recv(1000)

    (beyond, within), _ = hostile(talk, [("grpc.max_allowed_incoming_connections", 4)])
    assert beyond == b""
    assert within  # the server's settings


def test_connections_that_never_greet_are_closed() -> None:
    def talk(raw: Raw) -> Any:
        raw.socket.sendall(frames.PREFACE[:5])
        return raw.read(lambda _: False)

    found, _ = hostile(talk, [("grpc.server_handshake_timeout_ms", 300)])
    assert [kind for kind, *_ in found] == [frames.SETTINGS, frames.WINDOW_UPDATE]


def test_too_much_metadata_is_refused_and_the_connection_goes_on() -> None:
    def talk(raw: Raw) -> Any:
        large = block("/peer/one_one", (b"x", bytes(20_000).replace(b"\0", b"a")))
        raw.socket.sendall(GREETING + frames.headers(1, large, end_stream=False) + asking(3))
        return raw.read(lambda found: sum(map(answered, ([one] for one in found))) == 2)

    found, _ = hostile(talk)
    first, second = [
        payload for kind, flags, _, payload in found if kind == frames.HEADERS and flags & frames.END_STREAM
    ]
    assert b"received metadata size exceeds hard limit" in first
    assert b"grpc-status\x010" in second


def test_what_is_no_grpc_is_answered_in_http() -> None:
    def talk(raw: Raw) -> Any:
        raw.socket.sendall(
            GREETING + frames.headers(1, fields.block([(b":method", b"GET"), (b":path", b"/")]), end_stream=True)
        )
        return raw.read(answered)

    found, _ = hostile(talk)
    assert any(b":status\x03405" in payload for kind, _, _, payload in found if kind == frames.HEADERS)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_bytes_bring_a_server_down(data: st.DataObject) -> None:
    """Frames of a valid conversation, changed, cut and mixed: the connection may end, and raises nothing."""
    valid = [
        frames.settings({}),
        CALL,
        frames.window_update(0, 10),
        frames.frame(frames.PING, 0, 0, bytes(8)),
        frames.reset(1, 8),
    ]
    pieces = data.draw(st.lists(st.sampled_from(valid) | st.binary(max_size=60), max_size=8))
    sent = bytearray(b"".join(pieces))
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6)):
        if sent:
            sent[at % len(sent)] = value

    async def main() -> None:
        made = Server(options=UNLIMITED)
        made.add_generic_rpc_handlers((Peer(),))
        serves, pipe = server.ServerConnection(made), Pipe([10**9])
        pipe.other = mock.Mock()
        serves.connection_made(pipe)
        with mock.patch.object(connection._log, "exception") as ours:
            serves.data_received(GREETING)
            for i in range(0, len(sent), 50):
                serves.data_received(bytes(sent[i : i + 50]))
            for _ in range(5):
                await asyncio.sleep(0)
        assert not ours.called, ours.call_args
        serves.connection_lost(None)
        assert not serves.streams
        await asyncio.sleep(0)
        assert not serves.calls

    asyncio.run(main())


# ---- a peer that is there and does not answer


@pytest.mark.parametrize("own_client", [True, False], ids=["client", "server"])
def test_a_silent_peer_is_given_up(own_client: bool) -> None:
    """A stopped process still accepts bytes; only an answer shows that it lives."""

    async def main() -> None:
        options = [*UNLIMITED, ("grpc.keepalive_time_ms", 100), ("grpc.keepalive_timeout_ms", 200)]
        loop = asyncio.get_running_loop()
        if own_client:
            silent = await asyncio.start_server(lambda _, w: w.write(frames.settings({})), "127.0.0.1", 0)
            channel: Any = Channel(f"127.0.0.1:{silent.sockets[0].getsockname()[1]}", options)
            with pytest.raises(grpc.aio.AioRpcError, match="does not answer") as caught:
                await channel.unary_unary("/peer/one_one")(b"x")
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            await channel.close()
            silent.close()
        else:
            async with serving(True, Peer(), options) as address:
                raw = Raw(address)
                raw.socket.sendall(GREETING)
                found = await loop.run_in_executor(None, lambda: raw.read(lambda _: False))
                assert any(kind == frames.PING for kind, *_ in found)

    asyncio.run(asyncio.wait_for(main(), 20))
