"""`cotenant evaluate` with predictors that are servers: ours, others, slow ones, none."""

import contextlib
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from cotenant.cli import (
    evaluate_link,
    evaluate_remote,
)
from cotenant.v1 import predictor_pb2, predictor_pb2_grpc
from evaluation_logs import MS, five, judged, only


@contextlib.contextmanager
def service(folder: Path) -> Iterator[str]:
    """Our predictor as a process."""
    address = f"unix:{folder}/predictor.sock"
    process = subprocess.Popen(
        [sys.executable, "-m", "cotenant.predictor", f"--listen={address}", "--metrics="], stderr=subprocess.DEVNULL
    )
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=30)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_our_service_is_judged_like_our_learner(simulated: Path, tmp_path: Path) -> None:
    with service(tmp_path) as address:
        result = judged(simulated, predictors=["fluid", address])
    local, remote = result.predictors
    assert any("from an event to estimates" in remark for remark in remote.remarks)
    for ours, theirs in ((local.all.launch, remote.all.launch), (local.all.explained, remote.all.explained)):
        assert ours is not None
        assert theirs is not None
        assert theirs.batches == ours.batches
        assert abs(theirs.median - ours.median) < 0.02
    assert len(remote.all.bounds) == 3
    assert remote.cost is None


class Fixed(predictor_pb2_grpc.PredictorServiceServicer):
    """A predictor that learns solo times, says that nothing slows anything, and never what it has learned."""

    def __init__(self, *, acknowledges: bool = True) -> None:
        self.acknowledges = acknowledges
        self.finished: list[Any] = []
        self.states: list[Any] = []  # with how many batches had finished before each
        self.devices: list[str] = []
        self._classes: list[Any] = []
        self._lock = threading.Lock()

    def Observe(self, request_iterator: Any, context: Any) -> Iterator[predictor_pb2.ObserveResponse]:  # noqa: N802
        device_id = ""
        for frame in request_iterator:
            if frame.hello.device.device_id:
                device_id = frame.hello.device.device_id
                self.devices.append(device_id)
            for event in frame.events:
                with self._lock:
                    if event.WhichOneof("event") == "class_profiled":
                        told = event.class_profiled
                        self._classes.append(
                            predictor_pb2.ClassEstimate(
                                device_id=device_id,
                                batch_class=told.batch_class,
                                work_ns=told.work_ns,
                                demand=[0.5],
                                sensitivity=[0.0],
                                quantiles=[predictor_pb2.QuantileFactor(level=0.99, factor=1.5)],
                            )
                        )
                    elif event.WhichOneof("event") == "device_state":
                        self.states.append((len(self.finished), event.device_state))
                    else:
                        self.finished.append(event.batch_finished)
                if self.acknowledges:
                    yield predictor_pb2.ObserveResponse(acknowledged_sequence=event.sequence)

    def WatchEstimates(self, request: Any, context: Any) -> Iterator[predictor_pb2.WatchEstimatesResponse]:  # noqa: N802
        with self._lock:
            yield predictor_pb2.WatchEstimatesResponse(version=1, complete=True, classes=self._classes)
        gone: queue.SimpleQueue[None] = queue.SimpleQueue()
        context.add_callback(lambda: gone.put(None))
        gone.get()

    def EstimateColocation(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "nobody asks")


@contextlib.contextmanager
def serving(servicer: Fixed, folder: Path) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    predictor_pb2_grpc.add_PredictorServiceServicer_to_server(servicer, server)
    address = f"unix:{folder}/foreign.sock"
    server.add_insecure_port(address)
    server.start()
    try:
        yield address
    finally:
        server.stop(grace=0.5).wait()


def test_a_predictor_that_never_says_what_it_learned_is_judged_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_link, "QUIET_S", 0.05)
    servicer = Fixed()
    with serving(servicer, tmp_path) as address:
        row = only(judged(five(tmp_path), predictors=[address]))
    assert row.all.launch is not None
    assert row.all.launch.mape == pytest.approx(1.2 / 5)
    assert [bound.width for bound in row.all.bounds] == pytest.approx([1.5] * 3)
    assert any("does not say up to which event" in remark for remark in row.remarks)
    # What it is told: every batch, as if launched on its own forecasts, on devices of names of their own.
    assert [told.batch_id for told in servicer.finished] == [1, 2, 3, 4, 5]
    assert [told.forecast.duration_ns for told in servicer.finished] == [10 * MS] * 3 + [20 * MS] * 2
    assert len(servicer.devices) == 1
    assert servicer.devices[0].startswith("evaluate-")


def test_a_predictor_that_learns_nothing_is_told_apart_from_a_slow_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_link, "QUIET_S", 0.05)
    monkeypatch.setattr(evaluate_link, "PATIENCE_S", 0.5)
    with (
        serving(Fixed(acknowledges=False), tmp_path) as address,
        pytest.raises(ValueError, match=r"did not say within .* that it learned event 2 \(0 acknowledged\)"),
    ):
        judged(five(tmp_path), predictors=[address])


def test_waits_are_shared_where_a_predictor_is_slow_to_say_what_it_learned(
    simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_link, "QUIET_S", 0.01)
    monkeypatch.setattr(evaluate_remote, "WAITING_BUDGET_S", 0.5)
    with serving(Fixed(), tmp_path) as address:
        row = only(judged(simulated, predictors=[address]))
    assert any("waited for only every" in remark for remark in row.remarks)
    assert row.all.launch is not None
    assert row.all.launch.not_predicted == 0


def test_nobody_at_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_link, "CONNECT_S", 0.2)
    with pytest.raises(ValueError, match=f"no predictor answers at unix:{tmp_path}/nobody"):
        judged(five(tmp_path), predictors=[f"unix:{tmp_path}/nobody"])
