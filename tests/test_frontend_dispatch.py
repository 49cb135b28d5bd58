"""Each request is answered exactly once, whatever breaks and in whatever order news of it arrives."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotenant.frontend import catalogue as catalogue_module
from cotenant.frontend import dispatch as dispatch_module
from cotenant.frontend.catalogue import RETURN_NS, Catalogue
from cotenant.frontend.checking import check
from cotenant.frontend.dispatch import REAP_AFTER_NS, Dispatcher, Pending
from cotenant.frontend.errors import RequestError
from cotenant.frontend.inference import Inference
from cotenant.frontend.staging_area import StagingArea
from cotenant.frontend.statistics import Statistics
from cotenant.frontend.tracing import Tracing
from cotenant.runtime.outbox import Outbox
from cotenant.v1 import executor_pb2, scheduler_pb2, types_pb2
from frontend_requests import one_input, put_parameters, request, state, view

MODEL = view(one_input("FP32", [2]))
ONCE_ONLY = view(one_input("FP32", [2], more='parameters { key: "idempotent" value { string_value: "false" } }'))
DECOUPLED = view(one_input("FP32", [2], more="model_transaction_policy { decoupled: true }"))
SECOND = 1_000_000_000


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs an asynchronous test on a loop of its own."""

    @wraps(test)
    def run(*arguments: Any, **more: Any) -> None:
        asyncio.run(test(*arguments, **more))

    return run


class Bench:
    """A dispatcher, its scheduler's inbox, and a clock that moves when told to."""

    def __init__(self, folder: Path | None, *, max_pending: int = 8, mib: int = 1) -> None:
        self.now_ns = 1000 * SECOND
        self.staging = StagingArea(str(folder) if folder else "", mib * 2**20)
        self.dispatcher = Dispatcher(self.staging, max_pending=max_pending, patience_ns=5 * SECOND)
        self.dispatcher._disconnected_ns = self.now_ns
        self.outbox: Outbox[scheduler_pb2.ConnectFrontendRequest] = Outbox(scheduler_pb2.ConnectFrontendRequest)

    def connect(self) -> None:
        self.outbox = Outbox(scheduler_pb2.ConnectFrontendRequest)
        self.dispatcher.connected(self.outbox)

    def submit(self, model: Any = MODEL, *, timeout_us: int = 0) -> Pending:
        message = request(raw=b"\1" * 8)
        put_parameters(message, {"timeout": timeout_us})
        return self.dispatcher.submit(check(message, model, None), model, self.now_ns, "")

    def answer(self, pending: Pending, content: bytes = b"\2" * 8, *, attempt: int = 1) -> None:
        self.dispatcher.answered(answer_of(pending.request_id, content, attempt), memoryview(content))

    def refuse(self, pending: Pending, reason: Any = types_pb2.REJECT_REASON_PREDICTED_MISS) -> None:
        self.dispatcher.refuse(scheduler_pb2.Refusal(request_id=pending.request_id, reason=reason, message="no"))

    @property
    def submits(self) -> list[tuple[int, int]]:
        return [(s.request_id, s.attempt) for s in self.outbox.frame.submits]

    @property
    def cancels(self) -> list[int]:
        return [c.request_id for c in self.outbox.frame.cancels]


def answer_of(request_id: int, content: bytes, attempt: int = 1) -> executor_pb2.Answer:
    made = executor_pb2.Answer(request_id=request_id, attempt=attempt)
    made.outputs.tensors.add(name="Y", datatype="FP32", shape=[2], byte_size=len(content))
    return made


def reason_of(pending: Pending) -> str:
    error = pending.done.exception()
    assert isinstance(error, RequestError)
    return error.reason


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench(tmp_path)
    monkeypatch.setattr(dispatch_module, "now_ns", lambda: made.now_ns)
    yield made
    made.staging.close()


# ---- once


@on_a_loop
async def test_the_first_news_is_the_answer_and_later_news_finds_nobody(bench: Bench) -> None:
    bench.connect()
    answered, refused = bench.submit(), bench.submit()
    bench.answer(answered)
    bench.refuse(answered)
    bench.answer(answered, b"\3" * 8)
    assert answered.done.result().outputs == [b"\2" * 8]
    bench.refuse(refused)
    bench.answer(refused)
    assert reason_of(refused) == "PREDICTED_MISS"
    assert bench.staging.used_bytes == 0
    assert not bench.dispatcher.pending


@on_a_loop
async def test_outputs_are_copied_before_their_memory_is_used_again(bench: Bench) -> None:
    bench.connect()
    pending = bench.submit()
    memory = bytearray(b"\5" * 8)
    bench.dispatcher.answered(answer_of(pending.request_id, bytes(memory)), memoryview(memory))
    memory[:] = b"\6" * 8
    assert pending.done.result().outputs == [b"\5" * 8]


