"""The frontend's streams: what one says does not overtake the other, and what is gone is let go."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from cotenant.frontend import links as links_module
from cotenant.frontend.catalogue import RETURN_NS, Catalogue
from cotenant.frontend.checking import check
from cotenant.frontend.dispatch import Dispatcher
from cotenant.frontend.links import ExecutorLink, Links
from cotenant.frontend.staging_area import StagingArea
from cotenant.frontend.statistics import Statistics
from cotenant.runtime.clock import clock_id
from cotenant.runtime.outbox import Outbox
from cotenant.v1 import executor_pb2, scheduler_pb2, types_pb2
from frontend_requests import request
from test_frontend_dispatch import MODEL, on_a_loop


class Now:
    """A clock that moves when told to."""

    ns = 10**12


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Now]]:
    monkeypatch.setattr(links_module, "now_ns", lambda: Now.ns)
    yield Now
    Now.ns = 10**12


def make() -> Links:
    dispatcher = Dispatcher(StagingArea("", 0), max_pending=8, patience_ns=10**9)
    return Links("localhost:1", dispatcher, Catalogue(), Statistics(), software="test")


def frame(**fields: Any) -> scheduler_pb2.ConnectFrontendResponse:
    return scheduler_pb2.ConnectFrontendResponse(**fields)


def hello(epoch: int) -> scheduler_pb2.SchedulerHello:
    return scheduler_pb2.SchedulerHello(epoch=epoch, clock_id=clock_id(), version="test")


def executor(device_id: str, incarnation: int, *, lost: bool = False) -> scheduler_pb2.ExecutorState:
    state = scheduler_pb2.ExecutorState(incarnation=incarnation, address="localhost:1", lost=lost)
    state.device.device_id = device_id
    return state


def new_outbox() -> Outbox[scheduler_pb2.ConnectFrontendRequest]:
    return Outbox(scheduler_pb2.ConnectFrontendRequest)


@on_a_loop
async def test_a_barrier_waits_for_what_was_told_before(now: type[Now]) -> None:
    links, outbox = make(), new_outbox()
    links._take(frame(hello=hello(1)), outbox)
    waiting = asyncio.create_task(links.barrier())
    await asyncio.sleep(0)
    assert outbox.frame.ping.sent_ns == now.ns
    links._take(frame(pong=types_pb2.Pong(ping_sent_ns=now.ns - 1)), outbox)  # of an earlier ping
    await asyncio.sleep(0)
    assert not waiting.done()
    links._take(frame(pong=types_pb2.Pong(ping_sent_ns=now.ns)), outbox)
    await asyncio.wait_for(waiting, 1)
    await asyncio.wait_for(make().barrier(), 1)  # without a scheduler there is nothing to wait for


@on_a_loop
async def test_nothing_is_submitted_to_another_host_before_its_clock_is_known(now: type[Now]) -> None:
    links, outbox = make(), new_outbox()
    elsewhere = scheduler_pb2.SchedulerHello(epoch=1, clock_id="another host", version="test")
    links._take(frame(hello=elsewhere), outbox)
    assert not links.connected.is_set()
    offset_ns = 7 * 10**12
    pong = types_pb2.Pong(ping_sent_ns=now.ns, received_ns=now.ns + offset_ns, sent_ns=now.ns + offset_ns)
    links._take(frame(pong=pong), outbox)
    assert links.connected.is_set()
    assert links._dispatcher.clock.to_peer(now.ns) == now.ns + offset_ns
    here = make()
    here._take(frame(hello=hello(1)), outbox)
    assert here.connected.is_set()  # one host, one clock


@on_a_loop
async def test_tensors_follow_a_stream_that_comes_later_or_anew() -> None:
    links, assign = make(), scheduler_pb2.Assign(attempt=2, device_id="gpu-0")
    dispatcher = links._dispatcher
    checked = check(request(raw=b"\1" * 8), MODEL, None)
    waiting, other, over = (dispatcher.submit(checked, MODEL, 0, "") for _ in range(3))
    link = ExecutorLink(executor("gpu-0", 1), dispatcher, links)
    link.task.cancel()
    for pending in (waiting, over):
        assign.request_id = pending.request_id
        link.stage(assign)
    dispatcher.refuse(scheduler_pb2.Refusal(request_id=over.request_id))
    for again in (False, True):
        outbox = Outbox(executor_pb2.ExchangeRequest)
        link._outbox = outbox
        link._stage_again()
        if not again:
            link.stage(scheduler_pb2.Assign(request_id=other.request_id, attempt=1, device_id="gpu-0"))
        stages = [(stage.request_id, stage.attempt, stage.data[:8]) for stage in outbox.frame.stages]
        assert stages == [(waiting.request_id, 2, b"\1" * 8), (other.request_id, 1, b"\1" * 8)]
        link._forget()


@on_a_loop
async def test_executors_come_change_and_go(now: type[Now]) -> None:
    links, outbox = make(), new_outbox()
    links._take(frame(hello=hello(1), executors=[executor("gpu-0", 1), executor("gpu-1", 1)]), outbox)
    first = links.executors["gpu-0"]
    links._take(frame(executors=[executor("gpu-0", 1)]), outbox)
    assert links.executors["gpu-0"] is first  # the same, told again
    links._take(frame(executors=[executor("gpu-0", 2)]), outbox)
    assert links.executors["gpu-0"] is not first
    links._take(frame(executors=[executor("gpu-0", 1, lost=True)]), outbox)  # late news of the older one
    assert set(links.executors) == {"gpu-0", "gpu-1"}
    links._take(frame(executors=[executor("gpu-0", 2, lost=True), executor("gpu-1", 1, lost=True)]), outbox)
    assert not links.executors
    assert not links._catalogue.executors_connected
    links.close()


@on_a_loop
async def test_executors_that_a_new_scheduler_never_names_are_let_go(now: type[Now]) -> None:
    links = make()
    links._take(frame(hello=hello(1), executors=[executor("kept", 1), executor("gone", 1)]), new_outbox())
    kept = links.executors["kept"]
    links._take(frame(hello=hello(2)), new_outbox())
    links._drop_unconfirmed()
    assert set(links.executors) == {"kept", "gone"}  # answers may still come from either
    links._take(frame(executors=[executor("kept", 1)]), new_outbox())
    now.ns += RETURN_NS
    links._drop_unconfirmed()
    assert links.executors == {"kept": kept}
    links.close()


@on_a_loop
async def test_the_same_scheduler_after_a_blip_changes_nothing(now: type[Now]) -> None:
    links = make()
    links._take(frame(hello=hello(1), executors=[executor("gpu-0", 1)]), new_outbox())
    links._take(frame(hello=hello(1)), new_outbox())
    now.ns += RETURN_NS
    links._drop_unconfirmed()
    assert set(links.executors) == {"gpu-0"}
    links.close()
