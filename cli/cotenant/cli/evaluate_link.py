"""A link to a predictor that is a server: events go to it, its pushes come back, and it is known what it has learned.

A predictor says with its pushes up to which event it has learned. One that has nothing new to tell is asked by a new
subscription, which begins with everything; one that never says it is taken at its acknowledgements.
"""

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import cast

import grpc

from cotenant.runtime import transport
from cotenant.runtime.server import CHANNEL_OPTIONS
from cotenant.v1 import executor_pb2, predictor_pb2_grpc, types_pb2
from cotenant.v1 import predictor_pb2 as pb

CONNECT_S = 5.0
PATIENCE_S = 10.0  # for a predictor to say that it has learned something
QUIET_S = 0.3  # without a push, after which the subscription is renewed
INCARNATION = 1


class Source:
    """The stream of events of one device."""

    def __init__(self, stub: predictor_pb2_grpc.PredictorServiceStub, device: types_pb2.Device) -> None:
        self.device_id = device.device_id
        self.sent = 0
        self.acknowledged = 0
        self._frames: queue.SimpleQueue[pb.ObserveRequest | None] = queue.SimpleQueue()
        hello = pb.ObserveHello(device=device, incarnation=INCARNATION)
        self._frames.put(pb.ObserveRequest(hello=hello))
        self._responses = stub.Observe(iter(self._frames.get, None))
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        with contextlib.suppress(grpc.RpcError):  # whoever waits for its acknowledgements will say so
            for response in self._responses:
                self.acknowledged = max(self.acknowledged, response.acknowledged_sequence)

    def send(self, event: executor_pb2.ExecutorEvent) -> None:
        """Sends an event, numbered."""
        self.sent += 1
        event.sequence = self.sent
        self._frames.put(pb.ObserveRequest(events=[event]))

    def close(self) -> None:
        """Ends the stream, once what waits has been sent or a second later."""
        self._frames.put(None)
        self._reading.join(timeout=1.0)
        self._responses.cancel()


class Link:
    """See the module's text."""

    def __init__(self, address: str, devices: Mapping[str, types_pb2.Device], levels: tuple[float, ...]) -> None:
        """Raises ValueError if nobody answers. Devices are told by names that no other run has."""
        self.address = address
        self._levels = levels
        self._channel = transport.own().blocking_channel(address, CHANNEL_OPTIONS)
        try:
            grpc.channel_ready_future(self._channel).result(timeout=CONNECT_S)
        except grpc.FutureTimeoutError:
            self._channel.close()
            raise ValueError(f"no predictor answers at {address}") from None
        self._stub = predictor_pb2_grpc.PredictorServiceStub(self._channel)
        prefix = f"evaluate-{os.getpid()}-{time.time_ns()}/"
        self.sources: dict[str, Source] = {}
        for device_id, device in devices.items():
            named = types_pb2.Device()
            named.CopyFrom(device)
            named.device_id = prefix + device_id
            self.sources[device_id] = Source(self._stub, named)
        self._learned: dict[str, int] = {}
        self.tells = False  # whether it says what it has learned
        self._subscribe()

    def _subscribe(self) -> None:
        self._pushes: queue.SimpleQueue[pb.WatchEstimatesResponse | grpc.RpcError] = queue.SimpleQueue()
        self._watch = self._stub.WatchEstimates(pb.WatchEstimatesRequest(levels=self._levels, min_interval_ns=1))
        threading.Thread(target=_read_pushes, args=(self._watch, self._pushes), daemon=True).start()

    def learned(self, take: Callable[[pb.WatchEstimatesResponse], None]) -> None:
        """Waits until everything sent is learned; `take` gets what is pushed meanwhile.

        Raises ValueError if the predictor does not say so in time, or ends its stream.
        """
        give_up_s = time.monotonic() + PATIENCE_S
        while any(self._learned.get(source.device_id, 0) < source.sent for source in self.sources.values()):
            if time.monotonic() > give_up_s:
                sent = ", ".join(f"{s.sent} ({s.acknowledged} acknowledged)" for s in self.sources.values())
                raise ValueError(
                    f"the predictor at {self.address} did not say within {PATIENCE_S:g} s that it learned event {sent}"
                )
            if push := self._next(QUIET_S):
                self._take(push, take)
                continue
            acknowledged = all(source.acknowledged >= source.sent for source in self.sources.values())
            self._watch.cancel()
            self._subscribe()
            if acknowledged and not self.tells:
                if everything := self._next(PATIENCE_S):
                    self._take(everything, take)
                if not self.tells:
                    return

    def _next(self, timeout_s: float) -> pb.WatchEstimatesResponse | None:
        """The next push; None if there is none in time."""
        try:
            push = self._pushes.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(push, grpc.RpcError):
            raise ValueError(f"the predictor at {self.address} ended its stream of estimates: {push}")
        return push

    def _take(self, push: pb.WatchEstimatesResponse, take: Callable[[pb.WatchEstimatesResponse], None]) -> None:
        for told in push.learned_through:
            self._learned[told.device_id] = max(self._learned.get(told.device_id, 0), told.sequence)
            self.tells = True
        take(push)

    def close(self) -> None:
        """Ends all streams."""
        self._watch.cancel()
        for source in self.sources.values():
            source.close()
        self._channel.close()


def _read_pushes(
    call: Iterator[pb.WatchEstimatesResponse], into: "queue.SimpleQueue[pb.WatchEstimatesResponse | grpc.RpcError]"
) -> None:
    try:
        for push in call:
            into.put(push)
    except grpc.RpcError as error:
        if cast("grpc.Call", error).code() != grpc.StatusCode.CANCELLED:
            into.put(error)