@on_a_loop
async def test_an_answer_in_memory_that_cannot_be_read_is_an_answer(bench: Bench) -> None:
    bench.connect()
    pending = bench.submit()
    bench.dispatcher.answered(answer_of(pending.request_id, b""), None)
    assert reason_of(pending) == "EXECUTOR_LOST"


@on_a_loop
async def test_a_failed_execution_is_told(bench: Bench) -> None:
    bench.connect()
    pending = bench.submit()
    answer = executor_pb2.Answer(request_id=pending.request_id, reason=types_pb2.REJECT_REASON_EXECUTION_FAILED)
    answer.message = "x" * 10_000
    bench.dispatcher.answered(answer, memoryview(b""))
    error = pending.done.exception()
    assert isinstance(error, RequestError)
    assert error.code == grpc.StatusCode.INTERNAL
    assert len(error.message) < 2000


# ---- clients that go


@on_a_loop
async def test_an_abandoned_request_keeps_its_memory_until_it_is_settled(bench: Bench) -> None:
    bench.connect()
    pending = bench.submit()
    pending.done.cancel()
    bench.dispatcher.abandon(pending)
    assert bench.cancels == [pending.request_id]
    assert bench.staging.used_bytes > 0  # an executor may be reading it
    bench.answer(pending)
    assert bench.staging.used_bytes == 0


# ---- room


@on_a_loop
async def test_no_more_is_taken_than_may_be_pending(bench: Bench) -> None:
    bench.connect()
    for _ in range(8):
        bench.submit()
    with pytest.raises(RequestError) as caught:
        bench.submit()
    assert caught.value.reason == "QUEUE_FULL"
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE
    assert caught.value.message == "[request id: <id_unknown>] Exceeds maximum queue size"


@on_a_loop
async def test_tensors_without_shared_memory_are_kept_within_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(None)
    monkeypatch.setattr(dispatch_module, "UNSTAGED_LIMIT_BYTES", 128)
    bench.connect()
    first, _ = bench.submit(), bench.submit()
    with pytest.raises(RequestError) as caught:
        bench.submit()
    assert caught.value.reason == "STAGING_FULL"
    assert caught.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    header, data = bench.dispatcher.tensors(first)
    assert data[: header.tensors[0].byte_size] == b"\1" * 8
    bench.answer(first)
    bench.submit()


@on_a_loop
async def test_tensors_in_shared_memory_are_found_for_executors_that_do_not_map_it(bench: Bench) -> None:
    bench.connect()
    header, data = bench.dispatcher.tensors(bench.submit())
    assert data[header.tensors[0].offset :][:8] == b"\1" * 8


# ---- breaks


@on_a_loop
async def test_what_is_pending_is_submitted_again_after_a_break(bench: Bench) -> None:
    early = bench.submit()  # before there is any scheduler
    bench.connect()
    gone = bench.submit()
    gone.done.cancel()
    bench.dispatcher.abandon(gone)
    bench.dispatcher.disconnected()
    bench.connect()
    assert bench.submits == [(early.request_id, 3), (gone.request_id, 2)]
    assert bench.cancels == [gone.request_id]  # nobody waits for it, but its block must come back
    bench.answer(early, attempt=2)
    assert early.done.result()
    assert bench.cancels[1:] == [early.request_id]  # its third attempt may still wait


@on_a_loop
async def test_answers_lost_with_an_executors_stream_are_asked_for_again(bench: Bench) -> None:
    bench.connect()
    repeatable, once = bench.submit(), bench.submit(ONCE_ONLY)
    bench.connect()
    bench.dispatcher.answers_lost()
    assert [s for s in bench.submits if s[0] == repeatable.request_id][-1][1] == 3
    assert [s[0] for s in bench.submits].count(once.request_id) == 1  # only for the new stream to the scheduler
    bench.now_ns += REAP_AFTER_NS + SECOND
    bench.dispatcher.sweep()
    assert reason_of(once) == "EXECUTOR_LOST"
    assert not repeatable.done.done()


@on_a_loop
async def test_a_scheduler_that_stays_away_is_told_within_the_budget(bench: Bench) -> None:
    bench.connect()
    hasty, patient = bench.submit(timeout_us=1_000_000), bench.submit()
    bench.dispatcher.disconnected()
    bench.now_ns += 2 * SECOND
    bench.dispatcher.sweep()
    assert reason_of(hasty) == "SCHEDULER_LOST"
    assert not patient.done.done()
    assert not bench.submit().done.done()  # still worth waiting
    bench.now_ns += 4 * SECOND
    bench.dispatcher.sweep()
    assert reason_of(patient) == "SCHEDULER_LOST"
    with pytest.raises(RequestError, match="cannot be reached"):
        bench.submit()
    assert bench.staging.used_bytes > 0  # executors may still hold them
    bench.now_ns += REAP_AFTER_NS
    bench.dispatcher.sweep()
    assert bench.staging.used_bytes == 0
    assert not bench.dispatcher.pending


