"""What strikes, for how long, and how it ends. A seed makes the same script every time."""

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

import grpc
import stepped
from links import connected
from stage import Stage
from traffic import OPTIONS, Ledger, end_of, enter, request, streaming

HOUR_NS = 3_600_000_000_000
SLOW_READER_REQUESTS = 400  # each with an answer of 602 KB
SHORT_S, LONG_S = 0.3, 5.0


class Fault(NamedTuple):
    """One blow: its kind, whom it strikes, for how many seconds (0: at an instant)."""

    kind: str
    target: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.kind} {self.target}" + (f" for {self.seconds:.1f} s" if self.seconds else "")


def kinds(stage: Stage) -> list[tuple[str, str]]:
    """All that can be done to a stack: kinds and targets."""
    names = list(stage.services)
    executors = [name for name in names if name.startswith("executor")]
    found = [("kill", name) for name in names]
    found += [("kill", "+".join(executors))] if len(executors) > 1 else []
    found += [("stop", name) for name in names]
    found += [(how, f"{one}>{other}") for one, other in connected(names) for how in stage.links.kinds]
    found += [("disk full", "all"), ("slow reader", "frontend")]
    found += [("wall clock", name) for name in names]
    found += [("monotonic clock", stage.is_elsewhere)] if stage.is_elsewhere else []
    return found


def script(stage: Stage, seed: int, *, longest_s: float = LONG_S) -> Iterator[list[Fault]]:
    """Blows without end: every kind once in each round, in random order; now and then two at once."""
    chance = random.Random(seed)
    while True:
        order = kinds(stage)
        chance.shuffle(order)
        while order:
            several = 2 if len(order) > 1 and chance.random() < 0.15 else 1
            yield [
                Fault(kind, target, 0.0 if kind in ("kill", "wall clock") else chance.uniform(SHORT_S, longest_s))
                for kind, target in (order.pop() for _ in range(several))
            ]


class Striker:
    """Carries out blows."""

    def __init__(self, stage: Stage, ledger: Ledger, seed: int) -> None:
        self._stage, self._ledger = stage, ledger
        self._random = random.Random(seed)

    async def strike(self, fault: Fault) -> float:
        """One blow, until it is over; returns when it ended, in seconds of the monotonic clock."""
        blows: dict[str, Callable[[Fault], Awaitable[None]]] = {
            "kill": self._kill,
            "stop": self._stop,
            "disk full": self._disk,
            "slow reader": self._slow_reader,
            "wall clock": self._wall_clock,
            "monotonic clock": self._monotonic_clock,
        }
        await blows.get(fault.kind, self._cut)(fault)
        return time.monotonic()

    async def _kill(self, fault: Fault) -> None:
        for name in fault.target.split("+"):
            self._stage.kill(name)

    async def _stop(self, fault: Fault) -> None:
        process = self._stage.processes[fault.target]
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(fault.seconds)
        process.send_signal(signal.SIGCONT)

    async def _cut(self, fault: Fault) -> None:
        one, _, other = fault.target.partition(">")
        await self._stage.links.cut(one, other, fault.kind)
        await asyncio.sleep(fault.seconds)
        await self._stage.links.heal(one, other)

    async def _disk(self, fault: Fault) -> None:
        disk = self._stage.disk
        await asyncio.to_thread(disk.fill, self._stage.pids())
        await asyncio.sleep(fault.seconds)
        await asyncio.to_thread(disk.clear, self._stage.pids())

    async def _wall_clock(self, fault: Fault) -> None:
        """Steps by up to an hour, back or forward, and stays there until the next one."""
        step_ns = self._random.randint(-HOUR_NS, HOUR_NS)
        stepped.write(self._stage.clocks[fault.target], wall_ns=step_ns, monotonic_ns=0)

    async def _monotonic_clock(self, fault: Fault) -> None:
        """Back or forward by as long as the fault lasts, and there again at its end."""
        step_ns = int(fault.seconds * 1e9) * self._random.choice((-1, 1))
        clock = self._stage.clocks[fault.target]
        stepped.write(clock, wall_ns=0, monotonic_ns=step_ns)
        await asyncio.sleep(fault.seconds)
        stepped.write(clock, wall_ns=0, monotonic_ns=0)

    async def _slow_reader(self, fault: Fault) -> None:
        """A client that sends many requests of large answers and reads none for a while; then all."""
        channel = grpc.aio.insecure_channel(self._stage.url, options=OPTIONS)
        call = streaming(channel)()
        mine: set[int] = set()

        async def write() -> None:
            for _ in range(SLOW_READER_REQUESTS):
                number = self._ledger.sent("large")
                mine.add(number)
                await call.write(request(number, "large"))
            await call.done_writing()

        writing = asyncio.create_task(write())
        await asyncio.sleep(fault.seconds)
        status, text = "UNAVAILABLE", "the stream ended"
        try:
            while (answer := await call.read()) is not grpc.aio.EOF:
                number = int(answer.infer_response.id or 0)
                mine.discard(number)
                enter(self._ledger, number, answer)
            if (code := await call.code()) is not grpc.StatusCode.OK:
                status, text = end_of(code, await call.details())
        except grpc.aio.AioRpcError as error:
            status, text = end_of(error.code(), error.details())
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        for number in mine:
            self._ledger.answered(number, status, "STREAM_ENDED", text)
        await channel.close()