@on_a_loop
async def test_what_nobody_answers_is_given_up_long_after_its_deadline(bench: Bench) -> None:
    bench.connect()
    forgotten, unhurried = bench.submit(timeout_us=1_000_000), bench.submit()
    bench.now_ns += REAP_AFTER_NS
    bench.dispatcher.sweep()
    assert not forgotten.done.done()
    bench.now_ns += 2 * SECOND
    bench.dispatcher.sweep()
    assert reason_of(forgotten) == "EXECUTOR_LOST"
    assert not unhurried.done.done()  # without a deadline, as long as it takes


NEWS = st.lists(
    st.tuples(
        st.sampled_from(["submit", "answer", "refuse", "abandon", "break", "connect", "lost", "wait"]),
        st.integers(0, 5),
    ),
    max_size=30,
)


@given(NEWS)
@settings(max_examples=150)
def test_no_order_of_news_answers_twice_or_leaks(news: list[tuple[str, int]]) -> None:
    async def run() -> None:
        bench = Bench(None)
        bench.connect()
        everything: list[Pending] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dispatch_module, "now_ns", lambda: bench.now_ns)
            for kind, which in news:
                pending = everything[which % len(everything)] if everything else None
                if kind == "submit":
                    with contextlib.suppress(RequestError):
                        everything.append(bench.submit(timeout_us=which * 1_000_000))
                elif kind == "break":
                    bench.dispatcher.disconnected()
                elif kind == "connect":
                    bench.connect()
                elif kind == "lost":
                    bench.dispatcher.answers_lost()
                elif kind == "wait":
                    bench.now_ns += which * 10 * SECOND
                    bench.dispatcher.sweep()
                elif pending is not None:
                    apply(bench, kind, pending)
            for pending in list(bench.dispatcher.pending.values()):
                bench.answer(pending)
        assert not bench.dispatcher.pending
        assert bench.dispatcher.unstaged_bytes == 0
        for pending in everything:
            assert pending.done.done()
            if not pending.done.cancelled():
                pending.done.exception()

    asyncio.run(run())


def apply(bench: Bench, kind: str, pending: Pending) -> None:
    if kind == "answer":
        bench.answer(pending)
    elif kind == "refuse":
        bench.refuse(pending)
    elif not pending.done.done():
        pending.done.cancel()
        bench.dispatcher.abandon(pending)


# ---- models


def known(catalogue: Catalogue, name: str = "m", version: str = "") -> str:
    try:
        return catalogue.find(name, version).version
    except RequestError as error:
        return f"{error.code.name}: {error.message}"


def test_without_executors_a_model_is_away_and_not_unknown() -> None:
    catalogue = Catalogue()
    assert known(catalogue).startswith("UNAVAILABLE: no executor is connected")
    catalogue.executors_connected = True
    assert known(catalogue) == "NOT_FOUND: Request for unknown model: 'm' is not found"


def test_the_latest_ready_version_is_the_default() -> None:
    catalogue = Catalogue()
    for version in ("2", "10", "9"):
        catalogue.apply(state(one_input("FP32", [2]), version=version))
    assert known(catalogue) == "10"
    catalogue.apply(
        state(one_input("FP32", [2]), version="10", availability=scheduler_pb2.MODEL_AVAILABILITY_UNLOADING)
    )
    assert known(catalogue) == "9"
    assert known(catalogue, version="10").startswith("UNAVAILABLE: Request for unknown model: 'm' version 10 is not at")
    assert catalogue.versions_of("m") == ["2", "9"]


def test_what_comes_back_by_itself_is_away_and_what_was_sent_away_is_not() -> None:
    catalogue = Catalogue()
    catalogue.executors_connected = True
    pushed = state(one_input("FP32", [2]))
    catalogue.apply(pushed)
    pushed.availability, pushed.reason = scheduler_pb2.MODEL_AVAILABILITY_UNAVAILABLE, "device 'gpu-0' was lost"
    catalogue.apply(pushed)
    assert known(catalogue) == "UNAVAILABLE: model 'm' is not served at the moment: device 'gpu-0' was lost"
    pushed.availability, pushed.reason = scheduler_pb2.MODEL_AVAILABILITY_LOADING, ""
    catalogue.apply(pushed)
    assert known(catalogue) == "UNAVAILABLE: model 'm' is not served at the moment: it is being loaded"
    pushed.availability, pushed.reason = scheduler_pb2.MODEL_AVAILABILITY_UNAVAILABLE, "unloaded"
    catalogue.apply(pushed)
    assert known(catalogue) == "NOT_FOUND: Request for unknown model: 'm' has no available versions"
    never_loaded = scheduler_pb2.ModelState(model="broken", version="1", reason="no such file")
    never_loaded.availability = scheduler_pb2.MODEL_AVAILABILITY_UNAVAILABLE
    catalogue.apply(never_loaded)
    assert known(catalogue, "broken") == "NOT_FOUND: Request for unknown model: 'broken' has no available versions"


def test_a_new_scheduler_gets_time_to_name_the_models_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [SECOND]
    monkeypatch.setattr(catalogue_module, "now_ns", lambda: now[0])
    catalogue = Catalogue()
    catalogue.executors_connected = True
    for name in ("kept", "gone"):
        catalogue.apply(state(one_input("FP32", [2]), name))
    catalogue.doubt()
    catalogue.drop_unconfirmed()
    assert known(catalogue, "gone") == "1"  # requests for it wait at the scheduler
    catalogue.apply(state(one_input("FP32", [2]), "kept"))
    now[0] += RETURN_NS
    catalogue.drop_unconfirmed()
    assert known(catalogue, "kept") == "1"
    assert known(catalogue, "gone").startswith("NOT_FOUND")


def test_a_configuration_that_cannot_be_read_makes_no_model() -> None:
    catalogue = Catalogue()
    catalogue.executors_connected = True
    pushed = state(one_input("FP32", [2], more='parameters { key: "slo_ms" value { string_value: "soon" } }'))
    catalogue.apply(pushed)
    assert known(catalogue) == "NOT_FOUND: Request for unknown model: 'm' has no available versions"


@on_a_loop
async def test_a_request_for_the_latest_version_follows_it(bench: Bench) -> None:
    """It was submitted for a version that went at the same moment; only who names a version is refused."""
    bench.connect()
    catalogue = Catalogue()
    catalogue.apply(state(one_input("FP32", [2]), version="1"))
    inference = Inference(catalogue, bench.dispatcher, Statistics(), Tracing())
    named = request(raw=b"\1" * 8)
    named.model_version = "1"
    calls = [asyncio.create_task(inference.infer(r, "a/b", (), None)) for r in (request(raw=b"\1" * 8), named)]
    await asyncio.sleep(0)
    catalogue.apply(state(one_input("FP32", [2]), version="2"))
    for pending in list(bench.dispatcher.pending.values()):
        bench.refuse(pending, types_pb2.REJECT_REASON_MODEL_UNAVAILABLE)
    await asyncio.sleep(0.01)
    (again,) = bench.dispatcher.pending.values()
    bench.answer(again)
    assert (await calls[0]).model_version == "2"
    with pytest.raises(RequestError) as caught:
        await calls[1]
    assert caught.value.reason == "MODEL_UNAVAILABLE"
    assert inference.open_requests == 0


@on_a_loop
async def test_a_cancellation_at_the_moment_of_the_answer_is_one_outcome(bench: Bench) -> None:
    bench.connect()
    catalogue, statistics = Catalogue(), Statistics()
    catalogue.apply(state(one_input("FP32", [2])))
    inference = Inference(catalogue, bench.dispatcher, statistics, Tracing())
    call = asyncio.create_task(inference.infer(request(raw=b"\1" * 8), "a/b", (), None))
    await asyncio.sleep(0)
    (pending,) = bench.dispatcher.pending.values()
    bench.answer(pending)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    (stats,) = statistics.models.values()
    assert (stats.pending, stats.success.count, stats.failures["CANCELED"]) == (0, 0, 1)
    assert not bench.cancels  # there is nothing left to cancel


@pytest.mark.parametrize("lost", ["none", "a response", "the last response"])
@on_a_loop
async def test_a_response_that_was_lost_does_not_go_unnoticed(bench: Bench, lost: str) -> None:
    """Responses of a decoupled model are numbered: a stream that broke between them may have swallowed one."""
    bench.connect()
    pending = bench.submit(DECOUPLED)
    for index in range(3):
        if index == {"a response": 1, "the last response": 2}.get(lost):
            continue
        made = answer_of(pending.request_id, b"\2" * 8)
        made.more, made.response_index = True, index
        bench.dispatcher.answered(made, memoryview(b"\2" * 8))
    end = executor_pb2.Answer(request_id=pending.request_id, attempt=1, response_index=3)
    bench.dispatcher.answered(end, memoryview(b""))
    if lost == "none":
        assert [await pending.response() is not None for _ in range(4)] == [True, True, True, False]
        assert await pending.done
        return
    with pytest.raises(RequestError, match="responses were lost") as caught:
        await pending.done
    assert caught.value.refusal == types_pb2.REJECT_REASON_EXECUTOR_LOST
    assert not bench.dispatcher.pending
